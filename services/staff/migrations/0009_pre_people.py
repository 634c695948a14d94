"""People who sign in at the desk, their sessions, the tokens of programs, the requests of one day, and the settings of the desk."""

from shared.persistence.migrate import run_sql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
CREATE TABLE people (
    id          uuid        PRIMARY KEY,
    name        text        NOT NULL CHECK (name <> ''),
    roles       text[]      NOT NULL CHECK (roles <@ ARRAY['viewer', 'replayer', 'resolver', 'admin']),
    password    text,                              -- as argon2 wrote it; NULL: who this is, the provider of single sign-on says
    login       text        UNIQUE,                -- who this is to that provider: its address and its name for the person
    active      boolean     NOT NULL DEFAULT true, -- nobody is deleted, because the journal names them
    preferences jsonb       NOT NULL DEFAULT '{}',
    made_at     timestamptz NOT NULL,
    CHECK ((password IS NULL) <> (login IS NULL))
);
-- Two names that differ in case only would look like one person to whoever reads the journal.
CREATE UNIQUE INDEX people_name ON people (lower(name));

CREATE TABLE tokens (
    id         uuid        PRIMARY KEY,
    name       text        NOT NULL CHECK (name <> ''),
    hash       bytea       NOT NULL UNIQUE,        -- SHA-256 of the token, which is random, and which nobody keeps
    roles      text[]      NOT NULL CHECK (roles <@ ARRAY['viewer', 'replayer', 'resolver', 'admin']),
    made_at    timestamptz NOT NULL,
    ends_at    timestamptz NOT NULL,
    used_at    timestamptz,
    revoked_at timestamptz
);
CREATE UNIQUE INDEX tokens_name ON tokens (lower(name)) WHERE revoked_at IS NULL;

CREATE TABLE sessions (
    hash      bytea       PRIMARY KEY,             -- SHA-256 of the cookie
    person_id uuid        NOT NULL,
    began_at  timestamptz NOT NULL,
    seen_at   timestamptz NOT NULL,
    ended_at  timestamptz,
    kept      jsonb                                -- the form that was sent after it had ended
);
CREATE INDEX sessions_person_id ON sessions (person_id, began_at DESC);
CREATE INDEX sessions_began_at ON sessions (began_at);

CREATE TABLE sign_ins (                            -- begun at the provider of single sign-on, and not come back yet
    state    bytea       PRIMARY KEY,              -- SHA-256 of the state that the provider gives back
    begun_at timestamptz NOT NULL,
    nonce    text        NOT NULL,
    verifier text        NOT NULL,
    page     text        NOT NULL
);
CREATE INDEX sign_ins_begun_at ON sign_ins (begun_at);

CREATE TABLE requests (                            -- so that a form that is sent twice shows its first result
    once   uuid        PRIMARY KEY,
    at     timestamptz NOT NULL,
    who    text        NOT NULL,
    act    text        NOT NULL,
    result jsonb       NOT NULL
);
CREATE INDEX requests_at ON requests (at);

CREATE TABLE settings (
    name  text        PRIMARY KEY,
    value jsonb       NOT NULL,
    at    timestamptz NOT NULL,
    who   text        NOT NULL
);
"""
