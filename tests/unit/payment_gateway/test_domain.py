"""The payment's rules: every answer in every state, every command in every state, and what no history may ever do."""

from dataclasses import dataclass, replace
from typing import get_args
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.payment_gateway import domain
from services.payment_gateway.commands import (
    Command,
    Inquire,
    PaymentIdReusedError,
    Refund,
    Request,
    Resolve,
    on_command,
)
from services.payment_gateway.domain import (
    CASES,
    CHARGED,
    GatewayStep,
    Outcome,
    Payment,
    PaymentStatus,
    PaymentTransition,
    PendingOutcome,
    Policy,
)
from services.payment_gateway.gateways import port

ID = UUID("018f3c5e-0000-7000-8000-000000000001")
POLICY = Policy(ladder_s=(1.0, 5.0), remind_s=3_600.0)
LAST = len(POLICY.ladder_s)

CAPTURED = port.Captured("pi_1", 1_250, "EUR", "ch_1", "succeeded")
DECLINED = port.Declined("insufficient_funds", "no money")
UNCONFIRMED = port.Unconfirmed("requires_confirmation")
ACTION_REQUIRED = port.ActionRequired("requires_action")
PROCESSING = port.Processing("processing")
CANCELLED = port.Cancelled("canceled")
NOT_FOUND = port.NotFound("404")
NOT_SENT = port.NotSent("429", retry_after_s=3.0)
UNKNOWN = port.Unknown("timeout")
REFUNDED = port.Refunded("re_1", "succeeded")
REFUND_PENDING = port.RefundPending("re_1", "pending")
REFUND_FAILED = port.RefundFailed("expired_card", "failed")
NO_REFUND = port.NoRefund("none")

CHARGE_ANSWERS: tuple[port.ChargeAnswer, ...] = (
    CAPTURED, DECLINED, UNCONFIRMED, ACTION_REQUIRED, PROCESSING, CANCELLED, NOT_FOUND, NOT_SENT, UNKNOWN,
)  # fmt: skip
REFUND_ANSWERS: tuple[port.RefundAnswer, ...] = (
    REFUNDED, REFUND_PENDING, REFUND_FAILED, NO_REFUND, NOT_FOUND, NOT_SENT, UNKNOWN,
)  # fmt: skip
DECLINE = PendingOutcome(PaymentStatus.DECLINED, "insufficient_funds")


def payment(
    status: PaymentStatus, *, rung: int = 0, pending: PendingOutcome | None = None, decided_by: str | None = None
) -> Payment:
    """A payment as it looks in this state, at version 3."""
    requested = status is PaymentStatus.REQUESTED
    return Payment(
        payment_id=ID,
        invoice_id="INV-1",
        status=status,
        version=3,
        amount_minor=1_250,
        currency="EUR",
        method_token="pm_card_visa",
        params_hash=request().params_hash,
        gateway_id=None if requested else "pi_1",
        pending=pending or (DECLINE if status is PaymentStatus.CANCELLING else None),
        reason=None
        if status in {PaymentStatus.REQUESTED, PaymentStatus.PREPARED, PaymentStatus.CAPTURED}
        else "reason",
        receipt_number="ch_1" if status in CHARGED else None,
        decided_by=decided_by,
        was_case=status in CASES,
        rung=rung,
    )


def request(amount_minor: int = 1_250) -> Request:
    return Request(ID, "INV-1", amount_minor, "EUR", "pm_card_visa")


@dataclass(frozen=True)
class Expected:
    """`goes on`: a step at once, or after so many seconds, or (None) not by itself."""

    status: PaymentStatus
    outcome: Outcome | None = None
    goes_on: GatewayStep | float | None = None
    reason: str | None = None
    again: bool = False


def seen(transition: PaymentTransition) -> Expected:
    after = transition.payment
    changed = after.version != 3
    reason = after.pending.reason if after.status is PaymentStatus.CANCELLING and after.pending else after.reason
    return Expected(
        after.status,
        transition.outcome,
        transition.then or transition.delay_s,
        reason if changed else None,
        transition.again,
    )


# -- preparing -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "rung", "answer", "expected"),
    [
        (GatewayStep.TOKENISE, 0, port.Tokenised("pm_9", ""), Expected(PaymentStatus.REQUESTED, goes_on=GatewayStep.PREPARE)),
        (GatewayStep.TOKENISE, 0, port.Refused("bad card", ""),
            Expected(PaymentStatus.NOT_CHARGED, Outcome.NOT_CHARGED, reason="bad_card")),
        (GatewayStep.TOKENISE, 0, NOT_SENT, Expected(PaymentStatus.REQUESTED, goes_on=3.0)),
        (GatewayStep.TOKENISE, 0, UNKNOWN, Expected(PaymentStatus.REQUESTED, goes_on=1.0)),
        (GatewayStep.TOKENISE, LAST, UNKNOWN, Expected(PaymentStatus.NOT_CHARGED, Outcome.NOT_CHARGED, reason="gateway_unavailable")),
        (GatewayStep.PREPARE, 0, port.Prepared("pi_1", ""), Expected(PaymentStatus.PREPARED, goes_on=GatewayStep.EXECUTE)),
        (GatewayStep.PREPARE, 0, port.Refused("no", ""), Expected(PaymentStatus.NOT_CHARGED, Outcome.NOT_CHARGED, reason="no")),
        (GatewayStep.PREPARE, 0, NOT_SENT, Expected(PaymentStatus.REQUESTED, goes_on=3.0)),
        (GatewayStep.PREPARE, 1, NOT_SENT, Expected(PaymentStatus.REQUESTED, goes_on=5.0)),
        (GatewayStep.PREPARE, 1, UNKNOWN, Expected(PaymentStatus.REQUESTED, goes_on=5.0)),
        (GatewayStep.PREPARE, LAST, NOT_SENT, Expected(PaymentStatus.NOT_CHARGED, Outcome.NOT_CHARGED, reason="gateway_unavailable")),
    ],
)  # fmt: skip
def test_before_a_gateway_id_is_recorded_nothing_can_be_charged(
    step: GatewayStep, rung: int, answer: domain.GatewayAnswer, expected: Expected
) -> None:
    assert seen(domain.on_answer(payment(PaymentStatus.REQUESTED, rung=rung), step, answer, POLICY)) == expected


def test_the_token_takes_the_place_of_the_card() -> None:
    before = replace(payment(PaymentStatus.REQUESTED), method_token=None, card_jwe="eyJ...")
    assert domain.next_step(before) is GatewayStep.TOKENISE
    after = domain.on_answer(before, GatewayStep.TOKENISE, port.Tokenised("pm_9", ""), POLICY).payment
    assert (after.method_token, after.card_jwe, after.version) == ("pm_9", None, before.version)


def test_an_unanswered_call_is_repeated_under_another_key_and_an_unsent_one_under_the_same() -> None:
    before = payment(PaymentStatus.REQUESTED)
    unanswered = domain.on_answer(before, GatewayStep.PREPARE, UNKNOWN, POLICY).payment
    unsent = domain.on_answer(before, GatewayStep.PREPARE, NOT_SENT, POLICY).payment
    assert domain.idempotency_key(before, GatewayStep.PREPARE) == f"{ID}:prepare:1"
    assert domain.idempotency_key(unanswered, GatewayStep.PREPARE) == f"{ID}:prepare:2"
    assert domain.idempotency_key(unsent, GatewayStep.PREPARE) == f"{ID}:prepare:1"


@pytest.mark.parametrize("rung", [0, LAST])
@pytest.mark.parametrize("answer", [DECLINED, UNCONFIRMED, ACTION_REQUIRED, PROCESSING, NOT_FOUND, UNKNOWN])
@pytest.mark.parametrize(("status", "by"), [(PaymentStatus.CANCELLING, None), (PaymentStatus.NOT_CHARGED, "ann")])
def test_an_answered_cancel_is_repeated_under_another_key(
    status: PaymentStatus, by: str | None, answer: port.ChargeAnswer, rung: int
) -> None:
    """The gateway would replay the refusal that it saved under the old one, when nothing stands in the way of the cancel any more."""
    before = payment(status, rung=rung, decided_by=by)
    answered = domain.on_answer(before, GatewayStep.CANCEL, answer, POLICY).payment
    unsent = domain.on_answer(before, GatewayStep.CANCEL, NOT_SENT, POLICY).payment
    assert domain.idempotency_key(answered, GatewayStep.CANCEL) == f"{ID}:cancel:2"
    assert domain.idempotency_key(unsent, GatewayStep.CANCEL) == f"{ID}:cancel:1"


# -- charging: the full table ----------------------------------------------------------------------------------------------------------

_CAPTURED = Expected(PaymentStatus.CAPTURED, Outcome.CAPTURED)
_CANCEL_DECLINED = Expected(PaymentStatus.CANCELLING, goes_on=GatewayStep.CANCEL, reason="insufficient_funds")
_CANCEL_ACTION = Expected(PaymentStatus.CANCELLING, goes_on=GatewayStep.CANCEL, reason="action_required")
_CANCEL_UNCONFIRMED = Expected(PaymentStatus.CANCELLING, goes_on=GatewayStep.CANCEL, reason="not_confirmed")
_GONE = Expected(PaymentStatus.NOT_CHARGED, Outcome.NOT_CHARGED, reason="cancelled_at_gateway")
_DECLINED = Expected(PaymentStatus.DECLINED, Outcome.DECLINED, reason="insufficient_funds")
_LATE = Expected(PaymentStatus.CAPTURED, Outcome.CAPTURED_LATE, 3_600.0)


def doubt(reason: str) -> Expected:
    return Expected(PaymentStatus.IN_DOUBT, Outcome.IN_DOUBT, 1.0, reason)


def stays(status: PaymentStatus, goes_on: GatewayStep | float | None = 1.0) -> Expected:
    return Expected(status, goes_on=goes_on)


WAITS = Expected(PaymentStatus.NEEDS_DECISION, goes_on=3_600.0, again=True)
CHARGING: dict[tuple[PaymentStatus, GatewayStep], tuple[Expected, ...]] = {  # in the order of CHARGE_ANSWERS
    (PaymentStatus.PREPARED, GatewayStep.EXECUTE): (
        _CAPTURED,
        _CANCEL_DECLINED,
        doubt("unconfirmed"),
        _CANCEL_ACTION,
        doubt("processing"),
        _GONE,
        doubt("unknown_to_gateway"),
        stays(PaymentStatus.PREPARED, 3.0),
        doubt("no_readable_answer"),
    ),
    (PaymentStatus.PREPARED, GatewayStep.INQUIRE): (
        _CAPTURED,
        _CANCEL_DECLINED,
        stays(PaymentStatus.PREPARED, GatewayStep.EXECUTE),
        _CANCEL_ACTION,
        doubt("processing"),
        _GONE,
        doubt("unknown_to_gateway"),
        stays(PaymentStatus.PREPARED, 3.0),
        doubt("no_readable_answer"),
    ),
    (PaymentStatus.IN_DOUBT, GatewayStep.INQUIRE): (
        _CAPTURED,
        _CANCEL_DECLINED,
        stays(PaymentStatus.IN_DOUBT, GatewayStep.EXECUTE),
        _CANCEL_ACTION,
        stays(PaymentStatus.IN_DOUBT),
        _GONE,
        stays(PaymentStatus.IN_DOUBT),
        stays(PaymentStatus.IN_DOUBT, 3.0),
        stays(PaymentStatus.IN_DOUBT),
    ),
    (PaymentStatus.IN_DOUBT, GatewayStep.EXECUTE): (
        _CAPTURED,
        _CANCEL_DECLINED,
        stays(PaymentStatus.IN_DOUBT),
        _CANCEL_ACTION,
        stays(PaymentStatus.IN_DOUBT),
        _GONE,
        stays(PaymentStatus.IN_DOUBT),
        stays(PaymentStatus.IN_DOUBT, 3.0),
        stays(PaymentStatus.IN_DOUBT),
    ),
    (PaymentStatus.CANCELLING, GatewayStep.CANCEL): (
        _CAPTURED,
        *[stays(PaymentStatus.CANCELLING)] * 4,
        _DECLINED,
        stays(PaymentStatus.CANCELLING),
        stays(PaymentStatus.CANCELLING, 3.0),
        stays(PaymentStatus.CANCELLING),
    ),
    (PaymentStatus.NEEDS_DECISION, GatewayStep.INQUIRE): (
        _CAPTURED,
        _CANCEL_DECLINED,
        _CANCEL_UNCONFIRMED,
        _CANCEL_ACTION,
        WAITS,
        _GONE,
        WAITS,
        WAITS,
        WAITS,
    ),
    (PaymentStatus.NOT_CHARGED, GatewayStep.CANCEL): (
        _LATE,
        *[stays(PaymentStatus.NOT_CHARGED)] * 4,
        stays(PaymentStatus.NOT_CHARGED, None),
        stays(PaymentStatus.NOT_CHARGED),
        stays(PaymentStatus.NOT_CHARGED, 3.0),
        stays(PaymentStatus.NOT_CHARGED),
    ),
}


@pytest.mark.parametrize(
    ("status", "step", "answer", "expected"),
    [
        (status, step, answer, expected)
        for (status, step), row in CHARGING.items()
        for answer, expected in zip(CHARGE_ANSWERS, row, strict=True)
    ],
)
def test_every_answer_about_a_charge(
    status: PaymentStatus, step: GatewayStep, answer: port.ChargeAnswer, expected: Expected
) -> None:
    assert seen(domain.on_answer(payment(status), step, answer, POLICY)) == expected


EXHAUSTED: dict[tuple[PaymentStatus, GatewayStep], tuple[domain.GatewayAnswer, Expected]] = {
    (PaymentStatus.PREPARED, GatewayStep.EXECUTE): (
        NOT_SENT, Expected(PaymentStatus.CANCELLING, goes_on=GatewayStep.CANCEL, reason="gateway_unavailable"),
    ),
    (PaymentStatus.IN_DOUBT, GatewayStep.INQUIRE): (
        NOT_FOUND, Expected(PaymentStatus.NEEDS_DECISION, Outcome.NEEDS_DECISION, 3_600.0, "unknown_to_gateway"),
    ),
    (PaymentStatus.CANCELLING, GatewayStep.CANCEL): (
        UNKNOWN, Expected(PaymentStatus.NEEDS_DECISION, Outcome.NEEDS_DECISION, 3_600.0, "cancel_unconfirmed"),
    ),
    (PaymentStatus.NOT_CHARGED, GatewayStep.CANCEL): (UNKNOWN, Expected(PaymentStatus.NOT_CHARGED)),
    (PaymentStatus.REFUNDING, GatewayStep.REFUND): (
        NOT_SENT, Expected(PaymentStatus.REFUND_FAILED, Outcome.REFUND_FAILED, 3_600.0, "gateway_unavailable"),
    ),
    (PaymentStatus.REFUND_IN_DOUBT, GatewayStep.INQUIRE_REFUND): (
        UNKNOWN, Expected(PaymentStatus.REFUND_IN_DOUBT, goes_on=3_600.0, again=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("key", "told"), EXHAUSTED.items())
def test_behind_the_last_rung(
    key: tuple[PaymentStatus, GatewayStep], told: tuple[domain.GatewayAnswer, Expected]
) -> None:
    status, step = key
    answer, expected = told
    assert seen(domain.on_answer(payment(status, rung=LAST), step, answer, POLICY)) == expected


def test_the_verdict_waits_for_the_cancel_through_a_case() -> None:
    silent = domain.on_answer(payment(PaymentStatus.CANCELLING, rung=LAST), GatewayStep.CANCEL, UNKNOWN, POLICY).payment
    settled = domain.on_answer(silent, GatewayStep.INQUIRE, CANCELLED, POLICY)
    assert (settled.payment.status, settled.payment.reason) == (PaymentStatus.DECLINED, "insufficient_funds")


def test_confirms_are_bounded_and_then_it_is_cancelled() -> None:
    at, executions = payment(PaymentStatus.IN_DOUBT), 1
    while (found := domain.on_answer(at, GatewayStep.INQUIRE, UNCONFIRMED, POLICY)).then is GatewayStep.EXECUTE:
        executions += 1
        at = found.payment
    assert executions == domain.EXECUTIONS_MAX
    assert found.then is GatewayStep.CANCEL


@pytest.mark.parametrize(
    "capture",
    [replace(CAPTURED, amount_minor=1), replace(CAPTURED, currency="USD"), replace(CAPTURED, gateway_id="pi_2")],
)
def test_a_capture_of_something_else_is_for_a_person(capture: port.Captured) -> None:
    found = seen(domain.on_answer(payment(PaymentStatus.PREPARED), GatewayStep.EXECUTE, capture, POLICY))
    assert found == Expected(PaymentStatus.NEEDS_DECISION, Outcome.NEEDS_DECISION, 3_600.0, "capture_differs")
    assert seen(domain.on_answer(payment(PaymentStatus.NEEDS_DECISION), GatewayStep.INQUIRE, capture, POLICY)) == WAITS


def test_a_gateway_may_ask_for_patience_but_not_for_a_day() -> None:
    patient = port.NotSent("429", retry_after_s=86_400.0)
    assert (
        domain.on_answer(payment(PaymentStatus.REQUESTED), GatewayStep.PREPARE, patient, POLICY).delay_s
        == domain.RETRY_AFTER_MAX_S
    )


# -- refunding: the full table ---------------------------------------------------------------------------------------------------------

_REFUNDED = Expected(PaymentStatus.REFUNDED, Outcome.REFUNDED)
_FAILED = Expected(PaymentStatus.REFUND_FAILED, Outcome.REFUND_FAILED, 3_600.0, "expired_card")
_FAILED_WAITS = Expected(PaymentStatus.REFUND_FAILED, goes_on=3_600.0, again=True)


def refund_doubt(reason: str) -> Expected:
    return Expected(PaymentStatus.REFUND_IN_DOUBT, Outcome.REFUND_IN_DOUBT, 1.0, reason)


REFUNDING: dict[tuple[PaymentStatus, GatewayStep], tuple[Expected, ...]] = {  # in the order of REFUND_ANSWERS
    (PaymentStatus.REFUNDING, GatewayStep.INQUIRE_REFUND): (
        _REFUNDED,
        refund_doubt("refund_pending"),
        _FAILED,
        stays(PaymentStatus.REFUNDING, GatewayStep.REFUND),
        refund_doubt("unknown_to_gateway"),
        stays(PaymentStatus.REFUNDING, 3.0),
        refund_doubt("no_readable_answer"),
    ),
    (PaymentStatus.REFUNDING, GatewayStep.REFUND): (
        _REFUNDED,
        refund_doubt("refund_pending"),
        _FAILED,
        stays(PaymentStatus.REFUNDING),
        refund_doubt("unknown_to_gateway"),
        stays(PaymentStatus.REFUNDING, 3.0),
        refund_doubt("no_readable_answer"),
    ),
    (PaymentStatus.REFUND_IN_DOUBT, GatewayStep.INQUIRE_REFUND): (
        _REFUNDED,
        stays(PaymentStatus.REFUND_IN_DOUBT),
        _FAILED,
        stays(PaymentStatus.REFUND_IN_DOUBT, GatewayStep.REFUND),
        stays(PaymentStatus.REFUND_IN_DOUBT),
        stays(PaymentStatus.REFUND_IN_DOUBT, 3.0),
        stays(PaymentStatus.REFUND_IN_DOUBT),
    ),
    (PaymentStatus.REFUND_IN_DOUBT, GatewayStep.REFUND): (
        _REFUNDED,
        stays(PaymentStatus.REFUND_IN_DOUBT),
        _FAILED,
        stays(PaymentStatus.REFUND_IN_DOUBT),
        stays(PaymentStatus.REFUND_IN_DOUBT),
        stays(PaymentStatus.REFUND_IN_DOUBT, 3.0),
        stays(PaymentStatus.REFUND_IN_DOUBT),
    ),
    (PaymentStatus.REFUND_FAILED, GatewayStep.INQUIRE_REFUND): (_REFUNDED, *[_FAILED_WAITS] * 6),
}


@pytest.mark.parametrize(
    ("status", "step", "answer", "expected"),
    [
        (status, step, answer, expected)
        for (status, step), row in REFUNDING.items()
        for answer, expected in zip(REFUND_ANSWERS, row, strict=True)
    ],
)
def test_every_answer_about_a_refund(
    status: PaymentStatus, step: GatewayStep, answer: port.RefundAnswer, expected: Expected
) -> None:
    assert seen(domain.on_answer(payment(status), step, answer, POLICY)) == expected


def test_a_refund_has_one_key_for_ever() -> None:
    later = replace(payment(PaymentStatus.REFUND_IN_DOUBT), key_number=7)
    assert domain.idempotency_key(payment(PaymentStatus.REFUNDING), GatewayStep.REFUND) == f"{ID}:refund"
    assert domain.idempotency_key(later, GatewayStep.REFUND) == f"{ID}:refund"


def test_once_a_person_is_left_with_it_a_refund_is_only_asked_for() -> None:
    left = payment(PaymentStatus.REFUND_IN_DOUBT, rung=LAST)
    assert domain.on_answer(left, GatewayStep.INQUIRE_REFUND, NO_REFUND, POLICY).then is None


def test_the_tables_are_full() -> None:
    assert {type(answer) for answer in CHARGE_ANSWERS} == set(get_args(port.ChargeAnswer))
    assert {type(answer) for answer in REFUND_ANSWERS} == set(get_args(port.RefundAnswer))
    in_tables = {status for status, _ in [*CHARGING, *REFUNDING]} | {PaymentStatus.REQUESTED}
    at_rest = {status for status in PaymentStatus if domain.next_step(payment(status, decided_by="ann")) is None}
    assert in_tables | at_rest == set(PaymentStatus)


def test_an_answer_that_nothing_asked_for_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        domain.on_answer(payment(PaymentStatus.REQUESTED), GatewayStep.PREPARE, CAPTURED, POLICY)


# -- a truth that comes in when the row moved on ---------------------------------------------------------------------------------------

MOVED_ON: dict[PaymentStatus, tuple[Outcome | None, Outcome | None]] = {  # after a capture, after a refund
    PaymentStatus.REQUESTED: (None, None),
    PaymentStatus.PREPARED: (Outcome.CAPTURED, None),
    PaymentStatus.CANCELLING: (Outcome.CAPTURED, None),
    PaymentStatus.IN_DOUBT: (Outcome.CAPTURED, None),
    PaymentStatus.NEEDS_DECISION: (Outcome.CAPTURED, None),
    PaymentStatus.CAPTURED: (None, None),
    PaymentStatus.DECLINED: (Outcome.CAPTURED_LATE, None),
    PaymentStatus.NOT_CHARGED: (Outcome.CAPTURED_LATE, None),
    PaymentStatus.REFUNDING: (None, Outcome.REFUNDED),
    PaymentStatus.REFUND_IN_DOUBT: (None, Outcome.REFUNDED),
    PaymentStatus.REFUND_FAILED: (None, Outcome.REFUNDED),
    PaymentStatus.REFUNDED: (None, None),
}


@pytest.mark.parametrize("status", PaymentStatus)
def test_money_that_moved_is_never_overlooked(status: PaymentStatus) -> None:
    found = tuple(domain.on_late_answer(payment(status), answer, POLICY) for answer in (CAPTURED, REFUNDED))
    assert tuple(f.outcome if f else None for f in found) == MOVED_ON[status]
    assert domain.on_late_answer(payment(status), DECLINED, POLICY) is None


# -- due, and nothing to ask -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [PaymentStatus.DECLINED, PaymentStatus.NOT_CHARGED])
def test_a_late_capture_is_announced_again_until_it_is_given_back(status: PaymentStatus) -> None:
    found = domain.on_late_answer(payment(status), CAPTURED, POLICY)
    assert found is not None
    assert (found.outcome, found.delay_s) == (Outcome.CAPTURED_LATE, POLICY.remind_s)
    assert domain.next_step(found.payment) is None
    reminder = domain.on_due(found.payment, POLICY)
    assert reminder == PaymentTransition(replace(found.payment, rung=1), delay_s=POLICY.remind_s, again=True)
    asked = on_command(reminder.payment, Inquire(ID, "INV-1"))
    assert asked == PaymentTransition(reminder.payment, again=True), (
        "being asked neither ends nor hurries the reminders"
    )
    given_back = on_command(reminder.payment, Refund(ID, "INV-1"))
    assert (given_back.payment.status, given_back.payment.rung) == (PaymentStatus.REFUNDING, 0)


def test_a_late_capture_that_is_kept_comes_to_rest() -> None:
    at, reminders = payment(PaymentStatus.CAPTURED), 0
    while (reminder := domain.on_due(at, POLICY)).again:
        at, reminders = reminder.payment, reminders + 1
    assert reminders == domain.LATE_REMINDERS_MAX
    assert reminder == PaymentTransition(at)


@pytest.mark.parametrize(
    ("status", "decided_by"),
    [
        (PaymentStatus.DECLINED, None),
        (PaymentStatus.NOT_CHARGED, None),
        (PaymentStatus.REFUNDED, None),
        (PaymentStatus.REFUND_FAILED, "ann"),
    ],
)
def test_what_else_there_is_nothing_to_ask_about_is_at_rest(status: PaymentStatus, decided_by: str | None) -> None:
    settled = payment(status, decided_by=decided_by)
    assert domain.on_due(settled, POLICY) == PaymentTransition(settled)


# -- commands --------------------------------------------------------------------------------------------------------------------------


def test_a_request_is_due_at_once() -> None:
    decided = on_command(None, request())
    assert decided == PaymentTransition(
        Payment(
            ID, "INV-1", PaymentStatus.REQUESTED, 1, 1_250, "EUR", "pm_card_visa", params_hash=request().params_hash
        ),
        delay_s=0.0,
    )


@pytest.mark.parametrize("status", PaymentStatus)
def test_a_request_done_twice_changes_nothing(status: PaymentStatus) -> None:
    before = payment(status)
    assert on_command(before, request()) == PaymentTransition(before, again=True)


@pytest.mark.parametrize("status", PaymentStatus)
def test_a_payment_id_with_other_parameters_is_no_outcome(status: PaymentStatus) -> None:
    with pytest.raises(PaymentIdReusedError, match="payment_id_reused"):
        on_command(payment(status), request(amount_minor=1))


@pytest.mark.parametrize("command", [Inquire(ID, "INV-1"), Refund(ID, "INV-1")])
def test_a_payment_never_seen_is_closed(command: Command) -> None:
    closing = on_command(None, command)
    assert seen(closing).outcome is Outcome.NOT_CHARGED
    closed = closing.payment
    assert (closed.status, closed.reason, domain.next_step(closed)) == (
        PaymentStatus.NOT_CHARGED,
        "never_requested",
        None,
    )
    assert on_command(closed, request()) == PaymentTransition(closed, again=True)


@pytest.mark.parametrize("status", PaymentStatus)
def test_asking_hurries_what_is_unsettled_and_tells_what_is_known(status: PaymentStatus) -> None:
    before = payment(status)
    hurry = status not in {
        PaymentStatus.CAPTURED,
        PaymentStatus.DECLINED,
        PaymentStatus.NOT_CHARGED,
        PaymentStatus.REFUNDED,
    }
    assert on_command(before, Inquire(ID, "INV-1")) == PaymentTransition(before, again=True, hurry=hurry)


@pytest.mark.parametrize("status", PaymentStatus)
def test_only_what_was_captured_is_given_back(status: PaymentStatus) -> None:
    before = payment(status)
    decided = on_command(before, Refund(ID, "INV-1"))
    if status is PaymentStatus.CAPTURED:
        assert (decided.payment.status, decided.payment.version, decided.delay_s) == (PaymentStatus.REFUNDING, 4, 0.0)
    else:
        assert decided == PaymentTransition(before, again=True)


RESOLVED: dict[tuple[PaymentStatus, domain.Resolution], tuple[PaymentStatus, Outcome]] = {
    (PaymentStatus.IN_DOUBT, "captured"): (PaymentStatus.CAPTURED, Outcome.CAPTURED),
    (PaymentStatus.IN_DOUBT, "not_charged"): (PaymentStatus.NOT_CHARGED, Outcome.NOT_CHARGED),
    (PaymentStatus.NEEDS_DECISION, "captured"): (PaymentStatus.CAPTURED, Outcome.CAPTURED),
    (PaymentStatus.NEEDS_DECISION, "not_charged"): (PaymentStatus.NOT_CHARGED, Outcome.NOT_CHARGED),
    (PaymentStatus.REFUND_IN_DOUBT, "refunded"): (PaymentStatus.REFUNDED, Outcome.REFUNDED),
    (PaymentStatus.REFUND_IN_DOUBT, "not_refunded"): (PaymentStatus.REFUND_FAILED, Outcome.REFUND_FAILED),
    (PaymentStatus.REFUND_FAILED, "refunded"): (PaymentStatus.REFUNDED, Outcome.REFUNDED),
    (PaymentStatus.REFUND_FAILED, "not_refunded"): (PaymentStatus.REFUND_FAILED, Outcome.REFUND_FAILED),
}


@pytest.mark.parametrize("status", PaymentStatus)
@pytest.mark.parametrize("resolution", get_args(domain.Resolution))
def test_every_decision_in_every_state(status: PaymentStatus, resolution: domain.Resolution) -> None:
    before = payment(status)
    decided = on_command(before, Resolve(ID, "INV-1", resolution, 3, "ann", "R-1"))
    expected = RESOLVED.get((status, resolution))
    if expected is None:
        assert decided == PaymentTransition(
            before, refused=domain.ResolutionRefused("nothing_to_decide", "ann", resolution)
        )
    else:
        after = decided.payment
        assert (after.status, decided.outcome) == expected
        assert (after.version, after.decided_by, after.was_case) == (4, "ann", True)


def test_a_decision_on_another_version_is_refused() -> None:
    before = payment(PaymentStatus.NEEDS_DECISION)
    late = Resolve(ID, "INV-1", "not_charged", 2, "bob")
    assert on_command(before, late) == PaymentTransition(
        before, refused=domain.ResolutionRefused("version_differs", "bob", "not_charged")
    )


def test_a_capture_decided_by_a_person_needs_its_receipt() -> None:
    before = payment(PaymentStatus.NEEDS_DECISION)
    refused = on_command(before, Resolve(ID, "INV-1", "captured", 3, "ann")).refused
    assert refused is not None
    assert refused.reason == "receipt_number_required"


def test_a_decision_about_a_payment_never_seen_closes_it_and_is_refused() -> None:
    decided = on_command(None, Resolve(ID, "INV-1", "captured", 3, "ann", "R-1"))
    assert decided.payment.status is PaymentStatus.NOT_CHARGED
    assert decided.refused == domain.ResolutionRefused("unknown_payment", "ann", "captured")


def test_not_charged_by_a_person_is_watched_at_the_gateway() -> None:
    decided = on_command(payment(PaymentStatus.NEEDS_DECISION), Resolve(ID, "INV-1", "not_charged", 3, "ann"))
    assert decided.delay_s == 0.0
    assert domain.next_step(decided.payment) is GatewayStep.CANCEL
    late = domain.on_answer(decided.payment, GatewayStep.CANCEL, CAPTURED, POLICY)
    assert (late.outcome, late.payment.decided_by) == (Outcome.CAPTURED_LATE, None)


def test_a_refund_that_a_person_gave_up_is_left_alone() -> None:
    decided = on_command(payment(PaymentStatus.REFUND_FAILED), Resolve(ID, "INV-1", "not_refunded", 3, "ann"))
    assert domain.next_step(decided.payment) is None
    again = on_command(decided.payment, Resolve(ID, "INV-1", "refunded", 4, "bob"))
    assert again.refused is not None


# -- small things ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (CAPTURED, "captured"),
        (port.Declined("insufficient funds!", ""), "declined:insufficient_funds_"),
        (ACTION_REQUIRED, "action_required"),
        (NOT_SENT, "not_sent"),
        (port.RefundFailed("x" * 100, ""), "refund_failed:" + "x" * 50),
    ],
)
def test_answers_in_one_word(answer: domain.GatewayAnswer, code: str) -> None:
    assert domain.answer_code(answer) == code


def test_whatever_a_receipt_looks_like_it_can_be_stored() -> None:
    odd = replace(CAPTURED, receipt_number=" \x00\ud800ch_\n1 ")
    assert (
        domain.on_answer(payment(PaymentStatus.PREPARED), GatewayStep.EXECUTE, odd, POLICY).payment.receipt_number
        == "ch_1"
    )
    # The latter: an event that shows a card number is refused by its readers.
    for unsayable in ("\x00", "ch_4242424242424242"):
        answer = replace(CAPTURED, receipt_number=unsayable)
        assert (
            domain.on_answer(
                payment(PaymentStatus.PREPARED), GatewayStep.EXECUTE, answer, POLICY
            ).payment.receipt_number
            == "pi_1"
        )


# -- laws over random histories against a gateway that tells the truth, or nothing -----------------------------------------------------


@dataclass
class ModelBank:
    """One payment at a gateway that charges at most once, and whose answers get lost."""

    captured: bool = False
    cancelled: bool = False
    refunded: bool = False

    def do(self, step: GatewayStep, *, declines: bool) -> domain.GatewayAnswer:
        match step:
            case GatewayStep.TOKENISE:
                return port.Tokenised("pm_1", "")
            case GatewayStep.PREPARE:
                return port.Prepared("pi_1", "")
            case GatewayStep.EXECUTE if not self.cancelled and not self.captured:
                self.captured = not declines
                return CAPTURED if self.captured else DECLINED
            case GatewayStep.CANCEL if not self.captured:
                self.cancelled = True
            case GatewayStep.REFUND if self.captured:
                self.refunded = True
            case _:
                pass
        if step in {GatewayStep.REFUND, GatewayStep.INQUIRE_REFUND}:
            return REFUNDED if self.refunded else NO_REFUND
        return CAPTURED if self.captured else CANCELLED if self.cancelled else UNCONFIRMED


MOVES = st.sampled_from(
    ["step", "step", "step", "lost", "unsent", "decline", "crash", "ask", "give_back", "on_command"]
)


@dataclass
class History:
    """A payment, the bank, and what the world was told so far."""

    resolution: domain.Resolution
    bank: ModelBank
    row: Payment
    then: GatewayStep | None = None

    def go_on(self, move: str) -> PaymentTransition | None:
        """What the move makes of the payment; None: nothing."""
        commands: dict[str, Command] = {
            "ask": Inquire(ID, "INV-1"),
            "give_back": Refund(ID, "INV-1"),
            "on_command": Resolve(ID, "INV-1", self.resolution, self.row.version, "ann", "R-1"),
        }
        if move in commands:
            transition = on_command(self.row, commands[move])
            self.then = self.then if transition.payment is self.row else None  # the fence moved: nobody goes on
            return transition
        step, self.then = self.then or domain.next_step(self.row), None
        if move == "crash" or step is None:
            return None
        assert step is not GatewayStep.EXECUTE or self.row.gateway_id, "confirmed before its id was recorded"
        real = NOT_SENT if move == "unsent" else self.bank.do(step, declines=move == "decline")
        transition = domain.on_answer(self.row, step, UNKNOWN if move == "lost" else real, POLICY)
        self.then = transition.then
        return transition

    def check_truth(self, before: Payment) -> None:
        """What is recorded is so at the bank, unless a person said it."""
        row = self.row
        cancelled = row.status is PaymentStatus.DECLINED or (row.status is PaymentStatus.NOT_CHARGED and row.gateway_id)
        if row.decided_by is None and cancelled:
            assert self.bank.cancelled, "settled without a confirmed cancel"
            assert not self.bank.captured
        if (
            row.decided_by is None
            and row.status is PaymentStatus.CAPTURED
            and before.status is not PaymentStatus.CAPTURED
        ):
            assert self.bank.captured
        if row.decided_by is None and row.status is PaymentStatus.REFUNDED:
            assert self.bank.refunded
        if row.status is PaymentStatus.REQUESTED:
            assert not self.bank.captured


@settings(max_examples=400)
@given(moves=st.lists(MOVES, max_size=60), resolution=st.sampled_from(["not_charged", "captured", "refunded"]))
def test_no_history_breaks_the_rules(moves: list[str], resolution: domain.Resolution) -> None:
    history = History(resolution, ModelBank(), on_command(None, request()).payment)
    told: set[int] = set()
    for move in [*moves, *["step"] * 8]:
        before = history.row
        transition = history.go_on(move)
        if transition is None:
            continue
        row = history.row = transition.payment
        moved = (row.status, row.decided_by) != (before.status, before.decided_by)
        assert row.version == before.version + moved
        if transition.outcome is not None:
            assert row.version not in told, "two outcomes of one version"
            told.add(row.version)
        assert row.was_case >= (row.status in CASES)
        history.check_truth(before)


@settings(max_examples=100)
@given(moves=st.lists(st.sampled_from(["step", "lost", "unsent", "decline", "crash"]), max_size=40))
def test_once_the_gateway_answers_everything_settles(moves: list[str]) -> None:
    history = History("captured", ModelBank(), on_command(None, request()).payment)
    for move in [*moves, *["step"] * 12]:
        transition = history.go_on(move)
        history.row = transition.payment if transition else history.row
    assert history.row.status in {PaymentStatus.CAPTURED, PaymentStatus.DECLINED, PaymentStatus.NOT_CHARGED}
    assert (history.row.status is PaymentStatus.CAPTURED) == history.bank.captured
