"""Laws of every history: whatever commands an invoice gets, in whatever order."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.invoice import stored_events
from services.invoice.domain import (
    Command,
    Event,
    FlagPaymentInDoubt,
    Invoice,
    InvoiceStatus,
    Issue,
    Issued,
    Paid,
    Pay,
    PaymentFailed,
    PaymentRequested,
    RecordPayment,
    RecordPaymentFailure,
    RejectionReason,
    SettlementRejected,
    Void,
    decide,
    evolve,
    replay,
)
from services.invoice.refunds import RefundRejected
from tests.unit.invoice import specification
from tests.unit.invoice.invoices import OTHER, THIS, TOKEN

PAYMENT_IDS = st.sampled_from([THIS, OTHER])
AMOUNTS = st.sampled_from([499, 500])
COMMANDS = st.one_of(
    st.just(Issue("C-1", 500, "EUR")),
    st.builds(Pay, PAYMENT_IDS, AMOUNTS, st.just("EUR"), st.just(TOKEN), st.booleans()),
    st.just(Void("mistake")),
    st.builds(RecordPayment, PAYMENT_IDS, AMOUNTS, st.just("EUR"), st.just("ch")),
    st.builds(RecordPaymentFailure, PAYMENT_IDS, st.just("declined"), st.just("reason")),
    st.builds(FlagPaymentInDoubt, PAYMENT_IDS),
    st.sampled_from(specification.COMMANDS),
)


def live(commands: list[Command]) -> tuple[Invoice, list[Event]]:
    """The invoice and the events after these commands."""
    invoice, happened = Invoice("INV-1"), []
    for command in commands:
        decided = decide(command, invoice)
        for event in () if isinstance(decided, RejectionReason) else decided:
            invoice = evolve(invoice, event)
            happened.append(event)
    return invoice, happened


@given(st.lists(COMMANDS, max_size=30), COMMANDS)
def test_a_repeated_command_decides_nothing_new(commands: list[Command], command: Command) -> None:
    """The second time there is no event, except for a rejected settlement, or a rejected refund of a person, which is published again."""
    invoice, _ = live([*commands, command])
    again = decide(command, invoice)
    if isinstance(again, RejectionReason):
        return
    assert all(isinstance(event, SettlementRejected | RefundRejected) for event in again)


@given(st.lists(COMMANDS, max_size=40))
def test_laws_of_every_history(commands: list[Command]) -> None:
    invoice, happened = live(commands)
    assert sum(isinstance(event, Paid) for event in happened) <= 1
    assert sum(isinstance(event, Issued) for event in happened) <= 1
    assert (invoice.status is InvoiceStatus.PAID) == any(isinstance(event, Paid) for event in happened)
    assert invoice.version == len(happened)
    requests = [event for event in happened if isinstance(event, PaymentRequested)]
    endings = [event for event in happened if isinstance(event, Paid | PaymentFailed)]
    open_payments = len(requests) - len(endings)
    assert open_payments in {0, 1}, "no new charge while one is open"
    assert (open_payments == 1) == (invoice.status in {InvoiceStatus.PAYMENT_PENDING, InvoiceStatus.IN_DOUBT})


@given(st.lists(COMMANDS, max_size=30))
def test_stored_events_give_the_same_invoice(commands: list[Command]) -> None:
    invoice, happened = live(commands)
    stored = [stored_events.dump(event) for event in happened]
    as_json = [(name, {k: str(v) if isinstance(v, UUID) else v for k, v in data.items()}) for name, data in stored]
    assert replay("INV-1", tuple(stored_events.load(name, data) for name, data in as_json)) == invoice
