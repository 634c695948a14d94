"""Events, current state, payment ids; inbox, outbox, answers."""

from shared.persistence.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
CREATE TABLE events (
    stream_id      text NOT NULL,
    version        integer NOT NULL,
    type           text NOT NULL,
    data           jsonb NOT NULL,
    cause_id       uuid NOT NULL,
    cause_position integer NOT NULL,
    correlation_id text NOT NULL,
    traceparent    text,
    recorded_at    timestamptz NOT NULL,
    PRIMARY KEY (stream_id, version)
);
CREATE TYPE event_row AS (stream_id text, version integer, type text, data jsonb, cause_id uuid, cause_position integer,
    correlation_id text, traceparent text, recorded_at timestamptz);

CREATE TABLE invoices (
    invoice_id     text PRIMARY KEY,
    status         text NOT NULL,
    version        integer NOT NULL,
    customer_id    text NOT NULL,
    amount_minor   bigint NOT NULL,
    currency       text NOT NULL,
    payment_id     uuid,
    receipt_number text,
    updated_at     timestamptz NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE payments (
    payment_id   uuid PRIMARY KEY,
    invoice_id   text NOT NULL,
    version      integer NOT NULL,  -- of the event that requested it
    method       jsonb,             -- token or encrypted card; erased once the payment is over
    pending      boolean NOT NULL,
    announced_at timestamptz NOT NULL,
    announced    smallint NOT NULL DEFAULT 1  -- how often
) WITH (fillfactor = 70);
CREATE INDEX payments_pending ON payments (announced_at) WHERE pending;

CREATE TYPE invoice_row AS (invoice_id text, status text, version integer, customer_id text, amount_minor bigint, currency text,
    payment_id uuid, receipt_number text);
CREATE TYPE payment_row AS (payment_id uuid, invoice_id text, version integer, method jsonb);

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

CREATE TABLE answers (  -- also the inbox of commands: a command with an answer was handled
    command_id     uuid PRIMARY KEY,
    command_type   text NOT NULL,
    content_hash   bytea,  -- NULL: nothing of the command may be kept (card data), or it was discarded unread
    invoice_id     text,
    answer         text NOT NULL,
    reason         text,
    detail         text,
    correlation_id text NOT NULL,
    answered_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX answers_invoice_id ON answers (invoice_id);
CREATE TYPE answer_row AS (command_id uuid, command_type text, answer text, correlation_id text, reason text, detail text,
    invoice_id text, content_hash bytea);
"""
