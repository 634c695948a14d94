"""The saga of one payment, a state machine: facts in, commands out. Pure: no I/O, clock, randomness, logging.

Facts may arrive in any order, again and again, late or never. The same fact a second time changes nothing and sends
nothing. A deadline sends each command again until its effect was seen, so the loss of any message only costs time.
Nothing here guesses: whether money can be booked is the invoice's answer, whether a card was charged or refunded is the
payment gateway's.
"""

from enum import StrEnum
from typing import Literal, assert_never
from uuid import UUID

from shared.records import dataclass, replace

FailureOutcome = Literal["declined", "not_charged"]

REPEATS_MAX = 1_000
"""How often the same reminder is sent before a saga falls silent: six weeks at the last, hourly step of the default
ladder. It bounds the journal of a saga that nobody answers; such a saga stays visible in its status."""


class SagaStatus(StrEnum):
    """Where the payment stands.

    `NOT_REFUNDED`: a person decided that captured money stays. The case is closed then, and must not look to staff and
    auditors like `REFUND_IN_DOUBT`, whose case is open.
    """

    ABSENT = "absent"
    AWAITING_OUTCOME = "awaiting_outcome"
    IN_DOUBT = "in_doubt"
    NEEDS_DECISION = "needs_decision"
    SETTLING = "settling"
    COMPLETED = "completed"
    FAILED = "failed"
    REFUNDING = "refunding"
    REFUND_IN_DOUBT = "refund_in_doubt"
    REFUNDED = "refunded"
    NOT_REFUNDED = "not_refunded"


@dataclass(frozen=True, slots=True)
class Capture:
    """Money that the gateway took. `amount_minor` is in the minor unit of `currency`."""

    amount_minor: int
    currency: str
    receipt_number: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the invoice stays unpaid: what we sent to the invoice, or what the invoice recorded before."""

    outcome: FailureOutcome
    reason: str


@dataclass(frozen=True, slots=True)
class Saga:
    """All that is known of one payment.

    `version` counts the transitions of the saga; `payment_version` is the newest heard of the payment gateway's row.
    `failure` is what the invoice has to record; it is sent again until `failure_recorded`. `repeats` counts how often the
    present reminder was sent. `deadline` is the number of the newest deadline, set `deadline_s` seconds ahead; None: none is
    under way.
    """

    payment_id: UUID
    invoice_id: str
    status: SagaStatus = SagaStatus.ABSENT
    version: int = 0
    payment_version: int = 0
    capture: Capture | None = None
    failure: Failure | None = None
    failure_recorded: bool = False
    flagged: bool = False
    refund_reason: str | None = None
    repeats: int = 0
    deadline: int = 0
    deadline_s: float | None = None


# -- facts: events of the invoice --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaymentRequested:
    """The payment is pending for longer than it should be. (Of a healthy one the outcome comes first.)"""


@dataclass(frozen=True, slots=True)
class Paid:
    """The invoice is paid by this payment."""


@dataclass(frozen=True, slots=True)
class PaymentFailed:
    """The invoice took note that this payment failed, and is open again."""

    outcome: FailureOutcome
    reason: str


@dataclass(frozen=True, slots=True)
class SettlementRejected:
    """The invoice cannot take the money."""

    reason: str


# -- facts: outcomes of the payment gateway; `version` is that of its row ----------------------------------------------


@dataclass(frozen=True, slots=True)
class Captured:
    """The card was charged. Late or not makes no difference here: before a failure was sent, the invoice decides whether
    it takes the money; afterwards the money goes back."""

    version: int
    amount_minor: int
    currency: str
    receipt_number: str


@dataclass(frozen=True, slots=True)
class Declined:
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class NotCharged:
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class InDoubt:
    version: int


@dataclass(frozen=True, slots=True)
class NeedsDecision:
    version: int


@dataclass(frozen=True, slots=True)
class Refunded:
    version: int


@dataclass(frozen=True, slots=True)
class RefundInDoubt:
    version: int


@dataclass(frozen=True, slots=True)
class RefundFailed:
    """`closed`: a person decided that the money stays where it is."""

    version: int
    closed: bool


# -- facts: time -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeadlineFired:
    number: int


InvoiceFact = PaymentRequested | Paid | PaymentFailed | SettlementRejected
PaymentFact = Captured | Declined | NotCharged | InDoubt | NeedsDecision | Refunded | RefundInDoubt | RefundFailed
Fact = InvoiceFact | PaymentFact | DeadlineFired

# -- commands ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordPayment:
    capture: Capture


@dataclass(frozen=True, slots=True)
class RecordPaymentFailure:
    failure: Failure


@dataclass(frozen=True, slots=True)
class FlagPaymentInDoubt:
    pass


@dataclass(frozen=True, slots=True)
class InquirePayment:
    pass


@dataclass(frozen=True, slots=True)
class RefundPayment:
    reason: str


Command = RecordPayment | RecordPaymentFailure | FlagPaymentInDoubt | InquirePayment | RefundPayment
Says = tuple[Command, ...]

REJECTED_CODE, REFUNDED_CODE = "settlement_rejected", "refunded"
"""Reason codes of failures that the saga itself decides on."""
CAPTURED_AFTER_FAILURE = "captured after the payment had failed"
REJECTED = "the invoice cannot take the money"
LOST_REASON = "the payment is being refunded"
"""For a refund that began before the memory of this saga does."""

# -- the transition ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReminderSchedule:
    """How long to wait before sending the same reminder again, in seconds, growing; the last step repeats. While a person
    has to decide, every step is the last."""

    ladder_s: tuple[float, ...]

    def delay_s(self, saga: Saga) -> float:
        if saga.status is SagaStatus.NEEDS_DECISION:
            return self.ladder_s[-1]
        return self.ladder_s[min(saga.repeats, len(self.ladder_s) - 1)]


@dataclass(frozen=True, slots=True)
class SagaStep:
    """The saga after a fact, the commands it says, and, if a new deadline is set, in how many seconds `saga.deadline` is due."""

    saga: Saga
    says: Says = ()
    deadline_s: float | None = None


def transition(saga: Saga, fact: Fact, schedule: ReminderSchedule) -> SagaStep:
    """The step that the fact brings about; to the very same saga if it changes nothing. No order of arrival is an error."""
    if _is_stale(saga, fact):
        return SagaStep(saga)
    after, says = _after(_learn(saga, fact), fact)
    if after == saga:
        return SagaStep(saga)
    owed_before, owed = reminders(saga), reminders(after)
    repeats = after.repeats if _pursuit(owed) is _pursuit(owed_before) else 0
    return _with_deadline(saga, replace(after, version=saga.version + 1, repeats=repeats), says, schedule)


def _is_stale(saga: Saga, fact: Fact) -> bool:
    """Whether something newer is known of the payment gateway's row. Money that moved is never stale."""
    match fact:
        case Declined() | NotCharged() | InDoubt() | NeedsDecision() | RefundInDoubt() | RefundFailed():
            return fact.version < saga.payment_version
        case Captured() | Refunded() | PaymentRequested() | Paid() | PaymentFailed() | SettlementRejected():
            return False
        case DeadlineFired():
            return saga.deadline_s is None or fact.number != saga.deadline
        case _:
            assert_never(fact)


def _learn(saga: Saga, fact: Fact) -> Saga:
    """What is worth knowing whatever the status."""
    match fact:
        case Captured():
            capture = saga.capture or Capture(fact.amount_minor, fact.currency, fact.receipt_number)
            return replace(saga, payment_version=_newest(saga, fact), capture=capture)
        case Declined() | NotCharged() | InDoubt() | NeedsDecision() | Refunded() | RefundInDoubt() | RefundFailed():
            return replace(saga, payment_version=_newest(saga, fact))
        case PaymentRequested() | Paid() | PaymentFailed() | SettlementRejected() | DeadlineFired():
            return saga
        case _:
            assert_never(fact)


def _newest(saga: Saga, fact: PaymentFact) -> int:
    return max(saga.payment_version, fact.version)


def _with_deadline(before: Saga, after: Saga, says: Says, schedule: ReminderSchedule) -> SagaStep:
    """Set a deadline, unless one that is due no later is under way: deadlines are never cancelled, and state decides when
    one fires. So a healthy payment has a single one."""
    if after.repeats >= REPEATS_MAX or not reminders(after):
        return SagaStep(after, says)
    delay_s = schedule.delay_s(after)
    under_way_s = after.deadline_s if reminders(before) else None
    if under_way_s is not None and under_way_s <= delay_s:
        return SagaStep(after, says)
    return SagaStep(replace(after, deadline=after.deadline + 1, deadline_s=delay_s), says, delay_s)


def reminders(saga: Saga) -> Says:
    """The commands that a deadline sends in this state; none: the saga waits for nobody."""
    match saga.status:
        case SagaStatus.ABSENT | SagaStatus.COMPLETED:
            return ()
        case SagaStatus.AWAITING_OUTCOME | SagaStatus.IN_DOUBT | SagaStatus.NEEDS_DECISION:
            return (InquirePayment(),)
        case SagaStatus.SETTLING:
            return (RecordPayment(saga.capture),) if saga.capture else (InquirePayment(),)
        case SagaStatus.REFUNDING | SagaStatus.REFUND_IN_DOUBT:
            return (RefundPayment(saga.refund_reason or LOST_REASON), *_owed_to_invoice(saga))
        case SagaStatus.FAILED | SagaStatus.REFUNDED | SagaStatus.NOT_REFUNDED:
            return _owed_to_invoice(saga)
        case _:
            assert_never(saga.status)


def _owed_to_invoice(saga: Saga) -> Says:
    return () if saga.failure is None or saga.failure_recorded else (RecordPaymentFailure(saga.failure),)


def _pursuit(owed: Says) -> type[Command] | None:
    """What a saga with these reminders is waiting for. The ladder begins anew when that changes, not whenever the status does."""
    return type(owed[0]) if owed else None


# -- fact by fact ------------------------------------------------------------------------------------------------------


def _after(saga: Saga, fact: Fact) -> tuple[Saga, Says]:
    match fact:
        case PaymentRequested():
            return _requested(saga)
        case Paid():
            return _paid(saga)
        case PaymentFailed():
            return _payment_failed(saga, Failure(fact.outcome, fact.reason))
        case SettlementRejected():
            return _settlement_rejected(saga, fact)
        case Captured():
            return _captured(saga, Capture(fact.amount_minor, fact.currency, fact.receipt_number))
        case Declined():
            return _over_without_charge(saga, Failure("declined", fact.reason))
        case NotCharged():
            return _over_without_charge(saga, Failure("not_charged", fact.reason))
        case InDoubt():
            return _doubted(saga, SagaStatus.IN_DOUBT)
        case NeedsDecision():
            return _doubted(saga, SagaStatus.NEEDS_DECISION)
        case Refunded():
            return _refunded(saga)
        case RefundInDoubt():
            return _refund_doubted(saga, SagaStatus.REFUND_IN_DOUBT)
        case RefundFailed():
            return _refund_doubted(saga, SagaStatus.NOT_REFUNDED if fact.closed else SagaStatus.REFUND_IN_DOUBT)
        case DeadlineFired():
            return _deadline_fired(saga)
        case _:
            assert_never(fact)


def _requested(saga: Saga) -> tuple[Saga, Says]:
    return (replace(saga, status=SagaStatus.AWAITING_OUTCOME) if saga.status is SagaStatus.ABSENT else saga), ()


def _paid(saga: Saga) -> tuple[Saga, Says]:
    match saga.status:
        case SagaStatus.ABSENT | SagaStatus.AWAITING_OUTCOME | SagaStatus.IN_DOUBT | SagaStatus.NEEDS_DECISION:
            return replace(saga, status=SagaStatus.COMPLETED), ()  # whatever we missed, the invoice has its money
        case SagaStatus.SETTLING | SagaStatus.FAILED:
            return replace(saga, status=SagaStatus.COMPLETED), ()
        case SagaStatus.COMPLETED:
            return saga, ()
        case SagaStatus.REFUNDING | SagaStatus.REFUND_IN_DOUBT | SagaStatus.REFUNDED | SagaStatus.NOT_REFUNDED:
            return saga, ()  # a refund cannot be called back; the audit shows an invoice paid by money that went back
        case _:
            assert_never(saga.status)


def _payment_failed(saga: Saga, failure: Failure) -> tuple[Saga, Says]:
    noted = replace(saga, failure=saga.failure or failure, failure_recorded=True)
    match saga.status:
        case SagaStatus.ABSENT | SagaStatus.AWAITING_OUTCOME | SagaStatus.IN_DOUBT | SagaStatus.NEEDS_DECISION:
            return replace(noted, status=SagaStatus.FAILED), ()
        case SagaStatus.SETTLING:
            return noted, ()  # the invoice will reject the settlement: its answer decides
        case (
            SagaStatus.FAILED
            | SagaStatus.REFUNDING
            | SagaStatus.REFUND_IN_DOUBT
            | SagaStatus.REFUNDED
            | SagaStatus.NOT_REFUNDED
        ):
            return noted, ()
        case SagaStatus.COMPLETED:
            return saga, ()
        case _:
            assert_never(saga.status)


def _settlement_rejected(saga: Saga, fact: SettlementRejected) -> tuple[Saga, Says]:
    match saga.status:
        case SagaStatus.ABSENT | SagaStatus.AWAITING_OUTCOME | SagaStatus.IN_DOUBT | SagaStatus.NEEDS_DECISION:
            return _refund(saga, f"{REJECTED}: {fact.reason}")  # only captured money can be rejected
        case SagaStatus.SETTLING | SagaStatus.FAILED:
            return _refund(saga, f"{REJECTED}: {fact.reason}")
        case SagaStatus.COMPLETED:
            return saga, ()  # the invoice is paid by this very payment: the money is where it belongs
        case SagaStatus.REFUNDING | SagaStatus.REFUND_IN_DOUBT | SagaStatus.REFUNDED | SagaStatus.NOT_REFUNDED:
            return saga, ()
        case _:
            assert_never(saga.status)


def _captured(saga: Saga, capture: Capture) -> tuple[Saga, Says]:
    match saga.status:
        case SagaStatus.ABSENT | SagaStatus.AWAITING_OUTCOME | SagaStatus.IN_DOUBT | SagaStatus.NEEDS_DECISION:
            capture = saga.capture or capture
            return replace(saga, status=SagaStatus.SETTLING, capture=capture), (RecordPayment(capture),)
        case SagaStatus.FAILED:
            return _refund(saga, CAPTURED_AFTER_FAILURE)
        case SagaStatus.SETTLING | SagaStatus.COMPLETED:
            return saga, ()  # one payment is captured at most once: it is the same capture
        case SagaStatus.REFUNDING | SagaStatus.REFUND_IN_DOUBT | SagaStatus.REFUNDED | SagaStatus.NOT_REFUNDED:
            return saga, ()
        case _:
            assert_never(saga.status)


def _over_without_charge(saga: Saga, failure: Failure) -> tuple[Saga, Says]:
    match saga.status:
        case SagaStatus.ABSENT | SagaStatus.AWAITING_OUTCOME | SagaStatus.IN_DOUBT | SagaStatus.NEEDS_DECISION:
            return replace(saga, status=SagaStatus.FAILED, failure=failure), (RecordPaymentFailure(failure),)
        case SagaStatus.FAILED:
            return saga, ()
        case SagaStatus.SETTLING | SagaStatus.COMPLETED:
            return saga, ()  # a capture is final
        case SagaStatus.REFUNDING | SagaStatus.REFUND_IN_DOUBT | SagaStatus.REFUNDED | SagaStatus.NOT_REFUNDED:
            return saga, ()
        case _:
            assert_never(saga.status)


def _doubted(saga: Saga, status: Literal[SagaStatus.IN_DOUBT, SagaStatus.NEEDS_DECISION]) -> tuple[Saga, Says]:
    match saga.status:
        case SagaStatus.ABSENT | SagaStatus.AWAITING_OUTCOME | SagaStatus.IN_DOUBT | SagaStatus.NEEDS_DECISION:
            says: Says = () if saga.flagged else (FlagPaymentInDoubt(),)
            return replace(saga, status=status, flagged=True), says
        case SagaStatus.SETTLING | SagaStatus.COMPLETED | SagaStatus.FAILED:
            return saga, ()  # an outcome is known
        case SagaStatus.REFUNDING | SagaStatus.REFUND_IN_DOUBT | SagaStatus.REFUNDED | SagaStatus.NOT_REFUNDED:
            return saga, ()
        case _:
            assert_never(saga.status)


def _refunded(saga: Saga) -> tuple[Saga, Says]:
    match saga.status:
        case (
            SagaStatus.ABSENT
            | SagaStatus.AWAITING_OUTCOME
            | SagaStatus.IN_DOUBT
            | SagaStatus.NEEDS_DECISION
            | SagaStatus.SETTLING
        ):
            return _fail(replace(saga, status=SagaStatus.REFUNDED), REFUNDED_CODE)
        case SagaStatus.FAILED | SagaStatus.REFUNDING | SagaStatus.REFUND_IN_DOUBT | SagaStatus.NOT_REFUNDED:
            return replace(saga, status=SagaStatus.REFUNDED), ()
        case SagaStatus.COMPLETED:
            return replace(saga, status=SagaStatus.REFUNDED), ()  # true of the money; the invoice's record is final
        case SagaStatus.REFUNDED:
            return saga, ()
        case _:
            assert_never(saga.status)


def _refund_doubted(
    saga: Saga, status: Literal[SagaStatus.REFUND_IN_DOUBT, SagaStatus.NOT_REFUNDED]
) -> tuple[Saga, Says]:
    match saga.status:
        case (
            SagaStatus.ABSENT
            | SagaStatus.AWAITING_OUTCOME
            | SagaStatus.IN_DOUBT
            | SagaStatus.NEEDS_DECISION
            | SagaStatus.SETTLING
        ):
            return _fail(replace(saga, status=status), REFUNDED_CODE)
        case SagaStatus.FAILED | SagaStatus.REFUNDING | SagaStatus.REFUND_IN_DOUBT:
            return replace(saga, status=status), ()
        case SagaStatus.COMPLETED:
            # In doubt, a deadline would ask for the refund of a paid invoice. The case is with staff in any event.
            return saga, ()
        case SagaStatus.REFUNDED | SagaStatus.NOT_REFUNDED:
            return saga, ()
        case _:
            assert_never(saga.status)


def _deadline_fired(saga: Saga) -> tuple[Saga, Says]:
    says = reminders(saga)
    return (replace(saga, repeats=saga.repeats + 1, deadline_s=None) if says else saga), says


def _refund(saga: Saga, reason: str) -> tuple[Saga, Says]:
    refunding = replace(saga, status=SagaStatus.REFUNDING, refund_reason=reason)
    failed, says = _fail(refunding, REJECTED_CODE)
    return failed, (RefundPayment(reason), *says)


def _fail(saga: Saga, reason: str) -> tuple[Saga, Says]:
    """Money that goes back leaves the invoice unpaid. Unless the invoice was told so before, it is told now, again and
    again until it has recorded it: it may still wait for this payment (it rejects an amount that differs without ending
    the wait)."""
    if saga.failure is not None:
        return saga, ()
    failure = Failure("not_charged", reason)
    return replace(saga, failure=failure), (RecordPaymentFailure(failure),)
