"""The log lines of business facts: one for each event and answer, with ids and codes, and never a text that somebody wrote."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from pydantic import TypeAdapter

from shared.batch.inbox import DeadLettered
from shared.contracts import invoice, payment_gateway
from shared.contracts.base import Code, Contract
from shared.contracts.catalogue import BY_WIRE_NAME
from shared.contracts.operations import Heartbeat, ReplayHandled
from shared.contracts.staff import JournalSealed
from shared.messaging import facts
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Draft, Inbound, Outgoing
from shared.observability.logs import configure_logs
from shared.persistence.outbox import OutboxBatch
from shared.records import replace
from tests.support.hostile import HOSTILE
from tests.unit.staff.test_reading import delivery

PAYMENT: Final = UUID(int=7)
CAUSE: Final = Cause(UUID(int=1), "order-77", datetime(2026, 11, 29, tzinfo=UTC))
CAPTURED: Final = payment_gateway.PaymentCaptured(
    invoice_id="INV-1", payment_id=PAYMENT, version=3, amount_minor=1_250, currency="EUR", receipt_number="ch_1"
)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logs("invoice", format="json", stream=stream)
    yield stream
    configure_logs("tests")


def said(data: Contract, cause: Cause = CAUSE) -> Outgoing:
    return encode(Draft(data), cause, 0, source="test")


def commit(*messages: Outgoing) -> None:
    facts.committed([OutboxBatch(UUID(int=9), messages)])


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_a_fact_is_one_line_with_its_ids(log: io.StringIO) -> None:
    message = said(CAPTURED)
    commit(message)
    (line,) = lines(log)
    moment = datetime.fromisoformat(line.pop("time"))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert line == {
        "level": "info",
        "service": "invoice",
        "logger": "facts",
        "event": "captured",
        "correlation_id": "order-77",
        "invoice_id": "INV-1",
        "payment_id": str(PAYMENT),
        "version": 3,
        "amount_minor": 1_250,
        "currency": "EUR",
        "late": False,
        "message_id": str(message.id),
    }
    assert log.getvalue().startswith('{"time":"'), "so that sorting lines sorts them by time"


def test_facts_of_one_commit_are_a_line_each_and_commands_are_none(log: io.StringIO) -> None:
    asked = invoice.RecordPayment(
        invoice_id="INV-1", payment_id=PAYMENT, amount_minor=1_250, currency="EUR", receipt_number="ch_1"
    )
    commit(said(CAPTURED), said(asked), said(invoice.InvoicePaymentInDoubt(invoice_id="INV-1", payment_id=PAYMENT)))
    assert [line["event"] for line in lines(log)] == ["captured", "flagged_in_doubt"]


def test_an_answer_belongs_to_the_thread_of_its_command(log: io.StringIO) -> None:
    answered = invoice.CommandAnswered(command_id=UUID(int=5), answer="accepted")
    draft = Draft(answered, reply_to="shop.answers", reply_correlation_id="call 12 of the shop")
    commit(encode(draft, CAUSE, 0, source="test"))
    (line,) = lines(log)
    assert (line["event"], line["correlation_id"], line["command_id"]) == ("answered", "order-77", str(UUID(int=5)))


def test_a_dead_letter_names_what_it_is_about_as_far_as_it_could_be_read() -> None:
    unread = DeadLettered(delivery(), "not_json", "it is no JSON")
    read = Inbound(UUID(int=3), CAPTURED, "order-77", CAUSE.time)
    assert unread.about == {}
    assert replace(unread, message=read).about == {"invoice_id": "INV-1", "payment_id": str(PAYMENT)}
    no_payment = invoice.VoidInvoice(invoice_id="INV-2", reason="a duplicate")
    assert replace(unread, message=replace(read, data=no_payment)).about == {"invoice_id": "INV-2"}


def test_what_is_sent_again_is_no_news(log: io.StringIO) -> None:
    commit(replace(said(CAPTURED), data=None))
    assert log.getvalue() == ""


def test_a_text_that_somebody_wrote_is_not_shown(log: io.StringIO) -> None:
    commit(said(invoice.InvoiceVoided(invoice_id="INV-1", reason="Mr Miller called")))
    (line,) = lines(log)
    assert line["event"] == "voided"
    assert "Miller" not in log.getvalue()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_correlation_id_forges_no_line(log: io.StringIO, text: str) -> None:
    commit(replace(said(CAPTURED), thread=text))
    (line,) = lines(log)
    assert line["event"] == "captured"


def test_a_card_number_as_correlation_id_is_redacted(log: io.StringIO) -> None:
    commit(said(CAPTURED, replace(CAUSE, correlation_id="card 4111 1111 1111 1111")))
    assert "4111 1111" not in log.getvalue()


@pytest.mark.parametrize("level", ["INFO", "WARNING"], ids=str.lower)
def test_facts_can_be_turned_off(level: str) -> None:
    stream = io.StringIO()
    configure_logs("invoice", level=level, format="json", with_facts=level != "INFO", stream=stream)
    try:
        commit(said(CAPTURED))
    finally:
        configure_logs("tests")
    assert stream.getvalue() == ""


def test_the_console_shows_a_line_for_people() -> None:
    stream = io.StringIO()
    configure_logs("invoice", format="console", stream=stream)
    try:
        commit(said(CAPTURED), said(CAPTURED))
    finally:
        configure_logs("tests")
    assert len(stream.getvalue().splitlines()) == 2
    assert "captured" in stream.getvalue()


def test_a_bug_in_telling_stops_nothing(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Outgoing) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(facts, "fact_of", broken)
    commit(said(CAPTURED))
    assert [line["event"] for line in lines(log)] == ["facts_untold"]


def test_messages_are_counted_by_type(log: io.StringIO) -> None:
    def counted(type_: str) -> float:
        return REGISTRY.get_sample_value("remit_messages_committed_total", {"type": type_}) or 0.0

    before = counted(CAPTURED.wire_name), counted("other")
    commit(said(CAPTURED), said(CAPTURED), replace(said(CAPTURED), type="a stranger's type"))
    assert (counted(CAPTURED.wire_name), counted("other")) == (before[0] + 2, before[1] + 1)


def test_every_event_and_answer_has_a_word() -> None:
    # How Remit itself is run, nothing that happened to an invoice.
    operations = {Heartbeat, ReplayHandled, JournalSealed}
    told = {contract for contract in BY_WIRE_NAME.values() if contract.kind != "command"} - operations
    assert facts.FACTS.keys() == told
    assert len(set(facts.FACTS.values())) == len(told)


def test_only_reasons_that_are_codes_are_shown() -> None:
    pattern = json.dumps(TypeAdapter(Code).json_schema()["pattern"])
    for contract in facts.FACTS:
        if (reason := contract.model_json_schema()["properties"].get("reason")) is not None:
            assert (pattern in json.dumps(reason)) is (contract not in facts.REASON_IS_TEXT), contract
