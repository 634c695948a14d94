"""A decision holds the head of staff's journal: where the chain of its entries ended when a person decided."""

from shared.persistence.migrate import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE decisions ADD journal_head text;  -- NULL: an earlier build of the staff service sent it
"""
