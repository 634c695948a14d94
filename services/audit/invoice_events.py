"""What the audit knows about an invoice's stored events: their causes, the queues that receive them, and how they change the invoice.

This knowledge is written a second time, so that it does not depend on the service that it checks. An unknown event raises an error: if the
audit skipped it, it would pass what it did not see.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from services.audit.align import StoredRow
from services.audit.bodies import REFUNDS_OF_INVOICE

UPSTREAM_COMMANDS = {
    "Issued": "IssueInvoice",
    "PaymentRequested": "PayInvoice",
    "Voided": "VoidInvoice",
    "RefundRequested": "RefundInvoice",
}
"""Stored events that a sender's command causes. A refund may also be requested by a person: then the event names the person."""
BY_PERSON = "requested_by"
"""The member of an event that names the person who caused it, through the staff service."""
FROM_SAGA = frozenset({"Paid", "PaymentFailed", "PaymentInDoubt", "SettlementRejected", "Refunded", "RefundFailed"})
"""Stored events that a saga's command causes."""
FROM_STAFF = frozenset({"RefundRequested", "RefundRejected"})
"""Stored events that a person's command causes, if they name the person. An event in no table has no known cause."""
WIRE_NAMES = {
    "PaymentRequested": "remit.invoice.InvoicePaymentRequested.v1",
    "Paid": "remit.invoice.InvoicePaid.v1",
    "PaymentFailed": "remit.invoice.InvoicePaymentFailed.v1",
    "SettlementRejected": "remit.invoice.InvoiceSettlementRejected.v1",
    "RefundRequested": "remit.invoice.InvoiceRefundRequested.v1",
    "Refunded": "remit.invoice.InvoiceRefunded.v1",
    "RefundFailed": "remit.invoice.InvoiceRefundFailed.v1",
    "RefundRejected": "remit.invoice.InvoiceRefundRejected.v1",
}
"""Stored events that a queue of ours receives, with the names under which they are published."""


def exchange_of(event: str) -> str:
    """The exchange by which a stored event is published. What pays is not for everybody."""
    return "invoice.requests" if event == "PaymentRequested" else "invoice.events"


@dataclass(frozen=True, slots=True)
class FoldedRefund:
    """A refund as the events tell it; the fields have the names of the members in the stored row."""

    refund_id: str
    asked_minor: int | None
    status: str = "pending"
    refunded_minor: int = 0
    version: int = 0

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "FoldedRefund":
        return cls(**{name: stored[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class FoldedInvoice:
    """An invoice as its events tell it; the fields have the names of the stored row's columns."""

    status: str = "absent"
    version: int = 0
    customer_id: str = ""
    amount_minor: int = 0
    currency: str = ""
    payment_id: str | None = None
    receipt_number: str | None = None
    owner: str | None = None
    refunds: tuple[FoldedRefund, ...] = ()

    @classmethod
    def of(cls, row: StoredRow) -> "FoldedInvoice":
        payment_id = row["payment_id"]
        return cls(
            row["status"],
            row["version"],
            row["customer_id"],
            row["amount_minor"],
            row["currency"],
            None if payment_id is None else str(payment_id),
            row["receipt_number"],
            row["owner"],
            tuple(map(FoldedRefund.of, REFUNDS_OF_INVOICE.read(row["refunds"], None) or ())),
        )


def fold(events: Iterable[tuple[str, dict[str, Any]]], state: FoldedInvoice | None = None) -> FoldedInvoice:
    """The state after every event, given in order as (stored type, data). `state`: the one before; by default there is no invoice yet."""
    state = state or FoldedInvoice()
    for stored_type, data in events:
        state = replace(_after(state, stored_type.partition(".")[0], data), version=state.version + 1)
    return state


def _after(state: FoldedInvoice, event: str, data: dict[str, Any]) -> FoldedInvoice:
    """The state after one event. Raises ValueError for a step that is not allowed: an invoice is issued once and paid once, and never
    has two payments at a time."""
    waits_for_it = state.status in {"payment_pending", "in_doubt"} and state.payment_id == data.get("payment_id")
    match event:
        case "Issued" if state.status == "absent":
            issued = {name: data[name] for name in ("customer_id", "amount_minor", "currency")}
            return replace(state, status="open", owner=data.get("owner"), **issued)
        case "PaymentRequested" if state.status == "open":
            return replace(state, status="payment_pending", payment_id=data["payment_id"])
        case "PaymentInDoubt" if waits_for_it and state.status == "payment_pending":
            return replace(state, status="in_doubt")
        case "PaymentFailed" if waits_for_it:
            return replace(state, status="open", payment_id=None)
        case "Paid" if waits_for_it:
            return replace(state, status="paid", receipt_number=data["receipt_number"])
        case "Voided" if state.status == "open":
            return replace(state, status="void")
        case "SettlementRejected" | "RefundRejected":
            return state
        case "RefundRequested" | "Refunded" | "RefundFailed" if (
            state.status == "paid" and state.payment_id == data["payment_id"]
        ):
            return replace(state, refunds=_refunds_after(state, event, data))
        case _:
            raise ValueError(f"{event} of an invoice that is {state.status}")


def _refunds_after(state: FoldedInvoice, event: str, data: dict[str, Any]) -> tuple[FoldedRefund, ...]:
    """The refunds after one more event. Raises ValueError if one is asked for twice, was never asked for, or is more than was paid."""
    known = {refund.refund_id: refund for refund in state.refunds}
    refund_id = data["refund_id"]
    match event:
        case "RefundRequested" if refund_id not in known:
            known[refund_id] = FoldedRefund(refund_id, data["amount_minor"])
        case "Refunded" if refund_id in known:
            known[refund_id] = replace(
                known[refund_id], status="refunded", refunded_minor=data["amount_minor"], version=data["version"]
            )
        case "RefundFailed" if refund_id in known:
            known[refund_id] = replace(known[refund_id], status="failed", refunded_minor=0, version=data["version"])
        case _:
            raise ValueError(
                f"{event} of a refund that is {known[refund_id].status if refund_id in known else 'unknown'}"
            )
    total = sum(refund.refunded_minor for refund in known.values())
    if total > state.amount_minor:
        raise ValueError(f"{event}: {total} given back of {state.amount_minor}")
    if event != "RefundRequested" and data["refunded_minor"] != total:
        raise ValueError(f"{event} says that {data['refunded_minor']} were given back, and it is {total}")
    return tuple(known.values())
