"""A seal finds the rows that were written since the one before."""

from shared.persistence.migrate import make_indexes

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    make_indexes(SCHEMA)


SCHEMA = """
CREATE INDEX outcomes_written_in ON outcomes (written_in);
CREATE INDEX decisions_written_in ON decisions (written_in);
"""
