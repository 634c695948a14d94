"""A saga follows the refunds that upstream or a person asked for."""

from shared.persistence.migrate import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE sagas ADD refunds jsonb;
-- NULL: nobody asked for one.
-- The build before still writes saga_row_2.
CREATE TYPE saga_row_3 AS (payment_id uuid, invoice_id text, status text, version integer, payment_version integer, captured_minor bigint,
    captured_currency text, receipt_number text, failure_outcome text, failure_reason text, failure_advice text, failure_recorded boolean,
    flagged boolean, refund_reason text, repeats integer, deadline integer, deadline_s double precision, refunds jsonb,
    journal_from integer);
"""
