"""This service's SQL, set-based: the states of invoices, payment ids, and requests that have been pending for too long."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

import structlog

from services.invoice import refund_store, stored_events
from services.invoice.domain import Event, Invoice, InvoiceStatus, Issued, PaymentRequested, ended_payment
from services.invoice.refunds import RefundRequested
from shared.contracts.base import Contract
from shared.contracts.invoice import EncryptedCardMethod, InvoicePaymentOverdue, PaymentMethod, TokenMethod
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Draft, Outgoing
from shared.persistence import event_store
from shared.persistence.database import Connection, Record, Tx
from shared.persistence.due_rows import WALK_INTERVAL_S, DueRows, DueWindow
from shared.persistence.event_store import StoredEvent
from shared.persistence.unreadable import UnreadableRowsError, read_rows
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, replace

log = structlog.get_logger(__name__)

_COLUMNS = (
    "invoice_id, status, version, customer_id, amount_minor, currency, payment_id, receipt_number, refunds, owner"
)
_PLAIN = attrgetter(*(name for name in _COLUMNS.split(", ") if name not in {"refunds", "owner"}))
_SELECT = f"SELECT {_COLUMNS} FROM invoices WHERE invoice_id = ANY($1::text[]) ORDER BY invoice_id"  # noqa: S608 - our names
_SELECT_AND_LOCK = f"{_SELECT} FOR UPDATE"
_INSERT = f"INSERT INTO invoices ({_COLUMNS}, updated_at) SELECT u.*, $2 FROM unnest($1::invoice_row_3[]) u"  # noqa: S608 - our names
_CHANGED = _COLUMNS.split(", ")[1:]
"""An invoice gets its owner when it is issued, which is not its first event if somebody asked about it before."""
_UPDATE = f"""UPDATE invoices i SET {", ".join(f"{name} = u.{name}" for name in _CHANGED)}, updated_at = $2
    FROM unnest($1::invoice_row_3[]) u WHERE i.invoice_id = u.invoice_id AND i.invoice_id = ANY($3::text[])
    RETURNING i.invoice_id"""  # noqa: S608 - our names
"""The keys are given beside the rows, so that a database of several shards knows where these are (deploy/OUTGROWING.md)."""
_UPSERT = f"""{_INSERT} ON CONFLICT (invoice_id) DO UPDATE
    SET {", ".join(f"{name} = excluded.{name}" for name in (*_CHANGED, "updated_at"))}"""  # noqa: S608 - our names

ANNOUNCE_AGAIN_ROWS_MAX = 100
ANNOUNCE_DOUBLINGS_MAX = 8
"""The wait doubles with every announcement, up to 2^8 times the first wait. With 30 s at first, the longest wait is two hours. So a payment
that waits for a person for days costs a message every two hours."""

Announce = Callable[[Event, str, PaymentMethod | None], Contract]


@dataclass(frozen=True, slots=True)
class Loaded:
    """An invoice, and the payment ids of this batch that are used already, by any invoice.

    All states of a batch share one set `used_payment_ids`. So a later command sees the payment id that an earlier one used.
    """

    invoice: Invoice
    used_payment_ids: set[UUID]

    def with_payment_ids_of(self, events: Iterable[Event]) -> "Loaded":
        """Note the payment ids that these events use."""
        taken = {event.payment_id for event in events if isinstance(event, PaymentRequested)}
        self.used_payment_ids.update(taken)
        return self


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to store. `version` is its version in the stream, `position` its place among the events of its cause."""

    event: Event
    version: int
    position: int
    method: PaymentMethod | None


async def load(
    tx: Tx,
    invoice_ids: Collection[str],
    payment_ids: Collection[UUID],
    *,
    lock: bool = True,
    absent: Collection[str] = (),
) -> dict[str, Loaded]:
    """The states of these invoices. One that does not exist has status absent and version 0. With `lock`, rows are locked in order of ids.

    `payment_ids` are looked up in all payments. The invoices in `absent` are not looked for, and count as not existing. Raises
    UnreadableRowsError.
    """
    rows = await tx.fetch(_SELECT_AND_LOCK if lock else _SELECT, list(invoice_ids)) if invoice_ids else []
    used: set[UUID] = set()
    if payment_ids:
        taken = await tx.fetch("SELECT payment_id FROM payments WHERE payment_id = ANY($1::uuid[])", list(payment_ids))
        used = {row["payment_id"] for row in taken}
    found = read_rows(rows, "invoice_id", read_invoice)
    return {id_: Loaded(found.get(id_) or Invoice(id_), used) for id_ in (*invoice_ids, *absent)}


async def save(
    writes: WriteBatch, *, new_events: Sequence[tuple[str, Cause, NewEvent]], invoices: Mapping[str, Invoice]
) -> None:
    """Collect the writes of new events: events, states of their invoices, and payment ids. Conflicts are unique violations."""
    if not new_events:
        return
    await event_store.append(writes, [_stored(key, cause, new) for key, cause, new in new_events])
    await _write_invoices(writes, new_events, invoices)
    requested = [
        _payment_row(key, event, new) for key, _, new in new_events if isinstance(event := new.event, PaymentRequested)
    ]
    if requested:
        await writes.execute(
            """INSERT INTO payments (payment_id, invoice_id, version, method, pending, announced_at)
               SELECT u.*, true, now() FROM unnest($1::payment_row[]) u""",
            requested,
        )
    await refund_store.save(writes, [(key, new.version, new.event) for key, _, new in new_events])
    ended = [payment_id for _, _, new in new_events if (payment_id := ended_payment(new.event)) is not None]
    if ended:
        await writes.execute(
            "UPDATE payments SET pending = false, method = NULL WHERE payment_id = ANY($1::uuid[])", sorted(ended)
        )


async def _write_invoices(
    writes: WriteBatch, new_events: Sequence[tuple[str, Cause, NewEvent]], invoices: Mapping[str, Invoice]
) -> None:
    """Insert invoices whose first event is among these, and update the others.

    There is no upsert, because it would lock each row first and then confirm or undo its insert, which costs PostgreSQL more.
    """
    issued = {key for key, _, new in new_events if new.version == 1}
    new = [_row(invoice) for key, invoice in invoices.items() if key in issued]
    changed = [key for key in invoices if key not in issued]
    time = new_events[0][1].time
    if new:
        await writes.execute(_INSERT, new, time)
    if changed:
        rows = [_row(invoices[key]) for key in changed]
        await writes.execute(_UPDATE, rows, time, changed, rows=len(changed), apart=True)


def _payment_row(invoice_id: str, requested: PaymentRequested, new: NewEvent) -> tuple[Any, ...]:
    method = new.method.model_dump(mode="json") if new.method else None
    return requested.payment_id, invoice_id, new.version, method


async def outcomes_of(tx: Tx, payments: Sequence[tuple[str, UUID, UUID | None]], announce: Announce) -> list[Outgoing]:
    """The messages that announced the outcomes of these payments and refunds, with the same ids and bytes as then.

    Each is (invoice id, payment id, refund id). The refund id is None for the outcome of the payment itself. Raises UnreadableRowsError if
    a stream has an event that this build cannot read.
    """
    streams = await event_store.load(tx, {invoice_id for invoice_id, *_ in payments})
    wanted = {(payment_id, refund_id) for _, payment_id, refund_id in payments}
    published: list[Outgoing] = []
    for stream in streams.values():
        for stored in stream:
            event = read_event(stored)
            about = (getattr(event, "payment_id", None), getattr(event, "refund_id", None))
            if about in wanted and not isinstance(event, PaymentRequested | RefundRequested):
                published.append(announcement(stored, event, None, announce))
    return published


_FIRST_OVERDUE = """
    SELECT now() - make_interval(secs => $3) AS now, (
        SELECT announced_at FROM payments
        WHERE pending AND announced_at >= coalesce($1::timestamptz, '-infinity')
          AND announced_at <= least($2::timestamptz, now() - make_interval(secs => $3))
          AND announced_at < now() - make_interval(secs => $3 * power(2, least(announced - 1, $4)))
        ORDER BY announced_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS first"""


def overdue_rows(older_than_s: float) -> tuple[DueRows, DueRows]:
    """Find payments and refunds that have been pending for too long, by the time when they were announced last.

    What was announced once is overdue `older_than_s` seconds later, in this order. What waits longer is found by the walks back.
    """
    return (
        DueRows(
            _FIRST_OVERDUE, older_than_s, ANNOUNCE_DOUBLINGS_MAX, walk_interval_s=min(older_than_s, WALK_INTERVAL_S)
        ),
        refund_store.overdue_rows(older_than_s, doublings_max=ANNOUNCE_DOUBLINGS_MAX),
    )


async def overdue_refunds(
    tx: Tx, *, older_than_s: float, window: DueWindow, announce: Announce
) -> tuple[int, list[Outgoing]]:
    """The number of refunds that have been pending for too long, and their requests, with the same ids and bytes as the first time.

    Each request also goes out with another id each time, so that a saga that has handled the first one hears that this invoice still waits.
    """
    rows = await refund_store.overdue(
        tx,
        older_than_s=older_than_s,
        window=window,
        at_most=ANNOUNCE_AGAIN_ROWS_MAX,
        doublings_max=ANNOUNCE_DOUBLINGS_MAX,
    )

    def again(row: Record, stored: StoredEvent, event: Event) -> list[Outgoing]:
        draft = Draft(announce(event, stored.stream_id, None))
        position = _overdue_position(stored, row["announced"])
        anew = replace(encode(draft, _cause_of(stored), position, source="invoice"), data=None)
        return [announcement(stored, event, None, announce), anew]

    return len(rows), await _again(tx, rows, again, unreadable="refund_unreadable", key="refund_id")


async def overdue_requests(
    tx: Tx, *, older_than_s: float, window: DueWindow, announce: Announce
) -> tuple[int, list[Outgoing]]:
    """The number of payments that have been pending for too long, at most `ANNOUNCE_AGAIN_ROWS_MAX`, and what is announced about them.

    It notes that they are announced. The request goes out again with the same id and bytes as the first time. Beside it everybody hears
    that the payment is overdue, the saga too: that event holds nothing that pays. It has another id each time, so that a saga that has
    ended hears that this invoice still waits.
    """
    rows = await tx.fetch(
        """UPDATE payments SET announced_at = now(), announced = announced + 1 WHERE payment_id IN (
               SELECT payment_id FROM payments
               WHERE pending AND announced_at >= coalesce($4::timestamptz, '-infinity')
                 AND announced_at <= least($5::timestamptz, now() - make_interval(secs => $1))
                 AND announced_at < now() - make_interval(secs => $1 * power(2, least(announced - 1, $3)))
               ORDER BY announced_at LIMIT $2 FOR UPDATE SKIP LOCKED)
           RETURNING payment_id, invoice_id, version, method, announced""",
        older_than_s,
        ANNOUNCE_AGAIN_ROWS_MAX,
        ANNOUNCE_DOUBLINGS_MAX,
        window.since,
        window.until,
    )

    def again(row: Record, stored: StoredEvent, event: Event) -> list[Outgoing]:
        return [
            announcement(stored, event, _method(row["method"]), announce),
            _overdue(stored, row["payment_id"], row["announced"]),
        ]

    return len(rows), await _again(tx, rows, again, unreadable="request_unreadable", key="payment_id")


async def _again(
    tx: Tx,
    rows: Sequence[Record],
    again: Callable[[Record, StoredEvent, Event], list[Outgoing]],
    *,
    unreadable: str,
    key: str,
) -> list[Outgoing]:
    """What is said `again` of these rows, each with the invoice id and the version of its event."""
    if not rows:
        return []
    streams = await event_store.load(tx, {row["invoice_id"] for row in rows})
    announced: list[Outgoing] = []
    for row in rows:
        try:
            stored = streams[row["invoice_id"]][row["version"] - 1]
            announced += again(row, stored, stored_events.load(stored.type, stored.data))
        except Exception:  # a newer build may have written an event that this build cannot read; the others go on
            log.exception(unreadable, **{key: str(row[key])})
    return announced


async def differing(connection: Connection, invoices: Sequence[Invoice]) -> list[str]:
    """The ids of those invoices whose stored state differs from the given one."""
    rows = await connection.fetch(_SELECT, [invoice.invoice_id for invoice in invoices])
    found = {row["invoice_id"]: read_invoice(row) for row in rows}
    return [invoice.invoice_id for invoice in invoices if found.get(invoice.invoice_id) != invoice]


async def overwrite(tx: Tx, invoices: Sequence[Invoice], cause: Cause) -> None:
    """Replace stored states with rebuilt ones."""
    await tx.execute(_UPSERT, list(map(_row, invoices)), cause.time)


def read_event(stored: StoredEvent) -> Event:
    """The event. Raises UnreadableRowsError for one that this build cannot read."""
    try:
        return stored_events.load(stored.type, stored.data)
    except Exception as error:
        raise UnreadableRowsError([stored.stream_id]) from error


def announcement(stored: StoredEvent, event: Event, method: PaymentMethod | None, announce: Announce) -> Outgoing:
    """What told of the event, to be said again: its data were told then."""
    draft = Draft(announce(event, stored.stream_id, method))
    return replace(encode(draft, _cause_of(stored), stored.cause_position, source="invoice"), data=None)


def _overdue(requested: StoredEvent, payment_id: UUID, announced: int) -> Outgoing:
    draft = Draft(InvoicePaymentOverdue(invoice_id=requested.stream_id, payment_id=payment_id))
    return encode(draft, _cause_of(requested), _overdue_position(requested, announced), source="invoice")


def _overdue_position(requested: StoredEvent, announced: int) -> str:
    """From which a reminder has its id: another one each time."""
    return f"overdue:{requested.cause_position}:{announced}"


def _cause_of(stored: StoredEvent) -> Cause:
    return Cause(stored.cause_id, stored.correlation_id, stored.recorded_at, stored.traceparent)


def _stored(invoice_id: str, cause: Cause, new: NewEvent) -> StoredEvent:
    name, data = stored_events.dump(new.event)
    return StoredEvent(
        stream_id=invoice_id,
        version=new.version,
        type=name,
        data=data,
        cause_id=cause.id,
        cause_position=new.position,
        correlation_id=cause.correlation_id,
        traceparent=cause.traceparent,
        recorded_at=cause.time,
        owner=new.event.owner if isinstance(new.event, Issued) else None,
    )


def _row(invoice: Invoice) -> tuple[object, ...]:
    return (*_PLAIN(invoice), refund_store.dump(invoice.refunds), invoice.owner)


def read_invoice(row: Record) -> Invoice:
    """The invoice of a row with all its columns. Raises whatever a row raises that this build cannot read."""
    return replace(Invoice(**row), status=InvoiceStatus(row["status"]), refunds=refund_store.load(row["refunds"]))


def _method(data: dict[str, Any] | None) -> PaymentMethod | None:
    if data is None:
        return None
    return (TokenMethod if data["kind"] == "token" else EncryptedCardMethod).model_validate(data)
