"""What the audit knows about an invoice's stored events: their causes, the queues that receive them, and how they change the invoice.

This knowledge is written a second time, so that it does not depend on the service that it checks. An unknown event raises an error: if the
audit skipped it, it would pass what it did not see.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from services.audit.align import StoredRow

UPSTREAM_COMMANDS = {"Issued": "IssueInvoice", "PaymentRequested": "PayInvoice", "Voided": "VoidInvoice"}
"""Stored events that a sender's command causes."""
FROM_SAGA = frozenset({"Paid", "PaymentFailed", "PaymentInDoubt", "SettlementRejected"})
"""Stored events that a saga's command causes. An event in neither table has no known cause."""
WIRE_NAMES = {
    "PaymentRequested": "remit.invoice.InvoicePaymentRequested.v1",
    "Paid": "remit.invoice.InvoicePaid.v1",
    "PaymentFailed": "remit.invoice.InvoicePaymentFailed.v1",
    "SettlementRejected": "remit.invoice.InvoiceSettlementRejected.v1",
}
"""Stored events that a queue of ours receives, with the names under which they are published."""


def exchange_of(event: str) -> str:
    """The exchange by which a stored event is published. What pays is not for everybody."""
    return "invoice.requests" if event == "PaymentRequested" else "invoice.events"


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
        case "SettlementRejected":
            return state
        case _:
            raise ValueError(f"{event} of an invoice that is {state.status}")
