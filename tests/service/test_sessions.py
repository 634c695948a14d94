"""Every wait for the database ends: each session has its limits, and each call has one of its own."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from shared.persistence import database as databases
from shared.persistence.database import Database
from tests.support.environment import Environment

DEADLINE_S = 60.0
SHORT_S = 0.05
LIMITS = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
}


@pytest.fixture
async def database(environment: Environment) -> AsyncIterator[Database]:
    opened = await Database.open(environment.databases["saga"], name="sessions", connections_max=1)
    yield opened
    await opened.close()


async def test_every_session_has_its_limits(database: Database) -> None:
    async with database.connection() as connection:
        assert {name: await connection.fetchval("SELECT current_setting($1)", name) for name in LIMITS} == LIMITS


async def test_a_statement_that_is_never_answered_ends(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network has swallowed the statement or its answer, so no limit of the server helps."""
    monkeypatch.setattr(databases, "COMMAND_TIMEOUT_S", SHORT_S)
    database = await Database.open(environment.databases["saga"], name="swallowed", connections_max=1)
    try:
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(TimeoutError):
                async with database.connection() as connection:
                    await connection.fetchval("SELECT pg_sleep($1)", 2 * DEADLINE_S)
    finally:
        await database.close()


async def test_a_wait_for_a_connection_ends(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(DEADLINE_S), database.connection():
        monkeypatch.setattr(databases, "ACQUIRE_TIMEOUT_S", SHORT_S)  # to connect may take longer
        with pytest.raises(TimeoutError):
            async with database.connection():
                pytest.fail("the one connection is in use")


async def write_to_a_standby(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("SET TRANSACTION READ ONLY")
        await tx.execute("DELETE FROM inbox")


async def test_no_session_of_a_primary_that_was_is_used_again(
    environment: Environment,
) -> None:
    """After a fail-over the old primary may still answer, and only say that it is read-only: all its sessions go, the idle ones too."""
    database = await Database.open(environment.databases["saga"], name="was primary", connections_max=2)
    pid = "SELECT pg_backend_pid()"
    try:
        async with database.connection() as one, database.connection() as other:
            before = {await one.fetchval(pid), await other.fetchval(pid)}
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await write_to_a_standby(database)
        async with database.connection() as one, database.connection() as other:
            assert not {await one.fetchval(pid), await other.fetchval(pid)} & before
    finally:
        await database.close()


async def test_a_session_in_use_while_another_turns_read_only_is_not_used_again(environment: Environment) -> None:
    """It comes back without an error of its own, and the pool that would close it is passed over by whatever saw none."""
    database = await Database.open(environment.databases["saga"], name="was in use", connections_max=2)
    pid = "SELECT pg_backend_pid()"
    try:
        async with database.connection() as held:
            before = await held.fetchval(pid)
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await write_to_a_standby(database)
        async with database.connection() as one:
            assert await one.fetchval(pid) != before
    finally:
        await database.close()
