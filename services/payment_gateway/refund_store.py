"""The rows of refunds, in set-based SQL. They belong to the row of their payment: whoever holds that one may write them.

A build before this one knew one refund of a payment, of the whole amount, and kept it in the payment's row. `attach` reads such rows, too.
"""

from collections.abc import Iterable, Mapping
from uuid import UUID

import structlog

from services.payment_gateway.domain import Payment, PaymentStatus
from services.payment_gateway.refunds import PaymentRefund, PaymentRefundStatus, Refunds, find, whole
from shared.persistence.database import Record, Tx
from shared.persistence.writes import WriteBatch
from shared.records import replace

log = structlog.get_logger(__name__)

_COLUMNS = (
    "payment_id, refund_id, position, reason, asked_minor, status, amount_minor, by_hand_minor, version, key_number, "
    "gateway_id, decided_by"
)
_CHANGED = ["status", "amount_minor", "by_hand_minor", "version", "key_number", "gateway_id", "decided_by"]
_UPSERT = f"""INSERT INTO refunds ({_COLUMNS}) SELECT {_COLUMNS} FROM unnest($1::refund_row[])
    ON CONFLICT (payment_id, refund_id) DO UPDATE
    SET {", ".join(f"{name} = excluded.{name}" for name in _CHANGED)}, updated_at = now()"""  # noqa: S608 - our names
_OF_PEOPLE = """UPDATE refunds r SET asked_by = u.asked_by, made_elsewhere = u.made_elsewhere
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::boolean[]) AS u (payment_id, refund_id, asked_by, made_elsewhere)
    WHERE r.payment_id = u.payment_id AND r.refund_id = u.refund_id"""
"""What people said of refunds. Few have it, so it is no part of the other statement."""
_SELECT = f"SELECT {_COLUMNS}, asked_by, made_elsewhere FROM refunds WHERE payment_id = ANY($1::uuid[]) ORDER BY payment_id, position"  # noqa: S608 - our names

OF_BUILD_BEFORE = "the invoice could not take the money"
"""The reason of a refund that a build before this one began: it did not keep the saga's words."""


async def attach(tx: Tx, payments: Mapping[UUID, Payment]) -> dict[UUID, Payment]:
    """These payments, each with its refunds. One is left out if this build cannot read them all."""
    if not payments:
        return {}
    rows: dict[UUID, list[Record]] = {}
    for row in await tx.fetch(_SELECT, list(payments)):
        rows.setdefault(row["payment_id"], []).append(row)
    attached: dict[UUID, Payment] = {}
    for id_, payment in payments.items():
        try:
            attached[id_] = replace(payment, refunds=_whole(payment, [_refund(row) for row in rows.get(id_, ())]))
        except Exception:  # nothing that is wrong with one payment may stop work on the others
            log.exception("refunds_unreadable", payment_id=str(id_))
    return attached


async def save(writes: WriteBatch | Tx, changes: Iterable[tuple[Payment, Payment]]) -> None:
    """Store the refunds that differ between a payment before and after. The payment's row is locked, or its fence was checked."""
    changed = [
        (after, position, refund, known)
        for before, after in changes
        if after.refunds is not before.refunds
        for position, refund in enumerate(after.refunds, start=1)
        if refund != (known := find(before.refunds, refund.refund_id))
    ]
    if changed:
        await writes.execute(_UPSERT, [_row(after, position, refund) for after, position, refund, _ in changed])
    said = [
        (after.payment_id, refund) for after, _, refund, known in changed if _of_people(refund) != _of_people(known)
    ]
    if said:
        ids = [payment_id for payment_id, _ in said], [refund.refund_id for _, refund in said]
        told = [refund.asked_by for _, refund in said], [refund.made_elsewhere for _, refund in said]
        await writes.execute(_OF_PEOPLE, *ids, *told)


def _of_people(refund: PaymentRefund | None) -> tuple[str | None, bool]:
    return (refund.asked_by, refund.made_elsewhere) if refund else (None, False)


def _row(payment: Payment, position: int, refund: PaymentRefund) -> tuple[object, ...]:
    return (
        payment.payment_id,
        refund.refund_id,
        position,
        refund.reason,
        refund.asked_minor,
        refund.status,
        refund.amount_minor,
        refund.by_hand_minor,
        refund.version,
        refund.key_number,
        refund.gateway_id,
        refund.decided_by,
    )


def _refund(row: Record) -> PaymentRefund:
    names = ("refund_id", "reason", "asked_minor", "amount_minor", "by_hand_minor", "version", "key_number")
    return PaymentRefund(
        status=PaymentRefundStatus(row["status"]),
        gateway_id=row["gateway_id"],
        decided_by=row["decided_by"],
        asked_by=row["asked_by"],
        made_elsewhere=row["made_elsewhere"],
        **{name: row[name] for name in names},
    )


def _whole(payment: Payment, stored: list[PaymentRefund]) -> Refunds:
    """The stored refunds; and what a build before this one did, which kept its only refund in the payment's row."""
    status = _status_of_build_before(payment)
    known = find(tuple(stored), payment.payment_id)
    if (
        status is None
        or (known is not None and known.status is not PaymentRefundStatus.AT_WORK)
        or (stored and not known)
    ):
        return tuple(stored)
    if known is not None and status is PaymentRefundStatus.AT_WORK:
        return tuple(stored)
    refund = replace(
        known or whole(payment.payment_id, OF_BUILD_BEFORE),
        status=status,
        amount_minor=payment.amount_minor if status is PaymentRefundStatus.REFUNDED else None,
        version=0 if payment.status is PaymentStatus.REFUNDING else payment.version,
        gateway_id=payment.refund_id,
        decided_by=payment.decided_by,
    )
    return (refund, *(one for one in stored if one is not known))


def _status_of_build_before(payment: Payment) -> PaymentRefundStatus | None:
    match payment.status:
        case PaymentStatus.REFUNDED:
            return PaymentRefundStatus.REFUNDED
        case PaymentStatus.REFUND_FAILED if payment.decided_by:
            return PaymentRefundStatus.KEPT
        case PaymentStatus.REFUNDING | PaymentStatus.REFUND_IN_DOUBT | PaymentStatus.REFUND_FAILED:
            return PaymentRefundStatus.AT_WORK
        case _:
            return None
