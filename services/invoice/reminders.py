"""What is pending longer than it should be is announced again with the same id, so that even a deleted queue loses nothing."""

import structlog

from services.invoice import store
from services.invoice.handlers import announce
from shared import crash_points
from shared.messaging.relay import Relay
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database

log = structlog.get_logger(__name__)

MORE_INTERVAL_S = 0.5
"""While there are more than one round announces: 200 a second, so that outcomes of a deleted queue are back in minutes, and reminders of a
long outage leave room for the work itself."""


class RequestReminder:
    """Announces payment requests again that have waited `older_than_s` for an outcome, or for one since the last time."""

    name = "request_reminder"
    interval_s = 5.0
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, relay: Relay, *, older_than_s: float) -> None:
        self._database = database
        self._relay = relay
        self._older_than_s = older_than_s

    async def run_once(self) -> float:
        """One round; another one soon if there are more than it could announce."""
        announced = await self.remind()
        return MORE_INTERVAL_S if announced == store.ANNOUNCE_AGAIN_ROWS_MAX else self.interval_s

    async def remind(self) -> int:
        """Announce again, once; how many requests."""
        async with self._database.transaction() as tx:
            overdue = await store.overdue_requests(tx, older_than_s=self._older_than_s, announce=announce)
            if not overdue:
                return 0
            outbox_batches = await outbox.insert_again(tx, overdue)
            crash_points.reach("invoice.reminder.before_commit")
        crash_points.reach("invoice.reminder.after_commit")
        await self._relay.publish(outbox_batches)
        log.info("requests_announced_again", payments=len(overdue))
        return len(overdue)
