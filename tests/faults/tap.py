"""An independent listener: queues of its own, bound exactly as our work queues are, and a file of the messages that arrived on them."""

import asyncio
import hashlib
import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, Self
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustChannel, AbstractRobustQueue

from shared.messaging.topology import WORK_QUEUES
from shared.observability.logs import redact

PREFIX: Final = "tap."
REMEMBERED_MAX: Final = 50
PREFETCH: Final = 200
DELIVERIES: Final = "x-delivery-count"
"""A header that the broker adds."""
UUID_FORM: Final = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Tap:
    """Records the messages of every work queue as JSON lines: queue, message id, hash of the body. An id with a card number is masked."""

    def __init__(self, channel: AbstractRobustChannel, path: Path) -> None:
        self.path = path
        path.touch()
        self._channel = channel
        self._queues: dict[str, AbstractRobustQueue] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._last: dict[str, deque[AbstractIncomingMessage]] = defaultdict(lambda: deque(maxlen=REMEMBERED_MAX))

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, path: Path) -> AsyncIterator[Self]:
        """Listen until the block ends."""
        connection = await aio_pika.connect_robust(url, timeout=10, reconnect_interval=0.5)
        async with connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            await channel.set_qos(PREFETCH)
            tap = cls(channel, path)
            await tap.listen()
            yield tap

    async def listen(self) -> None:
        """Declare, bind and consume; repeated after queues were deleted."""
        for queue in WORK_QUEUES:
            if queue.name in self._queues:
                continue
            own = self._queues[queue.name] = await self._channel.declare_queue(
                f"{PREFIX}{queue.name}", durable=True, arguments={"x-queue-type": "quorum"}
            )
            for binding in queue.bindings:
                await own.bind(binding.exchange, binding.routing_key)
            await own.consume(partial(self._on_message, queue.name), consumer_tag=f"{PREFIX}{queue.name}")

    async def ignore(self, queue: str) -> None:
        """Stop listening beside that queue and delete our own, so that a message for it alone is unroutable. `listen` undoes it."""
        own = self._queues.pop(queue)
        await own.cancel(f"{PREFIX}{queue}")
        await own.delete(if_unused=False, if_empty=False)

    async def echo(self, queue: str, *, count: int = 1) -> int:
        """Publish the last messages of a queue again, byte for byte, as a publisher that never saw its confirms does; returns how many."""
        return await self.send_again(queue, self.last(queue)[-count:])

    async def send_again(self, queue: str, messages: Sequence[AbstractIncomingMessage]) -> int:
        """Publish just these messages again; returns how many."""
        for message in messages:
            async with asyncio.timeout(10):
                await self._channel.default_exchange.publish(copy_of(message), routing_key=queue)
        return len(messages)

    def last(self, queue: str) -> list[AbstractIncomingMessage]:
        """The last messages of that queue, the newest at the end."""
        return list(self._last[queue])

    def seen(self, queue: str) -> set[UUID]:
        """The ids of that queue's messages, if they are UUIDs, as all of ours are."""
        return {UUID(name) for of, name in self._counts if of == queue and UUID_FORM.fullmatch(name)}

    def counts(self) -> Counter[tuple[str, str]]:
        """How often each message arrived so far, by queue and message id."""
        return self._counts.copy()

    @property
    def duplicates(self) -> int:
        """The number of messages that arrived more than once on the same queue."""
        return sum(count > 1 for count in self._counts.values())

    async def _on_message(self, queue: str, message: AbstractIncomingMessage) -> None:
        self._counts[queue, str(message.message_id)] += 1
        self._last[queue].append(message)
        line = {
            "queue": queue,
            "message_id": redact(str(message.message_id)),
            "sha256": hashlib.sha256(message.body).hexdigest(),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        await message.ack()


def ids_of(messages: Iterable[AbstractIncomingMessage]) -> list[UUID]:
    """The ids of these messages, if they are UUIDs, as all of ours are."""
    names = [str(message.message_id) for message in messages]
    return [UUID(name) for name in names if UUID_FORM.fullmatch(name)]


def copy_of(message: AbstractIncomingMessage) -> aio_pika.Message:
    """The same bytes under the same properties."""
    return aio_pika.Message(
        message.body,
        content_type=message.content_type,
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        type=message.type,
        user_id=message.user_id,
        headers={name: value for name, value in message.headers.items() if name != DELIVERIES},
        delivery_mode=2,
    )
