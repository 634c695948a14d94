"""A refund that a person had made keeps who it was."""

from shared.persistence.migrate import run_sql

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_sql("ALTER TABLE refunds ADD asked_by text")  # the build before does not name it
