"""Drops the old name and the trigger that kept both equal. No instance of the old build may be left."""

from shared.persistence.migrate import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql("""
DROP TRIGGER names_alike ON customers;
DROP FUNCTION keep_names_alike;
ALTER TABLE customers DROP name;
ALTER TABLE customers ALTER legal_name SET NOT NULL;
""")
