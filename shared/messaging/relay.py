"""From the outbox to the broker: at once from memory, or later by the sweeper."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import structlog

from shared import crash_points
from shared.messaging.publisher import Publisher
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database
from shared.persistence.outbox import OutboxBatch, Unpublished

log = structlog.get_logger(__name__)

SWEEP_INTERVAL_S = 0.5
FORGET_INTERVAL_S = 0.25
"""Far below the two seconds after which the sweeper would take a parcel."""
SWEEP_OUTAGE_INTERVAL_S = 2.0
COMPONENT = "database"


class Relay:
    """Publishes parcels of one service's outbox and deletes each by its exact id once the broker has confirmed all of it.

    Deleting is not on anybody's way: ids of confirmed parcels are collected and deleted together, a few times a second.
    """

    def __init__(self, database: Database, publisher: Publisher, readiness: Readiness | None = None) -> None:
        self._database = database
        self._publisher = publisher
        self._readiness = readiness or Readiness()
        self._confirmed: list[UUID] = []
        self._some_confirmed = asyncio.Event()

    async def publish(self, outbox_batches: Sequence[OutboxBatch]) -> int:
        """Publish what was just committed; how many messages left. Never raises for an outage: the sweeper takes what stays."""
        if not outbox_batches:
            return 0
        crash_points.reach("relay.before_publish")
        published = await self._publisher.publish(
            [message for outbox_batch in outbox_batches for message in outbox_batch.messages]
        )
        crash_points.reach("relay.after_confirm")
        left = [outbox.unpublished_of(outbox_batch, published) for outbox_batch in outbox_batches]
        self._confirmed += [one.outbox_batch.id for one in left if not one.count]
        self._some_confirmed.set()
        await self._postpone([one for one in left if one.is_answered])
        return sum(len(one.outbox_batch.messages) - one.count for one in left)

    async def _postpone(self, left: Sequence[Unpublished]) -> None:
        if not left:
            return
        try:
            async with self._database.transaction() as tx:
                for one in sorted(left, key=lambda one: one.outbox_batch.id):  # two of us must not wait for each other
                    await outbox.postpone(tx, one)
                crash_points.reach("outbox.before_postpone")
            crash_points.reach("outbox.after_postpone")
        except AWAY_ERRORS as error:
            log.warning("outbox_postpone_failed", outbox_batches=len(left), error=type(error).__name__)

    async def forget_confirmed(self) -> None:
        """Delete what was confirmed so far. What an outage keeps here is deleted after it, or published once more by the sweeper, with the
        same ids."""
        confirmed, self._confirmed = self._confirmed, []
        if not confirmed:
            return
        try:
            async with self._database.connection() as connection:
                crash_points.reach("outbox.before_delete")
                await outbox.delete(connection, confirmed)
                crash_points.reach("outbox.after_delete")
        except AWAY_ERRORS as error:
            log.warning("outbox_delete_failed", outbox_batches=len(confirmed), error=type(error).__name__)
            self._confirmed += confirmed

    async def forget_for_ever(self) -> None:
        """Delete confirmed parcels as they come, until cancelled."""
        while True:
            await self._some_confirmed.wait()
            await asyncio.sleep(FORGET_INTERVAL_S)
            self._some_confirmed.clear()
            await self.forget_confirmed()

    async def run(self) -> None:
        """Sweep until cancelled. Whoever sweeps twice a second also knows whether broker and database are there, in the quietest hour."""
        while True:
            await self._publisher.keep_open()
            try:
                swept = await self.sweep()
                pause = 0.0 if swept else SWEEP_INTERVAL_S
                self._readiness.set(COMPONENT, ok=True)
            except AWAY_ERRORS as error:
                log.warning("sweep_failed", error=type(error).__name__)
                self._readiness.set(COMPONENT, ok=False, reason=describe_error(error))
                pause = SWEEP_OUTAGE_INTERVAL_S
            await asyncio.sleep(pause)

    async def sweep(self) -> int:
        """Publish overdue parcels once; how many messages left."""
        async with self._database.transaction() as tx:
            overdue = await outbox.take_overdue(tx)
            if not overdue:
                return 0
            crash_points.reach("relay.before_sweep_commit")
        crash_points.reach("relay.after_sweep_commit")
        left = await self.publish(overdue)
        await self.forget_confirmed()  # or the next sweep would take them again
        if left:
            metrics.OUTBOX_SWEPT.inc(left)
            log.info("outbox_swept", messages=left)
        return left
