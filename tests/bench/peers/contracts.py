"""The messages of the peers: CloudEvents with Remit's type names, so that one load generator serves all systems.

They have only the fields that a successful payment needs.
"""

from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel, SerializeAsAny

CONTENT_TYPE = "application/cloudevents+json"


class Data(BaseModel):
    exchange: ClassVar[str]
    wire_name: ClassVar[str]


class PeerMethod(BaseModel):
    kind: str
    token: str


class PayInvoice(Data):
    exchange, wire_name = "invoice.commands", "remit.invoice.PayInvoice.v1"
    invoice_id: str
    payment_id: UUID
    amount_minor: int
    currency: str
    method: PeerMethod


class InvoicePaymentRequested(PayInvoice):
    exchange, wire_name = "invoice.events", "remit.invoice.InvoicePaymentRequested.v1"


class PaymentCaptured(Data):
    exchange, wire_name = "payment.events", "remit.payment_gateway.PaymentCaptured.v1"
    payment_id: UUID
    invoice_id: str
    receipt_number: str


class RecordPayment(PaymentCaptured):
    exchange, wire_name = "settlement.commands", "remit.invoice.RecordPayment.v1"


class InvoicePaid(PaymentCaptured):
    exchange, wire_name = "invoice.events", "remit.invoice.InvoicePaid.v1"
    amount_minor: int
    currency: str


D = TypeVar("D", bound=Data)


class CloudEvent(BaseModel, Generic[D]):
    id: UUID
    type: str
    data: SerializeAsAny[D]
    source: str = "/peer"
    specversion: str = "1.0"
    correlationid: str | None = None


def envelope(data: D, *, caused_by: CloudEvent[Any] | None = None) -> CloudEvent[D]:
    """An event with a new id, and the causing event's correlation."""
    correlation = None if caused_by is None else caused_by.correlationid or str(caused_by.id)
    return CloudEvent(id=uuid4(), type=data.wire_name, data=data, correlationid=correlation)
