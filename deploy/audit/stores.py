"""The raw stores, opened to be read and for nothing else.

Each database is seen in one REPEATABLE READ, READ ONLY transaction: a snapshot in itself, without locks that anyone would notice (a
long one holds back vacuum while it lasts). Snapshots of different databases are some milliseconds apart; in a live system whatever is
younger than a grace period is not judged, so the gap does not matter. Rows stream through cursors: memory stays that of a page.
"""

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import orjson

from deploy.audit.align import Row
from shared.messaging.broker import BROKER_ERRORS, RPC_TIMEOUT_S, BrokerLink
from shared.messaging.topology import QUEUE_NAMES

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = Any

CONNECT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_S = 1_800
"""Sorting tens of millions of rows on disk takes minutes; an audit that hangs must end all the same."""
ROWS_PER_FETCH = 1_000
LEDGER_BUSY_S = 5.0
DATABASES = ("invoice", "payment_gateway", "saga", "staff")


class AuditError(Exception):
    """One sentence: what could not be read, and what to do."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look; whatever is not given is not looked at. `drained`: no work is under way, so nothing is excused for being young."""

    databases: Mapping[str, str] = field(repr=False)
    rabbitmq_url: str | None = field(default=None, repr=False)
    ledger: Path | None = None
    history: Path | None = None
    drained: bool = False
    grace_s: float = 600.0


class Snapshot:
    """One database as it was at one moment."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def rows(self, sql: str, *arguments: object) -> AsyncIterator[Row]:
        """Streamed: any number of them."""
        async for row in self._connection.cursor(sql, *arguments, prefetch=ROWS_PER_FETCH):
            yield row

    async def keyed(self, sql: str, *arguments: object) -> AsyncIterator[tuple[str, Row]]:
        """The same under the text of their first column, by which they must be sorted."""
        async for row in self._connection.cursor(sql, *arguments, prefetch=ROWS_PER_FETCH):
            yield str(row[0]), row

    async def page(self, sql: str, *arguments: object) -> list[Row]:
        """All at once: only where the arguments bound their number."""
        return list(await self._connection.fetch(sql, *arguments))

    async def value(self, sql: str, *arguments: object) -> Any:
        return await self._connection.fetchval(sql, *arguments)


class Ledger:
    """The sandbox gateway's books, one snapshot of the SQLite file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, *arguments: object) -> Iterator[Row]:
        yield from self._connection.execute(sql, arguments)

    async def keyed(self, sql: str, *arguments: object) -> AsyncIterator[tuple[str, Row]]:
        """Under the text of their first column, by which they must be sorted; NULL counts as the empty text."""
        for row in self._connection.execute(sql, arguments):
            yield str(row[0] or ""), row


@dataclass(frozen=True, slots=True)
class Attempted:
    """A line of the sender's own history: a command it published, and whether the broker confirmed it. `at`: when, if it says so."""

    command_id: str
    confirmed: bool
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Stores:
    """What was given, open. `queues`: messages ready, by queue. `settled_before`: what happened later may still be under way."""

    databases: Mapping[str, Snapshot]
    ledger: Ledger | None
    history: Path | None
    queues: Mapping[str, int] | None
    settled_before: datetime | None

    @property
    def drained(self) -> bool:
        return self.settled_before is None

    def attempts(self) -> Iterator[Attempted]:
        """The sender's history, line by line. Raises AuditError with the number of a line that cannot be read."""
        if self.history is None:
            return
        with self.history.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _attempted(self.history, number, line)


def _attempted(path: Path, number: int, line: str) -> Attempted:
    try:
        entry = json.loads(line)
        at = entry.get("at")
        return Attempted(
            str(entry["command_id"]).lower(), bool(entry["confirmed"]), datetime.fromisoformat(at) if at else None
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise AuditError(
            f'{path.name}, line {number}, is not of the form {{"command_id": ..., "confirmed": true}}.'
        ) from None


@asynccontextmanager
async def open_stores(sources: Sources, now: datetime) -> AsyncIterator[Stores]:
    """Everything that was given, in the order in which effects come before their causes: what is seen here and missing there has not
    merely happened in between. Raises AuditError."""
    async with AsyncExitStack() as opened:
        queues = await _depths(sources.rabbitmq_url) if sources.rabbitmq_url is not None else None
        databases: dict[str, Snapshot] = {}
        for name in DATABASES:
            url = sources.databases.get(name)
            if url is not None:
                databases[name] = await opened.enter_async_context(snapshot(name, url))
        ledger = opened.enter_context(_open_ledger(sources.ledger)) if sources.ledger is not None else None
        if sources.history is not None and not sources.history.is_file():
            raise AuditError(f"there is no history file {sources.history}.")
        cutoff = None if sources.drained else now - timedelta(seconds=sources.grace_s)
        yield Stores(databases, ledger, sources.history, queues, cutoff)


@asynccontextmanager
async def snapshot(name: str, url: str) -> AsyncIterator[Snapshot]:
    """The database of the service `name`, read-only. Raises AuditError, which names its variable."""
    variable = f"{name.upper()}_DATABASE_URL"
    settings = {
        "application_name": "remit audit",
        "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
        "default_transaction_read_only": "on",
        "timezone": "UTC",
        "jit": "off",
    }
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=settings)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise AuditError(f"{variable}: the database does not answer ({type(error).__name__}).") from None
    try:
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
        )
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
                raise AuditError(f"{variable}: the database is empty: run `remit migrate {name}` first.")
            yield Snapshot(connection)
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)


@contextmanager
def _open_ledger(path: Path) -> Iterator[Ledger]:
    """The file, read-only, in one transaction. Raises AuditError."""
    if not path.is_file():
        raise AuditError(f"there is no ledger file {path}.")
    with closing(_connect(path)) as connection:
        yield Ledger(connection)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        uri = f"file:{quote(str(path.resolve()))}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=LEDGER_BUSY_S)
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM charges").fetchone()  # the snapshot begins with the first read
    except sqlite3.Error as error:
        raise AuditError(f"{path} is not the ledger of a sandbox gateway ({error}).") from None
    return connection


async def _depths(url: str) -> dict[str, int]:
    """Messages ready in every queue of the topology; a queue that is missing is left out: `remit topology check` tells of that."""
    link = BrokerLink(url, name="remit audit")
    depths: dict[str, int] = {}
    try:
        for name in sorted(QUEUE_NAMES):
            channel = await link.channel(confirms=False)  # a failing declare closes its channel
            with suppress(*BROKER_ERRORS):
                depths[name] = (
                    await channel.queue_declare(name, passive=True, timeout=RPC_TIMEOUT_S)
                ).message_count or 0
                await channel.close()
    except BROKER_ERRORS as error:
        raise AuditError(f"RABBITMQ_URL: the broker does not answer ({type(error).__name__}).") from None
    finally:
        await link.close()
    return depths
