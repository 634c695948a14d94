"""The rows of refunds: which are pending, so that a request for one that gets lost is announced again."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from services.invoice.refunds import InvoiceRefund, Refunded, RefundFailed, RefundRequested, Refunds
from shared.persistence.database import Record, Tx
from shared.persistence.due_rows import WALK_INTERVAL_S, DueRows, DueWindow
from shared.persistence.writes import WriteBatch


def dump(refunds: Refunds) -> list[dict[str, Any]] | None:
    """The refunds as the row of an invoice stores them. None if there are none, as in rows of the build before."""
    return [asdict(refund) for refund in refunds] or None


def load(stored: list[dict[str, Any]] | None) -> Refunds:
    """The refunds in the row of an invoice."""
    return tuple(InvoiceRefund(**row | {"refund_id": UUID(row["refund_id"])}) for row in stored or ())


async def save(writes: WriteBatch, events: Sequence[tuple[str, int, object]]) -> None:
    """Collect the writes of these events (invoice id, version of the event, event): a refund is pending until its first outcome."""
    requested = [
        (invoice_id, event.refund_id, event.payment_id, version)
        for invoice_id, version, event in events
        if isinstance(event, RefundRequested)
    ]
    if requested:
        await writes.execute(
            """INSERT INTO refunds (invoice_id, refund_id, payment_id, version, pending, announced_at)
               SELECT u.*, true, now() FROM unnest($1::refund_row[]) u""",
            requested,
        )
    ended = [
        (invoice_id, event.refund_id) for invoice_id, _, event in events if isinstance(event, Refunded | RefundFailed)
    ]
    if ended:
        await writes.execute(
            """UPDATE refunds SET pending = false FROM unnest($1::text[], $2::uuid[]) AS u (invoice_id, refund_id)
               WHERE refunds.invoice_id = u.invoice_id AND refunds.refund_id = u.refund_id AND pending""",
            [invoice_id for invoice_id, _ in ended],
            [refund_id for _, refund_id in ended],
        )


_FIRST_OVERDUE = """
    SELECT now() - make_interval(secs => $3) AS now, (
        SELECT announced_at FROM refunds
        WHERE pending AND announced_at >= coalesce($1::timestamptz, '-infinity')
          AND announced_at <= least($2::timestamptz, now() - make_interval(secs => $3))
          AND announced_at < now() - make_interval(secs => $3 * power(2, least(announced - 1, $4)))
        ORDER BY announced_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS first"""


def overdue_rows(older_than_s: float, *, doublings_max: int) -> DueRows:
    """Finds refunds that have been pending for too long, by the time when they were announced last."""
    return DueRows(_FIRST_OVERDUE, older_than_s, doublings_max, walk_interval_s=min(older_than_s, WALK_INTERVAL_S))


async def overdue(tx: Tx, *, older_than_s: float, window: DueWindow, at_most: int, doublings_max: int) -> list[Record]:
    """The refunds that have been pending for too long, with invoice id and version of the request. Notes that they are announced."""
    return list(
        await tx.fetch(
            """UPDATE refunds SET announced_at = now(), announced = announced + 1 WHERE (invoice_id, refund_id) IN (
                   SELECT invoice_id, refund_id FROM refunds
                   WHERE pending AND announced_at >= coalesce($4::timestamptz, '-infinity')
                     AND announced_at <= least($5::timestamptz, now() - make_interval(secs => $1))
                     AND announced_at < now() - make_interval(secs => $1 * power(2, least(announced - 1, $3)))
                   ORDER BY announced_at LIMIT $2 FOR UPDATE SKIP LOCKED)
               RETURNING refund_id, invoice_id, version, announced""",
            older_than_s,
            at_most,
            doublings_max,
            window.since,
            window.until,
        )
    )
