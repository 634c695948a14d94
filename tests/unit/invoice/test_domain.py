"""The invoice's rules: given what happened, when this is asked, then exactly that happens."""

from uuid import UUID

import pytest
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
    MethodSummary,
    Paid,
    Pay,
    PaymentFailed,
    PaymentFlaggedInDoubt,
    PaymentRequested,
    RecordPayment,
    RecordPaymentFailure,
    RejectionReason,
    SettlementRejected,
    Void,
    Voided,
    decide,
    evolve,
    reference_code,
    replay,
)

P1, P2 = UUID(int=1), UUID(int=2)
TOKEN = MethodSummary("token", "pm_card_visa")

ISSUE = Issue("C-1", 500, "EUR")
ISSUED = Issued("C-1", 500, "EUR")
PAY = Pay(P1, 500, "EUR", TOKEN, payment_id_used=False)
REQUESTED = PaymentRequested(P1, 500, "EUR", TOKEN)
RECORD = RecordPayment(P1, 500, "EUR", "ch_1")
PAID = Paid(P1, 500, "EUR", "ch_1")
FAIL = RecordPaymentFailure(P1, "declined", "insufficient_funds")
FAILED = PaymentFailed(P1, "declined", "insufficient_funds")
IN_DOUBT = PaymentFlaggedInDoubt(P1)
VOID = Void("mistake")
VOIDED = Voided("mistake")
NOT_AWAITED = SettlementRejected(P1, "payment_not_awaited")

HISTORIES: dict[str, tuple[Event, ...]] = {
    "absent": (),
    "open": (ISSUED,),
    "pending": (ISSUED, REQUESTED),
    "in_doubt": (ISSUED, REQUESTED, IN_DOUBT),
    "paid": (ISSUED, REQUESTED, PAID),
    "failed": (ISSUED, REQUESTED, FAILED),
    "void": (ISSUED, VOIDED),
}

Decision = tuple[Event, ...] | RejectionReason


def elsewhere(decision: Decision, **special: Decision) -> dict[str, Decision]:
    """`decision` in every state that is not named."""
    return {state: special.get(state, decision) for state in HISTORIES}


# Every command in every state, written out.
TABLE: dict[Command, dict[str, Decision]] = {
    ISSUE: elsewhere(RejectionReason.ALREADY_ISSUED, absent=(ISSUED,)),
    PAY: {
        "absent": RejectionReason.UNKNOWN_INVOICE,
        "open": (REQUESTED,),
        "pending": RejectionReason.PAYMENT_UNDER_WAY,
        "in_doubt": RejectionReason.PAYMENT_UNDER_WAY,
        "paid": RejectionReason.ALREADY_PAID,
        "failed": (REQUESTED,),
        "void": RejectionReason.INVOICE_VOID,
    },
    VOID: {
        "absent": RejectionReason.UNKNOWN_INVOICE,
        "open": (VOIDED,),
        "pending": RejectionReason.PAYMENT_UNDER_WAY,
        "in_doubt": RejectionReason.PAYMENT_UNDER_WAY,
        "paid": RejectionReason.ALREADY_PAID,
        "failed": (VOIDED,),
        "void": RejectionReason.INVOICE_VOID,
    },
    RECORD: {
        "absent": (NOT_AWAITED,),
        "open": (NOT_AWAITED,),
        "pending": (PAID,),
        "in_doubt": (PAID,),
        "paid": (),
        "failed": (NOT_AWAITED,),
        "void": (NOT_AWAITED,),
    },
    FAIL: elsewhere((), pending=(FAILED,), in_doubt=(FAILED,)),
    FlagPaymentInDoubt(P1): elsewhere((), pending=(IN_DOUBT,)),
}


@pytest.mark.parametrize("state", HISTORIES)
@pytest.mark.parametrize("command", TABLE, ids=lambda c: type(c).__name__)
def test_every_command_in_every_state(command: Command, state: str) -> None:
    assert decide(command, replay("INV-1", HISTORIES[state])) == TABLE[command][state]


def test_the_table_is_whole() -> None:
    assert all(row.keys() == HISTORIES.keys() for row in TABLE.values())
    assert {type(c) for c in TABLE} == set(Command.__args__)


@pytest.mark.parametrize(
    ("pay", "refusal"),
    [
        (Pay(P1, 499, "EUR", TOKEN, payment_id_used=False), RejectionReason.AMOUNT_DIFFERS),
        (Pay(P1, 500, "USD", TOKEN, payment_id_used=False), RejectionReason.CURRENCY_DIFFERS),
        (Pay(P1, 500, "EUR", TOKEN, payment_id_used=True), RejectionReason.PAYMENT_ID_USED),
    ],
)
def test_a_payment_must_fit_its_invoice(pay: Pay, refusal: RejectionReason) -> None:
    assert decide(pay, replay("INV-1", (ISSUED,))) is refusal


def test_money_of_another_payment_than_the_awaited_one_is_rejected() -> None:
    for history in ("pending", "in_doubt", "paid"):
        other = RecordPayment(P2, 500, "EUR", "ch_2")
        assert decide(other, replay("INV-1", HISTORIES[history])) == (SettlementRejected(P2, "payment_not_awaited"),)


def test_another_amount_than_the_invoices_is_rejected() -> None:
    wrong = RecordPayment(P1, 499, "EUR", "ch_1")
    assert decide(wrong, replay("INV-1", HISTORIES["pending"])) == (SettlementRejected(P1, "amount_differs"),)


PAYMENT_IDS = st.sampled_from([P1, P2])
AMOUNTS = st.sampled_from([499, 500])
COMMANDS = st.one_of(
    st.just(ISSUE),
    st.builds(Pay, PAYMENT_IDS, AMOUNTS, st.just("EUR"), st.just(TOKEN), st.booleans()),
    st.just(VOID),
    st.builds(RecordPayment, PAYMENT_IDS, AMOUNTS, st.just("EUR"), st.just("ch")),
    st.builds(RecordPaymentFailure, PAYMENT_IDS, st.just("declined"), st.just("reason")),
    st.builds(FlagPaymentInDoubt, PAYMENT_IDS),
)


def live(commands: list[Command]) -> tuple[Invoice, list[Event]]:
    """What becomes of an invoice that gets these commands."""
    invoice, happened = Invoice("INV-1"), []
    for command in commands:
        decided = decide(command, invoice)
        for event in () if isinstance(decided, RejectionReason) else decided:
            invoice = evolve(invoice, event)
            happened.append(event)
    return invoice, happened


@given(st.lists(COMMANDS, max_size=30), COMMANDS)
def test_a_repeated_command_decides_nothing_new(commands: list[Command], command: Command) -> None:
    """The second time there is no event; but for settlement that was rejected, which is told again."""
    invoice, _ = live([*commands, command])
    again = decide(command, invoice)
    if isinstance(again, RejectionReason):
        return
    assert all(isinstance(event, SettlementRejected) for event in again)


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
    assert open_payments in {0, 1}, "never a new charge while one is unresolved"
    assert (open_payments == 1) == (invoice.status in {InvoiceStatus.PAYMENT_PENDING, InvoiceStatus.IN_DOUBT})


@given(st.lists(COMMANDS, max_size=30))
def test_stored_events_give_the_same_invoice(commands: list[Command]) -> None:
    invoice, happened = live(commands)
    stored = [stored_events.dump(event) for event in happened]
    as_json = [(name, {k: str(v) if isinstance(v, UUID) else v for k, v in data.items()}) for name, data in stored]
    assert replay("INV-1", tuple(stored_events.load(name, data) for name, data in as_json)) == invoice


def test_a_reference_code_is_short_and_stable() -> None:
    assert reference_code(P1) == reference_code(P1) != reference_code(P2)
    assert len(reference_code(P1)) == len("PF-") + 8
