"""Above a limit a second person must agree: proposals, the limits, and who is on a case or took note of what contradicts a decision."""

from shared.persistence.migrate import run_sql

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE cases
    ADD claimed_by           text,
    ADD claimed_at           timestamptz,
    ADD contradicted_version int,          -- of the payment, where the gateway contradicted the last decision of a person
    ADD noted_at             timestamptz,  -- somebody took note of the contradiction
    ADD contradicted_at      timestamptz;

CREATE TABLE proposals (
    id          uuid PRIMARY KEY,          -- of its entry in the journal
    payment_id  uuid        NOT NULL,
    version     int         NOT NULL,      -- of the payment that its proposer saw
    act         text        NOT NULL CHECK (act IN ('resolve', 'refund', 'discard')),
    asks        jsonb       NOT NULL,      -- what is said once another person agrees
    proposed_by text        NOT NULL,
    via         text        NOT NULL,
    proposed_at timestamptz NOT NULL,
    state       text        NOT NULL CHECK (state IN ('open', 'agreed', 'refused', 'withdrawn', 'outdated')),
    answered_by text,
    answered_at timestamptz,
    answer      text                       -- what the second person saw
);
CREATE UNIQUE INDEX proposals_open ON proposals (payment_id) WHERE state = 'open';
CREATE INDEX proposals_payment ON proposals (payment_id, proposed_at);

-- In the database, so that the limit of whoever acts is that of the staff service, and not one of their own terminal.
CREATE TABLE second_person_limits (
    currency    text   PRIMARY KEY CHECK (currency ~ '^[A-Z]{3}$'),
    above_minor bigint NOT NULL CHECK (above_minor >= 0)
);
-- As of the declaration of the setting, until the staff service has written its own.
INSERT INTO second_person_limits VALUES ('EUR', 50000), ('USD', 50000);
"""
