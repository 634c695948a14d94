"""RecordPayment: captured money pays the invoice that waits for this payment. Any other money is rejected, so that it goes back."""

from services.invoice.domain import Paid, RecordPayment, SettlementRejected, SettlementRejectionReason
from shared.contracts import invoice as messages
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.invoice.invoices import (
    IN_DOUBT,
    MONEY,
    NEVER_ISSUED,
    NOTHING,
    OPEN,
    OPEN_AGAIN,
    OTHER,
    PAID,
    PAID_BY_THIS,
    PENDING,
    THIS,
    VOID,
    EventSpecification,
    InvoiceScenario,
    Specification,
    decided,
)

RECORD = RecordPayment(THIS, 500, "EUR", "ch_1")
RECORD_OTHER = RecordPayment(OTHER, 500, "EUR", "ch_2")
NOT_AWAITED = SettlementRejected(THIS, SettlementRejectionReason.NOT_AWAITED)
OTHER_NOT_AWAITED = SettlementRejected(OTHER, SettlementRejectionReason.NOT_AWAITED)
AMOUNT_DIFFERS = SettlementRejected(THIS, SettlementRejectionReason.AMOUNT_DIFFERS)

EVENTS = (
    EventSpecification(
        PAID,
        stored_as="Paid.1",
        stored={
            "payment_id": "00000000-0000-0000-0000-000000000001",
            "amount_minor": 500,
            "currency": "EUR",
            "receipt_number": "ch_1",
        },
        announced=messages.InvoicePaid(invoice_id="INV-1", payment_id=THIS, receipt_number="ch_1", **MONEY),
    ),
    EventSpecification(
        AMOUNT_DIFFERS,
        stored_as="SettlementRejected.1",
        stored={"payment_id": "00000000-0000-0000-0000-000000000001", "reason": "amount_differs"},
        announced=messages.InvoiceSettlementRejected(invoice_id="INV-1", payment_id=THIS, reason="amount_differs"),
    ),
)

SCENARIOS: Specification = {
    "the pending payment pays the invoice": Scenario(PENDING, RECORD, (PAID,)),
    "the payment in doubt pays the invoice": Scenario(IN_DOUBT, RECORD, (PAID,)),
    "the receipt of the gateway is kept": Scenario(
        PENDING, replace(RECORD, receipt_number="ch_9"), (Paid(THIS, 500, "EUR", "ch_9"),)
    ),
    "repeated: nothing is new": Scenario(PAID_BY_THIS, RECORD, NOTHING),
    "repeated with another amount: nothing is new, the invoice is paid": Scenario(
        PAID_BY_THIS, replace(RECORD, amount_minor=499), NOTHING
    ),
    "rejected by an invoice that was never issued": Scenario(NEVER_ISSUED, RECORD, (NOT_AWAITED,)),
    "rejected by an invoice without a requested payment": Scenario(OPEN, RECORD, (NOT_AWAITED,)),
    "rejected after this payment failed": Scenario(OPEN_AGAIN, RECORD, (NOT_AWAITED,)),
    "rejected after the invoice was voided": Scenario(VOID, RECORD, (NOT_AWAITED,)),
    "rejected while another payment is pending": Scenario(PENDING, RECORD_OTHER, (OTHER_NOT_AWAITED,)),
    "rejected while another payment is in doubt": Scenario(IN_DOUBT, RECORD_OTHER, (OTHER_NOT_AWAITED,)),
    "rejected after another payment paid": Scenario(PAID_BY_THIS, RECORD_OTHER, (OTHER_NOT_AWAITED,)),
    "rejected for another amount while pending": Scenario(
        PENDING, replace(RECORD, amount_minor=499), (AMOUNT_DIFFERS,)
    ),
    "rejected for another amount while in doubt": Scenario(
        IN_DOUBT, replace(RECORD, amount_minor=501), (AMOUNT_DIFFERS,)
    ),
    "rejected in another currency": Scenario(PENDING, replace(RECORD, currency="USD"), (AMOUNT_DIFFERS,)),
}


@each(SCENARIOS)
def test_record_payment(scenario: InvoiceScenario) -> None:
    assert decided(scenario) == scenario.then
