"""FlagPaymentInDoubt: it is unknown whether the pending payment was charged. A stale one is accepted and has no event."""

from services.invoice.domain import FlagPaymentInDoubt
from shared.contracts import invoice as messages
from tests.support.scenarios import Scenario, each
from tests.unit.invoice.invoices import (
    FLAGGED,
    IN_DOUBT,
    NEVER_ISSUED,
    NOTHING,
    OPEN,
    OPEN_AGAIN,
    OTHER,
    PAID_BY_THIS,
    PENDING,
    THIS,
    VOID,
    EventSpecification,
    InvoiceScenario,
    Specification,
    decided,
)

FLAG, FLAG_OTHER = FlagPaymentInDoubt(THIS), FlagPaymentInDoubt(OTHER)

EVENTS = (
    EventSpecification(
        FLAGGED,
        stored_as="PaymentInDoubt.1",
        stored={"payment_id": "00000000-0000-0000-0000-000000000001"},
        announced=messages.InvoicePaymentInDoubt(invoice_id="INV-1", payment_id=THIS),
    ),
)

SCENARIOS: Specification = {
    "the pending payment is in doubt": Scenario(PENDING, FLAG, (FLAGGED,)),
    "repeated: nothing is new": Scenario(IN_DOUBT, FLAG, NOTHING),
    "stale after the payment was recorded": Scenario(PAID_BY_THIS, FLAG, NOTHING),
    "stale after the payment failed": Scenario(OPEN_AGAIN, FLAG, NOTHING),
    "stale while another payment is pending": Scenario(PENDING, FLAG_OTHER, NOTHING),
    "stale while another payment is in doubt": Scenario(IN_DOUBT, FLAG_OTHER, NOTHING),
    "stale for an invoice that was never issued": Scenario(NEVER_ISSUED, FLAG, NOTHING),
    "stale where no payment was requested": Scenario(OPEN, FLAG, NOTHING),
    "stale after the invoice was voided": Scenario(VOID, FLAG, NOTHING),
}


@each(SCENARIOS)
def test_flag_payment_in_doubt(scenario: InvoiceScenario) -> None:
    assert decided(scenario) == scenario.then
