"""RefundInvoice: what paid the invoice goes back, whole or in parts, and never more than is left."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.invoice import refunds
from services.invoice.domain import Invoice, RejectionReason, decide, evolve, replay
from services.invoice.refunds import RecordRefund, Refund, Refunded, RefundFailed, RefundRequested
from shared.contracts import invoice as messages
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.invoice.invoices import (
    ISSUED,
    NEVER_ISSUED,
    NOT_PAID,
    NOTHING,
    OF_A_PART,
    OF_THE_REST,
    PAID,
    PAID_BY_THIS,
    PART_ASKED,
    PART_BACK,
    PART_FAILED,
    PART_REFUNDED,
    R1,
    R2,
    REQUESTED,
    THIS,
    EventSpecification,
    InvoiceScenario,
    Specification,
    decided,
)

A_PART = Refund(R1, 200, "EUR", "damaged")
THE_REST = Refund(R2, None, "EUR", "returned")
TOO_MUCH = Refund(R2, 301, "EUR", "returned")
IN_DINARS = (
    replace(ISSUED, currency="KWD"),
    replace(REQUESTED, currency="KWD"),
    replace(PAID, currency="KWD"),
)

EVENTS = (
    EventSpecification(
        OF_A_PART,
        stored_as="RefundRequested.1",
        stored={
            "payment_id": "00000000-0000-0000-0000-000000000001",
            "refund_id": "00000000-0000-0000-0000-00000000000b",
            "amount_minor": 200,
            "currency": "EUR",
            "reason": "damaged",
            "requested_by": None,
        },
        announced=messages.InvoiceRefundRequested(
            invoice_id="INV-1", payment_id=THIS, refund_id=R1, amount_minor=200, currency="EUR", reason="damaged"
        ),
    ),
)

SCENARIOS: Specification = {
    "a part of what was paid": Scenario(PAID_BY_THIS, A_PART, (OF_A_PART,)),
    "all that was paid": Scenario(PAID_BY_THIS, THE_REST, (OF_THE_REST,)),
    "the rest after a part was given back": Scenario(PART_REFUNDED, THE_REST, (OF_THE_REST,)),
    "the rest while a part is under way": Scenario(PART_ASKED, THE_REST, (OF_THE_REST,)),
    "all that is left, as an amount": Scenario(
        PART_ASKED, replace(TOO_MUCH, amount_minor=300), (replace(OF_THE_REST, amount_minor=300),)
    ),
    "what failed is left again": Scenario(
        PART_FAILED, replace(TOO_MUCH, amount_minor=500), (replace(OF_THE_REST, amount_minor=500),)
    ),
    "repeated: nothing happens": Scenario(PART_ASKED, A_PART, NOTHING),
    "repeated after it was made: nothing happens": Scenario(PART_REFUNDED, A_PART, NOTHING),
    "rejected under a used id with another amount": Scenario(
        PART_ASKED, replace(A_PART, amount_minor=201), RejectionReason.REFUND_ID_USED
    ),
    "the same id in another currency": Scenario(
        PART_ASKED, replace(A_PART, currency="USD"), RejectionReason.CURRENCY_DIFFERS
    ),
    "rejected under a used id without an amount": Scenario(
        PART_REFUNDED, replace(A_PART, amount_minor=None), RejectionReason.REFUND_ID_USED
    ),
    "rejected under the id of the payment, which the saga's own refund has": Scenario(
        PAID_BY_THIS, replace(A_PART, refund_id=THIS), RejectionReason.REFUND_ID_USED
    ),
    "rejected above what is left": Scenario(PART_REFUNDED, TOO_MUCH, RejectionReason.REFUND_TOO_LARGE),
    "rejected above what is not under way": Scenario(PART_ASKED, TOO_MUCH, RejectionReason.REFUND_TOO_LARGE),
    "rejected when nothing is left": Scenario((*PAID_BY_THIS, OF_THE_REST), A_PART, RejectionReason.NOTHING_TO_REFUND),
    "rejected when there are too many": Scenario(
        (
            *PAID_BY_THIS,
            *(replace(OF_A_PART, refund_id=UUID(int=100 + n), amount_minor=1) for n in range(refunds.REFUNDS_MAX)),
        ),
        A_PART,
        RejectionReason.TOO_MANY_REFUNDS,
    ),
    "rejected in another currency": Scenario(
        PAID_BY_THIS, replace(A_PART, currency="USD"), RejectionReason.CURRENCY_DIFFERS
    ),
    "an odd amount": Scenario(PAID_BY_THIS, replace(A_PART, amount_minor=201), (replace(OF_A_PART, amount_minor=201),)),
    "the last cent": Scenario(
        (*PAID_BY_THIS, replace(OF_A_PART, amount_minor=499)),
        replace(THE_REST, amount_minor=1),
        (replace(OF_THE_REST, amount_minor=1),),
    ),
    "rejected as no card takes such an amount": Scenario(
        IN_DINARS, replace(A_PART, amount_minor=201, currency="KWD"), RejectionReason.AMOUNT_NOT_CHARGEABLE
    ),
    "rejected for an invoice that was never issued": Scenario(NEVER_ISSUED, A_PART, RejectionReason.UNKNOWN_INVOICE),
    **{
        f"rejected for an invoice that is not paid: {name}": Scenario(history, A_PART, RejectionReason.NOT_PAID)
        for name, history in NOT_PAID.items()
    },
}


@each(SCENARIOS)
def test_refund_invoice(scenario: InvoiceScenario) -> None:
    assert decided(scenario) == scenario.then


def test_refunds_are_kept_in_the_state() -> None:
    (refund,) = replay("INV-1", PART_FAILED).refunds
    assert refund == refunds.InvoiceRefund(R1, 200, "failed", 0, 8)
    assert refunds.given_back_minor(replay("INV-1", (*PART_ASKED, PART_BACK)).refunds) == 200


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(1, 400), st.booleans()), max_size=20))
def test_no_more_is_ever_asked_for_than_was_paid(wanted: list[tuple[int, int | None, bool]]) -> None:
    """Each refund is asked for, and then made or failed, in any order; the versions are those of the payment."""
    invoice: Invoice = replay("INV-1", PAID_BY_THIS)
    for version, (number, amount, is_made) in enumerate(wanted, start=1):
        command = replace(A_PART, refund_id=UUID(int=number + 100), amount_minor=amount)
        events = decide(command, invoice)
        if isinstance(events, RejectionReason) or not events:
            continue
        (requested,) = events
        assert isinstance(requested, RefundRequested)
        left = refunds.left_minor(invoice.refunds, 500)
        assert 0 < (amount or left) <= left
        invoice = evolve(invoice, requested)
        made = RecordRefund(THIS, requested.refund_id, amount or left, "EUR", version)
        failed = refunds.RecordRefundFailure(THIS, requested.refund_id, "declined", version)
        for event in decide(made if is_made else failed, invoice):
            assert isinstance(event, Refunded | RefundFailed)
            assert event.refunded_minor <= 500
            invoice = evolve(invoice, event)
    assert refunds.given_back_minor(invoice.refunds) <= 500


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (2, 0, 1), (0, 2, 1), (1, 2, 0)])
def test_outcomes_of_a_refund_count_in_any_order(order: tuple[int, ...]) -> None:
    """It was made, came back, and was made again."""
    commands = (
        RecordRefund(THIS, R1, 200, "EUR", 6),
        refunds.RecordRefundFailure(THIS, R1, "lost_or_stolen_card", 8),
        RecordRefund(THIS, R1, 200, "EUR", 11),
    )
    invoice = replay("INV-1", PART_ASKED)
    for position in order:
        events = decide(commands[position], invoice)
        assert not isinstance(events, RejectionReason)
        for event in events:
            invoice = evolve(invoice, event)
    assert invoice.refunds == (refunds.InvoiceRefund(R1, 200, "refunded", 200, 11),)
