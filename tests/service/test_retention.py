"""Rows that are kept for a limited time are deleted page by page, whatever happens to another rule."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from shared.background import run_every
from shared.persistence import inbox, retention
from shared.persistence.database import Database
from shared.persistence.retention import RetentionCleaner, RetentionRule, delete_page
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.waiting import until

IMPOSSIBLE = RetentionRule("what is not there", 1, "DELETE FROM nowhere WHERE $1::int < $2::int")


async def fill(environment: Environment, *, days: int, count: int) -> None:
    await execute(
        environment.databases["saga"],
        f"""INSERT INTO inbox (message_id, handled_at)
            SELECT gen_random_uuid(), now() - interval '{days} days' FROM generate_series(1, {count})""",
    )


async def left(environment: Environment) -> int:
    (row,) = await rows(environment.databases["saga"], "SELECT count(*) AS left FROM inbox")
    return int(row["left"])


async def test_a_page_is_bounded_and_takes_only_old_rows(environment: Environment) -> None:
    await fill(environment, days=31, count=5)
    await fill(environment, days=29, count=2)
    database = await Database.open(environment.databases["saga"], name="test", connections_max=1)
    try:
        async with database.connection() as connection:
            pages = [await delete_page(connection, replace(inbox.RETENTION, rows_max=3)) for _ in range(3)]
    finally:
        await database.close()
    assert (pages, await left(environment)) == ([3, 2, 0], 2)


@asynccontextmanager
async def cleaning(environment: Environment, *rules: RetentionRule) -> AsyncIterator[None]:
    """The loop of a running service; it does not end by itself."""
    database = await Database.open(environment.databases["saga"], name="test", connections_max=1)
    task = asyncio.create_task(run_every(RetentionCleaner(database, rules)))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await database.close()


async def test_pages_follow_until_one_is_not_full_and_a_failure_stops_no_other_rule(
    environment: Environment,
) -> None:
    await fill(environment, days=31, count=7)
    await fill(environment, days=29, count=1)

    async def all_old_gone() -> bool:
        return await left(environment) == 1

    async with cleaning(environment, IMPOSSIBLE, replace(inbox.RETENTION, rows_max=2)):
        await until(
            all_old_gone, what="the deletion of the old rows"
        )  # in the first round: the next one is a minute away


async def test_a_rule_with_a_backlog_goes_on_at_once_in_the_next_run(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PAGES_MAX", 2)
    await fill(environment, days=31, count=5)
    database = await Database.open(environment.databases["saga"], name="test", connections_max=1)
    try:
        cleaner = RetentionCleaner(database, [replace(inbox.RETENTION, rows_max=2)])
        due_in_s = [await cleaner.run_once() for _ in range(2)]
    finally:
        await database.close()
    assert (due_in_s, await left(environment)) == ([0.0, cleaner.interval_s], 0)


async def test_a_failed_rule_is_tried_again_in_the_next_round(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetentionCleaner, "interval_s", 0.01)
    with capture_logs() as logged:

        async def failed() -> bool:
            return any(entry["event"] == "forgetting_postponed" for entry in logged)

        async def gone() -> bool:
            return not await rows(environment.databases["saga"], "SELECT 1 FROM nowhere")

        async with cleaning(environment, IMPOSSIBLE):
            await until(failed, what="a failure")
            await execute(environment.databases["saga"], "CREATE TABLE nowhere AS SELECT 1")
            try:
                await until(gone, what="the deletion of the row")
            finally:
                await execute(environment.databases["saga"], "DROP TABLE nowhere")
