"""Reads our side: the rows of `payments` with the sums of their refunds, without any lock."""

from collections.abc import AsyncIterator, Collection
from typing import Final
from uuid import UUID

from services.payment_gateway.reconcile.books import PAGE, Window
from services.payment_gateway.reconcile.compare import OurPayment
from shared.persistence.database import Connection, Record

_COLUMNS: Final = """payment_id, invoice_id, status, amount_minor, currency, gateway_id, decided_by,
    (SELECT coalesce(max(r.by_hand_minor), 0)
            + coalesce(sum(r.amount_minor) FILTER (WHERE r.status = 'refunded' AND NOT r.made_elsewhere), 0)
     FROM refunds r WHERE r.payment_id = payments.payment_id)::bigint AS refunded_minor,
    (SELECT coalesce(sum(r.amount_minor) FILTER (WHERE r.status = 'refunded' AND r.made_elsewhere), 0)
     FROM refunds r WHERE r.payment_id = payments.payment_id)::bigint AS elsewhere_minor"""
"""The sums are what `refunds.refunded_there_minor` and `refunds.elsewhere_minor` compute."""


async def payments_of(connection: Connection, payment_ids: Collection[UUID]) -> dict[UUID, OurPayment]:
    """Our payments with these ids. One that we do not know is absent."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM payments WHERE payment_id = ANY($1::uuid[])",  # noqa: S608 - our names
        list(payment_ids),
    )
    return {row["payment_id"]: _payment(row) for row in rows}


async def at_the_gateway(connection: Connection, window: Window) -> AsyncIterator[list[OurPayment]]:
    """Our payments of the window that the gateway gave an id, page by page. They were created here before they were created there."""
    after = UUID(int=0)
    while True:
        rows = await connection.fetch(
            f"""SELECT {_COLUMNS} FROM payments
                WHERE payment_id > $1 AND gateway_id IS NOT NULL
                    AND created_at >= to_timestamp($2) AND created_at < to_timestamp($3)
                ORDER BY payment_id LIMIT $4""",  # noqa: S608 - our names
            after,
            window.since,
            window.until,
            PAGE,
        )
        if not rows:
            return
        yield [_payment(row) for row in rows]
        after = rows[-1]["payment_id"]


def _payment(row: Record) -> OurPayment:
    return OurPayment(
        payment_id=row["payment_id"],
        invoice_id=row["invoice_id"],
        status=row["status"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        gateway_id=row["gateway_id"],
        decided_by=row["decided_by"],
        refunded_minor=row["refunded_minor"],
        elsewhere_minor=row["elsewhere_minor"],
    )
