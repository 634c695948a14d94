"""The outbox: messages that are committed and not yet confirmed by the broker.

One row is one outbox batch: all messages that one transaction publishes, in their order. The process that wrote a batch publishes it from
memory right after its commit. Once the broker has confirmed every message, it deletes the batch by its exact id.

The sweeper publishes what a crash, an outage or a refusal left behind. It reads the rows that exist and remembers no position, because
rows become visible out of order: a reader that continues behind the last position would skip some. It leaves young rows to the process
that wrote them. A message that is published twice has the same id and the same bytes both times.

A row holds a transaction's messages instead of one message, because that is cheaper. With a row a message, writing and deleting outbox rows
was 8 of the 33 rows a payment costs, and 30 % of PostgreSQL's CPU in a burst (measured).
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
"""Each array column, and the field of `Outgoing` that it holds."""
_INSERT = (
    f"INSERT INTO outbox (id, refusals, created_at, sweep_after, {', '.join(_ARRAYS)}) "  # noqa: S608 - constants
    "VALUES ($1, $2, coalesce($3, now()), now() + make_interval(secs => $4), "
    f"{', '.join(f'${number}' for number in range(5, 5 + len(_ARRAYS)))}) ON CONFLICT DO NOTHING"
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
"""How long an outbox batch is left to the process that wrote it. A confirm takes milliseconds."""
SWEEP_BACKOFF_S = 3.0
"""How long an outbox batch is reserved for the sweeper that took it. If that sweeper dies, its messages are this much later."""
SWEEP_MESSAGES_MAX = 200
"""Messages of one sweep: as many as one batch of the pipeline has. So a sweep delays nobody, and ends long before its reservation does."""
ANSWER_REFUSALS_MAX = 5
"""Tries, about half a minute, after which an answer is dropped if its receiver's queue stays full. The stored answer remains."""
REFUSALS_COUNTED_MAX = 1_000
"""The count of refusals stops here, so that it never overflows its column."""


@dataclass(frozen=True, slots=True)
class OutboxBatch:
    """One row of the outbox: the messages of one transaction. `refusals` counts how often the broker answered and did not take them."""

    id: UUID
    messages: Sequence[Outgoing]
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Backoff:
    """When messages that the broker did not take are published again.

    The first wait is `first_s` seconds. Each further wait is twice the one before, but it is doubled `doublings_max` times at most.
    """

    first_s: float
    doublings_max: int

    def delay_s(self, refusals: int) -> float:
        """Seconds to wait after so many earlier refusals."""
        return self.first_s * 2.0 ** min(refusals, self.doublings_max)


UNROUTABLE = Backoff(5.0, 6)
"""The broker returned the messages: somebody has to create a queue first. The longest wait is 320 s. An outage counts as no refusal:
after it, all messages leave at once."""
REFUSED = Backoff(2.0, 2)
"""The broker refused the messages: a queue is full, or changes its leader. The longest wait is 8 s."""


async def insert(tx: Tx, messages: Sequence[Outgoing], *, sweep_after_s: float = SWEEP_AFTER_S) -> list[OutboxBatch]:
    """Store the messages of this transaction, and return them as an outbox batch to publish after the commit: one, or none.

    The sweeper takes the batch after `sweep_after_s` seconds. A writer that does not publish itself passes 0.
    """
    if not messages:
        return []
    outbox_batch = OutboxBatch(new_id(), messages)
    await _insert(tx, outbox_batch, sweep_after_s=sweep_after_s, created_at=None)
    return [outbox_batch]


async def insert_again(tx: Tx, messages: Sequence[Outgoing]) -> list[OutboxBatch]:
    """Store messages that were published before and may have been missed: one outbox batch a message, under the message's own id.

    A batch of that id that still waits is left as it is, so that repeats do not pile up while the broker is away.
    """
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


async def delete(connection: Connection, batch_ids: Sequence[UUID]) -> None:
    """Delete confirmed outbox batches.

    The commit does not wait for the disk: `synchronous_commit` is off for this one statement, which is a transaction of its own. If a
    crash loses it, the messages are published once more with the same ids, which is harmless.
    """
    await connection.execute(
        """WITH lazy AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS setting)
           DELETE FROM outbox USING lazy WHERE id = ANY($1::uuid[]) AND setting = 'off'""",
        list(batch_ids),
    )


async def take_overdue(tx: Tx) -> list[OutboxBatch]:
    """Reserve overdue outbox batches for `SWEEP_BACKOFF_S` seconds and return them, oldest first.

    The longest overdue are taken first: one batch in any case, then further ones until they hold `SWEEP_MESSAGES_MAX` messages.
    """
    rows = await tx.fetch(_TAKE_OVERDUE, SWEEP_BACKOFF_S, SWEEP_MESSAGES_MAX)
    return [_outbox_batch(row) for row in sorted(rows, key=lambda row: row["created_at"])]


@dataclass(frozen=True, slots=True)
class Unpublished:
    """The messages of one outbox batch that still have to be published.

    `unknown`: the broker said nothing about them. `unroutable`: no queue takes them, or AMQP cannot carry them. `refused`: a queue is full
    or without a leader.
    """

    outbox_batch: OutboxBatch
    unknown: Sequence[Outgoing] = ()
    unroutable: Sequence[Outgoing] = ()
    refused: Sequence[Outgoing] = ()

    @property
    def count(self) -> int:
        return len(self.unknown) + len(self.unroutable) + len(self.refused)

    @property
    def is_answered(self) -> bool:
        """Whether the broker answered for some of the messages but did not take all. Then the stored batch has to change."""
        return self.count > 0 and len(self.unknown) < len(self.outbox_batch.messages)


def unpublished_of(outbox_batch: OutboxBatch, published: "Published") -> Unpublished:
    """What the broker did not take of `outbox_batch`. An answer is dropped if its receiver's queue is gone, or has long been full."""
    if published.is_complete:
        return Unpublished(outbox_batch)
    confirmed, unroutable, refused = set(published.confirmed), published.undeliverable, set(published.refused)
    keeps_answers = outbox_batch.refusals < ANSWER_REFUSALS_MAX
    waiting = [message for message in outbox_batch.messages if message.id not in confirmed]
    return Unpublished(
        outbox_batch,
        [m for m in waiting if m.id not in unroutable and m.id not in refused],
        [m for m in waiting if m.id in unroutable and not m.droppable],
        [m for m in waiting if m.id in refused and m.id not in unroutable and (keeps_answers or not m.droppable)],
    )


async def postpone(tx: Connection, unpublished: Unpublished) -> None:
    """Put off the messages that the broker did not take. They are tried less and less often, so that they delay no others.

    If all messages of the batch were unroutable, or all were refused, its row stays and gets a later time. Otherwise the row is split: the
    unknown, the unroutable and the refused messages become batches of their own, each with its own time. If the row is gone, another
    process has dealt with it. The caller opens a transaction, and postpones several batches in the order of their ids.
    """
    for messages, backoff in ((unpublished.unroutable, UNROUTABLE), (unpublished.refused, REFUSED)):
        if len(messages) == len(unpublished.outbox_batch.messages):
            await tx.execute(
                _POSTPONE, unpublished.outbox_batch.id, backoff.first_s, backoff.doublings_max, REFUSALS_COUNTED_MAX
            )
            return
    await _split(tx, unpublished)


async def _split(tx: Connection, unpublished: Unpublished) -> None:
    deleted = await tx.fetch(
        "DELETE FROM outbox WHERE id = $1 RETURNING created_at, refusals", unpublished.outbox_batch.id
    )
    if not deleted:
        return
    created_at, refusals = deleted[0]
    once_more = min(refusals + 1, REFUSALS_COUNTED_MAX)
    for messages, counted, delay_s in (
        (unpublished.unknown, refusals, SWEEP_AFTER_S),
        (unpublished.unroutable, once_more, UNROUTABLE.delay_s(refusals)),
        (unpublished.refused, once_more, REFUSED.delay_s(refusals)),
    ):
        if messages:
            await _insert(tx, OutboxBatch(new_id(), messages, counted), sweep_after_s=delay_s, created_at=created_at)


def _outbox_batch(row: Record) -> OutboxBatch:
    messages = zip(*(row[column] for column in _ARRAYS), strict=True)
    return OutboxBatch(
        row["id"],
        [Outgoing(**dict(zip(_ARRAYS.values(), message, strict=True))) for message in messages],
        row["refusals"],
    )
