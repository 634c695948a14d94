"""Create or verify the topology on a broker: the hands of `shared.messaging.topology`."""

from typing import TYPE_CHECKING, Any

from aiormq.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from shared.messaging.broker import BROKER_ERRORS, RPC_TIMEOUT_S, BrokerLink
from shared.messaging.topology import EXCHANGES, QUEUES, Exchange, Queue

if TYPE_CHECKING:
    from aiormq.channel import Channel

CONNECT_HINT = "is RABBITMQ_URL right and the broker up?"


class TopologyError(Exception):
    """One sentence per difference that an operator has to look at."""


async def apply_topology(url: str, *, replace: bool = False) -> None:
    """Create exchanges, queues and bindings; existing equal ones are left alone. Raises `TopologyError` where one exists with other
    settings: a queue holds messages, so none is ever deleted here; an exchange holds none, and `replace` makes it anew. What is published
    meanwhile is refused, and published again."""
    link = BrokerLink(url, name="remit topology")
    try:
        for exchange in EXCHANGES:
            await _apply_exchange(link, exchange, replace=replace)
        for queue in QUEUES:
            await _apply_queue(await _channel(link), queue)
    finally:
        await link.close()


async def _apply_exchange(link: BrokerLink, exchange: Exchange, *, replace: bool) -> None:
    try:
        await _declare(await _channel(link), exchange)
    except ChannelPreconditionFailed as error:
        if not replace:
            raise TopologyError(
                f"exchange {exchange.name} exists with other settings: {error}; `remit topology apply --replace` makes it anew, "
                "without the bindings that others made to it"
            ) from None
        channel = await _channel(link)
        await channel.exchange_delete(exchange.name, timeout=RPC_TIMEOUT_S)
        await _declare(channel, exchange)
    channel = await _channel(link)
    for binding in exchange.bindings:
        await channel.exchange_bind(exchange.name, binding.exchange, binding.routing_key, timeout=RPC_TIMEOUT_S)


async def _apply_queue(channel: "Channel", queue: Queue) -> None:
    try:
        await _declare(channel, queue)
    except ChannelPreconditionFailed as error:
        raise TopologyError(
            f"queue {queue.name} exists with other settings: {error}; drain it, delete it, and apply again"
        ) from None
    for binding in queue.bindings:
        await channel.queue_bind(queue.name, binding.exchange, binding.routing_key, timeout=RPC_TIMEOUT_S)


async def prune_topology(url: str) -> None:
    """Take away what earlier versions bound. Raises `TopologyError`. An instance of such a version that still runs finds what it says
    unroutable from then on, and keeps it for its successor."""
    link = BrokerLink(url, name="remit topology prune")
    try:
        for queue in QUEUES:
            channel = await _channel(link)
            for binding in queue.retired:  # what is not there is no error
                await channel.queue_unbind(queue.name, binding.exchange, binding.routing_key, timeout=RPC_TIMEOUT_S)
    finally:
        await link.close()


async def check_topology(url: str) -> list[str]:
    """What is missing or different, one sentence each; changes nothing that exists."""
    problems: list[str] = []
    link = BrokerLink(url, name="remit topology check")
    try:
        for expected in (*EXCHANGES, *QUEUES):
            problems += await _differences(link, expected)
    finally:
        await link.close()
    return problems


async def _differences(link: BrokerLink, expected: Exchange | Queue) -> list[str]:
    what = f"{type(expected).__name__.lower()} {expected.name}"
    channel = await _channel(link)
    try:
        await _declare(channel, expected, passive=True)
    except ChannelNotFoundEntity:
        return [f"{what} is missing"]
    try:
        await _declare(channel, expected)
    except ChannelPreconditionFailed as error:
        return [f"{what} has other settings: {error}"]
    return []


async def _declare(channel: "Channel", expected: Exchange | Queue, *, passive: bool = False) -> None:
    """`passive`: only whether there is one of that name."""
    how: dict[str, Any] = {"durable": True, "passive": passive, "timeout": RPC_TIMEOUT_S}
    if isinstance(expected, Exchange):
        await channel.exchange_declare(expected.name, exchange_type=expected.type, **how)
    else:
        await channel.queue_declare(expected.name, arguments=dict(expected.arguments), **how)


async def _channel(link: BrokerLink) -> "Channel":
    try:
        return await link.channel(confirms=False)
    except BROKER_ERRORS as error:
        raise TopologyError(f"the broker does not answer ({type(error).__name__}): {CONNECT_HINT}") from None
