"""Refunds have rows of their own: a payment can be given back in parts, each under an id of its own."""

from shared.persistence.migrate import run_sql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
CREATE TABLE refunds (
    payment_id    uuid NOT NULL,
    refund_id     uuid NOT NULL,              -- the payment's id: all that is left, because the invoice could not take the money
    position      integer NOT NULL,           -- the order in which they were asked for
    reason        text NOT NULL,
    asked_minor   bigint,                     -- NULL: all that is left
    status        text NOT NULL,
    amount_minor  bigint,                     -- NULL: the gateway has not said yet what is left
    by_hand_minor bigint NOT NULL,            -- what others had given back of the payment by then
    version       integer NOT NULL,           -- of the payment, at the newest outcome of this refund
    key_number    integer NOT NULL,
    gateway_id    text,                       -- the gateway's id of its newest try
    decided_by    text,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (payment_id, refund_id)
);
CREATE TYPE refund_row AS (payment_id uuid, refund_id uuid, position integer, reason text, asked_minor bigint, status text,
    amount_minor bigint, by_hand_minor bigint, version integer, key_number integer, gateway_id text, decided_by text);
-- The build before keeps its one refund of a payment in the payment's row. What it begins after this step is read from there.
INSERT INTO refunds (payment_id, refund_id, position, reason, status, amount_minor, by_hand_minor, version, key_number, gateway_id,
        decided_by)
    SELECT payment_id, payment_id, 1, 'the invoice could not take the money',
           CASE WHEN status = 'refunded' THEN 'refunded' WHEN status = 'refund_failed' AND decided_by IS NOT NULL THEN 'kept'
                ELSE 'at_work' END,
           CASE WHEN status = 'refunded' THEN amount_minor END, 0, CASE WHEN status = 'refunding' THEN 0 ELSE version END, 1, refund_id,
           decided_by
    FROM payments WHERE status IN ('refunding', 'refund_in_doubt', 'refund_failed', 'refunded');
"""
