"""What the audit knows of an invoice's stored events: what brings each about, who hears of it, what it makes of the invoice.

It is written a second time, small and independent of the service that it checks. Unknown events raise: a checker that skips what it does
not know would pass what it did not see.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from services.audit.align import StoredRow

UPSTREAM_COMMANDS = {"Issued": "IssueInvoice", "PaymentRequested": "PayInvoice", "Voided": "VoidInvoice"}
"""Stored events that a command of a sender brings about."""
FROM_SAGA = frozenset({"Paid", "PaymentFailed", "PaymentInDoubt", "SettlementRejected"})
"""Stored events that a command of a saga brings about. Of one that is in neither table we do not know any cause."""
WIRE_NAMES = {
    "PaymentRequested": "remit.invoice.InvoicePaymentRequested.v1",
    "Paid": "remit.invoice.InvoicePaid.v1",
    "PaymentFailed": "remit.invoice.InvoicePaymentFailed.v1",
    "SettlementRejected": "remit.invoice.InvoiceSettlementRejected.v1",
}
"""Stored events that a queue of ours hears of."""


@dataclass(frozen=True, slots=True)
class FoldedInvoice:
    """An invoice as its events tell it; the columns of the stored row of the same names."""

    status: str = "absent"
    version: int = 0
    customer_id: str = ""
    amount_minor: int = 0
    currency: str = ""
    payment_id: str | None = None
    receipt_number: str | None = None

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
        )


def fold(events: Iterable[tuple[str, dict[str, Any]]], state: FoldedInvoice | None = None) -> FoldedInvoice:
    """The state after (stored type, data) of every event, in order; `state` is the one before, by default that of no invoice yet."""
    state = state or FoldedInvoice()
    for stored_type, data in events:
        state = replace(_after(state, stored_type.partition(".")[0], data), version=state.version + 1)
    return state


def _after(state: FoldedInvoice, event: str, data: dict[str, Any]) -> FoldedInvoice:
    """Raises ValueError for a step that is not allowed: an invoice is issued once, paid once, and never by two payments at a time."""
    waits_for_it = state.status in {"payment_pending", "in_doubt"} and state.payment_id == data.get("payment_id")
    match event:
        case "Issued" if state.status == "absent":
            issued = {name: data[name] for name in ("customer_id", "amount_minor", "currency")}
            return replace(state, status="open", **issued)
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
