"""The refunds that the build before began, went on with or ended after the step `0007`, when it kept them in the payments' rows."""

from shared.persistence.migrate import run_sql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql(ROWS)


ROWS = """
INSERT INTO refunds (payment_id, refund_id, position, reason, status, amount_minor, by_hand_minor, version, key_number, gateway_id,
        decided_by)
    SELECT p.payment_id, p.payment_id, 1, 'the invoice could not take the money',
           CASE WHEN status = 'refunded' THEN 'refunded' WHEN status = 'refund_failed' AND decided_by IS NOT NULL THEN 'kept'
                ELSE 'at_work' END,
           CASE WHEN status = 'refunded' THEN amount_minor END, 0, CASE WHEN status = 'refunding' THEN 0 ELSE version END, 1, refund_id,
           decided_by
    FROM payments p WHERE status IN ('refunding', 'refund_in_doubt', 'refund_failed', 'refunded')
        AND NOT EXISTS (SELECT FROM refunds r WHERE r.payment_id = p.payment_id AND r.refund_id <> p.payment_id)
    ON CONFLICT (payment_id, refund_id) DO UPDATE
    SET status = excluded.status, amount_minor = excluded.amount_minor, version = excluded.version, gateway_id = excluded.gateway_id,
        decided_by = excluded.decided_by, updated_at = now()
    WHERE refunds.status = 'at_work' AND excluded.status <> 'at_work';
"""
