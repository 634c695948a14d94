"""FastStream with a transactional outbox: the three services of Remit as a user of FastStream and asyncpg writes them.

Run it by `python -m tests.bench.peers.faststream_outbox invoice|payment_gateway|saga`, with RABBITMQ_URL and DATABASE_URL. Each message has
one transaction: inbox row, one statement for the rows of the domain, outbox row. A relay in each process publishes the outbox; each commit
wakes it. FastStream handles as many messages at once as are prefetched. It runs on uvloop, which `faststream run` also uses if it is
installed.

The SQL is written by hand, because an ORM takes most of the CPU of such a service (README.md, "What an ORM costs").
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import uvloop
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitMessage, RabbitQueue
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from tests.bench.peers import tables
from tests.bench.peers.contracts import (
    CONTENT_TYPE,
    CloudEvent,
    Data,
    InvoicePaid,
    InvoicePaymentRequested,
    PayInvoice,
    PaymentCaptured,
    RecordPayment,
    envelope,
)

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

PREFETCH = 50
CONNECTIONS = 20
RELAY_ROWS = 100
RELAY_POLL_S = 0.5
DEADLINE = timedelta(minutes=2)

SERVICE = sys.argv[1]


class FastStreamApp:
    """What is opened once in each process."""

    pool: "asyncpg.Pool[asyncpg.Record]"


broker = RabbitBroker(
    os.environ["RABBITMQ_URL"],
    default_channel=Channel(prefetch_count=PREFETCH, on_return_raises=True),
    apply_types=False,  # nothing is injected, and the decoder validates messages
    logger=None,
)


def on(message: type[Data]) -> Any:
    """Subscribe a handler to a message type, on a quorum queue of its own.

    pydantic reads a message once, from its bytes. FastStream would parse its JSON first, and knows only `application/json`.
    """
    model = CloudEvent[message]  # type: ignore[valid-type]

    async def decode(received: RabbitMessage) -> CloudEvent[Any]:
        return model.model_validate_json(received.body)

    queue = RabbitQueue(
        f"{SERVICE}.{message.__name__}", queue_type=QueueType.QUORUM, durable=True, routing_key=message.wire_name
    )
    return broker.subscriber(queue, _exchange(message.exchange), decoder=decode, ack_policy=AckPolicy.NACK_ON_ERROR)


@cache
def _exchange(name: str) -> RabbitExchange:
    return RabbitExchange(name, type=ExchangeType.TOPIC, durable=True)


# -- inbox and outbox ------------------------------------------------------------------------------------------------------------------

committed = asyncio.Event()

HANDLED = "INSERT INTO inbox (message_id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING TRUE"
PUBLISH_LATER = "INSERT INTO outbox (message_id, exchange, type, body) VALUES ($1, $2, $3, $4)"
TAKEN = """
    DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING id, message_id, exchange, type, body"""


@asynccontextmanager
async def transaction() -> AsyncIterator["Connection"]:
    """A transaction whose commit wakes the relay."""
    async with FastStreamApp.pool.acquire() as connection, connection.transaction():
        yield connection
    committed.set()


async def is_new(connection: "Connection", message_id: UUID) -> bool:
    """Insert the id into the inbox; returns whether it was new."""
    return await connection.fetchval(HANDLED, message_id) is not None


async def put_in_outbox(connection: "Connection", event: CloudEvent[Any]) -> None:
    """Insert the event into the outbox."""
    body = event.model_dump_json().encode()
    await connection.execute(PUBLISH_LATER, event.id, event.data.exchange, event.type, body)


async def relay() -> None:
    """Publish the outbox, oldest first, a hundred at once; rows are gone once all are confirmed. Runs until cancelled."""
    while True:
        committed.clear()
        async with FastStreamApp.pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(TAKEN, RELAY_ROWS)
            await asyncio.gather(*(_publish(row) for row in sorted(rows, key=lambda row: row["id"])))
        if len(rows) < RELAY_ROWS:
            try:
                await asyncio.wait_for(committed.wait(), RELAY_POLL_S)
            except TimeoutError:
                continue


async def _publish(row: asyncpg.Record) -> None:
    await broker.publish(
        row["body"],
        exchange=_exchange(row["exchange"]),
        routing_key=row["type"],
        message_id=str(row["message_id"]),
        message_type=row["type"],
        content_type=CONTENT_TYPE,
        persist=True,
    )


# -- invoice ---------------------------------------------------------------------------------------------------------------------------

ACCEPT = """
    WITH invoice AS (
        UPDATE invoices SET status = 'payment_pending', payment_id = $2, version = version + 1
        WHERE invoice_id = $1 AND status = 'open' AND amount_minor = $3 AND currency = $4 RETURNING invoice_id, version
    ), event AS (
        INSERT INTO events (stream_id, version, type, data, cause_id)
        SELECT invoice_id, version, 'PaymentRequested.1', $5, $6 FROM invoice
    ), used AS (
        INSERT INTO payment_ids (payment_id, invoice_id, pending) SELECT $2, invoice_id, TRUE FROM invoice
    )
    INSERT INTO answers (command_id, invoice_id, answer) SELECT $6, invoice_id, 'accepted' FROM invoice RETURNING TRUE"""
REFUSE = """
    INSERT INTO answers (command_id, invoice_id, answer, reason) VALUES ($1, $2::text, 'rejected', coalesce((
        SELECT CASE status WHEN 'open' THEN 'amount_differs' ELSE 'payment_under_way' END FROM invoices WHERE invoice_id = $2
    ), 'unknown_invoice'))"""
SETTLE = """
    WITH invoice AS (
        UPDATE invoices SET status = 'paid', receipt_number = $2, version = version + 1
        WHERE invoice_id = $1 AND status = 'payment_pending' RETURNING invoice_id, version, amount_minor, currency
    ), event AS (
        INSERT INTO events (stream_id, version, type, data, cause_id)
        SELECT invoice_id, version, 'Paid.1', $3, $4 FROM invoice
    ), used AS (
        UPDATE payment_ids SET pending = FALSE FROM invoice WHERE payment_id = $5
    )
    SELECT amount_minor, currency FROM invoice"""


def invoice_service() -> None:
    @on(PayInvoice)
    async def pay_invoice(command: CloudEvent[PayInvoice]) -> None:
        pay = command.data
        async with transaction() as connection:
            if not await is_new(connection, command.id):
                return
            asked = (pay.invoice_id, pay.payment_id, pay.amount_minor, pay.currency)
            if await connection.fetchval(ACCEPT, *asked, pay.model_dump_json(), command.id):
                await put_in_outbox(connection, envelope(InvoicePaymentRequested(**dict(pay)), caused_by=command))
            else:
                await connection.execute(REFUSE, command.id, pay.invoice_id)

    @on(RecordPayment)
    async def record_payment(command: CloudEvent[RecordPayment]) -> None:
        captured = command.data
        async with transaction() as connection:
            if not await is_new(connection, command.id):
                return
            receipt = (captured.invoice_id, captured.receipt_number)
            data = captured.model_dump_json()
            if invoice := await connection.fetchrow(SETTLE, *receipt, data, command.id, captured.payment_id):
                await put_in_outbox(connection, envelope(InvoicePaid(**dict(captured), **invoice), caused_by=command))


# -- payment gateway -------------------------------------------------------------------------------------------------------------------

REQUESTED = """
    INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, method_token, status, version)
    VALUES ($1, $2, $3, $4, $5, 'requested', 1)"""
PREPARED = """
    WITH payment AS (
        UPDATE payments SET status = 'prepared', gateway_id = $2, version = version + 1
        WHERE payment_id = $1 AND status = 'requested' RETURNING payment_id
    )
    INSERT INTO attempts (payment_id, seq, step, answer) SELECT payment_id, 1, 'prepare', 'prepared' FROM payment"""
CAPTURED = """
    WITH payment AS (
        UPDATE payments SET status = 'captured', receipt_number = $2, version = version + 1
        WHERE payment_id = $1 AND status = 'prepared' RETURNING payment_id, version
    ), attempt AS (
        INSERT INTO attempts (payment_id, seq, step, answer) SELECT payment_id, 2, 'execute', 'captured' FROM payment
    )
    INSERT INTO outcomes (payment_id, version, body) SELECT payment_id, version, $3 FROM payment RETURNING TRUE"""


def payment_gateway_service() -> None:
    @on(InvoicePaymentRequested)
    async def charge(event: CloudEvent[InvoicePaymentRequested]) -> None:
        """Prepare, record the gateway's id, execute, record the outcome: no transaction is open during a call."""
        asked = event.data
        payment_id = asked.payment_id
        async with transaction() as connection:
            status = "requested"
            if await is_new(connection, event.id):
                row = (payment_id, asked.invoice_id, asked.amount_minor, asked.currency, asked.method.token)
                await connection.execute(REQUESTED, *row)
            else:
                status = await connection.fetchval("SELECT status FROM payments WHERE payment_id = $1", payment_id)
        if status == "requested":
            gateway_id = await _call_gateway(f"pi_{payment_id}")
            await FastStreamApp.pool.execute(PREPARED, payment_id, gateway_id)
        if status != "captured":
            receipt_number = await _call_gateway(f"ch_{payment_id}")
            data = PaymentCaptured(payment_id=payment_id, invoice_id=asked.invoice_id, receipt_number=receipt_number)
            captured = envelope(data, caused_by=event)
            async with transaction() as connection:
                body = captured.model_dump_json().encode()
                if await connection.fetchval(CAPTURED, payment_id, receipt_number, body):
                    await put_in_outbox(connection, captured)


async def _call_gateway(answer: str) -> str:
    """The gateway, in this process, at 0 ms."""
    await asyncio.sleep(0)
    return answer


# -- saga ------------------------------------------------------------------------------------------------------------------------------

ADVANCE = """
    WITH saga AS (
        INSERT INTO sagas AS known (payment_id, invoice_id, status, version, receipt_number) VALUES ($1, $2, $3, 1, $4)
        ON CONFLICT (payment_id) DO UPDATE SET
            status = CASE WHEN known.status = 'completed' THEN known.status ELSE excluded.status END,
            receipt_number = coalesce(excluded.receipt_number, known.receipt_number), version = known.version + 1
        RETURNING payment_id, status, version
    ), deadline AS (
        INSERT INTO deadlines (payment_id, number, due_at)
        SELECT payment_id, version, $6 FROM saga WHERE $6::timestamptz IS NOT NULL
    )
    INSERT INTO transitions (payment_id, version, to_status, cause_id) SELECT payment_id, version, status, $5 FROM saga"""


def saga_service() -> None:
    @on(PaymentCaptured)
    async def captured(event: CloudEvent[PaymentCaptured]) -> None:
        async with transaction() as connection:
            if await is_new(connection, event.id):
                await _advance(connection, event, "settling", due_in=DEADLINE)
                await put_in_outbox(connection, envelope(RecordPayment(**dict(event.data)), caused_by=event))

    @on(InvoicePaid)
    async def paid(event: CloudEvent[InvoicePaid]) -> None:
        async with transaction() as connection:
            if await is_new(connection, event.id):
                await _advance(connection, event, "completed")


async def _advance(
    connection: "Connection", event: CloudEvent[Any], status: str, *, due_in: timedelta | None = None
) -> None:
    """Move the saga to `status`, unless it is further already: messages may overtake each other, and the first one starts it."""
    data = event.data
    receipt_number = getattr(data, "receipt_number", None)
    due_at = due_in and datetime.now(UTC) + due_in
    await connection.execute(ADVANCE, data.payment_id, data.invoice_id, status, receipt_number, event.id, due_at)


# -- the process -----------------------------------------------------------------------------------------------------------------------

SERVICES = {"invoice": invoice_service, "payment_gateway": payment_gateway_service, "saga": saga_service}


def main() -> None:
    SERVICES[SERVICE]()
    app = FastStream(broker, logger=None)
    running: list[asyncio.Task[None]] = []

    @app.on_startup
    async def _open() -> None:
        url = os.environ["DATABASE_URL"]
        await _create_tables(url)
        FastStreamApp.pool = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS, reset=_keep)

    @app.after_startup
    async def _relay() -> None:
        running.append(asyncio.create_task(relay()))

    @app.on_shutdown
    async def _stop() -> None:
        for task in running:
            task.cancel()

    uvloop.run(app.run())


async def _create_tables(url: str) -> None:
    """Create the same tables as the other peer, so that the rows are the same."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(tables.create, SERVICE)
    await engine.dispose()


async def _keep(_: object) -> None:
    """Keep the session as it is: asyncpg's own reset is a round trip for each transaction, and no setting is changed here."""


if __name__ == "__main__":
    main()
