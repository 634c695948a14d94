"""Dead letters are found by group, by invoice, by what is new, and by not having been read yet."""

from shared.persistence.migrate import make_indexes

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    make_indexes(SCHEMA)


SCHEMA = """
CREATE INDEX dead_letters_open ON dead_letters (last_seen DESC, id DESC) WHERE status = 'open';
CREATE INDEX dead_letters_seen ON dead_letters (last_seen DESC, id DESC);
CREATE INDEX dead_letters_grp ON dead_letters (grp, status, last_seen DESC, id DESC);
CREATE INDEX dead_letters_oldest ON dead_letters (grp, first_seen, id) WHERE status = 'open';
-- What replaying a group would charge is added up from the index alone.
CREATE INDEX dead_letters_charging ON dead_letters (grp) INCLUDE (currency, amount_minor) WHERE status = 'open' AND may_charge;
CREATE INDEX dead_letters_invoice_id ON dead_letters (invoice_id);
CREATE INDEX dead_letters_replay_entry ON dead_letters (replay_entry) WHERE replay_entry IS NOT NULL;
CREATE INDEX dead_letters_unread ON dead_letters (last_seen) WHERE may_charge IS NULL;
"""
