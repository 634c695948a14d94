"""A refund that a person called made although the gateway had not made it is marked, so that nobody looks for it there any more."""

from shared.persistence.migrate import run_sql

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run_sql(
        "ALTER TABLE refunds ADD made_elsewhere boolean NOT NULL DEFAULT false"
    )  # the build before does not name it
