"""Answers, events and invoices know who sent what. Rows of the build before have no sender."""

from shared.persistence.migrate import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
-- sender: the name of its user, or NULL if nobody vouched for one. sent_id: the id that it gave the command, if it is kept under another.
ALTER TABLE answers ADD sender text, ADD sent_id uuid;
CREATE TYPE answer_row_2 AS (command_id uuid, command_type text, answer text, correlation_id text, reason text, detail text,
    invoice_id text, content_hash bytea, sender text, sent_id uuid);

-- The owner is the sender that issued the invoice. It is stored with that event, beside its data, because the build before reads the data.
ALTER TABLE events ADD owner text;
CREATE TYPE event_row_2 AS (stream_id text, version integer, type text, data jsonb, cause_id uuid, cause_position integer,
    correlation_id text, traceparent text, recorded_at timestamptz, owner text);

ALTER TABLE invoices ADD owner text;
CREATE TYPE invoice_row_2 AS (invoice_id text, status text, version integer, customer_id text, amount_minor bigint, currency text,
    payment_id uuid, receipt_number text, owner text);
"""
