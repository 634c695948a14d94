"""An answer may come late: money that moved is never overlooked, and a late capture is announced until it is refunded."""

from typing import get_args

import pytest

from services.payment_gateway import afterwards, domain
from services.payment_gateway.commands import Inquire, Refund
from services.payment_gateway.domain import GatewayStep, Outcome, PaymentStatus, PaymentTransition
from shared.records import replace
from tests.unit.payment_gateway.payments import (
    ACTION_REQUIRED,
    CANCELLED,
    CAPTURED,
    DECLINED,
    FOUND,
    ID,
    IS_CAPTURED,
    IS_CAPTURED_LATE,
    IS_REFUNDED,
    LIMITED,
    MISCONFIGURED,
    NO_REFUND,
    NOT_FOUND,
    NOT_SENT,
    OF_SOMETHING_ELSE,
    POLICY,
    PREPARED,
    PROCESSING,
    REFUND_FAILED,
    REFUND_PENDING,
    REFUNDED,
    REFUSED,
    REMIND_S,
    TOKENISED,
    UNCONFIRMED,
    UNKNOWN,
    Becomes,
    becomes,
    on_known,
    payment,
)

ANSWERS = (
    TOKENISED,
    FOUND,
    PREPARED,
    REFUSED,
    CAPTURED,
    DECLINED,
    UNCONFIRMED,
    ACTION_REQUIRED,
    PROCESSING,
    CANCELLED,
    NOT_FOUND,
    LIMITED,
    NOT_SENT,
    UNKNOWN,
    MISCONFIGURED,
    REFUNDED,
    REFUND_PENDING,
    REFUND_FAILED,
    NO_REFUND,
)

MOVED_ON: dict[PaymentStatus, tuple[Becomes | None, Becomes | None]] = {  # after a capture, after a refund
    PaymentStatus.REQUESTED: (None, None),
    PaymentStatus.PREPARED: (IS_CAPTURED, None),
    PaymentStatus.CANCELLING: (IS_CAPTURED, None),
    PaymentStatus.IN_DOUBT: (IS_CAPTURED, None),
    PaymentStatus.NEEDS_DECISION: (IS_CAPTURED, None),
    PaymentStatus.CAPTURED: (None, None),
    PaymentStatus.DECLINED: (IS_CAPTURED_LATE, None),
    PaymentStatus.NOT_CHARGED: (IS_CAPTURED_LATE, None),
    PaymentStatus.REFUNDING: (None, IS_REFUNDED),
    PaymentStatus.REFUND_IN_DOUBT: (None, IS_REFUNDED),
    PaymentStatus.REFUND_FAILED: (None, IS_REFUNDED),
    PaymentStatus.REFUNDED: (None, None),
}


@pytest.mark.parametrize("status", PaymentStatus)
def test_money_that_moved_is_never_overlooked(status: PaymentStatus) -> None:
    """The row has changed since the call: then only an answer about money counts."""
    before = payment(status)
    found = [domain.on_late_answer(before, answer, POLICY, asked=before) for answer in (CAPTURED, REFUNDED)]
    assert found == [follows(before) if follows else None for follows in MOVED_ON[status]]
    assert domain.on_late_answer(before, DECLINED, POLICY, asked=before) is None


@pytest.mark.parametrize("answer", ANSWERS, ids=domain.answer_code)
def test_what_is_looked_at_late_is_what_tells_of_money(answer: domain.GatewayAnswer) -> None:
    looked_at = any(
        domain.on_late_answer(payment(status), answer, POLICY, asked=payment(status)) for status in PaymentStatus
    )
    assert isinstance(answer, domain.TELLS_OF_MONEY) == looked_at


def test_every_answer_is_looked_at() -> None:
    assert {type(answer) for answer in ANSWERS} == set(get_args(domain.GatewayAnswer))


@pytest.mark.parametrize("capture", OF_SOMETHING_ELSE.values(), ids=OF_SOMETHING_ELSE)
def test_a_capture_of_another_payment_is_not_taken_for_this_one(capture: domain.GatewayAnswer) -> None:
    assert (
        domain.on_late_answer(payment(PaymentStatus.DECLINED), capture, POLICY, asked=payment(PaymentStatus.DECLINED))
        is None
    )


@pytest.mark.parametrize("status", [PaymentStatus.DECLINED, PaymentStatus.NOT_CHARGED])
def test_a_late_capture_is_announced_again_until_it_is_given_back(status: PaymentStatus) -> None:
    found = domain.on_late_answer(payment(status), CAPTURED, POLICY, asked=payment(status))
    assert found is not None
    assert (found.outcome, found.delay_s) == (Outcome.CAPTURED_LATE, REMIND_S)
    reminder = afterwards.on_answer(found.payment, GatewayStep.INQUIRE, CAPTURED, POLICY)
    assert reminder == PaymentTransition(replace(found.payment, rung=1), delay_s=REMIND_S, republish=True)
    assert afterwards.on_answer(found.payment, GatewayStep.INQUIRE, UNKNOWN, POLICY) == reminder
    asked = on_known(reminder.payment, Inquire(ID, "INV-1"))
    assert asked == PaymentTransition(reminder.payment, republish=True), (
        "an inquiry neither ends the reminders nor makes them more frequent"
    )
    given_back = on_known(reminder.payment, Refund(ID, "INV-1", ID, "late"))
    begun = becomes(PaymentStatus.REFUNDING, delay_s=0.0, refunds=given_back.payment.refunds)
    assert given_back == begun(reminder.payment)


def test_a_late_capture_that_is_kept_is_settled() -> None:
    at, reminders = replace(payment(PaymentStatus.CAPTURED), settled_as=PaymentStatus.NOT_CHARGED), 0
    while (reminder := afterwards.on_answer(at, GatewayStep.INQUIRE, CAPTURED, POLICY)).republish:
        at, reminders = reminder.payment, reminders + 1
    assert reminders == domain.LATE_REMINDERS_MAX
    assert reminder.delay_s is None
