"""Outbox batches in the real database: they come out as they went in, and the unpublished part of one waits by itself."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, cast
from uuid import UUID

import pytest

from shared.messaging import relay as relaying
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.outbox_keeper import OutboxKeeper
from shared.messaging.outbox_sweeper import OutboxSweeper
from shared.messaging.publisher import Published, Publisher
from shared.messaging.relay import OutsideRelay, Relay
from shared.messaging.routes import Routes
from shared.persistence import outbox
from shared.persistence.database import Database
from shared.persistence.outbox import RESERVED_S, OutboxBatch, Unpublished
from tests.support.databases import execute, rows
from tests.support.environment import Environment

ONE, TWO, THREE, FOUR = (
    Outgoing(UUID(int=1), "remit", "k.1", "t", "c", b'{"n": 1}'),
    Outgoing(UUID(int=2), "remit", "asker", "t", "c", b"\x00\xff", droppable=True, headers={"x-n": 2, "x-t": "2"}),
    Outgoing(UUID(int=3), "remit", "k.3", "t", "c", b"", content_type="", message_id="not a UUID", reply_to="asker"),
    Outgoing(UUID(int=4), "remit", "k.4", "t", "ü", b"{}" * 20_000),
)


@pytest.fixture
async def database(environment: Environment) -> AsyncIterator[Database]:
    opened = await Database.open(environment.databases["saga"], name="test", connections_max=2)
    yield opened
    await opened.close()


async def stored(database: Database, *messages: Outgoing) -> OutboxBatch:
    async with database.transaction() as tx:
        (outbox_batch,) = await outbox.insert(tx, messages)
    return outbox_batch


async def overdue(environment: Environment, database: Database) -> list[OutboxBatch]:
    """All outbox batches, whenever they are due."""
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    async with database.transaction() as tx:
        return await outbox.take_overdue(tx)


async def test_an_outbox_batch_comes_out_as_it_went_in(environment: Environment, database: Database) -> None:
    outbox_batch = await stored(database, ONE, TWO, THREE, FOUR)
    (found,) = await overdue(environment, database)
    assert (found.id, list(found.messages), found.refusals) == (outbox_batch.id, [ONE, TWO, THREE, FOUR], 0)


async def take(database: Database) -> list[UUID]:
    async with database.transaction() as tx:
        return [outbox_batch.id for outbox_batch in await outbox.take_overdue(tx)]


async def test_a_sweeper_takes_the_longest_overdue_and_reserves_it(
    environment: Environment, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.transaction() as tx:  # in which no time passes, however slow the machine is
        (old,), (young,) = await outbox.insert(tx, [ONE]), await outbox.insert(tx, [TWO])
        assert await outbox.take_overdue(tx) == [], "young batches are left to their publisher"
        await tx.execute("UPDATE outbox SET created_at = created_at - interval '1 s' WHERE id = $1", old.id)
    monkeypatch.setattr(outbox, "SWEEP_MESSAGES_MAX", 1)
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = created_at")
    assert [await take(database) for _ in range(3)] == [[old.id], [young.id], []]


async def test_a_sweep_is_bounded_by_messages_and_takes_at_least_one_batch(
    environment: Environment, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small, last = (
        await stored(database, ONE, TWO, THREE),
        await stored(database, FOUR),
        await stored(database, ONE),
    )
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = created_at")
    monkeypatch.setattr(outbox, "SWEEP_MESSAGES_MAX", 2)
    assert [await take(database) for _ in range(3)] == [[large.id], [small.id, last.id], []]


async def test_a_message_published_again_is_stored_once(environment: Environment, database: Database) -> None:
    """However often the repetition is stored while the broker is away."""
    stored_then: list[list[UUID]] = []
    for messages in ([ONE], [ONE, FOUR], [ONE, FOUR]):
        async with database.transaction() as tx:
            outbox_batches = await outbox.insert_again(tx, messages)
        assert [outbox_batch.id for outbox_batch in outbox_batches] == [
            message.id for outbox_batch in outbox_batches for message in outbox_batch.messages
        ]
        stored_then.append([outbox_batch.id for outbox_batch in outbox_batches])
    assert stored_then == [[ONE.id], [FOUR.id], []], "what waits is left to its sweeper"
    assert await rows(environment.databases["saga"], "SELECT id FROM outbox ORDER BY id") == [
        {"id": ONE.id},
        {"id": FOUR.id},
    ]


async def test_nothing_is_stored_if_nothing_is_published(environment: Environment, database: Database) -> None:
    async with database.transaction() as tx:
        assert await outbox.insert(tx, []) == []
    assert await rows(environment.databases["saga"], "SELECT 1 FROM outbox") == []


async def test_people_see_one_message_a_row(environment: Environment, database: Database) -> None:
    outbox_batch = await stored(database, ONE, THREE)
    seen = await rows(
        environment.databases["saga"], "SELECT id, outbox_batch, message_id, body FROM outbox_messages ORDER BY id"
    )
    assert seen == [
        {"id": ONE.id, "outbox_batch": outbox_batch.id, "message_id": None, "body": ONE.body},
        {"id": THREE.id, "outbox_batch": outbox_batch.id, "message_id": "not a UUID", "body": b""},
    ]


async def test_unpublished_messages_wait_in_batches_of_their_own(environment: Environment, database: Database) -> None:
    """Each new batch has its own time. The broker's refusals are counted, and the time of the first publish stays known."""
    outbox_batch = await stored(database, ONE, TWO, THREE, FOUR)
    (before,) = await rows(environment.databases["saga"], "SELECT created_at FROM outbox")
    async with database.transaction() as tx:
        await outbox.postpone(tx, Unpublished(outbox_batch, unknown=[ONE], unroutable=[THREE], refused=[TWO, FOUR]))
    found = await rows(
        environment.databases["saga"],
        """SELECT ids, refusals, created_at, extract(epoch FROM sweep_after - statement_timestamp()) AS wait_s FROM outbox
           ORDER BY sweep_after, ids""",
    )
    assert [(row["ids"], row["refusals"], row["created_at"]) for row in found] == [
        ([ONE.id], 0, before["created_at"]),
        ([TWO.id, FOUR.id], 1, before["created_at"]),
        ([THREE.id], 1, before["created_at"]),
    ]
    assert all(row["wait_s"] <= most for row, most in zip(found, (2, 2, 5), strict=True))


async def test_a_missing_batch_was_published_by_a_sweeper(environment: Environment, database: Database) -> None:
    """A sweeper published all of it while its first publisher hung. The late publisher must not store it again."""
    outbox_batch = await stored(database, ONE, TWO)
    async with database.connection() as connection:
        await outbox.delete(connection, [outbox_batch.id])
    async with database.transaction() as tx:
        await outbox.postpone(tx, Unpublished(outbox_batch, refused=[TWO]))
    assert await rows(environment.databases["saga"], "SELECT 1 FROM outbox") == []


async def test_a_wholly_unpublished_batch_keeps_its_row(environment: Environment, database: Database) -> None:
    """Its bodies are not written again. Refusals are counted in its row, up to a maximum."""
    outbox_batch = await stored(database, ONE, FOUR)
    for refusals in (1, 2):
        async with database.transaction() as tx:
            await outbox.postpone(tx, Unpublished(outbox_batch, refused=[ONE, FOUR]))
        outbox_batch = replace(outbox_batch, refusals=refusals)
        found = await rows(environment.databases["saga"], "SELECT id, refusals FROM outbox")
        assert found == [{"id": outbox_batch.id, "refusals": refusals}]
    outbox_batch = replace(outbox_batch, refusals=outbox.REFUSALS_COUNTED_MAX)
    async with database.transaction() as tx:
        await outbox.postpone(tx, Unpublished(outbox_batch, unroutable=[ONE, FOUR]))
    (found_,) = await rows(
        environment.databases["saga"], "SELECT refusals, sweep_after - now() > interval '319 s' AS late FROM outbox"
    )
    assert found_ == {"refusals": outbox.REFUSALS_COUNTED_MAX, "late": True}


async def due(environment: Environment) -> None:
    """Make everything due, as two seconds do."""
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = now()")


async def test_quarantined_messages_of_all_lanes_are_listed_released_and_dropped(
    environment: Environment, database: Database
) -> None:
    for number, lane in enumerate(Lane):
        batch = await stored(database, replace(ONE, id=UUID(int=number)))
        await execute(
            environment.databases["saga"],
            "UPDATE outbox SET lane = $1, sweep_after = 'infinity', losses = 6 WHERE id = $2",
            lane,
            batch.id,
        )
    async with database.connection() as connection:
        listed = await outbox.quarantined(connection, at_most=10)
        assert {(message.id.int, message.lane) for message in listed} == set(enumerate(Lane))
        ids = [message.id for message in listed]
        assert set(await outbox.release(connection, ids[1:])) == set(ids[1:])
        assert await outbox.drop(connection, ids) == ids[:1]
        for lane in Lane:
            is_overdue = await outbox.overdue_rows(lane).look(connection) is not None
            assert is_overdue is (lane is not listed[0].lane)


# -- the relay, with a scripted broker ---------------------------------------------------------------------------------------------------


class ScriptedBroker:
    """Reports the scripted result for some messages, and confirms all others."""

    def __init__(self) -> None:
        self.sent: list[UUID] = []
        self.says = Published()

    async def publish(self, messages: Sequence[Outgoing]) -> Published:
        ids = [message.id for message in messages]
        self.sent += ids
        says, self.says = self.says, Published()
        told = {*says.unroutable, *says.unencodable, *says.refused, *says.failed}
        return replace(says, confirmed=[id_ for id_ in ids if id_ not in told])


@pytest.fixture
def broker() -> ScriptedBroker:
    return ScriptedBroker()


@pytest.fixture
def relay(database: Database, broker: ScriptedBroker) -> Relay:
    return Relay(database, cast("Publisher", broker))


@pytest.fixture
def sweeper(database: Database, relay: Relay) -> OutboxSweeper:
    return OutboxSweeper(database, relay)


async def waiting(environment: Environment) -> list[list[UUID]]:
    return [row["ids"] for row in await rows(environment.databases["saga"], "SELECT ids FROM outbox ORDER BY ids")]


async def test_messages_of_two_batches_are_settled_one_by_one(
    environment: Environment, database: Database, broker: ScriptedBroker, relay: Relay, sweeper: OutboxSweeper
) -> None:
    first, second = await stored(database, ONE, TWO), await stored(database, THREE, FOUR)
    broker.says = Published(unroutable=[TWO.id], refused=[FOUR.id])
    assert await relay.publish([first, second]) == 3, "an answer whose reply queue is gone is dropped"
    await relay.keeper.delete_confirmed()
    assert await waiting(environment) == [[FOUR.id]]
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    assert await sweeper.sweep() == 1
    assert (await waiting(environment), broker.sent[-1]) == ([], FOUR.id)


async def test_an_unconfirmed_batch_is_left_to_the_sweeper(
    environment: Environment, database: Database, broker: ScriptedBroker, relay: Relay, sweeper: OutboxSweeper
) -> None:
    outbox_batch = await stored(database, ONE, FOUR)
    broker.says = Published(failed=[ONE.id, FOUR.id])
    assert await relay.publish([outbox_batch]) == 0
    await relay.keeper.delete_confirmed()
    assert await waiting(environment) == [[ONE.id, FOUR.id]]
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    assert (await sweeper.sweep(), await waiting(environment)) == (2, [])


async def test_a_late_publisher_restores_nothing_that_a_sweeper_published(
    environment: Environment, database: Database, broker: ScriptedBroker, relay: Relay, sweeper: OutboxSweeper
) -> None:
    """The reverse holds, too: what the first publisher split is not deleted by one that saw it whole."""
    outbox_batch = await stored(database, ONE, FOUR)
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    assert await sweeper.sweep() == 2
    broker.says = Published(refused=[FOUR.id])
    assert await relay.publish([outbox_batch]) == 1
    assert await waiting(environment) == []

    outbox_batch = await stored(database, ONE, FOUR)
    broker.says = Published(refused=[FOUR.id])
    await relay.publish([outbox_batch])
    await relay.publish([outbox_batch])
    await relay.keeper.delete_confirmed()
    assert await waiting(environment) == [[FOUR.id]]


async def away(*_: object) -> None:
    raise ConnectionError


@pytest.mark.parametrize(("says", "more"), [({"refused": [ONE.id]}, True), ({"failed": [ONE.id]}, False)])
async def test_a_full_sweep_is_followed_by_another_at_once_unless_the_broker_is_away(
    environment: Environment,
    database: Database,
    broker: ScriptedBroker,
    sweeper: OutboxSweeper,
    says: dict[str, list[UUID]],
    more: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise others who refuse enough would have more waiting than a sweeper gets through."""
    monkeypatch.setattr(outbox, "SWEEP_MESSAGES_MAX", 1)
    await stored(database, ONE)
    await due(environment)
    broker.says = Published(**says)
    assert await sweeper.run_once() == (0.0 if more else sweeper.interval_s)
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = now() + interval '1 hour'")
    assert await sweeper.run_once() == sweeper.interval_s, "nothing is due"


async def test_rows_that_could_not_be_deleted_are_deleted_later(
    environment: Environment, database: Database, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = outbox.delete
    outbox_batch = await stored(database, ONE)
    await relay.publish([outbox_batch])
    monkeypatch.setattr(outbox, "delete", away)
    with pytest.raises(ConnectionError):
        await relay.keeper.delete_confirmed()
    assert await waiting(environment) == [[ONE.id]]
    monkeypatch.setattr(outbox, "delete", delete)
    await relay.keeper.delete_confirmed()
    assert await waiting(environment) == []


async def test_who_deletes_last_waits_for_a_deletion_that_is_under_way(
    environment: Environment, database: Database, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that stops cancels all that still runs after its own deletion."""
    begun, go_on, delete = asyncio.Event(), asyncio.Event(), outbox.delete

    async def slow(*arguments: Any) -> None:
        begun.set()
        await go_on.wait()
        await delete(*arguments)

    await relay.publish([await stored(database, ONE)])
    monkeypatch.setattr(outbox, "delete", slow)
    under_way = asyncio.create_task(relay.keeper.delete_confirmed())
    await begun.wait()
    last = asyncio.create_task(relay.keeper.delete_confirmed())
    await asyncio.sleep(0)
    assert not last.done()
    go_on.set()
    await last
    assert (under_way.done(), await waiting(environment)) == (True, [])


# -- the two lanes -----------------------------------------------------------------------------------------------------------------------

ANSWER = Outgoing(UUID(int=5), "", "asker", "t", "c", b"{}", droppable=True)


class StuckBroker(ScriptedBroker):
    """Confirms nothing until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.is_called = asyncio.Event()

    async def publish(self, messages: Sequence[Outgoing]) -> Published:
        self.is_called.set()
        await self.go_on.wait()
        return await super().publish(messages)


@pytest.fixture
def stuck() -> StuckBroker:
    return StuckBroker()


class KeeperClock:
    """Gives seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> KeeperClock:
    return KeeperClock()


@pytest.fixture
def keeper(database: Database, clock: KeeperClock) -> OutboxKeeper:
    return OutboxKeeper(database, clock)


@pytest.fixture
async def outside(database: Database, stuck: StuckBroker, keeper: OutboxKeeper) -> AsyncIterator[OutsideRelay]:
    relay = OutsideRelay(database, cast("Publisher", stuck), routes=Routes(), keeper=keeper)
    running = asyncio.create_task(relay.run())
    yield relay
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def both(database: Database) -> list[OutboxBatch]:
    """An event and an answer of one transaction."""
    async with database.transaction() as tx:
        return await outbox.insert(tx, [ONE, ANSWER, FOUR])


async def test_an_answer_and_an_event_of_one_transaction_are_two_batches(
    environment: Environment, database: Database
) -> None:
    inside, outside = await both(database)
    assert (inside.lane, inside.messages, outside.lane, outside.messages) == (
        *(Lane.INSIDE, [ONE, FOUR]),
        *(Lane.OUTSIDE, [ANSWER]),
    )
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    for lane, expected in ((Lane.OUTSIDE, outside), (Lane.INSIDE, inside)):
        async with database.transaction() as tx:
            (taken,) = await outbox.take_overdue(tx, lane)
        assert (taken.id, taken.lane, list(taken.messages)) == (expected.id, lane, list(expected.messages))


async def test_nobody_waits_for_a_stuck_outside_lane(
    environment: Environment, database: Database, broker: ScriptedBroker, stuck: StuckBroker, outside: OutsideRelay
) -> None:
    relay = Relay(database, cast("Publisher", broker), outside=outside)
    for _ in range(3):
        assert await relay.publish(await both(database)) == 2
    await relay.keeper.delete_confirmed()
    assert broker.sent == [ONE.id, FOUR.id] * 3
    assert await waiting(environment) == [[ANSWER.id]] * 3
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    assert await OutboxSweeper(database, relay).sweep() == 0, "the sweeper of the inside lane leaves them alone"
    stuck.go_on.set()
    async with asyncio.timeout(10):
        await outside.all_published()
    await relay.keeper.delete_confirmed()
    assert (await waiting(environment), stuck.sent) == ([], [ANSWER.id] * 3)


async def test_what_does_not_fit_into_memory_is_left_to_the_sweeper(
    environment: Environment,
    database: Database,
    broker: ScriptedBroker,
    stuck: StuckBroker,
    outside: OutsideRelay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relaying, "HANDED_OVER_BYTES_MAX", 2 * (len(ANSWER.body) + relaying.PROPERTIES_BYTES))
    relay = Relay(database, cast("Publisher", broker), outside=outside)
    await relay.publish([batch for _ in range(5) for batch in await both(database)])
    stuck.go_on.set()
    async with asyncio.timeout(10):
        await outside.all_published()
    await relay.keeper.delete_confirmed()
    assert await waiting(environment) == [[ANSWER.id]] * 3
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    assert await OutboxSweeper(database, outside).sweep() == 3


# -- whoever has a batch in hand publishes it alone --------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(database: Database, broker: ScriptedBroker) -> dict[Lane, OutboxSweeper]:
    """The sweepers of another process."""
    return {
        Lane.INSIDE: OutboxSweeper(database, Relay(database, cast("Publisher", broker))),
        Lane.OUTSIDE: OutboxSweeper(database, OutsideRelay(database, cast("Publisher", broker), routes=Routes())),
    }


async def test_what_waits_in_memory_is_not_published_by_a_sweeper_as_well(
    environment: Environment,
    database: Database,
    stuck: StuckBroker,
    outside: OutsideRelay,
    keeper: OutboxKeeper,
    clock: KeeperClock,
    broker: ScriptedBroker,
    elsewhere: dict[Lane, OutboxSweeper],
) -> None:
    """The connection of the outside lane is slow or away, and that of a sweeper is not."""
    for _ in range(3):
        outside.hand_over([await stored(database, ANSWER)])
    for _ in range(5):
        clock.now += 1.0
        await due(environment)
        await keeper.run_once()
        for sweeper in (elsewhere[Lane.OUTSIDE], OutboxSweeper(database, outside)):
            assert await sweeper.sweep() == 0
    stuck.go_on.set()
    async with asyncio.timeout(10):
        await outside.all_published()
    await keeper.delete_confirmed()
    assert (stuck.sent, broker.sent, await waiting(environment)) == ([ANSWER.id] * 3, [], [])


async def test_what_could_not_be_kept_reserved_is_left_to_the_sweepers(
    environment: Environment,
    database: Database,
    stuck: StuckBroker,
    outside: OutsideRelay,
    clock: KeeperClock,
    broker: ScriptedBroker,
    elsewhere: dict[Lane, OutboxSweeper],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This process was stopped, say, while another published what it had in hand."""
    monkeypatch.setattr(relaying, "AT_ONCE_MAX", 1)
    outside.hand_over([await stored(database, ANSWER)])
    await stuck.is_called.wait()
    outside.hand_over([await stored(database, ANSWER) for _ in range(2)])
    clock.now += RESERVED_S
    await due(environment)
    assert await elsewhere[Lane.OUTSIDE].sweep() == 3
    stuck.go_on.set()
    async with asyncio.timeout(10):
        await outside.all_published()
    assert (stuck.sent, broker.sent) == ([ANSWER.id], [ANSWER.id] * 3), "only what was on its way left twice"


async def test_a_slow_confirm_brings_no_second_publish(
    environment: Environment,
    database: Database,
    stuck: StuckBroker,
    keeper: OutboxKeeper,
    clock: KeeperClock,
    broker: ScriptedBroker,
    elsewhere: dict[Lane, OutboxSweeper],
) -> None:
    relay = Relay(database, cast("Publisher", stuck), keeper=keeper)
    publishing = asyncio.create_task(relay.publish([await stored(database, ONE)]))
    await stuck.is_called.wait()
    clock.now += 1.0
    await due(environment)
    await keeper.run_once()
    for sweeper in (elsewhere[Lane.INSIDE], OutboxSweeper(database, relay)):
        assert await sweeper.sweep() == 0
    stuck.go_on.set()
    assert await publishing == 1
    await keeper.delete_confirmed()
    assert (stuck.sent, broker.sent, await waiting(environment)) == ([ONE.id], [], [])


async def test_what_is_confirmed_and_not_yet_deleted_is_not_published_again(
    environment: Environment,
    database: Database,
    broker: ScriptedBroker,
    relay: Relay,
    sweeper: OutboxSweeper,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database went away for a moment, right after the confirm."""
    await relay.publish([await stored(database, ONE)])
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "delete", away)
        with pytest.raises(ConnectionError):
            await relay.keeper.delete_confirmed()
    await due(environment)
    await sweeper.sweep()
    assert (broker.sent, await waiting(environment)) == ([ONE.id], [])


async def test_a_publish_that_is_cut_off_leaves_its_batch_to_the_sweeper(
    environment: Environment, database: Database, stuck: StuckBroker, keeper: OutboxKeeper
) -> None:
    relay = Relay(database, cast("Publisher", stuck), keeper=keeper)
    publishing = asyncio.create_task(relay.publish([await stored(database, ONE)]))
    await stuck.is_called.wait()
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    await due(environment)
    stuck.go_on.set()
    assert await OutboxSweeper(database, relay).sweep() == 1


async def test_renewing_makes_nothing_due_earlier_and_waits_for_no_lock(
    environment: Environment, database: Database
) -> None:
    one, two, three = [await stored(database, ONE) for _ in range(3)]
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = 'infinity' WHERE id = $1", one.id)
    async with database.transaction() as tx:
        await tx.execute("UPDATE outbox SET sweep_after = created_at WHERE id = $1", two.id)
        async with database.connection() as connection:
            await outbox.renew(connection, [one.id, two.id, three.id])
    found = await rows(
        environment.databases["saga"],
        """SELECT id, CASE WHEN sweep_after = 'infinity' THEN 'longer' WHEN sweep_after > created_at + interval '2 s' THEN 'renewed'
               ELSE 'left' END AS is FROM outbox""",
    )
    assert {row["id"]: row["is"] for row in found} == {one.id: "longer", two.id: "left", three.id: "renewed"}


@pytest.mark.parametrize("became", ["sweep_after = now() + interval '1 hour'", "refusals = 1", "losses = 1"])
async def test_nothing_is_called_back_of_which_a_part_may_be_on_its_way(
    environment: Environment, database: Database, became: str
) -> None:
    async with database.transaction() as tx:
        await outbox.insert_revocable(tx, [ONE, THREE], sweep_after_s=60.0)
    await execute(environment.databases["saga"], f"UPDATE outbox SET {became} WHERE id = $1", ONE.id)
    async with database.transaction() as tx:
        assert not await outbox.revoke(tx, [ONE.id, THREE.id], sweep_after_s=60.0)


async def test_only_what_is_quarantined_is_released_or_dropped(database: Database) -> None:
    await stored(database, ONE)
    async with database.connection() as connection:
        assert await outbox.drop(connection, [ONE.id]) == []
        assert await outbox.release(connection, [ONE.id]) == []
