"""What the gateway advises about a failure, and what a charge says besides its amount."""

from shared.persistence.migrate import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
-- details: customer, mandate and texts of the sender. NULL: there are none
ALTER TABLE payments ADD advice text, ADD pending_advice text, ADD details jsonb;
-- The build before still writes payment_row and payment_update.
CREATE TYPE payment_row_2 AS (payment_id uuid, invoice_id text, amount_minor bigint, currency text, details jsonb, params_hash bytea,
    status text, version integer, method_token text, card_jwe text, reason text, cause_id uuid, correlation_id text, traceparent text,
    fence bigint, held boolean);
CREATE TYPE payment_update_2 AS (payment_id uuid, held_fence bigint, status text, version integer, method_token text, card_jwe text,
    gateway_id text, pending_status text, pending_reason text, pending_advice text, reason text, advice text, receipt_number text,
    refund_id text, decided_by text, was_case boolean, rung integer, key_number integer, cause_id uuid, correlation_id text,
    traceparent text, fence bigint, kept boolean, delay_s double precision);
"""
