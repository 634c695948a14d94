"""An upstream system as it would be written elsewhere: it sends commands, keeps its own history, and hears answers and events.

It uses aio-pika directly and of ours only the message models: whoever wants to know how to talk to Remit can read this file.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustChannel
from aiormq.exceptions import AMQPError

from shared.contracts.base import Contract
from shared.ids import new_id

CLOUD_EVENT = "application/cloudevents+json"
CONFIRM_TIMEOUT_S = 5.0
SEND_DEADLINE_S = 60.0
"""A broker that restarts is back long before."""
RESEND_PAUSE_S = 0.3
PREFETCH = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """The terminal answer of a command."""

    answer: str
    reason: str | None


@dataclass(slots=True)
class PaymentNews:
    """What was heard of one payment. Times are seconds of `time.monotonic`."""

    sent_at: float
    outcome: str | None = None
    outcome_at: float | None = None
    in_doubt: bool = False
    needs_decision: bool = False


class Upstream:
    """One sender. Its queues are durable, so that it misses nothing while the broker restarts."""

    def __init__(self, channel: AbstractRobustChannel, name: str, history: Path) -> None:
        self._channel = channel
        self._name = name
        self._history = history
        self._answers: dict[UUID, asyncio.Future[Answer]] = {}
        self.answers: dict[UUID, list[Answer]] = defaultdict(list)
        self.payments: dict[UUID, PaymentNews] = {}
        self.events: dict[str, int] = defaultdict(int)
        self.news = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, name: str, history: Path) -> AsyncIterator[Self]:
        """Connect and listen; the queues are deleted at the end."""
        connection = await aio_pika.connect_robust(url, timeout=10, reconnect_interval=0.5)
        async with connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            listening = await connection.channel()
            await listening.set_qos(PREFETCH)
            upstream = cls(channel, name, history)
            answers = await listening.declare_queue(
                upstream.reply_to, durable=True, arguments={"x-queue-type": "quorum"}
            )
            events = await listening.declare_queue(
                f"upstream.{name}.events", durable=True, arguments={"x-queue-type": "quorum"}
            )
            await events.bind("invoice.events", "#")
            await events.bind("payment.events", "remit.payment_gateway.PaymentNeedsDecision.v1.#")
            tags = [await answers.consume(upstream._on_answer), await events.consume(upstream._on_event)]
            try:
                yield upstream
            finally:
                for queue, tag in zip((answers, events), tags, strict=True):
                    await queue.cancel(tag)
                    await queue.delete(if_unused=False, if_empty=False)

    @property
    def reply_to(self) -> str:
        return f"upstream.{self._name}.answers"

    # -- sending -----------------------------------------------------------------------------------------------------------------------

    async def ask(self, command: Contract, *, command_id: UUID | None = None) -> tuple[UUID, Answer]:
        """Send a command and wait for its answer."""
        id_ = await self.send(command, command_id=command_id)
        return id_, await self.answer(id_)

    async def send(self, command: Contract, *, command_id: UUID | None = None, **changes: Any) -> UUID:
        """Send a command as CloudEvents JSON, until it is confirmed: sending again with the same id is harmless."""
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
                async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                    exchange = await self._channel.get_exchange("invoice.commands", ensure=False)
                    await exchange.publish(message, routing_key=routing_key, timeout=CONFIRM_TIMEOUT_S)
                return True
            except (AMQPError, OSError, TimeoutError, RuntimeError, asyncio.CancelledError):
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                await asyncio.sleep(RESEND_PAUSE_S)
        return False

    # -- listening ---------------------------------------------------------------------------------------------------------------------

    async def answer(self, command_id: UUID, *, within_s: float = SEND_DEADLINE_S) -> Answer:
        """The first answer to a command. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            return await asyncio.shield(self._answers[command_id])

    async def outcome(self, payment_id: UUID, *, within_s: float) -> str | None:
        """`paid`, `declined` or `not_charged`; None if a person has to decide, or nobody knew within the time."""
        give_up_at = time.monotonic() + within_s
        news = self.payments[payment_id]
        while news.outcome is None and not news.needs_decision:
            left = give_up_at - time.monotonic()
            if left <= 0:
                return None
            self.news.clear()
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await self.news.wait()
            except TimeoutError:
                continue
        return news.outcome

    async def _on_answer(self, message: AbstractIncomingMessage) -> None:
        data = json.loads(message.body)["data"]
        command_id, answer = UUID(data["command_id"]), Answer(data["answer"], data["reason"])
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
