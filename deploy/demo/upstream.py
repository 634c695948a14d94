"""An upstream system as it would be written elsewhere: it sends commands, keeps its own history, and receives answers and events.

It uses aio-pika directly, and only the message models of our code. This file shows how a program talks to Remit.
"""

import asyncio
import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.connection import make_url
from aiormq.exceptions import PublishError

from shared.contracts.base import Contract
from shared.ids import new_id

CLOUD_EVENT = "application/cloudevents+json"
CONNECT_TIMEOUT_S = 10.0
CONFIRM_TIMEOUT_S = 5.0
T = TypeVar("T")
LOST_ERRORS = (Exception, asyncio.CancelledError)
"""aio-pika has many signs of a lost connection, a bare `Exception` among them. It also cancels tasks that wait on a closed channel."""
SEND_DEADLINE_S = 60.0
"""How long it tries to send a command. A broker that restarts is back long before."""
RESEND_PAUSE_S = 0.3
PREFETCH = 200


@dataclass(frozen=True, slots=True)
class AnswerReceived:
    """The terminal answer of a command."""

    answer: str
    reason: str | None


@dataclass(slots=True)
class PaymentNews:
    """What events have told about one payment. Times are seconds of `time.monotonic`."""

    sent_at: float
    outcome: str | None = None
    outcome_at: float | None = None
    in_doubt: bool = False
    needs_decision: bool = False


class Upstream:
    """One sender. Its queues are durable, so that it misses nothing while the broker restarts. It opens lost connections again."""

    def __init__(self, url: str, name: str, history: Path) -> None:
        self._url = url
        self._name = name
        self._user = unquote(urlsplit(url).username or "guest")
        self._history = history
        self._sending: AbstractChannel | None = None
        self._sending_connection: AbstractConnection | None = None
        self._opening = asyncio.Lock()
        self._answers: dict[UUID, asyncio.Future[AnswerReceived]] = {}
        self.answers: dict[UUID, list[AnswerReceived]] = defaultdict(list)
        self.payments: dict[UUID, PaymentNews] = {}
        self.refunds: dict[UUID, str] = {}
        """What is known of each refund: `refunded`, `failed`, or `waits for a person`."""
        self.events: dict[str, int] = defaultdict(int)
        self.news = asyncio.Event()
        self.patience_s = SEND_DEADLINE_S
        """How long it waits for an answer, in seconds."""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, name: str, history: Path) -> AsyncIterator[Self]:
        """Connect and listen. The queues are deleted at the end."""
        upstream = cls(url, name, history)
        listening = asyncio.create_task(upstream._keep_listening(await upstream._listen()))
        try:
            yield upstream
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await upstream._stop_sending()
            await _again_after_losses(upstream._delete_queues, give_up_at=time.monotonic() + SEND_DEADLINE_S)

    @property
    def reply_to(self) -> str:
        return (
            f"{self._user}.{self._name}.answers"  # an answer goes only to a queue that begins with the name of the user
        )

    # -- sending -----------------------------------------------------------------------------------------------------------------------

    async def ask(self, command: Contract, *, command_id: UUID | None = None) -> tuple[UUID, AnswerReceived]:
        """Send a command and wait for its answer."""
        id_ = await self.send(command, command_id=command_id)
        return id_, await self.answer(id_)

    async def send(self, command: Contract, *, command_id: UUID | None = None, **changes: Any) -> UUID:
        """Publish a command as CloudEvents JSON until the broker confirms it. Publishing it again with the same id is harmless."""
        id_ = command_id or new_id()
        event = {
            "specversion": "1.0",
            "id": str(id_),
            "type": command.wire_name,
            "source": f"/{self._name}",
            "time": datetime.now(UTC).isoformat(),  # noqa: TID251 - an outside system has a clock of its own
            "data": command.model_dump(mode="json"),
        }
        payment_id = getattr(command, "payment_id", None)
        if payment_id is not None:
            self.payments.setdefault(payment_id, PaymentNews(sent_at=time.monotonic()))
        await self.send_raw(json.dumps(event | changes).encode(), type_=command.wire_name, command_id=id_)
        return id_

    async def send_raw(self, body: bytes, *, type_: str, command_id: UUID, content_type: str = CLOUD_EVENT) -> None:
        """Send any bytes under a command id."""
        self._answers.setdefault(command_id, asyncio.get_running_loop().create_future())
        message = aio_pika.Message(
            body,
            content_type=content_type,
            message_id=str(command_id),
            correlation_id=str(command_id),
            type=type_,
            reply_to=self.reply_to,
            user_id=self._user,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        confirmed = await self._until_confirmed(message, type_)
        line = json.dumps({"command_id": str(command_id), "type": type_, "confirmed": confirmed})
        with self._history.open("a", encoding="utf-8") as history:
            history.write(line + "\n")

    async def _until_confirmed(self, message: aio_pika.Message, routing_key: str) -> bool:
        give_up_at = time.monotonic() + SEND_DEADLINE_S
        while time.monotonic() < give_up_at:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S + CONFIRM_TIMEOUT_S):
                    channel = await self._channel_to_send_on()
                    exchange = await channel.get_exchange("invoice.commands.entry", ensure=False)
                    await exchange.publish(message, routing_key=routing_key, timeout=CONFIRM_TIMEOUT_S)
                return True
            except PublishError:  # the message was returned; the channel still works
                await asyncio.sleep(RESEND_PAUSE_S)
            except LOST_ERRORS:
                # A refusal (nack) comes here too. In RabbitMQ 3.10 a channel that met a queue without a leader may refuse for ever.
                if _is_cancelled():
                    raise
                await self._stop_sending()
                await asyncio.sleep(RESEND_PAUSE_S)
        return False

    async def _channel_to_send_on(self) -> AbstractChannel:
        async with self._opening:
            if self._sending is None:
                self._sending_connection = await _connect(self._url)
                self._sending = await self._sending_connection.channel(publisher_confirms=True, on_return_raises=True)
            return self._sending

    async def _stop_sending(self) -> None:
        """Close the channel. Other tasks that wait for a confirm on it fail, and send again on the next channel."""
        connection, self._sending, self._sending_connection = self._sending_connection, None, None
        if connection is not None:
            await _close(connection)

    # -- listening ---------------------------------------------------------------------------------------------------------------------

    async def _listen(self) -> AbstractConnection:
        """Open a connection for listening, and consume answers and events on it."""
        connection = await _connect(self._url)
        try:
            await self._consume_on(await connection.channel())
        except LOST_ERRORS:
            await _close(connection)
            raise
        return connection

    async def _consume_on(self, channel: AbstractChannel) -> None:
        await channel.set_qos(PREFETCH)
        answers = await channel.declare_queue(self.reply_to, durable=True, arguments={"x-queue-type": "quorum"})
        events = await channel.declare_queue(self._events_queue, durable=True, arguments={"x-queue-type": "quorum"})
        await events.bind("invoice.events", "#")
        for name in ("PaymentNeedsDecision", "PaymentRefundFailed"):
            await events.bind("payment.events", f"remit.payment_gateway.{name}.v1.#")
        await answers.consume(self._on_answer)
        await events.consume(self._on_event)

    async def _keep_listening(self, connection: AbstractConnection) -> None:
        """Open the connection again after every loss, until cancelled."""
        try:
            while True:
                lost = asyncio.Event()
                connection.close_callbacks.add(lambda *_, lost=lost: lost.set())
                if connection.connected.is_set():
                    await lost.wait()
                connection = await _again_after_losses(self._listen, give_up_at=math.inf)
        finally:
            await _close(connection)

    async def _delete_queues(self) -> None:
        async with await _connect(self._url) as connection:
            channel = await connection.channel()
            for name in (self.reply_to, self._events_queue):
                await channel.queue_delete(name)

    @property
    def _events_queue(self) -> str:
        return f"{self._user}.{self._name}.events"

    async def answer(self, command_id: UUID, *, within_s: float | None = None) -> AnswerReceived:
        """The first answer to a command. Raises TimeoutError."""
        async with asyncio.timeout(self.patience_s if within_s is None else within_s):
            return await asyncio.shield(self._answers[command_id])

    async def outcome(self, payment_id: UUID, *, within_s: float) -> str | None:
        """`paid`, `declined` or `not_charged`; None if a person has to decide, or if none was known within the time."""
        news = self.payments[payment_id]
        await self._until(lambda: news.outcome is not None or news.needs_decision, within_s)
        return news.outcome

    async def refund_outcome(self, refund_id: UUID, *, within_s: float) -> str | None:
        """What became of a refund; None if nothing was known within the time."""
        await self._until(lambda: refund_id in self.refunds, within_s)
        return self.refunds.get(refund_id)

    async def _until(self, is_known: Callable[[], bool], within_s: float) -> None:
        """Wait for news until this is so, or until the time is over."""
        give_up_at = time.monotonic() + within_s
        while not is_known() and (left := give_up_at - time.monotonic()) > 0:
            self.news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 1.0)):
                    await self.news.wait()

    async def _on_answer(self, message: AbstractIncomingMessage) -> None:
        data = json.loads(message.body)["data"]
        command_id, answer = UUID(data["command_id"]), AnswerReceived(data["answer"], data["reason"])
        self.answers[command_id].append(answer)
        future = self._answers.get(command_id)
        if future is not None and not future.done():
            future.set_result(answer)
        await message.ack()

    async def _on_event(self, message: AbstractIncomingMessage) -> None:
        event = json.loads(message.body)
        name = event["type"].split(".")[-2]
        self.events[name] += 1
        news = self.payments.get(UUID(payment)) if (payment := event["data"].get("payment_id")) else None
        if news is not None:
            self._note(name, event["data"], news)
        self._note_refund(name, event["data"])
        self.news.set()
        await message.ack()

    def _note(self, name: str, data: dict[str, Any], news: PaymentNews) -> None:
        match name:
            case "InvoicePaymentInDoubt":
                news.in_doubt = True
            case "PaymentNeedsDecision":
                news.needs_decision = True
            case "InvoicePaid" | "InvoicePaymentFailed" if news.outcome is None:
                news.outcome = "paid" if name == "InvoicePaid" else data["outcome"]
                news.outcome_at = time.monotonic()

    def _note_refund(self, name: str, data: dict[str, Any]) -> None:
        match name:
            case "InvoiceRefunded":
                self.refunds[UUID(data["refund_id"])] = "refunded"
            case "InvoiceRefundFailed":
                self.refunds[UUID(data["refund_id"])] = "failed"
            case "PaymentRefundFailed" if data.get("refund"):
                self.refunds.setdefault(UUID(data["refund"]["refund_id"]), "waits for a person")
            case _:
                pass


async def _again_after_losses(work: Callable[[], Awaitable[T]], *, give_up_at: float) -> T:
    """The result of `work` on a connection of its own, also while the broker is just coming back. Raises its last error at `give_up_at`."""
    while True:
        try:
            async with asyncio.timeout(3 * CONNECT_TIMEOUT_S):
                return await work()
        except LOST_ERRORS:
            if _is_cancelled() or time.monotonic() >= give_up_at:
                raise
            await asyncio.sleep(RESEND_PAUSE_S)


def _is_cancelled() -> bool:
    return (task := asyncio.current_task()) is not None and task.cancelling() > 0


async def _connect(url: str) -> AbstractConnection:
    """Connect as `aio_pika.connect` does, but close a connection that failed.

    aio-pika leaves it to the garbage collector, which may run when no event loop runs any more.
    """
    connection = aio_pika.Connection(make_url(url))
    try:
        await connection.connect(timeout=CONNECT_TIMEOUT_S)
    except BaseException:
        await _close(connection)
        raise
    return connection


async def _close(connection: AbstractConnection) -> None:
    """Close the connection; it may be lost already."""
    with contextlib.suppress(*LOST_ERRORS):
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await connection.close()
