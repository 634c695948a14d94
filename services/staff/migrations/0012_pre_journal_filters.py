"""The journal is looked through by who, what, about what and when, the latest first."""

from shared.persistence.migrate import make_indexes

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    make_indexes(SCHEMA)


SCHEMA = """
-- One for each way to look, with the place in the chain behind it: so a page is read in its order, whoever was busy and whoever was not.
-- Statistics would not help, since one plan serves all values (`plan_cache_mode`).
CREATE INDEX journal_action ON journal (action, position);
CREATE INDEX journal_who_action ON journal (who, action, position);
CREATE INDEX journal_subject_position ON journal (subject, position);
CREATE INDEX journal_subject_end ON journal (reverse(subject::text) COLLATE "C");
CREATE INDEX journal_about ON journal ((details->>'about'), position) WHERE details ? 'about';
CREATE INDEX journal_at ON journal (at, position);
"""
