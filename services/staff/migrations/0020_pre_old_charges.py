"""A second person takes into a run what is too old to charge."""

from shared.persistence.migrate import run_sql

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE replay_runs
    ADD second_by text,         -- took in what is too old to charge: somebody else starts the run
    ADD second_at timestamptz;
ALTER TABLE replay_items ADD taken_in boolean NOT NULL DEFAULT false;
"""
