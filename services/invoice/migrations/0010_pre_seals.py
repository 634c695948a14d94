"""Events and answers are sealed: a chain of digests over what was written shows when a row was changed, added or taken out later."""

from shared.persistence.migrate import run_sql

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
-- The transaction that wrote the row, by which seals divide the rows. 0: it was written before there were seals.
ALTER TABLE events ADD written_in bigint NOT NULL DEFAULT 0;
ALTER TABLE events ALTER written_in SET DEFAULT pg_current_xact_id()::text::bigint;
ALTER TABLE answers ADD written_in bigint NOT NULL DEFAULT 0;
ALTER TABLE answers ALTER written_in SET DEFAULT pg_current_xact_id()::text::bigint;

CREATE TABLE seals (
    number      bigint PRIMARY KEY DEFAULT 0 CHECK (number > 0),  -- the trigger gives number and hash, whatever build makes it
    book        text NOT NULL CHECK (book IN ('events', 'answers')),  -- the table
    from_tx     bigint NOT NULL,    -- sealed are the rows that were written in the transactions from this one on
    until_tx    bigint NOT NULL CHECK (until_tx > from_tx),  -- up to before this one
    row_count   bigint NOT NULL,
    salt        bytea,              -- NULL: a purge changed rows. Without it, the digest gives nothing away by trying
    digest      bytea NOT NULL,     -- of salt and rows. Empty: the rows of before, which are only counted
    left_salt   bytea,              -- and of what the last purge has left
    left_digest bytea,
    hash        bytea NOT NULL DEFAULT '' CHECK (length(hash) = 32),  -- of the hash before and of what purges do not change
    at          timestamptz NOT NULL,
    CONSTRAINT seals_purged CHECK ((salt IS NULL) = (left_salt IS NOT NULL) AND (left_salt IS NULL) = (left_digest IS NULL))
);
CREATE UNIQUE INDEX seals_until ON seals (book, until_tx);
CREATE UNIQUE INDEX seals_from ON seals (book, from_tx);

-- How far the numbers of transactions are ahead of this server's own. A database that was restored into another server goes on with higher
-- numbers than it had, although that server counts from the beginning. `remit migrate` sees to it. No row: they are the server's own.
CREATE TABLE seal_numbering (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    ahead    bigint NOT NULL
);

CREATE FUNCTION chain_seal() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    before record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('remit.seals', 0));
    SELECT s.number, s.hash INTO before FROM public.seals s ORDER BY s.number DESC LIMIT 1;
    NEW.number := coalesce(before.number, 0) + 1;
    NEW.hash := sha256(coalesce(before.hash, '') || convert_to(concat_ws('|', NEW.number, NEW.book, NEW.from_tx, NEW.until_tx,
        NEW.row_count, (extract(epoch FROM NEW.at) * 1000000)::bigint, encode(NEW.digest, 'hex')), 'UTF8'));
    RETURN NEW;
END $$;
CREATE TRIGGER seals_chained BEFORE INSERT ON seals FOR EACH ROW EXECUTE FUNCTION chain_seal();

-- One change is let through: a purge takes the salt away, and says what it has left.
CREATE FUNCTION refuse_change_of_seal() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.salt IS NULL AND NEW.digest <> ''
        AND (NEW.number, NEW.book, NEW.from_tx, NEW.until_tx, NEW.row_count, NEW.digest, NEW.hash, NEW.at)
            = (OLD.number, OLD.book, OLD.from_tx, OLD.until_tx, OLD.row_count, OLD.digest, OLD.hash, OLD.at) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'seals are append-only';
END $$;
CREATE TRIGGER seals_append_only BEFORE DELETE OR UPDATE ON seals FOR EACH ROW EXECUTE FUNCTION refuse_change_of_seal();
"""
