"""FastStream with a transactional outbox: the three services of Remit as a user of FastStream and SQLAlchemy writes them.

`python -m tests.bench.peers.faststream_outbox invoice|payment_gateway|saga`, with RABBITMQ_URL and DATABASE_URL. A message is a
transaction: inbox row, ORM objects, outbox row. A relay in each process publishes what the outbox holds and is woken by each commit.
FastStream handles as many messages at once as are prefetched. uvloop, as `faststream run` uses it where it is installed.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import uvloop
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitQueue
from sqlalchemy import delete, make_url, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

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
from tests.bench.peers.tables import (
    Answer,
    Attempt,
    Deadline,
    Event,
    Inbox,
    Invoice,
    Outbox,
    Outcome,
    Payment,
    PaymentId,
    Saga,
    Transition,
)

PREFETCH = 50
CONNECTIONS = 20
RELAY_ROWS = 100
RELAY_POLL_S = 0.5
DEADLINE = timedelta(minutes=2)

SERVICE = sys.argv[1]
engine = create_async_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg"), pool_size=CONNECTIONS, max_overflow=0
)
sessions = async_sessionmaker(engine, expire_on_commit=False)


async def _decode(message: Any) -> Any:
    """FastStream knows `application/json` only."""
    return json.loads(message.body)


broker = RabbitBroker(
    os.environ["RABBITMQ_URL"],
    default_channel=Channel(prefetch_count=PREFETCH, on_return_raises=True),
    decoder=_decode,
    logger=None,
)


def on(message: type[Data]) -> Any:
    """Subscribe a handler to a message type on a quorum queue of its own."""
    queue = RabbitQueue(
        f"{SERVICE}.{message.__name__}", queue_type=QueueType.QUORUM, durable=True, routing_key=message.wire_name
    )
    exchange = RabbitExchange(message.exchange, type=ExchangeType.TOPIC, durable=True)
    return broker.subscriber(queue, exchange, ack_policy=AckPolicy.NACK_ON_ERROR)


# -- inbox and outbox ------------------------------------------------------------------------------------------------------------------

committed = asyncio.Event()


@asynccontextmanager
async def handling(message_id: UUID) -> AsyncIterator[AsyncSession | None]:
    """The transaction of a message; None if it was handled before."""
    async with sessions.begin() as session:
        insertion = insert(Inbox).values(message_id=message_id).on_conflict_do_nothing().returning(Inbox.message_id)
        is_new = await session.scalar(insertion) is not None
        yield session if is_new else None
    committed.set()


def say(session: AsyncSession, data: Data, caused_by: CloudEvent[Any]) -> bytes:
    """Into the outbox; the body."""
    event = envelope(data, caused_by=caused_by)
    body = event.model_dump_json().encode()
    session.add(Outbox(message_id=event.id, exchange=data.exchange, type=data.wire_name, body=body))
    return body


async def relay() -> None:
    """Publish what the outbox holds, oldest first, a hundred at once, each confirmed; until cancelled."""
    while True:
        committed.clear()
        async with sessions.begin() as session:
            waiting = select(Outbox).order_by(Outbox.id).limit(RELAY_ROWS).with_for_update(skip_locked=True)
            rows = (await session.scalars(waiting)).all()
            if rows:
                await asyncio.gather(*(_publish(row) for row in rows))
                await session.execute(delete(Outbox).where(Outbox.id.in_([row.id for row in rows])))
        if len(rows) < RELAY_ROWS:
            try:
                await asyncio.wait_for(committed.wait(), RELAY_POLL_S)
            except TimeoutError:
                continue


async def _publish(row: Outbox) -> None:
    await broker.publish(
        row.body,
        exchange=RabbitExchange(row.exchange, type=ExchangeType.TOPIC, durable=True),
        routing_key=row.type,
        message_id=str(row.message_id),
        message_type=row.type,
        content_type=CONTENT_TYPE,
        persist=True,
    )


# -- invoice ---------------------------------------------------------------------------------------------------------------------------


def invoice_service() -> None:
    @on(PayInvoice)
    async def pay_invoice(command: CloudEvent[PayInvoice]) -> None:
        async with handling(command.id) as session:
            if session is None:
                return
            pay = command.data
            invoice = await session.get(Invoice, pay.invoice_id, with_for_update=True)
            reason = _refusal(invoice, pay)
            if invoice is None or reason:
                session.add(Answer(command.id, pay.invoice_id, "rejected", reason))
                return
            invoice.status, invoice.payment_id = "payment_pending", pay.payment_id
            invoice.version += 1
            data = pay.model_dump(mode="json")
            session.add(Event(invoice.invoice_id, invoice.version, "PaymentRequested.1", data, command.id))
            session.add(PaymentId(pay.payment_id, invoice.invoice_id, pending=True))
            session.add(Answer(command.id, invoice.invoice_id, "accepted"))
            say(session, InvoicePaymentRequested(**pay.model_dump()), command)

    @on(RecordPayment)
    async def record_payment(command: CloudEvent[RecordPayment]) -> None:
        async with handling(command.id) as session:
            if session is None:
                return
            captured = command.data
            invoice = await session.get(Invoice, captured.invoice_id, with_for_update=True)
            if invoice is None or invoice.status != "payment_pending":
                return
            invoice.status, invoice.receipt_number = "paid", captured.receipt_number
            invoice.version += 1
            data = captured.model_dump(mode="json")
            session.add(Event(invoice.invoice_id, invoice.version, "Paid.1", data, command.id))
            used = await session.get_one(PaymentId, captured.payment_id)
            used.pending = False
            paid = InvoicePaid(**data, amount_minor=invoice.amount_minor, currency=invoice.currency)
            say(session, paid, command)


def _refusal(invoice: Invoice | None, pay: PayInvoice) -> str | None:
    if invoice is None:
        return "unknown_invoice"
    if invoice.status != "open":
        return "payment_under_way"
    return None if (pay.amount_minor, pay.currency) == (invoice.amount_minor, invoice.currency) else "amount_differs"


# -- payment gateway -------------------------------------------------------------------------------------------------------------------


def payment_gateway_service() -> None:
    @on(InvoicePaymentRequested)
    async def charge(event: CloudEvent[InvoicePaymentRequested]) -> None:
        """Prepare, record the gateway's id, execute, record the outcome: no transaction is open during a call."""
        asked = event.data
        async with handling(event.id) as session:
            if session is not None:
                session.add(
                    Payment(
                        payment_id=asked.payment_id,
                        invoice_id=asked.invoice_id,
                        amount_minor=asked.amount_minor,
                        currency=asked.currency,
                        method_token=asked.method.token,
                        status="requested",
                        version=1,
                    )
                )
        async with sessions() as session:
            found = await session.get_one(Payment, asked.payment_id)
        if found.status == "requested":
            gateway_id = await _call_gateway(f"pi_{asked.payment_id}")
            async with sessions.begin() as session:
                await _move(session, asked.payment_id, "prepared", seq=1, gateway_id=gateway_id)
        if found.status != "captured":
            receipt_number = await _call_gateway(f"ch_{asked.payment_id}")
            async with sessions.begin() as session:
                await _move(session, asked.payment_id, "captured", seq=2, receipt_number=receipt_number)
                captured = PaymentCaptured(
                    payment_id=asked.payment_id, invoice_id=asked.invoice_id, receipt_number=receipt_number
                )
                session.add(Outcome(asked.payment_id, 3, say(session, captured, event)))
            committed.set()


async def _call_gateway(answer: str) -> str:
    """In this process, at 0 ms."""
    await asyncio.sleep(0)
    return answer


async def _move(session: AsyncSession, payment_id: UUID, status: str, *, seq: int, **columns: str) -> None:
    payment = await session.get_one(Payment, payment_id, with_for_update=True)
    payment.status = status
    payment.version += 1
    for name, value in columns.items():
        setattr(payment, name, value)
    session.add(Attempt(payment_id, seq, "prepare" if seq == 1 else "execute", status))


# -- saga ------------------------------------------------------------------------------------------------------------------------------


def saga_service() -> None:
    @on(InvoicePaymentRequested)
    async def requested(event: CloudEvent[InvoicePaymentRequested]) -> None:
        async with handling(event.id) as session:
            if session is not None:
                await _advance(session, event, "awaiting_outcome")

    @on(PaymentCaptured)
    async def captured(event: CloudEvent[PaymentCaptured]) -> None:
        async with handling(event.id) as session:
            if session is not None:
                saga = await _advance(session, event, "settling")
                saga.receipt_number = event.data.receipt_number
                say(session, RecordPayment(**event.data.model_dump()), event)

    @on(InvoicePaid)
    async def paid(event: CloudEvent[InvoicePaid]) -> None:
        async with handling(event.id) as session:
            if session is not None:
                await _advance(session, event, "completed")


_ORDER = ("awaiting_outcome", "settling", "completed")


async def _advance(session: AsyncSession, event: CloudEvent[Any], status: str) -> Saga:
    """To `status`, unless it has come further: messages may overtake each other. Started by whatever comes first."""
    payment_id, invoice_id = event.data.payment_id, event.data.invoice_id
    started = insert(Saga).values(payment_id=payment_id, invoice_id=invoice_id, status="awaiting_outcome", version=0)
    await session.execute(started.on_conflict_do_nothing())
    saga = await session.get_one(Saga, payment_id, with_for_update=True)
    if _ORDER.index(status) >= _ORDER.index(saga.status):
        saga.status = status
    saga.version += 1
    session.add(Transition(payment_id, saga.version, saga.status, event.id))
    if status != "completed":
        session.add(Deadline(payment_id, saga.version, datetime.now(UTC) + DEADLINE))
    return saga


# -- the process -----------------------------------------------------------------------------------------------------------------------

SERVICES = {"invoice": invoice_service, "payment_gateway": payment_gateway_service, "saga": saga_service}


def main() -> None:
    SERVICES[SERVICE]()
    app = FastStream(broker, logger=None)
    running: list[asyncio.Task[None]] = []

    @app.on_startup
    async def _create_tables() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(tables.create, SERVICE)

    @app.after_startup
    async def _relay() -> None:
        running.append(asyncio.create_task(relay()))

    @app.on_shutdown
    async def _stop() -> None:
        for task in running:
            task.cancel()

    uvloop.run(app.run())


if __name__ == "__main__":
    main()
