"""The messages of this service: `ROUTES` turns each incoming message into a command, `announce` turns each outcome into a message."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Protocol, assert_never
from uuid import UUID

from services.payment_gateway import commands, domain, ledger, refund_store, store
from services.payment_gateway.domain import Outcome, Payment, PaymentStatus, PaymentTransition
from services.payment_gateway.gateways.port import NO_DETAILS, ChargeDetails
from services.payment_gateway.ledger import DecisionRecord, GatewayAttempt, PublishedOutcome
from services.payment_gateway.refunds import PaymentRefund, refunded_minor
from services.payment_gateway.store import (
    Origin,
    PaymentRow,
    PaymentUpdate,
)
from shared.batch.handler import Change, Reaction
from shared.contracts import payment_gateway as messages
from shared.contracts.base import Contract
from shared.contracts.invoice import EncryptedCardMethod, InvoicePaymentRequested, PaymentMethod, TokenMethod
from shared.ids import derived_id
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Draft, Inbound, Outgoing
from shared.messaging.topology import CASE
from shared.persistence.database import Tx
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, field, replace

SOURCE = "payment_gateway"
EVIDENCE_TOLD_MAX = 300
"""Characters of evidence in a message. Fifty attempts of this length, in ASCII with every character escaped, stay below 40 KiB. The body
limit is 64 KiB."""

# -- from messages to commands ---------------------------------------------------------------------------------------------------------


def _request(message: InvoicePaymentRequested) -> commands.Command:
    method = message.method
    return commands.Request(
        message.payment_id,
        message.invoice_id,
        message.amount_minor,
        message.currency,
        method_token=method.token if isinstance(method, TokenMethod) else None,
        card_jwe=method.jwe if isinstance(method, EncryptedCardMethod) else None,
        details=_details(method),
    )


def _details(method: PaymentMethod) -> ChargeDetails:
    customer, mandate = (method.customer, method.mandate) if isinstance(method, TokenMethod) else (None, None)
    texts = method.details
    if texts is None:
        return ChargeDetails(customer, mandate) if customer or mandate else NO_DETAILS
    metadata = tuple(sorted(texts.metadata.items())) if texts.metadata else ()
    return ChargeDetails(customer, mandate, texts.description, texts.statement_descriptor, metadata)


def _inquire(message: messages.InquirePayment) -> commands.Command:
    return commands.Inquire(message.payment_id, message.invoice_id, bool(message.look))


def _refund_whole(message: messages.RefundPayment) -> commands.Command:
    return commands.Refund(message.payment_id, message.invoice_id, message.payment_id, message.reason)


def _refund(message: messages.MakeRefund) -> commands.Command:
    return commands.Refund(
        message.payment_id,
        message.invoice_id,
        message.refund_id,
        message.reason,
        message.amount_minor,
        message.currency,
    )


def _resolve(message: messages.ResolvePayment) -> commands.Command:
    return commands.Resolve(
        message.payment_id,
        message.invoice_id,
        message.resolution,
        message.expected_version,
        message.decided_by,
        message.receipt_number,
    )


ROUTES: Mapping[type[Contract], Callable[[Any], commands.Command]] = {
    InvoicePaymentRequested: _request,
    messages.InquirePayment: _inquire,
    messages.RefundPayment: _refund_whole,
    messages.MakeRefund: _refund,
    messages.ResolvePayment: _resolve,
}


# -- from outcomes to messages ---------------------------------------------------------------------------------------------------------


def announce(outcome: Outcome, payment: Payment, attempts: Sequence[GatewayAttempt] = ()) -> Draft:
    """The message about the outcome that `payment` has now.

    Its id is derived from payment id and version. So an outcome is always the same message, no matter which instance learned of it.
    """
    return Draft(
        _contract(outcome, payment, attempts),
        message_id=derived_id(payment.payment_id, payment.version),
        routing_suffix=CASE if payment.was_case else "",
    )


def _contract(outcome: Outcome, payment: Payment, attempts: Sequence[GatewayAttempt]) -> Contract:
    match outcome:
        case Outcome.CAPTURED | Outcome.CAPTURED_LATE:
            return messages.PaymentCaptured(
                **_amount(payment),
                receipt_number=payment.receipt_number or "",
                gateway_id=payment.gateway_id,
                late=outcome is Outcome.CAPTURED_LATE,
                decided_by=payment.decided_by,
            )
        case Outcome.DECLINED:
            return messages.PaymentDeclined(**_about(payment), reason=payment.reason or "", advice=payment.advice)
        case Outcome.NOT_CHARGED:
            return messages.PaymentNotCharged(
                **_about(payment), reason=payment.reason or "", advice=payment.advice, decided_by=payment.decided_by
            )
        case Outcome.IN_DOUBT:
            return messages.PaymentInDoubt(**_case(payment, attempts))
        case Outcome.NEEDS_DECISION:
            return messages.PaymentNeedsDecision(**_case(payment, attempts))
        case Outcome.REFUNDED:
            refund = _told_refund(payment)
            return messages.PaymentRefunded(
                **_about(payment),
                amount_minor=refund.amount_minor,
                currency=payment.currency,
                refund_id=refund.gateway_id,
                decided_by=refund.decided_by,
                asked_by=refund.asked_by,
                refund=_refund_facts(refund, payment),
            )
        case Outcome.REFUND_IN_DOUBT:
            refund = _told_refund(payment)
            return messages.PaymentRefundInDoubt(**_case(payment, attempts), refund=_refund_facts(refund, payment))
        case Outcome.REFUND_FAILED:
            refund = _told_refund(payment)
            return messages.PaymentRefundFailed(
                **_case(payment, attempts), decided_by=refund.decided_by, refund=_refund_facts(refund, payment)
            )
        case _:
            assert_never(outcome)


def inquired(payment: Payment, attempts: Sequence[GatewayAttempt], *, number: int) -> Draft:
    """The message that tells staff what the gateway answered. `number` is the fence of the attempt: it names and orders the answers."""
    return Draft(
        messages.PaymentInquired(**_case(payment, attempts), state=payment.status, number=number),
        message_id=derived_id(payment.payment_id, f"inquired:{number}"),
        routing_suffix=CASE,
    )


TELLS_ATTEMPTS = frozenset({Outcome.IN_DOUBT, Outcome.NEEDS_DECISION, Outcome.REFUND_IN_DOUBT, Outcome.REFUND_FAILED})
"""Outcomes whose message shows the last attempts to staff."""


def _about(payment: Payment) -> dict[str, Any]:
    return {"invoice_id": payment.invoice_id, "payment_id": payment.payment_id, "version": payment.version}


def _amount(payment: Payment) -> dict[str, Any]:
    return {**_about(payment), "amount_minor": payment.amount_minor, "currency": payment.currency}


def _told_refund(payment: Payment) -> PaymentRefund:
    """The refund that the outcome of the payment's present version is about."""
    return next(refund for refund in payment.refunds if refund.version == payment.version)


def _refund_facts(refund: PaymentRefund, payment: Payment) -> messages.RefundFacts:
    given_back_minor = refunded_minor(payment.refunds)
    return messages.RefundFacts(
        refund_id=refund.refund_id,
        amount_minor=refund.amount_minor or refund.asked_minor,
        refunded_minor=given_back_minor,
        left_minor=_left_minor(payment, given_back_minor),
    )


def _left_minor(payment: Payment, given_back_minor: int) -> int:
    is_whole = payment.status is PaymentStatus.REFUNDED
    return 0 if is_whole else max(domain.captured_minor(payment) - given_back_minor, 0)


def _case(payment: Payment, attempts: Sequence[GatewayAttempt]) -> dict[str, Any]:
    shown = tuple(
        messages.Attempt(at=a.at, step=a.step, answer=a.answer, evidence=_ascii(a.evidence))
        for a in attempts[-messages.ATTEMPTS_SHOWN_MAX :]
    )
    side = payment.gateway_side
    return {
        **_amount(payment),
        "reason": payment.reason or payment.status,
        "gateway_id": payment.gateway_id,
        "attempts": shown,
        "settled_as": payment.settled_as,
        "gateway": _side(side) if side else None,
    }


def _side(side: domain.GatewaySide) -> messages.GatewaySide:
    told, dispute = asdict(side), side.dispute
    told |= {"lost_minor": side.lost_minor or None, "dispute": None}
    if dispute is not None:
        due_at = datetime.fromtimestamp(dispute.due_by, UTC) if dispute.due_by is not None else None
        told["dispute"] = messages.Dispute(
            status=dispute.status,
            reason=dispute.reason,
            amount_minor=dispute.amount_minor,
            currency=dispute.currency,
            evidence_due_at=due_at,
        )
    return messages.GatewaySide(**told)


def _ascii(evidence: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", evidence)[:EVIDENCE_TOLD_MAX]


NEVER_SEEN = "never_seen"
"""The state that a refused decision names if the payment was never seen. The version beside it is the one that the person saw."""


def _refused(refused: domain.ResolutionRefused, told: messages.ResolvePayment, payment: Payment | None) -> Draft:
    return Draft(
        messages.PaymentResolutionRefused(
            invoice_id=told.invoice_id,
            payment_id=told.payment_id,
            version=payment.version if payment else told.expected_version,
            reason=refused.reason,
            state=payment.status if payment else NEVER_SEEN,
            decided_by=refused.decided_by,
            resolution=refused.resolution,
        )
    )


# -- handling messages -----------------------------------------------------------------------------------------------------------------


class Charger(Protocol):
    """What this module needs of `charging.Charging`, which works on the payments."""

    @property
    def lease(self) -> store.Lease: ...

    @property
    def free(self) -> int:
        """How many more payments this instance can work on now."""
        ...

    def accept(self, rows: Sequence[PaymentRow]) -> None:
        """Work on these payments. They are committed, and leased to this instance."""
        ...

    def wake(self) -> None:
        """Look for due rows now, because some became due."""
        ...


@dataclass(frozen=True, slots=True)
class PaymentChange:
    """The effect of a message on a payment, with its row before and after. `before` is None if the payment was never seen."""

    before: PaymentRow | None
    after: PaymentRow
    transition: PaymentTransition


State = PaymentRow | None
Effect = PaymentChange | DecisionRecord


@dataclass(slots=True)
class PaymentHandler:
    """Handles requests and commands about payments.

    New payments that this instance has room for are committed under its own lease, and handed to the charger in memory.
    """

    charger: Charger
    source: str = SOURCE
    _own: list[PaymentRow] = field(default_factory=list)
    _known_decisions: frozenset[UUID] = frozenset()
    """Decisions of this batch that were recorded before. The inbox deletes its rows after a month, but decisions stay for ever."""

    def key(self, message: Inbound) -> UUID:
        return message.data.payment_id  # type: ignore[attr-defined,no-any-return] # every message in ROUTES has a payment id

    async def load(self, tx: Tx, messages_: Sequence[Inbound]) -> dict[UUID, State]:
        keys = {self.key(message) for message in messages_ if type(message.data) in ROUTES}
        rows = await store.load(tx, keys)
        decisions = [message.id for message in messages_ if type(message.data) is messages.ResolvePayment]
        self._known_decisions = await ledger.known_decisions(tx, decisions)
        return {key: rows.get(key) for key in keys}

    def react(self, state: State, message: Inbound) -> Reaction[State, Effect]:
        if message.id in self._known_decisions:
            return Reaction(state, (), ())
        payment = state.payment if state else None
        effect = commands.on_command(payment, ROUTES[type(message.data)](message.data))
        effects: list[Effect] = []
        after = state
        says: tuple[Draft, ...] = ()
        if isinstance(effect, PaymentTransition):
            after = _after(state, effect.payment, message)
            effects.append(PaymentChange(state, after, effect))
        if isinstance(told := message.data, messages.ResolvePayment):
            effects.append(_decision(message, told, effect.refused))
            says = (_refused(effect.refused, told, payment),) if effect.refused else ()
        return Reaction(after, tuple(effects), says)

    async def save(self, writes: WriteBatch, changes: Sequence[Change[UUID, State, Effect]]) -> Sequence[Outgoing]:
        effects = [(change.cause, effect) for change in changes for effect in change.reaction.effects]
        decided = [(cause, effect) for cause, effect in effects if isinstance(effect, PaymentChange)]
        new, updates = _writes([effect for _, effect in decided])
        own = [row for row in new if row.payment.status is PaymentStatus.REQUESTED][: max(self.charger.free, 0)]
        self._own = own
        await store.insert(writes, new, held={row.payment.payment_id for row in own}, lease=self.charger.lease)
        requested = [(c.time, e.after) for c, e in decided if e.before is None]
        await store.note_requested(writes, requested)
        await store.note_decided(writes, new)
        await store.update(writes, updates, self.charger.lease)
        await store.note_sides(writes, [update.row for update in updates])
        await refund_store.save(writes, _refunds_changed([effect for _, effect in decided]))
        await store.hurry(writes, _hurried([effect.transition for _, effect in decided]))
        await ledger.insert_decisions(writes, [effect for _, effect in effects if isinstance(effect, DecisionRecord)])
        outgoing = await ledger.save_outcomes(
            writes, [published_outcome(e.transition, cause) for cause, e in decided if e.transition.outcome]
        )
        again = await ledger.outcomes_of(writes, republished(effect.transition for _, effect in decided))
        return [*outgoing, *again]

    def committed(self, changes: Sequence[Change[UUID, State, Effect]]) -> None:
        own, self._own = self._own, []
        if own:
            self.charger.accept(own)
        own_ids = {row.payment.payment_id for row in own}
        if any(_is_due(e) and c.key not in own_ids for c in changes for e in c.reaction.effects):
            self.charger.wake()


class RequestHandler(PaymentHandler):
    """Handles the queue of requests without reading first, because each is about a payment that was never seen.

    If a payment was seen after all, its row violates the unique key of the payment id. Then the batch is repeated in a transaction.
    """

    state_cache: None = None

    async def load_unlocked(
        self,
        connection: Tx,  # noqa: ARG002 - nothing is read
        messages_: Sequence[Inbound],
        cached: Mapping[UUID, State],  # noqa: ARG002 - nothing is cached
    ) -> dict[UUID, State] | None:
        if all(type(message.data) is InvoicePaymentRequested for message in messages_):
            return {self.key(message): None for message in messages_}
        return None

    def is_conflict_checked(self, reaction: Reaction[State, Effect]) -> bool:  # noqa: ARG002 - true of every reaction
        """The unique key of the new payment checks every reaction."""
        return True


def _is_due(effect: Effect) -> bool:
    return isinstance(effect, PaymentChange) and (effect.transition.hurry or effect.transition.delay_s is not None)


def published_outcome(
    transition: PaymentTransition, cause: Cause, attempts: Sequence[GatewayAttempt] = ()
) -> PublishedOutcome:
    """The outcome of a transition that has one, ready to store and publish."""
    payment, outcome = transition.payment, transition.outcome
    assert outcome is not None  # noqa: S101 - the caller has checked
    message = encode(announce(outcome, payment, attempts), cause, payment.version, source=SOURCE)
    return PublishedOutcome(payment.payment_id, payment.version, message)


def republished(transitions: Iterable[PaymentTransition]) -> list[tuple[UUID, int]]:
    """The versions (payment id, version) whose outcome is published again. Each stands there once."""
    return sorted({(t.payment.payment_id, t.about_version or t.payment.version) for t in transitions if t.republish})


def _after(state: State, payment: Payment, message: Inbound) -> PaymentRow:
    """The row after a message. A change raises the fence, so that results which were decided on the old state cannot be stored."""
    origin = Origin(message.id, message.correlation_id, message.traceparent)
    if state is None:
        return PaymentRow(payment, 1, origin, message.time)
    if payment is state.payment:
        return state
    return replace(state, payment=payment, fence=state.fence + 1, origin=origin)


def _writes(effects: Sequence[PaymentChange]) -> tuple[list[PaymentRow], list[PaymentUpdate]]:
    """The new rows and the updates: one write a row, although a batch may have several messages about a payment."""
    new: dict[UUID, PaymentRow] = {}
    updates: dict[UUID, PaymentUpdate] = {}
    for effect in effects:
        before, after = effect.before, effect.after
        key = after.payment.payment_id
        if before is None:
            new[key] = after
        elif after is not before:
            held_fence = updates[key].held_fence if key in updates else before.fence
            updates[key] = PaymentUpdate(after, held_fence, effect.transition.delay_s)
    return list(new.values()), list(updates.values())


def _refunds_changed(effects: Sequence[PaymentChange]) -> list[tuple[Payment, Payment]]:
    """Each payment that was known, before and after the batch."""
    pairs: dict[UUID, tuple[Payment, Payment]] = {}
    for effect in effects:
        after = effect.after.payment
        before = effect.before.payment if effect.before else after  # a new payment has no refund
        first, _ = pairs.get(after.payment_id, (before, after))
        pairs[after.payment_id] = (first, after)
    return list(pairs.values())


def _hurried(transitions: Sequence[PaymentTransition]) -> list[UUID]:
    """The payments whose next attempt a message made due, unless a later message of the batch left nothing to attempt."""
    last = {transition.payment.payment_id: transition.payment for transition in transitions}
    asked = {transition.payment.payment_id for transition in transitions if transition.hurry}
    return [payment_id for payment_id in asked if domain.next_step(last[payment_id]) is not None]


def _decision(
    message: Inbound, told: messages.ResolvePayment, refused: domain.ResolutionRefused | None
) -> DecisionRecord:
    return DecisionRecord(
        message_id=message.id,
        payment_id=told.payment_id,
        resolution=told.resolution,
        expected_version=told.expected_version,
        receipt_number=told.receipt_number,
        evidence=told.evidence,
        decided_by=told.decided_by,
        reason=told.reason,
        refusal=refused.reason if refused else None,
        journal_head=told.journal_head,
    )
