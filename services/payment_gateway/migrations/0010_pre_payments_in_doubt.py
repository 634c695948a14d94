"""An index of the payments in doubt alone: money at risk is counted every few seconds, however many payments there are."""

from shared.persistence.migrate import make_indexes

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    make_indexes(SCHEMA)


SCHEMA = """
-- The statuses of a case. A payment that goes well is never in this index, so it pays nothing for it.
CREATE INDEX payments_in_doubt ON payments (status, currency)
    WHERE status IN ('in_doubt', 'needs_decision', 'refund_in_doubt', 'refund_failed');
"""
