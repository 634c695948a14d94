"""Beside the content hash of a command with long numbers stands one over all the rest, which a purge leaves."""

from shared.persistence.migrate import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
-- Of the content without long numbers, or NULL if it has none.
ALTER TABLE answers ADD outline_hash bytea;
CREATE TYPE answer_row_3 AS (command_id uuid, command_type text, answer text, correlation_id text, reason text, detail text,
    invoice_id text, content_hash bytea, outline_hash bytea, sender text, sent_id uuid);
"""
