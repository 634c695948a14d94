"""Queues of askers that take no answers: theirs wait by themselves and are given up, and no other answer waits with them."""

import pytest

from shared.messaging.envelope import Lane
from shared.persistence.outbox import ANSWER_REFUSALS_MAX
from tests.support.publishing_lanes import PublishingLanes, answer
from tests.support.upstream_client import Subscription, UpstreamClient


async def ids(subscription: Subscription) -> list[str]:
    return [one.id for one in await subscription.waiting()]


@pytest.fixture
async def full(upstream: UpstreamClient) -> Subscription:
    """A queue that takes one message and refuses the next."""
    return Subscription(await upstream.queue_that_is_full())


async def test_answers_that_are_refused_wait_apart_and_are_given_up(
    lanes: PublishingLanes, upstream: UpstreamClient, full: Subscription
) -> None:
    asker = await upstream.inbox()
    await lanes.say(first := answer(asker.name), answer(full.name))
    assert await lanes.waiting() == [("retry", 1)]
    await lanes.say(second := answer(asker.name), answer(full.name))
    assert await lanes.waiting() == [("retry", 1), ("retry", 0)], "the second is not even sent on the lane of all"
    assert await ids(asker) == [str(first.id), str(second.id)]
    for refusals in range(2, ANSWER_REFUSALS_MAX + 1):
        await lanes.sweep(Lane.RETRY)
        assert await lanes.waiting() == [("retry", refusals), ("retry", refusals - 1)]
    await lanes.sweep(Lane.RETRY)
    assert await lanes.waiting() == [("retry", ANSWER_REFUSALS_MAX)], "the stored answer is the truth"


async def test_answers_leave_once_there_is_room_again(
    lanes: PublishingLanes, upstream: UpstreamClient, full: Subscription
) -> None:
    await lanes.say(one := answer(full.name))
    await lanes.say(two := answer(full.name))
    await ids(full)  # takes its one message out
    await lanes.sweep(Lane.RETRY)
    assert await ids(full) == [str(one.id)], "it has room for one at a time"
    await lanes.sweep(Lane.RETRY)
    assert await ids(full) == [str(two.id)]
    await lanes.say(three := answer(full.name))
    assert (await ids(full), await lanes.waiting()) == ([str(three.id)], []), "it is as good as any other again"


async def test_answers_to_a_queue_that_is_gone_meanwhile_are_dropped(
    lanes: PublishingLanes, upstream: UpstreamClient
) -> None:
    queue = await upstream.queue_that_is_full()
    await lanes.say(answer(queue.name), answer(queue.name))
    await queue.delete(if_empty=False)
    await lanes.sweep(Lane.RETRY)
    assert await lanes.waiting() == []
