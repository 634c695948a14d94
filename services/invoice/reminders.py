"""Announces requests of payments and refunds again that have been pending for too long. So even a deleted queue loses none."""

import structlog

from services.invoice import store
from services.invoice.handlers import announce
from shared import crash_points
from shared.messaging import facts
from shared.messaging.relay import Relay
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database

log = structlog.get_logger(__name__)

MORE_INTERVAL_S = 0.5
"""The interval while more requests are overdue than one run announces. It makes 200 requests a second. So the outcomes that a deleted queue
lost are back within minutes, and the reminders after a long outage leave room for the other work."""


class RequestReminder:
    """Announces a request again, with the same id, when it has waited `older_than_s` seconds for an outcome.

    The wait doubles with each announcement.
    """

    name = "request_reminder"
    interval_s = 5.0
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, relay: Relay, *, older_than_s: float) -> None:
        self._database = database
        self._relay = relay
        self._older_than_s = older_than_s

    async def run_once(self) -> float:
        """Announce overdue requests once. The next run follows soon if there are more than one run announces."""
        announced = await self.remind()
        return MORE_INTERVAL_S if announced >= store.ANNOUNCE_AGAIN_ROWS_MAX else self.interval_s

    async def remind(self) -> int:
        """Announce overdue requests once. Returns how many there were, at most `store.ANNOUNCE_AGAIN_ROWS_MAX` of each kind."""
        async with self._database.transaction() as tx:
            payments, messages = await store.overdue_requests(tx, older_than_s=self._older_than_s, announce=announce)
            refunds, more = await store.overdue_refunds(tx, older_than_s=self._older_than_s, announce=announce)
            messages += more
            if not messages:
                return payments + refunds
            outbox_batches = await outbox.insert_again(tx, messages)
            crash_points.reach("invoice.reminder.before_commit")
        crash_points.reach("invoice.reminder.after_commit")
        facts.committed(outbox_batches)
        await self._relay.publish(outbox_batches)
        log.info("requests_announced_again", payments=payments, refunds=refunds)
        return payments + refunds
