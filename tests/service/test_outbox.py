"""Parcels in the real database: what goes in comes out, and what is left of one waits by itself."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import cast
from uuid import UUID

import pytest

from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import Published, Publisher
from shared.messaging.relay import Relay
from shared.persistence import outbox
from shared.persistence.database import Database
from shared.persistence.outbox import Left, Parcel
from tests.support.databases import execute, rows
from tests.support.world import World

ONE, TWO, THREE, FOUR = (
    Outgoing(UUID(int=1), "remit", "k.1", "t", "c", b'{"n": 1}'),
    Outgoing(UUID(int=2), "", "asker", "t", "c", b"\x00\xff", droppable=True, headers={"x-n": 2, "x-t": "2"}),
    Outgoing(UUID(int=3), "remit", "k.3", "t", "c", b"", content_type="", message_id="not a UUID", reply_to="asker"),
    Outgoing(UUID(int=4), "remit", "k.4", "t", "ü", b"{}" * 20_000),
)


@pytest.fixture
async def database(world: World) -> AsyncIterator[Database]:
    opened = await Database.open(world.databases["saga"], name="test", connections_max=2)
    yield opened
    await opened.close()


async def stored(database: Database, *messages: Outgoing) -> Parcel:
    async with database.transaction() as tx:
        (parcel,) = await outbox.insert(tx, messages)
    return parcel


async def overdue(world: World, database: Database) -> list[Parcel]:
    """All there is, whenever it is to be sent."""
    await execute(world.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    async with database.transaction() as tx:
        return await outbox.take_overdue(tx)


async def test_a_parcel_comes_out_as_it_went_in(world: World, database: Database) -> None:
    parcel = await stored(database, ONE, TWO, THREE, FOUR)
    (found,) = await overdue(world, database)
    assert (found.id, list(found.messages), found.refusals) == (parcel.id, [ONE, TWO, THREE, FOUR], 0)


async def take(database: Database) -> list[UUID]:
    async with database.transaction() as tx:
        return [parcel.id for parcel in await outbox.take_overdue(tx)]


async def test_a_sweeper_takes_the_longest_overdue_leaves_the_young_and_reserves_what_it_took(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, young = await stored(database, ONE), await stored(database, TWO)
    assert await take(database) == [], "they are left to their publisher"
    monkeypatch.setattr(outbox, "SWEEP_MESSAGES_MAX", 1)
    await execute(world.databases["saga"], "UPDATE outbox SET sweep_after = created_at")
    assert [await take(database) for _ in range(3)] == [[old.id], [young.id], []]


async def test_a_sweep_is_bounded_by_messages_and_takes_one_parcel_at_least(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small, last = (
        await stored(database, ONE, TWO, THREE),
        await stored(database, FOUR),
        await stored(database, ONE),
    )
    await execute(world.databases["saga"], "UPDATE outbox SET sweep_after = created_at")
    monkeypatch.setattr(outbox, "SWEEP_MESSAGES_MAX", 2)
    assert [await take(database) for _ in range(3)] == [[large.id], [small.id, last.id], []]


async def test_what_is_said_again_waits_once(world: World, database: Database) -> None:
    """However often it is repeated while the broker is away."""
    for _ in range(3):
        async with database.transaction() as tx:
            parcels = await outbox.insert_again(tx, [ONE, FOUR])
        assert [(parcel.id, parcel.messages) for parcel in parcels] == [(ONE.id, [ONE]), (FOUR.id, [FOUR])]
    assert await rows(world.databases["saga"], "SELECT id FROM outbox ORDER BY id") == [{"id": ONE.id}, {"id": FOUR.id}]


async def test_nothing_is_stored_where_nothing_is_said(world: World, database: Database) -> None:
    async with database.transaction() as tx:
        assert await outbox.insert(tx, []) == []
    assert await rows(world.databases["saga"], "SELECT 1 FROM outbox") == []


async def test_people_see_one_message_a_row(world: World, database: Database) -> None:
    parcel = await stored(database, ONE, THREE)
    seen = await rows(world.databases["saga"], "SELECT id, parcel, message_id, body FROM outbox_messages ORDER BY id")
    assert seen == [
        {"id": ONE.id, "parcel": parcel.id, "message_id": None, "body": ONE.body},
        {"id": THREE.id, "parcel": parcel.id, "message_id": "not a UUID", "body": b""},
    ]


async def test_what_is_left_waits_in_parcels_of_its_own(world: World, database: Database) -> None:
    """Each with its own time; how often the broker refused is counted, and when it was first said stays known."""
    parcel = await stored(database, ONE, TWO, THREE, FOUR)
    (before,) = await rows(world.databases["saga"], "SELECT created_at FROM outbox")
    async with database.transaction() as tx:
        await outbox.postpone(tx, Left(parcel, unknown=[ONE], hopeless=[THREE], refused=[TWO, FOUR]))
    found = await rows(
        world.databases["saga"],
        """SELECT ids, refusals, created_at, extract(epoch FROM sweep_after - statement_timestamp()) AS wait_s FROM outbox
           ORDER BY sweep_after, ids""",
    )
    assert [(row["ids"], row["refusals"], row["created_at"]) for row in found] == [
        ([ONE.id], 0, before["created_at"]),
        ([TWO.id, FOUR.id], 1, before["created_at"]),
        ([THREE.id], 1, before["created_at"]),
    ]
    assert all(row["wait_s"] <= most for row, most in zip(found, (2, 2, 5), strict=True))


async def test_a_parcel_that_is_gone_was_seen_to_by_somebody_else(world: World, database: Database) -> None:
    """A sweeper published all of it while its first publisher hung: nothing comes back."""
    parcel = await stored(database, ONE, TWO)
    async with database.connection() as connection:
        await outbox.delete(connection, [parcel.id])
    async with database.transaction() as tx:
        await outbox.postpone(tx, Left(parcel, refused=[TWO]))
    assert await rows(world.databases["saga"], "SELECT 1 FROM outbox") == []


async def test_a_parcel_with_one_fate_waits_as_it_is(world: World, database: Database) -> None:
    """Its bodies are not written again; refusals are counted where it is stored, and to an end."""
    parcel = await stored(database, ONE, FOUR)
    for refusals in (1, 2):
        async with database.transaction() as tx:
            await outbox.postpone(tx, Left(parcel, refused=[ONE, FOUR]))
        found = await rows(world.databases["saga"], "SELECT id, refusals FROM outbox")
        assert found == [{"id": parcel.id, "refusals": refusals}]
    await execute(world.databases["saga"], f"UPDATE outbox SET refusals = {outbox.REFUSALS_COUNTED_MAX}")
    async with database.transaction() as tx:
        await outbox.postpone(tx, Left(parcel, hopeless=[ONE, FOUR]))
    (found_,) = await rows(
        world.databases["saga"], "SELECT refusals, sweep_after - now() > interval '319 s' AS late FROM outbox"
    )
    assert found_ == {"refusals": outbox.REFUSALS_COUNTED_MAX, "late": True}


# -- the relay, told by a broker of ours what became of the messages ---------------------------------------------------------------------


class Broker:
    """Says of the messages what it was told, and confirms all others."""

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
def broker() -> Broker:
    return Broker()


@pytest.fixture
def relay(database: Database, broker: Broker) -> Relay:
    return Relay(database, cast("Publisher", broker))


async def waiting(world: World) -> list[list[UUID]]:
    return [row["ids"] for row in await rows(world.databases["saga"], "SELECT ids FROM outbox ORDER BY ids")]


async def test_of_two_parcels_each_message_has_its_own_fate(
    world: World, database: Database, broker: Broker, relay: Relay
) -> None:
    first, second = await stored(database, ONE, TWO), await stored(database, THREE, FOUR)
    broker.says = Published(unroutable=[TWO.id], refused=[FOUR.id])
    assert await relay.publish([first, second]) == 3, "the answer whose asker has gone is dropped"
    await relay.forget_confirmed()
    assert await waiting(world) == [[FOUR.id]]
    await execute(world.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    assert await relay.sweep() == 1
    assert (await waiting(world), broker.sent[-1]) == ([], FOUR.id)


async def test_a_parcel_that_nobody_answered_for_is_left_to_the_sweeper(
    world: World, database: Database, broker: Broker, relay: Relay
) -> None:
    parcel = await stored(database, ONE, FOUR)
    broker.says = Published(failed=[ONE.id, FOUR.id])
    assert await relay.publish([parcel]) == 0
    assert await waiting(world) == [[ONE.id, FOUR.id]]
    await execute(world.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    assert (await relay.sweep(), await waiting(world)) == (2, [])


async def test_who_comes_late_to_a_parcel_that_a_sweeper_has_sent_brings_nothing_back(
    world: World, database: Database, broker: Broker, relay: Relay
) -> None:
    """And the other way round: what the first publisher split is not deleted by who saw it whole."""
    parcel = await stored(database, ONE, FOUR)
    await execute(world.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    assert await relay.sweep() == 2
    broker.says = Published(refused=[FOUR.id])
    assert await relay.publish([parcel]) == 1
    assert await waiting(world) == []

    parcel = await stored(database, ONE, FOUR)
    broker.says = Published(refused=[FOUR.id])
    await relay.publish([parcel])
    await relay.publish([parcel])
    await relay.forget_confirmed()
    assert await waiting(world) == [[FOUR.id]]


async def test_what_could_not_be_deleted_is_deleted_later(
    world: World, database: Database, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = outbox.delete

    async def away(*_: object) -> None:
        raise ConnectionError

    parcel = await stored(database, ONE)
    await relay.publish([parcel])
    monkeypatch.setattr(outbox, "delete", away)
    await relay.forget_confirmed()
    assert await waiting(world) == [[ONE.id]]
    monkeypatch.setattr(outbox, "delete", delete)
    await relay.forget_confirmed()
    assert await waiting(world) == []
