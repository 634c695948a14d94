"""What a relay makes of the broker's answers, and when it leaves the broker alone. Nothing here is stored or sent."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.outbox_keeper import RENEW_AFTER_S, OutboxKeeper
from shared.messaging.outbox_sweeper import OutboxSweeper
from shared.messaging.publisher import Published, Publisher
from shared.messaging.relay import OutsideRelay, PublicRelay, Relay, RetryRelay
from shared.messaging.rest import LONG_S
from shared.messaging.routes import Routes
from shared.persistence import outbox
from shared.persistence.database import Database
from shared.persistence.outbox import OutboxBatch, Unpublished

Says = Callable[[Sequence[Outgoing]], Published]


def an_event(key: str = "InvoicePaid") -> Outgoing:
    return Outgoing(uuid4(), "invoice.events", key, "t", "c", b"{}")


def an_answer(address: str) -> Outgoing:
    return Outgoing(uuid4(), "", address, "t", "c", b"{}", droppable=True)


def batch_of(*messages: Outgoing, lane: Lane, refusals: int = 0) -> OutboxBatch:
    return OutboxBatch(uuid4(), messages, refusals, lane=lane)


def ids(*messages: Outgoing) -> list[UUID]:
    return [message.id for message in messages]


def takes_all(messages: Sequence[Outgoing]) -> Published:
    return Published(confirmed=ids(*messages))


def takes_long(messages: Sequence[Outgoing]) -> Published:
    published = takes_all(messages)
    published.slowest_s = LONG_S
    return published


class RelayClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Broker:
    """Stands in for the publisher: it notes what is sent, and says of it what a test wants."""

    def __init__(self, says: Says = takes_all) -> None:
        self.says = says
        self.sent: list[Outgoing] = []

    async def publish(self, messages: Sequence[Outgoing]) -> Published:
        self.sent += messages
        return self.says(messages)


class DatabaseAway:
    """Each use of it fails."""

    def transaction(self) -> Any:
        raise asyncpg.CannotConnectNowError

    connection = transaction


DATABASE_AWAY = cast(Database, DatabaseAway())


@pytest.fixture
def clock() -> RelayClock:
    return RelayClock()


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def routes(clock: RelayClock) -> Routes:
    return Routes(clock)


@pytest.fixture
def public(broker: Broker, routes: Routes, clock: RelayClock) -> PublicRelay:
    return PublicRelay(DATABASE_AWAY, cast(Publisher, broker), routes=routes, clock=clock)


def retrying(broker: Broker, routes: Routes, clock: RelayClock, lane: Lane) -> RetryRelay:
    return RetryRelay(DATABASE_AWAY, cast(Publisher, broker), lane=lane, routes=routes, clock=clock)


# -- public copies ---------------------------------------------------------------------------------------------------------------------


async def test_public_copies_that_took_long_are_followed_by_a_rest(public: PublicRelay, broker: Broker) -> None:
    """Others chose the binding. While the lane rests it takes nothing over, and what waits in memory already is not sent."""
    owed = batch_of(an_event(), lane=Lane.INSIDE)
    assert public.take_over(owed)
    broker.says = takes_long
    await public._publish([batch_of(an_event(), lane=Lane.PUBLIC)])
    assert (public.is_resting, public.take_over(owed)) == (True, False)
    copy = batch_of(an_event(), lane=Lane.PUBLIC)
    sent = len(broker.sent)
    assert await public._publish_messages([copy]) == (Published(), set(ids(*copy.messages)))
    assert len(broker.sent) == sent


async def test_public_copies_that_are_repeated_and_took_long_are_followed_by_a_rest(
    routes: Routes, clock: RelayClock
) -> None:
    relay = retrying(Broker(takes_long), routes, clock, Lane.PUBLIC)
    await relay.publish([batch_of(an_event(), lane=Lane.PUBLIC)])
    assert relay.is_resting
    assert await OutboxSweeper(DATABASE_AWAY, relay).run_once() == OutboxSweeper.interval_s, "nothing is looked for"


def test_only_what_owes_nothing_but_public_copies_is_handed_on(public: PublicRelay) -> None:
    """Our own queues have to have it first."""
    relay = Relay(DATABASE_AWAY, cast(Publisher, Broker()), public=public)
    ours, theirs = an_event(), an_event()
    batch = batch_of(ours, theirs, lane=Lane.INSIDE)
    assert not relay._hand_on(Unpublished(batch, unknown=[ours], public=[theirs]))
    assert relay._hand_on(Unpublished(batch, public=[theirs]))


# -- what was refused before -----------------------------------------------------------------------------------------------------------


async def test_a_copy_that_was_never_sent_is_not_called_refused(routes: Routes, clock: RelayClock) -> None:
    before, never_sent, sent_before = an_event(), an_event(), an_event()
    routes.learn([before], Published(silent=ids(before)))  # it is left in peace for a while
    batches = [batch_of(never_sent, lane=Lane.PUBLIC), batch_of(sent_before, lane=Lane.PUBLIC, refusals=1)]
    published, _ = await retrying(Broker(), routes, clock, Lane.PUBLIC)._publish_messages(batches)
    assert (published.failed, published.refused) == (ids(never_sent), ids(sent_before))


async def test_in_an_outage_nothing_is_called_refused(routes: Routes, clock: RelayClock) -> None:
    """A refused answer is dropped in the end, and one in an outage never."""
    refused, healthy = an_answer("full"), an_answer("healthy")
    routes.learn([refused], Published(silent=ids(refused)))
    broker = Broker(lambda messages: Published(failed=ids(*messages)))
    batch = batch_of(healthy, refused, lane=Lane.RETRY, refusals=1)
    published, _ = await retrying(broker, routes, clock, Lane.RETRY)._publish_messages([batch])
    assert (published.refused, sorted(published.failed)) == ([], sorted(ids(healthy, refused)))


async def test_after_a_silent_queue_no_other_suspect_is_tried(routes: Routes, clock: RelayClock) -> None:
    """Each takes seconds to show itself."""
    suspects = [an_answer("one"), an_answer("other")]
    routes.learn(suspects, Published(unclear=ids(*suspects)))
    broker = Broker(lambda messages: Published(silent=ids(*messages)))
    await retrying(broker, routes, clock, Lane.RETRY)._publish_messages([batch_of(*suspects, lane=Lane.RETRY)])
    assert len(broker.sent) == 1


# -- what is in hand -------------------------------------------------------------------------------------------------------------------


async def test_what_somebody_has_in_hand_is_not_published_as_well(routes: Routes) -> None:
    keeper, broker = OutboxKeeper(DATABASE_AWAY), Broker()
    relay = OutsideRelay(DATABASE_AWAY, cast(Publisher, broker), routes=routes, keeper=keeper)
    batch = batch_of(an_answer("q"), lane=Lane.OUTSIDE)
    keeper.hold([batch])
    await relay.publish([batch])
    assert broker.sent == []


async def test_a_batch_that_was_given_up_while_it_was_renewed_is_in_nobodys_hands(
    clock: RelayClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LentDatabase:
        @asynccontextmanager
        async def connection(self) -> AsyncIterator[None]:
            yield

    keeper = OutboxKeeper(cast(Database, LentDatabase()), clock)
    kept, given_up = (batch_of(an_answer("q"), lane=Lane.OUTSIDE) for _ in range(2))

    async def renew(_: object, renewed: Sequence[UUID]) -> None:
        assert sorted(renewed) == sorted([kept.id, given_up.id])
        keeper.release([given_up])

    monkeypatch.setattr(outbox, "renew", renew)
    keeper.hold([kept, given_up])
    clock.now += RENEW_AFTER_S
    await keeper.run_once()
    assert keeper.hold([kept, given_up]) == [given_up], "a sweeper of this process takes it again"


async def test_what_cannot_be_put_off_now_stays_as_it_is() -> None:
    refused = an_answer("q")
    relay = Relay(DATABASE_AWAY, cast(Publisher, Broker(lambda messages: Published(refused=ids(*messages)))))
    batch = batch_of(refused, lane=Lane.INSIDE)
    assert await relay.publish([batch]) == 0
    assert relay.keeper.hold([batch]) == [batch], "it is left to the sweeper"
