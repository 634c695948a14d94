"""Messages committed and not yet confirmed by the broker, in parcels: a row is what one transaction says, in its order.

The process that wrote a parcel publishes it from memory right after its commit and deletes it by its exact id once the broker confirmed
every message. The sweeper publishes what a crash, an outage or a refusal left behind: it reads *unsent rows*, never a cursor (rows become
visible out of order), and leaves young rows to their own publisher. Published twice carries the same id and the same bytes.

A row a transaction instead of one a message: writing and deleting them again was 8 of 33 rows a payment, and 30 % of PostgreSQL's CPU in
a burst (measured).
"""

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING
from uuid import UUID

from shared.ids import new_id
from shared.messaging.envelope import Outgoing
from shared.persistence.database import Connection, Record, Tx
from shared.records import dataclass

if TYPE_CHECKING:
    from shared.messaging.publisher import Published

_ARRAYS = {
    "ids": "id",
    "exchanges": "exchange",
    "routing_keys": "routing_key",
    "types": "type",
    "correlation_ids": "correlation_id",
    "content_types": "content_type",
    "headers": "headers",
    "droppable": "droppable",
    "bodies": "body",
    "message_ids": "message_id",
    "reply_tos": "reply_to",
}
"""Columns, and the fields of `Outgoing` that they hold."""
_INSERT = (
    f"INSERT INTO outbox (id, refusals, created_at, sweep_after, {', '.join(_ARRAYS)}) "  # noqa: S608 - constants
    "VALUES ($1, $2, coalesce($3, now()), now() + make_interval(secs => $4), "
    f"{', '.join(f'${at}' for at in range(5, 5 + len(_ARRAYS)))}) ON CONFLICT DO NOTHING"
)
_TAKE_OVERDUE = f"""
    WITH due AS (
        SELECT id, cardinality(ids) AS messages, sweep_after FROM outbox WHERE sweep_after <= now()
        ORDER BY sweep_after LIMIT $2 FOR UPDATE SKIP LOCKED
    ), counted AS (
        SELECT id, sum(messages) OVER (ORDER BY sweep_after, id) - messages AS before FROM due
    )
    UPDATE outbox SET sweep_after = now() + make_interval(secs => $1)
    WHERE id = ANY(ARRAY(SELECT id FROM counted WHERE before < $2)) RETURNING id, refusals, created_at, {", ".join(_ARRAYS)}"""  # noqa: S608 - constants
_POSTPONE = """
    UPDATE outbox SET refusals = least(refusals + 1, $4), sweep_after = now() + make_interval(secs => $2 * power(2, least(refusals, $3)))
    WHERE id = $1"""

SWEEP_AFTER_S = 2.0
"""How long a parcel is left to the process that wrote it; a confirm takes milliseconds."""
SWEEP_BACKOFF_S = 3.0
"""A parcel that a sweeper took is left alone that long, by the other sweepers too; if that one dies, the messages are as late."""
SWEEP_MESSAGES_MAX = 200
"""A sweep ends when its parcels hold so many: as a batch, so that it is in nobody's way, and done long before its reservation ends."""
ANSWER_REFUSALS_MAX = 5
"""An answer whose asker lets its queue run full is dropped after so many tries, half a minute: the stored one is the truth."""
REFUSALS_COUNTED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class OutboxBatch:
    """A row: messages that wait for the same confirm. `refusals`: how often the broker has answered and not taken them."""

    id: UUID
    messages: Sequence[Outgoing]
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Backoff:
    """When messages that the broker did not take are sent again: after `first_s`, then ever later, the wait doubled so often at most."""

    first_s: float
    doublings_max: int

    def delay_s(self, refusals: int) -> float:
        return self.first_s * 2.0 ** min(refusals, self.doublings_max)


UNROUTABLE = Backoff(5.0, 6)
"""Returned: somebody has to create a queue first. Up to every five minutes. (An outage does not count: after it all leave at once.)"""
REFUSED = Backoff(2.0, 2)
"""A queue is full, or changes its leader: up to every eight seconds."""


async def insert(tx: Tx, messages: Sequence[Outgoing], *, sweep_after_s: float = SWEEP_AFTER_S) -> list[OutboxBatch]:
    """Store what this transaction says; what is to be published once it is committed: one parcel, or none.

    `sweep_after_s=0` leaves publishing to the sweeper at once: for a writer that does not publish itself.
    """
    if not messages:
        return []
    outbox_batch = OutboxBatch(new_id(), messages)
    await _insert(tx, outbox_batch, sweep_after_s=sweep_after_s, created_at=None)
    return [outbox_batch]


async def insert_again(tx: Tx, messages: Sequence[Outgoing]) -> list[OutboxBatch]:
    """Store what was said before and may have been missed, a parcel a message, under the message's own id: one that still waits is left as
    it is, so that repeats do not pile up while the broker is away."""
    outbox_batches = [OutboxBatch(message.id, [message]) for message in messages]
    for outbox_batch in outbox_batches:
        await _insert(tx, outbox_batch, sweep_after_s=SWEEP_AFTER_S, created_at=None)
    return outbox_batches


async def _insert(tx: Tx, outbox_batch: OutboxBatch, *, sweep_after_s: float, created_at: datetime | None) -> None:
    await tx.execute(
        _INSERT,
        outbox_batch.id,
        outbox_batch.refusals,
        created_at,
        sweep_after_s,
        *(list(map(attrgetter(field), outbox_batch.messages)) for field in _ARRAYS.values()),
    )


async def delete(connection: Connection, parcel_ids: Sequence[UUID]) -> None:
    """Forget confirmed parcels. If this is lost in a crash they are published once more, with the same ids: so it need not wait for
    the disk (`synchronous_commit` is off for this one statement, which is a transaction of its own)."""
    await connection.execute(
        """WITH lazy AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS setting)
           DELETE FROM outbox USING lazy WHERE id = ANY($1::uuid[]) AND setting = 'off'""",
        list(parcel_ids),
    )


async def take_overdue(tx: Tx) -> list[OutboxBatch]:
    """Parcels whose publisher did not come back, the longest overdue first, reserved for `SWEEP_BACKOFF_S`: one, and more until they hold
    `SWEEP_MESSAGES_MAX` messages."""
    rows = await tx.fetch(_TAKE_OVERDUE, SWEEP_BACKOFF_S, SWEEP_MESSAGES_MAX)
    return [_parcel(row) for row in sorted(rows, key=lambda row: row["created_at"])]


@dataclass(frozen=True, slots=True)
class Unpublished:
    """Messages of one parcel that still have to leave. Of the `unknown` the broker said nothing."""

    outbox_batch: OutboxBatch
    unknown: Sequence[Outgoing] = ()
    hopeless: Sequence[Outgoing] = ()
    refused: Sequence[Outgoing] = ()

    @property
    def count(self) -> int:
        return len(self.unknown) + len(self.hopeless) + len(self.refused)

    @property
    def is_answered(self) -> bool:
        """Whether the broker spoke of some and did not take all: what waits now is not what waited before."""
        return self.count > 0 and len(self.unknown) < len(self.outbox_batch.messages)


def unpublished_of(outbox_batch: OutboxBatch, published: "Published") -> Unpublished:
    """What the broker did not take. An answer whose asker has gone, or has long let its queue run full, is dropped."""
    if published.is_complete:
        return Unpublished(outbox_batch)
    confirmed, hopeless, refused = set(published.confirmed), published.hopeless, set(published.refused)
    keeps_answers = outbox_batch.refusals < ANSWER_REFUSALS_MAX
    left = [message for message in outbox_batch.messages if message.id not in confirmed]
    return Unpublished(
        outbox_batch,
        [m for m in left if m.id not in hopeless and m.id not in refused],
        [m for m in left if m.id in hopeless and not m.droppable],
        [m for m in left if m.id in refused and m.id not in hopeless and (keeps_answers or not m.droppable)],
    )


async def postpone(tx: Connection, left: Unpublished) -> None:
    """What the broker did not take of a parcel is tried ever more rarely, so that it is in nobody's way. A parcel with one fate waits as it
    is; of others the parts become parcels of their own, each with its time. One that is gone was seen to by somebody else. In a
    transaction; parcels in the order of their ids."""
    for messages, backoff in ((left.hopeless, UNROUTABLE), (left.refused, REFUSED)):
        if len(messages) == len(left.outbox_batch.messages):
            await tx.execute(
                _POSTPONE, left.outbox_batch.id, backoff.first_s, backoff.doublings_max, REFUSALS_COUNTED_MAX
            )
            return
    await _split(tx, left)


async def _split(tx: Connection, left: Unpublished) -> None:
    gone = await tx.fetch("DELETE FROM outbox WHERE id = $1 RETURNING created_at, refusals", left.outbox_batch.id)
    if not gone:
        return
    created_at, refusals = gone[0]
    once_more = min(refusals + 1, REFUSALS_COUNTED_MAX)
    for messages, counted, delay_s in (
        (left.unknown, refusals, SWEEP_AFTER_S),
        (left.hopeless, once_more, UNROUTABLE.delay_s(refusals)),
        (left.refused, once_more, REFUSED.delay_s(refusals)),
    ):
        if messages:
            await _insert(tx, OutboxBatch(new_id(), messages, counted), sweep_after_s=delay_s, created_at=created_at)


def _parcel(row: Record) -> OutboxBatch:
    messages = zip(*(row[column] for column in _ARRAYS), strict=True)
    return OutboxBatch(
        row["id"],
        [Outgoing(**dict(zip(_ARRAYS.values(), message, strict=True))) for message in messages],
        row["refusals"],
    )
