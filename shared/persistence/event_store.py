"""Streams of events: append only, numbered 1..n without a gap, unique on stream and version.

Stored events are not contracts: a service encodes them with its own codec and reads old ones through its own upcasters.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from shared.persistence.database import Connection, Record, Tx
from shared.records import dataclass

STREAMS_PER_PAGE = 1_000
_COLUMNS = "stream_id, version, type, data, cause_id, cause_position, correlation_id, traceparent, recorded_at"
"""Named, so that the previous build runs on a schema with more of them."""
_ROW = attrgetter(*_COLUMNS.split(", "))


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event with what is needed to announce it again, byte for byte: its cause, its position among what the cause brought about,
    and the time it was recorded."""

    stream_id: str
    version: int
    type: str
    data: dict[str, Any]
    cause_id: UUID
    cause_position: int
    correlation_id: str
    traceparent: str | None
    recorded_at: datetime


async def append(tx: Tx, events: Sequence[StoredEvent]) -> None:
    """Add to the streams. A version that is taken is a unique violation: somebody else was faster, load again."""
    if not events:
        return
    await tx.execute(
        f"INSERT INTO events ({_COLUMNS}) SELECT * FROM unnest($1::event_row[])",  # noqa: S608 - our names
        list(map(_ROW, events)),
    )


async def load(connection: Tx, stream_ids: Iterable[str]) -> dict[str, list[StoredEvent]]:
    """Whole streams, in order; a stream that does not exist is absent."""
    query = f"SELECT {_COLUMNS} FROM events WHERE stream_id = ANY($1::text[]) ORDER BY stream_id, version"  # noqa: S608 - our names
    rows = await connection.fetch(query, list(stream_ids))
    streams: dict[str, list[StoredEvent]] = {}
    for row in rows:
        streams.setdefault(row["stream_id"], []).append(_event(row))
    return streams


async def all_streams(connection: Connection) -> AsyncIterator[tuple[str, list[StoredEvent]]]:
    """Every stream by itself, page by page in the order of their ids: memory stays bounded by a page of streams."""
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
