"""The journal takes any action that the code names: people do more at a desk than at a terminal, and refusals are noted, too."""

from shared.persistence.migrate import run_sql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE journal
    DROP CONSTRAINT journal_action_check,
    ADD CONSTRAINT journal_action_check CHECK (action ~ '^[a-z_]{1,30}$') NOT VALID;
"""
