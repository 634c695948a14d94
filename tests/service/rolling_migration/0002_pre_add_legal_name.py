"""Adds the column's new name beside the old one. A trigger keeps both equal, whichever of them a build writes."""

from shared.persistence.migrate import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql("""
ALTER TABLE customers ADD legal_name text;
CREATE FUNCTION keep_names_alike() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.legal_name := coalesce(NEW.legal_name, NEW.name);
        NEW.name := NEW.legal_name;
    ELSIF NEW.name IS DISTINCT FROM OLD.name THEN
        NEW.legal_name := NEW.name;
    ELSE
        NEW.name := NEW.legal_name;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER names_alike BEFORE INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION keep_names_alike();
UPDATE customers SET legal_name = name;
""")
