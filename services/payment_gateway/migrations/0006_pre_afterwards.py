"""What a payment was settled as before, and what the gateway says about it since."""

from shared.persistence.migrate import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
-- settled_as: the outcome before the present one. gateway_side: what the gateway said when it contradicted us, or agreed with a person
ALTER TABLE payments ADD settled_as text, ADD gateway_side jsonb;
-- Only a capture that came late is due: it is announced again until it is given back.
UPDATE payments SET settled_as = 'not_charged' WHERE status = 'captured' AND due_at IS NOT NULL;
"""
