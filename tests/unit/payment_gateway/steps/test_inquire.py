"""Inquire: an instance that finds a payment asks before it sends anything, because a crash may have hidden a call."""

from services.payment_gateway import domain
from services.payment_gateway.domain import GatewayStep, Outcome, PaymentStatus
from tests.support.scenarios import Scenario, each
from tests.unit.payment_gateway.payments import (
    ACTION_REQUIRED,
    CANCELLED,
    CAPTURED,
    DECLINED,
    IS_CANCELLED_THERE,
    IS_CAPTURED,
    IS_DECLINED_AFTER_A_CANCEL,
    IS_DECLINED_FOR_WANT_OF_ACTION,
    LAST,
    NOT_FOUND,
    NOT_SENT,
    OF_SOMETHING_ELSE,
    POLICY,
    PROCESSING,
    REMINDS,
    UNCONFIRMED,
    UNKNOWN,
    WAITS,
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
        UNCONFIRMED: stays(then=GatewayStep.EXECUTE, key_number=2),
        ACTION_REQUIRED: IS_DECLINED_FOR_WANT_OF_ACTION,
        PROCESSING: WAITS,
        CANCELLED: IS_CANCELLED_THERE,
        NOT_FOUND: WAITS,
        NOT_SENT: WAITS,
        UNKNOWN: WAITS,
    },
    payment(PaymentStatus.IN_DOUBT, key_number=domain.EXECUTIONS_MAX): {
        UNCONFIRMED: IS_GIVEN_UP,  # a gateway that accepted none of three confirms will not accept the fourth
    },
    payment(PaymentStatus.IN_DOUBT, rung=LAST): {
        CAPTURED: IS_CAPTURED,
        DECLINED: IS_DECLINED_AFTER_A_CANCEL,
        UNCONFIRMED: stays(then=GatewayStep.EXECUTE, key_number=2),
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
}
_CASE = payment(PaymentStatus.NEEDS_DECISION)
SCENARIOS = scenarios_of(TABLE) | {
    f"needs decision: a capture of {what} stays with the person": Scenario(_CASE, capture, REMINDS(_CASE))
    for what, capture in OF_SOMETHING_ELSE.items()
}


@each(SCENARIOS)
def test_inquire(scenario: StepScenario) -> None:
    assert follows(STEP, scenario) == scenario.then


def test_after_the_last_confirm_the_payment_is_cancelled() -> None:
    at, executions = payment(PaymentStatus.IN_DOUBT), 1
    while (found := domain.on_answer(at, STEP, UNCONFIRMED, POLICY)).then is GatewayStep.EXECUTE:
        executions += 1
        at = found.payment
    assert executions == domain.EXECUTIONS_MAX
    assert found == IS_GIVEN_UP(at)


def test_the_pending_outcome_is_kept_through_a_case() -> None:
    cancelling = payment(PaymentStatus.CANCELLING, rung=LAST)
    case = domain.on_answer(cancelling, GatewayStep.CANCEL, UNKNOWN, POLICY).payment
    settled = domain.on_answer(case, STEP, CANCELLED, POLICY)
    assert settled == becomes(
        PaymentStatus.DECLINED, Outcome.DECLINED, reason="insufficient_funds", advice="try_again_later"
    )(case)
