"""What is pending longer than it should be is announced again with the same id, so that even a deleted queue loses nothing."""

import asyncio

import structlog

from services.invoice import store
from services.invoice.handlers import announce
from shared import crash_points
from shared.messaging.relay import Relay
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database

log = structlog.get_logger(__name__)

REMIND_INTERVAL_S = 5.0
MORE_INTERVAL_S = 0.5
"""While there are more than one round announces: 200 a second, so that outcomes of a deleted queue are back in minutes, and reminders of a
long outage leave room for the work itself."""


async def remind_for_ever(database: Database, relay: Relay, *, older_than_s: float) -> None:
    """Look every few seconds, until cancelled."""
    pause_s = REMIND_INTERVAL_S
    while True:
        await asyncio.sleep(pause_s)
        pause_s = REMIND_INTERVAL_S
        try:
            if await remind(database, relay, older_than_s=older_than_s) == store.ANNOUNCE_AGAIN_ROWS_MAX:
                pause_s = MORE_INTERVAL_S
        except AWAY_ERRORS as error:
            log.warning("reminder_failed", error=type(error).__name__)


async def remind(database: Database, relay: Relay, *, older_than_s: float) -> int:
    """Announce again, once; how many requests."""
    async with database.transaction() as tx:
        overdue = await store.overdue_requests(tx, older_than_s=older_than_s, announce=announce)
        if not overdue:
            return 0
        outbox_batches = await outbox.insert_again(tx, overdue)
        crash_points.reach("invoice.reminder.before_commit")
    crash_points.reach("invoice.reminder.after_commit")
    await relay.publish(outbox_batches)
    log.info("requests_announced_again", payments=len(overdue))
    return len(overdue)
