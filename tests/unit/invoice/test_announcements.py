"""What the world hears of an invoice: every event has its message."""

from uuid import UUID

import pytest

from services.invoice.domain import Event, SettlementRejected, reference_code
from services.invoice.handlers import announce
from shared.contracts import invoice as messages
from shared.contracts.base import Contract
from tests.unit.invoice.invoices import FAILED, FLAGGED, ISSUED, OTHER, PAID, REQUESTED, THIS, VOIDED

MONEY = {"amount_minor": 500, "currency": "EUR"}
TOKEN = messages.TokenMethod(token="pm_card_visa")
CARD = messages.EncryptedCardMethod(jwe="eyJhbGciOiJSU0EtT0FFUC0yNTYifQ.a2V5.aXY.Y2lwaGVydGV4dA.dGFn")

EXPECTED: dict[Event, Contract] = {
    ISSUED: messages.InvoiceIssued(invoice_id="INV-1", customer_id="C-1", **MONEY),
    REQUESTED: messages.InvoicePaymentRequested(invoice_id="INV-1", payment_id=THIS, method=TOKEN, **MONEY),
    PAID: messages.InvoicePaid(invoice_id="INV-1", payment_id=THIS, receipt_number="ch_1", **MONEY),
    FAILED: messages.InvoicePaymentFailed(
        invoice_id="INV-1",
        payment_id=THIS,
        outcome="declined",
        reason="insufficient_funds",
        reference_code=reference_code(THIS),
    ),
    FLAGGED: messages.InvoicePaymentInDoubt(invoice_id="INV-1", payment_id=THIS),
    VOIDED: messages.InvoiceVoided(invoice_id="INV-1", reason="mistake"),
    SettlementRejected(THIS, "amount_differs"): messages.InvoiceSettlementRejected(
        invoice_id="INV-1", payment_id=THIS, reason="amount_differs"
    ),
}


@pytest.mark.parametrize("event", EXPECTED, ids=lambda event: type(event).__name__)
def test_every_event_has_its_message(event: Event) -> None:
    assert announce(event, "INV-1", None) == EXPECTED[event]


def test_a_request_carries_the_card_that_history_does_not_keep() -> None:
    requested = announce(REQUESTED, "INV-1", CARD)
    assert requested == messages.InvoicePaymentRequested(invoice_id="INV-1", payment_id=THIS, method=CARD, **MONEY)


def test_a_reference_code_is_short_and_stable() -> None:
    assert reference_code(THIS) == reference_code(UUID(int=1)) != reference_code(OTHER)
    assert len(reference_code(THIS)) == len("PF-") + 8
