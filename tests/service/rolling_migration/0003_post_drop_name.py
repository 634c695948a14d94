"""The old name goes, and with it what kept both alike: no instance of the old build is left."""

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
