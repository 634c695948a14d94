"""The messages of this service: `ROUTES` turns each incoming message into a command, `announce` turns each event into a message."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never
from uuid import UUID

from services.invoice import domain, refunds, store
from services.invoice.answers import ACCEPTED, CommandResult
from services.invoice.command_inbox import SOURCE, close_answers
from services.invoice.senders import Senders
from services.invoice.stopwatch import PaymentStopwatch
from services.invoice.store import Loaded, NewEvent
from shared.batch.handler import Change, Reaction
from shared.batch.state_cache import StateCache
from shared.card_data.fingerprint import fingerprint
from shared.contracts import invoice as messages
from shared.contracts.base import Contract
from shared.messaging.envelope import Cause, Draft, Inbound, Outgoing
from shared.persistence.database import Connection, Tx
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, field, replace

# -- from messages to commands -----------------------------------------------------------------------------------------------------------


def _issue(message: messages.IssueInvoice, _: Loaded) -> domain.Command:
    return domain.Issue(message.customer_id, message.amount_minor, message.currency)


def _pay(message: messages.PayInvoice, loaded: Loaded) -> domain.Command:
    used = message.payment_id in loaded.used_payment_ids
    return domain.Pay(message.payment_id, message.amount_minor, message.currency, _method(message.method), used)


def _void(message: messages.VoidInvoice, _: Loaded) -> domain.Command:
    return domain.Void(message.reason)


def _record(message: messages.RecordPayment, _: Loaded) -> domain.Command:
    return domain.RecordPayment(message.payment_id, message.amount_minor, message.currency, message.receipt_number)


def _record_failure(message: messages.RecordPaymentFailure, _: Loaded) -> domain.Command:
    return domain.RecordPaymentFailure(message.payment_id, message.outcome, message.reason, message.advice)


def _flag_in_doubt(message: messages.FlagPaymentInDoubt, _: Loaded) -> domain.Command:
    return domain.FlagPaymentInDoubt(message.payment_id)


def _refund(message: messages.RefundInvoice, _: Loaded) -> domain.Command:
    return refunds.Refund(message.refund_id, message.amount_minor, message.currency, message.reason)


def _request_refund(message: messages.RequestRefund, _: Loaded) -> domain.Command:
    return refunds.Refund(
        message.refund_id,
        message.amount_minor,
        message.currency,
        message.reason,
        message.payment_id,
        message.requested_by,
    )


def _record_refund(message: messages.RecordRefund, _: Loaded) -> domain.Command:
    return refunds.RecordRefund(
        message.payment_id,
        message.refund_id,
        message.amount_minor,
        message.currency,
        message.version,
        message.decided_by,
    )


def _record_refund_failure(message: messages.RecordRefundFailure, _: Loaded) -> domain.Command:
    return refunds.RecordRefundFailure(message.payment_id, message.refund_id, message.reason, message.version)


ROUTES: Mapping[type[Contract], Callable[[Any, Loaded], domain.Command]] = {
    messages.IssueInvoice: _issue,
    messages.PayInvoice: _pay,
    messages.VoidInvoice: _void,
    messages.RecordPayment: _record,
    messages.RecordPaymentFailure: _record_failure,
    messages.FlagPaymentInDoubt: _flag_in_doubt,
    messages.RefundInvoice: _refund,
    messages.RequestRefund: _request_refund,
    messages.RecordRefund: _record_refund,
    messages.RecordRefundFailure: _record_refund_failure,
}


def _method(method: messages.PaymentMethod) -> domain.MethodSummary:
    match method:
        case messages.TokenMethod():
            return domain.MethodSummary("token", method.token)
        case messages.EncryptedCardMethod():
            return domain.MethodSummary("encrypted_card", fingerprint(method.jwe))
        case _:
            assert_never(method)


# -- from events to messages -----------------------------------------------------------------------------------------------------------


def announce(event: domain.Event, invoice_id: str, method: messages.PaymentMethod | None) -> Contract:
    """The message that announces an event. `method` is the payment method of a request, which is not part of the stored event."""
    match event:
        case domain.Issued():
            return messages.InvoiceIssued(
                invoice_id=invoice_id,
                customer_id=event.customer_id,
                amount_minor=event.amount_minor,
                currency=event.currency,
            )
        case domain.PaymentRequested():
            return messages.InvoicePaymentRequested(
                invoice_id=invoice_id,
                payment_id=event.payment_id,
                amount_minor=event.amount_minor,
                currency=event.currency,
                method=method or messages.TokenMethod(token=event.method.fingerprint),
            )
        case domain.Paid():
            return messages.InvoicePaid(
                invoice_id=invoice_id,
                payment_id=event.payment_id,
                amount_minor=event.amount_minor,
                currency=event.currency,
                receipt_number=event.receipt_number,
            )
        case domain.PaymentFailed():
            return messages.InvoicePaymentFailed(
                invoice_id=invoice_id,
                payment_id=event.payment_id,
                outcome=event.outcome,
                reason=event.reason,
                advice=event.advice,
                reference_code=domain.reference_code(event.payment_id),
            )
        case domain.PaymentFlaggedInDoubt():
            return messages.InvoicePaymentInDoubt(invoice_id=invoice_id, payment_id=event.payment_id)
        case domain.Voided():
            return messages.InvoiceVoided(invoice_id=invoice_id, reason=event.reason)
        case domain.SettlementRejected():
            return messages.InvoiceSettlementRejected(
                invoice_id=invoice_id, payment_id=event.payment_id, reason=event.reason
            )
        case refunds.RefundRequested() | refunds.Refunded() | refunds.RefundFailed() | refunds.RefundRejected():
            return _announce_refund(event, invoice_id)
        case _:
            assert_never(event)


def _announce_refund(event: refunds.RefundEvent, invoice_id: str) -> Contract:
    about: dict[str, Any] = {
        "invoice_id": invoice_id,
        "payment_id": event.payment_id,
        "refund_id": event.refund_id,
    }
    match event:
        case refunds.RefundRequested():
            return messages.InvoiceRefundRequested(
                **about,
                amount_minor=event.amount_minor,
                currency=event.currency,
                reason=event.reason,
                requested_by=event.requested_by,
            )
        case refunds.Refunded():
            return messages.InvoiceRefunded(
                **about,
                amount_minor=event.amount_minor,
                currency=event.currency,
                refunded_minor=event.refunded_minor,
                version=event.version,
            )
        case refunds.RefundFailed():
            return messages.InvoiceRefundFailed(
                **about,
                amount_minor=event.amount_minor,
                currency=event.currency,
                refunded_minor=event.refunded_minor,
                reason=event.reason,
                version=event.version,
            )
        case refunds.RefundRejected():
            return messages.InvoiceRefundRejected(**about, reason=event.reason, requested_by=event.requested_by)
        case _:
            assert_never(event)


# -- the handler -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RepublishOutcome:
    """Publish the outcome of a payment again, or of a refund, with the same id and bytes.

    A command has come whose work is done already. Its sender may have missed the outcome.
    """

    payment_id: UUID
    refund_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class CloseAnswer:
    """Give the sender of a discarded command its final answer, unless it has one."""

    closed: messages.CloseCommand


Effect = NewEvent | RepublishOutcome | CommandResult | CloseAnswer


@dataclass(frozen=True, slots=True)
class InvoiceHandler:
    """Handles the commands of both queues: those of upstream, and those of the saga and of staff."""

    senders: Senders = field(default_factory=Senders)
    source: str = SOURCE
    state_cache: StateCache[str, Loaded] = field(default_factory=StateCache)
    stopwatch: PaymentStopwatch = field(default_factory=PaymentStopwatch)

    def key(self, message: Inbound) -> str:
        return message.data.subject()

    async def load(self, tx: Tx, messages_: Sequence[Inbound]) -> dict[str, Loaded]:
        payment_ids = {m.data.payment_id for m in messages_ if isinstance(m.data, messages.PayInvoice)}
        return await store.load(tx, {self.key(m) for m in messages_}, payment_ids)

    async def load_unlocked(
        self, connection: Connection, messages_: Sequence[Inbound], cached: Mapping[str, Loaded]
    ) -> dict[str, Loaded] | None:
        """Like `load`, but without locks, without payment ids, and without the invoices of `IssueInvoice`.

        Payment ids are not looked up. If one is used already, the write violates their unique key, and the batch is repeated with `load`.
        The invoice of an `IssueInvoice` is guessed to be absent. If it exists already, the first event of its stream is a conflict as well.
        """
        if any(isinstance(m.data, messages.CloseCommand) for m in messages_):
            return None  # whether the command has an answer must be read in the transaction
        known = {self.key(m) for m in messages_ if not isinstance(m.data, messages.IssueInvoice)} - cached.keys()
        absent = {self.key(m) for m in messages_} - known
        read = await store.load(connection, known, (), lock=False, absent=absent)
        used: set[UUID] = next((loaded.used_payment_ids for loaded in read.values()), set())
        return read | {key: Loaded(loaded.invoice, used) for key, loaded in cached.items()}

    def is_conflict_checked(self, reaction: Reaction[Loaded, Effect]) -> bool:
        """A reaction with an event is checked by the version of that event."""
        return any(isinstance(effect, NewEvent) for effect in reaction.effects)

    def react(self, state: Loaded, message: Inbound) -> Reaction[Loaded, Effect]:
        if isinstance(message.data, messages.CloseCommand):
            return Reaction(state, (CloseAnswer(message.data),))
        command = ROUTES[type(message.data)](message.data, state)
        if isinstance(command, domain.Issue):
            command = replace(command, owner=message.sender)
        decided = domain.decide(command, self._as_seen(state.invoice, message))
        if isinstance(decided, domain.RejectionReason):
            return Reaction(state, (CommandResult(decided.value),))
        invoice, effects, says = self._happened(state.invoice, message, decided)
        if not decided:
            effects = _republished(command, invoice)
        after = replace(state, invoice=invoice).with_payment_ids_of(decided)
        return Reaction(after, (*effects, ACCEPTED), says)

    def _as_seen(self, invoice: domain.Invoice, message: Inbound) -> domain.Invoice:
        """The invoice as the sender of the message may see it: one of another sender does not exist. Only that its id is taken shows."""
        is_about_one = isinstance(message.data, messages.UpstreamCommand) and not isinstance(
            message.data, messages.IssueInvoice
        )
        if is_about_one and not self.senders.may_use(message.sender, invoice.owner):
            return domain.Invoice(invoice.invoice_id)
        return invoice

    def _happened(
        self, invoice: domain.Invoice, message: Inbound, events: tuple[domain.Event, ...]
    ) -> tuple[domain.Invoice, tuple[Effect, ...], tuple[Draft, ...]]:
        """The invoice after these events, the effects to store, and the messages to publish."""
        method = message.data.method if isinstance(message.data, messages.PayInvoice) else None
        effects: list[Effect] = []
        says: list[Draft] = []
        for position, event in enumerate(events):
            contract = announce(event, invoice.invoice_id, method)
            invoice = domain.evolve(invoice, event)
            effects.append(NewEvent(event, invoice.version, position, method))
            says.append(Draft(contract))
        return invoice, tuple(effects), tuple(says)

    async def save(self, writes: WriteBatch, changes: Sequence[Change[str, Loaded, Effect]]) -> Sequence[Outgoing]:
        events: list[tuple[str, Cause, NewEvent]] = []
        republished: list[tuple[str, UUID, UUID | None]] = []
        closed: list[tuple[Cause, messages.CloseCommand]] = []
        invoices: dict[str, domain.Invoice] = {}
        for change in changes:
            for effect in change.reaction.effects:
                match effect:
                    case NewEvent():
                        events.append((change.key, change.cause, effect))
                        invoices[change.key] = change.reaction.state.invoice
                    case RepublishOutcome():
                        republished.append((change.key, effect.payment_id, effect.refund_id))
                    case CloseAnswer():
                        closed.append((change.cause, effect.closed))
                    case CommandResult():
                        pass  # the command inbox stores it as an answer
                    case _:
                        assert_never(effect)
        await store.save(writes, new_events=events, invoices=invoices)
        outcomes = await store.outcomes_of(writes, republished, announce) if republished else []
        return [*outcomes, *await close_answers(writes, closed, self.senders)]

    def committed(self, changes: Sequence[Change[str, Loaded, Effect]]) -> None:
        self.stopwatch.happened(
            effect.event for change in changes for effect in change.reaction.effects if isinstance(effect, NewEvent)
        )


def _republished(command: domain.Command, invoice: domain.Invoice) -> tuple[Effect, ...]:
    """What is published again after a command that changed nothing."""
    match command:
        case domain.RecordPayment() | domain.RecordPaymentFailure():
            return (RepublishOutcome(command.payment_id),)
        case refunds.RecordRefund() | refunds.RecordRefundFailure():
            return (RepublishOutcome(command.payment_id, command.refund_id),)
        case refunds.Refund() if invoice.payment_id is not None:
            return (RepublishOutcome(invoice.payment_id, command.refund_id),)
        case _:
            return ()
