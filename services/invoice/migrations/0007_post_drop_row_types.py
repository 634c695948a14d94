"""The row types that only the build without outline hashes and refunds wrote."""

from shared.persistence.migrate import run_sql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql(SCHEMA)


SCHEMA = """
DROP TYPE answer_row_2;
DROP TYPE invoice_row_2;
"""
