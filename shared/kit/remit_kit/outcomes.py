"""What Remit tells: the events it publishes, and what became of a payment or a refund."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self
from uuid import UUID

EVENTS = (
    "InvoiceIssued",
    "InvoicePaid",
    "InvoicePaymentFailed",
    "InvoicePaymentInDoubt",
    "InvoicePaymentOverdue",
    "InvoiceRefunded",
    "InvoiceRefundFailed",
    "InvoiceVoided",
)
"""The events that a sender listens to."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of Remit. One can come twice, then with the same id and the same bytes; what happened later can come earlier."""

    id: str
    name: str
    time: str
    data: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Read an event from the bytes of its message. Raises ValueError or KeyError for what is none."""
        try:
            event = json.loads(body)
            return cls(event["id"], event["type"].split(".")[-2], event.get("time", ""), event["data"])
        except (AttributeError, IndexError, TypeError) as error:
            raise ValueError("no event of Remit") from error


@dataclass(frozen=True, slots=True)
class Paid:
    """The card was charged and the invoice is paid."""

    invoice_id: str
    payment_id: UUID
    amount_minor: int
    currency: str
    receipt_number: str


@dataclass(frozen=True, slots=True)
class PaymentFailed:
    """The card was not charged, and the invoice is open again. A customer can quote `reference_code`.

    `outcome` tells `declined` (the bank said no) from `not_charged` (it never happened). `reason` is a code of the gateway or of Remit.
    """

    invoice_id: str
    payment_id: UUID
    outcome: Literal["declined", "not_charged"]
    reason: str
    reference_code: str
    advice: str | None


@dataclass(frozen=True, slots=True)
class Refunded:
    """The money went back. `refunded_minor` is the sum of all refunds of the invoice. The higher `version` is the newer news."""

    invoice_id: str
    refund_id: UUID
    amount_minor: int
    currency: str
    refunded_minor: int
    version: int


@dataclass(frozen=True, slots=True)
class RefundFailed:
    """The money did not go back, or the bank sent it back. Staff look at it; `Refunded` may follow, with a higher `version`."""

    invoice_id: str
    refund_id: UUID
    reason: str
    refunded_minor: int
    version: int


PaymentOutcome = Paid | PaymentFailed
RefundOutcome = Refunded | RefundFailed


def outcome_of(event: Event) -> tuple[UUID, PaymentOutcome | RefundOutcome] | None:
    """The id of the payment or refund that the event ends, and how. None for any other event."""
    data = event.data
    match event.name:
        case "InvoicePaid":
            payment = UUID(data["payment_id"])
            paid = Paid(data["invoice_id"], payment, data["amount_minor"], data["currency"], data["receipt_number"])
            return payment, paid
        case "InvoicePaymentFailed":
            payment = UUID(data["payment_id"])
            failed = PaymentFailed(
                data["invoice_id"],
                payment,
                data["outcome"],
                data["reason"],
                data["reference_code"],
                data.get("advice"),
            )
            return payment, failed
        case "InvoiceRefunded":
            refund = UUID(data["refund_id"])
            refunded = Refunded(
                data["invoice_id"],
                refund,
                data["amount_minor"],
                data["currency"],
                data["refunded_minor"],
                data["version"],
            )
            return refund, refunded
        case "InvoiceRefundFailed":
            refund = UUID(data["refund_id"])
            not_refunded = RefundFailed(
                data["invoice_id"], refund, data["reason"], data["refunded_minor"], data["version"]
            )
            return refund, not_refunded
        case _:
            return None
