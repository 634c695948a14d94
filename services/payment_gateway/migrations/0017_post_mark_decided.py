"""The same for what people decided while instances of the build before, which marks nothing, were still at work."""

from shared.persistence.migrate import run_sql

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    run_sql(DECIDED_MEANWHILE)


DECIDED_MEANWHILE = """
UPDATE refunds r SET made_elsewhere = true FROM payments p
    WHERE r.payment_id = p.payment_id AND r.version = p.version AND r.status = 'refunded' AND r.decided_by IS NOT NULL
        AND NOT r.made_elsewhere
        AND (p.gateway_side->>'answer' = 'no_refund' OR p.gateway_side->>'answer' = 'captured'
            AND coalesce((p.gateway_side->>'refunded_minor')::bigint, 0) + coalesce((p.gateway_side->>'lost_minor')::bigint, 0) = 0);
"""
