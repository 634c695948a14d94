"""`remit find` looks up by an index: commands by the ids of their senders, receipts, codes of failed payments, refunds."""

from shared.persistence.migrate import make_indexes

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    make_indexes(SCHEMA)


SCHEMA = """
CREATE INDEX answers_sent_id ON answers (sent_id) WHERE sent_id IS NOT NULL;
-- Most commands have no correlation id but their own id, by which they are found anyway.
CREATE INDEX answers_correlation_id ON answers (correlation_id) WHERE correlation_id <> coalesce(sent_id, command_id)::text;
-- Not on `invoices`: there an index would make the update of every payment dearer. Events are only added.
CREATE INDEX events_receipt_number ON events ((data ->> 'receipt_number')) WHERE data ? 'receipt_number';
-- The first four characters of the code that a customer quotes (domain.reference_code): five bits of each byte.
CREATE INDEX events_reference ON events ((
    ((get_byte(sha256(uuid_send((data ->> 'payment_id')::uuid)), 0) & 31) << 15)
    | ((get_byte(sha256(uuid_send((data ->> 'payment_id')::uuid)), 1) & 31) << 10)
    | ((get_byte(sha256(uuid_send((data ->> 'payment_id')::uuid)), 2) & 31) << 5)
    | (get_byte(sha256(uuid_send((data ->> 'payment_id')::uuid)), 3) & 31)
)) WHERE type LIKE 'PaymentFailed.%';
CREATE INDEX refunds_refund_id ON refunds (refund_id);
"""
