"""An upstream system: it sends commands, and listens."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from pamqp.commands import Queue

from shared.amqp.broker_link import user_in
from shared.clock import system_clock
from shared.contracts.base import Contract
from shared.contracts.catalogue import BY_WIRE_NAME
from shared.messaging.codec import STRUCTURED
from shared.messaging.topology import COMMAND_ENTRY, QUEUES, RoutingSuffix, ingress_exchange, routing_key
from tests.support.waiting import until

DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Received:
    """A message as an upstream system receives it."""

    id: str
    type: str
    data: dict[str, Any]
    event: dict[str, Any]
    message: AbstractIncomingMessage

    @property
    def content(self) -> Contract:
        """The content as the whole value of its contract."""
        return BY_WIRE_NAME[self.type].model_validate_json(json.dumps(self.data))


class Subscription:
    """A queue of the test's own."""

    def __init__(self, queue: AbstractQueue) -> None:
        self._queue = queue
        self.name = queue.name

    async def next(self, within_s: float = DEADLINE_S) -> Received:
        """The next message; fails after the deadline."""
        async with asyncio.timeout(within_s):
            while True:
                message = await self._queue.get(no_ack=True, fail=False)
                if message is not None:
                    return _received(message)
                await asyncio.sleep(0.01)

    async def take(self, count: int, within_s: float = DEADLINE_S) -> list[Received]:
        """The next `count` messages."""
        return [await self.next(within_s) for _ in range(count)]

    async def waiting(self) -> list[Received]:
        """The messages that are in the queue now."""
        received = []
        while (message := await self._queue.get(no_ack=True, fail=False)) is not None:
            received.append(_received(message))
        return received


def _received(message: AbstractIncomingMessage) -> Received:
    event = json.loads(message.body) if message.body.startswith(b"{") else {}
    return Received(str(message.message_id), str(message.type), event.get("data", {}), event, message)


class UpstreamClient:
    """A connection of an upstream system."""

    def __init__(self, channel: AbstractChannel, user: str) -> None:
        self._channel = channel
        self.user = user

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> "AsyncIterator[UpstreamClient]":
        connection = await aio_pika.connect(url, timeout=10)
        try:
            yield cls(await connection.channel(on_return_raises=True), user_in(url))
        finally:
            await connection.close()

    async def send(
        self,
        data: Contract,
        *,
        message_id: UUID | None = None,
        routing_suffix: RoutingSuffix = "",
        reply_to: str | None = None,
        queue: str | None = None,
        named: bool = True,
        **extensions: Any,
    ) -> UUID:
        """Publish a message as CloudEvents JSON; returns its id. With `queue` it goes straight there, by no exchange of its own."""
        id_ = message_id or uuid4()
        event = {
            "specversion": "1.0",
            "id": str(id_),
            "type": data.wire_name,
            "source": "/test",
            "time": system_clock().isoformat(),
            "data": data.model_dump(mode="json"),
            **extensions,
        }
        await self.send_raw(
            json.dumps(event).encode(),
            exchange=ingress_exchange(data.exchange) if queue is None else "",
            key=queue or routing_key(data.wire_name, routing_suffix),
            message_id=str(id_),
            reply_to=reply_to,
            named=named,
        )
        return id_

    async def send_raw(
        self,
        body: bytes,
        *,
        exchange: str = COMMAND_ENTRY,
        key: str = "any",
        content_type: str | None = STRUCTURED,
        message_id: str | None = None,
        reply_to: str | None = None,
        correlation_id: str | None = None,
        headers: dict[str, Any] | None = None,
        named: bool = True,
    ) -> None:
        """Publish any bytes, and wait for the confirm. If `named`, the broker vouches for the name of the user."""
        message = aio_pika.Message(
            body,
            content_type=content_type,
            message_id=message_id,
            reply_to=reply_to,
            correlation_id=correlation_id,
            headers=headers,
            user_id=self.user if named else None,
            delivery_mode=2,
        )
        target = (
            await self._channel.get_exchange(exchange, ensure=False) if exchange else self._channel.default_exchange
        )
        await target.publish(message, routing_key=key, timeout=10)

    async def tap(self, exchange: str, key: str | None = None) -> Subscription:
        """Listen to an exchange from now on. Without a key: to the keys by which our queues need it; if there are none, to all keys."""
        queue = await self._channel.declare_queue(exclusive=True)
        needed = [binding for one in QUEUES if not one.is_optional for binding in one.bindings]
        bound = {binding.routing_key for binding in needed if binding.exchange == exchange}
        for each in {key} if key is not None else bound or {"#"}:
            await queue.bind(exchange, each)
        return Subscription(queue)

    async def inbox(self) -> Subscription:
        """A private queue, to be named in `reply_to`."""
        return Subscription(await self._channel.declare_queue(f"{self.user}.answers.{uuid4()}", exclusive=True))

    async def full_queue(self) -> str:
        """A queue that refuses every message."""
        full: dict[str, int | str] = {"x-max-length": 0, "x-overflow": "reject-publish"}
        return (await self._channel.declare_queue(exclusive=True, arguments={**full})).name

    async def queue_that_is_full(self) -> AbstractQueue:
        """A queue that refuses messages until somebody takes out those that are in it."""
        full: dict[str, int | str] = {"x-max-length": 1, "x-overflow": "reject-publish"}
        queue = await self._channel.declare_queue(exclusive=True, arguments={**full})
        await self.send_raw(b"{}", exchange="", key=queue.name)
        return queue

    async def queue(self, name: str) -> Subscription:
        """One of Remit's queues, consumed by the test instead of its service."""
        return Subscription(await self._channel.get_queue(name))

    async def delete_queue(self, name: str) -> None:
        """Delete one of Remit's queues, with what is in it."""
        await (await self._channel.get_queue(name)).delete(if_unused=False, if_empty=False)

    async def depth(self, name: str) -> int:
        """The number of messages ready in a queue."""
        queue = await self._channel.declare_queue(name, passive=True)
        return queue.declaration_result.message_count or 0

    async def purge(self, *, when_unconsumed: bool = False) -> None:
        """Empty all of Remit's queues. To purge one that is empty costs the broker an entry in its log, synced to the disk.

        `when_unconsumed`: wait until nobody consumes a queue. What a consumer had not acknowledged is back in its queue when the broker has
        noticed its end, a moment after the client has.
        """
        channel = await self._channel.get_underlay_channel()

        async def look(name: str) -> Queue.DeclareOk | None:
            found = await channel.queue_declare(name, passive=True, timeout=10)
            return None if when_unconsumed and found.consumer_count else found

        for queue in QUEUES:
            found = await until(partial(look, queue.name), what=f"the end of all consumers of {queue.name}")
            if found is not None and found.message_count:
                await channel.queue_purge(queue.name, timeout=10)
