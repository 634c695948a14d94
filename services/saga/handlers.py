"""The messages of this service: `ROUTES` turns each incoming message into a fact, `say` turns each command into a message."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never
from uuid import UUID

from services.saga import domain, refunds, store
from services.saga.domain import Fact, ReminderSchedule, Saga
from services.saga.store import SagaTransition
from shared.batch.handler import Change, Reaction
from shared.batch.state_cache import StateCache
from shared.contracts import invoice as invoice_messages
from shared.contracts import payment_gateway as payment_messages
from shared.contracts.base import AboutPayment, Contract
from shared.messaging.envelope import Draft, Inbound, Outgoing
from shared.persistence.database import Connection, Tx
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, field

SOURCE = "saga"

# -- from messages to facts --------------------------------------------------------------------------------------------


def _requested(_: invoice_messages.InvoicePaymentOverdue | invoice_messages.InvoicePaymentRequested) -> Fact:
    return domain.PaymentRequested()


def _paid(_: invoice_messages.InvoicePaid) -> Fact:
    return domain.Paid()


def _payment_failed(message: invoice_messages.InvoicePaymentFailed) -> Fact:
    return domain.PaymentFailed(message.outcome, message.reason, message.advice)


def _settlement_rejected(message: invoice_messages.InvoiceSettlementRejected) -> Fact:
    return domain.SettlementRejected(message.reason)


def _captured(message: payment_messages.PaymentCaptured) -> Fact:
    return domain.Captured(message.version, message.amount_minor, message.currency, message.receipt_number)


def _declined(message: payment_messages.PaymentDeclined) -> Fact:
    return domain.Declined(message.version, message.reason, message.advice)


def _not_charged(message: payment_messages.PaymentNotCharged) -> Fact:
    return domain.NotCharged(message.version, message.reason, message.advice)


def _in_doubt(message: payment_messages.PaymentInDoubt) -> Fact:
    return domain.InDoubt(message.version)


def _needs_decision(message: payment_messages.PaymentNeedsDecision) -> Fact:
    return domain.NeedsDecision(message.version)


def _refunded(message: payment_messages.PaymentRefunded) -> Fact:
    if (refund_id := _asked_for(message)) is None:
        return domain.Refunded(message.version)
    who = message.decided_by or message.asked_by
    return refunds.RefundMade(message.version, refund_id, message.amount_minor, message.currency, who)


def _refund_in_doubt(message: payment_messages.PaymentRefundInDoubt) -> Fact:
    if (refund_id := _asked_for(message)) is None:
        return domain.RefundInDoubt(message.version)
    return refunds.RefundDoubted(message.version, refund_id)


def _refund_failed(message: payment_messages.PaymentRefundFailed) -> Fact:
    closed = message.decided_by is not None
    if (refund_id := _asked_for(message)) is None:
        return domain.RefundFailed(message.version, closed=closed)
    return refunds.RefundUnmade(message.version, refund_id, message.reason, closed=closed)


def _asked_for(
    message: payment_messages.PaymentRefunded
    | payment_messages.PaymentRefundInDoubt
    | payment_messages.PaymentRefundFailed,
) -> UUID | None:
    """The id of the refund, if upstream or a person asked for it. None: the saga did, because the invoice could not take the money."""
    facts = message.refund
    return None if facts is None or facts.refund_id == message.payment_id else facts.refund_id


def _refund_asked(message: invoice_messages.InvoiceRefundRequested) -> Fact:
    return refunds.RefundAsked(message.refund_id, message.amount_minor, message.currency, message.reason)


def _refund_recorded(message: invoice_messages.InvoiceRefunded | invoice_messages.InvoiceRefundFailed) -> Fact:
    return refunds.RefundRecorded(message.refund_id, message.version)


ROUTES: Mapping[type[Contract], Callable[[Any], Fact]] = {
    invoice_messages.InvoicePaymentOverdue: _requested,
    invoice_messages.InvoicePaymentRequested: _requested,  # from an invoice service of the build before, when it was overdue
    invoice_messages.InvoicePaid: _paid,
    invoice_messages.InvoicePaymentFailed: _payment_failed,
    invoice_messages.InvoiceSettlementRejected: _settlement_rejected,
    invoice_messages.InvoiceRefundRequested: _refund_asked,
    invoice_messages.InvoiceRefunded: _refund_recorded,
    invoice_messages.InvoiceRefundFailed: _refund_recorded,
    payment_messages.PaymentCaptured: _captured,
    payment_messages.PaymentDeclined: _declined,
    payment_messages.PaymentNotCharged: _not_charged,
    payment_messages.PaymentInDoubt: _in_doubt,
    payment_messages.PaymentNeedsDecision: _needs_decision,
    payment_messages.PaymentRefunded: _refunded,
    payment_messages.PaymentRefundInDoubt: _refund_in_doubt,
    payment_messages.PaymentRefundFailed: _refund_failed,
}

# -- from commands to messages -----------------------------------------------------------------------------------------


def say(command: domain.Command, saga: Saga) -> Contract:
    """The message that carries a command of `saga`."""
    invoice_id, payment_id = saga.invoice_id, saga.payment_id
    match command:
        case domain.RecordPayment():
            return invoice_messages.RecordPayment(
                invoice_id=invoice_id,
                payment_id=payment_id,
                amount_minor=command.capture.amount_minor,
                currency=command.capture.currency,
                receipt_number=command.capture.receipt_number,
            )
        case domain.RecordPaymentFailure():
            return invoice_messages.RecordPaymentFailure(
                invoice_id=invoice_id,
                payment_id=payment_id,
                outcome=command.failure.outcome,
                reason=command.failure.reason,
                advice=command.failure.advice,
            )
        case domain.FlagPaymentInDoubt():
            return invoice_messages.FlagPaymentInDoubt(invoice_id=invoice_id, payment_id=payment_id)
        case domain.InquirePayment():
            return payment_messages.InquirePayment(invoice_id=invoice_id, payment_id=payment_id)
        case domain.RefundPayment():
            return payment_messages.RefundPayment(invoice_id=invoice_id, payment_id=payment_id, reason=command.reason)
        case refunds.MakeRefund() | refunds.RecordRefund() | refunds.RecordRefundFailure():
            return _say_of_refund(command, saga)
        case _:
            assert_never(command)


def _say_of_refund(command: refunds.RefundCommand, saga: Saga) -> Contract:
    refund = command.refund
    about: dict[str, Any] = {
        "invoice_id": saga.invoice_id,
        "payment_id": saga.payment_id,
        "refund_id": refund.refund_id,
    }
    match command:
        case refunds.MakeRefund():
            return payment_messages.MakeRefund(
                **about, amount_minor=refund.asked_minor, currency=refund.currency, reason=refund.reason
            )
        case refunds.RecordRefund():
            return invoice_messages.RecordRefund(
                **about,
                amount_minor=refund.amount_minor,
                currency=refund.currency,
                version=refund.version,
                decided_by=refund.decided_by,
            )
        case refunds.RecordRefundFailure():
            return invoice_messages.RecordRefundFailure(**about, reason=refund.code, version=refund.version)
        case _:
            assert_never(command)


# -- handling messages -------------------------------------------------------------------------------------------------


def advance(saga: Saga, fact: Fact, schedule: ReminderSchedule) -> Reaction[Saga, SagaTransition]:
    """The reaction of a saga to a fact. A fact that changes nothing has no effects."""
    step = domain.transition(saga, fact, schedule)
    if step.saga is saga:
        return Reaction(saga)
    transition = SagaTransition(step.saga, saga.status, type(fact).__name__, step.deadline_s)
    return Reaction(step.saga, (transition,), tuple(Draft(say(command, step.saga)) for command in step.says))


@dataclass(frozen=True, slots=True)
class SagaHandler:
    """Handles every event about a payment, in any order of arrival."""

    schedule: ReminderSchedule
    source: str = SOURCE
    state_cache: StateCache[UUID, Saga] = field(default_factory=StateCache)

    def key(self, message: Inbound) -> UUID:
        return _about(message).payment_id

    async def load(self, tx: Tx, messages: Sequence[Inbound]) -> dict[UUID, Saga]:
        absent = self._absent(messages)
        return absent | await store.load(tx, absent)

    async def load_unlocked(
        self, connection: Connection, messages: Sequence[Inbound], cached: Mapping[UUID, Saga]
    ) -> dict[UUID, Saga]:
        """Like `load`, but without locks, and without looking for a saga that probably does not exist.

        For a healthy payment, `PaymentCaptured` is the first message that the saga receives. So at a first capture no saga is looked for.
        If there is one after all, its first transition exists already, and the insert of another is a conflict.
        """
        unknown = [m for m in messages if self.key(m) not in cached]
        unread = {self.key(m) for m in unknown if not self._is_guessed_absent(m)}
        read = await store.load(connection, unread, lock=False) if unread else {}
        return {**cached, **self._absent(unknown), **read}

    def is_conflict_checked(self, reaction: Reaction[Saga, SagaTransition]) -> bool:
        """A reaction with a transition is checked: by the key of the transition, and by the saga's key or version."""
        return bool(reaction.effects)

    def _is_guessed_absent(self, message: Inbound) -> bool:
        state_cache = self.state_cache
        return _is_first_capture(message) and not state_cache.is_resting and not state_cache.holds(self.key(message))

    def _absent(self, messages: Sequence[Inbound]) -> dict[UUID, Saga]:
        return {self.key(m): Saga(self.key(m), _about(m).invoice_id) for m in messages}

    def react(self, state: Saga, message: Inbound) -> Reaction[Saga, SagaTransition]:
        return advance(state, ROUTES[type(message.data)](message.data), self.schedule)

    async def save(
        self, writes: WriteBatch, changes: Sequence[Change[UUID, Saga, SagaTransition]]
    ) -> Sequence[Outgoing]:
        transitions = [(change.cause, transition) for change in changes for transition in change.reaction.effects]
        await store.save(writes, transitions)
        return ()


def _is_first_capture(message: Inbound) -> bool:
    """Whether this is probably the first message about its payment. A late capture, or one that a person decided, is not."""
    captured = message.data
    return isinstance(captured, payment_messages.PaymentCaptured) and not captured.late and captured.decided_by is None


def _about(message: Inbound) -> AboutPayment:
    if not isinstance(message.data, AboutPayment):
        raise TypeError(f"{message.type} is not about a payment")
    return message.data
