"""The durable ledger: one SQLite file, written by one process, readable by anyone.

Statements run at once on one connection inside an open transaction, so a request sees what its neighbours wrote; the
transaction is committed once per turn of the event loop, and an answer waits for that commit. Requests that arrive
together share a commit, and no answer ever speaks of a row that a crash could take back.

WAL with synchronous=NORMAL: a killed process loses nothing that was committed, since the operating system holds the
pages; only a power cut could lose the last commits. Our fault runs kill processes, never the machine, and an fsync per
commit would be paid by the PostgreSQL and the broker on the same disk, whose throughput is being measured.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

CHECKPOINT_PAGES = 8_192  # 32 MiB of WAL between checkpoints: their fsync stalls the loop, so let them be rare
BUSY_TIMEOUT_S = 5.0  # a reader may hold the file while it checkpoints

Row = sqlite3.Row


class Ledger:
    """To be used from one event loop."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._connection.executescript(files("deploy.sandbox").joinpath("schema.sql").read_text())
        self._commit: asyncio.Future[None] | None = None

    def one(self, sql: str, *args: Any) -> Row | None:
        row: Row | None = self._connection.execute(sql, args).fetchone()
        return row

    def all(self, sql: str, *args: Any) -> Sequence[Row]:
        return self._connection.execute(sql, args).fetchall()

    def write(self, sql: str, *args: Any) -> None:
        """Durable once `committed` returns; committed soon even if nobody waits."""
        if self._commit is None:
            loop = asyncio.get_running_loop()
            self._connection.execute("BEGIN IMMEDIATE")
            self._commit = loop.create_future()
            loop.call_soon(self._flush)
        self._connection.execute(sql, args)

    async def committed(self) -> None:
        """Wait until all that was written so far is durable. sqlite3.Error: it is not, and nothing of it happened."""
        if self._commit is not None:
            await asyncio.shield(self._commit)

    def close(self) -> None:
        if self._commit is not None:
            self._flush()
        self._connection.close()

    def _flush(self) -> None:
        commit, self._commit = self._commit, None
        if commit is None:
            return
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as failure:
            self._connection.execute("ROLLBACK")
            commit.set_exception(failure)
            commit.exception()  # a write nobody waits for must not be reported as an exception never retrieved
        else:
            commit.set_result(None)
