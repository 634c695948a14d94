"""Invoices know their refunds, and a table says which of them are pending."""

from shared.persistence.migrate import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE invoices ADD refunds jsonb;
-- NULL: nobody asked for one.
-- The build before still writes invoice_row_2.
CREATE TYPE invoice_row_3 AS (invoice_id text, status text, version integer, customer_id text, amount_minor bigint, currency text,
    payment_id uuid, receipt_number text, refunds jsonb, owner text);

CREATE TABLE refunds (
    invoice_id   text NOT NULL,
    refund_id    uuid NOT NULL,
    payment_id   uuid NOT NULL,
    version      integer NOT NULL,  -- of the event that requested it
    pending      boolean NOT NULL,
    announced_at timestamptz NOT NULL,
    announced    smallint NOT NULL DEFAULT 1,  -- how often
    PRIMARY KEY (invoice_id, refund_id)
) WITH (fillfactor = 70);
CREATE INDEX refunds_pending ON refunds (announced_at) WHERE pending;
CREATE TYPE refund_row AS (invoice_id text, refund_id uuid, payment_id uuid, version integer);
"""
