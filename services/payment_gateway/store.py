"""The rows of the payments, in set-based SQL. The record of what happened to them is in the `ledger`.

One holder at a time works on a row. Claiming the row raises its `fence`. A new state is stored only if the row still has the fence that the
state was decided on. `due_at` is the time when the row may be claimed: the end of the lease if an instance holds it (`leased_by`), else the
time of the next attempt. If it is NULL, nothing is to be done. All times are of PostgreSQL's clock.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from services.payment_gateway import refund_store
from services.payment_gateway.domain import (
    CASES,
    CHARGED,
    SETTLED,
    GatewaySide,
    Payment,
    PaymentStatus,
    PendingOutcome,
    aged,
)
from services.payment_gateway.gateways.port import NO_DETAILS, ChargeDetails, Dispute
from shared.contracts.currencies import ISO_4217
from shared.messaging.envelope import Cause
from shared.observability import metrics
from shared.persistence.database import Connection, Record, Tx
from shared.persistence.due_rows import WHENEVER, DueRows, DueWindow
from shared.persistence.store_sampler import Gauged, Reading
from shared.persistence.unreadable import UnreadableRowsError, read_rows, readable_rows
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, replace

log = structlog.get_logger(__name__)

_DETAILS = tuple(field.name for field in fields(ChargeDetails))


@dataclass(frozen=True, slots=True)
class Origin:
    """The message that caused the payment's present state: the request, or the last command that changed it."""

    message_id: UUID
    correlation_id: str
    traceparent: str | None

    def at(self, time: datetime) -> Cause:
        return Cause(self.message_id, self.correlation_id, time, self.traceparent)


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """A payment as stored, with its fence. `requested_at` is when it was requested first, by the clock of the invoice service."""

    payment: Payment
    fence: int
    origin: Origin
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """How an instance holds rows. A row is leased to `holder` for `seconds`.

    If the holder goes on with a row and less than `renew_below_s` seconds are left, the lease is renewed.
    """

    holder: UUID
    seconds: float
    renew_below_s: float


@dataclass(frozen=True, slots=True)
class PaymentUpdate:
    """The new state of a row, which is stored only if the row still has `held_fence`.

    The row is due again after `delay_s` seconds, or never if it is None. With `kept` the holder keeps its lease and goes on instead.
    """

    row: PaymentRow
    held_fence: int
    delay_s: float | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True)
class RowState:
    """The status of a payment, one of `PaymentStatus` or one of a newer build, and whether an instance works on it now."""

    status: str
    is_held: bool


# -- payments --------------------------------------------------------------------------------------------------------------------------

_ROW = """payment_id, invoice_id, status, version, amount_minor, currency, method_token, card_jwe, params_hash, gateway_id,
    pending_status, pending_reason, pending_advice, reason, advice, receipt_number, refund_id, decided_by, was_case, rung, key_number,
    details, settled_as, gateway_side,
    cause_id, correlation_id, traceparent, fence, coalesce(requested_at, created_at) AS requested_at,
    extract(epoch FROM now() - coalesce(requested_at, created_at))::float8 AS age_s"""
"""The columns that `_row` reads. They are named, so that this build also runs when the next build has added a column."""


async def load(tx: Tx, payment_ids: Collection[UUID]) -> dict[UUID, PaymentRow]:
    """The rows of these payments, locked in the order of their ids. A payment that was never seen is absent. Raises UnreadableRowsError."""
    rows = await tx.fetch(
        f"SELECT {_ROW} FROM payments WHERE payment_id = ANY($1::uuid[]) ORDER BY payment_id FOR UPDATE",  # noqa: S608 - a constant
        list(payment_ids),
    )
    found = read_rows(rows, "payment_id", _row)
    loaded = {row.payment.payment_id: row for row in await _with_refunds(tx, list(found.values()))}
    if len(loaded) < len(found):
        raise UnreadableRowsError(found.keys() - loaded.keys())
    return loaded


async def insert(tx: Tx, rows: Sequence[PaymentRow], *, held: Collection[UUID], lease: Lease) -> None:
    """Insert new payments. Those in `held` are leased to the holder of `lease`. Others are due now if their status is requested.

    A payment id that exists already is a unique violation: another writer was faster, so load again.
    """
    if not rows:
        return
    await tx.execute(
        """INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, details, params_hash, status, version, method_token,
               card_jwe, reason, was_case, rung, key_number, cause_id, correlation_id, traceparent, fence, leased_by, due_at)
           SELECT u.payment_id, u.invoice_id, u.amount_minor, u.currency, u.details, u.params_hash, u.status, u.version, u.method_token,
               u.card_jwe, u.reason, false, 0, 1, u.cause_id, u.correlation_id, u.traceparent, u.fence,
               CASE WHEN u.held THEN $2::uuid END,
               CASE WHEN u.held THEN now() + make_interval(secs => $3) WHEN u.status = 'requested' THEN now() END
           FROM unnest($1::payment_row_2[]) u""",
        [_new_row(row, held=row.payment.payment_id in held) for row in rows],
        lease.holder,
        lease.seconds,
    )


YOUNG_S = 60.0
"""A request that is handled so soon has no `requested_at`: its row's `created_at` tells it well enough. So most requests cost nothing."""


async def note_requested(tx: Tx, new: Sequence[tuple[datetime, PaymentRow]]) -> None:
    """Store when new payments were requested, if they are no longer young. Each comes with the present time.

    `insert` has stored the rest in the same transaction.
    """
    old = [row for now, row in new if (now - row.requested_at).total_seconds() >= YOUNG_S]
    if old:
        await tx.execute(
            """UPDATE payments p SET requested_at = u.requested_at
               FROM unnest($1::uuid[], $2::timestamptz[]) AS u (payment_id, requested_at) WHERE p.payment_id = u.payment_id""",
            [row.payment.payment_id for row in old],
            [row.requested_at for row in old],
        )


async def note_decided(tx: Tx, new: Sequence[PaymentRow]) -> None:
    """Store who closed new payments. They are due, so that the gateway is asked whether it agrees.

    `insert` has stored the rest in the same transaction.
    """
    closed = [row.payment for row in new if row.payment.decided_by]
    if closed:
        await tx.execute(
            """UPDATE payments p SET decided_by = u.decided_by, was_case = true, due_at = now()
               FROM unnest($1::uuid[], $2::text[]) AS u (payment_id, decided_by) WHERE p.payment_id = u.payment_id""",
            [payment.payment_id for payment in closed],
            [payment.decided_by for payment in closed],
        )


def _new_row(row: PaymentRow, *, held: bool) -> tuple[object, ...]:
    payment, origin = row.payment, row.origin
    return (
        payment.payment_id,
        payment.invoice_id,
        payment.amount_minor,
        payment.currency,
        _stored_details(payment.details),
        payment.params_hash,
        payment.status,
        payment.version,
        payment.method_token,
        payment.card_jwe,
        payment.reason,
        origin.message_id,
        origin.correlation_id,
        origin.traceparent,
        row.fence,
        held,
    )


_UPDATE = """UPDATE payments p SET
           status = u.status, version = u.version, method_token = u.method_token, card_jwe = u.card_jwe, gateway_id = u.gateway_id,
           pending_status = u.pending_status, pending_reason = u.pending_reason, pending_advice = u.pending_advice,
           reason = u.reason, advice = u.advice, receipt_number = u.receipt_number, refund_id = u.refund_id,
           decided_by = u.decided_by, was_case = u.was_case,
           rung = u.rung, key_number = u.key_number, cause_id = u.cause_id, correlation_id = u.correlation_id,
           traceparent = u.traceparent, fence = u.fence, updated_at = now(),
           leased_by = CASE WHEN u.kept THEN $2::uuid END,
           due_at = CASE WHEN NOT u.kept THEN now() + make_interval(secs => u.delay_s)
                         WHEN p.due_at > now() + make_interval(secs => $4) THEN p.due_at
                         ELSE now() + make_interval(secs => $3) END
       FROM unnest($1::payment_update_2[]) u
       WHERE p.payment_id = u.payment_id AND p.payment_id = ANY($5::uuid[]) AND p.fence = u.held_fence
       RETURNING p.payment_id, u.held_fence"""
"""The keys are given beside the rows, so that a database of several shards knows where these are (deploy/OUTGROWING.md)."""


async def update(tx: Tx, updates: Sequence[PaymentUpdate], lease: Lease) -> set[tuple[UUID, int]]:
    """Store the new state of each row that still has its `held_fence`. Returns (payment id, held fence) of the rows that were stored."""
    if not updates:
        return set()
    rows = await tx.fetch(_UPDATE, *_updated(updates, lease))
    return {(row["payment_id"], row["held_fence"]) for row in rows}


async def update_all(writes: WriteBatch, updates: Sequence[PaymentUpdate], lease: Lease) -> None:
    """Like `update`, but all or none are stored, with everything else in `writes`. `WriteBatch.flush` raises MovedOnError if none are."""
    await writes.execute(_UPDATE, *_updated(updates, lease), rows=len(updates))


def _updated(updates: Sequence[PaymentUpdate], lease: Lease) -> tuple[object, ...]:
    rows = [_updated_row(update) for update in updates]
    keys = [update.row.payment.payment_id for update in updates]
    return rows, lease.holder, lease.seconds, lease.renew_below_s, keys


def _updated_row(update: PaymentUpdate) -> tuple[object, ...]:
    row, payment, origin = update.row, update.row.payment, update.row.origin
    pending = payment.pending
    return (
        payment.payment_id,
        update.held_fence,
        payment.status,
        payment.version,
        payment.method_token,
        payment.card_jwe,
        payment.gateway_id,
        pending.status if pending else None,
        pending.reason if pending else None,
        pending.advice if pending else None,
        payment.reason,
        payment.advice,
        payment.receipt_number,
        payment.refund_id,
        payment.decided_by,
        payment.was_case,
        payment.rung,
        payment.key_number,
        origin.message_id,
        origin.correlation_id,
        origin.traceparent,
        row.fence,
        update.kept,
        update.delay_s,
    )


async def insert_strays(connection: Connection, rows: Sequence[PaymentRow]) -> None:
    """Insert payments that were found at the gateway. They are due, so the service asks about them, and tells staff. A known one stays."""
    await connection.executemany(
        """INSERT INTO payments (payment_id, invoice_id, status, version, amount_minor, currency, gateway_id, reason, was_case, rung,
               key_number, cause_id, correlation_id, fence, due_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, true, 0, 1, $9, $10, $11, now()) ON CONFLICT DO NOTHING""",
        [
            (
                row.payment.payment_id,
                row.payment.invoice_id,
                row.payment.status,
                row.payment.version,
                row.payment.amount_minor,
                row.payment.currency,
                row.payment.gateway_id,
                row.payment.reason,
                row.origin.message_id,
                row.origin.correlation_id,
                row.fence,
            )
            for row in rows
        ],
    )


def has_sides(payment: Payment) -> bool:
    """Whether the payment has what `note_sides` stores."""
    return payment.settled_as is not None or payment.gateway_side is not None


async def note_sides(tx: Tx, rows: Sequence[PaymentRow]) -> None:
    """Store what a payment was settled as before and what the gateway says, after `update` has stored the rest under the fence.

    Few payments have either, so these columns are not part of every update. One that was closed before its request came has no amount: it
    gets that of the capture that the gateway shows.
    """
    noted = [row for row in rows if has_sides(row.payment)]
    if noted:
        await tx.execute(
            """UPDATE payments p SET settled_as = u.settled_as, gateway_side = u.gateway_side,
                   amount_minor = coalesce(p.amount_minor, u.amount_minor), currency = coalesce(p.currency, u.currency)
               FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::jsonb[], $5::bigint[], $6::text[])
                   AS u (payment_id, fence, settled_as, gateway_side, amount_minor, currency)
               WHERE p.payment_id = u.payment_id AND p.fence = u.fence""",
            [row.payment.payment_id for row in noted],
            [row.fence for row in noted],
            [row.payment.settled_as for row in noted],
            [asdict(row.payment.gateway_side) if row.payment.gateway_side else None for row in noted],
            [row.payment.amount_minor for row in noted],
            [row.payment.currency for row in noted],
        )


_FIRST_DUE = """
    SELECT now() AS now, (
        SELECT due_at FROM payments
        WHERE due_at >= coalesce($1::timestamptz, '-infinity') AND due_at <= least($2::timestamptz, now())
        ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS first"""


def due_rows() -> DueRows:
    """Finds payments to claim."""
    return DueRows(_FIRST_DUE)


async def claim(
    connection: Connection, lease: Lease, *, at_most: int, only_begun: bool = False, window: DueWindow = WHENEVER
) -> list[PaymentRow]:
    """Lease due rows of `window` to the holder of `lease`, and return them, at most `at_most`. With `only_begun`, new payments are passed
    over.

    Each gets a new fence, so results of an earlier holder cannot be stored any more. Rows of a crashed holder are due when its lease ends.
    """
    rows = await connection.fetch(
        f"""WITH due AS (
               SELECT payment_id AS due_id FROM payments
               WHERE due_at >= coalesce($5::timestamptz, '-infinity') AND due_at <= least($6::timestamptz, now())
                 AND (NOT $4::boolean OR status <> 'requested')
               ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
           UPDATE payments SET fence = fence + 1, leased_by = $2, due_at = now() + make_interval(secs => $3)
           FROM due WHERE payment_id = due_id RETURNING {_ROW}""",  # noqa: S608 - a constant
        at_most,
        lease.holder,
        lease.seconds,
        only_begun,
        window.since,
        window.until,
    )
    readable = readable_rows(rows, "payment_id", _row, log=log, event="payment_unreadable")
    return await _with_refunds(connection, list(readable.values()))


async def _with_refunds(tx: Tx, rows: list[PaymentRow]) -> list[PaymentRow]:
    """The rows with the refunds of their payments, but for those whose refunds this build cannot read.

    Nothing is read for payments that were never captured: they have none.
    """
    payments = {row.payment.payment_id: row.payment for row in rows}
    charged = {id_: payment for id_, payment in payments.items() if _may_have_refunds(payment)}
    if not charged:
        return rows
    known = {id_: payment for id_, payment in payments.items() if id_ not in charged}
    known |= await refund_store.attach(tx, charged)
    return [replace(row, payment=known[id_]) for row in rows if (id_ := row.payment.payment_id) in known]


def _may_have_refunds(payment: Payment) -> bool:
    return payment.status in CHARGED or payment.settled_as is not None


async def release(connection: Connection, held: Sequence[tuple[UUID, int]]) -> None:
    """Release leases (payment id, fence) before their end, so that another instance can claim the rows now."""
    await connection.execute(
        """UPDATE payments p SET leased_by = NULL, due_at = now()
           FROM unnest($1::uuid[], $2::bigint[]) AS u (payment_id, fence)
           WHERE p.payment_id = u.payment_id AND p.fence = u.fence AND p.leased_by IS NOT NULL""",
        [payment_id for payment_id, _ in held],
        [fence for _, fence in held],
    )


async def state_of(tx: Tx, payment_id: UUID, gateway_id: str) -> RowState | None:
    """The state of the payment's row, which stays locked until the end of the transaction. None if `gateway_id` is not recorded there."""
    rows = await tx.fetch(
        """SELECT status, leased_by IS NOT NULL AND due_at > now() AS is_held FROM payments
           WHERE payment_id = $1 AND gateway_id = $2 FOR UPDATE""",
        payment_id,
        gateway_id,
    )
    return RowState(rows[0]["status"], rows[0]["is_held"]) if rows else None


async def captures_beside(connection: Connection, payment_id: UUID) -> list[str]:
    """The gateway's ids of some payments that the gateway called captured: those beside this one by payment id, and the last of all."""
    rows = await connection.fetch(
        """(SELECT gateway_id FROM payments WHERE status = 'captured' AND decided_by IS NULL AND payment_id < $1
            ORDER BY payment_id DESC LIMIT 1)
           UNION (SELECT gateway_id FROM payments WHERE status = 'captured' AND decided_by IS NULL AND payment_id > $1
            ORDER BY payment_id LIMIT 1)
           UNION (SELECT gateway_id FROM payments WHERE status = 'captured' AND decided_by IS NULL AND payment_id > $1
            ORDER BY payment_id DESC LIMIT 1)""",
        payment_id,
    )
    return [row["gateway_id"] for row in rows]


async def hurry(tx: Tx, payment_ids: Sequence[UUID]) -> None:
    """Make the next attempt due now, unless an instance holds the row.

    Before a payment is settled, the attempt takes a rung of the ladder like any other. So repeated inquiries cannot keep the ladder from
    its end. A look at a settled payment counts none: it comes besides those that come by themselves, and ends no watch.
    """
    if payment_ids:
        await tx.execute(
            """UPDATE payments SET due_at = now(),
                   rung = CASE WHEN status = ANY($2::text[]) OR (status = 'refund_failed' AND decided_by IS NOT NULL)
                               THEN greatest(rung - 1, -1) ELSE rung END
               WHERE payment_id = ANY($1::uuid[]) AND leased_by IS NULL AND (due_at IS NULL OR due_at > now())""",
            list(payment_ids),
            sorted(SETTLED),
        )


def _row(row: Record) -> PaymentRow:
    payment = Payment(
        payment_id=row["payment_id"],
        invoice_id=row["invoice_id"],
        status=PaymentStatus(row["status"]),
        version=row["version"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        details=read_details(row["details"]),
        method_token=row["method_token"],
        card_jwe=row["card_jwe"],
        params_hash=row["params_hash"],
        gateway_id=row["gateway_id"],
        pending=_pending_outcome(row) if row["pending_status"] else None,
        reason=row["reason"],
        advice=row["advice"],
        receipt_number=row["receipt_number"],
        refund_id=row["refund_id"],
        decided_by=row["decided_by"],
        was_case=row["was_case"],
        rung=row["rung"],
        key_number=row["key_number"],
        settled_as=PaymentStatus(row["settled_as"]) if row["settled_as"] else None,
        gateway_side=_gateway_side(row["gateway_side"]),
    )
    origin = Origin(row["cause_id"], row["correlation_id"], row["traceparent"])
    return PaymentRow(aged(payment, row["age_s"]), row["fence"], origin, row["requested_at"])


_SIDE = tuple(field.name for field in fields(GatewaySide))
_DISPUTE = tuple(field.name for field in fields(Dispute))


def _gateway_side(stored: dict[str, Any] | None) -> GatewaySide | None:
    """The gateway's side as stored. A member that a newer build added is left out."""
    if not stored:
        return None
    side = GatewaySide(**{name: stored[name] for name in _SIDE if name in stored})
    if (dispute := stored.get("dispute")) is None:
        return side
    return replace(side, dispute=Dispute(**{name: dispute[name] for name in _DISPUTE if name in dispute}))


def _pending_outcome(row: Record) -> PendingOutcome:
    declined = row["pending_status"] == PaymentStatus.DECLINED
    return PendingOutcome(
        PaymentStatus.DECLINED if declined else PaymentStatus.NOT_CHARGED, row["pending_reason"], row["pending_advice"]
    )


def _stored_details(details: ChargeDetails) -> dict[str, Any] | None:
    """The details that are given, or None if none is."""
    given = {name: value for name in _DETAILS if (value := getattr(details, name))}
    return given | {"metadata": dict(details.metadata)} if details.metadata else given or None


def read_details(stored: dict[str, Any] | None) -> ChargeDetails:
    """The details as stored. A member that a newer build added is left out."""
    if not stored:
        return NO_DETAILS
    texts = {name: stored[name] for name in _DETAILS if name in stored and name != "metadata"}
    return ChargeDetails(**texts, metadata=tuple(sorted(stored.get("metadata", {}).items())))


# -- for the operator ------------------------------------------------------------------------------------------------------------------

DUE_COUNTED_MAX = 100_000
"""Due payments that are counted for the gauge. They can be as many as there are requests, and counting them must not become a load."""
DUE = Reading(
    """SELECT count(*) AS due, coalesce(extract(epoch FROM now() - min(due_at)), 0) AS oldest_s
       FROM (SELECT due_at FROM payments WHERE due_at >= coalesce($2::timestamptz, '-infinity') AND due_at <= now()
             ORDER BY due_at LIMIT $1) d""",
    [Gauged(metrics.PAYMENTS_DUE, "due"), Gauged(metrics.PAYMENTS_DUE_OLDEST, "oldest_s", max)],
    arguments=(DUE_COUNTED_MAX, None),
)
"""Payments that are due and that no instance holds."""


async def count_overdue(connection: Connection, for_s: int, at_most: int) -> int:
    """How many payments have been due for longer than `for_s` seconds and no instance holds them; counted up to `at_most`."""
    return int(
        await connection.fetchval(
            "SELECT count(*) FROM (SELECT FROM payments WHERE due_at < now() - make_interval(secs => $1) ORDER BY due_at LIMIT $2) d",
            for_s,
            at_most,
        )
    )


def due_reading(due: DueRows) -> Reading:
    """The same, read from where the claimer looks."""
    return replace(DUE, since=lambda: due.since)


_AT_RISK = """status IN ('in_doubt', 'needs_decision', 'refund_in_doubt', 'refund_failed')
    AND NOT (status = 'refund_failed' AND decided_by IS NOT NULL)"""
IN_DOUBT = Reading(
    f"SELECT status AS state, count(*) AS payments FROM payments WHERE {_AT_RISK} GROUP BY status",  # noqa: S608 - a constant
    [Gauged(metrics.PAYMENTS_IN_DOUBT, "payments")],
    labels={"state": sorted(CASES)},
)
"""Payments at risk. One whose refund failed is none if a person decided that the money stays."""
MONEY = Reading(
    f"""SELECT status AS state, currency,
           sum(coalesce((SELECT coalesce(r.amount_minor, r.asked_minor) FROM refunds r
                         WHERE r.payment_id = p.payment_id AND r.status = 'at_work' LIMIT 1), p.amount_minor))
               / power(10, coalesce((SELECT decimals FROM unnest($1::text[], $2::int[]) AS c (code, decimals)
                                     WHERE code = p.currency), 2)) AS money,
           max(extract(epoch FROM now() - coalesce((SELECT o.recorded_at FROM outcomes o
                                                    WHERE o.payment_id = p.payment_id AND o.version = p.version), p.updated_at)))
               AS oldest_s
       FROM payments p WHERE {_AT_RISK} GROUP BY status, currency""",  # noqa: S608 - a constant
    [
        Gauged(metrics.MONEY_IN_DOUBT, "money"),
        Gauged(metrics.MONEY_IN_DOUBT_OLDEST, "oldest_s", max),
    ],
    labels={"state": sorted(CASES), "currency": ISO_4217},
    arguments=(list(ISO_4217), list(ISO_4217.values())),
)
"""Money at risk. A payment whose refund is in doubt counts with the amount of that refund. Each version of a payment has at most one
outcome, whose time is that of the present state.

Its subqueries are one a row on purpose: a join would have a plan that depends on the statistics of tables that grow for ever."""
