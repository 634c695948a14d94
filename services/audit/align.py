"""Reads sorted streams of rows side by side, key by key: each service has its own database, so the database cannot join them.

Also reads long streams page by page.
"""

from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Keyed = AsyncIterator[tuple[str, "StoredRow"]]


class StoredRow(Protocol):
    """A row of PostgreSQL or SQLite: columns by name."""

    def __getitem__(self, column: str, /) -> Any: ...


async def align(*streams: Keyed) -> AsyncIterator[tuple[str, tuple[list[StoredRow], ...]]]:
    """Every key that occurs in any stream, ascending, with its rows from each stream: an outer join that keeps one key in memory.

    Each stream must be sorted by its keys, compared by code point (`ORDER BY id COLLATE "C"`; a uuid sorts like its text). Raises
    ValueError if a stream is not: otherwise its rows would be missed silently.
    """
    cursors = [_Cursor(stream) for stream in streams]
    for cursor in cursors:
        await cursor.advance()
    while waiting := [cursor.key for cursor in cursors if cursor.key is not None]:
        key = min(waiting)
        yield key, tuple([await cursor.take(key) for cursor in cursors])


def pages(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter, so that memory holds one list at a time."""
    while page := list(islice(items, size)):
        yield page


class _Cursor:
    """A stream and its next row."""

    def __init__(self, stream: Keyed) -> None:
        self._stream = stream
        self._row: StoredRow | None = None
        self.key: str | None = None

    async def advance(self) -> None:
        before = self.key
        following = await anext(self._stream, None)
        self.key, self._row = (None, None) if following is None else following
        if before is not None and self.key is not None and self.key < before:
            raise ValueError(f"a stream is out of order: {self.key!r} comes after {before!r}")

    async def take(self, key: str) -> list[StoredRow]:
        """All rows with this key, which is the smallest of all streams."""
        rows: list[StoredRow] = []
        while self.key == key and self._row is not None:
            rows.append(self._row)
            await self.advance()
        return rows
