"""RecordRefundFailure: a refund was not made, or the bank sent it back days later. Then its amount counts as paid again."""

from services.invoice.refunds import RecordRefundFailure, Refunded, RefundFailed
from shared.contracts import invoice as messages
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.invoice.invoices import (
    NEVER_ISSUED,
    NOT_PAID,
    NOTHING,
    OF_THE_REST,
    PAID_BY_THIS,
    PART_ASKED,
    PART_FAILED,
    PART_LOST,
    PART_REFUNDED,
    R1,
    R2,
    THIS,
    EventSpecification,
    InvoiceScenario,
    Specification,
    decided,
)

FAILED = RecordRefundFailure(THIS, R1, "lost_or_stolen_card", version=8)
REST_FAILED = RecordRefundFailure(THIS, R2, "decided_by_person", version=9)

EVENTS = (
    EventSpecification(
        PART_LOST,
        stored_as="RefundFailed.1",
        stored={
            "payment_id": "00000000-0000-0000-0000-000000000001",
            "refund_id": "00000000-0000-0000-0000-00000000000b",
            "amount_minor": 200,
            "currency": "EUR",
            "refunded_minor": 0,
            "reason": "lost_or_stolen_card",
            "version": 8,
        },
        announced=messages.InvoiceRefundFailed(
            invoice_id="INV-1",
            payment_id=THIS,
            refund_id=R1,
            amount_minor=200,
            currency="EUR",
            refunded_minor=0,
            reason="lost_or_stolen_card",
            version=8,
        ),
    ),
)

SCENARIOS: Specification = {
    "of one that was asked for": Scenario(PART_ASKED, FAILED, (PART_LOST,)),
    "days after it was made: the sum shrinks": Scenario(PART_REFUNDED, FAILED, (PART_LOST,)),
    "of all that was left, after it was made": Scenario(
        (*PAID_BY_THIS, OF_THE_REST, Refunded(THIS, R2, 500, "EUR", 500, version=6)),
        REST_FAILED,
        (RefundFailed(THIS, R2, 500, "EUR", 0, "decided_by_person", version=9),),
    ),
    "of the rest: the others stand": Scenario(
        (*PART_REFUNDED, OF_THE_REST),
        REST_FAILED,
        (RefundFailed(THIS, R2, None, "EUR", 200, "decided_by_person", version=9),),
    ),
    "repeated: nothing happens": Scenario(PART_FAILED, FAILED, NOTHING),
    "older than what is known: nothing happens": Scenario(PART_REFUNDED, replace(FAILED, version=5), NOTHING),
    "of a refund that nobody asked for: nothing happens": Scenario(PAID_BY_THIS, FAILED, NOTHING),
    "of an invoice that was never issued: nothing happens": Scenario(NEVER_ISSUED, FAILED, NOTHING),
    **{f"not paid ({name}): nothing happens": Scenario(history, FAILED, NOTHING) for name, history in NOT_PAID.items()},
}


@each(SCENARIOS)
def test_record_refund_failure(scenario: InvoiceScenario) -> None:
    assert decided(scenario) == scenario.then
