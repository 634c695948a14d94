"""The messages of `staff.cases`: `ROUTES` turns each into a fact about a case. Nothing is published here: people act through `actions`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from services.staff import domain, store
from services.staff.domain import Case, CaseStatus, Fact
from shared.batch.handler import Change, Reaction
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
    return domain.GatewaySide(**side.model_dump()) if side else None


def _settled(status: CaseStatus, data: Any, _: Inbound) -> Fact:
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


ROUTES: Mapping[type[Contract], Callable[[Any, Inbound], Fact]] = {
    messages.PaymentInDoubt: partial(_doubted, CaseStatus.IN_DOUBT),
    messages.PaymentNeedsDecision: partial(_doubted, CaseStatus.NEEDS_DECISION),
    messages.PaymentRefundInDoubt: partial(_doubted, CaseStatus.REFUND_IN_DOUBT),
    messages.PaymentRefundFailed: partial(_doubted, CaseStatus.REFUND_FAILED),
    messages.PaymentCaptured: partial(_settled, CaseStatus.CAPTURED),
    messages.PaymentDeclined: partial(_settled, CaseStatus.DECLINED),
    messages.PaymentNotCharged: partial(_settled, CaseStatus.NOT_CHARGED),
    messages.PaymentRefunded: partial(_settled, CaseStatus.REFUNDED),
    messages.PaymentInquired: _inquired,
    messages.PaymentResolutionRefused: _decision_refused,
}


@dataclass(frozen=True, slots=True)
class LoadedCase:
    """A case, and whether its row exists and is locked, or is to be inserted."""

    case: Case
    is_stored: bool


@dataclass(frozen=True, slots=True)
class CaseHandler:
    """Handles the events of the payment-gateway service about payments that a person may have to look at."""

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
            await store.save_cases(
                writes,
                [(change.reaction.state.case, change.cause.correlation_id) for change in last.values()],
                changes[-1].cause.time,
                locked={key for key, change in last.items() if change.reaction.state.is_stored},
            )
        return ()


def _about(message: Inbound) -> AboutPayment:
    if not isinstance(message.data, AboutPayment):
        raise TypeError(
            f"{message.type} is not about a payment"
        )  # a binding is wrong; this message becomes a dead letter
    return message.data
