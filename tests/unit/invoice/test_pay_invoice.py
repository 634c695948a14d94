"""PayInvoice: a payment of the whole amount is requested, one at a time, each with an id of its own."""

from services.invoice.domain import MethodSummary, Pay, PaymentRequested, RejectionReason
from shared.contracts import invoice as messages
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.invoice.invoices import (
    IN_DOUBT,
    MONEY,
    NEVER_ISSUED,
    OPEN,
    OPEN_AGAIN,
    OTHER,
    PAID_BY_THIS,
    PENDING,
    REQUESTED,
    THIS,
    TOKEN,
    VOID,
    EventSpecification,
    InvoiceScenario,
    Specification,
    decided,
)

PAY = Pay(THIS, 500, "EUR", TOKEN, payment_id_used=False)
PAY_OTHERWISE = replace(PAY, payment_id=OTHER)
REPEATED = replace(PAY, payment_id_used=True)
CARD = MethodSummary("encrypted_card", "fingerprint")

EVENTS = (
    EventSpecification(
        REQUESTED,
        stored_as="PaymentRequested.1",
        stored={
            "payment_id": "00000000-0000-0000-0000-000000000001",
            "amount_minor": 500,
            "currency": "EUR",
            "method": {"kind": "token", "fingerprint": "pm_card_visa"},
        },
        announced=messages.InvoicePaymentRequested(
            invoice_id="INV-1", payment_id=THIS, method=messages.TokenMethod(token="pm_card_visa"), **MONEY
        ),
    ),
)

SCENARIOS: Specification = {
    "accepted while the invoice is open": Scenario(OPEN, PAY, (REQUESTED,)),
    "accepted with an encrypted card, whose fingerprint is kept": Scenario(
        OPEN, replace(PAY, method=CARD), (PaymentRequested(THIS, 500, "EUR", CARD),)
    ),
    "accepted under another id after a payment failed": Scenario(
        OPEN_AGAIN, PAY_OTHERWISE, (PaymentRequested(OTHER, 500, "EUR", TOKEN),)
    ),
    "rejected for an invoice that was never issued": Scenario(NEVER_ISSUED, PAY, RejectionReason.UNKNOWN_INVOICE),
    "rejected while another payment is pending": Scenario(PENDING, PAY_OTHERWISE, RejectionReason.PAYMENT_UNDER_WAY),
    "rejected while another payment is in doubt": Scenario(IN_DOUBT, PAY_OTHERWISE, RejectionReason.PAYMENT_UNDER_WAY),
    "rejected after the invoice was paid": Scenario(PAID_BY_THIS, PAY_OTHERWISE, RejectionReason.ALREADY_PAID),
    "rejected after the invoice was voided": Scenario(VOID, PAY, RejectionReason.INVOICE_VOID),
    "rejected for less than the amount": Scenario(OPEN, replace(PAY, amount_minor=499), RejectionReason.AMOUNT_DIFFERS),
    "rejected for more than the amount": Scenario(OPEN, replace(PAY, amount_minor=501), RejectionReason.AMOUNT_DIFFERS),
    "rejected in another currency": Scenario(OPEN, replace(PAY, currency="USD"), RejectionReason.CURRENCY_DIFFERS),
    "rejected in another currency, whatever the amount": Scenario(
        OPEN, replace(PAY, currency="JPY", amount_minor=80_000), RejectionReason.CURRENCY_DIFFERS
    ),
    "rejected under an id that paid, or tried to pay, another invoice": Scenario(
        OPEN, REPEATED, RejectionReason.PAYMENT_ID_USED
    ),
    "rejected under a used id before its amount is looked at": Scenario(
        OPEN, replace(REPEATED, amount_minor=1, currency="USD"), RejectionReason.PAYMENT_ID_USED
    ),
    "repeated while its payment is pending: rejected": Scenario(PENDING, REPEATED, RejectionReason.PAYMENT_UNDER_WAY),
    "repeated while its payment is in doubt: rejected": Scenario(IN_DOUBT, REPEATED, RejectionReason.PAYMENT_UNDER_WAY),
    "repeated after its payment was recorded: rejected": Scenario(PAID_BY_THIS, REPEATED, RejectionReason.ALREADY_PAID),
    "repeated after its payment failed: rejected, since a new try needs a new id": Scenario(
        OPEN_AGAIN, REPEATED, RejectionReason.PAYMENT_ID_USED
    ),
}


@each(SCENARIOS)
def test_pay_invoice(scenario: InvoiceScenario) -> None:
    assert decided(scenario) == scenario.then
