"""Messages committed and not yet confirmed by the broker.

The process that wrote a row publishes it from memory right after its commit and deletes it by its exact id once the broker confirmed.
The sweeper publishes what a crash, an outage or a refusal left behind: it reads *unsent rows*, never a cursor (rows become visible out of
order), and leaves young rows to their own publisher. Published twice carries the same id and the same bytes.
"""

from collections.abc import Sequence
from uuid import UUID

from shared.messaging.envelope import Outgoing
from shared.persistence.database import Connection, Record, Tx
from shared.records import dataclass

SCHEMA = """
CREATE TABLE outbox (
    id             uuid PRIMARY KEY,
    exchange       text NOT NULL,
    routing_key    text NOT NULL,
    type           text NOT NULL,
    correlation_id text NOT NULL,
    content_type   text NOT NULL,
    headers        jsonb NOT NULL,
    droppable      boolean NOT NULL,
    body           bytea NOT NULL,
    message_id     text,
    reply_to       text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    sweep_after    timestamptz NOT NULL,
    refusals       smallint NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX outbox_sweep_after ON outbox (sweep_after);
"""

SWEEP_AFTER_S = 2.0
"""How long a row is left to the process that wrote it; a confirm takes milliseconds."""
SWEEP_BACKOFF_S = 3.0
"""A row that a sweeper took is left alone that long, by the other sweepers too; if that one dies, the message is as late."""
SWEEP_ROWS_MAX = 200
ANSWER_REFUSALS_MAX = 5
"""An answer whose asker lets its queue run full is dropped after so many tries, half a minute: the stored one is the truth."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """When a message that the broker did not take is sent again: after `first_s`, then ever later, the wait doubled so often at most."""

    first_s: float
    doublings_max: int


HOPELESS = Backoff(5.0, 6)
"""Returned: somebody has to create a queue first. Up to every five minutes. (An outage does not count: after it all leave at once.)"""
REFUSED = Backoff(2.0, 2)
"""A queue is full, or changes its leader: up to every eight seconds."""


async def insert(tx: Tx, messages: Sequence[Outgoing], *, sweep_after_s: float = SWEEP_AFTER_S) -> None:
    """Store what this transaction says. An id already waiting is the same message: left as it is.

    `sweep_after_s=0` leaves publishing to the sweeper at once: for a writer that does not publish itself.
    """
    if not messages:
        return
    await tx.execute(
        """INSERT INTO outbox (id, exchange, routing_key, type, correlation_id, content_type, headers, droppable, body, message_id,
                               reply_to, sweep_after)
           SELECT u.*, now() + make_interval(secs => $12) FROM unnest(
               $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::boolean[], $9::bytea[],
               $10::text[], $11::text[]) u
           ON CONFLICT DO NOTHING""",
        [m.id for m in messages],
        [m.exchange for m in messages],
        [m.routing_key for m in messages],
        [m.type for m in messages],
        [m.correlation_id for m in messages],
        [m.content_type for m in messages],
        [m.headers for m in messages],
        [m.droppable for m in messages],
        [m.body for m in messages],
        [m.message_id for m in messages],
        [m.reply_to for m in messages],
        sweep_after_s,
    )


async def delete(connection: Connection, ids: Sequence[UUID]) -> None:
    """Forget confirmed messages. If this is lost in a crash they are published once more, with the same ids: so it need not wait for
    the disk (`synchronous_commit` is off for this one statement, which is a transaction of its own)."""
    await connection.execute(
        """WITH lazy AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS setting)
           DELETE FROM outbox USING lazy WHERE id = ANY($1::uuid[]) AND setting = 'off'""",
        ids,
    )


async def take_overdue(tx: Tx) -> list[Outgoing]:
    """Rows whose publisher did not come back, the longest overdue first, reserved for `SWEEP_BACKOFF_S`."""
    rows = await tx.fetch(
        """UPDATE outbox SET sweep_after = now() + make_interval(secs => $1)
           WHERE id IN (SELECT id FROM outbox WHERE sweep_after <= now() ORDER BY sweep_after LIMIT $2 FOR UPDATE SKIP LOCKED)
           RETURNING *""",
        SWEEP_BACKOFF_S,
        SWEEP_ROWS_MAX,
    )
    return [_message(row) for row in sorted(rows, key=lambda row: row["created_at"])]


async def postpone(connection: Tx, ids: Sequence[UUID], backoff: Backoff) -> None:
    """The broker answered, and did not take these: try them ever more rarely, so that they are in nobody's way."""
    if not ids:
        return
    await connection.execute(
        "DELETE FROM outbox WHERE id = ANY($1::uuid[]) AND droppable AND refusals >= $2", ids, ANSWER_REFUSALS_MAX
    )
    await connection.execute(
        """UPDATE outbox SET refusals = least(refusals + 1, 1000),
                  sweep_after = now() + make_interval(secs => $2 * power(2, least(refusals, $3)))
           WHERE id = ANY($1::uuid[])""",
        ids,
        backoff.first_s,
        backoff.doublings_max,
    )


def _message(row: Record) -> Outgoing:
    return Outgoing(
        id=row["id"],
        exchange=row["exchange"],
        routing_key=row["routing_key"],
        type=row["type"],
        correlation_id=row["correlation_id"],
        body=row["body"],
        droppable=row["droppable"],
        headers=row["headers"],
        content_type=row["content_type"],
        message_id=row["message_id"],
        reply_to=row["reply_to"],
    )


async def count(connection: Connection) -> int:
    """Rows waiting."""
    return int(await connection.fetchval("SELECT count(*) FROM outbox"))
