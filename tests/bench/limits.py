"""Measures what broker and database allow on this machine, between the bursts, while no service runs.

Messages are persistent and as large as a `PayInvoice`, queues are quorum queues, and PostgreSQL is as durable as it ships. The statements
are written out here, not imported from `shared.persistence`, so that the limit does not move when our code does.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields
from typing import Final
from uuid import UUID, uuid4

import aio_pika
import asyncpg
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from deploy.local.stack import Stack
from shared.amqp.broker_link import RPC_TIMEOUT_S, BrokerLink
from shared.messaging.consumer import Consumer
from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import IN_FLIGHT_MAX, Publisher
from shared.observability.health import Readiness
from tests.bench.load import Span, Steady, prepare, send
from tests.bench.measure import GENERATOR, POSTGRESQL, RABBITMQ, Meter, cores

MESSAGES: Final = 5_000
OURS: Final = 4
"""Work of microseconds is repeated so many times: CPU is counted in ticks of 10 ms."""
QUEUE: Final = "bench.limits"
PREFETCH: Final = 400
DATABASE: Final = "bench_limits"
BATCH: Final = 200
BATCHED_MESSAGES: Final = 10_000
SINGLE_MESSAGES: Final = 2_000
CONNECTIONS: Final = 16
"""Concurrent transactions when each message has its own: they share the disk's flushes."""
ROW_WRITES: Final = 5
"""Rows that a message writes in `_SCHEMA`: inbox, event, state, outbox, and the outbox row deleted again."""
COMMITS_BEHIND: Final = (1, 3, 1, 1, 0)
"""Commits of a lone payment after each of its five hops: the invoice requests it; the gateway service has taken it in, prepared it,
executed it; the saga; the invoice is paid. The listener outside commits nothing."""
LONE_PAYMENTS: Final = 150
LONE_RATE_PER_S: Final = 30
DEADLINE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate, and the CPU of client and server for one item, in microseconds."""

    per_s: float
    client_us: float
    server_us: float

    @property
    def us(self) -> float:
        return self.client_us + self.server_us


@dataclass(frozen=True, slots=True)
class Limits:
    """The raw limits. Items are messages; those of `set_based` and `single` write `ROW_WRITES` rows each."""

    publish_aio_pika: Limit
    consume_aio_pika: Limit
    publish_ours: Limit
    consume_ours: Limit
    set_based: Limit
    single: Limit
    lone: Steady
    """The hops and commits of a lone payment, one after the other, without other code: a payment cannot be faster."""


def middle(rounds: Sequence[Limits]) -> Limits:
    """Of each limit the one in the middle by its CPU (the higher of two in the middle); the lone payments of all rounds together."""
    medians = {
        field.name: sorted((getattr(one, field.name) for one in rounds), key=lambda limit: limit.us)[len(rounds) // 2]
        for field in fields(Limits)
        if field.name != "lone"
    }
    return Limits(**medians, lone=Steady([span for one in rounds for span in one.lone.spans], lost=0, late_ms=0.0))


@dataclass(frozen=True, slots=True)
class Needs:
    """What one payment needs of broker and database."""

    publishes: float
    deliveries: float
    row_writes: float


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Payments per second if all cores handled only the same messages and rows."""

    per_s: float
    cpu_ms: float


def ceiling(needs: Needs, *, publish: Limit, consume: Limit, rows: Limit) -> Ceiling:
    """The ceiling by CPU, of client and server together: on a fully busy machine nothing else can be the limit."""
    us = needs.publishes * publish.us + needs.deliveries * consume.us + needs.row_writes * rows.us / ROW_WRITES
    return Ceiling(cores() * 1e6 / us, us / 1_000)


def ceilings(found: Limits, needs: Needs) -> dict[str, Ceiling]:
    """A ceiling for each client of the broker."""
    return {
        "aio-pika and set-based SQL": ceiling(
            needs, publish=found.publish_aio_pika, consume=found.consume_aio_pika, rows=found.set_based
        ),
        "frames and acks in bulk, set-based SQL": ceiling(
            needs, publish=found.publish_ours, consume=found.consume_ours, rows=found.set_based
        ),
    }


async def measure(stack: Stack, meter: Meter) -> Limits:
    """Measure all limits one after the other; it takes about fifteen seconds."""
    async with asyncio.timeout(DEADLINE_S):
        messages = _messages()
        async with _aio_pika(stack.rabbitmq_url) as channel:
            publish_aio_pika = await _timed(meter, RABBITMQ, MESSAGES, lambda: _publish_aio_pika(channel, messages))
            consume_aio_pika = await _timed(meter, RABBITMQ, MESSAGES, lambda: _consume_aio_pika(channel))
            publisher = Publisher(BrokerLink(stack.rabbitmq_url, name="bench limits"))
            publish_ours = await _timed(meter, RABBITMQ, OURS * MESSAGES, lambda: _publish_ours(publisher, messages))
            await publisher.close()
            consume_ours = await _timed(meter, RABBITMQ, OURS * MESSAGES, lambda: _consume_ours(stack.rabbitmq_url))
            async with _database(stack) as pool:
                set_based = await _timed(meter, POSTGRESQL, BATCHED_MESSAGES, lambda: _in_batches(pool))
                single = await _timed(meter, POSTGRESQL, SINGLE_MESSAGES, lambda: _one_by_one(pool))
                lone = await _lone_payments(stack.rabbitmq_url, pool, messages[0])
    return Limits(publish_aio_pika, consume_aio_pika, publish_ours, consume_ours, set_based, single, lone)


async def _timed(meter: Meter, server: str, items: int, work: Callable[[], Awaitable[None]]) -> Limit:
    before = meter.read()
    await work()
    spent = meter.read().since(before)
    return Limit(items / spent.elapsed_s, spent.cpu_s[GENERATOR] / items * 1e6, spent.cpu_s[server] / items * 1e6)


# -- the broker ------------------------------------------------------------------------------------------------------------------------


def _messages() -> list[Outgoing]:
    return [
        Outgoing(
            id=payment.pay.id,
            exchange="",
            routing_key=QUEUE,
            type=payment.pay.type,
            correlation_id=payment.pay.correlation_id,
            body=payment.pay.body,
        )
        for payment in prepare(MESSAGES)
    ]


@asynccontextmanager
async def _aio_pika(url: str) -> AsyncIterator[AbstractChannel]:
    connection = await aio_pika.connect(url, timeout=RPC_TIMEOUT_S)
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        queue = await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        yield channel
        await queue.delete(if_unused=False, if_empty=False)


async def _publish_aio_pika(channel: AbstractChannel, messages: Sequence[Outgoing]) -> None:
    """Publish with as many messages in flight as our own publisher has."""
    for start in range(0, len(messages), IN_FLIGHT_MAX):
        await asyncio.gather(
            *(
                channel.default_exchange.publish(
                    aio_pika.Message(
                        message.body,
                        content_type=message.content_type,
                        type=message.type,
                        message_id=str(message.id),
                        correlation_id=message.correlation_id,
                        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    ),
                    routing_key=QUEUE,
                    timeout=RPC_TIMEOUT_S,
                )
                for message in messages[start : start + IN_FLIGHT_MAX]
            )
        )


async def _consume_aio_pika(channel: AbstractChannel) -> None:
    """Consume with one acknowledgement a message, as users of aio-pika do."""
    left, all_there = MESSAGES, asyncio.Event()

    async def on_message(message: AbstractIncomingMessage) -> None:
        nonlocal left
        await message.ack()
        left -= 1
        if left == 0:
            all_there.set()

    await channel.set_qos(PREFETCH)
    queue = await channel.get_queue(QUEUE, ensure=False)
    tag = await queue.consume(on_message)
    await all_there.wait()
    await queue.cancel(tag)


@asynccontextmanager
async def _consumer(url: str) -> AsyncIterator[Consumer]:
    link = BrokerLink(url, name="bench limits")
    consumer = Consumer(link, QUEUE, readiness=Readiness(), prefetch=PREFETCH)
    running = asyncio.create_task(consumer.run())
    try:
        yield consumer
        await consumer.stop()
        await running
    finally:
        running.cancel()
        await link.close()


async def _publish_ours(publisher: Publisher, messages: Sequence[Outgoing]) -> None:
    for _ in range(OURS):
        await send(publisher, messages)


async def _consume_ours(url: str) -> None:
    left = OURS * MESSAGES
    async with _consumer(url) as consumer:
        while left:
            batch = await consumer.take()
            await consumer.ack(batch)
            left -= len(batch)


# -- the database ----------------------------------------------------------------------------------------------------------------------

_SCHEMA: Final = """
CREATE TABLE inbox (message_id uuid PRIMARY KEY, handled_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE states (id text PRIMARY KEY, status text NOT NULL, version integer NOT NULL, amount bigint NOT NULL) WITH (fillfactor = 70);
CREATE TABLE events (stream_id text NOT NULL, version integer NOT NULL, type text NOT NULL, data jsonb NOT NULL, cause_id uuid NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (stream_id, version));
CREATE TABLE outbox (id uuid PRIMARY KEY, routing_key text NOT NULL, type text NOT NULL, body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 50);
"""

_INBOX: Final = "INSERT INTO inbox (message_id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING message_id"
_LOAD: Final = "SELECT id, status, version, amount FROM states WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"
_EVENTS: Final = """INSERT INTO events (stream_id, version, type, data, cause_id)
    SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::jsonb[], $5::uuid[])"""
_STATES: Final = """INSERT INTO states (id, status, version, amount) SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[])
    ON CONFLICT (id) DO UPDATE SET status = excluded.status, version = excluded.version, amount = excluded.amount"""
_OUTBOX: Final = """INSERT INTO outbox (id, routing_key, type, body)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[])"""
_SENT: Final = "DELETE FROM outbox WHERE id = ANY($1::uuid[])"

_EVENT: Final = '{"payment_id": "0199b2f0-0000-7000-8000-000000000000", "amount_minor": 1999, "currency": "EUR"}'
_BODY: Final = prepare(1)[0].pay.body


@asynccontextmanager
async def _database(stack: Stack) -> "AsyncIterator[asyncpg.Pool[asyncpg.Record]]":
    url = stack.create_database(DATABASE)
    pool = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS, timeout=RPC_TIMEOUT_S)
    try:
        await pool.execute(_SCHEMA)
        await pool.execute("CHECKPOINT")  # write what the bursts before left behind
        yield pool
    finally:
        with suppress(TimeoutError):
            await asyncio.wait_for(pool.close(), RPC_TIMEOUT_S)
        stack.drop_database(DATABASE)


async def _in_batches(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    async with pool.acquire() as connection:
        for _ in range(BATCHED_MESSAGES // BATCH):
            await _handle(connection, [uuid4() for _ in range(BATCH)])


async def _one_by_one(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    async def work() -> None:
        async with pool.acquire() as connection:
            for _ in range(SINGLE_MESSAGES // CONNECTIONS):
                await _handle(connection, [uuid4()])

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))


async def _handle(connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]", ids: list[UUID]) -> None:
    """Run the statements for these messages in one transaction. Then delete their outbox rows, which need not wait for the disk."""
    keys = [str(id_) for id_ in ids]
    ones = [1] * len(ids)
    async with connection.transaction():
        await connection.fetch(_INBOX, sorted(ids))
        await connection.fetch(_LOAD, keys)
        await connection.execute(_EVENTS, keys, ones, ["Paid"] * len(ids), [_EVENT] * len(ids), ids)
        await connection.execute(_STATES, keys, ["paid"] * len(ids), ones, ones)
        await connection.execute(_OUTBOX, ids, ["to"] * len(ids), ["Paid"] * len(ids), [_BODY] * len(ids))
    async with connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = off")
        await connection.execute(_SENT, ids)


# -- a lone payment --------------------------------------------------------------------------------------------------------------------


async def _lone_payments(url: str, pool: "asyncpg.Pool[asyncpg.Record]", message: Outgoing) -> Steady:
    """One payment after the other; each latency begins when the payment is due."""
    publisher = Publisher(BrokerLink(url, name="bench limits"))
    first = time.perf_counter() + 1 / LONE_RATE_PER_S
    spans: list[Span] = []
    async with _consumer(url) as consumer, pool.acquire() as connection:
        for number in range(LONE_PAYMENTS):
            due = first + number / LONE_RATE_PER_S
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await _lone_payment(publisher, consumer, connection, message)
            spans.append((due, time.perf_counter()))
    await publisher.close()
    return Steady(spans, lost=0, late_ms=0.0)


async def _lone_payment(
    publisher: Publisher,
    consumer: Consumer,
    connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]",
    message: Outgoing,
) -> None:
    """One payment. As in the services, a message travels to the next hop before its publish is confirmed."""
    for commits in COMMITS_BEHIND:
        publishing = asyncio.create_task(send(publisher, [message]))
        await consumer.ack(await consumer.take())
        for _ in range(commits):
            await connection.execute("INSERT INTO inbox (message_id) VALUES ($1)", uuid4())
        await publishing
