"""The surface of this service: ROUTES says which message is which fact; `say` gives every command its contract."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never
from uuid import UUID

from services.saga import domain, store
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

# -- in: messages to facts ---------------------------------------------------------------------------------------------


def _requested(_: invoice_messages.InvoicePaymentRequested) -> Fact:
    return domain.PaymentRequested()


def _paid(_: invoice_messages.InvoicePaid) -> Fact:
    return domain.Paid()


def _payment_failed(message: invoice_messages.InvoicePaymentFailed) -> Fact:
    return domain.PaymentFailed(message.outcome, message.reason)


def _settlement_rejected(message: invoice_messages.InvoiceSettlementRejected) -> Fact:
    return domain.SettlementRejected(message.reason)


def _captured(message: payment_messages.PaymentCaptured) -> Fact:
    return domain.Captured(message.version, message.amount_minor, message.currency, message.receipt_number)


def _declined(message: payment_messages.PaymentDeclined) -> Fact:
    return domain.Declined(message.version, message.reason)


def _not_charged(message: payment_messages.PaymentNotCharged) -> Fact:
    return domain.NotCharged(message.version, message.reason)


def _in_doubt(message: payment_messages.PaymentInDoubt) -> Fact:
    return domain.InDoubt(message.version)


def _needs_decision(message: payment_messages.PaymentNeedsDecision) -> Fact:
    return domain.NeedsDecision(message.version)


def _refunded(message: payment_messages.PaymentRefunded) -> Fact:
    return domain.Refunded(message.version)


def _refund_in_doubt(message: payment_messages.PaymentRefundInDoubt) -> Fact:
    return domain.RefundInDoubt(message.version)


def _refund_failed(message: payment_messages.PaymentRefundFailed) -> Fact:
    return domain.RefundFailed(message.version, closed=message.decided_by is not None)


ROUTES: Mapping[type[Contract], Callable[[Any], Fact]] = {
    invoice_messages.InvoicePaymentRequested: _requested,
    invoice_messages.InvoicePaid: _paid,
    invoice_messages.InvoicePaymentFailed: _payment_failed,
    invoice_messages.InvoiceSettlementRejected: _settlement_rejected,
    payment_messages.PaymentCaptured: _captured,
    payment_messages.PaymentDeclined: _declined,
    payment_messages.PaymentNotCharged: _not_charged,
    payment_messages.PaymentInDoubt: _in_doubt,
    payment_messages.PaymentNeedsDecision: _needs_decision,
    payment_messages.PaymentRefunded: _refunded,
    payment_messages.PaymentRefundInDoubt: _refund_in_doubt,
    payment_messages.PaymentRefundFailed: _refund_failed,
}

# -- out: commands to messages -----------------------------------------------------------------------------------------


def say(command: domain.Command, saga: Saga) -> Contract:
    """The command as its receiver reads it."""
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
            )
        case domain.FlagPaymentInDoubt():
            return invoice_messages.FlagPaymentInDoubt(invoice_id=invoice_id, payment_id=payment_id)
        case domain.InquirePayment():
            return payment_messages.InquirePayment(invoice_id=invoice_id, payment_id=payment_id)
        case domain.RefundPayment():
            return payment_messages.RefundPayment(invoice_id=invoice_id, payment_id=payment_id, reason=command.reason)
        case _:
            assert_never(command)


# -- the work ----------------------------------------------------------------------------------------------------------


def advance(saga: Saga, fact: Fact, schedule: ReminderSchedule) -> Reaction[Saga, SagaTransition]:
    """What a fact brings about. A fact that changes nothing leaves no trace."""
    step = domain.transition(saga, fact, schedule)
    if step.saga is saga:
        return Reaction(saga)
    moved = SagaTransition(step.saga, saga.status, type(fact).__name__, step.deadline_s)
    return Reaction(step.saga, (moved,), tuple(Draft(say(command, step.saga)) for command in step.says))


@dataclass(frozen=True, slots=True)
class SagaHandler:
    """Every event that mentions a payment, in whatever order."""

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
        """A payment of which we hear that it was captured is guessed to have no saga, since of a healthy one nothing is heard before: where
        there is one, no first transition is stored."""
        unknown = [m for m in messages if self.key(m) not in cached]
        unread = {self.key(m) for m in unknown if not self._is_guessed_absent(m)}
        read = await store.load(connection, unread, lock=False) if unread else {}
        return {**cached, **self._absent(unknown), **read}

    def is_conflict_checked(self, reaction: Reaction[Saga, SagaTransition]) -> bool:
        """By the key of its transition, and by that of a new saga or the version of another."""
        return bool(reaction.effects)

    def _is_guessed_absent(self, message: Inbound) -> bool:
        state_cache = self.state_cache
        return _is_news(message) and not state_cache.is_resting and not state_cache.holds(self.key(message))

    def _absent(self, messages: Sequence[Inbound]) -> dict[UUID, Saga]:
        return {self.key(m): Saga(self.key(m), _about(m).invoice_id) for m in messages}

    def react(self, state: Saga, message: Inbound) -> Reaction[Saga, SagaTransition]:
        return advance(state, ROUTES[type(message.data)](message.data), self.schedule)

    async def save(
        self, writes: WriteBatch, changes: Sequence[Change[UUID, Saga, SagaTransition]]
    ) -> Sequence[Outgoing]:
        await store.save(writes, [(change.cause, moved) for change in changes for moved in change.reaction.effects])
        return ()


def _is_news(message: Inbound) -> bool:
    """Of what is captured late, and of what a person decided, the saga has heard before."""
    captured = message.data
    return isinstance(captured, payment_messages.PaymentCaptured) and not captured.late and captured.decided_by is None


def _about(message: Inbound) -> AboutPayment:
    if not isinstance(message.data, AboutPayment):
        raise TypeError(f"{message.type} is not about a payment")
    return message.data
