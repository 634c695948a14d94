"""What is kept for a time only: page by page until nothing is left, whatever happens to a neighbour."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from shared.persistence import inbox, retention
from shared.persistence.database import Database
from shared.persistence.retention import Forget, forget_for_ever, forget_page
from tests.support.databases import execute, rows
from tests.support.waiting import until
from tests.support.world import World

IMPOSSIBLE = Forget("what is not there", 1, "DELETE FROM nowhere WHERE $1::int < $2::int")


async def fill(world: World, *, days: int, count: int) -> None:
    await execute(
        world.databases["saga"],
        f"""INSERT INTO inbox (message_id, handled_at)
            SELECT gen_random_uuid(), now() - interval '{days} days' FROM generate_series(1, {count})""",
    )


async def left(world: World) -> int:
    (row,) = await rows(world.databases["saga"], "SELECT count(*) AS left FROM inbox")
    return int(row["left"])


async def test_a_page_is_bounded_and_takes_only_what_is_old(world: World) -> None:
    await fill(world, days=31, count=5)
    await fill(world, days=29, count=2)
    database = await Database.open(world.databases["saga"], name="test", connections_max=1)
    try:
        async with database.connection() as connection:
            pages = [await forget_page(connection, replace(inbox.FORGET, rows_max=3)) for _ in range(3)]
    finally:
        await database.close()
    assert (pages, await left(world)) == ([3, 2, 0], 2)


@asynccontextmanager
async def cleaning(world: World, *forgets: Forget) -> AsyncIterator[None]:
    """The loop of a running service; it does not end by itself."""
    database = await Database.open(world.databases["saga"], name="test", connections_max=1)
    task = asyncio.create_task(forget_for_ever(database, forgets))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await database.close()


async def test_pages_follow_until_one_is_not_full_and_a_failure_keeps_no_other_from_its_turn(world: World) -> None:
    await fill(world, days=31, count=7)
    await fill(world, days=29, count=1)

    async def all_old_gone() -> bool:
        return await left(world) == 1

    async with cleaning(world, IMPOSSIBLE, replace(inbox.FORGET, rows_max=2)):
        await until(all_old_gone, what="the old rows gone")  # in the first round: the next is a minute away


async def test_what_failed_is_tried_again_in_the_next_round(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "INTERVAL_S", 0.01)
    with capture_logs() as logged:

        async def failed() -> bool:
            return any(entry["event"] == "forgetting_postponed" for entry in logged)

        async def gone() -> bool:
            return not await rows(world.databases["saga"], "SELECT 1 FROM nowhere")

        async with cleaning(world, IMPOSSIBLE):
            await until(failed, what="a failure")
            await execute(world.databases["saga"], "CREATE TABLE nowhere AS SELECT 1")
            try:
                await until(gone, what="the row gone")
            finally:
                await execute(world.databases["saga"], "DROP TABLE nowhere")
