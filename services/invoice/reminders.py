"""Announces requests of payments and refunds again that have been pending for too long. So even a deleted queue loses none."""

import structlog

from services.invoice import store
from services.invoice.handlers import announce
from shared import crash_points
from shared.messaging import facts
from shared.messaging.envelope import Outgoing
from shared.messaging.relay import Relay
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database
from shared.persistence.due_rows import DueWindow

log = structlog.get_logger(__name__)

MORE_INTERVAL_S = 0.5
"""The interval while more requests may be overdue than one run announced. It makes 200 requests a second. So the outcomes that a deleted
queue lost are back within minutes, and the reminders after a long outage leave room for the other work."""


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
        self._overdue = store.overdue_rows(older_than_s)

    async def run_once(self) -> float:
        """Announce overdue requests once. If there were any, there may be more: the next run follows soon."""
        return MORE_INTERVAL_S if await self.remind() else self.interval_s

    async def remind(self) -> int:
        """Announce overdue requests once. Returns how many there were, at most `store.ANNOUNCE_AGAIN_ROWS_MAX` of each kind."""
        of_payments, of_refunds = await self._look()
        if of_payments is None and of_refunds is None:
            return 0
        older_than_s, payments, refunds = self._older_than_s, 0, 0
        messages: list[Outgoing] = []
        async with self._database.transaction() as tx:
            if of_payments is not None:
                payments, messages = await store.overdue_requests(
                    tx, older_than_s=older_than_s, window=of_payments, announce=announce
                )
            if of_refunds is not None:
                refunds, more = await store.overdue_refunds(
                    tx, older_than_s=older_than_s, window=of_refunds, announce=announce
                )
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

    async def _look(self) -> tuple[DueWindow | None, DueWindow | None]:
        payments, refunds = self._overdue
        async with self._database.connection() as connection:
            return await payments.look(connection), await refunds.look(connection)
