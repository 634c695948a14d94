"""What the door tells: the data of the answer, and the events, with the bytes that messages had."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel, Field

from services.invoice.answers import StoredAnswer
from services.invoice.domain import Invoice, InvoiceStatus, Paid, PaymentFailed, PaymentFlaggedInDoubt, PaymentRequested
from services.invoice.door.store import KnownPayment, SetAside
from services.invoice.handlers import announce
from services.invoice.refunds import Refunded, RefundFailed, given_back_minor
from services.invoice.store import announcement, read_event
from shared.contracts.base import Contract
from shared.contracts.invoice import CommandAnswered
from shared.messaging.topology import is_public
from shared.persistence.event_store import StoredEvent

EVENTS_MAX: Final = 100
"""Events in one answer. Most payments have two, most invoices three."""


class CommandState(StrEnum):
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SET_ASIDE = "set_aside"


class PaymentState(StrEnum):
    PENDING = "pending"
    IN_DOUBT = "in_doubt"
    PAID = "paid"
    DECLINED = "declined"
    NOT_CHARGED = "not_charged"


class AnsweredMessage(BaseModel):
    """The data of the message `remit.invoice.CommandAnswered.v1`."""

    command_id: UUID
    answer: str
    reason: str | None
    detail: str | None


class ToldEvent(BaseModel):
    """An event as its message told it: a CloudEvent, with the same id and the same bytes."""

    specversion: str
    id: UUID
    type: str
    source: str
    subject: str
    time: datetime
    datacontenttype: str
    correlationid: str
    causationid: UUID
    data: dict[str, Any]
    traceparent: str | None = None


class ToldCommand(BaseModel):
    """A command. Its answer never changes; one that is set aside has none until staff replayed or discarded it."""

    id: UUID
    type: str | None = Field(description="absent (null) while it is set aside")
    state: CommandState
    under_way: bool = Field(description="whether its answer is still to come")
    invoice_id: str | None
    answer: AnsweredMessage | None
    set_aside_because: str | None = Field(description="a reason code, while it is set aside")
    set_aside_at: datetime | None


class ToldPayment(BaseModel):
    """A payment. Once it is paid, declined or not charged, that stays so; what is given back follows as events."""

    id: UUID
    invoice_id: str
    state: PaymentState
    under_way: bool = Field(description="whether its outcome is still to come")
    refunded_minor: int = Field(description="the sum of the refunds that stand, in the minor unit of the currency")
    events: list[ToldEvent] = Field(description=f"the newest {EVENTS_MAX}, oldest first")
    earlier_events: bool = Field(description="whether there are more, which are older")


class ToldInvoice(BaseModel):
    """An invoice as it is now, and the events that led there."""

    id: str
    state: InvoiceStatus
    under_way: bool = Field(description="whether the outcome of a payment or of a refund is still to come")
    customer_id: str
    amount_minor: int = Field(description="in the minor unit of the currency")
    currency: str
    payment_id: UUID | None = Field(description="of the payment that is under way, or that paid")
    receipt_number: str | None
    refunded_minor: int = Field(description="the sum of the refunds that stand, in the minor unit of the currency")
    events: list[ToldEvent] = Field(description=f"the newest {EVENTS_MAX}, oldest first")
    earlier_events: bool = Field(description="whether there are more, which are older")


# -- what is under way -----------------------------------------------------------------------------------------------------------------


def is_under_way(invoice: Invoice) -> bool:
    """Whether the outcome of a payment or of a refund is still to come."""
    return invoice.status in {InvoiceStatus.PAYMENT_PENDING, InvoiceStatus.IN_DOUBT} or any(
        refund.status == "pending" for refund in invoice.refunds
    )


# -- as bytes --------------------------------------------------------------------------------------------------------------------------


def answered(command_id: UUID, stored: StoredAnswer) -> bytes:
    """A command that has its answer."""
    answer = CommandAnswered(command_id=command_id, answer=stored.answer, reason=stored.reason, detail=stored.detail)
    return _whole(
        ToldCommand,
        id=command_id,
        type=stored.command_type,
        state=CommandState(stored.answer),
        under_way=False,
        invoice_id=stored.invoice_id,
        answer=_data(answer),
        set_aside_because=None,
        set_aside_at=None,
    )


def waiting(command_id: UUID, found: SetAside) -> bytes:
    """A command that was set aside."""
    return _whole(
        ToldCommand,
        id=command_id,
        type=None,
        state=CommandState.SET_ASIDE,
        under_way=True,
        invoice_id=None,
        answer=None,
        set_aside_because=found.reason,
        set_aside_at=found.at,
    )


def payment(known: KnownPayment, stored: Sequence[StoredEvent]) -> tuple[bytes, bool]:
    """A payment, and whether its outcome is still to come. Raises UnreadableRowsError."""
    state, refunded_minor = _fold(stored)
    under_way = state in {PaymentState.PENDING, PaymentState.IN_DOUBT}
    view = _whole(
        ToldPayment,
        id=known.payment_id,
        invoice_id=known.invoice_id,
        state=state,
        under_way=under_way,
        refunded_minor=refunded_minor,
        **_told(stored),
    )
    return view, under_way


def invoice(known: Invoice, stored: Sequence[StoredEvent]) -> bytes:
    """An invoice. Raises UnreadableRowsError."""
    return _whole(
        ToldInvoice,
        id=known.invoice_id,
        state=known.status,
        under_way=is_under_way(known),
        customer_id=known.customer_id,
        amount_minor=known.amount_minor,
        currency=known.currency,
        payment_id=known.payment_id,
        receipt_number=known.receipt_number,
        refunded_minor=given_back_minor(known.refunds),
        **_told(stored),
    )


def _fold(stored: Iterable[StoredEvent]) -> tuple[PaymentState, int]:
    """The state of a payment after these events, and what was given back."""
    state, refunded_minor = PaymentState.PENDING, 0
    for event in map(read_event, stored):
        match event:
            case PaymentFlaggedInDoubt():
                state = PaymentState.IN_DOUBT
            case Paid():
                state = PaymentState.PAID
            case PaymentFailed():
                state = PaymentState(event.outcome)
            case Refunded() | RefundFailed():
                refunded_minor = event.refunded_minor
            case _:
                pass
    return state, refunded_minor


def _told(stored: Sequence[StoredEvent]) -> dict[str, Any]:
    """The events that senders hear of. A request for a payment holds what pays, and no sender hears it."""
    newest = stored[-EVENTS_MAX:]
    bodies = []
    for one in newest:
        event = read_event(one)
        if not isinstance(event, PaymentRequested):
            told = announcement(one, event, None, announce)
            assert is_public(told.exchange), told.type  # noqa: S101 - what is not public is told to nobody
            bodies.append(orjson.Fragment(told.body))
    return {"events": bodies, "earlier_events": len(stored) > len(newest)}


def _data(contract: Contract) -> orjson.Fragment:
    """The data as a message has them."""
    return orjson.Fragment(contract.__pydantic_serializer__.to_json(contract))


def _whole(view: type[BaseModel], **fields: Any) -> bytes:
    """The view as JSON, with the members that its model names, in their order. Ids are of the driver's class, which has to be told."""
    return orjson.dumps({name: fields[name] for name in view.model_fields}, default=str, option=orjson.OPT_UTC_Z)
