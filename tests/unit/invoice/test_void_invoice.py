"""VoidInvoice: an open invoice is voided; never one that was paid, or that a payment under way may still pay."""

from services.invoice.domain import RejectionReason, Void
from shared.contracts import invoice as messages
from tests.support.scenarios import Scenario, each
from tests.unit.invoice.invoices import (
    IN_DOUBT,
    NEVER_ISSUED,
    OPEN,
    OPEN_AGAIN,
    PAID_BY_THIS,
    PENDING,
    VOID,
    VOIDED,
    EventSpecification,
    InvoiceScenario,
    Specification,
    decided,
)

VOID_IT = Void("mistake")

EVENTS = (
    EventSpecification(
        VOIDED,
        stored_as="Voided.1",
        stored={"reason": "mistake"},
        announced=messages.InvoiceVoided(invoice_id="INV-1", reason="mistake"),
    ),
)

SCENARIOS: Specification = {
    "accepted while the invoice is open": Scenario(OPEN, VOID_IT, (VOIDED,)),
    "accepted after a payment failed": Scenario(OPEN_AGAIN, VOID_IT, (VOIDED,)),
    "rejected for an invoice that was never issued": Scenario(NEVER_ISSUED, VOID_IT, RejectionReason.UNKNOWN_INVOICE),
    "rejected while a payment is pending": Scenario(PENDING, VOID_IT, RejectionReason.PAYMENT_UNDER_WAY),
    "rejected while a payment is in doubt": Scenario(IN_DOUBT, VOID_IT, RejectionReason.PAYMENT_UNDER_WAY),
    "rejected after the invoice was paid": Scenario(PAID_BY_THIS, VOID_IT, RejectionReason.ALREADY_PAID),
    "repeated: rejected, as it was voided before": Scenario(VOID, VOID_IT, RejectionReason.INVOICE_VOID),
}


@each(SCENARIOS)
def test_void_invoice(scenario: InvoiceScenario) -> None:
    assert decided(scenario) == scenario.then
