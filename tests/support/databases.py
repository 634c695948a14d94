"""A service's tables, read from outside.

To connect costs more than any query here, and the event loop of a test ends with it. So the connections belong to an event loop in a thread
of its own, and are kept for the next query.
"""

import asyncio
import atexit
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import orjson

from shared.persistence.database import AWAY_ERRORS
from tests.support.waiting import until

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
T = TypeVar("T")

LIMITS = "second_person_limits"
MIGRATED = ["alembic_version", LIMITS]
"""Tables that a migration filled."""
TABLES = """SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL($1)"""
HAS_LIMITS = f"SELECT 1 AS yes WHERE to_regclass('public.{LIMITS}') IS NOT NULL"
RESTORE_LIMITS = f"""
DELETE FROM {LIMITS} WHERE (currency, above_minor) NOT IN (('EUR', 50000), ('USD', 50000));
INSERT INTO {LIMITS} VALUES ('EUR', 50000), ('USD', 50000) ON CONFLICT DO NOTHING;
"""
"""As the migration filled it, whatever a service or a test wrote."""


async def connect(url: str) -> "Connection":
    """A connection that reads and writes JSON as Python's values. The caller closes it."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=lambda v: orjson.dumps(v).decode(), decoder=orjson.loads
        )
    except BaseException:  # a test that is cancelled leaves no connection open
        connection.terminate()
        raise
    return connection


class _Observer:
    """Connections of the test process, each used by one query at a time."""

    def __init__(self) -> None:
        self._idle: defaultdict[str, list[Connection]] = defaultdict(list)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="observer", daemon=True)
        self._thread.start()

    async def do(self, work: "Coroutine[Any, Any, T]") -> T:
        """Its result, from this event loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def ask(self, url: str, query: "Callable[[Connection], Awaitable[T]]") -> T:
        """The result of `query` on some connection to `url`."""
        return await self.do(self._ask(url, query))

    async def _ask(self, url: str, query: "Callable[[Connection], Awaitable[T]]") -> T:
        connection = await self._take(url)
        try:
            result = await query(connection)
        except asyncpg.PostgresError:
            self._give_back(url, connection)
            raise
        except BaseException:
            connection.terminate()  # given up in the middle
            raise
        self._give_back(url, connection)
        return result

    async def _take(self, url: str) -> "Connection":
        idle = self._idle[url]
        while idle:
            connection = idle.pop()
            try:
                await connection.execute("SELECT 1")
            except AWAY_ERRORS:  # the server ended it meanwhile, or was itself ended
                connection.terminate()
            except BaseException:
                connection.terminate()
                raise
            else:
                return connection
        return await connect(url)

    def _give_back(self, url: str, connection: "Connection") -> None:
        if not connection.is_closed():
            self._idle[url].append(connection)

    def close(self) -> None:
        """End all connections, and the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.terminate()


@cache
def _observer() -> _Observer:
    """The one of this process; it ends with it."""
    observer = _Observer()
    atexit.register(observer.close)
    return observer


@dataclass(frozen=True, slots=True)
class _Look:
    """What is kept of a database, since a thousand tests ask: `query` names the tables with rows."""

    query: str
    has_limits: bool

    @classmethod
    async def at(cls, url: str) -> "_Look":
        names = [row["name"] for row in await rows(url, TABLES, MIGRATED)]
        query = " UNION ALL ".join(f"SELECT '{name}' AS name WHERE EXISTS (SELECT FROM {name})" for name in names)
        return cls(query, bool(await rows(url, HAS_LIMITS)))


_looks: dict[str, _Look] = {}


async def truncate(url: str) -> None:
    """Empty every table except the migrations' own.

    TRUNCATE makes new files for each table and its indexes, and syncs them. So it is used only for tables with rows. To delete these would
    be quicker, but a plan would depend on what tests before have left in the files.
    """
    look = _looks.get(url) or _looks.setdefault(url, await _Look.at(url))
    if filled := [row["name"] for row in await rows(url, look.query)]:
        await execute(url, f"TRUNCATE {', '.join(filled)}")
    if look.has_limits:
        await execute(url, RESTORE_LIMITS)


async def rows(url: str, query: str, *arguments: Any) -> list[dict[str, Any]]:
    """The rows of a query, as dictionaries. It must select a column: asyncpg 0.32 writes beyond an empty record when it frees one."""
    assert not query.lstrip().startswith("SELECT FROM"), query
    return [dict(row) for row in await _observer().ask(url, lambda connection: connection.fetch(query, *arguments))]


async def in_background(work: Coroutine[Any, Any, T]) -> T:
    """The result of what is done in the event loop that outlives the tests."""
    return await _observer().do(work)


async def execute(url: str, statement: str, *arguments: Any) -> None:
    """Run one statement."""
    await _observer().ask(url, lambda connection: connection.execute(statement, *arguments))


@asynccontextmanager
async def unguarded(url: str, *tables: str) -> AsyncIterator[None]:
    """A block in which the triggers of these tables guard nothing, as their owner can do. After it they do again, whatever happened."""
    try:
        for table in tables:
            await execute(url, f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        yield
    finally:
        for table in tables:
            await execute(url, f"ALTER TABLE {table} ENABLE TRIGGER ALL")


async def until_one_waits(url: str) -> None:
    """Wait until a session in this database waits for a lock of another."""

    async def waits() -> bool:
        query = """SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()"""
        return bool(await rows(url, query))

    await until(waits, what="a session that waits for a lock")


async def outbox_is_empty(url: str) -> None:
    """Wait until a service has noted the broker's confirm of all that it published.

    One that ends before publishes again at its next start. So a test that ends a service and then counts messages waits for this first.
    """

    async def empty() -> bool:
        return not await rows(url, "SELECT 1 FROM outbox")

    await until(empty, what="an empty outbox")
