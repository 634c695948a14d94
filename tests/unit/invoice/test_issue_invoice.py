"""IssueInvoice: an invoice is issued once."""

from services.invoice.domain import CHARGEABLE_STEPS, CURRENCIES_GONE, Issue, Issued, RejectionReason
from shared.contracts import invoice as messages
from shared.contracts.currencies import ISO_4217
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
    "nothing to pay": Scenario(NEVER_ISSUED, Issue("C-1", 0, "EUR"), RejectionReason.NOTHING_TO_PAY),
    "a third decimal of 0": Scenario(NEVER_ISSUED, Issue("C-1", 1_230, "KWD"), (Issued("C-1", 1_230, "KWD"),)),
    **{
        f"a third decimal that no card is charged: {currency}": Scenario(
            NEVER_ISSUED, Issue("C-1", 1_234, currency), RejectionReason.AMOUNT_NOT_CHARGEABLE
        )
        for currency in ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND")
    },
    "a part of an ariary": Scenario(NEVER_ISSUED, Issue("C-1", 150, "MGA"), RejectionReason.AMOUNT_NOT_CHARGEABLE),
    "an odd amount without decimals": Scenario(NEVER_ISSUED, Issue("C-1", 7, "ISK"), (Issued("C-1", 7, "ISK"),)),
    "a currency that is gone": Scenario(
        NEVER_ISSUED, Issue("C-1", 500, "BGN"), RejectionReason.CURRENCY_NOT_CHARGEABLE
    ),
    "what was issued before stays so": Scenario(OPEN, Issue("C-1", 0, "EUR"), RejectionReason.ALREADY_ISSUED),
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


def test_every_currency_with_three_decimals_drops_the_last() -> None:
    three = {currency for currency, decimals in ISO_4217.items() if decimals == 3}
    assert {currency for currency, step in CHARGEABLE_STEPS.items() if step == 10} == three


def test_a_currency_that_is_gone_can_still_be_named() -> None:
    """Otherwise no message about an earlier payment could be read."""
    assert ISO_4217.keys() >= CURRENCIES_GONE
