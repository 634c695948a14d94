"""The row types that only the build before wrote."""

from shared.persistence.migrate import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql("DROP TYPE payment_row, payment_update;")
