"""RecordPaymentFailure: the invoice is open again. A stale one, of a payment that is not awaited, is accepted and has no event."""

from services.invoice.domain import PaymentFailed, RecordPaymentFailure, reference_code
from shared.contracts import invoice as messages
from tests.support.scenarios import Scenario, each
from tests.unit.invoice.invoices import (
    FAILED,
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

FAIL = RecordPaymentFailure(THIS, "declined", "insufficient_funds")
FAIL_OTHER = RecordPaymentFailure(OTHER, "declined", "insufficient_funds")
FAIL_ADVISED = RecordPaymentFailure(THIS, "declined", "insufficient_funds", "try_again_later")
ADVISED = PaymentFailed(THIS, "declined", "insufficient_funds", "try_again_later")
NOT_CHARGED = RecordPaymentFailure(THIS, "not_charged", "never_sent")

EVENTS = (
    EventSpecification(
        FAILED,
        stored_as="PaymentFailed.1",
        stored={
            "payment_id": "00000000-0000-0000-0000-000000000001",
            "outcome": "declined",
            "reason": "insufficient_funds",
        },
        announced=None,
    ),
    EventSpecification(
        ADVISED,
        stored_as="PaymentFailed.2",
        stored={
            "payment_id": "00000000-0000-0000-0000-000000000001",
            "outcome": "declined",
            "reason": "insufficient_funds",
            "advice": "try_again_later",
        },
        announced=messages.InvoicePaymentFailed(
            invoice_id="INV-1",
            payment_id=THIS,
            outcome="declined",
            reason="insufficient_funds",
            advice="try_again_later",
            reference_code=reference_code(THIS),
        ),
    ),
)

SCENARIOS: Specification = {
    "the pending payment failed": Scenario(PENDING, FAIL, (FAILED,)),
    "the payment in doubt failed": Scenario(IN_DOUBT, FAIL, (FAILED,)),
    "not charged is another failure than declined": Scenario(
        PENDING, NOT_CHARGED, (PaymentFailed(THIS, "not_charged", "never_sent"),)
    ),
    "the advice of the gateway goes with it": Scenario(PENDING, FAIL_ADVISED, (ADVISED,)),
    "repeated: nothing is new": Scenario(OPEN_AGAIN, FAIL, NOTHING),
    "stale after the payment was recorded": Scenario(PAID_BY_THIS, FAIL, NOTHING),
    "stale while another payment is pending": Scenario(PENDING, FAIL_OTHER, NOTHING),
    "stale while another payment is in doubt": Scenario(IN_DOUBT, FAIL_OTHER, NOTHING),
    "stale for an invoice that was never issued": Scenario(NEVER_ISSUED, FAIL, NOTHING),
    "stale where no payment was requested": Scenario(OPEN, FAIL, NOTHING),
    "stale after the invoice was voided": Scenario(VOID, FAIL, NOTHING),
}


@each(SCENARIOS)
def test_record_payment_failure(scenario: InvoiceScenario) -> None:
    assert decided(scenario) == scenario.then
