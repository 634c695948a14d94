"""The whole state of an invoice after each history."""

from uuid import UUID

import pytest

from services.invoice.domain import Event, Invoice, InvoiceStatus, SettlementRejected, ended_payment, replay
from services.invoice.refunds import RefundRejected
from shared.records import replace
from tests.unit.invoice.invoices import (
    FAILED,
    FLAGGED,
    IN_DOUBT,
    ISSUED,
    NEVER_ISSUED,
    OF_A_PART,
    OPEN,
    OPEN_AGAIN,
    OTHER,
    PAID,
    PAID_BY_THIS,
    PART_BACK,
    PART_LOST,
    PENDING,
    R1,
    REQUESTED,
    THIS,
    VOID,
    VOIDED,
    History,
)

STATES: dict[str, tuple[History, Invoice]] = {
    "never issued": (NEVER_ISSUED, Invoice("INV-1", InvoiceStatus.ABSENT, 0, "", 0, "", None, None)),
    "open": (OPEN, Invoice("INV-1", InvoiceStatus.OPEN, 1, "C-1", 500, "EUR", None, None)),
    "payment pending": (PENDING, Invoice("INV-1", InvoiceStatus.PAYMENT_PENDING, 2, "C-1", 500, "EUR", THIS, None)),
    "in doubt": (IN_DOUBT, Invoice("INV-1", InvoiceStatus.IN_DOUBT, 3, "C-1", 500, "EUR", THIS, None)),
    "paid": (PAID_BY_THIS, Invoice("INV-1", InvoiceStatus.PAID, 3, "C-1", 500, "EUR", THIS, "ch_1")),
    "open again": (OPEN_AGAIN, Invoice("INV-1", InvoiceStatus.OPEN, 3, "C-1", 500, "EUR", None, None)),
    "void": (VOID, Invoice("INV-1", InvoiceStatus.VOID, 2, "C-1", 500, "EUR", None, None)),
}


@pytest.mark.parametrize(("history", "invoice"), STATES.values(), ids=list(STATES))
def test_events_give_the_whole_state(history: History, invoice: Invoice) -> None:
    assert replay("INV-1", history) == invoice


@pytest.mark.parametrize(
    ("event", "payment_id"),
    [
        (ISSUED, None),
        (REQUESTED, None),
        (FLAGGED, None),
        (PAID, THIS),
        (FAILED, THIS),
        (VOIDED, None),
        (SettlementRejected(THIS, "payment_not_awaited"), None),
        (OF_A_PART, None),
        (PART_BACK, None),
        (PART_LOST, None),
        (RefundRejected(THIS, R1, "not_paid", "ann"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_payment_is_over_when_it_paid_or_failed(event: Event, payment_id: UUID | None) -> None:
    assert ended_payment(event) == payment_id


@pytest.mark.parametrize(("history", "invoice"), STATES.values(), ids=list(STATES))
def test_a_rejected_settlement_changes_nothing_but_the_version(history: History, invoice: Invoice) -> None:
    rejected = replay("INV-1", (*history, SettlementRejected(OTHER, "payment_not_awaited")))
    assert (rejected.status, rejected.payment_id, rejected.receipt_number, rejected.version) == (
        invoice.status,
        invoice.payment_id,
        invoice.receipt_number,
        invoice.version + 1,
    )


def test_an_invoice_belongs_to_who_issued_it() -> None:
    assert replay("INV-1", (replace(ISSUED, owner="shop"), REQUESTED)).owner == "shop"
