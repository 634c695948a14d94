"""The durable ledger: one SQLite file, written by one process and readable by anyone.

Statements run at once, on one connection and inside an open transaction, so a request sees what other requests wrote. The transaction is
committed once per turn of the event loop, and an answer waits for that commit. Requests that arrive together share a commit, and no answer
ever tells of a row that a crash could remove.

WAL with synchronous=NORMAL: a killed process loses nothing that was committed, because the operating system holds the pages. Only a power
cut could lose the last commits. Our fault runs kill processes, never the machine. An fsync per commit would slow down PostgreSQL and the
broker on the same disk, whose throughput is being measured.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

CHECKPOINT_PAGES = 8_192  # 32 MiB of WAL between checkpoints: their fsync stalls the event loop, so they should be rare
BUSY_TIMEOUT_S = 5.0  # another process that reads the file may lock it for a checkpoint

Row = sqlite3.Row


class Ledger:
    """The ledger. It must be used from one event loop."""

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
        """Execute a statement. It is durable once `committed` returns, and is committed soon even if nobody waits."""
        if self._commit is None:
            loop = asyncio.get_running_loop()
            self._connection.execute("BEGIN IMMEDIATE")
            self._commit = loop.create_future()
            loop.call_soon(self._flush)
        self._connection.execute(sql, args)

    async def committed(self) -> None:
        """Wait until everything written so far is durable. Raises sqlite3.Error if the commit failed: then nothing of it happened."""
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
            commit.exception()  # read it, so that asyncio does not report a write without a waiter as "never retrieved"
        else:
            commit.set_result(None)
