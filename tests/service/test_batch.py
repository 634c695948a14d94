"""The batch pipeline on the real broker and database: one bad message, a duplicate or a crash does not affect the other messages."""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.invoice.__main__ import assemble
from services.invoice.command_inbox import CommandInbox
from services.invoice.handlers import Effect, InvoiceHandler
from services.invoice.store import Loaded
from shared import crash_points
from shared.batch.handler import Change, Reaction
from shared.contracts import invoice as messages
from shared.contracts.base import Contract
from shared.messaging.envelope import Inbound, Outgoing
from shared.persistence import outbox
from shared.persistence.writes import WriteBatch
from shared.records import dataclass
from shared.service import Runtime
from tests.support.databases import execute, outbox_is_empty, rows
from tests.support.environment import Environment
from tests.support.upstream_client import Received, Subscription, UpstreamClient
from tests.support.waiting import until

PAN = "4242424242424242"


def issue(invoice_id: str, customer_id: str = "C-1") -> messages.IssueInvoice:
    return messages.IssueInvoice(invoice_id=invoice_id, customer_id=customer_id, amount_minor=500, currency="EUR")


def cloud_event(data: Contract, **changes: Any) -> bytes:
    event = {
        "specversion": "1.0",
        "id": str(uuid4()),
        "type": data.wire_name,
        "source": "/t",
        "data": data.model_dump(mode="json"),
    }
    return json.dumps(event | changes).encode()


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    crash_points.arm("")


async def invoices(environment: Environment) -> set[str]:
    return {
        row["invoice_id"] for row in await rows(environment.databases["invoice"], "SELECT invoice_id FROM invoices")
    }


# -- one bad message ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Buggy(InvoiceHandler):
    """A handler with a bug that one customer's data triggers, and a statement that another customer's data breaks."""

    def react(self, state: Loaded, message: Inbound) -> Reaction[Loaded, Effect]:
        if getattr(message.data, "customer_id", "") == "raises":
            raise ZeroDivisionError(f"a bug that shows {PAN}")
        return InvoiceHandler.react(self, state, message)

    async def save(self, writes: WriteBatch, changes: Sequence[Change[str, Loaded, Effect]]) -> Sequence[Outgoing]:
        for change in changes:
            if getattr(change.message.data, "customer_id", "") == "unstorable":
                await writes.fetch("SELECT 1 / 0")
        return await InvoiceHandler.save(self, writes, changes)


async def buggy(runtime: Runtime) -> None:
    runtime.consume("invoice.commands", Buggy(), inbox=CommandInbox())


@pytest.mark.parametrize("customer", ["raises", "unstorable"])
async def test_a_failing_message_is_dead_lettered_alone(
    environment: Environment, upstream: UpstreamClient, customer: str
) -> None:
    answers = await upstream.inbox()
    ids = [
        await upstream.send(issue(f"INV-{n}", customer if n == 7 else "C-1"), reply_to=answers.name) for n in range(20)
    ]
    async with environment.running("invoice", buggy):
        answered = {received.data["command_id"] for received in await answers.take(19)}
        dead = await (await upstream.queue("dead-letters")).next()
    assert answered == {str(id_) for id_ in ids} - {str(ids[7])}
    assert await invoices(environment) == {f"INV-{n}" for n in range(20)} - {"INV-7"}
    assert dead.id != "", "a dead letter has an id of its own"
    headers = dead.message.headers
    assert headers["x-remit-message-id"] == str(ids[7])
    assert headers["x-remit-reason"] == "handler_failed"
    assert headers["x-remit-queue"] == "invoice.commands"
    assert (
        headers["x-remit-error-type"] == {"raises": "ZeroDivisionError", "unstorable": "DivisionByZeroError"}[customer]
    )
    assert PAN not in str(headers), "texts are redacted"
    assert dead.event["id"] == str(ids[7]), "the body is unchanged"
    assert await rows(environment.databases["invoice"], "SELECT * FROM answers WHERE command_id = $1", ids[7]) == []


MALFORMED = {
    "not json": (b"PAY ME", "not_json"),
    "unknown version": (cloud_event(issue("INV-X"), type="remit.invoice.IssueInvoice.v2"), "unknown_version"),
    "too large": (b"{" + b" " * 70_000 + b"}", "too_large"),
    "deep": (b"[" * 5_000 + b"]" * 5_000, "too_deep"),
}


async def test_a_message_that_is_no_command_is_a_dead_letter_with_its_reason(
    environment: Environment, upstream: UpstreamClient
) -> None:
    async with environment.running("invoice", assemble):
        for name, (body, reason) in MALFORMED.items():
            await upstream.send_raw(body, message_id="17", headers={"note": "x"})
            dead = (await (await upstream.queue("dead-letters")).next()).message
            assert dead.headers["x-remit-reason"] == reason, name
            kept = (b"", "too_large") if reason == "too_large" else (body, "")
            assert (dead.body, dead.headers["x-remit-body-withheld"]) == kept, name
        await upstream.send(issue("INV-1"))
        await until(lambda: invoices(environment), what="the neighbour")
    assert await upstream.depth("invoice.commands") == 0


async def test_a_wrong_content_type_is_a_dead_letter(environment: Environment, upstream: UpstreamClient) -> None:
    async with environment.running("invoice", assemble):
        await upstream.send_raw(cloud_event(issue("INV-1")), content_type="text/plain")
        dead = await (await upstream.queue("dead-letters")).next()
    assert dead.message.headers["x-remit-reason"] == "unsupported_content_type"


# -- answers to commands that the core never gets ---------------------------------------------------------------------------------------


async def answer_to(upstream: UpstreamClient, answers: Subscription, body: bytes, message_id: UUID) -> dict[str, Any]:
    """The answer to a body with this AMQP message id."""
    await upstream.send_raw(body, message_id=str(message_id), reply_to=answers.name, correlation_id="mine-1")
    answer = await answers.next()
    assert answer.message.correlation_id == "mine-1"
    return answer.data


async def answers_to(ids: Sequence[UUID], answers: Subscription) -> list[dict[str, Any]]:
    """The answer to each of these commands. Of two instances one may publish what the other has not noted yet."""
    found: dict[str, dict[str, Any]] = {}
    while not found.keys() >= set(map(str, ids)):
        data = (await answers.next()).data
        found[data["command_id"]] = data
    return [found[str(id_)] for id_ in ids]


async def rejected(
    environment: Environment, upstream: UpstreamClient, *sent: tuple[bytes, UUID]
) -> list[dict[str, Any]]:
    """The answers to these bodies, each with its AMQP message id; nothing was dead-lettered."""
    answers = await upstream.inbox()
    async with environment.running("invoice", assemble):
        received = [await answer_to(upstream, answers, body, message_id) for body, message_id in sent]
    assert await upstream.depth("dead-letters") == 0
    return received


async def test_a_clear_card_number_is_answered_by_the_amqp_id_and_stored_nowhere(
    environment: Environment, upstream: UpstreamClient
) -> None:
    id_ = uuid4()
    (answer,) = await rejected(environment, upstream, (cloud_event(issue("INV-1", PAN)), id_))
    assert (answer["command_id"], answer["answer"], answer["reason"]) == (str(id_), "rejected", "clear_card_number")
    stored = await rows(environment.databases["invoice"], "SELECT * FROM answers")
    assert [row["content_hash"] for row in stored] == [None]
    assert PAN not in str(stored)


async def test_a_refusal_for_card_data_names_the_member_and_spends_no_id(
    environment: Environment, upstream: UpstreamClient
) -> None:
    id_ = uuid4()
    with_a_card = cloud_event(issue("INV-1", PAN), id=str(id_))
    without = cloud_event(issue("INV-1"), id=str(id_))
    refused, again, accepted = await rejected(
        environment, upstream, (with_a_card, id_), (with_a_card, id_), (without, id_)
    )
    assert refused["detail"].startswith("a card number in the clear in data.customer_id:")
    assert again == refused
    assert (accepted["command_id"], accepted["answer"]) == (str(id_), "accepted")
    stored = await rows(environment.databases["invoice"], "SELECT answer FROM answers ORDER BY answer")
    assert [row["answer"] for row in stored] == ["accepted", "rejected"]


async def test_what_the_core_never_gets_is_answered_and_no_value_of_it_is_shown(
    environment: Environment, upstream: UpstreamClient
) -> None:
    """A CVV, an amount and a kind that are none, and a payment recorded by an outsider."""
    money = {"invoice_id": "INV-1", "payment_id": uuid4(), "amount_minor": 500, "currency": "EUR"}
    paying = messages.PayInvoice(**money, method=messages.TokenMethod(token="pm_x"))
    bodies = [
        cloud_event(issue("INV-1")).replace(b'"C-1"', b'"C-1", "cvv": "123"'),
        cloud_event(issue("INV-1")).replace(b"500", b"-987654"),
        cloud_event(paying).replace(b'"kind": "token"', b'"kind": "SECRET"'),
        cloud_event(messages.RecordPayment(**money, receipt_number="r")),
    ]
    cvv, amount, kind, forged = await rejected(environment, upstream, *((body, uuid4()) for body in bodies))
    assert cvv["reason"] == "cvv_not_accepted"
    assert amount["reason"] == "invalid_data"
    assert "amount_minor" in amount["detail"]
    assert "987654" not in amount["detail"]
    assert kind["reason"] == "invalid_data"
    assert "SECRET" not in str(kind)
    assert forged["reason"] == "not_public"


UNREADABLE = {
    "not_json": b"PAY ME",
    "too_deep": b"[" * 5_000 + b"]" * 5_000,
    "nul_character": cloud_event(issue("INV-1")).replace(b"C-1", rb"C\u0000"),
    "number_too_long": cloud_event(issue("INV-1")).replace(b"500", b"5" * 20),
    "duplicate_key": cloud_event(issue("INV-1")).replace(b'"C-1"', b'"C-1", "customer_id": "C-2"'),
    "not_a_cloud_event": cloud_event(issue("INV-1"), specversion="0.3", id="17"),
    "too_large": b"{" + b" " * 70_000 + b"}",
}


async def test_an_unreadable_command_is_answered_by_the_amqp_id(
    environment: Environment, upstream: UpstreamClient
) -> None:
    """As a dead letter it could only be discarded: the same bytes would fail again."""
    answers = await upstream.inbox()
    async with environment.running("invoice", assemble):
        for reason, body in UNREADABLE.items():
            id_ = uuid4()
            answer = await answer_to(upstream, answers, body, id_)
            assert (answer["command_id"], answer["answer"]) == (str(id_), "rejected"), reason
            assert answer["reason"] == reason
    assert await upstream.depth("dead-letters") == 0


async def test_an_unreadable_command_with_a_used_id_is_rejected_and_changes_nothing(
    environment: Environment, upstream: UpstreamClient
) -> None:
    answers = await upstream.inbox()
    async with environment.running("invoice", assemble):
        id_ = await upstream.send(issue("INV-1"), reply_to=answers.name)
        first = await answers.next()
        for _ in range(2):
            await upstream.send_raw(b"PAY ME", message_id=str(id_), reply_to=answers.name)
        reused = await answers.take(2)
        await upstream.send(issue("INV-1"), message_id=id_, reply_to=answers.name)
        same = await answers.next()
    assert (first.data["answer"], same.data["answer"]) == ("accepted", "accepted")
    assert {received.data["reason"] for received in reused} == {"command_id_reused"}
    assert await upstream.depth("dead-letters") == 0


async def test_a_message_of_a_later_version_is_a_dead_letter(
    environment: Environment, upstream: UpstreamClient
) -> None:
    answers = await upstream.inbox()
    body = cloud_event(issue("INV-1"), type="remit.invoice.IssueInvoice.v2")
    async with environment.running("invoice", assemble):
        await upstream.send_raw(body, message_id=str(uuid4()), reply_to=answers.name)
        (letter,) = await dead_letters(upstream, 1)
    assert letter.message.headers["x-remit-reason"] == "unknown_version"
    assert await answers.waiting() == []


async def test_a_reply_to_that_cannot_be_answered_is_refused(
    environment: Environment, upstream: UpstreamClient
) -> None:
    events = await upstream.tap("invoice.events", "remit.invoice.InvoiceCommandRejected.v1")
    async with environment.running("invoice", assemble):
        for reply_to in ("invoice.settlement", "amq.rabbitmq.reply-to.AAAA.BBBB", "amq.x", "\x01"):
            id_ = await upstream.send(issue("INV-1"), reply_to=reply_to)
            told = (await events.next()).data
            assert (told["command_id"], told["reason"]) == (str(id_), "reply_to_not_allowed"), reply_to
            url = environment.databases["invoice"]
            assert await rows(url, "SELECT reason FROM answers WHERE command_id = $1", id_) == [
                {"reason": told["reason"]}
            ]
    assert await upstream.depth("invoice.settlement") == 0
    assert await invoices(environment) == set()


async def test_an_answer_that_cannot_be_routed_is_dropped(environment: Environment, upstream: UpstreamClient) -> None:
    async with environment.running("invoice", assemble):
        id_ = await upstream.send(issue("INV-1"), reply_to="gone")
        await until(lambda: invoices(environment))
        await outbox_is_empty(environment.databases["invoice"])
    assert (await rows(environment.databases["invoice"], "SELECT answer FROM answers WHERE command_id = $1", id_)) == [
        {"answer": "accepted"}
    ]


# -- duplicates ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one after the other"])
async def test_a_repeated_command_gets_the_same_answer(
    environment: Environment, upstream: UpstreamClient, together: bool
) -> None:
    answers = await upstream.inbox()
    events = await upstream.tap("invoice.events")
    id_ = uuid4()
    if together:
        for _ in range(3):
            await upstream.send(issue("INV-1"), message_id=id_, reply_to=answers.name)
    async with environment.running("invoice", assemble):
        if not together:
            for _ in range(3):
                await upstream.send(issue("INV-1"), message_id=id_, reply_to=answers.name)
                await answers.next()
            await upstream.send(issue("INV-1"), message_id=id_, reply_to=answers.name)
            received = [await answers.next()]
        else:
            received = await answers.take(3)
        event = await events.next()  # its public copy comes after the answers
        await outbox_is_empty(environment.databases["invoice"])
    assert {(a.data["command_id"], a.data["answer"]) for a in received} == {(str(id_), "accepted")}
    assert event.type == "remit.invoice.InvoiceIssued.v1"
    assert await events.waiting() == []


async def test_the_same_id_with_other_data_is_rejected_and_changes_nothing(
    environment: Environment, upstream: UpstreamClient
) -> None:
    answers = await upstream.inbox()
    id_ = uuid4()
    async with environment.running("invoice", assemble):
        await upstream.send(issue("INV-1"), message_id=id_)
        await upstream.send(issue("INV-2"), message_id=id_, reply_to=answers.name)
        other = await answers.next()
        await upstream.send(issue("INV-1"), message_id=id_, reply_to=answers.name)
        same = await answers.next()
    assert (other.data["answer"], other.data["reason"]) == ("rejected", "command_id_reused")
    assert same.data["answer"] == "accepted"
    assert await invoices(environment) == {"INV-1"}


async def test_a_payment_id_is_unique_over_all_invoices_and_instances(
    environment: Environment, upstream: UpstreamClient
) -> None:
    answers = await upstream.inbox()
    payment = uuid4()
    async with environment.running("invoice", assemble), environment.running("invoice", assemble):
        issued = [await upstream.send(issue(f"INV-{n}"), reply_to=answers.name) for n in range(30)]
        await answers_to(issued, answers)
        paid = [
            await upstream.send(
                messages.PayInvoice(
                    invoice_id=f"INV-{n}",
                    payment_id=payment,
                    amount_minor=500,
                    currency="EUR",
                    method=messages.TokenMethod(token="pm_x"),
                ),
                reply_to=answers.name,
            )
            for n in range(30)
        ]
        outcomes = [(one["answer"], one["reason"]) for one in await answers_to(paid, answers)]
    assert sorted(outcomes, key=str) == [("accepted", None), *[("rejected", "payment_id_used")] * 29]


# -- crashes ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [1, 2])  # a repeated message takes a transaction instead of one statement
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_failed_commit_or_a_lost_reply_is_repeated_with_one_effect(
    environment: Environment, upstream: UpstreamClient, when: str, sent: int
) -> None:
    """After the commit, the second try finds the answer stored. The sweeper then publishes the messages, with the same ids."""
    point = f"shell.at_once.{when}_commit" if sent == 1 else f"shell.{when}_commit"
    events = await upstream.tap("invoice.events")
    answers = await upstream.inbox()
    command, id_ = issue("INV-1"), uuid4()
    for _ in range(sent):
        await upstream.send(command, message_id=id_, reply_to=answers.name)
    crash_points.arm(f"{point}:1:raise")
    async with environment.running("invoice", assemble):
        received = await answers.next()
        event = await events.next()
        await outbox_is_empty(environment.databases["invoice"])
    assert received.data["answer"] == "accepted"
    assert event.type == "remit.invoice.InvoiceIssued.v1"
    assert {e.id for e in await events.waiting()} <= {event.id}
    assert await rows(environment.databases["invoice"], "SELECT version FROM events") == [{"version": 1}]
    assert await upstream.depth("dead-letters") == 0


async def test_a_database_that_goes_away_costs_no_message(environment: Environment, upstream: UpstreamClient) -> None:
    """All sessions are ended again and again while 300 commands are handled."""
    url = environment.databases["invoice"]
    name = url.rpartition("/")[2]
    async with environment.running("invoice", assemble):
        for n in range(300):
            await upstream.send(issue(f"INV-{n}"))
            if n % 60 == 0:
                await execute(
                    url,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
                    name,
                )

        async def all_there() -> bool:
            return len(await invoices(environment)) == 300

        await until(all_there, what="300 invoices")
        await outbox_is_empty(environment.databases["invoice"])
    assert await upstream.depth("dead-letters") == 0
    assert await rows(url, "SELECT count(*) AS n FROM events") == [{"n": 300}]


async def test_the_database_refuses_a_second_event_under_one_version(environment: Environment) -> None:
    insert = """INSERT INTO events (stream_id, version, type, data, cause_id, cause_position, correlation_id, recorded_at)
                VALUES ('INV-1', 1, 'Voided.1', '{}', gen_random_uuid(), 0, 'c', now())"""
    await execute(environment.databases["invoice"], insert)
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(environment.databases["invoice"], insert)


# -- poison that could hold up other messages ------------------------------------------------------------------------------------------


async def dead_letters(upstream: UpstreamClient, count: int) -> list[Received]:
    return await (await upstream.queue("dead-letters")).take(count)


async def test_two_bodies_under_one_message_id_are_two_dead_letters(
    environment: Environment, upstream: UpstreamClient
) -> None:
    for body in (b"not json ONE", b"not json TWO"):
        await upstream.send_raw(body, message_id="constant")
    async with environment.running("invoice", assemble):
        letters = await dead_letters(upstream, 2)
    assert {letter.message.body for letter in letters} == {b"not json ONE", b"not json TWO"}


HOLDING_UP: dict[str, dict[str, Any]] = {
    "a forged count of deliveries": {"x-delivery-count": 2**62},
    "more ce- headers than a frame can carry": {f"ce-{n:03}": "\u00e9" * 120 for n in range(400)},
}


async def test_a_message_with_monstrous_headers_holds_up_no_other(
    environment: Environment, upstream: UpstreamClient
) -> None:
    for name, headers in HOLDING_UP.items():
        await upstream.send_raw(b"not json", message_id=name, headers=headers)
    await upstream.send(issue("INV-1"))
    async with environment.running("invoice", assemble):
        letters = await dead_letters(upstream, len(HOLDING_UP))
        await until(lambda: invoices(environment), what="the neighbour")
    assert {letter.message.headers["x-remit-message-id"] for letter in letters} == HOLDING_UP.keys()
    assert {letter.message.headers["x-remit-queue"] for letter in letters} == {"invoice.commands"}


async def test_a_strange_reply_to_loses_no_command(environment: Environment, upstream: UpstreamClient) -> None:
    strange = {"INV-NUL": "a\0b", "INV-long": "\u00e9" * 127}

    async def all_there() -> bool:
        return await invoices(environment) == strange.keys()

    async with environment.running("invoice", assemble):
        for invoice_id, reply_to in strange.items():
            await upstream.send_raw(cloud_event(issue(invoice_id)), reply_to=reply_to, correlation_id="c\0d")
        await until(all_there, what="the invoices")
        await outbox_is_empty(environment.databases["invoice"])
    assert await upstream.depth("dead-letters") == 0


async def test_a_card_number_in_a_property_is_dead_lettered_and_shown_nowhere(
    environment: Environment, upstream: UpstreamClient
) -> None:
    await upstream.send_raw(cloud_event(issue("INV-1")), message_id=str(uuid4()), correlation_id=PAN)
    async with environment.running("invoice", assemble):
        (letter,) = await dead_letters(upstream, 1)
    assert letter.message.headers["x-remit-reason"] == "clear_card_number"
    assert PAN not in str(letter.message.headers)


async def test_answers_to_a_full_queue_are_dropped_at_last_and_delay_nothing(
    environment: Environment, upstream: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "ANSWER_REFUSALS_MAX", 1)
    monkeypatch.setattr(outbox, "REFUSED", outbox.Backoff(0.0, 0))
    full = await upstream.full_queue()
    for n in range(50):
        await upstream.send(issue(f"INV-{n}"), reply_to=full)
    async with environment.running("invoice", assemble):

        async def all_there() -> bool:
            return len(await invoices(environment)) == 50

        await until(all_there, what="the invoices")
        await outbox_is_empty(environment.databases["invoice"])


async def test_an_answer_that_a_queue_refuses_for_a_moment_is_sent_again(
    environment: Environment, upstream: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue without a leader refuses messages too, and its owner waits for the answer."""
    monkeypatch.setattr(outbox, "REFUSED", outbox.Backoff(0.0, 0))
    monkeypatch.setattr(outbox, "ANSWER_REFUSALS_MAX", 1_000)
    full = await upstream.queue_that_is_full()
    await upstream.send(issue("INV-1"), reply_to=full.name)
    async with environment.running("invoice", assemble):
        url = environment.databases["invoice"]
        await until(lambda: rows(url, "SELECT 1 FROM outbox WHERE refusals > 0"), what="a refusal")
        await full.purge()
        assert (await Subscription(full).next()).data["answer"] == "accepted"
        await outbox_is_empty(environment.databases["invoice"])
