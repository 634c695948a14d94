"""A run says why it stopped by itself if no message of it has gone wrong: the broker refused messages, or an error of ours."""

from shared.persistence.migrate import run_sql

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE replay_runs
    ADD halted_why text,                     -- the queue that was refused, or the type of the error
    ADD refusals   int NOT NULL DEFAULT 0;   -- how often the broker refused messages of it, which are sent anew under ids of their own
"""
