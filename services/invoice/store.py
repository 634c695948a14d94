"""This service's own SQL, set-based: current state, payment ids, and what is pending longer than it should be."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

import structlog

from services.invoice import stored_events
from services.invoice.domain import Event, Invoice, InvoiceStatus, PaymentRequested, ended_payment
from shared.contracts.base import Contract
from shared.contracts.invoice import EncryptedCardMethod, PaymentMethod, TokenMethod
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Draft, Outgoing
from shared.messaging.topology import OVERDUE, RoutingSuffix
from shared.persistence import event_store
from shared.persistence.database import Connection, Record, Tx
from shared.persistence.event_store import StoredEvent
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, replace

log = structlog.get_logger(__name__)

_COLUMNS = "invoice_id, status, version, customer_id, amount_minor, currency, payment_id, receipt_number"
_ROW = attrgetter(*_COLUMNS.split(", "))
_SELECT = f"SELECT {_COLUMNS} FROM invoices WHERE invoice_id = ANY($1::text[]) ORDER BY invoice_id"  # noqa: S608 - our names
_SELECT_AND_LOCK = f"{_SELECT} FOR UPDATE"
_INSERT = f"INSERT INTO invoices ({_COLUMNS}, updated_at) SELECT u.*, $2 FROM unnest($1::invoice_row[]) u"  # noqa: S608 - our names
_CHANGED = _COLUMNS.split(", ")[1:]
_UPDATE = f"""UPDATE invoices i SET {", ".join(f"{name} = u.{name}" for name in _CHANGED)}, updated_at = $2
    FROM unnest($1::invoice_row[]) u WHERE i.invoice_id = u.invoice_id RETURNING i.invoice_id"""  # noqa: S608 - our names
_UPSERT = f"""{_INSERT} ON CONFLICT (invoice_id) DO UPDATE
    SET {", ".join(f"{name} = excluded.{name}" for name in (*_CHANGED, "updated_at"))}"""  # noqa: S608 - our names

ANNOUNCE_AGAIN_ROWS_MAX = 100
ANNOUNCE_DOUBLINGS_MAX = 8
"""The wait doubles with every announcement, up to 2^8 times the first: two hours where the first is 30 s. A payment that waits for a
person for days costs a message every two hours."""

Announce = Callable[[Event, str, PaymentMethod | None], Contract]


@dataclass(frozen=True, slots=True)
class Loaded:
    """An invoice, and which payment ids that this batch wants to use are used already, by whatever invoice.

    `used_payment_ids` is one set shared by the states of a batch, so that a later command sees the id an earlier one took.
    """

    invoice: Invoice
    used_payment_ids: set[UUID]

    def with_payment_ids_of(self, events: Iterable[Event]) -> "Loaded":
        taken = {event.payment_id for event in events if isinstance(event, PaymentRequested)}
        self.used_payment_ids.update(taken)
        return self


@dataclass(frozen=True, slots=True)
class NewEvent:
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
    """Current states, rows locked in the order of their ids; an invoice that does not exist is absent, version 0. Those of `absent` are not
    looked for."""
    rows = await tx.fetch(_SELECT_AND_LOCK if lock else _SELECT, list(invoice_ids)) if invoice_ids else []
    used: set[UUID] = set()
    if payment_ids:
        taken = await tx.fetch("SELECT payment_id FROM payments WHERE payment_id = ANY($1::uuid[])", list(payment_ids))
        used = {row["payment_id"] for row in taken}
    found = {row["invoice_id"]: _invoice(row) for row in rows}
    return {id_: Loaded(found.get(id_) or Invoice(id_), used) for id_ in (*invoice_ids, *absent)}


async def save(
    writes: WriteBatch, *, new_events: Sequence[tuple[str, Cause, NewEvent]], invoices: Mapping[str, Invoice]
) -> None:
    """Events, current states and payment ids."""
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
    over = [payment_id for _, _, new in new_events if (payment_id := ended_payment(new.event)) is not None]
    if over:
        await writes.execute(
            "UPDATE payments SET pending = false, method = NULL WHERE payment_id = ANY($1::uuid[])", sorted(over)
        )


async def _write_invoices(
    writes: WriteBatch, new_events: Sequence[tuple[str, Cause, NewEvent]], invoices: Mapping[str, Invoice]
) -> None:
    """An invoice whose first event is among these is new. (Nothing is upserted, for what that costs: see the saga's store.)"""
    issued = {key for key, _, new in new_events if new.version == 1}
    new = [_ROW(invoice) for key, invoice in invoices.items() if key in issued]
    others = [_ROW(invoice) for key, invoice in invoices.items() if key not in issued]
    time = new_events[0][1].time
    if new:
        await writes.execute(_INSERT, new, time)
    if others:
        await writes.execute(_UPDATE, others, time, rows=len(others), apart=True)


def _payment_row(invoice_id: str, requested: PaymentRequested, new: NewEvent) -> tuple[Any, ...]:
    method = new.method.model_dump(mode="json") if new.method else None
    return requested.payment_id, invoice_id, new.version, method


async def outcomes_of(tx: Tx, payments: Sequence[tuple[str, UUID]], announce: Announce) -> list[Outgoing]:
    """What was published of these payments (invoice id, payment id) when they ended: the same ids, the same bytes."""
    streams = await event_store.load(tx, {invoice_id for invoice_id, _ in payments})
    wanted = {payment_id for _, payment_id in payments}
    published: list[Outgoing] = []
    for stream in streams.values():
        for stored in stream:
            event = stored_events.load(stored.type, stored.data)
            if getattr(event, "payment_id", None) in wanted and not isinstance(event, PaymentRequested):
                published.append(_announcement(stored, event, None, announce))
    return published


async def overdue_requests(tx: Tx, *, older_than_s: float, announce: Announce) -> list[Outgoing]:
    """Requests of payments that are pending for longer than they should be, as they were published the first time, but routed to the saga
    as well. They are not given again before the next round."""
    rows = await tx.fetch(
        """UPDATE payments SET announced_at = now(), announced = announced + 1 WHERE payment_id IN (
               SELECT payment_id FROM payments
               WHERE pending AND announced_at < now() - make_interval(secs => $1)
                 AND announced_at < now() - make_interval(secs => $1 * power(2, least(announced - 1, $3)))
               ORDER BY announced_at LIMIT $2 FOR UPDATE SKIP LOCKED)
           RETURNING payment_id, invoice_id, version, method""",
        older_than_s,
        ANNOUNCE_AGAIN_ROWS_MAX,
        ANNOUNCE_DOUBLINGS_MAX,
    )
    streams = await event_store.load(tx, {row["invoice_id"] for row in rows})
    requests = []
    for row in rows:
        try:
            stored = streams[row["invoice_id"]][row["version"] - 1]
            event = stored_events.load(stored.type, stored.data)
            requests.append(_announcement(stored, event, _method(row["method"]), announce, routing_suffix=OVERDUE))
        except Exception:  # one that this build cannot read (a newer one may have written it) holds up no other
            log.exception("request_unreadable", payment_id=str(row["payment_id"]))
    return requests


async def differing(connection: Connection, invoices: Sequence[Invoice]) -> list[str]:
    """Ids of those whose stored current state is not this one."""
    rows = await connection.fetch(_SELECT, [invoice.invoice_id for invoice in invoices])
    found = {row["invoice_id"]: _invoice(row) for row in rows}
    return [invoice.invoice_id for invoice in invoices if found.get(invoice.invoice_id) != invoice]


async def overwrite(tx: Tx, invoices: Sequence[Invoice], cause: Cause) -> None:
    """Put rebuilt states in place of the stored ones."""
    await tx.execute(_UPSERT, list(map(_ROW, invoices)), cause.time)


def _announcement(
    stored: StoredEvent,
    event: Event,
    method: PaymentMethod | None,
    announce: Announce,
    *,
    routing_suffix: RoutingSuffix = "",
) -> Outgoing:
    cause = Cause(stored.cause_id, stored.correlation_id, stored.recorded_at, stored.traceparent)
    draft = Draft(announce(event, stored.stream_id, method), routing_suffix=routing_suffix)
    return encode(draft, cause, stored.cause_position, source="invoice")


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
    )


def _invoice(row: Record) -> Invoice:
    return replace(Invoice(**row), status=InvoiceStatus(row["status"]))


def _method(data: dict[str, Any] | None) -> PaymentMethod | None:
    if data is None:
        return None
    return (TokenMethod if data["kind"] == "token" else EncryptedCardMethod).model_validate(data)
