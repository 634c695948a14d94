"""A proposal came by a door that is known: who proved no name at it is never the second person."""

from shared.persistence.migrate import run_sql

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE proposals ADD CONSTRAINT proposals_via_check CHECK (via IN ('terminal', 'desk', 'api'));
"""
