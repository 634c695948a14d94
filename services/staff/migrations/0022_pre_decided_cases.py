"""Open cases about which a decision is on its way are few. The overview counts them without reading the details of all others.

The condition is that of services/staff/seen_store.py, word for word: otherwise the index is not used.
"""

from shared.persistence.migrate import make_indexes

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    make_indexes(SCHEMA)


SCHEMA = """
CREATE INDEX cases_decided ON cases (payment_id)
    WHERE status IN ('in_doubt', 'needs_decision', 'refund_in_doubt', 'refund_failed')
        AND (details #>> '{decision,version}')::int = version
        AND NOT jsonb_path_exists(details, '$.refusals[*] ? (@.decision_id == $.decision.id)');
"""
