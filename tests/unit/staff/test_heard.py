"""What staff keep of messages: facts, merged to the same record in every order of arrival; nothing that pays, and no body."""

import random
from datetime import timedelta
from functools import reduce
from typing import get_args
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.staff.heard import (
    FACTS,
    NAMES,
    NUMBERS,
    CommandHeard,
    Heard,
    InvoiceHeard,
    MessageHeard,
    PaymentHeard,
    hear,
    merge_commands,
    merge_invoices,
    merge_payments,
)
from shared.contracts import invoice, payment_gateway
from shared.contracts.invoice import PaymentMethod
from shared.contracts.schemas import examples_of
from shared.ids import derived_id
from shared.messaging.topology import JOURNAL, JOURNALLED, PASSED_ON, QUEUES
from shared.records import replace
from tests.support.heard_messages import (
    ABOUT,
    CUSTOMER,
    INVOICE,
    ISSUE,
    MONEY,
    PAY,
    PAYMENT,
    START,
    healthy_payment,
    life_of_an_invoice,
    message,
)

LIFE = life_of_an_invoice()


def test_every_message_that_comes_has_a_number_of_its_own() -> None:
    """And what came to earlier builds keeps its number: their rows have it."""
    assert set(NUMBERS) == {*JOURNALLED, *PASSED_ON}, (
        "give each message of the journal a number in services/staff/heard.py"
    )
    assert len(set(NUMBERS.values())) == len(NUMBERS) == len(NAMES)


def test_numbers_stay_since_rows_have_them() -> None:
    first = [NAMES[number] for number in (1, 3, 12, 13, 22, 23, 33)]
    assert first == [
        "InvoiceIssued",
        "InvoicePaid",
        "InvoiceCommandRejected",
        "PaymentCaptured",
        "PaymentResolutionRefused",
        "RecordPayment",
        "ResolvePayment",
    ]


def test_nothing_that_pays_comes_by_the_queue() -> None:
    keys = {binding.routing_key for queue in QUEUES if queue.name == JOURNAL for binding in queue.bindings}
    assert not {key for key in keys if "PayInvoice" in key or "InvoicePaymentRequested" in key}
    with_method = [message for message in JOURNALLED if "method" in message.model_fields]
    assert not with_method


def test_only_facts_are_kept() -> None:
    """Addresses, hashes, methods and the texts of gateway calls are in some of these messages, or might be. None of them is kept."""
    for kind in JOURNALLED:
        for example in examples_of(kind):
            kept = hear([message(kind.model_validate(example), 0)]).messages[0]
            assert kept.facts.keys() <= {*FACTS, "refund", "attempts"}
            assert not kept.facts.keys() & {"method", "reply_to", "content_hash", "outline_hash", "sender"}
            for attempt in kept.facts.get("attempts", ()):
                assert attempt.keys() == {"at", "step", "answer"}
    assert "method" not in FACTS
    assert get_args(PaymentMethod)


def test_the_life_of_an_invoice_becomes_one_row_of_each() -> None:
    told = hear(LIFE)
    assert told.invoices == (
        InvoiceHeard(INVOICE, CUSTOMER, 31_000, "EUR", "open", START, START + timedelta(seconds=12_019.049)),
    )
    assert told.payments == (
        PaymentHeard(
            PAYMENT,
            INVOICE,
            31_000,
            "EUR",
            "refunded",
            7,
            "ch_3QJx7tB2mm1",
            "PF-7KQ2MX9D",
            "pi_3QJx7t",
            str(PAY),
            START + timedelta(seconds=98),
            START + timedelta(seconds=127_273.677),
        ),
    )
    assert told.commands == (
        CommandHeard(ISSUE, "remit.invoice.IssueInvoice.v1", INVOICE, "accepted", None, START),
        CommandHeard(
            UUID(int=3),
            "remit.invoice.PayInvoice.v1",
            INVOICE,
            "rejected",
            "payment_under_way",
            START + timedelta(seconds=110),
        ),
    )
    assert len(told.messages) == len(LIFE)


def together(parts: list[Heard]) -> Heard:
    """What the rows are after these batches, one after the other."""

    def merged(name: str, key: str, merge):  # type: ignore[no-untyped-def]
        rows: dict[object, object] = {}
        for part in parts:
            for one in getattr(part, name):
                id_ = getattr(one, key)
                rows[id_] = merge(rows[id_], one) if id_ in rows else one
        return tuple(rows[id_] for id_ in sorted(rows))  # type: ignore[type-var]

    messages: dict[UUID, MessageHeard] = {one.id: one for part in parts for one in part.messages}
    return Heard(
        tuple(messages[id_] for id_ in sorted(messages)),
        merged("invoices", "invoice_id", merge_invoices),
        merged("payments", "payment_id", merge_payments),
        merged("commands", "command_id", merge_commands),
    )


@given(seed=st.integers(0, 2**32), cuts=st.integers(1, 8), again=st.integers(0, 6))
def test_every_order_and_every_batch_gives_the_same_rows(seed: int, cuts: int, again: int) -> None:
    chance = random.Random(seed)
    everything = [*LIFE, *healthy_payment(1)]
    shuffled = [*everything, *chance.sample(everything, again)]
    chance.shuffle(shuffled)
    batches = [hear(shuffled[number::cuts]) for number in range(cuts)]
    assert together(batches) == together([hear(everything)])


def test_a_paid_invoice_stays_paid_whatever_comes_late() -> None:
    paid = hear(healthy_payment(1)).invoices[0]
    late = replace(paid, status="in_doubt", changed_at=paid.changed_at + timedelta(days=1))
    assert merge_invoices(paid, late).status == merge_invoices(late, paid).status == "paid"


def test_a_part_that_is_given_back_leaves_the_payment_captured() -> None:
    part = payment_gateway.RefundFacts(refund_id=UUID(int=9), amount_minor=100, refunded_minor=100, left_minor=30_900)
    refunded = payment_gateway.PaymentRefunded(**ABOUT, amount_minor=100, currency="EUR", version=8, refund=part)
    told = hear([message(refunded, 5)]).payments[0]
    assert (told.status, told.amount_minor) == ("captured", None)
    whole = payment_gateway.PaymentRefunded(**ABOUT, **MONEY, version=8)
    assert hear([message(whole, 5)]).payments[0].status == "refunded"


@pytest.mark.parametrize(("decided_by", "status"), [(None, "refund_failed"), ("ann", "not_refunded")])
def test_a_refund_that_failed_is_over_once_a_person_kept_the_money(decided_by: str | None, status: str) -> None:
    failed = payment_gateway.PaymentRefundFailed(**ABOUT, **MONEY, version=8, reason="expired", decided_by=decided_by)
    told = hear([message(failed, 5)]).payments[0]
    assert told.status == status
    assert (told.settled_at is None) is (decided_by is None)


def test_what_a_deadline_says_again_is_no_command() -> None:
    refund = invoice.InvoiceRefundRequested(**ABOUT, refund_id=UUID(int=8), currency="EUR", reason="asked for")
    asked = hear([message(refund, 1, cause=UUID(int=7))]).commands
    assert [(one.command_id, one.type) for one in asked] == [(UUID(int=7), "remit.invoice.RefundInvoice.v1")]
    again = message(refund, 9, cause=UUID(int=7), position="deadline")
    assert again.id != derived_id(UUID(int=7), 0)
    assert not hear([again]).commands
    by_person = refund.model_copy(update={"requested_by": "ann"})
    assert not hear([message(by_person, 1, cause=UUID(int=7))]).commands


def test_a_command_that_was_accepted_stays_so_if_its_id_is_used_again() -> None:
    accepted = CommandHeard(ISSUE, "remit.invoice.IssueInvoice.v1", INVOICE, "accepted", None, START)
    reused = replace(accepted, answer="rejected", reason="command_id_reused", at=START - timedelta(days=1))
    assert reduce(merge_commands, [reused, accepted]) == reduce(merge_commands, [accepted, reused]) == accepted
