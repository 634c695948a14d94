"""Payments, attempts, outcomes, decisions; inbox, outbox."""

from shared.persistence.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
CREATE TABLE payments (
    payment_id     uuid PRIMARY KEY,
    invoice_id     text NOT NULL,
    amount_minor   bigint,
    currency       text,
    params_hash    bytea,              -- NULL: the row is closed. Somebody asked about the payment before a request came
    status         text NOT NULL,
    version        integer NOT NULL,
    method_token   text,
    card_jwe       text,               -- erased when the token is stored
    gateway_id     text,
    pending_status text,               -- the pending outcome: it waits for a confirmed cancel
    pending_reason text,
    reason         text,
    receipt_number text,
    refund_id      text,
    decided_by     text,
    was_case       boolean NOT NULL,
    rung           integer NOT NULL,
    key_number     integer NOT NULL,
    cause_id       uuid NOT NULL,
    correlation_id text NOT NULL,
    traceparent    text,
    fence          bigint NOT NULL,
    leased_by      uuid,
    due_at         timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    attempts_forgotten_at timestamptz, -- when the attempts recorded until then were deleted
    -- PostgreSQL parses a CHECK again for every statement that writes (10 to 40 us). So only rules that guard money have one.
    CONSTRAINT recorded_before_confirmed CHECK (gateway_id IS NOT NULL OR status IN ('requested', 'not_charged')),
    CONSTRAINT captured_with_receipt CHECK (receipt_number IS NOT NULL OR status <> 'captured'),
    CONSTRAINT card_erased CHECK (card_jwe IS NULL OR (method_token IS NULL AND status = 'requested'))
) WITH (fillfactor = 60);
CREATE INDEX payments_due ON payments (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE attempts (
    payment_id      uuid NOT NULL,
    fence           bigint NOT NULL,   -- the fence of the holder. With `seq` it shows that an insert is repeated
    seq             smallint NOT NULL,
    at              timestamptz NOT NULL,               -- by the clock of the instance, which may be wrong
    recorded_at     timestamptz NOT NULL DEFAULT now(), -- by the clock of PostgreSQL, which all instances share
    step            text NOT NULL,
    answer          text NOT NULL,
    evidence        text NOT NULL,
    idempotency_key text,
    PRIMARY KEY (payment_id, fence, seq)
);
CREATE INDEX attempts_recorded_at ON attempts (recorded_at);

CREATE TABLE outcomes (
    payment_id     uuid NOT NULL,
    version        integer NOT NULL,
    message_id     uuid NOT NULL,
    exchange       text NOT NULL,
    routing_key    text NOT NULL,
    type           text NOT NULL,
    correlation_id text NOT NULL,
    body           bytea NOT NULL,
    recorded_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (payment_id, version)
);

CREATE TABLE decisions (
    message_id       uuid PRIMARY KEY,
    payment_id       uuid NOT NULL,
    resolution       text NOT NULL,
    expected_version integer NOT NULL,
    receipt_number   text,
    evidence         text NOT NULL,
    decided_by       text NOT NULL,
    reason           text NOT NULL,
    refusal          text,             -- NULL: it took effect
    decided_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX decisions_payment_id ON decisions (payment_id);

CREATE TYPE payment_row AS (payment_id uuid, invoice_id text, amount_minor bigint, currency text, params_hash bytea, status text,
    version integer, method_token text, card_jwe text, reason text, cause_id uuid, correlation_id text, traceparent text, fence bigint,
    held boolean);
CREATE TYPE payment_update AS (payment_id uuid, held_fence bigint, status text, version integer, method_token text, card_jwe text,
    gateway_id text, pending_status text, pending_reason text, reason text, receipt_number text, refund_id text, decided_by text,
    was_case boolean, rung integer, key_number integer, cause_id uuid, correlation_id text, traceparent text, fence bigint, kept boolean,
    delay_s double precision);
CREATE TYPE attempt_row AS (payment_id uuid, fence bigint, seq smallint, at timestamptz, step text, answer text, evidence text,
    idempotency_key text);
CREATE TYPE outcome_row AS (payment_id uuid, version integer, message_id uuid, exchange text, routing_key text, type text,
    correlation_id text, body bytea);
CREATE TYPE decision_row AS (message_id uuid, payment_id uuid, resolution text, expected_version integer, receipt_number text,
    evidence text, decided_by text, reason text, refusal text);

CREATE TABLE inbox (
    message_id uuid PRIMARY KEY,
    handled_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbox_handled_at ON inbox (handled_at);

CREATE TABLE outbox (
    id              uuid PRIMARY KEY,
    ids             uuid[] NOT NULL,  -- of the messages. All arrays are in the order in which they were published
    exchanges       text[] NOT NULL,
    routing_keys    text[] NOT NULL,
    types           text[] NOT NULL,
    correlation_ids text[] NOT NULL,
    content_types   text[] NOT NULL,
    headers         jsonb[] NOT NULL,
    droppable       boolean[] NOT NULL,
    bodies          bytea[] NOT NULL, -- not compressed: a row lives for milliseconds, so compressing costs more than it saves
    message_ids     text[] NOT NULL,
    reply_tos       text[] NOT NULL,
    created_at      timestamptz NOT NULL,
    sweep_after     timestamptz NOT NULL,
    refusals        smallint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000);
CREATE INDEX outbox_sweep_after ON outbox (sweep_after);
ALTER TABLE outbox ALTER bodies SET STORAGE EXTERNAL;
CREATE VIEW outbox_messages AS  -- one message a row, for people and for the audit
    SELECT m.*, o.id AS outbox_batch, o.created_at, o.sweep_after, o.refusals FROM outbox o CROSS JOIN LATERAL unnest(
        ids, exchanges, routing_keys, types, correlation_ids, content_types, headers, droppable, bodies, message_ids, reply_tos
    ) AS m (id, exchange, routing_key, type, correlation_id, content_type, headers, droppable, body, message_id, reply_to);
"""
