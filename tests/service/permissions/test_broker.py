"""Every user tries every operation on every exchange and queue of a real broker: what is allowed and refused is what the table says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aiormq.abc import AbstractConnection
from aiormq.exceptions import AMQPConnectionError, AMQPError, ChannelAccessRefused, ChannelPreconditionFailed
from pamqp.commands import Basic

from deploy.local.stack import USERS, Stack
from deploy.permissions.broker import SETUP, BrokerUser
from shared.messaging.apply import apply_topology, check_topology, prune_topology
from shared.messaging.topology import COMMAND_ENTRY, DEFAULT_EXCHANGE, EXCHANGES, QUEUES, Exchange, Queue
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient

TIMEOUT_S = 10.0
AT_ONCE = 8
"""Channels on which a user tries. A refusal closes the channel, so each try waits for the broker twice."""
NOWHERE = "matrix.nowhere"
"""A routing key that no queue is bound by."""

Do = Callable[[Any], Awaitable[object]]
"""An operation on a channel of the client."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation, and whether the table allows it."""

    what: str
    allowed: bool
    do: Do


def attempts(user: BrokerUser) -> list[list[Operation]]:
    """Every operation that this user tries, in groups whose order counts.

    Nothing that is allowed takes away what others need, and what it binds it unbinds again.
    """
    return [
        *(_on_exchange(user, exchange) for exchange in EXCHANGES),
        *(_on_queue(user, queue) for queue in QUEUES),
        *_bindings(user),
        _on_its_own(user),
        _by_detours(user),
    ]


def _on_exchange(user: BrokerUser, exchange: Exchange) -> list[Operation]:
    name, arguments = exchange.name, exchange.arguments
    declares = user.may("configure", name) and (exchange.alternate is None or user.may("write", exchange.alternate))
    found = [
        Operation(f"publish to {name}", user.may("write", name), _publish(name, NOWHERE)),
        Operation(
            f"declare {name}",
            declares,
            lambda c: c.exchange_declare(name, exchange_type=exchange.type, durable=True, arguments=arguments),
        ),
        Operation(f"look for {name}", True, lambda c: c.exchange_declare(name, passive=True)),
    ]
    if user.name != SETUP:  # it may delete, and others need the exchange
        found.append(Operation(f"delete {name}", user.may("configure", name), lambda c: c.exchange_delete(name)))
    return found


def _on_queue(user: BrokerUser, queue: Queue) -> list[Operation]:
    name = queue.name
    reads = user.may("read", name)
    found = [
        Operation(f"publish to {name} by name", user.may("write", DEFAULT_EXCHANGE), _publish("", name)),
        Operation(f"consume {name}", reads, lambda c: c.basic_consume(name, _never)),
        Operation(f"get from {name}", reads, lambda c: c.basic_get(name)),
        Operation(f"purge {name}", reads, lambda c: c.queue_purge(name)),
        Operation(f"look for {name}", True, lambda c: c.queue_declare(name, passive=True)),
        Operation(
            f"declare {name}",
            user.may("configure", name),
            lambda c: c.queue_declare(name, durable=True, arguments={**queue.arguments}),
        ),
    ]
    if user.name != SETUP:
        found.append(Operation(f"delete {name}", user.may("configure", name), lambda c: c.queue_delete(name)))
    return found


def _bindings(user: BrokerUser) -> Iterator[list[Operation]]:
    """Every queue and every exchange, ours and the user's own, bound to some exchange, some queue bound to every exchange; and unbound.

    The broker asks twice: may the user write to what is bound, and read what it is bound to? Each question is put about every name, beside
    a yes and beside a no to the other one, as far as the user has both. Every pair would be the same questions, seven times as often.
    """
    own = f"{user.name}.own"
    exchanges = (own, *(exchange.name for exchange in EXCHANGES))
    queues = (own, *(queue.name for queue in QUEUES))
    sources = _one_of_each(exchanges, lambda name: user.may("read", name))
    for kind, bound in (("queue", queues), ("exchange", exchanges)):
        targets = _one_of_each(bound, lambda name: user.may("write", name))
        for to, source in dict.fromkeys((*product(bound, sources), *product(targets, exchanges))):
            allowed = user.may("write", to) and user.may("read", source)
            yield [
                Operation(f"bind {kind} {to} to {source}", allowed, _call(f"{kind}_bind", to, source, NOWHERE)),
                Operation(f"unbind {kind} {to} from {source}", allowed, _call(f"{kind}_unbind", to, source, NOWHERE)),
            ]


def _one_of_each(names: Iterable[str], is_allowed: Callable[[str], bool]) -> list[str]:
    """The first of these names that is allowed, and the first that is not, as far as there are such."""
    return list({is_allowed(name): name for name in reversed([*names])}.values())


def _call(method: str, *arguments: str) -> Do:
    return lambda channel: getattr(channel, method)(*arguments)


def _on_its_own(user: BrokerUser) -> list[Operation]:
    mine, others = f"{user.name}.new", f"{user.name}-not.new"
    return [
        Operation(f"declare {mine}", user.may("configure", mine), lambda c: c.queue_declare(mine, exclusive=True)),
        Operation(f"declare {others}", False, lambda c: c.queue_declare(others, exclusive=True)),
        Operation("declare a queue without a name", False, lambda c: c.queue_declare("", exclusive=True)),
        Operation("consume direct reply-to", True, _consume_direct_replies),
        Operation(f"publish to {NOWHERE} by name", user.may("write", DEFAULT_EXCHANGE), _publish("", NOWHERE)),
    ]


def _by_detours(user: BrokerUser) -> list[Operation]:
    """A queue of one's own that dead-letters, and an exchange of one's own that passes on, to where one may not write."""
    owns = user.may("configure", f"{user.name}.detour")
    found = []
    for target in ("", *(exchange.name for exchange in EXCHANGES)):
        name = f"{user.name}.detour.{target}"
        dead_letters: dict[str, Any] = {"x-dead-letter-exchange": target, "x-dead-letter-routing-key": QUEUES[0].name}
        writes = user.may("write", target or DEFAULT_EXCHANGE)
        found.append(
            Operation(
                f"dead-letter to {target or DEFAULT_EXCHANGE}",
                owns and writes,
                lambda c, name=name, arguments=dead_letters: c.queue_declare(name, exclusive=True, arguments=arguments),  # type: ignore[misc]
            )
        )
        found.append(
            Operation(
                f"pass on to {target or DEFAULT_EXCHANGE}",
                owns and writes,
                lambda c, name=name, target=target: c.exchange_declare(  # type: ignore[misc]
                    name, auto_delete=True, arguments={"alternate-exchange": target}
                ),
            )
        )
    return found


def _publish(exchange: str, key: str) -> Do:
    properties = Basic.Properties(delivery_mode=1)
    return lambda c: c.basic_publish(b"matrix", exchange=exchange, routing_key=key, properties=properties)


async def _consume_direct_replies(channel: Any) -> None:
    await channel.basic_consume("amq.rabbitmq.reply-to", _never, no_ack=True)


async def _never(_message: object) -> None:
    """No message is handled."""


async def _is_allowed(connection: AbstractConnection, do: Do) -> bool:
    """Whether the broker refuses for a lack of permission. Any other refusal comes after the permission was checked."""
    channel = await connection.channel()
    try:
        await do(channel)
    except ChannelAccessRefused:
        return False
    except AMQPError:
        return True
    await channel.close()
    return True


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AbstractConnection]:
    connection = await aio_pika.connect(url, timeout=TIMEOUT_S)
    async with connection:
        below = connection.transport
        assert below is not None
        yield below.connection


@pytest.fixture
async def administrator(environment: Environment) -> AsyncIterator[AbstractChannel]:
    """With a queue and an exchange for each user that nobody but the administrator made. All queues are emptied at the end."""
    async with await aio_pika.connect(environment.rabbitmq_url, timeout=TIMEOUT_S) as connection:
        channel = await connection.channel()
        for user in USERS:
            await channel.declare_queue(f"{user.name}.own", durable=True)
            await channel.declare_exchange(f"{user.name}.own", auto_delete=False)
        yield channel
        for user in USERS:
            await channel.exchange_delete(f"{user.name}.own")
            await channel.queue_delete(f"{user.name}.own")
    async with UpstreamClient.open(environment.rabbitmq_url) as upstream:
        await upstream.purge()


@pytest.mark.parametrize("user", USERS, ids=lambda user: user.name)
@pytest.mark.usefixtures("administrator")
async def test_a_user_may_do_what_the_table_says_and_nothing_else(user: BrokerUser, environment: Environment) -> None:
    groups = attempts(user)
    waiting = iter(groups)

    async def try_some() -> list[str]:
        return [
            f"{user.name}: {attempt.what}, by the table {attempt.allowed}"
            for group in waiting
            for attempt in group
            if await _is_allowed(connection, attempt.do) != attempt.allowed
        ]

    async with connected(environment.stack.rabbitmq_url_of(user.name)) as connection:
        differing = await asyncio.gather(*(try_some() for _ in range(AT_ONCE)))
    assert not any(differing), "\n".join(chain.from_iterable(differing))
    assert {attempt.allowed for group in groups for attempt in group} == {True, False}


async def test_the_set_up_makes_checks_and_prunes_the_topology(environment: Environment) -> None:
    url = environment.stack.rabbitmq_url_of(SETUP)
    await apply_topology(url)
    await prune_topology(url)
    assert await check_topology(url) == []


async def test_nobody_publishes_in_the_name_of_another(environment: Environment) -> None:
    properties = Basic.Properties(user_id="remit")
    async with connected(environment.stack.rabbitmq_url_of("upstream")) as connection:
        channel = await connection.channel()
        with pytest.raises(ChannelPreconditionFailed, match="user_id"):
            await channel.basic_publish(b"", exchange=COMMAND_ENTRY, routing_key="forged", properties=properties)


async def test_no_user_of_ours_has_a_tag_and_there_is_no_guest(stack: Stack) -> None:
    if stack.kind == "given":
        pytest.skip("the users of a given broker are not ours")
    lines = stack.broker.ctl("list_users", "--silent", "--no-table-headers").splitlines()
    tags = {name: tags for name, _, tags in (line.partition("\t") for line in lines)}
    assert tags == {"administrator": "[administrator]", **{user.name: "[]" for user in USERS}}


async def test_guest_and_a_wrong_password_are_refused(environment: Environment) -> None:
    url = environment.stack.rabbitmq_url_of("upstream")
    address = url.rpartition("@")[2]
    for name in ("guest:guest", "upstream:wrong"):
        with pytest.raises(AMQPConnectionError, match="ACCESS_REFUSED"):
            await aio_pika.connect(f"amqp://{name}@{address}", timeout=TIMEOUT_S)
