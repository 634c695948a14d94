"""Cases and failed messages are found by the ends of their ids and invoice numbers: they may be all that is known of a payment."""

from shared.persistence.migrate import make_indexes

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    make_indexes(SCHEMA)


SCHEMA = """
CREATE INDEX cases_invoice_end ON cases (reverse(invoice_id) COLLATE "C");
CREATE INDEX dead_letters_invoice_end ON dead_letters (reverse(invoice_id) COLLATE "C") WHERE invoice_id IS NOT NULL;
CREATE INDEX dead_letters_payment_end ON dead_letters (reverse(payment_id::text) COLLATE "C") WHERE payment_id IS NOT NULL;
CREATE INDEX dead_letters_event_end ON dead_letters (reverse(event_id::text) COLLATE "C") WHERE event_id IS NOT NULL;
"""
