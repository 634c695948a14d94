"""RecordRefund: a refund was made. What is older than the newest outcome of the refund changes nothing."""

from services.invoice.refunds import RecordRefund, Refunded, RefundRequested
from shared.contracts import invoice as messages
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.invoice.invoices import (
    NEVER_ISSUED,
    NOT_PAID,
    NOTHING,
    OF_THE_REST,
    OTHER,
    PAID_BY_THIS,
    PART_ASKED,
    PART_BACK,
    PART_FAILED,
    PART_REFUNDED,
    R1,
    R2,
    THIS,
    EventSpecification,
    InvoiceScenario,
    Specification,
    decided,
)

MADE = RecordRefund(THIS, R1, 200, "EUR", version=6)
REST_MADE = RecordRefund(THIS, R2, 300, "EUR", version=9)


def made_there(who: str) -> RefundRequested:
    return RefundRequested(THIS, R1, 200, "EUR", "the money was given back at the gateway", who)


EVENTS = (
    EventSpecification(
        PART_BACK,
        stored_as="Refunded.1",
        stored={
            "payment_id": "00000000-0000-0000-0000-000000000001",
            "refund_id": "00000000-0000-0000-0000-00000000000b",
            "amount_minor": 200,
            "currency": "EUR",
            "refunded_minor": 200,
            "version": 6,
        },
        announced=messages.InvoiceRefunded(
            invoice_id="INV-1",
            payment_id=THIS,
            refund_id=R1,
            amount_minor=200,
            currency="EUR",
            refunded_minor=200,
            version=6,
        ),
    ),
)

SCENARIOS: Specification = {
    "the first refund": Scenario(PART_ASKED, MADE, (PART_BACK,)),
    "another one: the sum grows": Scenario(
        (*PART_REFUNDED, OF_THE_REST), REST_MADE, (Refunded(THIS, R2, 300, "EUR", 500, version=9),)
    ),
    "made again after it had come back": Scenario(
        PART_FAILED, replace(MADE, version=11), (replace(PART_BACK, version=11),)
    ),
    "repeated: nothing happens": Scenario(PART_REFUNDED, MADE, NOTHING),
    "older than its failure: nothing happens": Scenario(PART_FAILED, MADE, NOTHING),
    "of a refund that nobody asked for: people made it at the gateway, and it is told like any other": Scenario(
        PAID_BY_THIS, replace(MADE, decided_by="ann"), (made_there("ann"), PART_BACK)
    ),
    "of one that nobody asked for, and nobody is named": Scenario(PAID_BY_THIS, MADE, (made_there("staff"), PART_BACK)),
    "of one that nobody asked for, beside another: the sum grows": Scenario(
        PART_REFUNDED,
        replace(REST_MADE, decided_by="ann"),
        (
            replace(made_there("ann"), refund_id=R2, amount_minor=300),
            Refunded(THIS, R2, 300, "EUR", 500, version=9),
        ),
    ),
    "of one that nobody asked for, repeated: nothing happens": Scenario(
        (*PAID_BY_THIS, made_there("ann"), PART_BACK), replace(MADE, decided_by="ann"), NOTHING
    ),
    "of another payment than paid: nothing happens": Scenario(PAID_BY_THIS, replace(MADE, payment_id=OTHER), NOTHING),
    "of an invoice that was never issued: nothing happens": Scenario(NEVER_ISSUED, MADE, NOTHING),
    **{f"not paid ({name}): nothing happens": Scenario(history, MADE, NOTHING) for name, history in NOT_PAID.items()},
}


@each(SCENARIOS)
def test_record_refund(scenario: InvoiceScenario) -> None:
    assert decided(scenario) == scenario.then
