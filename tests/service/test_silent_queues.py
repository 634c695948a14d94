"""Queues that confirm nothing, as a quorum queue does that has lost its leader: nobody waits for them for long, nor again and again."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import aio_pika
import pytest

from shared.messaging import publisher as publishing
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.publisher import CONFIRM_TIMEOUT_S
from shared.persistence.outbox import ANSWER_REFUSALS_MAX
from tests.support.environment import Environment
from tests.support.publishing_lanes import PublishingLanes, answer
from tests.support.upstream_client import UpstreamClient

PAID, VOIDED = "remit.invoice.InvoicePaid.v1", "remit.invoice.InvoiceVoided.v1"
"""An event that a queue of ours takes, and one that none takes."""


def event(type_: str) -> Outgoing:
    return Outgoing(uuid4(), "invoice.events", type_, type_, "c", b"{}")


@asynccontextmanager
async def silenced(environment: Environment, queue: str) -> AsyncIterator[None]:
    """Stop the process of a quorum queue: it takes nothing until the block ends, and the broker does not say so."""
    process = f"{environment.stack.vhost}_{queue}".replace("/", "%2F")
    ctl = environment.stack.broker.ctl
    await asyncio.to_thread(ctl, "--silent", "eval", f"sys:suspend('{process}').")
    try:
        yield
    finally:
        await asyncio.to_thread(ctl, "--silent", "eval", f"sys:resume('{process}').")


@pytest.fixture(autouse=True)
def shorter_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "SILENT_AFTER_S", 1.0)


@pytest.fixture
async def strangers(environment: Environment) -> AsyncIterator[str]:
    """A quorum queue of somebody else."""
    async with await aio_pika.connect(environment.rabbitmq_url, timeout=10) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(f"stranger.{uuid4()}", durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind("invoice.events", PAID)
        yield queue.name
        await queue.delete(if_unused=False, if_empty=False)


async def test_a_silent_queue_of_somebody_else_holds_up_nobody(
    environment: Environment, lanes: PublishingLanes, upstream: UpstreamClient, strangers: str
) -> None:
    asker, saga = await upstream.inbox(), await upstream.queue("saga.events")
    async with silenced(environment, strangers):
        begun = time.monotonic()
        # its answers
        await lanes.say(answer(asker.name), answer(strangers))
        assert await lanes.waiting() == [("retry", 0), ("retry", 0)], (
            "it blocks what was sent with it: who is to blame?"
        )
        await lanes.sweep(Lane.RETRY)
        assert await lanes.waiting() == [("retry", 1)], "alone it counts as a refusal"
        await lanes.say(answer(asker.name), answer(strangers))
        assert await lanes.waiting() == [("retry", 1), ("retry", 0)], "nobody is held up again: it was not sent"
        assert len(await asker.waiting()) >= 2
        for _ in range(ANSWER_REFUSALS_MAX + 1):
            await lanes.sweep(Lane.RETRY)
        assert await lanes.waiting() == [], "as those to a full queue they are given up: its silence lasted as long"
        # its copies of our events
        await lanes.say(one := event(PAID), event(VOIDED))
        await lanes.say(two := event(PAID))
        assert {received.id for received in await saga.waiting()} == {str(one.id), str(two.id)}
        for _ in range(2):
            await lanes.sweep(Lane.PUBLIC)
        assert await lanes.waiting() == [("public", 2), ("public", 2)], (
            "the event that this queue does not get has left"
        )
        assert time.monotonic() - begun < 2 * CONFIRM_TIMEOUT_S, "four short waits, of a dozen publishes"
    for _ in range(2):  # where the broker takes a second for the first, the copies rest before the next
        lanes.now += 3_600
        await lanes.sweep(Lane.PUBLIC)
    assert await lanes.waiting() == []


async def test_a_silent_queue_of_ours_costs_less_than_one_full_wait(
    environment: Environment, lanes: PublishingLanes
) -> None:
    async with silenced(environment, "saga.events"):
        begun = time.monotonic()
        await lanes.say(event(PAID), event(VOIDED))
        assert time.monotonic() - begun < CONFIRM_TIMEOUT_S
        assert sorted(await lanes.waiting()) == [("inside", 1), ("public", 0)]
        await lanes.sweep(Lane.PUBLIC)
        assert await lanes.waiting() == [("inside", 1)], "the other event has no queue of ours"
    await lanes.sweep(Lane.INSIDE)
    assert await lanes.waiting() == []
