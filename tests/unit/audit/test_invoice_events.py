"""The audit's own fold accepts every history that the invoice service can write, and refuses others."""

from functools import reduce
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audit.invoice_events import FoldedInvoice, fold
from services.invoice import domain
from services.invoice.stored_events import dump

ISSUED = ("Issued.1", {"customer_id": "C", "amount_minor": 1, "currency": "EUR"})


def about(event: str, payment: str = "A") -> tuple[str, dict[str, Any]]:
    return f"{event}.1", {"payment_id": payment, "receipt_number": "r"}


REQUESTED, PAID, FAILED, DOUBTED = (
    about("PaymentRequested"),
    about("Paid"),
    about("PaymentFailed"),
    about("PaymentInDoubt"),
)
VOIDED = ("Voided.1", {"reason": "r"})


@pytest.mark.parametrize(
    "events",
    [
        [PAID],
        [ISSUED, ISSUED],
        [ISSUED, PAID],
        [ISSUED, REQUESTED, about("PaymentRequested", "B")],
        [ISSUED, REQUESTED, about("Paid", "B")],
        [ISSUED, REQUESTED, about("PaymentFailed", "B")],
        [ISSUED, REQUESTED, DOUBTED, DOUBTED],
        [ISSUED, REQUESTED, PAID, PAID],
        [ISSUED, REQUESTED, PAID, about("PaymentRequested", "B")],
        [ISSUED, REQUESTED, PAID, FAILED],
        [ISSUED, REQUESTED, FAILED, PAID],
        [ISSUED, REQUESTED, VOIDED],
        [ISSUED, VOIDED, REQUESTED],
        [ISSUED, ("Shrunk.1", {})],
    ],
)
def test_an_impossible_history_is_refused(events: list[tuple[str, dict[str, Any]]]) -> None:
    with pytest.raises(ValueError, match="of an invoice that is"):
        fold(events)


IDS = [UUID(int=1), UUID(int=2)]
COMMANDS = st.one_of(
    st.just(domain.Issue("C", 1_000, "EUR")),
    st.builds(
        domain.Pay,
        st.sampled_from(IDS),
        st.sampled_from([1_000, 2]),
        st.just("EUR"),
        st.just(domain.MethodSummary("token", "t")),
        payment_id_used=st.just(False),
    ),
    st.just(domain.Void("r")),
    st.builds(domain.RecordPayment, st.sampled_from(IDS), st.sampled_from([1_000, 2]), st.just("EUR"), st.just("r")),
    st.builds(domain.RecordPaymentFailure, st.sampled_from(IDS), st.just("declined"), st.just("r")),
    st.builds(domain.FlagPaymentInDoubt, st.sampled_from(IDS)),
)


@settings(max_examples=300)
@given(st.lists(COMMANDS, max_size=12))
def test_whatever_an_invoice_decides_folds_to_the_same_state(commands: list[domain.Command]) -> None:
    invoice, stored = domain.Invoice("INV-1"), list[tuple[str, dict[str, Any]]]()
    for command in commands:
        decided = domain.decide(command, invoice)
        if not isinstance(decided, domain.RejectionReason):
            invoice = reduce(domain.evolve, decided, invoice)
            stored += [_plain(*dump(event)) for event in decided]
    expected = FoldedInvoice(
        invoice.status.value,
        invoice.version,
        invoice.customer_id,
        invoice.amount_minor,
        invoice.currency,
        str(invoice.payment_id) if invoice.payment_id else None,
        invoice.receipt_number,
    )
    assert fold(stored) == expected


def _plain(name: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return name, {key: str(value) if key == "payment_id" else value for key, value in data.items()}
