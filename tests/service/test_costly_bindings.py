"""A binding over which the broker computes for minutes: our own queues get each event at once, and its public copy waits by itself."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from deploy.local.stack import LISTENER
from shared.messaging import publisher as publishing
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.rest import LONGEST_S
from shared.observability import metrics
from tests.support.environment import Environment
from tests.support.publishing_lanes import PublishingLanes
from tests.support.upstream_client import Subscription, UpstreamClient

PAID, VOIDED = "remit.invoice.InvoicePaid.v1", "remit.invoice.InvoiceVoided.v1"
COSTLY = ".".join(["#"] * 100)
"""Its words fit a key of four in 4.6 million ways, and the broker tries each."""
AT_ONCE_S = 5.0
"""Far more than our own queues need, and far less than the broker computes."""


def event(type_: str = PAID) -> Outgoing:
    return Outgoing(uuid4(), "invoice.events", type_, type_, "c", b"{}")


@pytest.fixture(autouse=True)
def shorter_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "SILENT_AFTER_S", 1.0)


@pytest.fixture
async def stranger(environment: Environment) -> AsyncIterator[AbstractChannel]:
    """A channel of somebody who may only listen."""
    async with await aio_pika.connect(environment.stack.rabbitmq_url_of(LISTENER), timeout=10) as connection:
        yield await connection.channel()


async def ids(subscription: Subscription, count: int) -> Sequence[str]:
    async with asyncio.timeout(AT_ONCE_S):
        return [one.id for one in await subscription.take(count)]


@pytest.mark.parametrize("behind_an_exchange", [False, True], ids=["queue", "exchange"])
async def test_our_own_queues_do_not_wait_for_what_others_bind(
    lanes: PublishingLanes,
    upstream: UpstreamClient,
    stranger: AbstractChannel,
    monkeypatch: pytest.MonkeyPatch,
    behind_an_exchange: bool,
) -> None:
    """The pattern may also stand behind an exchange of the stranger's own, where no permission could forbid it."""
    saga, listener = await upstream.queue("saga.events"), await upstream.tap("invoice.events", "#")
    queue = await stranger.declare_queue(f"{LISTENER}.{uuid4()}", exclusive=True)
    exchange = await stranger.declare_exchange(f"{LISTENER}.{uuid4()}", "topic", auto_delete=True)
    if behind_an_exchange:
        await exchange.bind("invoice.events", "#")
    await queue.bind(exchange if behind_an_exchange else "invoice.events", COSTLY)
    slow = metrics.PUBLIC_COPIES_SLOW._value.get()

    with monkeypatch.context() as patient:
        patient.setattr(
            publishing, "SILENT_AFTER_S", 3_600.0
        )  # else a busy machine would give the copy up before we look
        saying = asyncio.create_task(lanes.say(first := event()))
        assert await ids(saga, 1) == [str(first.id)], "while the broker computes"
        assert not saying.done()
    async with asyncio.timeout(AT_ONCE_S):
        await saying
    assert (lanes.public.is_resting, metrics.PUBLIC_COPIES_SLOW._value.get()) == (True, slow + 1)
    told = [event(), event(VOIDED), event()]
    for one in told:
        async with asyncio.timeout(AT_ONCE_S):
            await lanes.say(one)
    assert await ids(saga, 2) == [str(told[0].id), str(told[2].id)], "they are not even sent to the public"
    assert await lanes.waiting() == [("public", 1), ("public", 0), ("public", 0), ("public", 0)]

    await queue.unbind(exchange if behind_an_exchange else "invoice.events", COSTLY)
    lanes.now += LONGEST_S
    for _ in range(2):
        await lanes.sweep(Lane.PUBLIC)
    assert await lanes.waiting() == []
    heard = {one.id for one in await listener.waiting()}
    assert heard == {str(one.id) for one in (first, *told)}, "all others hear of it in the end"
    await lanes.say(last := event())
    assert (await ids(saga, 1), await ids(listener, 1)) == ([str(last.id)], [str(last.id)])
