"""IssueInvoice: an invoice is issued once."""

from services.invoice.domain import Issue, RejectionReason
from shared.contracts import invoice as messages
from tests.support.scenarios import Scenario, each
from tests.unit.invoice.invoices import (
    IN_DOUBT,
    ISSUED,
    MONEY,
    NEVER_ISSUED,
    OPEN,
    OPEN_AGAIN,
    PAID_BY_THIS,
    PENDING,
    VOID,
    EventSpecification,
    InvoiceScenario,
    Specification,
    decided,
)

ISSUE = Issue("C-1", 500, "EUR")
OTHERWISE = Issue("C-2", 700, "USD")

EVENTS = (
    EventSpecification(
        ISSUED,
        stored_as="Issued.1",
        stored={"customer_id": "C-1", "amount_minor": 500, "currency": "EUR"},
        announced=messages.InvoiceIssued(invoice_id="INV-1", customer_id="C-1", **MONEY),
    ),
)

SCENARIOS: Specification = {
    "accepted once": Scenario(NEVER_ISSUED, ISSUE, (ISSUED,)),
    "repeated: rejected, as it was issued before": Scenario(OPEN, ISSUE, RejectionReason.ALREADY_ISSUED),
    "rejected whatever else it would say": Scenario(OPEN, OTHERWISE, RejectionReason.ALREADY_ISSUED),
    "rejected while a payment is pending": Scenario(PENDING, ISSUE, RejectionReason.ALREADY_ISSUED),
    "rejected while a payment is in doubt": Scenario(IN_DOUBT, ISSUE, RejectionReason.ALREADY_ISSUED),
    "rejected after it was paid": Scenario(PAID_BY_THIS, ISSUE, RejectionReason.ALREADY_ISSUED),
    "rejected after a payment failed": Scenario(OPEN_AGAIN, ISSUE, RejectionReason.ALREADY_ISSUED),
    "rejected after it was voided": Scenario(VOID, ISSUE, RejectionReason.ALREADY_ISSUED),
}


@each(SCENARIOS)
def test_issue_invoice(scenario: InvoiceScenario) -> None:
    assert decided(scenario) == scenario.then
