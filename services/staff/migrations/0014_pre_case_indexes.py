"""The list of cases is read by key, the longest wait first; the sums by currency come from the same index."""

from shared.persistence.migrate import make_indexes

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    make_indexes(SCHEMA)


SCHEMA = """
CREATE INDEX cases_open ON cases (opened_at, payment_id) INCLUDE (currency, status, amount_minor)
    WHERE status IN ('in_doubt', 'needs_decision', 'refund_in_doubt', 'refund_failed');
CREATE INDEX cases_contradicted ON cases (contradicted_at, payment_id) WHERE contradicted_at IS NOT NULL AND noted_at IS NULL;
CREATE INDEX cases_settled ON cases (updated_at, payment_id)
    WHERE status NOT IN ('in_doubt', 'needs_decision', 'refund_in_doubt', 'refund_failed', 'unknown');
"""
