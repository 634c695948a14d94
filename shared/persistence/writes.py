"""The writes of one transaction in one round trip.

Every statement that is sent costs the client and the server a system call and a wake-up. For a message alone that is most of its cost: 11
round trips took 2 ms, and the statements themselves only 0.3 ms of it (measured). The order of writes to different tables does not matter.
So they are collected and sent as one statement whose parts are data-modifying CTEs (PostgreSQL documentation, 7.8.4).

Rows are sent as one array of a composite type that the schema makes for the statement (`unnest($1::saga_row[])`), with one tuple a row. One
array a column would be slower, because PostgreSQL scans and stores each array separately. Measured with 17 columns: a row alone took 66
microseconds of the server instead of 40, and each of 200 rows 6.3 instead of 5.1.

A composite type is never changed, because the build before still writes it. A build that writes other columns makes a new type in a pre
step (`shared.persistence.schema`), and drops the old type in a post step.
"""

import re
from functools import lru_cache
from typing import Any

import asyncpg

from shared.persistence.database import Connection, MovedOnError, Record

_PLACEHOLDER = re.compile(r"\$(\d+)")
_TABLE = re.compile(r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+(\w+)", re.IGNORECASE)


class WriteBatch:
    """Stands in for a transaction's connection: `execute` collects writes, and `flush` sends them as one statement.

    `fetch` runs at once and does not see collected writes. A second write to a table first flushes what was collected, because PostgreSQL
    does not define the order of two writes to the same rows within one statement. `execute` has a parameter for the exception.
    """

    def __init__(self, tx: Connection, *, one_statement: bool = False) -> None:
        self._tx = tx
        self._one_statement = one_statement
        self.fits_one_statement = True
        """With `one_statement`: whether one statement can hold all writes. One statement needs no transaction around it."""
        self._statements: list[str] = []
        self._arguments: list[Any] = []
        self._counts: list[int] = []
        self._expected: list[int | None] = []
        self._tables: set[str] = set()

    async def execute(self, statement: str, *arguments: Any, rows: int | None = None, apart: bool = False) -> None:
        """Collect a write: INSERT, UPDATE or DELETE. Raises ValueError for any other statement.

        `rows` is the number of rows that the statement must return (RETURNING). If another writer was faster and it returns another
        number, `flush` raises MovedOnError and stores nothing of what it sent.

        `apart` promises that this write and the collected writes to the same table are to different rows, so one statement may hold them.
        Nobody checks the promise. This write does not see the effects of the others.
        """
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
        """Run a query at once, and return its rows."""
        return await self._tx.fetch(query, *arguments)

    async def flush(self) -> None:
        """Send the collected writes as one statement. Raises MovedOnError, and what asyncpg raises."""
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
    """One statement of `statements`, with placeholders numbered consecutively.

    `counts` has the number of arguments of each, and `expected` the positions of those whose rows are counted. The same parts give the same
    text, so PostgreSQL has prepared it already.
    """
    if len(statements) == 1 and not expected:
        return statements[0]
    parts, offset = [], 0
    for number, (statement, count) in enumerate(zip(statements, counts, strict=True)):
        shifted = _PLACEHOLDER.sub(lambda found, by=offset: f"${int(found.group(1)) + by}", statement)  # type: ignore[misc]
        parts.append(f"w{number} AS ({shifted})")
        offset += count
    conditions = [f"(SELECT count(*) FROM w{part}) = ${offset + nth}" for nth, part in enumerate(expected, start=1)]  # noqa: S608 - numbers
    # The last SELECT never returns an empty row. asyncpg 0.32 writes 8 bytes beyond an empty record when it frees one (`record_dealloc`;
    # valgrind found it, and a process with PYTHONMALLOC=malloc dies of it). If a condition fails, the division by zero undoes everything.
    last = (
        f"SELECT 1 / CASE WHEN {' AND '.join(conditions)} THEN 1 ELSE 0 END" if conditions else "SELECT 1 WHERE false"
    )
    return f"WITH {', '.join(parts)} {last}"
