"""Create or verify the topology on a broker: the hands of `shared.messaging.topology`."""

from typing import TYPE_CHECKING

from aiormq.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from shared.messaging.broker import BROKER_ERRORS, RPC_TIMEOUT_S, BrokerLink
from shared.messaging.topology import EXCHANGES, QUEUES, Exchange, Queue

if TYPE_CHECKING:
    from aiormq.channel import Channel

CONNECT_HINT = "is RABBITMQ_URL right and the broker up?"


class TopologyError(Exception):
    """One sentence per difference that an operator has to look at."""


async def apply_topology(url: str) -> None:
    """Create exchanges, queues and bindings; existing equal ones are left alone, retired bindings taken away. Raises `TopologyError` where
    one exists with other settings: a queue holds messages, so none is ever deleted here."""
    link = BrokerLink(url, name="remit topology")
    try:
        for exchange in EXCHANGES:
            await _apply_exchange(await _channel(link), exchange)
        for queue in QUEUES:
            await _apply_queue(await _channel(link), queue)
    finally:
        await link.close()


async def _apply_exchange(channel: "Channel", exchange: Exchange) -> None:
    try:
        await channel.exchange_declare(exchange.name, exchange_type=exchange.type, durable=True, timeout=RPC_TIMEOUT_S)
    except ChannelPreconditionFailed as error:
        raise TopologyError(
            f"exchange {exchange.name} exists with other settings: {error}; it holds no messages: delete it, and apply again"
        ) from None
    for binding in exchange.bindings:
        await channel.exchange_bind(exchange.name, binding.exchange, binding.routing_key, timeout=RPC_TIMEOUT_S)


async def _apply_queue(channel: "Channel", queue: Queue) -> None:
    try:
        await channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments), timeout=RPC_TIMEOUT_S)
    except ChannelPreconditionFailed as error:
        raise TopologyError(
            f"queue {queue.name} exists with other settings: {error}; drain it, delete it, and apply again"
        ) from None
    for binding in queue.bindings:
        await channel.queue_bind(queue.name, binding.exchange, binding.routing_key, timeout=RPC_TIMEOUT_S)
    for binding in queue.retired:  # one that is not there is no error
        await channel.queue_unbind(queue.name, binding.exchange, binding.routing_key, timeout=RPC_TIMEOUT_S)


async def check_topology(url: str) -> list[str]:
    """What is missing or different, one sentence each; changes nothing that exists."""
    problems: list[str] = []
    link = BrokerLink(url, name="remit topology check")
    try:
        for exchange in EXCHANGES:
            channel = await _channel(link)
            try:
                await channel.exchange_declare(exchange.name, passive=True, timeout=RPC_TIMEOUT_S)
            except ChannelNotFoundEntity:
                problems.append(f"exchange {exchange.name} is missing")
        for queue in QUEUES:
            problems += await _check_queue(link, queue)
    finally:
        await link.close()
    return problems


async def _check_queue(link: BrokerLink, queue: Queue) -> list[str]:
    channel = await _channel(link)
    try:
        await channel.queue_declare(queue.name, passive=True, timeout=RPC_TIMEOUT_S)
    except ChannelNotFoundEntity:
        return [f"queue {queue.name} is missing"]
    channel = await _channel(link)
    try:
        await channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments), timeout=RPC_TIMEOUT_S)
    except ChannelPreconditionFailed as error:
        return [f"queue {queue.name} has other settings: {error}"]
    return []


async def _channel(link: BrokerLink) -> "Channel":
    try:
        return await link.channel(confirms=False)
    except BROKER_ERRORS as error:
        raise TopologyError(f"the broker does not answer ({type(error).__name__}): {CONNECT_HINT}") from None
