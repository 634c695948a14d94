"""Events, current state, payment ids; inbox, outbox, answers."""

from services.invoice import store
from shared.persistence import answers, event_store, inbox, outbox
from shared.persistence.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    for schema in (event_store.SCHEMA, store.SCHEMA, inbox.SCHEMA, outbox.SCHEMA, answers.SCHEMA):
        run_sql(schema)
