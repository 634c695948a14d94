"""The journal is a chain: each entry holds a hash over its own content and the hash of the entry before. And it may say what was purged."""

from shared.persistence.migrate import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
LOCK TABLE journal;
ALTER TABLE journal
    ADD position bigint NOT NULL DEFAULT 0,  -- the trigger gives these four their values, whatever build inserts the entry
    ADD salt     bytea,                      -- NULL: who and details were purged. Without it, a digest gives nothing away by trying
    ADD digest   bytea  NOT NULL DEFAULT '', -- of salt, who and details
    ADD hash     bytea  NOT NULL DEFAULT '', -- of the hash before, the digest and all other columns
    DROP CONSTRAINT journal_action_check,
    ADD CONSTRAINT journal_action_check CHECK (action IN ('replay', 'discard', 'ask', 'resolve', 'release', 'drop', 'purge'));

CREATE FUNCTION journal_digest(salt bytea, who text, details jsonb) RETURNS bytea LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    RETURN sha256(salt || convert_to(jsonb_build_array(who, details)::text, 'UTF8'));
CREATE FUNCTION journal_hash(hash_before bytea, "position" bigint, id uuid, at timestamptz, action text, subject uuid, digest bytea)
    RETURNS bytea LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    RETURN sha256(hash_before || convert_to(concat_ws('|',
        "position", id, (extract(epoch FROM at) * 1000000)::bigint, action, subject, encode(digest, 'hex')), 'UTF8'));

-- Entries are chained one after the other: the lock is held until the transaction ends, and each statement of this function sees what was
-- committed before it. The unique index refuses a fork in any case. The path is fixed, so that no temporary table can stand in for it.
CREATE FUNCTION chain_entry() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    before record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('staff.journal', 0));
    SELECT j.position, j.hash INTO before FROM public.journal j ORDER BY j.position DESC LIMIT 1;
    NEW.position := coalesce(before.position, 0) + 1;
    NEW.salt := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
    NEW.digest := public.journal_digest(NEW.salt, NEW.who, NEW.details);
    NEW.hash := public.journal_hash(coalesce(before.hash, ''), NEW.position, NEW.id, NEW.at, NEW.action, NEW.subject, NEW.digest);
    RETURN NEW;
END $$;

ALTER TABLE journal DISABLE TRIGGER journal_append_only;
DO $$
DECLARE
    entry record;
    place bigint := 0;
    before bytea := '';
    grain bytea;
    sum   bytea;
BEGIN
    FOR entry IN SELECT * FROM journal ORDER BY at, id LOOP
        place := place + 1;
        grain := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
        sum := journal_digest(grain, entry.who, entry.details);
        before := journal_hash(before, place, entry.id, entry.at, entry.action, entry.subject, sum);
        UPDATE journal SET position = place, salt = grain, digest = sum, hash = before WHERE id = entry.id;
    END LOOP;
END $$;
ALTER TABLE journal ENABLE TRIGGER journal_append_only;

CREATE UNIQUE INDEX journal_position ON journal (position);
CREATE TRIGGER journal_chained BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION chain_entry();

-- One change is let through: a purge takes card data out of who and details, and the salt with it. The chain stays as it is, and the
-- audit looks for the entry that tells of the purge.
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.salt IS NULL
        AND (NEW.id, NEW.at, NEW.action, NEW.subject, NEW.position, NEW.digest, NEW.hash)
            = (OLD.id, OLD.at, OLD.action, OLD.subject, OLD.position, OLD.digest, OLD.hash) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the journal is append-only';
END $$;
"""
