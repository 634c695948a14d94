"""What people look up is found by an index: dead letters and cases by the ends of their ids, and by the ids of others that they hold."""

from shared.persistence.migrate import make_indexes

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    make_indexes(SCHEMA)


SCHEMA = """
-- An id is shortened to its end: UUIDs of the same minutes have the same beginning.
CREATE INDEX dead_letters_end ON dead_letters (reverse(id::text) COLLATE "C");
CREATE INDEX dead_letters_event_id ON dead_letters (event_id);
-- Both are as others wrote them, and a key of an index has at most 2 700 bytes.
CREATE INDEX dead_letters_message_id ON dead_letters (left(message_id, 255));
CREATE INDEX dead_letters_correlation_id ON dead_letters (left(correlation_id, 255));
CREATE INDEX cases_end ON cases (reverse(payment_id::text) COLLATE "C");
CREATE INDEX cases_invoice_id ON cases (invoice_id);
CREATE INDEX cases_correlation_id ON cases (correlation_id);
CREATE INDEX cases_gateway_id ON cases (gateway_id);
"""
