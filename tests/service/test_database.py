"""A statement that was given up leaves nothing behind on the server."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import pytest

from shared.persistence import database as databases
from shared.persistence.database import UNUSED_S, Database, Unused
from shared.persistence.stalled_sessions import StalledSessions
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.waiting import until

STATEMENT = "DELETE FROM inbox WHERE message_id = $1"
"""A statement that is not prepared yet: the server parses it, answers, and waits for the order to execute it."""
STANDSTILL_S = 0.1
SLEEP = "SELECT pg_sleep($1)"


@pytest.fixture
async def database(environment: Environment) -> AsyncIterator[Database]:
    opened = await Database.open(environment.databases["saga"], name="given up", connections_max=1)
    async with opened.connection() as connection:
        await connection.fetchval("SELECT 1")
    yield opened
    await opened.close()


async def begun(database: Database, *, timeout_s: float | None = None) -> "asyncio.Task[None]":
    """A task that has sent the statement for parsing and has not read the answer, although it arrived: the process stood still meanwhile,
    as after a SIGSTOP."""

    async def run() -> None:
        async with database.connection() as connection:
            await connection.execute(STATEMENT, uuid4(), timeout=timeout_s)

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    time.sleep(STANDSTILL_S)  # noqa: ASYNC251 - the loop stands still, as the process would
    return task


async def no_transaction_is_open(environment: Environment) -> None:
    async def ended() -> bool:
        query = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'given up' AND xact_start IS NOT NULL"
        return not await rows(environment.databases["saga"], query)

    await until(ended, what="the end of the transaction")


async def test_a_statement_whose_time_ran_out_leaves_no_transaction(
    environment: Environment, database: Database
) -> None:
    task = await begun(database, timeout_s=STANDSTILL_S / 10)
    with pytest.raises(TimeoutError):
        await task
    await no_transaction_is_open(environment)


async def test_a_cancelled_statement_leaves_no_transaction(environment: Environment, database: Database) -> None:
    task = await begun(database)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await no_transaction_is_open(environment)


async def test_the_next_statement_has_a_connection_that_works(database: Database) -> None:
    task = await begun(database)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT 2") == 2


def test_what_was_idle_all_the_time_is_unused() -> None:
    unused = Unused()
    at = 1_000.0
    assert unused.now(at, idle=8) == 0, "nobody knows yet"
    for idle in (7, 6, 5, 6):
        unused.taken(idle=idle)
    assert unused.now(at + UNUSED_S - 1, idle=8) == 0
    assert unused.now(at + UNUSED_S, idle=8) == 5
    assert unused.now(at + 2 * UNUSED_S, idle=3) == 3, "since then none was used"


async def test_connections_that_only_a_burst_needed_are_closed(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one burst would keep its sessions for as long as the service runs."""
    database = await Database.open(environment.databases["saga"], name="a burst", connections_max=4)

    async def use_at_once(count: int) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(count):
                await stack.enter_async_context(database.connection())

    await use_at_once(4)
    monkeypatch.setattr(databases, "UNUSED_S", 0.0)
    left = []
    for count in (2, 2, 1, 1):
        await use_at_once(count)
        left.append(len(database._idle))
    assert (left[-1], database.epoch) == (1, 0)

    async def one_is_open() -> bool:
        open_ = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'a burst'"
        return len(await rows(environment.databases["saga"], open_)) == 1

    await until(one_is_open, what="the sessions to end")
    await use_at_once(4)
    await database.close()


async def test_an_idle_connection_that_the_server_ended_is_replaced_and_counted(
    environment: Environment, database: Database
) -> None:
    """The count empties the caches of states: the server may have been restored, or a person may have changed rows."""
    (idle,) = database._idle

    async def is_noticed() -> bool:
        return getattr(idle, "_con", None) is None

    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'given up'"
    await rows(environment.databases["saga"], end)
    await until(is_noticed, what="the driver's notice of the end")
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT 1") == 1
    assert database.epoch == 1


async def test_a_connection_that_is_lost_behind_its_last_statement_is_counted(database: Database) -> None:
    async with database.connection() as connection:
        connection.terminate()
    assert database.epoch == 1


async def test_whoever_waits_for_a_connection_gets_the_next_one_that_is_given_back(database: Database) -> None:
    async def ask() -> object:
        async with database.connection() as connection:
            return await connection.fetchval("SELECT 1")

    async with database.connection():
        waiting = asyncio.create_task(ask())
        while not database._waiting:
            await asyncio.sleep(0)
    assert await waiting == 1


async def test_a_session_of_a_stopped_process_gives_its_locks_back(environment: Environment) -> None:
    """It stopped between the preparation of a statement and its execution, where no timeout of PostgreSQL ends it."""
    url = environment.databases["saga"]
    stopped = await asyncpg.connect(url, server_settings={"application_name": "stalls"})
    other, elsewhere = [await Database.open(url, name=name, connections_max=1) for name in ("stalls", "elsewhere")]
    try:
        await stopped.execute("BEGIN")
        await stopped.execute("LOCK TABLE inbox")
        await stopped.prepare("SELECT 1 FROM sagas")

        async def stalls() -> bool:
            query = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND state = 'active' AND wait_event = 'ClientRead'"
            return bool(await rows(url, query, stopped.get_server_pid()))

        await until(stalls, what="a stalled session")
        await StalledSessions(elsewhere, after_s=0.0).run_once()
        assert await stalls(), "another process of ours has a session of its own name, and other limits"

        async def ended() -> bool:
            await StalledSessions(other, after_s=0.0).run_once()
            return stopped.is_closed()

        await until(ended, what="the end of the stalled session")
        async with other.transaction() as tx:
            await tx.execute("LOCK TABLE inbox NOWAIT")
    finally:
        stopped.terminate()
        await other.close()
        await elsewhere.close()


async def test_a_session_that_works_or_is_idle_is_left_alone(environment: Environment) -> None:
    url = environment.databases["saga"]
    at_work, other = [await Database.open(url, name="stalls", connections_max=1) for _ in range(2)]
    try:
        async with at_work.transaction() as tx:
            await tx.fetch(SLEEP, 0.0)  # from now on it is prepared, and runs without another word of the client
            await StalledSessions(other, after_s=0.0).run_once()  # between two statements it is idle
            asleep = asyncio.create_task(tx.fetch(SLEEP, 0.2))
            await StalledSessions(other, after_s=0.0).run_once()
            assert await asleep
    finally:
        await at_work.close()
        await other.close()
