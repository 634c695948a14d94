"""What somebody outside does at the broker: publishes whatever it likes, leaves queues full, and listens to all that is public."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage, AbstractQueue

from deploy.permissions.broker import broker_users, definitions
from shared.amqp.broker_link import user_in
from shared.contracts.base import Contract
from shared.ids import new_id
from shared.messaging.codec import STRUCTURED
from shared.messaging.topology import COMMAND_ENTRY, EXCHANGES

if TYPE_CHECKING:
    from tests.faults.testbed import Testbed

PASSWORD: Final = "stranger"
PUBLISH_TIMEOUT_S: Final = 30.0
PART_LENGTH: Final = 8
"""Shorter parts of a secret are found by chance."""
ROOM: Final = 10
"""Messages that a full queue takes before it refuses the rest."""
COSTLY: Final = ".".join(["#"] * 100)
"""A pattern that fits a key of four words in 4.6 million ways. RabbitMQ 3.10 tries each."""
FULL: Final[dict[str, int | str]] = {"x-max-length": ROOM, "x-overflow": "reject-publish"}


def event_of(command: Contract, command_id: UUID, **changes: Any) -> bytes:
    """The command as CloudEvents JSON."""
    event = {
        "specversion": "1.0",
        "id": str(command_id),
        "type": command.wire_name,
        "source": "/stranger",
        "data": command.model_dump(mode="json"),
    }
    return json.dumps(event | changes).encode()


class Stranger:
    """One connection of one user."""

    def __init__(self, connection: AbstractConnection, channel: AbstractChannel, user: str) -> None:
        self.connection = connection
        self._channel = channel
        self.user = user

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Self]:
        """Connect as the user of that URL."""
        connection = await aio_pika.connect(url, timeout=10)
        async with connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            yield cls(connection, channel, user_in(url))

    async def publish(self, body: bytes, *, exchange: str = COMMAND_ENTRY, key: str = "any", **properties: Any) -> None:
        """Publish under this user's name, and wait for the confirm. Without an exchange the key names a queue."""
        all_properties: dict[str, Any] = {"content_type": STRUCTURED, "delivery_mode": 2, "user_id": self.user}
        message = aio_pika.Message(body, **(all_properties | properties))
        target = (
            await self._channel.get_exchange(exchange, ensure=False) if exchange else self._channel.default_exchange
        )
        await target.publish(message, routing_key=key, timeout=PUBLISH_TIMEOUT_S)

    async def put_back(self, message: aio_pika.Message, queue: str) -> None:
        """Publish a message to a queue just as it is."""
        await self._channel.default_exchange.publish(message, routing_key=queue, timeout=PUBLISH_TIMEOUT_S)

    async def send(self, command: Contract, *, command_id: UUID | None = None, **properties: Any) -> UUID:
        """Publish a command as it should be; returns its id."""
        id_ = command_id or new_id()
        await self.publish(
            event_of(command, id_), message_id=str(id_), type=command.wire_name, key=command.wire_name, **properties
        )
        return id_

    def own_name(self) -> str:
        """A new name for a queue. It begins with the user's name, as the name of a queue for answers must."""
        return f"{self.user}.{new_id()}"

    async def full_queue(self, exchange: str = "") -> AbstractQueue:
        """A queue of its own that soon refuses all messages. It hears everything of this exchange, if there is one."""
        queue = await self._channel.declare_queue(self.own_name(), exclusive=True, arguments={**FULL})
        if exchange:
            await queue.bind(exchange, "#")
        return queue

    async def costly_binding(self, exchange: str) -> AbstractExchange:
        """An exchange of its own that hears everything of this one. Over the pattern behind it the broker computes for minutes."""
        own = await self._channel.declare_exchange(self.own_name(), "topic", auto_delete=True)
        await own.bind(exchange, "#")
        queue = await self._channel.declare_queue(self.own_name(), exclusive=True)
        await queue.bind(own, COSTLY)
        return own

    async def queue(self, name: str) -> AbstractQueue:
        """A queue that exists."""
        return await self._channel.get_queue(name)

    async def depth(self, name: str) -> int:
        """How many messages wait in a queue."""
        return (await self._channel.declare_queue(name, passive=True)).declaration_result.message_count or 0

    async def own_queue(self, name: str) -> AbstractQueue:
        """A queue of its own of that name."""
        return await self._channel.declare_queue(name, exclusive=True)

    async def hear(self, exchange: str, key: str) -> AbstractQueue:
        """A queue of its own that gets what is published under this key."""
        queue = await self._channel.declare_queue(self.own_name(), exclusive=True)
        await queue.bind(exchange, key)
        return queue


class PublicListener:
    """Hears everything that is public, and remembers it."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        """Of each message the body, its routing key, and its properties as text."""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Self]:
        """Listen to every topic exchange until the block ends."""
        listener = cls()
        async with Stranger.open(url) as stranger:
            for exchange in (exchange.name for exchange in EXCHANGES if exchange.type == "topic"):
                queue = await stranger.hear(exchange, "#")
                await queue.consume(listener._on_message, no_ack=True)
            yield listener

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        self.messages.append(message.body + repr((message.routing_key, message.info())).encode())

    def overheard(self, secrets: Iterable[str]) -> list[str]:
        """The parts of these secrets that it heard, each of `PART_LENGTH` characters. They are not secret any more."""
        parts = {
            secret[at : at + PART_LENGTH].encode() for secret in secrets for at in range(len(secret) - PART_LENGTH + 1)
        }
        heard = {
            message[at : at + PART_LENGTH] for message in self.messages for at in range(len(message) - PART_LENGTH + 1)
        }
        return sorted(part.decode() for part in parts & heard)


@asynccontextmanager
async def as_sender(testbed: "Testbed", name: str) -> AsyncIterator[str]:
    """A user with the permissions of a sender, as `remit permissions` gives them. Yields its URL."""
    stack = testbed.system.stack
    users = [user for user in broker_users(senders=[name]) if user.name == name]
    made = json.dumps(definitions(users, testbed.vhost, {name: PASSWORD}))
    await asyncio.to_thread(stack.broker.import_definitions, made)
    try:
        parts = urlsplit(stack.rabbitmq_url)
        yield parts._replace(netloc=f"{name}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()
    finally:
        await asyncio.to_thread(stack.broker.ctl, "delete_user", name)


async def take_all(queue: AbstractQueue) -> list[AbstractIncomingMessage]:
    """Take the messages that are in the queue now."""
    taken: list[AbstractIncomingMessage] = []
    async with asyncio.timeout(PUBLISH_TIMEOUT_S):
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            taken.append(message)
    return taken
