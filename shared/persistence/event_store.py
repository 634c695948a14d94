"""Streams of events: append only. The versions of a stream are 1..n without a gap, each used once.

Stored events are not contracts. A service encodes them with its own codec, and reads old ones through its own upcasters.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from shared.persistence.database import Connection, Record, Tx
from shared.records import dataclass

STREAMS_PER_PAGE = 1_000
COLUMNS = "stream_id, version, type, data, cause_id, cause_position, correlation_id, traceparent, recorded_at, owner"
"""The columns are named in the statements, so that this build also runs on a later schema with more columns."""
_ROW = attrgetter(*COLUMNS.split(", "))


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event, with all that is needed to announce it again byte for byte. `owner` is that of the stream, in the event that begins it.

    `cause_id` is the id of the message that caused it, and `cause_position` its place among the effects of that message.
    """

    stream_id: str
    version: int
    type: str
    data: dict[str, Any]
    cause_id: UUID
    cause_position: int
    correlation_id: str
    traceparent: str | None
    recorded_at: datetime
    owner: str | None = None


async def append(tx: Tx, events: Sequence[StoredEvent]) -> None:
    """Add `events` to their streams. A version that exists already is a unique violation: another writer was faster, so load again."""
    if not events:
        return
    await tx.execute(
        f"INSERT INTO events ({COLUMNS}) SELECT * FROM unnest($1::event_row_2[])",  # noqa: S608 - our names
        list(map(_ROW, events)),
    )


async def load(connection: Tx, stream_ids: Iterable[str]) -> dict[str, list[StoredEvent]]:
    """The whole streams by their ids, events in the order of versions. A stream that does not exist is absent."""
    query = f"SELECT {COLUMNS} FROM events WHERE stream_id = ANY($1::text[]) ORDER BY stream_id, version"  # noqa: S608 - our names
    rows = await connection.fetch(query, list(stream_ids))
    streams: dict[str, list[StoredEvent]] = {}
    for row in rows:
        streams.setdefault(row["stream_id"], []).append(_event(row))
    return streams


async def all_streams(connection: Connection) -> AsyncIterator[tuple[str, list[StoredEvent]]]:
    """Every stream, in the order of their ids. Memory holds one page of `STREAMS_PER_PAGE` streams at a time."""
    after = ""
    while True:
        rows = await connection.fetch(
            "SELECT DISTINCT stream_id FROM events WHERE stream_id > $1 ORDER BY stream_id LIMIT $2",
            after,
            STREAMS_PER_PAGE,
        )
        if not rows:
            return
        for stream in (await load(connection, [row["stream_id"] for row in rows])).items():
            yield stream
        after = rows[-1]["stream_id"]


def _event(row: Record) -> StoredEvent:
    return StoredEvent(**row)
