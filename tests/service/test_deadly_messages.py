"""A message that ends every connection on which the broker delivers it becomes a dead letter, and takes none of its neighbours along.

RabbitMQ 4.0.5 delivers no AMQP 1.0 property that AMQP 0-9-1 cannot carry: it closes the connection. A proxy that resets the connection
whenever the body of such a message comes does the same with any broker.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from deploy.local.stack import Stack
from services.staff.__main__ import assemble
from services.staff.unreadable import UnreadableWatch
from shared.amqp.broker_link import BrokerLink
from shared.contracts import payment_gateway
from shared.messaging import consumer as consuming
from shared.messaging import losses
from shared.messaging.consumer import BATCH_BYTES_MAX, PREFETCH, Consumer, Delivery
from shared.messaging.topology import DEAD_LETTERS, DELIVERY_LIMIT, UNREADABLE_DEAD_LETTERS
from shared.observability.health import Readiness
from shared.retry_policy import OUTAGE
from tests.faults.frames import Amqp, FrameEvent
from tests.faults.proxy import Network, Proxy, Rule
from tests.support import amqp_1_0
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

QUEUE = "invoice.commands"
DEADLY = b"deadly"
DEADLINE_S = 60.0
FOR_EVER = 1_000_000


@pytest.fixture
def proxy(network: Network, environment: Environment) -> Proxy:
    return network.stand_before(environment.rabbitmq_url, speaks=Amqp)


def kill_connections(proxy: Proxy) -> Rule:
    return proxy.drop(FrameEvent.BODY, times=FOR_EVER, about=DEADLY.decode())


@asynccontextmanager
async def consuming_from(url: str, readiness: Readiness, queue: str = QUEUE) -> AsyncIterator[Consumer]:
    link = BrokerLink(url, name="test consumer")
    consumer = Consumer(link, queue, readiness=readiness)
    task = asyncio.create_task(consumer.run())
    yield consumer
    await consumer.stop()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await link.close()


async def handle(consumer: Consumer, *, at_least: int) -> list[Delivery]:
    """Take and acknowledge until so many bodies came. A batch whose channel is gone comes again, and counts once."""
    handled: dict[bytes, Delivery] = {}
    async with asyncio.timeout(DEADLINE_S):
        while len(handled) < at_least:
            batch = await consumer.take()
            await consumer.ack(batch)
            handled |= {delivery.body: delivery for delivery in batch}
    return list(handled.values())


async def test_only_the_deadly_message_becomes_a_dead_letter(
    environment: Environment, upstream: UpstreamClient, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More neighbours than a prefetch stand before and behind it."""
    monkeypatch.setattr(losses, "ALONE", replace(OUTAGE, maximum_s=0.0))
    neighbours = [f"healthy {number}".encode() for number in range(2 * PREFETCH)]
    for number, body in enumerate(neighbours):
        if number in {3, PREFETCH}:
            await upstream.send_raw(DEADLY + b" %d" % number)
        await upstream.send_raw(body)
    resets, readiness = kill_connections(proxy), Readiness()
    async with consuming_from(proxy.url, readiness) as consumer:
        handled = await handle(consumer, at_least=len(neighbours))

        async def well() -> bool:
            return readiness.ready and consumer._prefetch == PREFETCH

        await until(well, what="the full prefetch")
        assert await upstream.depth(QUEUE) == 0
    assert {delivery.body for delivery in handled} == set(neighbours)
    assert max(delivery.tries for delivery in handled) < 10, "each is in few losses, and the limit is a hundred"
    dead = await (await upstream.queue(DEAD_LETTERS)).take(2)
    assert [letter.message.body for letter in dead] == [DEADLY + b" 3", DEADLY + b" %d" % PREFETCH]
    assert await upstream.depth(DEAD_LETTERS) == 0
    assert resets.fired == 2 * (DELIVERY_LIMIT + 1)


@pytest.mark.timeout(180)
async def test_what_rabbitmq_4_cannot_carry_over_becomes_a_dead_letter(
    stack: Stack, environment: Environment, upstream: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real cause, without a proxy: a UUID among the properties of a message that came by AMQP 1.0."""
    version = stack.broker.ctl("version").split()[-1]
    if not version.startswith("4.0."):
        pytest.skip(
            f"the broker here is RabbitMQ {version}, and only 4.0 is known to end connections over such a property"
        )
    monkeypatch.setattr(losses, "ALONE", replace(OUTAGE, maximum_s=0.0))
    neighbours = [f"healthy {number}".encode() for number in range(PREFETCH)]
    for body in neighbours[: PREFETCH // 2]:
        await upstream.send_raw(body)
    await amqp_1_0.send(environment.rabbitmq_url, QUEUE, amqp_1_0.message_with_uuid(DEADLY))
    for body in neighbours[PREFETCH // 2 :]:
        await upstream.send_raw(body)
    async with consuming_from(environment.rabbitmq_url, Readiness()) as consumer:
        handled = await handle(consumer, at_least=len(neighbours))

        async def drained() -> bool:
            return await upstream.depth(QUEUE) == 0

        await until(drained, what="the end of the deadly message")
    assert {delivery.body for delivery in handled} == set(neighbours)
    assert await upstream.depth(DEAD_LETTERS) == 1


async def test_after_two_losses_one_message_is_taken_at_a_time_and_readiness_says_so(
    upstream: UpstreamClient, proxy: Proxy
) -> None:
    await upstream.send_raw(DEADLY)
    resets, readiness = kill_connections(proxy), Readiness()
    async with consuming_from(proxy.url, readiness) as consumer:

        async def alone() -> bool:
            return "takes one message at a time" in readiness.reasons.get(f"consumer {QUEUE}", "")

        await until(alone, what="the reason")
        assert resets.fired >= losses.LOSSES_MAX
        assert consumer._prefetch == 1


async def test_a_message_that_ends_connections_does_not_stop_the_other_queue_of_staff(
    stack: Stack, environment: Environment, upstream: UpstreamClient, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves `dead-letters` by the way out, and the dead letters behind it are stored. A policy lowers the limit for the test."""
    monkeypatch.setattr(
        losses, "ALONE", replace(OUTAGE, initial_s=1.0)
    )  # so a busy machine stores the case long before the limit
    vhost, limit = environment.stack.vhost, 60
    policy = ("lower", f"^{DEAD_LETTERS}$", f'{{"delivery-limit": {limit}}}', "--apply-to", "queues")
    stack.broker.ctl("set_policy", "--vhost", vhost, *policy)
    resets = kill_connections(proxy)
    through_proxy = replace(environment, rabbitmq_url=proxy.url)

    async def cases() -> list[object]:
        return list(await rows(environment.databases["staff"], "SELECT payment_id FROM cases"))

    async def stored() -> bool:
        return len(await rows(environment.databases["staff"], "SELECT id FROM dead_letters")) == 2

    async def moved() -> int:
        return await upstream.depth(UNREADABLE_DEAD_LETTERS)

    try:
        for body in (b"before", DEADLY, b"behind"):
            await upstream.send_raw(body, exchange=DEAD_LETTERS, key=QUEUE, message_id=str(uuid4()))
        async with through_proxy.running("staff", assemble), asyncio.timeout(DEADLINE_S):

            async def is_ending_connections() -> bool:
                return resets.fired > losses.LOSSES_MAX

            await until(is_ending_connections, what="some losses")
            await upstream.send(in_doubt())
            await until(cases, what="the case")
            assert resets.fired <= limit, "the case did not wait for the end of the deadly message"
            monkeypatch.setattr(losses, "ALONE", replace(OUTAGE, maximum_s=0.0))
            await until(moved, within_s=DEADLINE_S, what="the deadly message on its way out")
            await until(stored, what="the two healthy dead letters")
    finally:
        stack.broker.ctl("clear_policy", "--vhost", vhost, "lower")
    assert resets.fired == limit + 1
    link = BrokerLink(environment.rabbitmq_url, name="test watch")
    await UnreadableWatch(link).run_once()
    await link.close()
    assert REGISTRY.get_sample_value("remit_dead_letters_unreadable") == 1
    (letter,) = await (await upstream.queue(UNREADABLE_DEAD_LETTERS)).take(1)
    assert (letter.message.body, letter.message.routing_key) == (DEADLY, QUEUE), "the queue on which it failed is known"


def in_doubt() -> payment_gateway.PaymentInDoubt:
    return payment_gateway.PaymentInDoubt(
        invoice_id="INV-1",
        payment_id=uuid4(),
        version=3,
        amount_minor=5,
        currency="EUR",
        reason="no_readable_answer",
        attempts=(),
    )


async def test_a_consumer_of_dead_letters_begins_with_one_at_a_time(
    environment: Environment, upstream: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that crashes at each start must not count against fifty dead letters."""
    monkeypatch.setattr(consuming, "WATCH_INTERVAL_S", 0.1)
    link, readiness = BrokerLink(environment.rabbitmq_url, name="test consumer"), Readiness()
    consumer = Consumer(link, DEAD_LETTERS, readiness=readiness, prefetch=50, wary=True)
    for number in range(3):
        await upstream.send_raw(b"%d" % number, exchange=DEAD_LETTERS, key=QUEUE)
    task = asyncio.create_task(consumer.run())
    async with asyncio.timeout(DEADLINE_S):
        first = await consumer.take()
        assert readiness.ready
        assert await upstream.depth(DEAD_LETTERS) == 2, "the others are not in its hands"
        await consumer.ack(first)
        await handle(consumer, at_least=2)

    async def full() -> bool:
        return consumer._prefetch == 50

    await until(full, what="the full prefetch, once the queue was found empty")
    await consumer.stop()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await link.close()


async def test_a_batch_is_bounded_by_bytes(environment: Environment, upstream: UpstreamClient) -> None:
    body, count = b"x" * 60_000, 80
    for _ in range(count):
        await upstream.send_raw(body)
    async with consuming_from(environment.rabbitmq_url, Readiness()) as consumer:

        async def arrived() -> bool:
            return len(consumer._buffer) == count

        await until(arrived, what="all of them")
        async with asyncio.timeout(DEADLINE_S):
            sizes = [len(await consumer.take()) for _ in range(3)]
    assert sizes == [34, 34, 12]
    assert 34 * len(body) <= BATCH_BYTES_MAX < 35 * len(body)


async def test_a_body_above_the_limit_is_dropped_as_it_comes(
    environment: Environment, upstream: UpstreamClient
) -> None:
    large = b"x" * 3_000_000
    await upstream.send_raw(large, message_id="large")
    await upstream.send_raw(b"small", message_id="small")
    async with consuming_from(environment.rabbitmq_url, Readiness()) as consumer:
        async with asyncio.timeout(DEADLINE_S):
            taken: list[Delivery] = []
            while len(taken) < 2:
                taken += await consumer.take()
    assert [(one.message_id, one.body, one.body_bytes) for one in taken] == [
        ("large", b"", len(large)),
        ("small", b"small", 5),
    ]
