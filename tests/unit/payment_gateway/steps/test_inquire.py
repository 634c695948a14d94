"""Inquire: an instance that finds a payment asks before it sends anything, because a crash may have hidden a call."""

from collections.abc import Iterator

from services.payment_gateway import domain
from services.payment_gateway.domain import GatewaySide, GatewayStep, Outcome, PaymentStatus, PendingOutcome
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.payment_gateway.payments import (
    ACTION_REQUIRED,
    CANCELLED,
    CAPTURED,
    DECLINED,
    DISPUTED,
    IS_CANCELLED_THERE,
    IS_CAPTURED,
    IS_CAPTURED_LATE,
    IS_DECLINED_AFTER_A_CANCEL,
    IS_DECLINED_FOR_WANT_OF_ACTION,
    LAST,
    LIMITED,
    NOT_FOUND,
    NOT_SENT,
    OF_SOMETHING_ELSE,
    PARTLY_REFUNDED,
    POLICY,
    PROCESSING,
    REMINDS,
    UNCONFIRMED,
    UNKNOWN,
    WAITS,
    Becomes,
    StepScenario,
    StepTable,
    becomes,
    follows,
    is_cancelled_as,
    is_in_doubt,
    needs_a_person,
    payment,
    scenarios_of,
    stays,
)

STEP = GatewayStep.INQUIRE
LOOKED = stays(rung=1)
"""Nothing contradicts us, and nobody looks again by himself."""


def is_not_captured(answer: str) -> Becomes:
    return needs_a_person("not_captured", gateway_side=GatewaySide(answer))


IS_GIVEN_UP = is_cancelled_as(PaymentStatus.NOT_CHARGED, "not_confirmed")

TABLE: StepTable = {
    payment(PaymentStatus.PREPARED): {
        CAPTURED: IS_CAPTURED,
        DECLINED: IS_DECLINED_AFTER_A_CANCEL,
        UNCONFIRMED: stays(then=GatewayStep.EXECUTE),
        ACTION_REQUIRED: IS_DECLINED_FOR_WANT_OF_ACTION,
        PROCESSING: is_in_doubt("processing"),
        CANCELLED: IS_CANCELLED_THERE,
        NOT_FOUND: is_in_doubt("unknown_to_gateway"),
        NOT_SENT: WAITS,
        UNKNOWN: is_in_doubt("no_readable_answer"),
    },
    payment(PaymentStatus.IN_DOUBT): {
        CAPTURED: IS_CAPTURED,
        DECLINED: IS_DECLINED_AFTER_A_CANCEL,
        UNCONFIRMED: stays(then=GatewayStep.EXECUTE),
        ACTION_REQUIRED: IS_DECLINED_FOR_WANT_OF_ACTION,
        PROCESSING: WAITS,
        CANCELLED: IS_CANCELLED_THERE,
        NOT_FOUND: WAITS,
        NOT_SENT: WAITS,
        UNKNOWN: WAITS,
    },
    payment(PaymentStatus.IN_DOUBT, key_number=domain.EXECUTIONS_MAX + 1): {
        UNCONFIRMED: IS_GIVEN_UP,  # a gateway that accepted none of three confirms will not accept the fourth
    },
    payment(PaymentStatus.IN_DOUBT, rung=LAST): {
        CAPTURED: IS_CAPTURED,
        DECLINED: IS_DECLINED_AFTER_A_CANCEL,
        UNCONFIRMED: stays(then=GatewayStep.EXECUTE),
        ACTION_REQUIRED: IS_DECLINED_FOR_WANT_OF_ACTION,
        PROCESSING: needs_a_person("processing"),
        CANCELLED: IS_CANCELLED_THERE,
        NOT_FOUND: needs_a_person("unknown_to_gateway"),
        NOT_SENT: needs_a_person("gateway_unavailable"),
        UNKNOWN: needs_a_person("no_readable_answer"),
    },
    payment(PaymentStatus.NEEDS_DECISION): {
        CAPTURED: IS_CAPTURED,
        DECLINED: IS_DECLINED_AFTER_A_CANCEL,
        UNCONFIRMED: IS_GIVEN_UP,  # nobody expects a charge hours later
        ACTION_REQUIRED: IS_DECLINED_FOR_WANT_OF_ACTION,
        PROCESSING: REMINDS,
        CANCELLED: IS_CANCELLED_THERE,
        NOT_FOUND: REMINDS,
        NOT_SENT: REMINDS,
        UNKNOWN: REMINDS,
    },
    payment(PaymentStatus.CAPTURED): {
        CAPTURED: LOOKED,
        DECLINED: is_not_captured("declined"),
        UNCONFIRMED: is_not_captured("unconfirmed"),
        ACTION_REQUIRED: is_not_captured("action_required"),
        PROCESSING: LOOKED,
        CANCELLED: is_not_captured("cancelled"),
        NOT_FOUND: is_not_captured("not_found"),
        NOT_SENT: LOOKED,
        UNKNOWN: LOOKED,
    },
    **{
        payment(status): {
            CAPTURED: IS_CAPTURED_LATE,
            DECLINED: stays(then=GatewayStep.CANCEL, key_number=2),  # it could still be confirmed
            UNCONFIRMED: stays(then=GatewayStep.CANCEL, key_number=2),
            ACTION_REQUIRED: stays(then=GatewayStep.CANCEL, key_number=2),
            PROCESSING: LOOKED,
            CANCELLED: LOOKED,
            NOT_FOUND: LOOKED,
            NOT_SENT: LOOKED,
            UNKNOWN: LOOKED,
        }
        for status in (PaymentStatus.DECLINED, PaymentStatus.NOT_CHARGED)
    },
}
_CASE = payment(PaymentStatus.NEEDS_DECISION)
_FOUND = replace(_CASE, reason="unknown_here", params_hash=None)
"""A capture that reconcile found, and that no payment of ours had."""
_PAID = payment(PaymentStatus.CAPTURED)
SCENARIOS = scenarios_of(TABLE) | {
    "captured: given back by somebody else": Scenario(
        _PAID,
        PARTLY_REFUNDED,
        needs_a_person("refunded_at_gateway", gateway_side=domain.side_of(PARTLY_REFUNDED))(_PAID),
    ),
    "captured: disputed": Scenario(
        _PAID, DISPUTED, needs_a_person("disputed", gateway_side=domain.side_of(DISPUTED))(_PAID)
    ),
    "needs decision: a capture that reconcile found is told with both sides": Scenario(
        _FOUND, CAPTURED, needs_a_person("unknown_here", gateway_side=domain.side_of(CAPTURED))(_FOUND)
    ),
    **{
        f"needs decision: a capture of {what} is told anew": Scenario(
            _CASE, capture, needs_a_person("capture_differs", gateway_side=domain.side_of(capture))(_CASE)
        )
        for what, capture in OF_SOMETHING_ELSE.items()
    },
}


@each(SCENARIOS)
def test_inquire(scenario: StepScenario) -> None:
    assert follows(STEP, scenario) == scenario.then


def test_after_the_last_confirm_the_payment_is_cancelled() -> None:
    at = payment(PaymentStatus.PREPARED)
    answers: Iterator[domain.GatewayAnswer] = iter([UNKNOWN, *[LIMITED] * 9, *[UNKNOWN] * 9])
    executions = limited = 0
    while (found := domain.on_answer(at, STEP, UNCONFIRMED, POLICY)).then is GatewayStep.EXECUTE:
        answer = next(answers)
        executions, limited = executions + (answer is UNKNOWN), limited + (answer is LIMITED)
        at = domain.on_answer(found.payment, GatewayStep.EXECUTE, answer, POLICY).payment
    assert found == IS_GIVEN_UP(at)
    assert (executions, limited) == (domain.EXECUTIONS_MAX, 9), "a 429 counted as a confirm"


def test_a_capture_that_reconcile_found_waits_for_a_person_with_both_sides() -> None:
    """It is neither booked nor given back by itself, whoever holds the row by then."""
    found = replace(payment(PaymentStatus.NEEDS_DECISION), reason="unknown_here", params_hash=None)
    side = domain.side_of(CAPTURED)
    told = domain.on_answer(found, STEP, CAPTURED, POLICY)
    assert told == needs_a_person("unknown_here", gateway_side=side)(found)
    assert domain.on_answer(told.payment, STEP, CAPTURED, POLICY) == REMINDS(told.payment)
    disputed = replace(CAPTURED, disputed=True)
    again = domain.on_answer(told.payment, STEP, disputed, POLICY)
    assert again == needs_a_person("unknown_here", gateway_side=domain.side_of(disputed))(told.payment)
    assert domain.on_late_answer(told.payment, CAPTURED, POLICY, asked=told.payment) is None


def test_the_pending_outcome_is_kept_through_a_case() -> None:
    cancelling = payment(PaymentStatus.CANCELLING, rung=LAST)
    case = domain.on_answer(cancelling, GatewayStep.CANCEL, UNKNOWN, POLICY).payment
    settled = domain.on_answer(case, STEP, CANCELLED, POLICY)
    assert settled == becomes(
        PaymentStatus.DECLINED, Outcome.DECLINED, reason="insufficient_funds", advice="try_again_later"
    )(case)


def test_a_refusal_is_the_reason_even_if_its_cancel_needed_a_person() -> None:
    """The gateway did not answer the cancel for the whole ladder. Then it shows the payment, which was never confirmed."""
    refused = PendingOutcome(PaymentStatus.NOT_CHARGED, "parameter_missing", "confirm_card_data")
    case = replace(payment(PaymentStatus.NEEDS_DECISION), pending=refused)
    cancels = domain.on_answer(case, STEP, UNCONFIRMED, POLICY)
    assert (cancels.then, cancels.payment.pending) == (GatewayStep.CANCEL, refused)
