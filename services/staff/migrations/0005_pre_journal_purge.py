"""A purge can take words out of an entry of the journal, and put none in: not even who may purge can make an entry say something else."""

from shared.persistence.migrate import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = r"""
-- What is left (services/purge/cleaner.py), the new id of an invoice among it, stands for whatever was there. All the rest of an entry has
-- to be there already, in this order.
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.salt IS NULL
        AND (NEW.id, NEW.at, NEW.action, NEW.subject, NEW.position, NEW.digest, NEW.hash)
            = (OLD.id, OLD.at, OLD.action, OLD.subject, OLD.position, OLD.digest, OLD.hash)
        AND (SELECT bool_and(before LIKE regexp_replace(regexp_replace(after, '([\\%_])', '\\\1', 'g'),
                '"\[card data removed\]"|\[card data removed\]|\[card number\]|card-data-removed|\*\*\*|purged-[0-9a-f-]{36}', '%', 'g'))
            FROM (VALUES (OLD.who, NEW.who), (OLD.details::text, NEW.details::text)) AS texts (before, after)) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the journal is append-only';
END $$;
"""
