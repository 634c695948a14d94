"""The table that the old build uses: customers with a name."""

from shared.persistence.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql("CREATE TABLE customers (id uuid PRIMARY KEY, name text NOT NULL);")
