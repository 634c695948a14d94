"""Other sessions hold locks that a service needs in its database (row 4): for longer than it waits, and in an order that deadlocks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import asyncpg

from deploy.local.stack import SERVICES, Service
from shared.persistence.database import LOCK_TIMEOUT_S
from tests.faults.recovery import SERVER_WITHIN_S, recovery_s
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial

FAMILY: Final = "stores"

LOCKED_S: Final = 2 * LOCK_TIMEOUT_S + 2.0
"""So long that every statement gives up at least twice, and every connection of the pool waits."""
WRITTEN_LAST: Final[dict[Service, tuple[str, ...]]] = {
    "invoice": ("outbox", "events", "invoices", "inbox"),
    "payment_gateway": ("outbox", "payments", "attempts", "inbox"),
    "saga": ("outbox", "sagas", "transitions", "inbox"),
    "staff": ("inbox", "cases", "dead_letters", "outbox"),
}
"""Tables to lock. A writer comes to one of them after another; to which one depends on how the service writes today."""
TRY_S: Final = 6.0
_WAITERS: Final = """SELECT count(DISTINCT pid) FROM pg_locks
    WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
_HELD_BY_A_WAITER: Final = """SELECT DISTINCT held.relation::regclass::text AS name
    FROM pg_locks waits JOIN pg_locks held ON held.pid = waits.pid AND held.granted AND held.locktype = 'relation'
    JOIN pg_class c ON c.oid = held.relation AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
    WHERE NOT waits.granted AND waits.relation = $1::text::regclass AND held.relation <> waits.relation AND held.mode = 'RowExclusiveLock'
    ORDER BY 1"""
_DEADLOCKS: Final = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


@asynccontextmanager
async def _session(testbed: Testbed, service: Service) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """A session that waits for others as long as it takes: in a deadlock PostgreSQL then cancels the other session."""
    connection = await asyncpg.connect(testbed.database(service), timeout=10)
    try:
        await connection.execute("SET deadlock_timeout = '10min'")
        yield connection
    finally:
        await connection.close()


async def _locked(testbed: Testbed, note: Note, *, service: Service) -> None:
    """Nothing can be written. The waiting messages are not lost, and none is dead-lettered for it."""
    testbed.play()
    await testbed.until_under_load()
    async with _session(testbed, service) as session, session.transaction():
        await session.execute("LOCK TABLE inbox, outbox IN ACCESS EXCLUSIVE MODE")
        testbed.play()

        async def somebody_waits() -> bool:
            waiting: int = await session.fetchval(_WAITERS)
            note.fired(waiting)
            return waiting > 0

        await testbed.until(somebody_waits, what=f"a session of {service} waits")
        await asyncio.sleep(LOCKED_S)
    note.mended()
    note.recovered(await recovery_s(testbed, service), within_s=SERVER_WITHIN_S)


async def _deadlock(testbed: Testbed, note: Note, *, service: Service) -> None:
    """We hold a lock that the service wants next, and want one that it holds. It gets the error, and does its batch again."""
    async with _session(testbed, service) as session:
        before: int = await session.fetchval(_DEADLOCKS)
        for table in WRITTEN_LAST[service]:
            if await _entangle(testbed, session, table):
                break

        async def counted() -> bool:
            await session.execute("SELECT pg_stat_clear_snapshot()")
            after: int = await session.fetchval(_DEADLOCKS)
            return after > before

        await testbed.until(counted, what="PostgreSQL counts a deadlock")
    note.fired()
    note.mended()


async def _entangle(testbed: Testbed, session: "asyncpg.Connection[asyncpg.Record]", table: str) -> bool:
    """Whether a session waited for the table while it held another one, and we then waited for that one."""
    async with session.transaction():
        await session.execute(f"LOCK TABLE {table} IN SHARE MODE")
        testbed.play()
        give_up_at = asyncio.get_running_loop().time() + TRY_S
        while not (held := await session.fetch(_HELD_BY_A_WAITER, table)):
            if asyncio.get_running_loop().time() > give_up_at:
                return False
            await asyncio.sleep(0.02)
        await session.execute(f"LOCK TABLE {held[0]['name']} IN SHARE MODE")
    return True


def trials() -> Sequence[Trial]:
    """Both faults for each service."""
    runs: dict[str, tuple[str, Callable[..., Awaitable[None]]]] = {
        "locked": (
            f"another session holds the tables of {{}} for {LOCKED_S:g} s: every connection of its pool waits",
            _locked,
        ),
        "deadlock": ("another session and {} wait for each other", _deadlock),
    }
    return [
        Trial(
            f"{FAMILY}/{service}:{name}",
            FAMILY,
            injects.format(service),
            partial(run, service=service),
            estimate_s=20.0,
            touches=frozenset({service}),
            random=name == "locked",
        )
        for service in SERVICES
        for name, (injects, run) in runs.items()
    ]
