"""A pool of PostgreSQL connections on which nothing can wait for ever, and what its errors mean for the caller."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import asyncpg
import orjson
from asyncpg.protocol import protocol as driver

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]
else:
    Connection = Any

Record = asyncpg.Record


class Tx(Protocol):
    """What a store asks of a transaction: its connection, or a stand-in that collects writes (`shared.persistence.writes`)."""

    async def execute(self, query: str, *args: Any) -> Any: ...

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]: ...


# Before it sends an array, asyncpg asks of every element whether it is an array of its own, by way of abstract classes: half of what the
# element costs (measured: 0.32 us a text and 0.15 a number, 0.09 and 0.07 without; a tenth of a busy service's CPU). Our arrays are flat
# lists, so a list is all there is to look for; a tuple or a set is a DataError, at the first test of its statement. A driver without
# that name goes on as it is (a test tells us).
if hasattr(driver, "IterableABC"):
    driver.IterableABC = list

ACQUIRE_TIMEOUT_S = 5.0
"""`pool.acquire()` without a timeout waits for ever (measured)."""
STATEMENT_TIMEOUT_S = 10
"""The slowest statement of ours, a batch of 500 rows on a cold cache, takes far below a second."""
LOCK_TIMEOUT_S = 5
"""Longer than any transaction of ours; shorter than a statement may take."""
IDLE_IN_TRANSACTION_S = 15
"""A stopped process must not hold locks: the server ends its session."""
COMMAND_TIMEOUT_S = 15.0
"""Client side, beyond the server's own limit: a black hole answers nothing."""


def is_unique_violation(error: BaseException) -> bool:
    """Whether a row of that key exists: the only conflict that data of one message can cause by itself."""
    return isinstance(error, asyncpg.UniqueViolationError)


class MovedOnError(Exception):
    """A row is no longer as it was when something was decided on it: a conflict. Nothing was stored."""


class Trouble(Enum):
    """What an error of the database asks of the caller."""

    AWAY = "hold what you have, back off, try again: the database is away or overloaded"
    CONFLICT = "somebody else was faster: load again and decide again"
    DATA = "this data can never be stored: find the offender and set it aside"
    BUG = "the statement itself is wrong: as with DATA, the offender is set aside"


_TROUBLE_OF_CLASS = {
    "08": Trouble.AWAY,  # connection exception
    "28": Trouble.AWAY,  # invalid authorization: a password being rotated
    "3D": Trouble.AWAY,  # no such database: being restored
    "53": Trouble.AWAY,  # insufficient resources: disk full, too many connections
    "55": Trouble.CONFLICT,  # object not in prerequisite state: lock not available
    "57": Trouble.AWAY,  # operator intervention: shutdown, statement timeout
    "58": Trouble.AWAY,  # system error: I/O
    "25": Trouble.AWAY,  # invalid transaction state: idle timeout, read-only standby after a failover
    "40": Trouble.CONFLICT,  # serialization failure, deadlock
    "42": Trouble.AWAY,  # undefined table or column: this database is not migrated yet. Nothing wrong with the message
    "22": Trouble.DATA,
    "23": Trouble.DATA,
    "54": Trouble.DATA,  # program limit exceeded
    "XX": Trouble.AWAY,  # internal error of the server: nothing wrong with the message
}
_CACHED_PLAN = "0A000"
"""A cached plan no longer fits its table: a migration added a column. Prepared anew, the statement runs."""
_UNIQUE_VIOLATION = "23505"
"""A concurrent writer of the same stream version, payment id or command id: loading again shows which."""


def trouble(error: BaseException) -> Trouble:
    """How to go on after `error`. Whatever does not come from the server is an outage, unless it is a bug in our own arguments."""
    if isinstance(error, MovedOnError):
        return Trouble.CONFLICT
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state == _UNIQUE_VIOLATION:
            return Trouble.CONFLICT
        if isinstance(error, asyncpg.InvalidCachedStatementError) or state == _CACHED_PLAN:
            return Trouble.CONFLICT
        return _TROUBLE_OF_CLASS.get(state[:2], Trouble.BUG)
    if isinstance(error, asyncpg.exceptions.DataError | asyncpg.UnsupportedClientFeatureError):
        return Trouble.DATA  # asyncpg could not encode an argument
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError | TimeoutError):
        return Trouble.AWAY
    return Trouble.BUG


AWAY_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection cut in the middle of a protocol exchange (seen at a kill -9 of the server)
    OSError,
    TimeoutError,
)
"""What a call of `Database` may raise; `trouble` tells them apart."""


async def _prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + orjson.dumps(value, default=_text_of_id),
        decoder=lambda raw: orjson.loads(raw[1:]),
    )


def _text_of_id(value: object) -> str:
    """orjson knows `uuid.UUID`, and not the driver's own (`shared.ids`)."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError


async def _leave_as_it_is(_connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """asyncpg resets a connection each time it returns to the pool, a round trip of its own. We change nothing that outlives a
    transaction (`SET LOCAL` only), and take no advisory locks on pooled connections."""


class Database:
    """One service's own database."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool
        self.epoch = 0
        """How often a connection was found lost."""
        self._at_hand: list[PoolConnectionProxy[asyncpg.Record]] = []
        self._waiting = 0

    @classmethod
    async def open(cls, url: str, *, name: str, connections_max: int) -> "Database":
        """Connect; `name` shows in pg_stat_activity. Raises what `AWAY_ERRORS` lists when the server cannot be reached."""
        pool = await asyncpg.create_pool(
            url,
            min_size=0,  # a floor would be restored in the background, with a traceback a try while the server is away
            max_size=connections_max,
            timeout=ACQUIRE_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            max_inactive_connection_lifetime=300,
            init=_prepare,
            reset=_leave_as_it_is,
            server_settings={
                "application_name": name,
                "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
                "lock_timeout": f"{LOCK_TIMEOUT_S}s",
                "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
                "timezone": "UTC",
                "jit": "off",
                # Every statement of ours finds its rows by an index. A plan that was cached while its table was nearly empty would scan
                # it for ever after (measured: 50 rows read per payment; 15 % of PostgreSQL's CPU).
                "enable_seqscan": "off",
                # The same reason: no value of ours asks for another plan, and planning a batch's statement costs more than running it.
                "plan_cache_mode": "force_generic_plan",
            },
        )
        return cls(pool)

    async def close(self) -> None:
        """Wait briefly for what is in hand, then cut."""
        at_hand, self._at_hand = self._at_hand, []
        self._waiting = 1  # whoever comes back from now on goes to the pool
        try:
            for connection in at_hand:
                await self._pool.release(connection)
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection outside a transaction: each statement commits by itself.

        One that was given back in order is kept at hand: a round through asyncpg's pool costs as much as a small statement (a task for each
        release; 0.1 ms measured). After an error it goes through the pool, which looks after it.
        """
        connection = await self._take()
        try:
            yield connection
        except BaseException as error:
            lost = connection.is_closed()
            if isinstance(error, asyncpg.InternalServerError) and not lost:
                connection.terminate()  # what it knows of the server (types of a schema that was restored) may be wrong for good
                lost = True
            self.epoch += lost
            await self._pool.release(connection)
            raise
        if self._waiting or connection.is_closed():
            self.epoch += connection.is_closed()
            await self._pool.release(connection)
        else:
            self._at_hand.append(connection)

    async def _take(self) -> "PoolConnectionProxy[asyncpg.Record]":
        while self._at_hand:
            connection = self._at_hand.pop()
            if not connection.is_closed():
                return connection
            self.epoch += 1
            await self._pool.release(connection)
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
        finally:
            self._waiting -= 1

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One transaction, READ COMMITTED. If the commit itself fails, nobody knows: read the inbox to learn (FACTS.md)."""
        async with self.connection() as connection, connection.transaction():
            yield connection
