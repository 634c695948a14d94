"""The journal knows one more action: a person asks for a refund."""

from shared.persistence.migrate import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE journal
    DROP CONSTRAINT journal_action_check,
    ADD CONSTRAINT journal_action_check
        CHECK (action IN ('replay', 'discard', 'ask', 'resolve', 'refund', 'release', 'drop', 'purge'));
"""
