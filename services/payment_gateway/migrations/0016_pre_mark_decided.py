"""What people called made before this build is marked. A step of its own: while a table is changed, all others wait for it."""

from shared.persistence.migrate import run_sql

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    run_sql(DECIDED_BEFORE)


DECIDED_BEFORE = """
-- The decision is the payment's newest outcome, and the gateway had shown by then that it gave nothing back.
UPDATE refunds r SET made_elsewhere = true FROM payments p
    WHERE r.payment_id = p.payment_id AND r.version = p.version AND r.status = 'refunded' AND r.decided_by IS NOT NULL
        AND NOT r.made_elsewhere
        AND (p.gateway_side->>'answer' = 'no_refund' OR p.gateway_side->>'answer' = 'captured'
            AND coalesce((p.gateway_side->>'refunded_minor')::bigint, 0) + coalesce((p.gateway_side->>'lost_minor')::bigint, 0) = 0);
"""
