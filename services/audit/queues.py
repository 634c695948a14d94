"""The queues, over plain AMQP: how many messages are ready, how many consume, and (where nobody does) what waits.

To look at a message is to take it and give it back, which the broker counts as a delivery, against a limit of a hundred. So only a
drained system is looked into, only queues without a consumer, and only so many messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.audit.errors import AuditError
from shared.amqp.broker_link import (
    BROKER_ERRORS,
    RPC_TIMEOUT_S,
    BrokerLink,
    Channel,
    ChannelNotFoundEntity,
    DeliveredMessage,
    losses_as_errors,
)
from shared.messaging.topology import QUEUE_NAMES

LOOKED_INTO_MAX = 1_000
"""Messages of a queue that are held at once: at most 64 MiB."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message in a queue; `texts` are its properties and headers, as far as a sender can write them."""

    place: int
    message_id: str
    body: bytes = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class QueueState:
    """`ready` to be delivered, `consumers`, and what waits, if it was looked into: all of it if `whole`."""

    ready: int = 0
    consumers: int = 0
    waiting: tuple[Waiting, ...] = ()

    @property
    def whole(self) -> bool:
        return len(self.waiting) == self.ready


Queues = Mapping[str, QueueState | None]
"""None: the queue does not exist."""


async def read_queues(url: str, *, look_into: bool) -> dict[str, QueueState | None]:
    """Every queue of the topology. Raises AuditError."""
    link = BrokerLink(url, name="remit audit")
    try:
        with losses_as_errors():
            return {name: await _queue(link, name, look_into=look_into) for name in sorted(QUEUE_NAMES)}
    except BROKER_ERRORS as error:
        raise AuditError(f"RABBITMQ_URL: the broker does not answer ({type(error).__name__}).") from None
    finally:
        await link.close()


async def _queue(link: BrokerLink, name: str, *, look_into: bool) -> QueueState | None:
    channel = await link.channel(confirms=False)  # a failing declare closes its channel
    try:
        state = await channel.queue_declare(name, passive=True, timeout=RPC_TIMEOUT_S)
    except ChannelNotFoundEntity:
        return None
    ready, consumers = state.message_count or 0, state.consumer_count or 0
    waiting = await _look_into(channel, name, ready) if look_into and not consumers else ()
    await channel.close()  # gives back what was taken, in its order
    return QueueState(ready, consumers, waiting)


async def _look_into(channel: Channel, name: str, ready: int) -> tuple[Waiting, ...]:
    waiting: list[Waiting] = []
    while len(waiting) < min(ready, LOOKED_INTO_MAX):
        message = await channel.basic_get(name, timeout=RPC_TIMEOUT_S)
        if message.delivery_tag is None:  # Basic.GetEmpty: somebody was faster
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
