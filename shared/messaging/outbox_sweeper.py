"""Publishes outbox batches that have waited too long, because a crash or a failed publish left them in the outbox."""

import structlog

from shared import crash_points
from shared.messaging.envelope import Lane
from shared.messaging.relay import Relay
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database
from shared.persistence.due_rows import DueWindow

log = structlog.get_logger(__name__)

COMPONENT = "database"


class OutboxSweeper:
    """Publishes overdue outbox batches of the lane of its relay.

    It asks the database twice a second, so it also tells readiness whether the database is there.
    """

    name = "outbox_sweeper"
    interval_s = 0.5
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, relay: Relay, readiness: Readiness | None = None) -> None:
        self._database = database
        self._relay = relay
        self._readiness = readiness or Readiness()
        self.overdue = outbox.overdue_rows(relay.lane)
        self._has_more = False

    @property
    def lane(self) -> Lane:
        return self._relay.lane

    async def run_once(self) -> float:
        """Sweep once. The next sweep follows at once if there may be more to do: this one published messages, or took as many as it may and
        found the broker. While the relay rests, nothing is swept."""
        if self._relay.is_resting:
            return self.interval_s
        try:
            swept = await self.sweep()
        except AWAY_ERRORS as error:
            self._readiness.set(COMPONENT, ok=False, reason=describe_error(error))
            raise
        self._readiness.set(COMPONENT, ok=True)
        return 0.0 if swept or self._has_more else self.interval_s

    async def sweep(self) -> int:
        """Publish overdue outbox batches once. Returns how many messages were published."""
        self._has_more = False
        window = await self._look()
        if window is None:
            return 0
        async with self._database.transaction() as tx:
            overdue = await outbox.take_overdue(tx, self._relay.lane, window)
            if not overdue:
                return 0
            crash_points.reach("relay.before_sweep_commit")
        crash_points.reach("relay.after_sweep_commit")
        published = await self._relay.publish(overdue)
        if published:
            metrics.OUTBOX_SWEPT.inc(published)
            log.info("outbox_swept", messages=published)
        await self._relay.keeper.delete_confirmed()
        is_full = sum(len(outbox_batch.messages) for outbox_batch in overdue) >= outbox.SWEEP_MESSAGES_MAX
        self._has_more = is_full and self._relay.is_answered
        return published

    async def _look(self) -> DueWindow | None:
        """Look before a transaction begins: that takes one round trip instead of three, and nearly always nothing is overdue."""
        async with self._database.connection() as connection:
            return await self.overdue.look(connection)
