"""Opens the raw stores, for reading only.

Each database is read in one REPEATABLE READ, READ ONLY transaction: a snapshot without locks that anyone would notice (a long one holds
back vacuum while it lasts). Snapshots of different databases are some milliseconds apart. That does not matter: in a live system nothing
younger than a grace period is judged. Rows are streamed through cursors, so only a page of them is in memory.
"""

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import orjson

from services.audit.align import StoredRow
from services.audit.errors import AuditError, StoreAwayError
from services.audit.evidence import Evidence, open_tap, read_baseline, read_queue_counts, read_run
from services.audit.queues import Queues, read_queues
from shared.observability.redaction import describe_error, error_text
from shared.settings import database_variable
from shared.unreachable import why_unreachable
from shared.urls import database_arguments, has_one_host

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = Any

CONNECT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_S = 1_800
"""Sorting tens of millions of rows on disk takes minutes; yet an audit that hangs must end."""
_REFUSED = ("28", "3D", "42")
"""Classes of SQLSTATE by which a server refuses a login, does not know a database, or misses a right."""
ROWS_PER_FETCH = 1_000
WIDE_ROWS_PER_FETCH = 50
"""For rows with bodies of at most 64 KiB, or outbox batches with up to some hundred of them: 3 MiB as a rule, below 500 MiB at worst."""
LEDGER_BUSY_S = 5.0
DATABASES = ("invoice", "payment_gateway", "saga", "staff")
LEDGER, HISTORY, QUEUES = "ledger", "history", "queues"
"""Stores beside the databases that a check may need."""

__all__ = [
    "DATABASES",
    "HISTORY",
    "LEDGER",
    "QUEUES",
    "AuditError",
    "LedgerSnapshot",
    "Snapshot",
    "Sources",
    "Stores",
    "open_stores",
    "read_json",
    "snapshot",
]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look; what is not given is not checked. `drained`: no work is under way, so nothing is too young to judge."""

    databases: Mapping[str, str] = field(repr=False)
    rabbitmq_url: str | None = field(default=None, repr=False)
    ledger: Path | None = None
    history: Path | None = None
    drained: bool = False
    grace_s: float = 600.0
    tap: Path | None = None
    run: Path | None = None
    baselines: tuple[Path, ...] = ()
    logs: Path | None = None
    seals: Path | None = None
    lost: frozenset[str] = frozenset()
    unacked: Path | None = None
    sender_groups: tuple[frozenset[str], ...] = ()


class Snapshot:
    """One database, read as it was at one moment."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._answered: dict[str, list[StoredRow]] = {}

    async def once(self, sql: str) -> list[StoredRow]:
        """All rows of a query that is asked only once, because a snapshot does not change."""
        if sql not in self._answered:
            self._answered[sql] = await self.page(sql)
        return self._answered[sql]

    async def rows(self, sql: str, *arguments: object) -> AsyncIterator[StoredRow]:
        """Stream the rows, so that there may be any number of them."""
        async for row in self._connection.cursor(sql, *arguments, prefetch=ROWS_PER_FETCH):
            yield row

    async def wide_rows(self, sql: str) -> AsyncIterator[asyncpg.Record]:
        """Stream rows with whole bodies, a few at a time."""
        async for row in self._connection.cursor(sql, prefetch=WIDE_ROWS_PER_FETCH):
            yield row

    async def keyed(self, sql: str, *arguments: object) -> AsyncIterator[tuple[str, StoredRow]]:
        """Stream rows with the text of their first column as key; they must be sorted by it."""
        async for row in self._connection.cursor(sql, *arguments, prefetch=ROWS_PER_FETCH):
            yield str(row[0]), row

    async def page(self, sql: str, *arguments: object) -> list[StoredRow]:
        """All rows at once: only for queries whose arguments limit the number."""
        return list(await self._connection.fetch(sql, *arguments))

    async def value(self, sql: str, *arguments: object) -> Any:
        return await self._connection.fetchval(sql, *arguments)


class LedgerSnapshot:
    """The gateway's books: one snapshot of the SQLite file, the sandbox's own or what `remit reconcile` copied from the gateway.

    `covered` is the window of time for which a copy is complete; None: the books are whole, and have what only a sandbox tells.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.covered = _covered(connection)

    def rows(self, sql: str) -> Iterator[sqlite3.Row]:
        yield from self._connection.execute(sql)

    def digest(self, sql: str) -> str:
        """The number of rows, and a digest over them in their order."""
        rows, digest = 0, sha256()
        for row in self._connection.execute(sql):
            rows += 1
            digest.update(repr(tuple(row)).encode())
        return f"{rows:x}-{digest.hexdigest()}"

    async def keyed(self, sql: str) -> AsyncIterator[tuple[str, StoredRow]]:
        """Rows with the text of their first column as key; they must be sorted by it. NULL counts as the empty text."""
        for row in self._connection.execute(sql):
            yield str(row[0] or ""), row


def _covered(connection: sqlite3.Connection) -> tuple[datetime, datetime] | None:
    """The window that the books cover. Raises AuditError if the copy was never finished."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'covered'").fetchone() is None:
        return None
    row = connection.execute("SELECT since, until FROM covered").fetchone()
    if row is None:
        raise AuditError("the copy of the gateway's books was not finished: run `remit reconcile` again.")
    return datetime.fromtimestamp(row["since"], UTC), datetime.fromtimestamp(row["until"], UTC)


@dataclass(frozen=True, slots=True)
class Attempted:
    """An entry of the sender's own history: a command it published, and whether the broker confirmed it. `at`: when, if recorded."""

    command_id: str
    confirmed: bool
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Stores:
    """The open stores that were given. `settled_before`: what happened later may still have effects under way."""

    databases: Mapping[str, Snapshot]
    ledger: LedgerSnapshot | None
    history: Path | None
    queues: Queues | None
    settled_before: datetime | None
    evidence: Evidence = field(default_factory=Evidence)
    urls: Mapping[str, str] = field(default_factory=dict, repr=False)
    sender_groups: tuple[frozenset[str], ...] = ()

    @property
    def drained(self) -> bool:
        return self.settled_before is None

    def has(self, *names: str) -> bool:
        """Whether all of these were given: databases by the name of their service, LEDGER, HISTORY, QUEUES."""
        others = {LEDGER: self.ledger, HISTORY: self.history, QUEUES: self.queues}
        return all(name in self.databases or others.get(name) is not None for name in names)

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
    """Open everything that was given, effects before their causes. Raises AuditError.

    A cause is thus read later than its effect. If it is missing, it is really missing, and not just too new for its snapshot.
    """
    async with AsyncExitStack() as opened:
        evidence = _open_evidence(sources, opened)
        queues = (
            await read_queues(sources.rabbitmq_url, look_into=sources.drained)
            if sources.rabbitmq_url is not None
            else None
        )
        databases: dict[str, Snapshot] = {}
        for name in DATABASES:
            url = sources.databases.get(name)
            if url is not None:
                databases[name] = await opened.enter_async_context(snapshot(name, url))
        ledger = opened.enter_context(_open_ledger(sources.ledger)) if sources.ledger is not None else None
        if sources.history is not None and not sources.history.is_file():
            raise AuditError(f"there is no history file {sources.history}.")
        cutoff = None if sources.drained else now - timedelta(seconds=sources.grace_s)
        yield Stores(
            databases,
            ledger,
            sources.history,
            queues,
            cutoff,
            evidence,
            sources.databases,
            sources.sender_groups,
        )


def _open_evidence(sources: Sources, opened: AsyncExitStack) -> Evidence:
    if sources.logs is not None and not sources.logs.is_dir():
        raise AuditError(f"there is no folder of logs {sources.logs}.")
    if sources.seals is not None and not sources.seals.is_file():
        raise AuditError(f"there is no file of seals {sources.seals}.")
    unacked, stuck = read_queue_counts(sources.unacked) if sources.unacked is not None else (None, None)
    return Evidence(
        tap=opened.enter_context(open_tap(sources.tap)) if sources.tap is not None else None,
        run=read_run(sources.run) if sources.run is not None else None,
        baselines=tuple(read_baseline(path) for path in sources.baselines),
        logs=sources.logs,
        seals=sources.seals,
        lost=sources.lost,
        unacked=unacked,
        stuck=stuck,
    )


def read_json(text: bytes | str) -> Any:
    """JSON as data; None if nobody can read it, such as a number that no double holds."""
    try:
        return orjson.loads(text)
    except ValueError:
        return None


_SET = f"""
    SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s';
    SET LOCAL idle_in_transaction_session_timeout = 0; -- each snapshot waits while the others are read
    SET LOCAL timezone = 'UTC';
    SET LOCAL jit = off"""
"""Settings of the transaction. Those of a session would reach other clients, if PgBouncer gives it to them."""


@asynccontextmanager
async def snapshot(name: str, url: str) -> AsyncIterator[Snapshot]:
    """Open the database of the service `name`, read-only. Raises AuditError with the name of its variable; StoreAwayError in an outage."""
    variable = database_variable(name)
    try:
        connection = await asyncpg.connect(**database_arguments(url, name="remit audit", timeout_s=CONNECT_TIMEOUT_S))
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _not_opened(variable, error, is_only_host=has_one_host(url)) from None
    try:
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=read_json
        )
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(_SET)
            if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
                raise AuditError(f"{variable}: the database is empty: run `remit migrate {name}` first.")
            yield Snapshot(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        raise AuditError(f"{variable}: {error_text(error)}.") from None
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)


def _not_opened(variable: str, error: Exception, *, is_only_host: bool) -> AuditError:
    """What keeps us from the database: something to mend, or an outage."""
    sqlstate = getattr(error, "sqlstate", None) or ""
    if (why := why_unreachable(error, is_only_host=is_only_host)) is not None:
        return AuditError(f"{variable}: {why}.")
    if sqlstate.startswith(_REFUSED) or isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        said = error_text(error)
        return AuditError(f"{variable}: {said}{'' if said.endswith('?') else '.'}")
    what = describe_error(error) if isinstance(error, asyncpg.PostgresError) else type(error).__name__
    return StoreAwayError(f"{variable}: the database does not answer ({what}).")


@contextmanager
def _open_ledger(path: Path) -> Iterator[LedgerSnapshot]:
    """Open the ledger's file, read-only and in one transaction. Raises AuditError."""
    if not path.is_file():
        raise AuditError(f"there is no ledger file {path}.")
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    with ExitStack() as opened:
        try:
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=LEDGER_BUSY_S)
            opened.callback(connection.close)
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM charges").fetchone()  # the snapshot begins with the first read
        except sqlite3.Error as error:
            raise AuditError(f"{path} holds no books of a gateway ({error}).") from None
        yield LedgerSnapshot(connection)
