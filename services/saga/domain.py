"""The state machine of the saga of one payment: it takes facts and sends commands. Pure: no I/O, clock, randomness, logging.

Facts may arrive in any order, repeatedly, late or never. The same fact a second time changes nothing and sends nothing. Deadlines send each
command again until a fact shows its effect. A saga that has ended sends its last command again if the invoice still waits. So the loss of
any message, or of a commit of the invoice, only costs time. The saga never guesses: the invoice decides whether money can be booked, and
the payment gateway knows whether a card was charged or refunded.
"""

from enum import StrEnum
from typing import Literal, assert_never
from uuid import UUID

from services.saga import refunds
from services.saga.refunds import (
    AskedRefunds,
    RefundAsked,
    RefundDoubted,
    RefundFact,
    RefundMade,
    RefundRecorded,
    RefundUnmade,
)
from shared.records import dataclass, replace

FailureOutcome = Literal["declined", "not_charged"]

REPEATS_MAX = 1_000
"""How often the same reminder is sent before the saga stops: six weeks at the hourly last step of the default ladder. This limits the
journal of a saga that gets no reply. Its status still shows that it is not finished."""


class SagaStatus(StrEnum):
    """The status of a payment, as the saga knows it.

    `NOT_REFUNDED` means that a person decided to keep captured money. Its case is closed. It differs from `REFUND_IN_DOUBT`, whose case is
    open, so that staff and auditors can tell them apart.
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
    """Money that the gateway captured. `amount_minor` is in the minor unit of `currency`."""

    amount_minor: int
    currency: str
    receipt_number: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the payment failed, as the saga sent it to the invoice, or as the invoice recorded it before."""

    outcome: FailureOutcome
    reason: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Saga:
    """Everything that the saga knows about one payment.

    `version` counts the transitions of the saga. `payment_version` is the newest version of the payment gateway's row that a fact has
    shown. `failure` is what the invoice has to record. It is sent again until `failure_recorded`. `flagged` says that the invoice was told
    that the payment is in doubt. `repeats` counts how often the present reminder was sent. `deadline` is the number of the newest deadline,
    which was set `deadline_s` seconds ahead. If `deadline_s` is None, no deadline is pending. `refunds` are those that upstream or a person
    asked for.
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
    refunds: AskedRefunds = ()


# -- facts: events of the invoice --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaymentRequested:
    """The payment has been pending for too long. For a healthy payment the saga receives the outcome first.

    It is a question, like a deadline: each time the invoice asks, it gets an answer.
    """


@dataclass(frozen=True, slots=True)
class Paid:
    """The invoice is paid by this payment."""


@dataclass(frozen=True, slots=True)
class PaymentFailed:
    """The invoice has recorded that this payment failed, and is open again."""

    outcome: FailureOutcome
    reason: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class SettlementRejected:
    """The invoice cannot take the money."""

    reason: str


# -- facts: outcomes of the payment gateway; `version` is that of its row ----------------------------------------------


@dataclass(frozen=True, slots=True)
class Captured:
    """The card was charged.

    Whether the capture is late makes no difference here. If no failure was sent yet, the invoice decides whether it takes the money. After
    a failure the money is refunded.
    """

    version: int
    amount_minor: int
    currency: str
    receipt_number: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The bank said no. `advice` is the gateway's code for what can be done about it, or None."""

    version: int
    reason: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class NotCharged:
    """The card was not charged, and never will be. `advice` is as for `Declined`."""

    version: int
    reason: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class InDoubt:
    """Nobody knows whether the card was charged."""

    version: int


@dataclass(frozen=True, slots=True)
class NeedsDecision:
    """The gateway cannot tell whether the card was charged. A person must decide."""

    version: int


@dataclass(frozen=True, slots=True)
class Refunded:
    """The money was given back."""

    version: int


@dataclass(frozen=True, slots=True)
class RefundInDoubt:
    """Nobody knows whether the money was given back."""

    version: int


@dataclass(frozen=True, slots=True)
class RefundFailed:
    """The gateway refuses to give the money back. `closed` means that a person decided to keep the money."""

    version: int
    closed: bool


# -- facts: time -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeadlineFired:
    """A deadline of this saga fired."""

    number: int


InvoiceFact = PaymentRequested | Paid | PaymentFailed | SettlementRejected
PaymentFact = Captured | Declined | NotCharged | InDoubt | NeedsDecision | Refunded | RefundInDoubt | RefundFailed
Fact = InvoiceFact | PaymentFact | RefundFact | DeadlineFired

# -- commands ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordPayment:
    """To the invoice: the money is captured, mark the invoice paid."""

    capture: Capture


@dataclass(frozen=True, slots=True)
class RecordPaymentFailure:
    """To the invoice: the payment failed, open the invoice again."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class FlagPaymentInDoubt:
    """To the invoice: nobody knows whether the card was charged."""


@dataclass(frozen=True, slots=True)
class InquirePayment:
    """To the payment gateway: announce what is known about the payment."""


@dataclass(frozen=True, slots=True)
class RefundPayment:
    """To the payment gateway: give all the money back, because the invoice cannot take it."""

    reason: str


Command = (
    RecordPayment | RecordPaymentFailure | FlagPaymentInDoubt | InquirePayment | RefundPayment | refunds.RefundCommand
)
Says = tuple[Command, ...]

REJECTED_CODE, REFUNDED_CODE = "settlement_rejected", "refunded"
"""The reason codes of failures that the saga itself decides."""
CAPTURED_AFTER_FAILURE = "captured after the payment had failed"
REJECTED = "the invoice cannot take the money"
LOST_REASON = "the payment is being refunded"
"""The reason of a refund that began before this saga received its first fact."""

# -- the transition ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReminderSchedule:
    """How long to wait before each reminder, in seconds, ascending. After the last step of the ladder, that step repeats.

    While a person has to decide, every wait is the last step.
    """

    ladder_s: tuple[float, ...]

    def delay_s(self, saga: Saga) -> float:
        """Seconds until the next reminder of `saga`."""
        if saga.status is SagaStatus.NEEDS_DECISION:
            return self.ladder_s[-1]
        return self.ladder_s[min(saga.repeats, len(self.ladder_s) - 1)]


@dataclass(frozen=True, slots=True)
class SagaStep:
    """The saga after a fact, and the commands it sends. If a new deadline is set, `saga.deadline` is due in `deadline_s` seconds."""

    saga: Saga
    says: Says = ()
    deadline_s: float | None = None


def transition(saga: Saga, fact: Fact, schedule: ReminderSchedule) -> SagaStep:
    """The step of `saga` after `fact`. If the fact changes nothing, the step has the same saga object.

    Facts may arrive in any order, so none is an error.
    """
    if _is_stale(saga, fact):
        return SagaStep(saga)
    after, says = _after(_learn(saga, fact), fact)
    if after == saga:
        return SagaStep(saga)
    waited_for, waits_for = reminders(saga), reminders(after)
    repeats = after.repeats if _waits_for(waits_for) is _waits_for(waited_for) else 0
    after = replace(after, version=saga.version + 1, repeats=repeats)
    if repeats >= REPEATS_MAX or not waits_for:
        return SagaStep(after, says)
    return _with_deadline(after, says, schedule, is_pending=bool(waited_for))


def _is_stale(saga: Saga, fact: Fact) -> bool:
    """Whether the saga knows a newer version of the payment gateway's row. A capture is never stale: no capture is ever ignored.

    A refund can be: a bank may send it back days later, and then the newer version says that it failed.
    """
    match fact:
        case RefundInDoubt() | RefundFailed() if saga.status in {SagaStatus.REFUNDED, SagaStatus.NOT_REFUNDED}:
            return fact.version <= saga.payment_version  # only what is news leads back from the end
        case Declined() | NotCharged() | InDoubt() | NeedsDecision() | Refunded() | RefundInDoubt() | RefundFailed():
            return fact.version < saga.payment_version
        case Captured() | PaymentRequested() | Paid() | PaymentFailed() | SettlementRejected():
            return False
        case RefundAsked() | RefundRecorded() | RefundMade() | RefundDoubted() | RefundUnmade():
            return False  # each refund knows the version of its newest fact
        case DeadlineFired():
            return saga.deadline_s is None or fact.number != saga.deadline
        case _:
            assert_never(fact)


def _learn(saga: Saga, fact: Fact) -> Saga:
    """Note what a fact says about the payment, in any status: its version, and a first capture."""
    match fact:
        case Captured():
            capture = saga.capture or Capture(fact.amount_minor, fact.currency, fact.receipt_number)
            return replace(saga, payment_version=_newest(saga, fact), capture=capture)
        case Declined() | NotCharged() | InDoubt() | NeedsDecision() | Refunded() | RefundInDoubt() | RefundFailed():
            return replace(saga, payment_version=_newest(saga, fact))
        case PaymentRequested() | Paid() | PaymentFailed() | SettlementRejected() | DeadlineFired():
            return saga
        case RefundAsked() | RefundRecorded() | RefundMade() | RefundDoubted() | RefundUnmade():
            return saga
        case _:
            assert_never(fact)


def _newest(saga: Saga, fact: PaymentFact) -> int:
    return max(saga.payment_version, fact.version)


def _with_deadline(after: Saga, says: Says, schedule: ReminderSchedule, *, is_pending: bool) -> SagaStep:
    """Set a deadline, unless one is pending that is due no later. So a healthy payment has only one deadline.

    Deadlines are never cancelled. When one fires, the state of the saga decides what it does.
    """
    delay_s = schedule.delay_s(after)
    pending_s = after.deadline_s if is_pending else None
    if pending_s is not None and pending_s <= delay_s:
        return SagaStep(after, says)
    return SagaStep(replace(after, deadline=after.deadline + 1, deadline_s=delay_s), says, delay_s)


def reminders(saga: Saga) -> Says:
    """The commands that a deadline sends in this state. There are none if the saga waits for nothing."""
    return (*_status_reminders(saga), *refunds.reminders(saga.refunds))


def _status_reminders(saga: Saga) -> Says:
    match saga.status:
        case SagaStatus.ABSENT | SagaStatus.COMPLETED:
            return ()
        case SagaStatus.AWAITING_OUTCOME | SagaStatus.IN_DOUBT | SagaStatus.NEEDS_DECISION:
            return (InquirePayment(),)
        case SagaStatus.SETTLING:
            return (RecordPayment(saga.capture),) if saga.capture else (InquirePayment(),)
        case SagaStatus.REFUNDING | SagaStatus.REFUND_IN_DOUBT:
            return (RefundPayment(saga.refund_reason or LOST_REASON), *_unrecorded_failure(saga))
        case SagaStatus.FAILED | SagaStatus.REFUNDED | SagaStatus.NOT_REFUNDED:
            return _unrecorded_failure(saga)
        case _:
            assert_never(saga.status)


def _unrecorded_failure(saga: Saga) -> Says:
    """The command with a failure that the invoice has not recorded yet."""
    return () if saga.failure is None or saga.failure_recorded else (RecordPaymentFailure(saga.failure),)


def _waits_for(commands: Says) -> type[Command] | None:
    """The command whose effect a saga with these reminders waits for. When it changes, the ladder begins again at its first step."""
    return type(commands[0]) if commands else None


# -- fact by fact ------------------------------------------------------------------------------------------------------


def _after(saga: Saga, fact: Fact) -> tuple[Saga, Says]:
    match fact:
        case PaymentRequested():
            return _requested(saga)
        case Paid():
            return _paid(saga)
        case PaymentFailed():
            return _payment_failed(saga, Failure(fact.outcome, fact.reason, fact.advice))
        case SettlementRejected():
            return _settlement_rejected(saga, fact)
        case Captured():
            return _captured(saga)
        case Declined():
            return _over_without_charge(saga, Failure("declined", fact.reason, fact.advice))
        case NotCharged():
            return _over_without_charge(saga, Failure("not_charged", fact.reason, fact.advice))
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
        case RefundAsked() | RefundRecorded() | RefundMade() | RefundDoubted() | RefundUnmade():
            return _refund_fact(saga, fact)
        case DeadlineFired():
            return _deadline_fired(saga)
        case _:
            assert_never(fact)


def _requested(saga: Saga) -> tuple[Saga, Says]:
    """Begin to wait. If the invoice has recorded an outcome and still waits, it has lost its last commit: it is told the outcome again."""
    if saga.status is SagaStatus.ABSENT:
        return replace(saga, status=SagaStatus.AWAITING_OUTCOME), ()
    says = _recorded(saga)
    return (replace(saga, repeats=saga.repeats + 1), says) if says and saga.repeats < REPEATS_MAX else (saga, ())


def _recorded(saga: Saga) -> Says:
    """The command whose effect the invoice has shown, so that no deadline sends it any more."""
    match saga.status:
        case SagaStatus.COMPLETED:
            return (RecordPayment(saga.capture),) if saga.capture else ()
        case SagaStatus.REFUNDED if saga.failure is None:  # it was completed before
            return (RecordPaymentFailure(Failure("not_charged", REFUNDED_CODE)),)
        case _:
            return (RecordPaymentFailure(saga.failure),) if saga.failure and saga.failure_recorded else ()


def _paid(saga: Saga) -> tuple[Saga, Says]:
    match saga.status:
        case SagaStatus.ABSENT | SagaStatus.AWAITING_OUTCOME | SagaStatus.IN_DOUBT | SagaStatus.NEEDS_DECISION:
            return replace(saga, status=SagaStatus.COMPLETED), ()  # facts are missing, but the invoice has its money
        case SagaStatus.SETTLING | SagaStatus.FAILED:
            return replace(saga, status=SagaStatus.COMPLETED), ()
        case SagaStatus.COMPLETED:
            return saga, ()
        case SagaStatus.REFUNDING | SagaStatus.REFUND_IN_DOUBT | SagaStatus.REFUNDED | SagaStatus.NOT_REFUNDED:
            return saga, ()  # a refund cannot be undone; the audit shows an invoice that is paid with refunded money
        case _:
            assert_never(saga.status)


def _payment_failed(saga: Saga, failure: Failure) -> tuple[Saga, Says]:
    recorded = replace(saga, failure=saga.failure or failure, failure_recorded=True)
    match saga.status:
        case SagaStatus.ABSENT | SagaStatus.AWAITING_OUTCOME | SagaStatus.IN_DOUBT | SagaStatus.NEEDS_DECISION:
            return replace(recorded, status=SagaStatus.FAILED), ()
        case SagaStatus.SETTLING:
            return recorded, ()  # the invoice will reject the settlement, and the refund follows then
        case (
            SagaStatus.FAILED
            | SagaStatus.REFUNDING
            | SagaStatus.REFUND_IN_DOUBT
            | SagaStatus.REFUNDED
            | SagaStatus.NOT_REFUNDED
        ):
            return recorded, ()
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
            return saga, ()  # the invoice is paid by this payment, so the money stays
        case SagaStatus.REFUNDING | SagaStatus.REFUND_IN_DOUBT | SagaStatus.REFUNDED | SagaStatus.NOT_REFUNDED:
            return saga, ()
        case _:
            assert_never(saga.status)


def _captured(saga: Saga) -> tuple[Saga, Says]:
    match saga.status:
        case SagaStatus.ABSENT | SagaStatus.AWAITING_OUTCOME | SagaStatus.IN_DOUBT | SagaStatus.NEEDS_DECISION:
            settling = replace(saga, status=SagaStatus.SETTLING)
            return settling, reminders(settling)
        case SagaStatus.FAILED:
            return _refund(saga, CAPTURED_AFTER_FAILURE)
        case SagaStatus.SETTLING | SagaStatus.COMPLETED:
            return saga, ()  # a payment is captured at most once, so this is the same capture
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
            return replace(saga, status=SagaStatus.REFUNDED), ()  # the money is gone, although the invoice stays paid
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
            # With another status, a deadline would ask for the refund of a paid invoice. Staff have the case in any event.
            return saga, ()
        case SagaStatus.REFUNDED | SagaStatus.NOT_REFUNDED:
            return replace(saga, status=status), ()  # the refund failed later, or a person took a decision back
        case _:
            assert_never(saga.status)


def _refund_fact(saga: Saga, fact: RefundFact) -> tuple[Saga, Says]:
    """A fact about a refund that upstream or a person asked for. The invoice takes such a request only if it is paid."""
    paid, _ = _paid(saga)
    after, says = refunds.after(paid.refunds, fact)
    if after is paid.refunds:
        again = refunds.said_before(after, fact) if paid.repeats < REPEATS_MAX else ()
        return (replace(paid, repeats=paid.repeats + 1), again) if again else (paid, ())
    return replace(paid, refunds=after, repeats=0 if says else paid.repeats), says


def _deadline_fired(saga: Saga) -> tuple[Saga, Says]:
    says = reminders(saga)
    return (replace(saga, repeats=saga.repeats + 1, deadline_s=None) if says else saga), says


def _refund(saga: Saga, reason: str) -> tuple[Saga, Says]:
    refunding = replace(saga, status=SagaStatus.REFUNDING, refund_reason=reason)
    failed, says = _fail(refunding, REJECTED_CODE)
    return failed, (RefundPayment(reason), *says)


def _fail(saga: Saga, reason: str) -> tuple[Saga, Says]:
    """Tell the invoice that the payment failed, because the money is refunded. It is not told if there was a failure before.

    The command is sent until the invoice has recorded the failure, because the invoice may still wait for this payment: when it rejects a
    capture whose amount differs, it goes on waiting.
    """
    if saga.failure is not None:
        return saga, ()
    failure = Failure("not_charged", reason)
    return replace(saga, failure=failure), (RecordPaymentFailure(failure),)
