"""The saga of the specification: every state that it can have, every fact that it can receive, every command that it sends."""

from dataclasses import replace
from uuid import UUID

from services.saga.domain import (
    Capture,
    Captured,
    DeadlineFired,
    Declined,
    Fact,
    Failure,
    FlagPaymentInDoubt,
    InDoubt,
    InquirePayment,
    NeedsDecision,
    NotCharged,
    Paid,
    PaymentFailed,
    PaymentRequested,
    RecordPayment,
    RecordPaymentFailure,
    Refunded,
    RefundFailed,
    RefundInDoubt,
    RefundPayment,
    ReminderSchedule,
    Saga,
    SagaStatus,
    SettlementRejected,
)
from services.saga.refunds import (
    AskedRefund,
    AskedRefundStatus,
    MakeRefund,
    RecordRefund,
    RecordRefundFailure,
    RefundAsked,
    RefundDoubted,
    RefundMade,
    RefundRecorded,
    RefundUnmade,
)

PATIENCE = ReminderSchedule((10.0, 20.0, 60.0))
FIRST_S, SECOND_S, LAST_S = PATIENCE.ladder_s
VERSION = 5
"""The version of the payment gateway's row that the saga knows; the facts below are newer."""
NEWER = 6

ABSENT = Saga(UUID("6d0c3d1e-0d2f-4a0e-9a35-8a0f4a2b7d11"), "INV-1")
CAPTURE = Capture(1_000, "EUR", "R-1")
DECLINE = Failure("declined", "do_not_honor", "try_again_later")
REJECTION = Failure("not_charged", "settlement_rejected")
REFUND = Failure("not_charged", "refunded")
REJECTED = "the invoice cannot take the money: payment_not_awaited"
LATE = "captured after the payment had failed"

AWAITING = replace(
    ABSENT,
    status=SagaStatus.AWAITING_OUTCOME,
    version=1,
    deadline=1,
    deadline_s=FIRST_S,
)
KNOWN = replace(AWAITING, version=3, payment_version=VERSION)
CAPTURED = replace(KNOWN, capture=CAPTURE)
DECLINED = replace(KNOWN, status=SagaStatus.FAILED, failure=DECLINE)
REFUNDING = replace(CAPTURED, status=SagaStatus.REFUNDING, failure=DECLINE, failure_recorded=True, refund_reason=LATE)

PART = UUID("6d0c3d1e-0d2f-4a0e-9a35-8a0f4a2b7d12")
"""A refund that upstream asked for."""
ASKED = AskedRefund(PART, "damaged", 300, "EUR")
WAS_MADE = replace(ASKED, status=AskedRefundStatus.MADE, version=VERSION, amount_minor=300, is_recorded=True)
IS_MADE = AskedRefund(PART, currency="EUR", status=AskedRefundStatus.MADE, version=NEWER, amount_minor=300)

STATES: dict[str, Saga] = {
    "absent": ABSENT,
    "awaiting_outcome": AWAITING,
    "in_doubt": replace(KNOWN, status=SagaStatus.IN_DOUBT, flagged=True),
    "needs_decision": replace(KNOWN, status=SagaStatus.NEEDS_DECISION, flagged=True),
    "settling": replace(CAPTURED, status=SagaStatus.SETTLING),
    "completed": replace(CAPTURED, status=SagaStatus.COMPLETED),
    "failed, invoice told": DECLINED,
    "failed": replace(DECLINED, failure_recorded=True),
    "refunding": REFUNDING,
    "refund_in_doubt": replace(REFUNDING, status=SagaStatus.REFUND_IN_DOUBT),
    "refunded": replace(REFUNDING, status=SagaStatus.REFUNDED),
    "not_refunded": replace(REFUNDING, status=SagaStatus.NOT_REFUNDED),
    "completed, a part refunded": replace(CAPTURED, status=SagaStatus.COMPLETED, refunds=(WAS_MADE,)),
}

FACTS: dict[str, Fact] = {
    "requested": PaymentRequested(),
    "captured": Captured(NEWER, 1_000, "EUR", "R-1"),
    "declined": Declined(NEWER, "do_not_honor", "try_again_later"),
    "not charged": NotCharged(NEWER, "never_sent", "do_not_try_again"),
    "in doubt": InDoubt(NEWER),
    "needs decision": NeedsDecision(NEWER),
    "paid": Paid(),
    "payment failed": PaymentFailed("declined", "do_not_honor", "try_again_later"),
    "settlement rejected": SettlementRejected("payment_not_awaited"),
    "refunded": Refunded(NEWER),
    "refund in doubt": RefundInDoubt(NEWER),
    "refund failed": RefundFailed(NEWER, closed=False),
    "refund closed": RefundFailed(NEWER, closed=True),
    "refund asked": RefundAsked(PART, 300, "EUR", "damaged"),
    "refund made": RefundMade(NEWER, PART, 300, "EUR"),
    "refund doubted": RefundDoubted(NEWER, PART),
    "refund unmade": RefundUnmade(NEWER, PART, "expired_card", closed=False),
    "refund recorded": RefundRecorded(PART, NEWER),
    "deadline": DeadlineFired(1),
}

ASK, FLAG, RECORD = InquirePayment(), FlagPaymentInDoubt(), RecordPayment(CAPTURE)
TELL_DECLINE, TELL_NOT_CHARGED = (
    RecordPaymentFailure(DECLINE),
    RecordPaymentFailure(Failure("not_charged", "never_sent", "do_not_try_again")),
)
TELL_REJECTION, TELL_REFUND = RecordPaymentFailure(REJECTION), RecordPaymentFailure(REFUND)
MAKE_REFUND, RECORD_REFUND = MakeRefund(ASKED), RecordRefund(IS_MADE)
RECORD_ONCE_MORE = RecordRefund(replace(WAS_MADE, is_recorded=False))
RECORD_UNMADE = RecordRefundFailure(
    replace(WAS_MADE, status=AskedRefundStatus.UNMADE, version=NEWER, code="expired_card", is_recorded=False)
)
REFUND_REJECTED, REFUND_LATE = RefundPayment(REJECTED), RefundPayment(LATE)
