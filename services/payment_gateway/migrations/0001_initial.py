"""Payments, attempts, outcomes, decisions; inbox, outbox, answers."""

from services.payment_gateway import store
from shared.persistence import answers, inbox, outbox
from shared.persistence.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    for schema in (store.SCHEMA, inbox.SCHEMA, outbox.SCHEMA, answers.SCHEMA):
        run_sql(schema)
