"""A queue of others that is full: our own queues get every event once and at once, and its public copy waits by itself."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from shared import crash_points
from shared.amqp.broker_link import BrokerLink
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.outbox_sweeper import OutboxSweeper
from shared.messaging.public_exchanges import PublicExchanges
from shared.messaging.publisher import Publisher
from shared.messaging.relay import OutsideRelay, Relay
from shared.persistence import outbox
from shared.persistence.database import Database
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import Subscription, UpstreamClient

DATABASE = "invoice"
PAID, VOIDED = "remit.invoice.InvoicePaid.v1", "remit.invoice.InvoiceVoided.v1"
"""An event that a queue of ours takes, and one that none takes."""


def event(type_: str = PAID) -> Outgoing:
    return Outgoing(uuid4(), "invoice.events", type_, type_, "c", b'{"the same": "bytes"}')


@pytest.fixture
async def database(environment: Environment) -> AsyncIterator[Database]:
    opened = await Database.open(environment.databases[DATABASE], name="test", connections_max=2)
    yield opened
    await opened.close()


class BothLanes:
    """Both lanes of a service, each with its sweeper, as `shared.messaging.lanes` puts them together."""

    def __init__(self, environment: Environment, database: Database) -> None:
        self._environment = environment
        self._database = database
        public = PublicExchanges()
        self.inside = Publisher(BrokerLink(environment.rabbitmq_url, name="test inside"))
        self.outside = Publisher(BrokerLink(environment.rabbitmq_url, name="test outside"), lane=Lane.OUTSIDE)
        self._copies = OutsideRelay(database, self.outside, public=public)
        self._relay = Relay(database, self.inside, public=public)

    async def say(self, *messages: Outgoing) -> None:
        """Commit these messages in one transaction, and publish them."""
        async with self._database.transaction() as tx:
            outbox_batches = await outbox.insert(tx, messages)
        await self._relay.publish(outbox_batches)
        await self._relay.cleaner.delete_confirmed()

    async def sweep(self, lane: Lane) -> None:
        """Make everything due, and sweep one lane once."""
        await execute(self._environment.databases[DATABASE], "UPDATE outbox SET sweep_after = now()")
        relay = self._relay if lane is Lane.INSIDE else self._copies
        await OutboxSweeper(self._database, relay).sweep()

    async def waiting(self) -> list[tuple[str, int]]:
        """Lane and number of refusals of each message in the outbox."""
        found = await rows(
            self._environment.databases[DATABASE], "SELECT lane, refusals FROM outbox_messages ORDER BY created_at, id"
        )
        return [(row["lane"], row["refusals"]) for row in found]


@pytest.fixture
async def lanes(environment: Environment, database: Database) -> AsyncIterator[BothLanes]:
    opened = BothLanes(environment, database)
    yield opened
    await opened.inside.close()
    await opened.outside.close()


@pytest.fixture
async def full(environment: Environment) -> AsyncIterator[Subscription]:
    """A queue of somebody else that takes one message and refuses the next."""
    async with UpstreamClient.open(environment.rabbitmq_url) as upstream:
        queue = await upstream.queue_that_is_full()
        await queue.bind("invoice.events", "remit.#")
        yield Subscription(queue)


async def ids(subscription: Subscription) -> list[str]:
    return [one.id for one in await subscription.waiting()]


async def test_a_healthy_event_is_published_once(lanes: BothLanes, upstream: UpstreamClient) -> None:
    saga, listener = await upstream.queue("saga.events"), await upstream.tap("invoice.events", "#")
    await lanes.say(one := event(), two := event(VOIDED))
    assert await ids(saga) == [str(one.id)]
    assert await ids(listener) == [str(one.id), str(two.id)]
    assert await lanes.waiting() == []


async def test_our_own_queues_get_each_event_once_while_a_queue_of_others_is_full(
    lanes: BothLanes, upstream: UpstreamClient, full: Subscription
) -> None:
    saga = await upstream.queue("saga.events")
    await lanes.say(first := event())
    assert set(await ids(saga)) == {str(first.id)}, "the refusal tells of the full queue; its inbox knows the copy"
    told = [event(PAID if number % 2 else VOIDED) for number in range(10)]
    for one in told:
        await lanes.say(one)
    assert await ids(saga) == [str(one.id) for one in told if one.type == PAID]
    assert {lane for lane, _ in await lanes.waiting()} == {"outside"}, "nothing of ours waits"
    for refusals in range(1, 4):
        await lanes.sweep(Lane.OUTSIDE)
        assert await lanes.waiting() == [("outside", refusals)] * 11
    await lanes.sweep(Lane.INSIDE)
    assert await ids(saga) == [], "what is repeated for others does not reach our queues"


async def test_the_public_copies_leave_once_there_is_room_again(
    lanes: BothLanes, upstream: UpstreamClient, full: Subscription
) -> None:
    saga, listener = await upstream.queue("saga.events"), await upstream.tap("invoice.events", "#")
    await lanes.say(one := event())
    await lanes.say(two := event())
    assert set(await ids(listener)) == {str(one.id)}
    await ids(full)  # takes its one message out
    for _ in range(2):
        await lanes.sweep(Lane.OUTSIDE)
        assert len(await full.waiting()) == 1, "it has room for one at a time"
    assert await lanes.waiting() == []
    assert str(two.id) in await ids(listener)
    await ids(saga)
    await lanes.say(three := event())
    assert (await ids(saga), await ids(listener)) == ([str(three.id)], [str(three.id)]), "one publish reaches all again"


async def test_the_public_refuses_by_routing_key(lanes: BothLanes, upstream: UpstreamClient) -> None:
    """Whoever binds a full queue to one event does not touch the others."""
    queue = await upstream.queue_that_is_full()
    await queue.bind("invoice.events", VOIDED)
    await lanes.say(event(VOIDED))
    listener = await upstream.tap("invoice.events", PAID)
    await lanes.say(paid := event())
    assert await ids(listener) == [str(paid.id)]
    assert await lanes.waiting() == [("outside", 0)]


async def test_an_event_that_a_queue_of_ours_refuses_waits_on_the_inside(
    lanes: BothLanes, environment: Environment, upstream: UpstreamClient
) -> None:
    ours = await upstream.queue_that_is_full()
    for exchange in ("invoice.events.direct", "invoice.events.own"):
        await ours.bind(exchange, PAID)
    listener = await upstream.tap("invoice.events", "#")
    await lanes.say(one := event())
    assert await lanes.waiting() == [("inside", 1)]
    assert await ids(listener) == [str(one.id)]
    await ids(Subscription(ours))
    await lanes.sweep(Lane.INSIDE)
    assert await lanes.waiting() == []
    assert [received.id for received in await Subscription(ours).waiting()] == [str(one.id)]


async def test_old_rows_and_what_the_build_before_leaves_are_published_to_all(
    lanes: BothLanes, environment: Environment, database: Database, upstream: UpstreamClient
) -> None:
    """It knows no lanes: its rows have the default."""
    async with database.transaction() as tx:
        await outbox.insert(tx, [one := event()])
        await tx.execute("UPDATE outbox SET lane = DEFAULT")
    saga, listener = await upstream.queue("saga.events"), await upstream.tap("invoice.events", "#")
    await lanes.sweep(Lane.INSIDE)
    assert (await ids(saga), await ids(listener)) == ([str(one.id)], [str(one.id)])


@pytest.mark.parametrize("point", ["relay.before_own", "relay.after_own"])
async def test_a_crash_between_the_lanes_loses_nothing(
    lanes: BothLanes, upstream: UpstreamClient, full: Subscription, point: str
) -> None:
    saga = await upstream.queue("saga.events")
    crash_points.arm(f"{point}:1:raise")
    with pytest.raises(crash_points.InjectedFault):
        await lanes.say(one := event())
    crash_points.arm("")
    assert await lanes.waiting() == [("inside", 0)]
    await lanes.sweep(Lane.INSIDE)
    assert await lanes.waiting() == [("outside", 0)]
    assert set(await ids(saga)) == {str(one.id)}
    await ids(full)
    await lanes.sweep(Lane.OUTSIDE)
    assert await lanes.waiting() == []
    assert await ids(full) == [str(one.id)]


@pytest.mark.parametrize("point", ["relay.before_outside", "relay.after_outside"])
async def test_a_crash_while_the_copy_is_published_loses_nothing(
    lanes: BothLanes, full: Subscription, point: str
) -> None:
    await lanes.say(one := event())
    await ids(full)
    crash_points.arm(f"{point}:1:raise")
    with pytest.raises(crash_points.InjectedFault):
        await lanes.sweep(Lane.OUTSIDE)
    crash_points.arm("")
    taken = await ids(full)
    await lanes.sweep(Lane.OUTSIDE)
    assert await lanes.waiting() == []
    assert {*taken, *await ids(full)} == {str(one.id)}
