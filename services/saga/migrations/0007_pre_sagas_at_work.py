"""An index of the sagas that have not ended: they are counted every few seconds, however many have ended."""

from shared.persistence.migrate import make_indexes

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    make_indexes(SCHEMA)


SCHEMA = """
CREATE INDEX sagas_at_work ON sagas (status) WHERE NOT status IN ('completed', 'failed', 'refunded', 'not_refunded');
"""
