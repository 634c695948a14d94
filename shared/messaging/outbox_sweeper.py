"""Publishes what waits too long in the outbox: a crash or a failed publish left it there."""

import structlog

from shared import crash_points
from shared.messaging.relay import Relay
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database

log = structlog.get_logger(__name__)

COMPONENT = "database"


class OutboxSweeper:
    """Publishes overdue parcels. Who looks twice a second also knows whether the database is there, in the quietest hour."""

    name = "outbox_sweeper"
    interval_s = 0.5
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, relay: Relay, readiness: Readiness | None = None) -> None:
        self._database = database
        self._relay = relay
        self._readiness = readiness or Readiness()

    async def run_once(self) -> float:
        """One sweep; the next follows at once if messages left."""
        try:
            swept = await self.sweep()
        except AWAY_ERRORS as error:
            self._readiness.set(COMPONENT, ok=False, reason=describe_error(error))
            raise
        self._readiness.set(COMPONENT, ok=True)
        return 0.0 if swept else self.interval_s

    async def sweep(self) -> int:
        """Publish overdue parcels once; how many messages left."""
        async with self._database.transaction() as tx:
            overdue = await outbox.take_overdue(tx)
            if not overdue:
                return 0
            crash_points.reach("relay.before_sweep_commit")
        crash_points.reach("relay.after_sweep_commit")
        left = await self._relay.publish(overdue)
        if left:
            metrics.OUTBOX_SWEPT.inc(left)
            log.info("outbox_swept", messages=left)
        await self._relay.cleaner.delete_confirmed()  # or the next sweep would take them again
        return left
