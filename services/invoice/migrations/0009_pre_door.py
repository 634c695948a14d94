"""What the door needs: which commands were set aside, and the tokens by which senders ask."""

from shared.persistence.migrate import run_sql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
CREATE TABLE set_aside (  -- a command that became a dead letter. Its answer, once there is one, counts, and not this row
    command_id   uuid PRIMARY KEY,  -- under which the answer will be kept
    reason       text NOT NULL,
    set_aside_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX set_aside_set_aside_at ON set_aside (set_aside_at);

CREATE TABLE sender_tokens (
    id         uuid PRIMARY KEY,
    sender     text NOT NULL,
    hash       bytea NOT NULL UNIQUE,  -- of the token, which is kept nowhere
    made_at    timestamptz NOT NULL,
    ends_at    timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX sender_tokens_sender ON sender_tokens (sender);
"""
