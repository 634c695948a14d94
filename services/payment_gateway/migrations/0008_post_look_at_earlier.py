"""Decisions, and refunds of the last thirty days, that the build before settled: from now on they are looked at, too."""

from shared.persistence.migrate import run_sql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
-- Spread over a day, so that they do not crowd the gateway.
UPDATE payments SET due_at = now() + random() * interval '1 day'
WHERE due_at IS NULL AND gateway_id IS NOT NULL AND (
    (decided_by IS NOT NULL AND status IN ('captured', 'not_charged', 'refunded', 'refund_failed'))
    OR (status = 'refunded' AND updated_at > now() - interval '30 days'));
"""
