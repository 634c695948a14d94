"""The row type that only the build without refunds wrote."""

from shared.persistence.migrate import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql("DROP TYPE saga_row_2;")
