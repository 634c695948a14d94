"""The messages of `staff.cases`: `ROUTES` turns each into a fact about a case. Nothing is published here: people act through `actions`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from services.staff import domain, store
from services.staff.domain import Case, CaseStatus, Fact
from services.staff.refunds import CaseRefundStatus, RefundTold
from shared.batch.handler import Change, Reaction
from shared.contracts import invoice as invoice_messages
from shared.contracts import payment_gateway as messages
from shared.contracts.base import AboutPayment, Contract
from shared.messaging.envelope import Inbound, Outgoing
from shared.persistence.database import Tx
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, replace


def _doubted(status: CaseStatus, data: messages.CaseEvent, _: Inbound) -> Fact:
    return domain.Doubted(
        version=data.version,
        status=status,
        amount_minor=data.amount_minor,
        currency=data.currency,
        reason=data.reason,
        gateway_id=data.gateway_id,
        attempts=_attempts(data),
        decided_by=getattr(data, "decided_by", None),
        settled_as=data.settled_as,
        gateway=_side(data),
        refund=_refund(_REFUND_STATUS[status], data) if status in _REFUND_STATUS else None,
    )


def _inquired(data: messages.PaymentInquired, _: Inbound) -> Fact:
    return domain.Inquired(
        version=data.version,
        number=data.number,
        amount_minor=data.amount_minor,
        currency=data.currency,
        gateway_id=data.gateway_id,
        attempts=_attempts(data),
        settled_as=data.settled_as,
        gateway=_side(data),
    )


def _attempts(data: messages.CaseEvent) -> tuple[domain.CaseAttempt, ...]:
    return tuple(domain.CaseAttempt(a.at, a.step, a.answer, a.evidence) for a in data.attempts)


def _side(data: messages.CaseEvent) -> domain.GatewaySide | None:
    side = data.gateway
    if side is None:
        return None
    dispute = domain.Dispute(**side.dispute.model_dump()) if side.dispute else None
    return domain.GatewaySide(
        **side.model_dump(exclude={"dispute", "lost_minor"}), dispute=dispute, lost_minor=side.lost_minor
    )


_REFUND_STATUS = {
    CaseStatus.REFUND_IN_DOUBT: CaseRefundStatus.IN_DOUBT,
    CaseStatus.REFUND_FAILED: CaseRefundStatus.FAILED,
}


def _refund(status: CaseRefundStatus, data: Any) -> RefundTold | None:
    """The refund that an outcome is about. None if a gateway service of the build before sent it."""
    facts: messages.RefundFacts | None = data.refund
    if facts is None:
        return None
    return RefundTold(
        facts.refund_id,
        status,
        data.version,
        facts.amount_minor,
        data.currency,
        code=getattr(data, "reason", None),
    )


def _refunded(data: messages.PaymentRefunded, message: Inbound) -> Fact:
    """A payment of which something is left is captured again. Its amount is that of the refund only if all of it went back at once."""
    is_left = data.refund is not None and data.refund.left_minor > 0
    settled = _settled(CaseStatus.CAPTURED if is_left else CaseStatus.REFUNDED, data, message)
    refund = _refund(CaseRefundStatus.REFUNDED, data)
    is_whole = refund is None or refund.refund_id == data.payment_id
    return replace(settled, refund=refund, amount_minor=settled.amount_minor if is_whole else None)


def _settled(status: CaseStatus, data: Any, _: Inbound) -> domain.Settled:
    return domain.Settled(
        version=data.version,
        status=status,
        reason=getattr(data, "reason", None),
        decided_by=getattr(data, "decided_by", None),
        amount_minor=getattr(data, "amount_minor", None),
        currency=getattr(data, "currency", None),
        gateway_id=getattr(data, "gateway_id", None),
    )


def _decision_refused(data: messages.PaymentResolutionRefused, message: Inbound) -> Fact:
    return domain.DecisionRefused(
        id=message.id,
        version=data.version,
        state=data.state,
        reason=data.reason,
        decided_by=data.decided_by,
        resolution=data.resolution,
        decision_id=message.causation_id,
    )


def _refund_told(status: CaseRefundStatus, data: Any, _: Inbound) -> Fact:
    """What the invoice says of a refund. Its reason is a sentence where one asks, and a code where it failed or was rejected."""
    is_asked = status is CaseRefundStatus.ASKED
    reason = getattr(data, "reason", None)
    return RefundTold(
        data.refund_id,
        status,
        getattr(data, "version", 0),
        getattr(data, "amount_minor", None),
        getattr(data, "currency", None),
        reason=reason if is_asked else None,
        code=None if is_asked else reason,
        requested_by=getattr(data, "requested_by", None),
    )


ROUTES: Mapping[type[Contract], Callable[[Any, Inbound], Fact]] = {
    messages.PaymentInDoubt: partial(_doubted, CaseStatus.IN_DOUBT),
    messages.PaymentNeedsDecision: partial(_doubted, CaseStatus.NEEDS_DECISION),
    messages.PaymentRefundInDoubt: partial(_doubted, CaseStatus.REFUND_IN_DOUBT),
    messages.PaymentRefundFailed: partial(_doubted, CaseStatus.REFUND_FAILED),
    messages.PaymentCaptured: partial(_settled, CaseStatus.CAPTURED),
    messages.PaymentDeclined: partial(_settled, CaseStatus.DECLINED),
    messages.PaymentNotCharged: partial(_settled, CaseStatus.NOT_CHARGED),
    messages.PaymentRefunded: _refunded,
    messages.PaymentInquired: _inquired,
    messages.PaymentResolutionRefused: _decision_refused,
    invoice_messages.InvoiceRefundRequested: partial(_refund_told, CaseRefundStatus.ASKED),
    invoice_messages.InvoiceRefunded: partial(_refund_told, CaseRefundStatus.REFUNDED),
    invoice_messages.InvoiceRefundFailed: partial(_refund_told, CaseRefundStatus.FAILED),
    invoice_messages.InvoiceRefundRejected: partial(_refund_told, CaseRefundStatus.REJECTED),
}


@dataclass(frozen=True, slots=True)
class LoadedCase:
    """A case, and whether its row exists and is locked, or is to be inserted."""

    case: Case
    is_stored: bool


@dataclass(frozen=True, slots=True)
class CaseHandler:
    """Handles events about payments that a person may have to look at, and about refunds that were asked for."""

    source: str = "staff"

    def key(self, message: Inbound) -> UUID:
        return _about(message).payment_id

    async def load(self, tx: Tx, messages_: Sequence[Inbound]) -> dict[UUID, LoadedCase]:
        locked = await store.lock_cases(tx, {self.key(m) for m in messages_})
        fresh = {self.key(m): LoadedCase(Case(self.key(m), _about(m).invoice_id), is_stored=False) for m in messages_}
        return fresh | {id_: LoadedCase(case, is_stored=True) for id_, case in locked.items()}

    def react(self, state: LoadedCase, message: Inbound) -> Reaction[LoadedCase, None]:
        fact = ROUTES[type(message.data)](message.data, message)
        return Reaction(replace(state, case=domain.evolve(state.case, fact)))

    async def save(self, writes: WriteBatch, changes: Sequence[Change[UUID, LoadedCase, None]]) -> Sequence[Outgoing]:
        """Collect one write for each case, with its state after the last message of the batch."""
        if changes:
            last = {change.key: change for change in changes}
            now = changes[-1].cause.time
            await store.save_cases(
                writes,
                [(change.reaction.state.case, change.cause.correlation_id) for change in last.values()],
                now,
                locked={key for key, change in last.items() if change.reaction.state.is_stored},
            )
            versions = {key: change.reaction.state.case.version for key, change in last.items()}
            await store.outdate_proposals(writes, versions, now)
        return ()


def _about(message: Inbound) -> AboutPayment:
    if not isinstance(message.data, AboutPayment):
        raise TypeError(
            f"{message.type} is not about a payment"
        )  # a binding is wrong; this message becomes a dead letter
    return message.data
