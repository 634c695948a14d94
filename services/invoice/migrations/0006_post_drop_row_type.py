"""The type that only the build without outline hashes wrote."""

from shared.persistence.migrate import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
DROP TYPE answer_row_2;
"""
