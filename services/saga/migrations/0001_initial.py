"""Sagas, the journal of their transitions, deadlines; inbox, outbox."""

from shared.persistence.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
CREATE TABLE sagas (
    payment_id       uuid PRIMARY KEY,
    invoice_id       text NOT NULL,
    status           text NOT NULL,
    version          integer NOT NULL,
    payment_version  integer NOT NULL,  -- the newest version of the payment that the saga has heard of
    captured_minor   bigint,
    captured_currency text,
    receipt_number   text,
    failure_outcome  text,
    failure_reason   text,
    failure_recorded boolean NOT NULL,
    flagged          boolean NOT NULL,
    refund_reason    text,
    repeats          integer NOT NULL,
    deadline         integer NOT NULL,
    deadline_s       double precision,
    updated_at       timestamptz NOT NULL,
    journal_from     integer NOT NULL DEFAULT 1  -- the journal entries before this version were deleted
) WITH (fillfactor = 70);

CREATE TABLE transitions (
    payment_id     uuid NOT NULL,
    version        integer NOT NULL,
    from_status    text NOT NULL,
    to_status      text NOT NULL,
    fact           text NOT NULL,
    cause_id       uuid NOT NULL,  -- of the message, or of the deadline
    correlation_id text NOT NULL,
    at             timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (payment_id, version)  -- one transition a version
);
CREATE INDEX transitions_at ON transitions (at);

CREATE TABLE deadlines (
    id             uuid PRIMARY KEY,
    payment_id     uuid NOT NULL,
    number         integer NOT NULL,
    correlation_id text NOT NULL,
    due_at         timestamptz NOT NULL,
    fired_at       timestamptz
);
CREATE INDEX deadlines_due ON deadlines (fired_at, due_at);

CREATE TYPE saga_row AS (payment_id uuid, invoice_id text, status text, version integer, payment_version integer, captured_minor bigint,
    captured_currency text, receipt_number text, failure_outcome text, failure_reason text, failure_recorded boolean, flagged boolean,
    refund_reason text, repeats integer, deadline integer, deadline_s double precision, journal_from integer);
CREATE TYPE transition_row AS (payment_id uuid, version integer, from_status text, to_status text, fact text, cause_id uuid,
    correlation_id text);
CREATE TYPE deadline_row AS (id uuid, payment_id uuid, number integer, correlation_id text, delay_s double precision);

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
