"""Dead letters over the real broker and database: each is stored once, and each order of a person is carried out once."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiormq.abc import ChannelFrame
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from services.staff import dead_letters, store
from services.staff.__main__ import assemble
from services.staff.actions import dead_letters as dead_letter_actions
from services.staff.actions.results import ActionRefusal, ActionResult
from services.staff.charges import OLD_AFTER
from services.staff.dead_letters import DeadLetter, Withheld
from services.staff.people import at_terminal
from services.staff.store import Selection
from shared import crash_points
from shared.amqp.broker_link import BrokerLink
from shared.card_data.scan import has_card_data
from shared.contracts import invoice as messages
from shared.contracts.payment_gateway import ResolvePayment
from shared.messaging.codec import STRUCTURED, Malformed, decode
from shared.persistence.database import Database
from shared.persistence.retention import delete_page
from shared.records import replace
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.hostile import HOSTILE
from tests.support.upstream_client import Received, UpstreamClient
from tests.support.waiting import until

QUEUE = "saga.events"
CARD = "4242424242424242"


@asynccontextmanager
async def armed(setting: str) -> AsyncIterator[None]:
    crash_points.arm(setting)
    try:
        yield
    finally:
        crash_points.arm("")


async def reject(upstream: UpstreamClient, queue: str) -> None:
    """Reject a message as a faulty consumer of the queue would; the broker dead-letters it."""
    tap = await upstream.queue(queue)

    async def rejected() -> bool:
        message = await tap._queue.get(no_ack=False, fail=False)
        if message is None:
            return False
        await message.reject(requeue=False)
        return True

    await until(rejected, what=f"a message on {queue}")


async def send_to_queue(upstream: UpstreamClient, body: bytes, queue: str = QUEUE, **properties: Any) -> None:
    """Publish straight into a work queue, past every border of ours."""
    await upstream.send_raw(body, exchange="", key=queue, **properties)


async def send_without_an_id(environment: Environment, body: bytes, queue: str = QUEUE) -> None:
    """Publish without a message id, as clients in other languages do; Python's would make one up."""
    link = BrokerLink(environment.rabbitmq_url, name="test")
    channel = await link.channel(confirms=False)
    header = ContentHeader(properties=commands.Basic.Properties(delivery_mode=2), body_size=len(body))
    publish = commands.Basic.Publish(exchange="", routing_key=queue)
    frames = ChannelFrame.marshall(channel_number=channel.number, frames=[publish, header, ContentBody(body)])
    await channel.write_queue.put(frames)
    await channel.queue_declare(queue, passive=True)  # its answer comes after the publish on the same channel
    await link.close()


async def letters(environment: Environment, count: int = 1, where: str = "true") -> list[dict[str, Any]]:
    async def found() -> list[dict[str, Any]]:
        some = await rows(
            environment.databases["staff"], f"SELECT * FROM dead_letters WHERE {where} ORDER BY first_seen, id"
        )
        return some if len(some) >= count else []

    return await until(found, what=f"{count} dead letters where {where}")


async def next_on(upstream: UpstreamClient, queue: str = QUEUE) -> Received:
    return await (await upstream.queue(queue)).next()


async def replay_all(database: Database, who: str = "ann") -> list[ActionResult]:
    return await dead_letter_actions.replay(database, Selection(), who=at_terminal(who))


# -- intake ------------------------------------------------------------------------------------------------------------------------------


async def test_a_record_that_another_instance_stored_meanwhile_is_not_overwritten(database: Database) -> None:
    letter = DeadLetter(uuid4(), QUEUE, "broker", "unknown", body=b"{}", body_bytes=2)
    record = dead_letters.arrive(None, letter, datetime.now(UTC))

    async def slower() -> None:
        async with database.transaction() as tx:
            locked = await store.lock_letters(tx, {record.id})
            async with database.transaction() as other:
                await store.save_letters(other, [replace(record, seen=7)], locked=())
            await store.save_letters(tx, [record], locked=locked)

    with pytest.raises(asyncpg.UniqueViolationError):
        await slower()
    found = await dead_letter_actions.show_dead_letter(database, record.id)
    assert found is not None
    assert found[0].seen == 7


async def test_a_message_the_broker_dead_lettered_is_replayed_unchanged(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    message_id = str(uuid4())
    async with environment.running("staff", assemble):
        await send_to_queue(
            upstream,
            b'{"any": "thing"}',
            message_id=message_id,
            content_type="application/json",
            reply_to="somebody",
            correlation_id="C-1",
            headers={"ce-type": "T", "ce-id": "1", "CC": ["payment_gateway.commands"]},
        )
        await next_on(upstream, "payment_gateway.commands")
        await reject(upstream, QUEUE)
        (kept,) = await letters(environment)
        (result,) = await replay_all(database)
        again = (await next_on(upstream)).message
    assert (kept["origin"], kept["reason"], kept["queue"], kept["seen"]) == ("broker", "broker_rejected", QUEUE, 1)
    assert (result.ok, result.subject, result.text) == (True, kept["id"], f"replayed to {QUEUE}")
    assert again.body == b'{"any": "thing"}'
    assert (again.message_id, again.content_type, again.reply_to, again.correlation_id) == (
        message_id,
        "application/json",
        "somebody",
        "C-1",
    )
    sent = {name: value for name, value in again.headers.items() if name != "x-delivery-count"}
    assert sent == {
        "ce-type": "T",
        "ce-id": "1",
        "x-remit-replays": 1,
        "x-remit-replay-id": str(result.entry),
        "x-remit-sender": "administrator",
    }
    assert (
        await upstream.depth("payment_gateway.commands") == 0
    )  # the sender's headers may route copies of its message; our replay does not


async def test_a_message_a_service_dead_lettered_is_kept_with_its_reason(
    environment: Environment, upstream: UpstreamClient
) -> None:
    """A later version of a command: all else that cannot be read is answered, since there is an address for the answer."""
    from services.invoice.__main__ import assemble as assemble_invoice

    event_id = uuid4()
    event = {"specversion": "1.0", "id": str(event_id), "type": "remit.invoice.PayInvoice.v9", "data": {}}
    body = json.dumps(event).encode()
    async with environment.running("staff", assemble), environment.running("invoice", assemble_invoice):
        await upstream.send_raw(body, message_id="no uuid", reply_to="somebody", correlation_id="C-1", key="hello")
        (kept,) = await letters(environment)
    expected = {
        "origin": "remit",
        "queue": "invoice.commands",
        "exchange": "invoice.commands.entry",
        "routing_key": "hello",
        "reason": "unknown_version",
        "message_id": "no uuid",
        "event_id": event_id,
        "reply_to": "somebody",
        "correlation_id": "C-1",
        "body": body,
        "status": "open",
        "tries": 1,
    }
    assert {name: kept[name] for name in expected} == expected
    assert await upstream.depth("dead-letters") == 0


async def test_a_message_without_an_id_is_recognised_after_its_replay(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    async with environment.running("staff", assemble):
        await send_without_an_id(environment, b"no id")
        await reject(upstream, QUEUE)
        (kept,) = await letters(environment)
        await replay_all(database)
        await reject(upstream, QUEUE)
        (again,) = await letters(environment, where="seen = 2")
        await replay_all(database)
        third = (await next_on(upstream)).message
    assert (again["id"], again["status"], again["replays"]) == (kept["id"], "open", 1)
    assert (third.message_id, third.headers["x-remit-replays"]) == (str(kept["id"]), 2)
    assert len(await letters(environment)) == 1


async def test_the_same_event_on_two_queues_is_two_records_and_both_are_replayed(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    message_id = str(uuid4())
    other = "payment_gateway.requests"
    async with environment.running("staff", assemble):
        for queue in (QUEUE, other):
            await send_to_queue(upstream, b"event", queue, message_id=message_id)
            await reject(upstream, queue)
        await letters(environment, 2)
        assert all(result.ok for result in await replay_all(database))
        assert [(await next_on(upstream, queue)).id for queue in (QUEUE, other)] == [message_id] * 2


async def test_hostile_headers_stop_no_intake(environment: Environment, upstream: UpstreamClient) -> None:
    deep: dict[str, Any] = {"x": 1}
    for _ in range(50):
        deep = {"deep": [deep]}
    hostile: list[dict[str, Any]] = [
        {"x-death": "not a list", "x-remit-queue": "payment_gateway.commands"},
        {"x-remit-tries": "many", "x-remit-replays": -1, "x-remit-failed-at": "yesterday"},
        {"nul": "\x00", "empty": None, "bytes": bytearray(b"\xff\x00"), "float": 1e30},
        deep,
        {f"h{n}": "x" * 200 for n in range(100)},
    ]
    async with environment.running("staff", assemble):
        for number, headers in enumerate(hostile):
            await upstream.send_raw(
                b"\x00\xff",
                exchange="dead-letters",
                key=QUEUE,
                message_id="\x00" * 100 + str(number),
                headers=headers,
                content_type=None,
            )
        await upstream.send_raw(b"fine", exchange="dead-letters", key=QUEUE, message_id="fine")
        kept = await letters(environment, 6)
    assert {row["status"] for row in kept} == {"open"}
    assert {row["queue"] for row in kept} == {QUEUE}
    assert await upstream.depth("dead-letters") == 0


async def test_no_card_number_reaches_a_table(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    async with environment.running("staff", assemble):
        await send_to_queue(upstream, json.dumps({"pan": CARD}).encode(), message_id=str(uuid4()))
        await send_to_queue(upstream, b"{}", message_id=CARD, reply_to=CARD, headers={"note": CARD})
        for _ in range(2):
            await reject(upstream, QUEUE)
        kept = await letters(environment, 2)
        results = await replay_all(database)
    assert [row["withheld"] for row in kept] == ["card_data"] * 2
    for table in ("dead_letters", "journal", "outbox", "inbox"):
        for row in await rows(environment.databases["staff"], f"SELECT t::text AS text FROM {table} t"):
            assert not has_card_data(row["text"])
    assert {result.refusal for result in results} == {ActionRefusal.BODY_WITHHELD}
    assert "it held card data" in results[0].text


async def test_a_batch_waits_while_the_table_is_missing(environment: Environment, upstream: UpstreamClient) -> None:
    """A missing table is an outage: no delivery attempt is used up, and nothing is acknowledged."""
    url = environment.databases["staff"]
    async with environment.running("staff", assemble):
        await execute(url, "ALTER TABLE dead_letters RENAME TO hidden")
        try:
            await upstream.send_raw(b"waits", exchange="dead-letters", key=QUEUE, message_id="1")

            async def taken() -> bool:
                return await upstream.depth("dead-letters") == 0

            await until(taken, what="the delivery")
        finally:
            await execute(url, "ALTER TABLE hidden RENAME TO dead_letters")
        (kept,) = await letters(environment)
    assert (kept["body"], kept["seen"]) == (b"waits", 1)


# -- replaying -------------------------------------------------------------------------------------------------------------------------


async def test_one_of_two_people_who_replay_is_told(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    async with environment.running("staff", assemble):
        for number in range(20):
            await upstream.send_raw(b"x", exchange="dead-letters", key=QUEUE, message_id=str(number))
        ids = tuple(row["id"] for row in await letters(environment, 20))
        both = await asyncio.gather(
            *(dead_letter_actions.replay(database, Selection(ids=ids), who=at_terminal(who)) for who in ("ann", "bea"))
        )
        tap = await upstream.queue(QUEUE)
        again = await tap.take(20)
    per_letter: dict[UUID | None, list[ActionResult]] = {}
    for result in [*both[0], *both[1]]:
        per_letter.setdefault(result.subject, []).append(result)
    for pair in per_letter.values():
        assert sorted(result.ok for result in pair) == [False, True]
        (told,) = (result for result in pair if not result.ok)
        assert told.refusal is ActionRefusal.ALREADY_REPLAYED
        assert told.text.startswith(("already replayed by ann at 20", "already replayed by bea at 20"))
    assert sorted(received.id for received in again) == sorted(str(number) for number in range(20))
    assert await tap.waiting() == []
    assert len(await rows(environment.databases["staff"], "SELECT * FROM journal WHERE action = 'replay'")) == 20


@pytest.mark.parametrize("point", ["staff.replay.after_journal", "staff.replay.before_commit"])
async def test_a_crash_before_the_commit_replays_nothing(
    environment: Environment, upstream: UpstreamClient, database: Database, point: str
) -> None:
    async with environment.running("staff", assemble):
        await upstream.send_raw(b"x", exchange="dead-letters", key=QUEUE, message_id="1")
        await letters(environment)
        async with armed(f"{point}:1:raise"):
            with pytest.raises(crash_points.InjectedFault):
                await replay_all(database)
        assert await rows(environment.databases["staff"], "SELECT * FROM journal") == []
        assert (await letters(environment))[0]["status"] == "open"
        assert [result.ok for result in await replay_all(database)] == [True]
        tap = await upstream.queue(QUEUE)
        assert (await tap.next()).id == "1"
        assert await tap.waiting() == []


async def test_a_crash_after_the_commit_replays_once(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    await upstream.send_raw(b"x", exchange="dead-letters", key=QUEUE, message_id="1")
    async with environment.running("staff", assemble):
        await letters(environment)
    async with armed("staff.replay.after_commit:1:raise"):
        with pytest.raises(crash_points.InjectedFault):
            await replay_all(database)
    assert await replay_all(database) == []
    async with environment.running("staff", assemble):
        assert (await next_on(upstream)).id == "1"


async def test_a_crash_before_the_ack_keeps_one_record(environment: Environment, upstream: UpstreamClient) -> None:
    from shared.service import serve
    from tests.support.environment import ROOT

    await upstream.send_raw(b"x", exchange="dead-letters", key=QUEUE, message_id="1")
    async with armed("staff.intake.before_ack:1:raise"):
        migrations = ROOT / "services" / "staff" / "migrations"
        assert await serve(environment.settings("staff"), migrations, assemble, asyncio.Event()) == 1
    async with environment.running("staff", assemble):
        (kept,) = await letters(environment, where="seen = 2")
    assert kept["status"] == "open"


async def test_a_filter_replays_only_matching_dead_letters(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    async with environment.running("staff", assemble):
        for queue in (QUEUE, "payment_gateway.requests"):
            await upstream.send_raw(b"x", exchange="dead-letters", key=queue, message_id=queue)
        await letters(environment, 2)
        results = await dead_letter_actions.replay(
            database, Selection(queue=QUEUE, reason="unknown"), who=at_terminal("ann")
        )
        assert (await next_on(upstream)).id == QUEUE
    assert [result.ok for result in results] == [True]
    stands = await rows(environment.databases["staff"], "SELECT queue, status FROM dead_letters ORDER BY queue")
    assert [row["status"] for row in stands] == ["open", "replayed"]
    assert await dead_letter_actions.replay(database, Selection(queue="no.such"), who=at_terminal("ann")) == []


async def test_a_dead_letter_of_a_foreign_queue_is_not_replayed(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    async with environment.running("staff", assemble):
        await upstream.send_raw(b"x", exchange="", key="dead-letters", message_id="1")
        await letters(environment)
        (result,) = await replay_all(database)
    assert result.refusal is ActionRefusal.NO_SUCH_QUEUE


SENT_AT = datetime(2026, 11, 22, 12, tzinfo=UTC)


async def test_what_charges_and_is_old_is_replayed_only_if_a_person_says_so(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    about: dict[str, Any] = {"invoice_id": "INV-1", "payment_id": uuid4(), "amount_minor": 1_250, "currency": "EUR"}
    pay = messages.PayInvoice(**about, method=messages.TokenMethod(token="pm_card_visa"))
    async with environment.running("staff", assemble):
        for message in (pay, messages.VoidInvoice(invoice_id="INV-1", reason="a mistake")):
            await upstream.send(message, queue="invoice.commands", message_id=uuid4(), time=SENT_AT.isoformat())
            await reject(upstream, "invoice.commands")
        await letters(environment, 2)
        young = await dead_letter_actions.replay(
            database, Selection(type="PayInvoice"), who=at_terminal("ann"), clock=lambda: SENT_AT
        )
        assert [result.ok for result in young] == [True]
        await reject(upstream, "invoice.commands")
        await letters(environment, 2, "status = 'open'")
        later = SENT_AT + OLD_AFTER + timedelta(seconds=1)
        results = await dead_letter_actions.replay(database, Selection(), who=at_terminal("ann"), clock=lambda: later)
        (refused,) = (result for result in results if not result.ok)
        assert len(results) == 2, "others are replayed"
        (confirmed,) = await dead_letter_actions.replay(
            database, Selection(), who=at_terminal("ann"), old_after=None, clock=lambda: later
        )
    assert (refused.refusal, confirmed.ok) == (ActionRefusal.OLD_CHARGE, True)
    assert refused.text == (
        "it would charge 12.50 EUR and was sent at 2026-11-22 12:00:00 UTC: say that it still shall (--charge-old)"
    )


async def test_an_unknown_id_is_reported(database: Database) -> None:
    unknown = uuid4()
    (result,) = await dead_letter_actions.replay(database, Selection(ids=(unknown,)), who=at_terminal("ann"))
    assert (result.subject, result.refusal) == (unknown, ActionRefusal.UNKNOWN)


async def test_a_discarded_request_is_decided_as_not_charged(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    """Otherwise its invoice would wait for ever: nobody but a person can say that it will never be charged."""
    about: dict[str, Any] = {"invoice_id": "INV-1", "payment_id": uuid4()}
    request = messages.InvoicePaymentRequested(
        **about, amount_minor=1_250, currency="EUR", method=messages.TokenMethod(token="pm_card_visa")
    )
    said = await upstream.tap("settlement.commands")
    await upstream.send(request, queue="payment_gateway.requests", correlationid="C-1")
    await reject(upstream, "payment_gateway.requests")
    async with environment.running("staff", assemble):
        (kept,) = await letters(environment)
        wanted = Selection(ids=(kept["id"],))
        (result,) = await dead_letter_actions.discard(database, wanted, who=at_terminal("ann"), reason="paid otherwise")
        decided = await said.next()
    assert result.ok
    assert decided.content == ResolvePayment(
        **about,
        resolution="not_charged",
        expected_version=1,
        evidence=f"its request was discarded as dead letter {kept['id']}",
        decided_by="ann",
        reason="paid otherwise",
    )
    entries = await rows(environment.databases["staff"], "SELECT id, action, subject FROM journal ORDER BY position")
    assert [(entry["action"], entry["subject"]) for entry in entries] == [
        ("discard", kept["id"]),
        ("resolve", about["payment_id"]),
    ]
    assert (decided.event["causationid"], decided.event["correlationid"]) == (str(entries[1]["id"]), "C-1")


# -- discarding ------------------------------------------------------------------------------------------------------------------------


async def test_a_discarded_command_is_answered_once(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    from services.invoice.__main__ import assemble as assemble_invoice

    answers = await upstream.inbox()
    command_id = uuid4()
    event = {"specversion": "1.0", "id": str(command_id), "type": "remit.invoice.PayInvoice.v9"}
    body = json.dumps(event | {"data": {"order": "100000000000001"}}).encode()
    async with environment.running("staff", assemble), environment.running("invoice", assemble_invoice):
        await upstream.send_raw(body, reply_to=answers.name, correlation_id="C-1")
        (kept,) = await letters(environment)
        wanted = Selection(ids=(kept["id"],))
        (result,) = await dead_letter_actions.discard(
            database, wanted, who=at_terminal("ann"), reason="sent by mistake"
        )
        answer = await answers.next()
        (again,) = await dead_letter_actions.discard(database, wanted, who=at_terminal("bea"), reason="me too")
        (replayed,) = await dead_letter_actions.replay(database, wanted, who=at_terminal("bea"))
    assert result.ok
    assert (kept["event_id"], kept["type"]) == (command_id, "remit.invoice.PayInvoice.v9")
    assert (answer.data["command_id"], answer.data["answer"], answer.data["reason"]) == (
        str(command_id),
        "rejected",
        "discarded",
    )
    assert answer.message.correlation_id == "C-1"
    assert again.refusal is replayed.refusal is ActionRefusal.ALREADY_DISCARDED
    assert again.text.startswith("already discarded by ann at 20")
    (stored,) = await rows(
        environment.databases["invoice"], "SELECT command_id, answer, reason, content_hash, outline_hash FROM answers"
    )
    read = decode(body, content_type=STRUCTURED)
    assert isinstance(read, Malformed)
    told = {"command_id": command_id, "answer": "rejected", "reason": "discarded"}
    assert stored == told | {"content_hash": None, "outline_hash": read.outline_hash}, "no hash over a long number"


async def test_the_closing_command_has_the_journal_entry_as_its_cause(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    told = await upstream.tap("settlement.commands")
    async with environment.running("staff", assemble):
        await upstream.send_raw(CARD.encode(), exchange="dead-letters", key="invoice.commands", message_id=str(uuid4()))
        (kept,) = await letters(environment)
        (result,) = await dead_letter_actions.discard(
            database, Selection(), who=at_terminal("ann"), reason="a card in the clear"
        )
        closing = await told.next()
    assert closing.type == messages.CloseCommand.wire_name
    assert closing.event["causationid"] == str(result.entry)
    assert (closing.data["command_id"], closing.data["reason"]) == (kept["message_id"], "a card in the clear")


async def test_a_dead_letter_that_is_no_command_is_discarded_without_an_answer(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    told = await upstream.tap("settlement.commands")
    async with environment.running("staff", assemble):
        await upstream.send_raw(b"x", exchange="dead-letters", key=QUEUE, message_id=str(uuid4()))
        await letters(environment)
        (result,) = await dead_letter_actions.discard(
            database, Selection(), who=at_terminal("ann"), reason="not needed"
        )
    assert result.text == "discarded"
    assert await told.waiting() == []
    assert await rows(environment.databases["staff"], "SELECT * FROM outbox") == []


@pytest.mark.parametrize("reason", ["", "  ", f"his card is {CARD}", "x" * 1_001, "\x1b[2J"])
async def test_reasons_that_must_not_be_stored_are_refused(database: Database, reason: str) -> None:
    (result,) = await dead_letter_actions.discard(database, Selection(), who=at_terminal("ann"), reason=reason)
    assert result.refusal in {ActionRefusal.INVALID, ActionRefusal.CARD_DATA}
    assert CARD not in result.text


# -- the journal -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["UPDATE journal SET who = 'nobody'", "DELETE FROM journal"])
async def test_the_journal_cannot_be_changed(
    environment: Environment, upstream: UpstreamClient, database: Database, statement: str
) -> None:
    async with environment.running("staff", assemble):
        await upstream.send_raw(b"x", exchange="dead-letters", key=QUEUE, message_id="1")
        await letters(environment)
        await replay_all(database)
    with pytest.raises(Exception, match="append-only"):
        await execute(environment.databases["staff"], statement)
    (entry,) = await rows(environment.databases["staff"], "SELECT who, action, details FROM journal")
    assert entry == {
        "who": "ann",
        "action": "replay",
        "details": {"queue": QUEUE, "message_id": "1", "replays": 1, "reason": None, "via": "terminal"}
        | {"before": {"status": "open", "replays": 0}, "after": {"status": "replayed", "replays": 1}},
    }


# -- erasing ---------------------------------------------------------------------------------------------------------------------------


async def test_bodies_are_erased_long_after_they_were_settled(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    async with environment.running("staff", assemble):
        for body in (b"settled", b"open"):
            await send_to_queue(upstream, body, message_id=str(uuid4()), headers={"ce-subject": "Ann"})
            await reject(upstream, QUEUE)
        await letters(environment, 2)
    (settled,) = await letters(environment, where="body = 'settled'")
    await dead_letter_actions.discard(
        database, Selection(ids=(settled["id"],)), who=at_terminal("ann"), reason="nobody needs it"
    )
    erased: list[int] = []
    async with database.connection() as connection:
        for days in (29, 31):
            await connection.execute(
                f"UPDATE dead_letters SET settled_at = now() - interval '{days} days' WHERE status = 'discarded'"
            )
            erased += [await delete_page(connection, store.BODY_RETENTION) for _ in range(2)]
    (after,) = await letters(environment, where="status = 'discarded'")
    (still_open,) = await letters(environment, where="status = 'open'")
    assert erased == [0, 0, 1, 0]
    assert (after["body"], after["headers"], after["withheld"], after["status"]) == (None, {}, "erased", "discarded")
    assert (after["body_bytes"], after["settled_by"], after["message_id"]) == (7, "ann", settled["message_id"])
    assert (still_open["body"], still_open["withheld"]) == (b"open", None)
    async with database.connection() as connection:
        (kept,) = await store.select(connection, Selection(ids=(settled["id"],)), at_most=1)
    assert kept.letter.withheld is Withheld.ERASED


# -- texts of others in what we say -----------------------------------------------------------------------------------------------------


async def test_any_texts_of_a_command_are_closed_with_all_the_others_of_a_selection(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    """Hostile texts cannot pass AMQP's short strings whole, so each goes as far as it fits."""
    async with environment.running("staff", assemble):
        for text in HOSTILE.values():
            short = text.encode("utf-8", "replace")[:200].decode("utf-8", "ignore")
            body = json.dumps(
                {"specversion": "1.0", "id": str(uuid4()), "type": short, "correlationid": short}
            ).encode()
            await upstream.send_raw(
                body,
                exchange="dead-letters",
                key="invoice.commands",
                message_id=str(uuid4()),
                correlation_id=short,
                reply_to=short,
                headers={"ce-type": short, short: short},
            )
        await letters(environment, len(HOSTILE))
        await execute(environment.databases["staff"], "UPDATE dead_letters SET type = ' ' WHERE type IS NOT NULL")
        results = await dead_letter_actions.discard(database, Selection(), who=at_terminal("ann"), reason="hostile")
        closed = [await next_on(upstream, "invoice.settlement") for _ in HOSTILE]
    assert [result.refusal for result in results] == [None] * len(HOSTILE)
    assert {one.type for one in closed} == {messages.CloseCommand.wire_name}
    assert {one.data["command_type"] for one in closed} == {"unread"}


async def test_a_dead_letter_that_the_database_refuses_keeps_no_other_from_being_settled(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    async with environment.running("staff", assemble):
        for number in range(5):
            await send_to_queue(upstream, b"any", "dead-letters", message_id=str(number))
        await letters(environment, 5)
    url = environment.databases["staff"]
    await execute(url, "ALTER TABLE dead_letters ADD CONSTRAINT odd CHECK (message_id <> '3' OR status = 'open')")
    try:
        results = await dead_letter_actions.discard(database, Selection(), who=at_terminal("ann"), reason="because")
    finally:
        await execute(url, "ALTER TABLE dead_letters DROP CONSTRAINT odd")
    assert sorted(str(result.refusal) for result in results) == ["None"] * 4 + ["invalid"]
    (refused,) = [result for result in results if not result.ok]
    assert refused.text == "the database refuses it (CheckViolationError): nothing was done"
    assert [row["message_id"] for row in await letters(environment, where="status = 'open'")] == ["3"]
