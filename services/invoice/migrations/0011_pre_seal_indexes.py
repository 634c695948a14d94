"""A seal finds the rows that were written since the one before."""

from shared.persistence.migrate import make_indexes

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    make_indexes(SCHEMA)


SCHEMA = """
CREATE INDEX events_written_in ON events (written_in);
CREATE INDEX answers_written_in ON answers (written_in);
"""
