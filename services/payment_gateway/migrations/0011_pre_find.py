"""An old payment is looked for at the gateway before it is begun there, and becomes a case if the gateway cannot tell."""

from shared.persistence.migrate import run_sql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
-- when it was requested first, if that was long before this row was made
ALTER TABLE payments ADD requested_at timestamptz;
-- every row fits it, since it only allows more than before
ALTER TABLE payments DROP CONSTRAINT recorded_before_confirmed,
    ADD CONSTRAINT recorded_before_confirmed
    CHECK (gateway_id IS NOT NULL OR status IN ('requested', 'not_charged', 'needs_decision')) NOT VALID;
"""
