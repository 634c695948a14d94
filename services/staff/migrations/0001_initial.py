"""Dead letters, cases, the journal; inbox, outbox."""

from shared.persistence.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
CREATE TABLE dead_letters (
    id             uuid PRIMARY KEY,
    queue          text NOT NULL,
    origin         text NOT NULL CHECK (origin IN ('remit', 'broker')),
    reason         text NOT NULL,
    error_type     text,
    error_text     text,
    tries          integer NOT NULL,
    generation     integer NOT NULL,
    failed_at      timestamptz,
    exchange       text,
    routing_key    text,
    message_id     text,
    event_id       uuid,
    type           text,
    content_type   text,
    correlation_id text,
    reply_to       text,
    headers        jsonb NOT NULL,
    body           bytea,
    body_bytes     integer NOT NULL,
    withheld       text,
    replays        integer NOT NULL,
    seen           integer NOT NULL,
    status         text NOT NULL CHECK (status IN ('open', 'replayed', 'discarded')),
    first_seen     timestamptz NOT NULL,
    last_seen      timestamptz NOT NULL,
    settled_by     text,
    settled_at     timestamptz,
    settled_reason text,
    CHECK ((body IS NULL) = (withheld IS NOT NULL))
);
CREATE INDEX dead_letters_status ON dead_letters (status, last_seen);
CREATE INDEX dead_letters_erasable ON dead_letters (settled_at) WHERE settled_at IS NOT NULL AND body IS NOT NULL;

CREATE TABLE cases (
    payment_id       uuid PRIMARY KEY,
    invoice_id       text NOT NULL,
    correlation_id   text NOT NULL,
    status           text NOT NULL,
    version          integer NOT NULL,
    reason           text,
    decided_by       text,
    amount_minor     bigint,
    currency         text,
    gateway_id       text,
    attempts_version integer NOT NULL,
    details          jsonb NOT NULL,  -- attempts, refusals, the last decision sent
    opened_at        timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL
);
CREATE INDEX cases_status ON cases (status, opened_at);

CREATE TABLE journal (
    id      uuid PRIMARY KEY,
    at      timestamptz NOT NULL,
    who     text NOT NULL,
    action  text NOT NULL CHECK (action IN ('replay', 'discard', 'ask', 'resolve')),
    subject uuid NOT NULL,
    details jsonb NOT NULL
);
CREATE INDEX journal_subject ON journal (subject, at);

-- This guards against a mistake of ours: no statement of the service may change an entry. TRUNCATE stays possible, because tests empty
-- their databases with it. The table's owner, as whom the service connects, could drop the trigger. Against people, revoke rights and
-- archive.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the journal is append-only'; END $$;
CREATE TRIGGER journal_append_only BEFORE UPDATE OR DELETE ON journal FOR EACH ROW EXECUTE FUNCTION refuse_change();

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
