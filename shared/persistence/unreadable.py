"""Rows that this build cannot read, for instance because a newer one wrote them while both run."""

from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from structlog.typing import FilteringBoundLogger

from shared.persistence.database import Record

T = TypeVar("T")


class UnreadableRowsError(Exception):
    """This build cannot read the rows with these keys. Messages about them have to wait for one that can; they are no dead letters."""

    def __init__(self, keys: Collection[Any]) -> None:
        super().__init__(f"{len(keys)} rows cannot be read")
        self.keys = keys


def readable_rows(
    rows: Iterable[Record], key: str, read: Callable[[Record], T], *, log: FilteringBoundLogger, event: str
) -> dict[Any, T]:
    """What each row says, by its column `key`, without those that cannot be read: they are logged as `event`, and hold up no others."""
    found: dict[Any, T] = {}
    for row in rows:
        try:
            found[row[key]] = read(row)
        except Exception:  # whatever is wrong with one row
            log.exception(event, **{key: str(row[key])})
    return found


def read_rows(rows: Iterable[Record], key: str, read: Callable[[Record], T]) -> dict[Any, T]:
    """What each row says, by its column `key`. Raises UnreadableRowsError, which names all that cannot be read."""
    found: dict[Any, T] = {}
    unreadable: dict[Any, Exception] = {}
    for row in rows:
        try:
            found[row[key]] = read(row)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one row, it is no fault of the messages about it
            unreadable[row[key]] = error
    if unreadable:
        raise UnreadableRowsError(unreadable.keys()) from next(iter(unreadable.values()))
    return found
