"""Creates, verifies or prunes on a broker the topology that `shared.messaging.topology` describes."""

import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from shared.amqp.broker_link import (
    ADVICE,
    BROKER_ERRORS,
    RPC_TIMEOUT_S,
    AccessRefusedError,
    BrokerLink,
    CannotConnectError,
    Channel,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)
from shared.messaging.topology import (
    ANY_KEY,
    EXCHANGES,
    FORMER_EXCHANGES,
    PAST_THE_SCREEN,
    QUEUES,
    Binding,
    Exchange,
    Queue,
)

CONNECT_HINT = "is RABBITMQ_URL right and the broker up?"


class TopologyError(Exception):
    """The topology could not be applied or checked. The text is one sentence that tells an operator what to do."""


async def apply_topology(url: str, *, replace: bool = False, unbound: Collection[str] = ()) -> None:
    """Create exchanges, queues and bindings. Those that exist with the same settings are left alone.

    Optional queues in `unbound` lose their bindings, and are left with what they hold.

    Raises `TopologyError` if one exists with other settings. A queue holds messages, so no queue is ever deleted here, and one that an
    earlier build made is left as it is (`leftovers` names it). An exchange holds none: with `replace` it is deleted and created again.
    Meanwhile the broker refuses or returns commands, and a sender that publishes without `mandatory` loses them. After an interruption this
    can simply be run again.
    """
    async with _link(url, "remit topology") as link:
        for queue in QUEUES:
            await _create_queue(link, queue)
        former = {one: successor for one, successor in FORMER_EXCHANGES.items() if await _is_there(link, one)}
        for exchange in (*EXCHANGES, *former):
            await _create_exchange(link, exchange, replace=replace, unbound=unbound)
        channel = await _channel(link)
        for exchange in EXCHANGES:
            for binding in exchange.bindings:
                await channel.exchange_bind(exchange.name, binding.exchange, binding.routing_key, timeout=RPC_TIMEOUT_S)
        for exchange, successor in former.items():
            await channel.exchange_bind(successor, exchange.name, ANY_KEY, timeout=RPC_TIMEOUT_S)
        for name, replaced in PAST_THE_SCREEN.items():
            await _unbind(channel, name, replaced)
        for queue in _named(unbound):
            await _unbind(channel, queue.name, queue.bindings)


def _named(names: Collection[str]) -> list[Queue]:
    return [queue for queue in QUEUES if queue.name in names]


async def _create_queue(link: BrokerLink, queue: Queue) -> None:
    try:
        await _declare(await _channel(link), queue)
    except ChannelPreconditionFailed as error:
        if await _is_former(link, queue):
            return
        raise TopologyError(
            f"queue {queue.name} exists with other settings: {error}; drain it, delete it, and apply again"
        ) from None


async def _create_exchange(link: BrokerLink, exchange: Exchange, *, replace: bool, unbound: Collection[str]) -> None:
    """Create the exchange and bind our queues to it, without delay: a message that comes before the binding finds no queue."""
    channel = await _channel(link)
    try:
        await _declare(channel, exchange)
    except ChannelPreconditionFailed as error:
        if not replace:
            raise TopologyError(
                f"exchange {exchange.name} exists with other settings: {error}; `remit topology apply --replace` makes it anew, "
                "without the bindings that others made to it"
            ) from None
        channel = await _channel(link)
        await channel.exchange_delete(exchange.name, timeout=RPC_TIMEOUT_S)
        await _declare(channel, exchange)
    for queue in QUEUES:
        await _bind(channel, queue, only=exchange.name, unbound=unbound)


async def _bind(channel: Channel, queue: Queue, *, only: str | None = None, unbound: Collection[str] = ()) -> None:
    for binding in () if queue.name in unbound else queue.bindings:
        if only is None or binding.exchange == only:
            arguments: dict[str, Any] = {**binding.arguments}
            await channel.queue_bind(
                queue.name, binding.exchange, binding.routing_key, arguments=arguments, timeout=RPC_TIMEOUT_S
            )


async def _unbind(channel: Channel, queue: str, bindings: Sequence[Binding]) -> None:
    """Remove these bindings of a queue. The broker does not mind if one is not there."""
    for binding in bindings:
        await channel.queue_unbind(queue, binding.exchange, binding.routing_key, timeout=RPC_TIMEOUT_S)


async def prune_topology(url: str, *, unbound: Collection[str] = ()) -> None:
    """Remove the bindings and exchanges that earlier versions made, after making those that replace them. Raises `TopologyError`.

    Queues in `unbound` are not bound: see `apply_topology`.

    From then on, messages of an instance of such an earlier version no longer reach our queues, and the broker refuses commands of a sender
    that publishes to such an exchange.
    """
    async with _link(url, "remit topology prune") as link:
        for queue in QUEUES:
            channel = await _channel(link)
            try:
                await _bind(channel, queue, unbound=unbound)
            except ChannelNotFoundEntity as error:
                raise TopologyError(f"{error}: run `remit topology apply` first") from None
            await _unbind(channel, queue.name, queue.retired)
        channel = await _channel(link)
        for exchange in EXCHANGES:
            for binding in exchange.retired:
                await channel.exchange_unbind(
                    exchange.name, binding.exchange, binding.routing_key, timeout=RPC_TIMEOUT_S
                )
        for exchange in FORMER_EXCHANGES:
            await channel.exchange_delete(exchange.name, timeout=RPC_TIMEOUT_S)


async def check_topology(url: str) -> list[str]:
    """What is missing or different on the broker, one sentence each. Changes nothing that exists. Raises `TopologyError`.

    Bindings are not checked, because AMQP has no way to ask for them. `apply_topology` makes them.
    """
    async with _link(url, "remit topology check") as link:
        wanted: tuple[Exchange | Queue, ...] = (*EXCHANGES, *QUEUES)
        found = [await _difference(link, expected) for expected in wanted]
    return [problem for problem in found if problem is not None]


async def leftovers(url: str) -> list[str]:
    """What an operator has to do about what an earlier build made, one sentence for each queue and exchange. Raises `TopologyError`.

    A queue with the arguments of that build is named also once the policy is set, because AMQP has no way to ask for policies.
    """
    async with _link(url, "remit topology") as link:
        return [
            *[
                f"queue {queue.name} was made by an earlier build: once, set the policy that gives it what it lacks: "
                f"rabbitmqctl set_policy {queue.name} '^{queue.name}$' '{json.dumps(queue.policy)}' --apply-to queues"
                for queue in QUEUES
                if await _is_former(link, queue)
            ],
            *[
                f"exchange {exchange.name} is for senders that do not publish to {successor} yet: once `rabbitmqctl list_permissions` "
                "shows that no sender may write to it, `remit topology prune` deletes it"
                for exchange, successor in FORMER_EXCHANGES.items()
                if await _is_there(link, exchange)
            ],
        ]


async def _is_former(link: BrokerLink, queue: Queue) -> bool:
    """Whether the queue exists with the arguments that an earlier build gave it."""
    if queue.former_arguments is None:
        return False
    if not await _is_there(link, queue):  # without this the next line would create it
        return False
    try:
        await _declare(await _channel(link), queue, arguments=queue.former_arguments)
    except ChannelPreconditionFailed:
        return False
    return True


async def _is_there(link: BrokerLink, expected: Exchange | Queue) -> bool:
    """Whether there is an exchange or a queue of this name."""
    try:
        await _declare(await _channel(link), expected, passive=True)
    except ChannelNotFoundEntity:
        return False
    return True


async def _difference(link: BrokerLink, expected: Exchange | Queue) -> str | None:
    what = f"{'exchange' if isinstance(expected, Exchange) else 'queue'} {expected.name}"
    if not await _is_there(link, expected):
        return f"{what} is missing"
    try:
        await _declare(await _channel(link), expected)
    except ChannelPreconditionFailed as error:
        if isinstance(expected, Queue) and await _is_former(link, expected):
            return None
        return _with_advice(f"{what} has other settings: {error}", error)
    return None


_LIMIT_DIFFERS = re.compile(
    r"inequivalent arg 'x-(max-length-bytes|delivery-limit)'.*?received '(\d+)' but current is '(\d+)'"
)


def _with_advice(sentence: str, error: ChannelPreconditionFailed) -> str:
    """The sentence, and what to do if only a limit of a queue differs: limits can be lowered on a running system."""
    differs = _LIMIT_DIFFERS.search(str(error))
    if differs is None:
        return sentence
    wanted, current = int(differs[2]), int(differs[3])
    if wanted < current:
        return f"{sentence}; it goes on with the higher limit until `remit topology limits` has lowered it by a policy"
    return f"{sentence}; a limit with which a queue was made can be lowered, not raised: drain it, delete it, and apply again"


async def _declare(
    channel: Channel,
    expected: Exchange | Queue,
    *,
    passive: bool = False,
    arguments: Mapping[str, str | int] | None = None,
) -> None:
    """Declare an exchange or a queue, with `arguments` instead of its own. With `passive`, only check that one of that name exists."""
    arguments = dict[str, Any](arguments or expected.arguments)
    if isinstance(expected, Exchange):
        await channel.exchange_declare(
            expected.name,
            exchange_type=expected.type,
            durable=True,
            passive=passive,
            arguments=arguments,
            timeout=RPC_TIMEOUT_S,
        )
    else:
        await channel.queue_declare(
            expected.name, durable=True, passive=passive, arguments=arguments, timeout=RPC_TIMEOUT_S
        )


@asynccontextmanager
async def _link(url: str, name: str) -> AsyncIterator[BrokerLink]:
    link = BrokerLink(url, name=name)
    try:
        yield link
    except ChannelAccessRefused as error:
        raise TopologyError(f"the user of RABBITMQ_URL may not set up all of the topology: {error}; {ADVICE}") from None
    except BROKER_ERRORS as error:
        raise TopologyError(f"the broker went away ({type(error).__name__}): run it again") from None
    finally:
        await link.close()


async def _channel(link: BrokerLink) -> Channel:
    try:
        return await link.channel(confirms=False)
    except (AccessRefusedError, CannotConnectError) as error:
        raise TopologyError(f"{error}") from None
    except BROKER_ERRORS as error:
        raise TopologyError(f"the broker does not answer ({type(error).__name__}): {CONNECT_HINT}") from None
