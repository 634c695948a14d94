"""IssueInvoice: an invoice is issued once."""

from services.invoice.domain import CHARGEABLE_STEPS, CURRENCIES_NOT_CHARGEABLE, Issue, Issued, RejectionReason
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
        for currency in ("BHD", "JOD", "KWD", "OMR", "TND")
    },
    "a part of an ariary": Scenario(NEVER_ISSUED, Issue("C-1", 150, "MGA"), RejectionReason.AMOUNT_NOT_CHARGEABLE),
    "an odd amount without decimals": Scenario(NEVER_ISSUED, Issue("C-1", 7, "ISK"), (Issued("C-1", 7, "ISK"),)),
    **{
        f"a currency that is gone, or that the gateway does not know: {currency}": Scenario(
            NEVER_ISSUED, Issue("C-1", 500, currency), RejectionReason.CURRENCY_NOT_CHARGEABLE
        )
        for currency in ("BGN", "CUP", "IQD", "IRR", "KPW", "SYP")
    },
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
    three = {currency for currency, decimals in ISO_4217.items() if decimals == 3} - CURRENCIES_NOT_CHARGEABLE
    assert {currency for currency, step in CHARGEABLE_STEPS.items() if step == 10} == three


KNOWN_TO_STRIPE = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY COP CRC CVE CZK DJF "
    "DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR ISK JMD JOD JPY KES KGS KHR KMF KRW KWD "
    "KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN "
    "PYG QAR RON RSD RUB RWF SAR SBD SCR SEK SGD SHP SLE SOS SRD SVC SZL THB TJS TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VND VUV WST "
    "XAF XCD XCG XOF XPF YER ZAR ZMW"
)
"""What Stripe listed when it was sent a currency that it did not know (2024), and XCG, which came later."""


def test_a_currency_is_chargeable_if_the_gateway_knows_it_and_can_be_named_in_any_case() -> None:
    """Otherwise no message about an earlier payment could be read."""
    assert ISO_4217.keys() - CURRENCIES_NOT_CHARGEABLE == {*KNOWN_TO_STRIPE.split()}
    assert ISO_4217.keys() >= CURRENCIES_NOT_CHARGEABLE
