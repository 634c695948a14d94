"""Dead letters, cases, the journal; inbox, outbox."""

from services.staff import store
from shared.persistence import inbox, outbox
from shared.persistence.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    for schema in (store.SCHEMA, inbox.SCHEMA, outbox.SCHEMA):
        run_sql(schema)
