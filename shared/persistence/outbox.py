"""The outbox: messages that are committed and not yet confirmed by the broker.

One row is one outbox batch: all messages that one transaction publishes on one lane, in their order. The process that wrote a batch
publishes it from memory right after its commit. Once the broker has confirmed every message, it deletes the batch by its exact id.

The sweeper publishes what a crash, an outage or a refusal left behind. It reads the rows that exist. Rows become visible out of order, so
a reader that only continues behind the last position would skip some: `shared.persistence.due_rows` goes back for them. The sweeper leaves
young rows to the process that wrote them. A message that is published twice has the same id and the same bytes both times.

A row holds a transaction's messages instead of one message, because that is cheaper. With a row a message, writing and deleting outbox rows
was 8 of the 33 rows a payment costs, and 30 % of PostgreSQL's CPU in a burst (measured).

A row on the inside lane of an event with a public exchange owes the event to our own queues and to the public. On the public lane it owes
the public copy alone. So an event that our queues have taken becomes a public copy by a change of its lane, if it does not leave at once.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING
from uuid import UUID

from shared.ids import derived_id, new_id
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.reply_address import kind_of
from shared.messaging.topology import MOVED, is_public
from shared.observability import metrics
from shared.persistence.database import Connection, Record, Tx
from shared.persistence.due_rows import WHENEVER, DueRows, DueWindow
from shared.persistence.store_sampler import Gauged, Reading
from shared.records import dataclass, replace

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
_COLUMNS = ("id", "lane", "refusals", "losses", "created_at", "sweep_after", *_ARRAYS)


def _due_at(number: int) -> str:
    """The time from which on a sweeper takes a row. NULL seconds mean never: the row is quarantined."""
    return f"CASE WHEN ${number}::float8 IS NULL THEN 'infinity' ELSE now() + make_interval(secs => ${number}) END"


def _values(first: int) -> str:
    """The placeholders of one row of `_COLUMNS`."""
    values = [f"${number}" for number in range(first, first + len(_COLUMNS))]
    values[4] = f"coalesce(${first + 4}::timestamptz, now())"
    values[5] = _due_at(first + 5)
    return ", ".join(values)


_INSERT_ONE = f"INSERT INTO outbox ({', '.join(_COLUMNS)}) VALUES ({_values(1)}) ON CONFLICT DO NOTHING"  # noqa: S608 - constants
_INSERT_TWO = (
    f"INSERT INTO outbox ({', '.join(_COLUMNS)}) VALUES ({_values(1)}), ({_values(1 + len(_COLUMNS))}) "  # noqa: S608 - constants
    "ON CONFLICT DO NOTHING"
)
_TAKE_OVERDUE = f"""
    WITH due AS (
        SELECT id, cardinality(ids) AS messages, sweep_after FROM outbox
        WHERE lane = $3 AND sweep_after >= coalesce($4::timestamptz, '-infinity') AND sweep_after <= least($5::timestamptz, now())
        ORDER BY sweep_after LIMIT $2 FOR UPDATE SKIP LOCKED
    ), counted AS (
        SELECT id, sum(messages) OVER (ORDER BY sweep_after, id) - messages AS before FROM due
    )
    UPDATE outbox SET sweep_after = now() + make_interval(secs => $1)
    WHERE id = ANY(ARRAY(SELECT id FROM counted WHERE before < $2))
    RETURNING id, lane, refusals, losses, created_at, {", ".join(_ARRAYS)}"""  # noqa: S608 - constants
_FIRST_OVERDUE = """
    SELECT now() AS now, (
        SELECT sweep_after FROM outbox
        WHERE lane = $3 AND sweep_after >= coalesce($1::timestamptz, '-infinity') AND sweep_after <= least($2::timestamptz, now())
        ORDER BY sweep_after LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS first"""
_RENEW = """
    UPDATE outbox SET sweep_after = now() + make_interval(secs => $2)
    WHERE id = ANY(ARRAY(SELECT id FROM outbox WHERE id = ANY($1::uuid[]) FOR UPDATE SKIP LOCKED))
      AND sweep_after < now() + make_interval(secs => $2)"""
_POSTPONE = f"""
    UPDATE outbox SET lane = $2, refusals = $3, losses = $4, sweep_after = {_due_at(5)}
    WHERE id = $1 AND (lane = $2 OR $2 <> 'public') RETURNING id"""  # noqa: S608 - constants

RESERVED_S = 2.0
"""How long an outbox batch is left to the process that wrote it, or whose sweeper took it. A confirm takes milliseconds. Who needs longer
renews the reservation (`shared.messaging.outbox_keeper`). If the process dies, its messages are this much later."""
SWEEP_MESSAGES_MAX = 200
"""Messages of one sweep: as many as one batch of the pipeline has. So a sweep delays nobody."""
ANSWER_REFUSALS_MAX = 5
"""Tries, about half a minute, after which an answer is dropped if its receiver's queue stays full or without a leader. The stored answer
remains."""
ANSWER_LOSSES_MAX = 3
"""Connections that an answer may end before it is dropped. The stored answer remains. By direct reply-to it may end one: it has an address
that the broker did not write."""
LOSSES_MAX = 6
"""Connections that any other message may end, in about three minutes, before it is quarantined: only a person can help it then."""
REFUSALS_COUNTED_MAX = 1_000
"""The count of refusals stops here, so that it never overflows its column."""
COUNTED_MAX = 10_000
"""Outbox batches of a lane that are counted for the gauges, the longest due ones: they can be as many as others like, and counting them
must not become a load. Of a larger backlog the gauges tell the least that it can be."""
READING = Reading(
    """SELECT l.lane, coalesce(sum(cardinality(w.ids)), 0) AS messages,
           coalesce(greatest(extract(epoch FROM now() - min(w.created_at)), 0), 0) AS oldest_s,
           (SELECT count(*) FROM outbox WHERE outbox.lane = l.lane AND sweep_after = 'infinity') AS quarantined
       FROM unnest($1::text[], $3::timestamptz[]) AS l (lane, since) LEFT JOIN LATERAL (
           SELECT ids, created_at FROM outbox
           WHERE outbox.lane = l.lane AND sweep_after >= coalesce(l.since, '-infinity') AND sweep_after < 'infinity'
           ORDER BY sweep_after LIMIT $2
       ) w ON true
       GROUP BY l.lane""",
    [
        Gauged(metrics.OUTBOX_MESSAGES, "messages"),
        Gauged(metrics.OUTBOX_OLDEST, "oldest_s", max),
        Gauged(metrics.OUTBOX_QUARANTINED, "quarantined"),
    ],
    labels={"lane": [str(lane) for lane in Lane]},
    arguments=([str(lane) for lane in Lane], COUNTED_MAX, [None for _ in Lane]),
)
"""What waits in the outbox, by its lane."""


def reading(overdue: Mapping[Lane, DueRows]) -> Reading:
    """The same, read from where the sweepers of the lanes look."""
    return replace(READING, since=lambda: [overdue[lane].since for lane in Lane])


@dataclass(frozen=True, slots=True)
class OutboxBatch:
    """One row of the outbox: the messages of one transaction on one lane.

    `refusals` counts how often the broker answered and did not take them. `losses` counts how often its one message, sent alone, ended the
    connection.
    """

    id: UUID
    messages: Sequence[Outgoing]
    refusals: int = 0
    losses: int = 0
    lane: Lane = Lane.INSIDE


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
PUBLIC_REFUSED = Backoff(2.0, 7)
"""The broker refused public copies: a queue of others is full. The longest wait is 256 s, since nobody of ours waits for them."""
POISON = Backoff(5.0, 6)
"""The message ended the connection. Each further try costs another connection."""


async def insert(tx: Tx, messages: Sequence[Outgoing], *, sweep_after_s: float = RESERVED_S) -> list[OutboxBatch]:
    """Store the messages of this transaction, and return them as outbox batches to publish after the commit: at most one for each lane.

    The sweeper takes a batch after `sweep_after_s` seconds. A writer that does not publish itself passes 0.
    """
    outside = [message for message in messages if message.lane is Lane.OUTSIDE]
    inside = [message for message in messages if message.lane is Lane.INSIDE] if outside else messages
    outbox_batches = [
        OutboxBatch(new_id(), some, lane=lane)
        for lane, some in ((Lane.INSIDE, inside), (Lane.OUTSIDE, outside))
        if some
    ]
    values = [value for outbox_batch in outbox_batches for value in _row(outbox_batch, sweep_after_s)]
    if outbox_batches:
        await tx.execute(_INSERT_TWO if len(outbox_batches) > 1 else _INSERT_ONE, *values)
    return outbox_batches


async def insert_again(tx: Tx, messages: Sequence[Outgoing]) -> list[OutboxBatch]:
    """Store messages that were published before and may have been missed: one outbox batch a message, under the message's own id.

    Returns the outbox batches to publish after the commit. A batch of that id that still waits is left as it is, and not returned: repeats
    must not pile up while the broker is away, and what waits because it was refused must not be tried more often because of them.
    """
    outbox_batches = [OutboxBatch(message.id, [message], lane=message.lane) for message in messages]
    return [
        outbox_batch
        for outbox_batch in outbox_batches
        if await tx.fetch(f"{_INSERT_ONE} RETURNING id", *_row(outbox_batch, RESERVED_S))
    ]


async def insert_revocable(tx: Tx, messages: Sequence[Outgoing], *, sweep_after_s: float) -> None:
    """Store messages that can be called back until they are sent: one outbox batch a message, under the message's own id.

    Nobody publishes them from memory. The sweeper takes them after `sweep_after_s` seconds.
    """
    for message in messages:
        outbox_batch = OutboxBatch(message.id, [message], lane=message.lane)
        await tx.execute(_INSERT_ONE, *_row(outbox_batch, sweep_after_s))


async def revoke(tx: Tx, message_ids: Sequence[UUID], *, sweep_after_s: float) -> bool:
    """Delete messages that `insert_revocable` has stored, if no sweeper has taken any of them. False: at least one may be sent.

    A sweeper sets another `sweep_after` before it sends. So a row that still has its first one was never sent. The caller has to give up
    its transaction if this is False.
    """
    gone = await tx.fetch(
        """DELETE FROM outbox WHERE id = ANY($1::uuid[]) AND sweep_after <= created_at + make_interval(secs => $2)
               AND refusals = 0 AND losses = 0 RETURNING id""",
        list(message_ids),
        sweep_after_s,
    )
    return len(gone) == len(message_ids)


async def others_are_behind(tx: Connection) -> bool:
    """Whether anything of the lanes that depend on others waits longer than a publish takes. Nearly always nothing does."""
    return bool(
        await tx.fetchval(
            """SELECT EXISTS (SELECT FROM outbox WHERE lane = ANY($1::text[])
                   AND (refusals + losses > 0 OR created_at < now() - interval '1 second'))""",
            _OF_OTHERS,
        )
    )


async def still_here(tx: Connection, message_ids: Collection[UUID]) -> list[UUID]:
    """Those of these messages that wait to be published, of lanes that depend on others."""
    rows = await tx.fetch(
        "SELECT unnest(ids) AS id FROM outbox WHERE lane = ANY($1::text[]) AND ids && $2::uuid[]",
        _OF_OTHERS,
        list(message_ids),
    )
    return [row["id"] for row in rows if row["id"] in message_ids]


async def take_back_refused(tx: Connection, message_ids: Collection[UUID]) -> list[UUID]:
    """Delete outbox batches of these messages alone that the broker refused, or did not confirm for seconds. Returns their messages.

    One that was not confirmed may still be delivered, once its queue has a leader again. Whoever publishes a batch reserves it for
    `RESERVED_S` seconds at most. One that is due later, by the time at which its row is looked at, is in nobody's hands.
    """
    rows = await tx.fetch(
        """DELETE FROM outbox WHERE id = ANY(ARRAY(
               SELECT id FROM outbox WHERE lane = ANY($1::text[]) AND sweep_after > clock_timestamp() + make_interval(secs => $3)
                   AND refusals > 0 AND losses = 0 AND ids <@ $2::uuid[] FOR UPDATE SKIP LOCKED))
           RETURNING ids""",
        _OF_OTHERS,
        list(message_ids),
        RESERVED_S,
    )
    return [id_ for row in rows for id_ in row["ids"]]


_OF_OTHERS = [Lane.OUTSIDE.value, Lane.RETRY.value]


def _row(
    outbox_batch: OutboxBatch, sweep_after_s: float | None, created_at: datetime | None = None
) -> tuple[object, ...]:
    """The values of `_COLUMNS`. Without `created_at`, the batch was made now."""
    return (
        outbox_batch.id,
        outbox_batch.lane,
        outbox_batch.refusals,
        outbox_batch.losses,
        created_at,
        sweep_after_s,
        *(list(map(attrgetter(field_), outbox_batch.messages)) for field_ in _ARRAYS.values()),
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


async def renew(connection: Connection, batch_ids: Sequence[UUID]) -> None:
    """Reserve outbox batches for `RESERVED_S` seconds from now. One that waits longer than that anyway stays as it is.

    A row that somebody else has locked is left out: whoever changes it now has it in hand.
    """
    await connection.execute(_RENEW, list(batch_ids), RESERVED_S)


def overdue_rows(lane: Lane) -> DueRows:
    """Finds what a sweeper of this lane has to take."""
    return DueRows(_FIRST_OVERDUE, lane)


async def take_overdue(tx: Tx, lane: Lane = Lane.INSIDE, window: DueWindow = WHENEVER) -> list[OutboxBatch]:
    """Reserve overdue outbox batches of a lane for `RESERVED_S` seconds and return them, oldest first.

    The longest overdue of `window` are taken first: one batch in any case, then further ones until they hold `SWEEP_MESSAGES_MAX` messages.
    """
    rows = await tx.fetch(_TAKE_OVERDUE, RESERVED_S, SWEEP_MESSAGES_MAX, lane, window.since, window.until)
    return [_outbox_batch(row) for row in sorted(rows, key=lambda row: row["created_at"])]


@dataclass(frozen=True, slots=True)
class Unpublished:
    """The messages of one outbox batch that still have to be published, by the reason.

    `unknown`: nobody knows about them. `unroutable`: no queue takes them, or AMQP cannot carry them. `refused`: a queue is full or without
    a leader. `poison`: sent alone, each ended the connection. `public`: our own queues have them, and the public copy waits.
    `unsent`: their route refused others lately, so the retry lane tries them. `dropped` are answers that need no further publishing,
    because they were refused, or ended a connection, too often.
    """

    outbox_batch: OutboxBatch
    unknown: Sequence[Outgoing] = ()
    unroutable: Sequence[Outgoing] = ()
    refused: Sequence[Outgoing] = ()
    poison: Sequence[Outgoing] = ()
    public: Sequence[Outgoing] = ()
    unsent: Sequence[Outgoing] = ()
    dropped: Sequence[Outgoing] = ()

    @property
    def stuck(self) -> int:
        """How many messages did not get away from this lane."""
        return len(self.unknown) + len(self.unroutable) + len(self.refused) + len(self.poison)

    @property
    def count(self) -> int:
        return self.stuck + len(self.public) + len(self.unsent)

    @property
    def is_answered(self) -> bool:
        """Whether the broker answered for some of the messages but did not take all. Then the stored batch has to change."""
        return self.count > 0 and len(self.unknown) < len(self.outbox_batch.messages)

    @property
    def quarantined(self) -> Sequence[Outgoing]:
        """Messages that are not tried any more until a person releases them."""
        return self.poison if self.outbox_batch.losses + 1 >= LOSSES_MAX else ()


def unpublished_of(
    outbox_batch: OutboxBatch, published: "Published", for_another_lane: Collection[UUID] = ()
) -> Unpublished:
    """What the broker did not take of `outbox_batch`.

    An answer is dropped if its receiver's queue is gone, or has long been full, or if it ended several connections.
    `for_another_lane` are messages that have to leave otherwise: on the inside lane those that our own queues alone have taken, on the
    others those that were not sent.
    """
    is_owed = outbox_batch.lane is Lane.INSIDE
    if published.is_complete:
        elsewhere_ = [message for message in outbox_batch.messages if message.id in for_another_lane]
        return Unpublished(outbox_batch, public=elsewhere_) if is_owed else Unpublished(outbox_batch, unsent=elsewhere_)
    reasons: dict[UUID, str | None] = {
        **dict.fromkeys(published.undeliverable, "unroutable"),
        **dict.fromkeys({*published.not_taken, *published.unclear}, "refused"),
        **dict.fromkeys(published.poison, "poison"),
        **dict.fromkeys(published.failed, "unknown"),
    }
    confirmed = dict.fromkeys(published.confirmed)
    elsewhere = dict.fromkeys(for_another_lane, "public" if is_owed else "unsent")
    # If a message was sent twice at once, one copy is enough. But the answers to a command that came twice have one id and perhaps two
    # addresses: of two reasons that one counts which loses none of them.
    of_answers, of_others = confirmed | reasons | elsewhere, reasons | confirmed | elsewhere
    left: dict[str, list[Outgoing]] = {}
    for message in outbox_batch.messages:
        reason = (of_answers if message.droppable else of_others).get(message.id, "unknown")
        if message.droppable:
            reason = _reason_of_answer(message, reason, outbox_batch)
        if reason is not None:
            left.setdefault(reason, []).append(message)
    return Unpublished(outbox_batch, **left)


def _reason_of_answer(answer: Outgoing, reason: str | None, outbox_batch: OutboxBatch) -> str | None:
    """Why an answer is still there. It is dropped after a few tries, and at once if its queue does not exist, or its address is crafted."""
    match reason:
        case "unroutable":
            return None
        case "refused" if outbox_batch.refusals >= ANSWER_REFUSALS_MAX:
            return "dropped"
        case "poison" if outbox_batch.losses + 1 >= ANSWER_LOSSES_MAX or kind_of(answer.routing_key) is not None:
            return "dropped"
        case _:
            return reason


@dataclass(frozen=True, slots=True)
class WaitingPart:
    """Messages of an outbox batch that wait together from now on. They are due in `delay_s` seconds; None means never."""

    messages: Sequence[Outgoing]
    lane: Lane
    refusals: int
    losses: int
    delay_s: float | None


def parts_of(unpublished: Unpublished) -> list[WaitingPart]:
    """How what is left of an outbox batch waits: by its reason, and each poison message by itself. Pure."""
    batch = unpublished.outbox_batch
    once_more = min(batch.refusals + 1, REFUSALS_COUNTED_MAX)
    losses = batch.losses + 1
    lane = Lane.RETRY if batch.lane is Lane.OUTSIDE else batch.lane
    refused = PUBLIC_REFUSED if batch.lane is Lane.PUBLIC else REFUSED
    poison_s = None if unpublished.quarantined else POISON.delay_s(batch.losses)
    parts = [
        WaitingPart(unpublished.unknown, batch.lane, batch.refusals, batch.losses, RESERVED_S),
        WaitingPart(unpublished.unroutable, lane, once_more, 0, UNROUTABLE.delay_s(batch.refusals)),
        WaitingPart(unpublished.refused, lane, once_more, 0, refused.delay_s(batch.refusals)),
        WaitingPart(unpublished.public, Lane.PUBLIC, 0, 0, 0.0),
        WaitingPart(unpublished.unsent, lane, batch.refusals, batch.losses, 0.0),
        *(WaitingPart([message], lane, batch.refusals, losses, poison_s) for message in unpublished.poison),
    ]
    return [part for part in parts if part.messages]


async def postpone(tx: Connection, unpublished: Unpublished) -> None:
    """Put off the messages that the broker did not take. They are tried less and less often, so that they delay no others.

    If all messages of the batch wait for one reason, its row stays and gets a later time. Otherwise the row is split into batches, each
    with its own time. Public copies of an event are a new batch, whose id is derived: the event can be published again to our own queues
    while its copies wait for others (`insert_again`), and the copies do not pile up. If the row is gone, another process has dealt with it.
    The caller opens a transaction, and postpones several batches in the order of their ids.
    """
    batch = unpublished.outbox_batch
    parts = parts_of(unpublished)
    if len(parts) == 1 and len(parts[0].messages) == len(batch.messages):
        (part,) = parts
        if await tx.fetch(_POSTPONE, batch.id, part.lane, part.refusals, part.losses, part.delay_s):
            return
    deleted = await tx.fetch("DELETE FROM outbox WHERE id = $1 RETURNING created_at, lane", batch.id)
    for number, part in enumerate(parts if deleted else ()):
        becomes_public = part.lane is Lane.PUBLIC and deleted[0]["lane"] == Lane.INSIDE
        id_ = derived_id(batch.id, f"public {number}") if becomes_public else new_id()
        remaining = OutboxBatch(id_, part.messages, part.refusals, part.losses, part.lane)
        await tx.execute(_INSERT_ONE, *_row(remaining, part.delay_s, deleted[0]["created_at"]))


@dataclass(frozen=True, slots=True)
class QuarantinedMessage:
    """A message in the outbox that is not tried any more, because it ended the connection at each try."""

    id: UUID
    type: str
    exchange: str
    routing_key: str
    lane: Lane
    losses: int
    created_at: datetime


async def quarantined(connection: Connection, *, at_most: int) -> list[QuarantinedMessage]:
    """The quarantined messages, oldest first, at most `at_most`."""
    rows = await connection.fetch(
        """SELECT id, type, exchange, routing_key, lane, losses, created_at FROM outbox_messages
           WHERE lane = ANY($2) AND sweep_after = 'infinity' ORDER BY created_at, id LIMIT $1""",
        at_most,
        list(Lane),
    )
    return [QuarantinedMessage(**{**row, "lane": Lane(row["lane"])}) for row in rows]


async def release(connection: Connection, message_ids: Sequence[UUID]) -> list[UUID]:
    """Have quarantined messages published again, as if they had never been tried. Returns the ids of those that were quarantined."""
    released = await connection.fetch(
        """UPDATE outbox SET sweep_after = now(), losses = 0, refusals = 0
           WHERE lane = ANY($2) AND sweep_after = 'infinity' AND ids && $1::uuid[] RETURNING ids[1] AS id""",
        list(message_ids),
        list(Lane),
    )
    return [row["id"] for row in released]


async def drop(connection: Connection, message_ids: Sequence[UUID]) -> list[UUID]:
    """Delete quarantined messages for good. Returns the ids of those that were quarantined."""
    dropped = await connection.fetch(
        """DELETE FROM outbox
           WHERE lane = ANY($2) AND sweep_after = 'infinity' AND ids && $1::uuid[] RETURNING ids[1] AS id""",
        list(message_ids),
        list(Lane),
    )
    return [row["id"] for row in dropped]


def _outbox_batch(row: Record) -> OutboxBatch:
    messages = zip(*(row[column] for column in _ARRAYS), strict=True)
    return OutboxBatch(
        row["id"],
        [_where_it_goes_now(Outgoing(**dict(zip(_ARRAYS.values(), message, strict=True)))) for message in messages],
        row["refusals"],
        row["losses"],
        _lane_now(row),
    )


def _lane_now(row: Record) -> Lane:
    """The lane of the row in this build. The build before kept public copies on the outside lane; from there they leave, or change over."""
    lane = Lane(row["lane"])
    return Lane.PUBLIC if lane is Lane.OUTSIDE and is_public(row["exchanges"][0]) else lane


def _where_it_goes_now(message: Outgoing) -> Outgoing:
    """The message with the exchange by which this build sends its type: the build before may have stored another."""
    exchange = MOVED.get((message.exchange, message.type))
    return message if exchange is None else replace(message, exchange=exchange, routing_key=message.type)
