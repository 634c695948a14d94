"""What staff hear of invoices and payments, over the real broker and database: facts only, once, in whatever order it comes."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.saga.__main__ import assemble as assemble_saga
from services.staff import story_store
from services.staff.__main__ import assemble
from services.staff.heard import NUMBERS, hear
from services.staff.instances import QueueWatch
from services.staff.listening import WeekKeeper
from services.staff.stuck import InstanceSeen
from shared.amqp.broker_link import BrokerLink
from shared.contracts import invoice as invoice_messages
from shared.contracts.operations import Heartbeat
from shared.messaging.apply import apply_topology
from shared.messaging.envelope import Inbound
from shared.messaging.topology import HEARTBEATS, JOURNAL, QUEUES
from shared.persistence.database import Database
from shared.persistence.writes import WriteBatch
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.heard_messages import INVOICE, PAYMENT, healthy_payment, life_of_an_invoice
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

RECENT = datetime.now(tz=UTC) - timedelta(days=3)
TOKEN = "pm_never_kept_anywhere"
TABLES = ("messages", "invoices", "payments", "commands")


async def publish(upstream: UpstreamClient, message: Inbound) -> None:
    await upstream.send(
        message.data,
        message_id=message.id,
        time=message.time.isoformat(),
        causationid=str(message.causation_id),
        correlationid=message.correlation_id,
    )


async def everything(environment: Environment) -> dict[str, list[dict[str, Any]]]:
    url = environment.databases["staff"]
    return {table: [dict(row) for row in await rows(url, f"SELECT * FROM {table} ORDER BY 1")] for table in TABLES}


def as_rows(messages: list[Inbound]) -> dict[str, list[dict[str, Any]]]:
    told = hear(messages)
    as_dicts = {
        table: [{name: getattr(one, name) for name in one.__dataclass_fields__} for one in getattr(told, table)]
        for table in TABLES
    }
    as_dicts["messages"].sort(key=lambda row: row["id"])
    return as_dicts


async def heard(environment: Environment, number: int) -> None:
    async def there() -> bool:
        return len(await rows(environment.databases["staff"], "SELECT 1 FROM messages")) >= number

    await until(there, what=f"{number} messages")


async def test_what_is_said_is_kept_once_whatever_the_order(environment: Environment, upstream: UpstreamClient) -> None:
    life = [*life_of_an_invoice(RECENT), *healthy_payment(7, RECENT)]
    told = [*life, *life]
    random.Random(7).shuffle(told)
    async with environment.running("staff", assemble):
        for message in told:
            await publish(upstream, message)
        await heard(environment, len(life))

        async def all_taken() -> bool:
            return await upstream.depth(JOURNAL) == 0

        await until(all_taken, what="an empty queue")
    assert await everything(environment) == as_rows(life)
    assert await upstream.depth("dead-letters") == 0


@pytest.mark.parametrize("seed", range(4))
async def test_rows_merge_as_records_do(environment: Environment, database: Database, seed: int) -> None:
    """Any order, any batches, two at the same time: the database merges by the same rules as the core."""
    chance = random.Random(seed)
    life = [*life_of_an_invoice(RECENT), *healthy_payment(1, RECENT), *healthy_payment(2, RECENT)]
    told = [*life, *chance.sample(life, 8)]
    chance.shuffle(told)
    batches = [told[number::5] for number in range(5)]

    async def store(batch: list[Inbound]) -> None:
        async with database.connection() as connection:
            writes = WriteBatch(connection, one_statement=True)
            await story_store.save(writes, hear(batch))
            assert writes.fits_one_statement
            await writes.flush()

    await asyncio.gather(*(store(batch) for batch in batches))
    assert await everything(environment) == as_rows(life)


async def test_nothing_that_pays_is_ever_heard(environment: Environment, upstream: UpstreamClient) -> None:
    method = invoice_messages.TokenMethod(token=TOKEN)
    about: dict[str, Any] = {"invoice_id": INVOICE, "payment_id": PAYMENT, "amount_minor": 31_000, "currency": "EUR"}
    async with environment.running("staff", assemble):
        await upstream.send(invoice_messages.InvoicePaymentRequested(**about, method=method))
        await upstream.send(invoice_messages.PayInvoice(**about, method=method))
        await publish(upstream, life_of_an_invoice(RECENT)[0])
        await heard(environment, 1)
    assert [row["type"] for row in (await everything(environment))["messages"]] == [
        NUMBERS[invoice_messages.InvoiceIssued]
    ]
    assert TOKEN not in str(await everything(environment))


async def test_bodies_and_unknown_members_are_not_kept(environment: Environment, upstream: UpstreamClient) -> None:
    """A newer sender may add members. They are read over, and not kept."""
    issued = life_of_an_invoice(RECENT)[0]
    data = issued.data.model_dump(mode="json") | {"method": {"token": TOKEN}, "note": TOKEN}
    body = {"specversion": "1.0", "id": str(issued.id), "type": issued.type, "source": "/x", "time": RECENT.isoformat()}
    async with environment.running("staff", assemble):
        await upstream.send_raw(
            json.dumps(body | {"data": data}).encode(),
            exchange="invoice.events",
            key=issued.type,
            message_id=str(issued.id),
        )
        await heard(environment, 1)
    assert TOKEN not in str(await everything(environment))


async def test_what_cannot_be_read_is_a_dead_letter_and_stops_nothing(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    async with environment.running("staff", assemble):
        await upstream.send_raw(b"{", exchange="", key=JOURNAL, message_id=str(uuid4()))
        await publish(upstream, life_of_an_invoice(RECENT)[0])
        await heard(environment, 1)

        async def set_aside() -> bool:
            return bool(
                await rows(environment.databases["staff"], "SELECT 1 FROM dead_letters WHERE queue = $1", JOURNAL)
            )

        await until(set_aside, what="the dead letter")


async def test_what_is_not_for_staff_is_set_aside_alone(environment: Environment, upstream: UpstreamClient) -> None:
    """A binding that somebody made by hand brings a command with a token."""
    method = invoice_messages.TokenMethod(token=TOKEN)
    pay = invoice_messages.PayInvoice(
        invoice_id=INVOICE, payment_id=PAYMENT, amount_minor=31_000, currency="EUR", method=method
    )
    async with environment.running("staff", assemble):
        await upstream.send(pay, queue=JOURNAL)
        await publish(upstream, life_of_an_invoice(RECENT)[0])
        await heard(environment, 1)
    assert TOKEN not in str(await everything(environment))


async def test_off_means_that_the_queue_is_neither_bound_nor_read(
    environment: Environment, upstream: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAFF_JOURNAL", "off")
    monkeypatch.setenv("HEARTBEATS", "off")
    await apply_topology(environment.rabbitmq_url, unbound={JOURNAL, HEARTBEATS})
    try:
        async with environment.running("staff", assemble):
            for message in healthy_payment(1, RECENT)[1:]:  # another queue of ours takes each of these
                await publish(upstream, message)
            assert (await upstream.depth(JOURNAL), await upstream.depth(HEARTBEATS)) == (0, 0)
        assert (await everything(environment))["messages"] == []
        assert not await rows(environment.databases["staff"], "SELECT 1 FROM instances")
    finally:
        await apply_topology(environment.rabbitmq_url)
    await publish(upstream, life_of_an_invoice(RECENT)[0])
    assert await upstream.depth(JOURNAL) == 1


# -- weeks -------------------------------------------------------------------------------------------------------------------------------

_WEEKS = "SELECT c.relname AS name FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'messages'::regclass ORDER BY 1"


async def weeks(environment: Environment) -> list[str]:
    return [row["name"] for row in await rows(environment.databases["staff"], _WEEKS)]


async def test_weeks_are_made_ahead_and_take_what_came_before_them(
    environment: Environment, database: Database
) -> None:
    url = environment.databases["staff"]
    for name in await weeks(environment):
        if name != "messages_other":
            await execute(url, f"DROP TABLE weeks.{name}")
    today = datetime.now(tz=UTC)
    now = (today - timedelta(days=today.weekday())).replace(
        hour=12
    )  # of this week: no message of it is of the next one
    async with database.connection() as connection:
        await story_store.save(connection, hear(healthy_payment(1, now)))
    assert len(await rows(url, "SELECT 1 FROM weeks.messages_other")) == 3
    await WeekKeeper(database).run_once()
    made = await weeks(environment)
    assert made == sorted(
        ["messages_other", *(f"messages_{now + timedelta(weeks=n):%Gw%V}" for n in range(story_store.WEEKS_AHEAD + 1))]
    )
    assert not await rows(url, "SELECT 1 FROM weeks.messages_other")
    assert len(await rows(url, f"SELECT 1 FROM weeks.{made[0]}")) == 3
    await WeekKeeper(database).run_once()
    assert await weeks(environment) == made


async def test_old_weeks_are_dropped_whole_and_what_is_older_is_not_taken(
    environment: Environment, database: Database
) -> None:
    url = environment.databases["staff"]
    old = datetime.now(tz=UTC) - timedelta(days=story_store.MESSAGES_KEPT_DAYS + 14)
    monday = (old - timedelta(days=old.weekday())).date()
    name = f"messages_{old:%Gw%V}"
    await execute(
        url,
        f"CREATE TABLE weeks.{name} PARTITION OF messages FOR VALUES FROM ('{monday} 00:00+00') TO ('{monday + timedelta(7)} 00:00+00')",
    )
    await execute(
        url, f"INSERT INTO weeks.{name} (id, at, type, facts) VALUES ('{UUID(int=1)}', '{monday} 12:00+00', 1, '{{}}')"
    )
    async with database.connection() as connection:
        await story_store.save(connection, hear(healthy_payment(1, old)))
    assert len(await rows(url, "SELECT 1 FROM messages")) == 1, "what is older than it is kept is not stored"
    await WeekKeeper(database).run_once()
    assert name not in await weeks(environment)
    assert not await rows(url, "SELECT 1 FROM messages")


# -- who runs ------------------------------------------------------------------------------------------------------------------------------


async def test_an_instance_says_that_it_runs(environment: Environment, database: Database) -> None:
    async with environment.running("staff", assemble):

        async def there() -> bool:
            async with database.connection() as connection:
                return bool(await story_store.read_instances(connection))

        await until(there, what="the heartbeat of the staff service itself")
        async with database.connection() as connection:
            (seen,) = await story_store.read_instances(connection)
    assert seen.service == "staff"
    assert seen.age_s < 60
    assert seen.is_there
    assert seen.leases_held == 0


async def test_an_instance_that_was_stopped_is_not_missed(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    async def said_something() -> bool:
        return await upstream.depth(HEARTBEATS) > 0

    async with environment.running("saga", assemble_saga):
        await until(said_something, what="a heartbeat")
    async with environment.running("staff", assemble):

        async def seen() -> InstanceSeen | None:
            async with database.connection() as connection:
                found = await story_store.read_instances(connection)
            return next((one for one in found if one.service == "saga" and one.has_left), None)

        stopped = await until(seen, what="the last words of the saga service")
    assert stopped is not None
    assert stopped.has_left
    assert stopped.overdue == 0
    assert not stopped.is_there
    assert not stopped.is_gone


async def test_the_newest_heartbeat_of_an_instance_counts(
    environment: Environment, upstream: UpstreamClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(tz=UTC)

    async def beat(instance: str, ago_s: float, overdue: int) -> None:
        await upstream.send(
            Heartbeat(service="saga", instance=instance, version="1", not_ready={"broker": "away"}, overdue=overdue),
            time=(now - timedelta(seconds=ago_s)).isoformat(),
        )

    for instance, ago_s, overdue in (("a", 5, 2), ("a", 1, 3), ("a", 9, 1), ("b", 2, 0)):
        await beat(instance, ago_s, overdue)
    async with environment.running("staff", assemble):

        async def all_taken() -> bool:
            async with database.connection() as connection:
                return {seen.instance for seen in await story_store.read_instances(connection)} >= {"a", "b"}

        await until(all_taken, what="both instances")
    async with database.connection() as connection:
        seen = {one.instance: one for one in await story_store.read_instances(connection) if one.service == "saga"}
    assert {name: one.overdue for name, one in seen.items()} == {"a": 3, "b": 0}
    assert seen["a"].not_ready == {"broker": "away"}


async def test_queues_are_counted_and_one_that_stands_still_shows_since_when(
    environment: Environment, upstream: UpstreamClient, database: Database
) -> None:
    link = BrokerLink(environment.rabbitmq_url, name="test")
    watch = QueueWatch(link, database)
    try:
        await upstream.send_raw(b"{}", exchange="", key="saga.events", message_id=str(uuid4()))
        await watch.run_once()
        await watch.run_once()
        async with database.connection() as connection:
            seen = {queue.name: queue for queue in await story_store.read_queues(connection)}
        assert seen.keys() == {queue.name for queue in QUEUES}
        assert (seen["saga.events"].messages, seen["saga.events"].consumers) == (1, 0)
        assert seen["saga.events"].still_s > 0
        assert seen["staff.cases"].still_s == 0
        await upstream.purge()
        await watch.run_once()
        async with database.connection() as connection:
            seen = {queue.name: queue for queue in await story_store.read_queues(connection)}
        assert (seen["saga.events"].messages, seen["saga.events"].still_s) == (0, 0)
    finally:
        await link.close()
