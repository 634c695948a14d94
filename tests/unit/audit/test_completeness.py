"""Nothing can be added that the audit does not know: its own tables are compared with the catalogues of the code.

The audit imports nothing of what it checks, so it knows events, outcomes, facts and tables by name. These tests import both sides.
"""

import re
from collections.abc import Iterable
from typing import Any, get_args
from uuid import UUID

import pytest

from deploy.local.snapshot import path_of
from services.audit import baseline, expected_messages, heard, invoice_events, payments, sagas
from services.audit.checks import CHECKS
from services.audit.invoice_events import FoldedInvoice, FoldedRefund, fold
from services.audit.routes import queues_for
from services.invoice import domain as invoice
from services.invoice.handlers import announce
from services.invoice.stored_events import dump
from services.payment_gateway.domain import PaymentStatus
from services.saga import domain as saga
from services.staff import heard as staff_heard
from shared.contracts.catalogue import MESSAGES, PUBLIC_COMMANDS
from tests.unit.audit.facts import facts
from tests.unit.invoice import specification

PAYMENT = UUID(int=1)
EVENTS = tuple(one.event for one in specification.EVENTS)
"""One event of each kind."""


def stored_name(event: invoice.Event) -> str:
    """The stored type, without its version."""
    return dump(event)[0].partition(".")[0]


@pytest.mark.parametrize("event", EVENTS, ids=stored_name)
def test_the_audit_folds_every_stored_event(event: invoice.Event) -> None:
    name, data = dump(event)
    plain = {key: str(value) if isinstance(value, UUID) else value for key, value in data.items()}
    states = [
        FoldedInvoice(status, 1, payment_id=str(PAYMENT), amount_minor=500, refunds=known)
        for status in invoice.InvoiceStatus
        for known in ((), (FoldedRefund(str(data.get("refund_id")), 200),))
    ]
    assert any(_folds(state, name, plain) for state in states), (
        f"services/audit/invoice_events.py: no status takes {name}"
    )


def _folds(state: FoldedInvoice, name: str, data: dict[str, Any]) -> bool:
    try:
        return fold([(name, data)], state).version == state.version + 1
    except ValueError:
        return False


def test_the_audit_knows_the_cause_of_each_stored_event() -> None:
    known, stored = (
        {*invoice_events.UPSTREAM_COMMANDS, *invoice_events.FROM_SAGA, *invoice_events.FROM_STAFF},
        {stored_name(event) for event in EVENTS},
    )
    where = "services/audit/invoice_events.py: UPSTREAM_COMMANDS, FROM_SAGA and FROM_STAFF"
    assert known == stored, f"{where}: {_difference(known, stored)}"


def test_the_audit_knows_the_event_of_each_senders_command() -> None:
    known, sent = set(invoice_events.UPSTREAM_COMMANDS.values()), {_short(name) for name in PUBLIC_COMMANDS}
    where = "services/audit/invoice_events.py: UPSTREAM_COMMANDS"
    assert known == sent, f"{where}: {_difference(known, sent)}"


def test_the_audit_expects_each_stored_event_that_a_queue_receives() -> None:
    told = {}
    for event in EVENTS:
        contract = announce(event, "INV-1", None)
        if queues_for(contract.exchange, contract.wire_name):
            told[stored_name(event)] = contract.wire_name
    assert told == invoice_events.WIRE_NAMES, "services/audit/invoice_events.py: WIRE_NAMES must be the left side"


def test_the_audit_knows_every_outcome() -> None:
    outcomes = {_short(message.wire_name) for message in MESSAGES if message.exchange == "payment.events"}
    known = set(payments.FAILURE_AFTER)
    where = "services/audit/payments.py: FAILURE_AFTER"
    assert known == outcomes, f"{where}: {_difference(known, outcomes)}"


NOBODY_KNOWS = {"requested", "prepared", "cancelling", "in_doubt", "needs_decision"}
"""In these states it is still open whether the card was charged."""


def test_the_audit_knows_every_status_of_a_payment() -> None:
    missing = set(PaymentStatus) - payments.CHARGED - payments.NOT_CHARGED - NOBODY_KNOWS
    assert not missing, (
        f"services/audit/payments.py: CHARGED or NOT_CHARGED must name {_words(missing)} (or NOBODY_KNOWS, in "
        "tests/unit/audit/test_completeness.py)"
    )


def test_every_fact_of_a_saga_is_compared_with_the_messages_that_the_audit_expects() -> None:
    missing = set(get_args(saga.Fact)) - {type(fact) for fact in facts()}
    assert not missing, (
        f"tests/unit/audit/facts.py lacks {_names(missing)}. With it there, the tests of this folder show whether "
        "services/audit/expected_messages.py (first_command) and services/audit/sagas.py (LEGAL) follow."
    )


def test_the_audit_knows_every_status_of_a_saga() -> None:
    known = {status for step in sagas.LEGAL for status in step.split(">")}
    missing = set(saga.SagaStatus) - known
    assert not missing, f"services/audit/sagas.py: LEGAL has no step of {_words(missing)}"
    reminded = {status for status in saga.SagaStatus if expected_messages.first_command(_reminder(status)) is not None}
    silent = {saga.SagaStatus.ABSENT, saga.SagaStatus.COMPLETED}
    missing = set(saga.SagaStatus) - reminded - silent
    assert not missing, f"services/audit/expected_messages.py: no reminder is expected in {_words(missing)}"


def _reminder(status: saga.SagaStatus) -> dict[str, Any]:
    return {
        "from_status": status.value,
        "fact": "DeadlineFired",
        "to_status": status.value,
        "refunds_asked": False,
    }


MOVES_BY_ITSELF = {
    "set_aside": "a replay may set a command aside again, and what has its answer is forgotten",
    "inbox": "a message that is delivered again is recorded again",
    "outbox": "empty once all has been published",
    "deadlines": "a saga that waits always sets its next one",
    "messages": "what a deadline says again is another message",
    "instances": "an instance that starts is another one",
    "replay_runs": "a run that is under way goes on",
    "replay_items": "a run that is under way goes on",
    "queues": "messages come and go",
    "seals": "what was written is sealed now and then, whatever else is done",
    "sessions": "people sign in and out",
    "sign_ins": "as above",
    "requests": "a click is kept for a day",
    "journal_check": "the staff service looks through the journal once an hour",
}
"""Tables that recovery and replay may change, each with the reason."""


@pytest.mark.parametrize("service", sorted(baseline.DIGESTED))
def test_the_audit_compares_every_table(service: str) -> None:
    tables = tables_of(service)
    known = set(baseline.DIGESTED[service])
    missing = tables - known - set(MOVES_BY_ITSELF)
    assert not missing, (
        f"services/audit/baseline.py: DIGESTED[{service!r}] lacks {_words(missing)} (or tell in MOVES_BY_ITSELF, in "
        "tests/unit/audit/test_completeness.py, why recovery may change it)"
    )
    assert known <= tables, f"services/audit/baseline.py: {service} has no table {_words(known - tables)}"


def tables_of(service: str) -> set[str]:
    """The tables of the schema that the service's migrations give."""
    schema = path_of(service).read_text()
    return set(re.findall(r"^TABLE (\w+)$", schema, re.MULTILINE))


def test_the_audit_knows_under_which_numbers_staff_store_messages() -> None:
    stored = {name: number for number, name in staff_heard.NAMES.items()}
    assert {name: stored[name] for name in heard.OUTCOME_NUMBERS} == heard.OUTCOME_NUMBERS
    published = invoice_events.WIRE_NAMES | {
        "Issued": "remit.invoice.InvoiceIssued.v1",
        "PaymentInDoubt": "remit.invoice.InvoicePaymentInDoubt.v1",
        "Voided": "remit.invoice.InvoiceVoided.v1",
    }
    told = {event: stored[_short(wire_name)] for event, wire_name in published.items() if event != "PaymentRequested"}
    assert told == heard.EVENT_NUMBERS


def test_every_check_has_a_name_and_a_title_of_its_own() -> None:
    assert len({check.name for check in CHECKS}) == len({check.title for check in CHECKS}) == len(CHECKS)


def _short(wire_name: str) -> str:
    return wire_name.split(".")[2]


def _names(types: Iterable[type]) -> str:
    return _words(type_.__name__ for type_ in types)


def _difference(known: set[str], needed: set[str]) -> str:
    parts = (("it lacks", needed - known), ("it names what is not there:", known - needed))
    return "; ".join(f"{words} {_words(names)}" for words, names in parts if names)


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, names))) or "nothing"
