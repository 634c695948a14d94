"""Dead letters say what they are about and which group they are of. A table counts the groups, whatever build writes the letters."""

from shared.persistence.migrate import run_sql

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = r"""
-- All of these are NULL in what the build before stores, and in what is there: the service reads those letters afterwards, page by page.
-- So `may_charge` is NULL for a letter that was not read yet.
ALTER TABLE dead_letters
    ADD grp          text,
    ADD invoice_id   text,
    ADD payment_id   uuid,
    ADD amount_minor bigint,
    ADD currency     text,
    ADD may_charge   boolean,      -- a replay of it may charge a card
    ADD asked_at     timestamptz,  -- when that was asked for
    -- The last replay, by its entry in the journal, and what became of it. NULL: nothing was heard of it.
    ADD replay_entry   uuid,
    ADD outcome        text CHECK (outcome IN ('handled', 'duplicate', 'rejected')),
    ADD outcome_reason text,
    ADD outcome_at     timestamptz;

CREATE TABLE dead_letter_groups (
    grp        text        PRIMARY KEY,
    queue      text        NOT NULL,
    type       text,
    reason     text        NOT NULL,
    error_type text,
    open       integer     NOT NULL,
    replayed   integer     NOT NULL,
    discarded  integer     NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen  timestamptz NOT NULL,
    example    uuid        NOT NULL,  -- the letter that was seen last
    hour       bigint      NOT NULL,  -- hours since 1970, of the last element of `hourly`
    hourly     integer[]   NOT NULL   -- how many arrived in each of 24 hours
);

CREATE FUNCTION letter_group(queue text, type text, reason text, error_type text) RETURNS text LANGUAGE sql STABLE
    RETURN left(encode(sha256(convert_to(jsonb_build_array(queue, type, reason, error_type)::text, 'UTF8')), 'hex'), 8);

CREATE FUNCTION name_group() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    NEW.grp := public.letter_group(NEW.queue, NEW.type, NEW.reason, NEW.error_type);
    RETURN NEW;
END $$;

-- The counts of two rows that end at different hours, added up, until the later one of them.
CREATE FUNCTION hours_until(hourly integer[], hour bigint, to_hour bigint) RETURNS integer[] LANGUAGE sql STABLE
    RETURN CASE WHEN to_hour <= hour THEN hourly
        ELSE (hourly || array_fill(0, ARRAY[least(to_hour - hour, 24)::integer]))[least(to_hour - hour, 24)::integer + 1:] END;
CREATE FUNCTION add_hours(a integer[], a_hour bigint, b integer[], b_hour bigint) RETURNS integer[] LANGUAGE sql STABLE
    RETURN ARRAY(SELECT u.x + u.y FROM unnest(
        hours_until(a, a_hour, greatest(a_hour, b_hour)),
        hours_until(b, b_hour, greatest(a_hour, b_hour))) WITH ORDINALITY AS u (x, y, n) ORDER BY u.n);

CREATE TYPE letter_count AS (
    grp text, queue text, type text, reason text, error_type text,
    open integer, replayed integer, discarded integer, arrived integer, first_seen timestamptz, last_seen timestamptz, example uuid
);

-- What a statement changes is added to the groups in the order of their keys, so that two transactions do not wait for each other. It runs
-- as its owner: a purge, too, changes letters, and has no right to these counts. A group without letters goes, and its words with it.
CREATE FUNCTION count_groups() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    changes public.letter_count[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        changes := ARRAY(SELECT (n.grp, min(n.queue), min(n.type), min(n.reason), min(n.error_type),
                count(*) FILTER (WHERE n.status = 'open'), count(*) FILTER (WHERE n.status = 'replayed'),
                count(*) FILTER (WHERE n.status = 'discarded'), sum(n.seen), min(n.first_seen), max(n.last_seen),
                (array_agg(n.id ORDER BY n.last_seen DESC))[1])::public.letter_count
            FROM new_letters n GROUP BY n.grp);
    ELSE
        changes := ARRAY(SELECT (c.grp, min(c.queue), min(c.type), min(c.reason), min(c.error_type),
                coalesce(sum(c.sign) FILTER (WHERE c.status = 'open'), 0), coalesce(sum(c.sign) FILTER (WHERE c.status = 'replayed'), 0),
                coalesce(sum(c.sign) FILTER (WHERE c.status = 'discarded'), 0), sum(c.arrived), min(c.first_seen), max(c.last_seen),
                (array_agg(c.id ORDER BY c.sign DESC, c.last_seen DESC))[1])::public.letter_count
            FROM (
                SELECT n.id, n.grp, n.queue, n.type, n.reason, n.error_type, n.status, n.first_seen, n.last_seen, 1 AS sign,
                    greatest(n.seen - o.seen, 0) AS arrived
                FROM new_letters n JOIN old_letters o ON o.id = n.id
                UNION ALL
                SELECT o.id, public.letter_group(o.queue, o.type, o.reason, o.error_type), o.queue, o.type, o.reason, o.error_type,
                    o.status, o.first_seen, o.last_seen, -1, 0
                FROM old_letters o
            ) c
            GROUP BY c.grp, c.queue
            HAVING sum(c.sign) FILTER (WHERE c.status = 'open') <> 0 OR sum(c.sign) FILTER (WHERE c.status = 'replayed') <> 0
                OR sum(c.sign) FILTER (WHERE c.status = 'discarded') <> 0 OR sum(c.arrived) <> 0);
    END IF;
    INSERT INTO public.dead_letter_groups AS g (grp, queue, type, reason, error_type, open, replayed, discarded,
            first_seen, last_seen, example, hour, hourly)
        SELECT c.grp, c.queue, c.type, c.reason, c.error_type, c.open, c.replayed, c.discarded, c.first_seen, c.last_seen, c.example,
            floor(extract(epoch FROM c.last_seen) / 3600)::bigint, array_fill(0, ARRAY[23]) || c.arrived
        FROM unnest(changes) c ORDER BY c.grp
        ON CONFLICT (grp) DO UPDATE SET
            open = g.open + excluded.open, replayed = g.replayed + excluded.replayed, discarded = g.discarded + excluded.discarded,
            first_seen = least(g.first_seen, excluded.first_seen), last_seen = greatest(g.last_seen, excluded.last_seen),
            example = CASE WHEN excluded.last_seen >= g.last_seen THEN excluded.example ELSE g.example END,
            hourly = public.add_hours(g.hourly, g.hour, excluded.hourly, excluded.hour), hour = greatest(g.hour, excluded.hour);
    DELETE FROM public.dead_letter_groups g
        WHERE g.grp = ANY(ARRAY(SELECT c.grp FROM unnest(changes) c)) AND g.open = 0 AND g.replayed = 0 AND g.discarded = 0;
    RETURN NULL;
END $$;

-- Until the triggers are there nobody may write: what comes in between would be counted by neither.
LOCK TABLE dead_letters IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO dead_letter_groups (grp, queue, type, reason, error_type, open, replayed, discarded, first_seen, last_seen, example, hour,
        hourly)
    SELECT grouped.grp, queue, type, reason, error_type, open, replayed, discarded, first_seen, last_seen, example, h.last,
        ARRAY(SELECT (SELECT count(*)::integer FROM unnest(hours) arrived (at) WHERE arrived.at = h.last - 24 + n)
              FROM generate_series(1, 24) n ORDER BY n)
    FROM (
        SELECT letter_group(queue, type, reason, error_type) AS grp, queue, type, reason, error_type,
            count(*) FILTER (WHERE status = 'open') AS open, count(*) FILTER (WHERE status = 'replayed') AS replayed,
            count(*) FILTER (WHERE status = 'discarded') AS discarded, min(first_seen) AS first_seen, max(last_seen) AS last_seen,
            (array_agg(id ORDER BY last_seen DESC))[1] AS example,
            array_agg(floor(extract(epoch FROM last_seen) / 3600)::bigint) FILTER (WHERE last_seen > now() - interval '1 day') AS hours
        FROM dead_letters GROUP BY queue, type, reason, error_type
    ) grouped, LATERAL (SELECT floor(extract(epoch FROM grouped.last_seen) / 3600)::bigint AS last) h;
CREATE TRIGGER dead_letters_group BEFORE INSERT OR UPDATE ON dead_letters FOR EACH ROW EXECUTE FUNCTION name_group();
CREATE TRIGGER dead_letters_inserted AFTER INSERT ON dead_letters REFERENCING NEW TABLE AS new_letters
    FOR EACH STATEMENT EXECUTE FUNCTION count_groups();
CREATE TRIGGER dead_letters_updated AFTER UPDATE ON dead_letters REFERENCING OLD TABLE AS old_letters NEW TABLE AS new_letters
    FOR EACH STATEMENT EXECUTE FUNCTION count_groups();
"""
