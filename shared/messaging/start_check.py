"""What a service asks of the broker at its start: is what it needs there? It is asked until the broker was reached once.

Whatever is missing later is missing while the service runs: it waits, and readiness says for what.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shared.amqp.broker_link import (
    RPC_TIMEOUT_S,
    BrokerLink,
    ChannelNotFoundEntity,
    losses_as_errors,
    payload_bytes_max,
)
from shared.messaging.topology import DEFAULT_EXCHANGE, EXCHANGES

UNBOUND_KEY = "remit.start-check"
"""A key under which no queue of ours is bound."""
_WITHOUT_LISTENERS: Final = frozenset(
    {
        DEFAULT_EXCHANGE,
        *(exchange.name for exchange in EXCHANGES if exchange.type == "direct" and not exchange.alternate),
    }
)
"""Exchanges that go by exact keys: nobody has a queue there for whatever comes."""
FRAME_BYTES_LEAST = 16 * 1024
"""The smallest payload of a frame with which a dead letter can always be published: all its headers have to be in one frame."""


async def missing_at(link: BrokerLink, queues: Sequence[str], writes: Sequence[str] = ()) -> str | None:
    """What the broker lacks of our exchanges and these queues, as a sentence; None if nothing. `writes` are the exchanges that our user has
    to be allowed to write to. Raises AccessRefusedError for one that it is not, and one of `BROKER_ERRORS`."""
    channel = await link.channel(confirms=False)
    if (payload_bytes := payload_bytes_max(channel)) < FRAME_BYTES_LEAST:
        return f"RABBITMQ_URL: frames of the broker (its frame_max) hold {payload_bytes} bytes, and {FRAME_BYTES_LEAST} are needed."
    try:
        with losses_as_errors():
            for exchange in EXCHANGES:
                kind = exchange.type
                await channel.exchange_declare(exchange.name, exchange_type=kind, passive=True, timeout=RPC_TIMEOUT_S)
            for queue in queues:
                await channel.queue_declare(queue, passive=True, timeout=RPC_TIMEOUT_S)
    except ChannelNotFoundEntity as error:
        return f"RABBITMQ_URL: {_what(error)}: run `remit topology apply`." if _is_missing(error) else None
    for name in writes:
        written = "" if name == DEFAULT_EXCHANGE else name
        await link.try_to_write(written, unbound_key=UNBOUND_KEY, may_be_heard=name not in _WITHOUT_LISTENERS)
    return None


def writes_of(service_folder: Path) -> list[str]:
    """The exchanges that the service has to be allowed to write to, by their names in permissions (`deploy.permissions.needs`). None in a
    folder of a test, which has no file."""
    path = service_folder / "rights.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["exchanges"]) if path.exists() else []


def _is_missing(error: ChannelNotFoundEntity) -> bool:
    """Whether it is not there. The broker answers so as well for a queue whose node is down, that has crashed, or that does not answer in
    time: such a thing may go away by itself."""
    text = str(error)
    return ("no queue" in text or "no exchange" in text) and "down" not in text


def _what(error: ChannelNotFoundEntity) -> str:
    """`there is no queue 'q' in vhost '/'`, from the broker's `NOT_FOUND - no queue 'q' in vhost '/'`."""
    return f"there is {str(error).partition(' - ')[2] or 'something missing'}"
