"""DBOS Transact: one durable workflow pays an invoice, started by a message of a quorum queue.

Run it by `python -m tests.bench.peers.dbos_workflow NAME`, with RABBITMQ_URL and DATABASE_URL; any number of processes, each with its NAME.
The command's id is the workflow's id, so a redelivery finds the existing workflow. The workflow's status row is inbox and saga. Its step
outputs are the journal; they are checkpointed in the transactions of the application's own rows (`AsyncSQLAlchemyDatasource`). A step
publishes `InvoicePaid`, and is retried until the broker has confirmed: so DBOS needs no outbox. The message is acknowledged when its
workflow has ended.
"""

import asyncio
import os
import signal
import sys
from typing import Any
from uuid import UUID

import aio_pika
import uvloop
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage
from dbos import DBOS, AsyncSQLAlchemyDatasource, SetWorkflowID
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bench.peers import tables
from tests.bench.peers.contracts import CONTENT_TYPE, CloudEvent, InvoicePaid, PayInvoice, envelope
from tests.bench.peers.tables import PaymentId, PeerAnswer, PeerAttempt, PeerEvent, PeerInvoice, PeerPayment

PREFETCH = 50
CONNECTIONS = 20

ISOLATION: Any = {"isolation_level": "READ COMMITTED"}
"""Rows are locked, as in the other implementations. DBOS's default, SERIALIZABLE, would repeat transactions that conflict."""


class DbosApp:
    """What is opened once in each process."""

    rows: AsyncSQLAlchemyDatasource
    events: AbstractExchange


# -- the workflow ----------------------------------------------------------------------------------------------------------------------


@DBOS.workflow()
async def pay_invoice(raw: dict[str, Any]) -> str:
    command = CloudEvent[PayInvoice].model_validate(raw)
    pay = command.data
    if reason := await _transaction(accept, command):
        return f"rejected: {reason}"
    gateway_id = await call_gateway(f"pi_{pay.payment_id}")
    await _transaction(record_step, pay.payment_id, 1, {"status": "prepared", "gateway_id": gateway_id})
    receipt_number = await call_gateway(f"ch_{pay.payment_id}")
    await _transaction(record_step, pay.payment_id, 2, {"status": "captured", "receipt_number": receipt_number})
    message = await _transaction(settle, command, receipt_number)
    await publish(message)
    return "accepted"


async def _transaction(function: Any, *arguments: Any) -> Any:
    return await DbosApp.rows.run_tx_step_async(ISOLATION, function, *arguments)


def _session() -> AsyncSession:
    session: AsyncSession = DbosApp.rows.sql_session()
    return session


async def accept(command: CloudEvent[PayInvoice]) -> str | None:
    """Store the invoice's event, state and answer, and the payment row from which charging starts; returns the reason of a refusal."""
    session, pay = _session(), command.data
    invoice = await session.get(PeerInvoice, pay.invoice_id, with_for_update=True)
    reason = _refusal(invoice, pay)
    if invoice is None or reason:
        session.add(PeerAnswer(command.id, pay.invoice_id, "rejected", reason))
        return reason
    invoice.status, invoice.payment_id = "payment_pending", pay.payment_id
    invoice.version += 1
    data = pay.model_dump(mode="json")
    session.add(PeerEvent(invoice.invoice_id, invoice.version, "PaymentRequested.1", data, command.id))
    session.add(PaymentId(pay.payment_id, invoice.invoice_id, pending=True))
    session.add(PeerAnswer(command.id, invoice.invoice_id, "accepted"))
    row = PeerPayment(
        payment_id=pay.payment_id,
        invoice_id=pay.invoice_id,
        amount_minor=pay.amount_minor,
        currency=pay.currency,
        method_token=pay.method.token,
        status="requested",
        version=1,
    )
    session.add(row)
    return None


def _refusal(invoice: PeerInvoice | None, pay: PayInvoice) -> str | None:
    if invoice is None:
        return "unknown_invoice"
    if invoice.status != "open":
        return "payment_under_way"
    return None if (pay.amount_minor, pay.currency) == (invoice.amount_minor, invoice.currency) else "amount_differs"


@DBOS.step(retries_allowed=True)
async def call_gateway(answer: str) -> str:
    """The gateway, in this process, at 0 ms. The idempotency key would be the payment id."""
    await asyncio.sleep(0)
    return answer


async def record_step(payment_id: UUID, seq: int, columns: dict[str, str]) -> None:
    session = _session()
    payment = await session.get_one(PeerPayment, payment_id, with_for_update=True)
    payment.version += 1
    for name, value in columns.items():
        setattr(payment, name, value)
    session.add(PeerAttempt(payment_id, seq, "prepare" if seq == 1 else "execute", columns["status"]))


async def settle(command: CloudEvent[PayInvoice], receipt_number: str) -> dict[str, Any]:
    """Record the invoice as paid; returns the message that publishes it, which is made once."""
    session, pay = _session(), command.data
    invoice = await session.get_one(PeerInvoice, pay.invoice_id, with_for_update=True)
    invoice.status, invoice.receipt_number = "paid", receipt_number
    invoice.version += 1
    paid = InvoicePaid(
        payment_id=pay.payment_id,
        invoice_id=pay.invoice_id,
        receipt_number=receipt_number,
        amount_minor=invoice.amount_minor,
        currency=invoice.currency,
    )
    event = envelope(paid, caused_by=command)
    data = paid.model_dump(mode="json")
    session.add(PeerEvent(invoice.invoice_id, invoice.version, "Paid.1", data, command.id))
    used = await session.get_one(PaymentId, pay.payment_id)
    used.pending = False
    message: dict[str, Any] = event.model_dump(mode="json")
    return message


@DBOS.step(retries_allowed=True, max_attempts=10)
async def publish(message: dict[str, Any]) -> None:
    event = CloudEvent[InvoicePaid].model_validate(message)
    await DbosApp.events.publish(
        aio_pika.Message(
            event.model_dump_json().encode(),
            content_type=CONTENT_TYPE,
            message_id=str(event.id),
            type=event.type,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        ),
        routing_key=event.type,
    )


# -- the process -----------------------------------------------------------------------------------------------------------------------


async def on_message(message: AbstractIncomingMessage) -> None:
    command = CloudEvent[PayInvoice].model_validate_json(message.body)
    with SetWorkflowID(str(command.id)):
        await pay_invoice(command.model_dump(mode="json"))
    await message.ack()


async def serve() -> None:
    url, name = os.environ["DATABASE_URL"], sys.argv[1]
    DBOS(config={"name": "peer", "system_database_url": url, "executor_id": name, "log_level": "ERROR"})
    DbosApp.rows = await AsyncSQLAlchemyDatasource.create(
        url, engine_kwargs={"pool_size": CONNECTIONS, "max_overflow": 0}
    )
    async with DbosApp.rows.engine.begin() as connection:
        await connection.run_sync(tables.create, "all")
    connection_to_broker = await aio_pika.connect_robust(os.environ["RABBITMQ_URL"])
    channel = await connection_to_broker.channel(on_return_raises=True)
    await channel.set_qos(PREFETCH)
    DbosApp.events = await channel.declare_exchange(InvoicePaid.exchange, aio_pika.ExchangeType.TOPIC, durable=True)
    commands = await channel.declare_exchange(PayInvoice.exchange, aio_pika.ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue("invoice.PayInvoice", durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(commands, PayInvoice.wire_name)
    DBOS.launch()
    await queue.consume(on_message)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await connection_to_broker.close()
    DBOS.destroy()


if __name__ == "__main__":
    uvloop.run(serve())
