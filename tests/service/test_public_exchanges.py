"""A queue of others that is full: our own queues get every event once and at once, and its public copy waits by itself."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from shared import crash_points
from shared.messaging import rest
from shared.messaging.envelope import Lane, Outgoing
from shared.persistence import outbox
from shared.persistence.database import Database
from shared.persistence.outbox import SWEEP_MESSAGES_MAX
from tests.support.environment import Environment
from tests.support.publishing_lanes import PublishingLanes
from tests.support.upstream_client import Subscription, UpstreamClient

DATABASE = "invoice"
PAID, VOIDED = "remit.invoice.InvoicePaid.v1", "remit.invoice.InvoiceVoided.v1"
"""An event that a queue of ours takes, and one that none takes."""


def event(type_: str = PAID) -> Outgoing:
    return Outgoing(uuid4(), "invoice.events", type_, type_, "c", b'{"the same": "bytes"}')


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy broker may take a second for a copy, and then the lane would rest. Nothing here is about that."""
    monkeypatch.setattr(rest, "LONG_S", 3_600.0)


@pytest.fixture
async def database(environment: Environment) -> AsyncIterator[Database]:
    opened = await Database.open(environment.databases[DATABASE], name="test", connections_max=2)
    yield opened
    await opened.close()


@pytest.fixture
async def lanes(environment: Environment, database: Database) -> AsyncIterator[PublishingLanes]:
    opened = PublishingLanes(environment.rabbitmq_url, database)
    yield opened
    await opened.close()


@pytest.fixture
async def full(environment: Environment) -> AsyncIterator[Subscription]:
    """A queue of somebody else that takes one message and refuses the next."""
    async with UpstreamClient.open(environment.rabbitmq_url) as upstream:
        queue = await upstream.queue_that_is_full()
        await queue.bind("invoice.events", "remit.#")
        yield Subscription(queue)


async def ids(subscription: Subscription) -> list[str]:
    return [one.id for one in await subscription.waiting()]


async def test_a_healthy_event_is_published_once(lanes: PublishingLanes, upstream: UpstreamClient) -> None:
    saga, listener = await upstream.queue("saga.events"), await upstream.tap("invoice.events", "#")
    await lanes.say(one := event(), two := event(VOIDED))
    assert await ids(saga) == [str(one.id)]
    assert await ids(listener) == [str(one.id), str(two.id)]
    assert await lanes.waiting() == []


async def test_an_event_that_our_queues_take_only_with_a_suffix_reaches_them(
    lanes: PublishingLanes, upstream: UpstreamClient
) -> None:
    type_ = "remit.payment_gateway.PaymentInquired.v1"
    staff, listener = await upstream.queue("staff.cases"), await upstream.tap("payment.events", "#")
    plain, case = (Outgoing(uuid4(), "payment.events", key, type_, "c", b"{}") for key in (type_, f"{type_}.case"))
    await lanes.say(plain, case)
    assert await ids(staff) == [str(case.id)]
    assert await ids(listener) == [str(plain.id), str(case.id)]
    assert await lanes.waiting() == []


async def test_our_own_queues_get_each_event_once_while_a_queue_of_others_is_full(
    lanes: PublishingLanes, upstream: UpstreamClient, full: Subscription
) -> None:
    saga = await upstream.queue("saga.events")
    await lanes.say(first := event())
    assert await ids(saga) == [str(first.id)]
    told = [event(PAID if number % 2 else VOIDED) for number in range(10)]
    for one in told:
        await lanes.say(one)
    assert await ids(saga) == [str(one.id) for one in told if one.type == PAID]
    assert {lane for lane, _ in await lanes.waiting()} == {"public"}, "nothing of ours waits"
    for refusals in range(1, 4):
        await lanes.sweep(Lane.PUBLIC)
        assert await lanes.waiting() == [("public", refusals + 1)] * 2 + [("public", refusals)] * 9, "the first told"
    await lanes.sweep(Lane.INSIDE)
    assert await ids(saga) == [], "what is repeated for others does not reach our queues"


async def test_the_public_copies_leave_once_there_is_room_again(
    lanes: PublishingLanes, upstream: UpstreamClient, full: Subscription
) -> None:
    saga, listener = await upstream.queue("saga.events"), await upstream.tap("invoice.events", "#")
    await lanes.say(one := event())
    await lanes.say(two := event())
    assert set(await ids(listener)) == {str(one.id)}
    await ids(full)  # takes its one message out
    for _ in range(2):
        await lanes.sweep(Lane.PUBLIC)
        assert len(await full.waiting()) == 1, "it has room for one at a time"
    assert await lanes.waiting() == []
    assert str(two.id) in await ids(listener)
    await ids(saga)
    await lanes.say(three := event())
    assert (await ids(saga), await ids(listener)) == ([str(three.id)], [str(three.id)])


async def test_one_copy_shows_whether_the_public_takes_any_again(
    lanes: PublishingLanes, upstream: UpstreamClient, full: Subscription
) -> None:
    """Otherwise those whose queues have room would get every copy again with each try."""
    listener = await upstream.tap("invoice.events", "#")
    await lanes.say(event(VOIDED))
    await lanes.say(*(told := [event(VOIDED) for _ in range(20)]))
    await ids(listener)
    await lanes.sweep(Lane.PUBLIC)
    assert {str(one.id) for one in told} <= set(await ids(listener)), "all that was said meanwhile, once"
    for _ in range(3):
        await lanes.sweep(Lane.PUBLIC)
        assert len(await ids(listener)) == 1


async def test_no_answer_waits_behind_public_copies(
    lanes: PublishingLanes, upstream: UpstreamClient, full: Subscription
) -> None:
    """There may be thousands of them. One sweep takes some hundreds, those that have waited longest."""
    asker = await upstream.inbox()
    for _ in range(2):
        await lanes.say(*(event() for _ in range(SWEEP_MESSAGES_MAX)))
    await lanes.keep(answer := Outgoing(uuid4(), "", asker.name, "t", "c", b"{}", droppable=True))
    await lanes.sweep(Lane.OUTSIDE)
    assert await ids(asker) == [str(answer.id)]
    assert {lane for lane, _ in await lanes.waiting()} == {"public"}


async def test_copies_that_the_build_before_kept_on_the_outside_lane_leave(
    lanes: PublishingLanes, upstream: UpstreamClient
) -> None:
    saga, listener = await upstream.queue("saga.events"), await upstream.tap("invoice.events", PAID)
    queue = await upstream.queue_that_is_full()
    await queue.bind("invoice.events", VOIDED)
    await lanes.keep(paid := event(), voided := event(VOIDED), lane=Lane.OUTSIDE)
    await lanes.sweep(Lane.OUTSIDE)
    assert (await ids(saga), await ids(listener)) == ([], [str(paid.id)]), "our own queues have it"
    assert await lanes.waiting() == [("public", 1)], "what is refused changes its lane"
    await ids(Subscription(queue))
    await lanes.sweep(Lane.PUBLIC)
    assert await ids(Subscription(queue)) == [str(voided.id)]


async def test_the_public_refuses_by_routing_key(lanes: PublishingLanes, upstream: UpstreamClient) -> None:
    """Whoever binds a full queue to one event does not touch the others."""
    queue = await upstream.queue_that_is_full()
    await queue.bind("invoice.events", VOIDED)
    await lanes.say(event(VOIDED))
    listener = await upstream.tap("invoice.events", PAID)
    await lanes.say(paid := event())
    assert await ids(listener) == [str(paid.id)]
    assert await lanes.waiting() == [("public", 1)]


async def test_an_event_that_a_queue_of_ours_refuses_waits_on_the_inside(
    lanes: PublishingLanes, environment: Environment, upstream: UpstreamClient
) -> None:
    ours = await upstream.queue_that_is_full()
    await ours.bind("invoice.events.own", PAID)
    listener = await upstream.tap("invoice.events", "#")
    await lanes.say(one := event())
    assert await lanes.waiting() == [("inside", 1)]
    assert await ids(listener) == [], "the public hears of it once our own queues have it"
    await ids(Subscription(ours))
    await lanes.sweep(Lane.INSIDE)
    assert await lanes.waiting() == []
    assert await ids(listener) == [str(one.id)]
    assert [received.id for received in await Subscription(ours).waiting()] == [str(one.id)]


async def test_old_rows_and_what_the_build_before_leaves_are_published_to_all(
    lanes: PublishingLanes, environment: Environment, database: Database, upstream: UpstreamClient
) -> None:
    """It knows no lanes: its rows have the default."""
    async with database.transaction() as tx:
        await outbox.insert(tx, [one := event()])
        await tx.execute("UPDATE outbox SET lane = DEFAULT")
    saga, listener = await upstream.queue("saga.events"), await upstream.tap("invoice.events", "#")
    await lanes.sweep(Lane.INSIDE)
    assert (await ids(saga), await ids(listener)) == ([str(one.id)], [str(one.id)])


@pytest.mark.parametrize("point", ["relay.before_public", "relay.after_public"])
async def test_a_crash_between_the_lanes_loses_nothing(
    lanes: PublishingLanes, upstream: UpstreamClient, full: Subscription, point: str
) -> None:
    saga = await upstream.queue("saga.events")
    crash_points.arm(f"{point}:1:raise")
    with pytest.raises(crash_points.InjectedFault):
        await lanes.say(one := event())
    crash_points.arm("")
    assert await lanes.waiting() == [("inside", 0)]
    await lanes.sweep(Lane.INSIDE)
    assert await lanes.waiting() == [("public", 1)]
    assert set(await ids(saga)) == {str(one.id)}
    await ids(full)
    await lanes.sweep(Lane.PUBLIC)
    assert await lanes.waiting() == []
    assert await ids(full) == [str(one.id)]


@pytest.mark.parametrize("point", ["relay.before_outside", "relay.after_outside"])
async def test_a_crash_while_the_copy_is_published_loses_nothing(
    lanes: PublishingLanes, full: Subscription, point: str
) -> None:
    await lanes.say(one := event())
    await ids(full)
    crash_points.arm(f"{point}:1:raise")
    with pytest.raises(crash_points.InjectedFault):
        await lanes.sweep(Lane.PUBLIC)
    crash_points.arm("")
    taken = await ids(full)
    await lanes.sweep(Lane.PUBLIC)
    assert await lanes.waiting() == []
    assert {*taken, *await ids(full)} == {str(one.id)}
