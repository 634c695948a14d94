"""Checks that streams have no gap, and that folding the events gives the stored state."""

from services.audit.align import StoredRow, align
from services.audit.bodies import event_data
from services.audit.finding import Tally
from services.audit.invoice_events import FoldedInvoice, fold
from services.audit.stores import Stores

EVENTS = """
    SELECT stream_id, version, type, split_part(type, '.', 1) AS event, data, owner FROM events
    ORDER BY stream_id COLLATE "C", version"""
STATES = """SELECT invoice_id, status, version, customer_id, amount_minor, currency, payment_id, receipt_number, refunds, owner
            FROM invoices ORDER BY invoice_id COLLATE "C" """
PAYMENTS_NOT_REBUILT = """
    WITH requested AS (
        SELECT data->>'payment_id' AS payment_id, stream_id, version, data->'method' AS method FROM events
        WHERE type LIKE 'PaymentRequested.%'
    ), over AS (
        SELECT DISTINCT data->>'payment_id' AS payment_id FROM events
        WHERE type LIKE 'Paid.%' OR type LIKE 'PaymentFailed.%'
    )
    SELECT coalesce(p.payment_id::text, r.payment_id) AS payment_id,
           CASE WHEN p.payment_id IS NULL THEN 'was requested and has no row'
                WHEN r.payment_id IS NULL THEN 'has a row and was never requested'
                WHEN p.version <> r.version OR p.invoice_id <> r.stream_id THEN 'has a row that points at another event'
                WHEN p.pending AND o.payment_id IS NOT NULL THEN 'is over and its row says pending'
                WHEN NOT p.pending AND o.payment_id IS NULL THEN 'is not over and its row does not say pending'
                WHEN NOT p.pending THEN 'is over and its row keeps its method'
                WHEN p.announced NOT BETWEEN 1 AND 30000 OR p.announced_at > now() + interval '1 day'
                    THEN 'waits, and is not announced again'
                ELSE 'would be announced again with another method' END AS why
    FROM requested r FULL JOIN payments p ON p.payment_id::text = r.payment_id LEFT JOIN over o ON o.payment_id = r.payment_id
    WHERE p.payment_id IS NULL OR r.payment_id IS NULL OR p.pending <> (o.payment_id IS NULL)
       OR p.version <> r.version OR p.invoice_id <> r.stream_id OR NOT p.pending AND p.method IS NOT NULL
       OR p.pending AND (p.announced NOT BETWEEN 1 AND 30000 OR p.announced_at > now() + interval '1 day'
                         OR coalesce(p.method->>'kind', 'token') <> r.method->>'kind'
                         OR p.method->>'kind' = 'token' AND p.method->>'token' <> r.method->>'fingerprint')"""
"""A number of announcements that the column can hardly hold any more ends them."""

REFUNDS_NOT_REBUILT = """
    WITH asked AS (
        SELECT stream_id, data->>'refund_id' AS refund_id, data->>'payment_id' AS payment_id, version FROM events
        WHERE type LIKE 'RefundRequested.%'
    ), over AS (
        SELECT DISTINCT stream_id, data->>'refund_id' AS refund_id FROM events
        WHERE type LIKE 'Refunded.%' OR type LIKE 'RefundFailed.%'
    )
    SELECT coalesce(r.refund_id::text, a.refund_id) AS refund_id,
           CASE WHEN r.refund_id IS NULL THEN 'was asked for and has no row'
                WHEN a.refund_id IS NULL THEN 'has a row and was never asked for'
                WHEN r.version <> a.version OR r.payment_id::text <> a.payment_id THEN 'has a row that points at another event'
                WHEN r.pending AND o.refund_id IS NOT NULL THEN 'is over and its row says pending'
                WHEN r.pending THEN 'waits, and is not announced again'
                ELSE 'is not over and its row does not say pending' END AS why
    FROM asked a FULL JOIN refunds r ON r.invoice_id = a.stream_id AND r.refund_id::text = a.refund_id
                 LEFT JOIN over o ON o.stream_id = a.stream_id AND o.refund_id = a.refund_id
    WHERE r.refund_id IS NULL OR a.refund_id IS NULL OR r.pending <> (o.refund_id IS NULL)
       OR r.version <> a.version OR r.payment_id::text <> a.payment_id
       OR r.pending AND (r.announced NOT BETWEEN 1 AND 30000 OR r.announced_at > now() + interval '1 day')"""


async def streams_fold_to_state(counted: Tally, stores: Stores) -> None:
    """Streams run 1..n without a gap; fold(events) = stored state; rebuilding changes nothing."""
    invoices = stores.databases.get("invoice")
    if invoices is None:
        return
    async for invoice_id, (events, states) in align(invoices.keyed(EVENTS), invoices.keyed(STATES)):
        counted.look()
        why = _difference(events, states)
        if why is not None:
            counted.breach(invoice_id, why)
    async for row in invoices.rows(PAYMENTS_NOT_REBUILT):
        counted.breach(row["payment_id"], f"payment {row['why']}")
    async for row in invoices.rows(REFUNDS_NOT_REBUILT):
        counted.breach(row["refund_id"], f"refund {row['why']}")


def _difference(events: list[StoredRow], states: list[StoredRow]) -> str | None:
    events = [event for event in events if event_data(event) is not None]
    versions = [event["version"] for event in events]
    if versions != list(range(1, len(events) + 1)):
        return f"the stream has a gap: the versions that can be read are {_shortened(versions)}"
    if not states:
        return "events without a stored state"
    try:
        folded = fold((event["type"], event["data"] | {"owner": event["owner"]}) for event in events)
    except ValueError as error:
        return f"the events cannot be folded: {error}"
    stored = FoldedInvoice.of(states[0])
    if folded == stored:
        return None
    differing = [name for name in FoldedInvoice.__slots__ if getattr(folded, name) != getattr(stored, name)]
    first = differing[0]
    return (
        f"{', '.join(differing)} stored differs from folded: {getattr(stored, first)} is not {getattr(folded, first)}"
    )


def _shortened(versions: list[int]) -> str:
    shown = 10
    text = ", ".join(map(str, versions[:shown]))
    return f"{text}, ..." if len(versions) > shown else text
