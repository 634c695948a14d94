"""What staff hear: messages as facts, the invoices, payments and commands they tell of, running instances, and queues."""

from shared.persistence.migrate import run_sql

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
-- A message as facts: never its body, and nothing that pays. `type` is a number of `services.staff.heard`.
CREATE TABLE messages (
    id         uuid NOT NULL,
    at         timestamptz NOT NULL,
    type       smallint NOT NULL,
    invoice_id text COLLATE "C",
    payment_id uuid,
    cause      uuid,
    facts      jsonb NOT NULL,
    PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
CREATE INDEX messages_invoice ON messages (invoice_id, at);
-- The gateway's id of a refund, which customers are told. 16: PaymentRefunded.
CREATE INDEX messages_refund ON messages (left(facts ->> 'refund_id', 255)) WHERE type = 16;
-- A week each, made ahead and dropped whole. They are in a schema of their own: nobody reads or writes them but through `messages`.
-- In the first one is what no week is there for: what comes late, or from a clock that is wrong.
CREATE SCHEMA weeks;
CREATE TABLE weeks.messages_other PARTITION OF messages DEFAULT;
CREATE TYPE message_row AS (id uuid, at timestamptz, type smallint, invoice_id text, payment_id uuid, cause uuid, facts jsonb);

CREATE TABLE invoices (
    invoice_id   text COLLATE "C" PRIMARY KEY,
    customer_id  text COLLATE "C",
    amount_minor bigint,
    currency     text COLLATE "C",
    status       text COLLATE "C" NOT NULL,
    issued_at    timestamptz,
    changed_at   timestamptz NOT NULL
);
CREATE INDEX invoices_customer ON invoices (customer_id, issued_at DESC);
CREATE INDEX invoices_end ON invoices (reverse(invoice_id) COLLATE "C");
CREATE INDEX invoices_amount ON invoices (currency, amount_minor, issued_at);
CREATE INDEX invoices_issued ON invoices (issued_at);
CREATE TYPE invoice_row AS (invoice_id text, customer_id text, amount_minor bigint, currency text, status text, issued_at timestamptz,
    changed_at timestamptz);

-- `version` is that of the payment that told its status; 0: nobody has told it yet.
CREATE TABLE payments (
    payment_id     uuid PRIMARY KEY,
    invoice_id     text COLLATE "C" NOT NULL,
    amount_minor   bigint,
    currency       text COLLATE "C",
    status         text COLLATE "C" NOT NULL,
    version        integer NOT NULL,
    receipt_number text COLLATE "C",
    reference_code text COLLATE "C",
    gateway_id     text COLLATE "C",
    correlation_id text COLLATE "C" NOT NULL,
    requested_at   timestamptz NOT NULL,
    settled_at     timestamptz
);
CREATE INDEX payments_invoice ON payments (invoice_id);
-- Receipt numbers and correlation ids are as others wrote them, and a key of an index has at most 2 700 bytes.
CREATE INDEX payments_receipt ON payments (left(receipt_number, 255)) WHERE receipt_number IS NOT NULL;
CREATE INDEX payments_reference ON payments (reference_code) WHERE reference_code IS NOT NULL;
CREATE INDEX payments_gateway ON payments (left(gateway_id, 255)) WHERE gateway_id IS NOT NULL;
CREATE INDEX payments_end ON payments (reverse(payment_id::text) COLLATE "C");
CREATE INDEX payments_correlation ON payments (left(correlation_id, 255));
CREATE INDEX payments_amount ON payments (currency, amount_minor, requested_at);
CREATE INDEX payments_settled ON payments (settled_at);
CREATE INDEX payments_unsettled ON payments (requested_at) WHERE settled_at IS NULL;
CREATE TYPE payment_row AS (payment_id uuid, invoice_id text, amount_minor bigint, currency text, status text, version integer,
    receipt_number text, reference_code text, gateway_id text, correlation_id text, requested_at timestamptz, settled_at timestamptz);

CREATE TABLE commands (
    command_id uuid PRIMARY KEY,
    type       text COLLATE "C" NOT NULL,
    invoice_id text COLLATE "C",
    answer     text COLLATE "C" NOT NULL,
    reason     text COLLATE "C",
    at         timestamptz NOT NULL
);
CREATE INDEX commands_invoice ON commands (invoice_id);
CREATE INDEX commands_end ON commands (reverse(command_id::text) COLLATE "C");
CREATE INDEX commands_at ON commands (at);
CREATE TYPE command_row AS (command_id uuid, type text, invoice_id text, answer text, reason text, at timestamptz);

-- The newest heartbeat of each instance, and our queues as the broker last counted them.
CREATE TABLE instances (
    instance text COLLATE "C" PRIMARY KEY,
    service  text COLLATE "C" NOT NULL,
    said_at  timestamptz NOT NULL,
    heard_at timestamptz NOT NULL,
    first_at timestamptz NOT NULL,
    state    jsonb NOT NULL
);
CREATE TABLE queues (
    name      text COLLATE "C" PRIMARY KEY,
    messages  bigint,
    consumers integer,
    seen_at   timestamptz NOT NULL,
    still_since timestamptz
);

-- A service's role may neither make nor drop tables, so it does both through this. Returns how many weeks were made or dropped.
CREATE FUNCTION keep_weeks_of_messages(weeks_ahead integer, days_kept integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, public, pg_temp SET lock_timeout TO '3s' AS $$
DECLARE
    first date := date_trunc('week', now() AT TIME ZONE 'UTC')::date;
    week date;
    named text;
    changed integer := 0;
BEGIN
    IF weeks_ahead NOT BETWEEN 1 AND 8 OR days_kept NOT BETWEEN 7 AND 3650 THEN
        RAISE EXCEPTION 'no such time to keep messages for';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('staff.messages', 0));
    FOR number IN 0..weeks_ahead LOOP
        week := first + 7 * number;
        named := 'messages_' || to_char(week, 'IYYY"w"IW');
        IF to_regclass('weeks.' || named) IS NULL THEN
            EXECUTE format('CREATE TABLE weeks.%I (LIKE public.messages INCLUDING ALL)', named);
            EXECUTE format('WITH moved AS (DELETE FROM weeks.messages_other WHERE at >= %L AND at < %L RETURNING *)
                INSERT INTO weeks.%I SELECT * FROM moved', week || ' 00:00+00', week + 7 || ' 00:00+00', named);
            EXECUTE format('ALTER TABLE public.messages ATTACH PARTITION weeks.%I FOR VALUES FROM (%L) TO (%L)',
                named, week || ' 00:00+00', week + 7 || ' 00:00+00');
            changed := changed + 1;
        END IF;
    END LOOP;
    FOR named IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'public.messages'::regclass AND c.relname ~ '^messages_[0-9]{4}w[0-9]{2}$'
            AND to_date(substr(c.relname, 10), 'IYYY"w"IW') + 7 <= (now() AT TIME ZONE 'UTC')::date - days_kept
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE weeks.%I', named);
        changed := changed + 1;
    END LOOP;
    DELETE FROM weeks.messages_other WHERE at < now() - make_interval(days => days_kept);
    RETURN changed;
END $$;
"""
