"""The row type that only the build before wrote."""

from shared.persistence.migrate import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql("DROP TYPE saga_row;")
