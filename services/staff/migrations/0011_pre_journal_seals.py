"""Seals of the journal, and how far it was checked."""

from shared.persistence.migrate import run_sql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
-- The head of the journal as it was once. It goes elsewhere, too: in an event, and into a file.
CREATE TABLE seals (
    position bigint PRIMARY KEY CHECK (position > 0),
    hash     bytea NOT NULL CHECK (length(hash) = 32),
    at       timestamptz NOT NULL
);
CREATE FUNCTION refuse_change_of_seal() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'seals are append-only';
END $$;
CREATE TRIGGER seals_append_only BEFORE DELETE OR UPDATE ON seals FOR EACH ROW EXECUTE FUNCTION refuse_change_of_seal();

-- One row at most: how far the present look at the chain has come, and how the last one ended.
CREATE TABLE journal_check (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    asked_at      timestamptz,                 -- somebody wants a new look; NULL: nobody does
    begun_at      timestamptz,                 -- NULL: no look goes on
    position      bigint NOT NULL DEFAULT 0,   -- all entries up to here are whole
    hash          bytea  NOT NULL DEFAULT '',
    seals         bigint NOT NULL DEFAULT 0,   -- that the entries were compared with
    seals_outside bigint NOT NULL DEFAULT 0,   -- of which stand in the file
    checked_at    timestamptz,                 -- when the last look ended; NULL: there was none
    broken_at     bigint,                      -- the first entry that was not as it had been; NULL: none
    broken_why    text,
    entries       bigint NOT NULL DEFAULT 0,   -- from here on: what the last look saw that found the chain whole
    head          bytea  NOT NULL DEFAULT '',
    sealed        bigint NOT NULL DEFAULT 0,
    sealed_outside bigint NOT NULL DEFAULT 0
);
"""
