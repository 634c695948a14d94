"""Parcels in the real database: what goes in comes out, and what is left of one waits by itself."""

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import pytest

from shared.messaging.envelope import Outgoing
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


async def test_a_sweeper_takes_the_oldest_first_leaves_the_young_and_reserves_what_it_took(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, young = await stored(database, ONE), await stored(database, TWO)
    async with database.transaction() as tx:
        assert await outbox.take_overdue(tx) == [], "they are left to their publisher"
    monkeypatch.setattr(outbox, "SWEEP_PARCELS_MAX", 1)
    await execute(world.databases["saga"], "UPDATE outbox SET sweep_after = created_at")
    taken = []
    for _ in range(3):
        async with database.transaction() as tx:
            taken.append([parcel.id for parcel in await outbox.take_overdue(tx)])
    assert taken == [[old.id], [young.id], []]


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


async def test_refusals_are_counted_to_an_end(world: World, database: Database) -> None:
    parcel = replace(await stored(database, ONE), refusals=outbox.REFUSALS_COUNTED_MAX)
    async with database.transaction() as tx:
        await outbox.postpone(tx, Left(parcel, refused=[ONE]))
    (found,) = await rows(world.databases["saga"], "SELECT refusals FROM outbox")
    assert found["refusals"] == outbox.REFUSALS_COUNTED_MAX
