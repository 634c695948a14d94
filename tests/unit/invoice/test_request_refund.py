"""RequestRefund: a person asks for a refund. It is like RefundInvoice, but the rejection is an event, for there is nobody to answer."""

from services.invoice.domain import RejectionReason
from services.invoice.refunds import Refund, RefundRejected
from shared.contracts import invoice as messages
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.invoice.invoices import (
    NEVER_ISSUED,
    NOT_PAID,
    NOTHING,
    OF_A_PART,
    OTHER,
    PAID_BY_THIS,
    PART_REFUNDED,
    R1,
    R2,
    THIS,
    EventSpecification,
    InvoiceScenario,
    Specification,
    decided,
)

BY_ANN = Refund(R1, 200, "EUR", "damaged", THIS, "ann")
ASKED = replace(OF_A_PART, requested_by="ann")


def rejected(reason: str, refund: Refund = BY_ANN) -> tuple[RefundRejected, ...]:
    return (RefundRejected(refund.payment_id or THIS, refund.refund_id, reason, "ann"),)


OF_OTHER = replace(BY_ANN, payment_id=OTHER)
TOO_MUCH = replace(BY_ANN, refund_id=R2, amount_minor=301)

EVENTS = (
    EventSpecification(
        rejected("not_paid")[0],
        stored_as="RefundRejected.1",
        stored={
            "payment_id": "00000000-0000-0000-0000-000000000001",
            "refund_id": "00000000-0000-0000-0000-00000000000b",
            "reason": "not_paid",
            "requested_by": "ann",
        },
        announced=messages.InvoiceRefundRejected(
            invoice_id="INV-1", payment_id=THIS, refund_id=R1, reason="not_paid", requested_by="ann"
        ),
    ),
)

SCENARIOS: Specification = {
    "a part of what was paid": Scenario(PAID_BY_THIS, BY_ANN, (ASKED,)),
    "known, whoever asked first: nothing happens": Scenario(PART_REFUNDED, BY_ANN, NOTHING),
    "rejected above what is left": Scenario(PART_REFUNDED, TOO_MUCH, rejected("refund_too_large", TOO_MUCH)),
    "rejected if another payment paid the invoice": Scenario(PAID_BY_THIS, OF_OTHER, rejected("not_paid", OF_OTHER)),
    "rejected for an invoice that was never issued": Scenario(NEVER_ISSUED, BY_ANN, rejected("unknown_invoice")),
    "answered if no person asked": Scenario(
        PAID_BY_THIS, replace(OF_OTHER, requested_by=None), RejectionReason.NOT_PAID
    ),
    "answered if no payment is named": Scenario(
        NEVER_ISSUED, replace(BY_ANN, payment_id=None), RejectionReason.UNKNOWN_INVOICE
    ),
    **{
        f"rejected for an invoice that is not paid: {name}": Scenario(history, BY_ANN, rejected("not_paid"))
        for name, history in NOT_PAID.items()
    },
}


@each(SCENARIOS)
def test_request_refund(scenario: InvoiceScenario) -> None:
    assert decided(scenario) == scenario.then
