"""The outbox has two lanes, so that what carries words of others never holds up what the services say to each other."""

from shared.persistence.migrate import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
ALTER TABLE outbox ADD lane text NOT NULL DEFAULT 'inside', ADD losses smallint NOT NULL DEFAULT 0;
CREATE INDEX outbox_due ON outbox (lane, sweep_after);
-- The build before sweeps without its index: the table holds few rows.
DROP INDEX outbox_sweep_after;
CREATE OR REPLACE VIEW outbox_messages AS  -- one message a row, for people and for the audit
    SELECT m.*, o.id AS outbox_batch, o.created_at, o.sweep_after, o.refusals, o.lane, o.losses FROM outbox o CROSS JOIN LATERAL unnest(
        ids, exchanges, routing_keys, types, correlation_ids, content_types, headers, droppable, bodies, message_ids, reply_tos
    ) AS m (id, exchange, routing_key, type, correlation_id, content_type, headers, droppable, body, message_id, reply_to);
"""
