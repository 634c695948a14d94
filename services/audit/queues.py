"""Reads the queues over plain AMQP: ready messages, consumers, and (if there is no consumer) the messages themselves.

To read a message the audit must take it and give it back, and the broker counts that as a delivery, of which a message has a hundred. So it
reads messages only in a drained system, only from queues without a consumer, and only so many. It never takes what ended the connection of
the staff service whenever it was delivered.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.audit.errors import AuditError, StoreAwayError
from shared.amqp.broker_link import (
    BROKER_ERRORS,
    RPC_TIMEOUT_S,
    AccessRefusedError,
    BrokerLink,
    CannotConnectError,
    Channel,
    ChannelNotFoundEntity,
    DeliveredMessage,
    losses_as_errors,
)
from shared.messaging.topology import QUEUE_NAMES, UNREADABLE_DEAD_LETTERS

LOOKED_INTO_MAX = 1_000
"""The number of messages of a queue that are held at once: at most 64 MiB."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message in a queue. `texts`: its properties and headers, as far as a sender can write them."""

    place: int
    message_id: str
    body: bytes = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class QueueState:
    """The number of `ready` messages and of `consumers`, and the messages that were read: all of them if `whole`."""

    ready: int = 0
    consumers: int = 0
    waiting: tuple[Waiting, ...] = ()

    @property
    def whole(self) -> bool:
        return len(self.waiting) == self.ready


Queues = Mapping[str, QueueState | None]
"""None: the queue does not exist."""


async def read_queues(url: str, *, look_into: bool) -> dict[str, QueueState | None]:
    """The state of every queue of the topology. Raises AuditError."""
    link = BrokerLink(url, name="remit audit")
    try:
        with losses_as_errors():
            return {
                name: await _queue(link, name, look_into=look_into and name != UNREADABLE_DEAD_LETTERS)
                for name in sorted(QUEUE_NAMES)
            }
    except (AccessRefusedError, CannotConnectError) as error:
        raise AuditError(f"{error}.") from None
    except BROKER_ERRORS as error:
        raise StoreAwayError(f"RABBITMQ_URL: the broker does not answer ({type(error).__name__}).") from None
    finally:
        await link.close()


async def _queue(link: BrokerLink, name: str, *, look_into: bool) -> QueueState | None:
    channel = await link.channel(confirms=False)  # for this queue only: a declaration that fails closes its channel
    try:
        state = await channel.queue_declare(name, passive=True, timeout=RPC_TIMEOUT_S)
    except ChannelNotFoundEntity:
        return None
    ready, consumers = state.message_count or 0, state.consumer_count or 0
    waiting = await _look_into(channel, name, ready) if look_into and not consumers else ()
    await channel.close()  # the broker puts the messages back in their order
    return QueueState(ready, consumers, waiting)


async def _look_into(channel: Channel, name: str, ready: int) -> tuple[Waiting, ...]:
    waiting: list[Waiting] = []
    while len(waiting) < min(ready, LOOKED_INTO_MAX):
        message = await channel.basic_get(name, timeout=RPC_TIMEOUT_S)
        if message.delivery_tag is None:  # Basic.GetEmpty: another client took the rest
            break
        waiting.append(_waiting(message, len(waiting) + 1))
    return tuple(waiting)


def _waiting(message: DeliveredMessage, place: int) -> Waiting:
    properties = message.header.properties
    fields = (
        properties.message_id,
        properties.correlation_id,
        properties.reply_to,
        properties.message_type,
        properties.content_type,
        *(f"{name}: {_text(value)}" for name, value in (properties.headers or {}).items()),
    )
    return Waiting(place, str(properties.message_id or ""), message.body, tuple(str(text) for text in fields if text))


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)
