"""The writes of one transaction in one round trip.

Each statement sent costs client and server a system call and a wake-up, which for a lone message is most of its price (measured: 11
round trips took 2 ms, of which the statements themselves 0.3). Writes to different tables do not depend on each other's order, so they
are collected and sent as one statement whose parts are data-modifying CTEs (PostgreSQL documentation, 7.8.4).

Rows travel as one array of a composite type that the schema makes for the statement (`unnest($1::saga_row[])`), a tuple a row. An array
a column would be a function scan with a store of its own for each (17 columns: 66 us of the server instead of 40 for a row alone, 6.3
instead of 5.1 for each of 200). Such a type is never changed: a build that writes other columns makes another in a pre step
(`shared.persistence.schema`), since the one before still writes this, and drops the old one in a post step.
"""

import re
from functools import lru_cache
from typing import Any

import asyncpg

from shared.persistence.database import Connection, MovedOnError, Record

_PLACEHOLDER = re.compile(r"\$(\d+)")
_TABLE = re.compile(r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+(\w+)", re.IGNORECASE)


class WriteBatch:
    """Stands in for a transaction's connection: `execute` collects until `flush`; what is fetched is fetched at once, and does not see
    what was collected. Two writes to one table are two statements, in their order (PostgreSQL does not define it within one), unless they
    are to other rows."""

    def __init__(self, tx: Connection, *, one_statement: bool = False) -> None:
        self._tx = tx
        self._one_statement = one_statement
        self.fits_one_statement = True
        """With `one_statement`: whether what was collected can be sent as one, and so needs no transaction around it."""
        self._statements: list[str] = []
        self._arguments: list[Any] = []
        self._counts: list[int] = []
        self._expected: list[int | None] = []
        self._tables: set[str] = set()

    async def execute(self, statement: str, *arguments: Any, rows: int | None = None, apart: bool = False) -> None:
        """Collect a write. With `rows` it must return exactly so many (RETURNING), or nothing of all that is sent with it is stored and
        `flush` raises MovedOnError: somebody else was faster. `apart`: to other rows of its table than what was collected before, which
        nobody checks, and of which it sees nothing."""
        found = _TABLE.search(statement)
        if found is None:
            raise ValueError(
                "only INSERT, UPDATE and DELETE are collected: a SELECT within the statement would never run"
            )
        if found.group(1) in self._tables and not apart:
            if self._one_statement:
                self.fits_one_statement = False
                return
            await self.flush()
        self._tables.add(found.group(1))
        self._statements.append(statement)
        self._arguments.extend(arguments)
        self._counts.append(len(arguments))
        self._expected.append(rows)

    async def fetch(self, query: str, *arguments: Any) -> list[Record]:
        """Rows of a query, now."""
        return await self._tx.fetch(query, *arguments)

    async def flush(self) -> None:
        """Send what was collected. Raises MovedOnError."""
        if not self._statements:
            return
        expected = tuple(number for number, rows in enumerate(self._expected) if rows is not None)
        statement = _joined(tuple(self._statements), tuple(self._counts), expected)
        arguments = self._arguments + [rows for rows in self._expected if rows is not None]
        self._statements, self._arguments, self._counts, self._expected, self._tables = [], [], [], [], set()
        try:
            await self._tx.execute(statement, *arguments)
        except asyncpg.DivisionByZeroError:
            raise MovedOnError("a row is no longer as it was when this was decided") from None


@lru_cache(maxsize=256)
def _joined(statements: tuple[str, ...], counts: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """One statement, its placeholders numbered through. The same parts give the same text, which PostgreSQL has prepared."""
    if len(statements) == 1 and not expected:
        return statements[0]
    parts, offset = [], 0
    for number, (statement, count) in enumerate(zip(statements, counts, strict=True)):
        shifted = _PLACEHOLDER.sub(lambda found, by=offset: f"${int(found.group(1)) + by}", statement)  # type: ignore[misc]
        parts.append(f"w{number} AS ({shifted})")
        offset += count
    conditions = [f"(SELECT count(*) FROM w{number}) = ${offset + at}" for at, number in enumerate(expected, start=1)]  # noqa: S608 - numbers
    # A bare `SELECT` would return one empty row, and asyncpg 0.32 writes 8 bytes beyond an empty record when it frees one
    # (`record_dealloc`; a process with PYTHONMALLOC=malloc dies of it; found by valgrind). A division by zero undoes the whole statement.
    last = (
        f"SELECT 1 / CASE WHEN {' AND '.join(conditions)} THEN 1 ELSE 0 END" if conditions else "SELECT 1 WHERE false"
    )
    return f"WITH {', '.join(parts)} {last}"
