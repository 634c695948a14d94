"""The types that only the build without senders wrote."""

from shared.persistence.migrate import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
DROP TYPE answer_row;
DROP TYPE event_row;
DROP TYPE invoice_row;
"""
