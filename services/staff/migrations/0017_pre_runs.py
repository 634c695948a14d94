"""Runs: fixed lists of dead letters that the service replays, step by step."""

from shared.persistence.migrate import run_sql

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
CREATE TABLE replay_runs (
    no          bigint      PRIMARY KEY,      -- counted up under a lock, so that none is missing
    id          uuid        NOT NULL UNIQUE,  -- of the run in the journal, and the cause of the ids of its replays
    state       text        NOT NULL CHECK (state IN ('previewed', 'running', 'waiting', 'paused', 'halted', 'stopped', 'done')),
    step        text        NOT NULL CHECK (step IN ('one', 'ten', 'hundred', 'rest')),
    title       text        NOT NULL,
    filter      jsonb       NOT NULL,         -- what was selected
    bins        jsonb       NOT NULL,         -- what the preview said
    made_by     text        NOT NULL,
    made_at     timestamptz NOT NULL,
    started_by  text,
    started_via text,
    started_at  timestamptz,
    reason      text,
    rate        integer     NOT NULL CHECK (rate BETWEEN 1 AND 500),  -- a second
    total       integer     NOT NULL,
    halted_by   uuid,                         -- the letter that stopped it
    halted_how  text,
    ended_at    timestamptz,                  -- it is over, and nothing of it is on its way
    paced_at    timestamptz,                  -- until when its speed is used up
    lease_owner uuid,
    lease_until timestamptz
);
CREATE INDEX replay_runs_at_work ON replay_runs (no) WHERE ended_at IS NULL AND state <> 'previewed';

CREATE TABLE replay_items (
    run_no       bigint      NOT NULL,
    position     integer     NOT NULL,
    letter_id    uuid        NOT NULL,
    -- 0 waits, 1 sent; 2 handled, 3 duplicate, 4 rejected, 5 failed again, 6 no sign, 7 left out, 8 listed by a preview, 9 not sent
    state        smallint    NOT NULL,
    may_charge   boolean     NOT NULL,
    currency     text,
    amount_minor bigint,
    first_seen   timestamptz NOT NULL,
    grp          text,                        -- that of its letter when the list was made: whether it failed in the same way again
    why          text,                        -- left out: the refusal. Otherwise the reason of the answer, or of the failure
    noted        boolean     NOT NULL DEFAULT false,  -- a person has seen that it failed, and lets the run go on
    replays      integer,
    entry_id     uuid,
    sent_at      timestamptz,
    ended_at     timestamptz,
    PRIMARY KEY (run_no, position)
);
-- A letter is in one run at a time.
CREATE UNIQUE INDEX replay_items_letter ON replay_items (letter_id) WHERE state < 2;
CREATE INDEX replay_items_state ON replay_items (run_no, state, position);
CREATE INDEX replay_items_ended ON replay_items (run_no, ended_at DESC) WHERE ended_at IS NOT NULL;
"""
