"""Dead letters keep the name of the message's sender. Those of the build before have none."""

from shared.persistence.migrate import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE dead_letters ADD sender text;
"""
