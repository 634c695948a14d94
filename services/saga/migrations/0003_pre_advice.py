"""What the gateway advises about a failure, until the invoice has recorded it."""

from shared.persistence.migrate import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE sagas ADD failure_advice text;
-- The build before still writes saga_row.
CREATE TYPE saga_row_2 AS (payment_id uuid, invoice_id text, status text, version integer, payment_version integer,
    captured_minor bigint, captured_currency text, receipt_number text, failure_outcome text, failure_reason text, failure_advice text,
    failure_recorded boolean, flagged boolean, refund_reason text, repeats integer, deadline integer, deadline_s double precision,
    journal_from integer);
"""
