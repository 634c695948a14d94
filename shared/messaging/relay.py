"""From the outbox to the broker: at once from memory, or later by the sweeper."""

import asyncio
from collections.abc import Collection, Sequence
from uuid import UUID

import structlog

from shared import faults
from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import Publisher
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database

log = structlog.get_logger(__name__)

SWEEP_INTERVAL_S = 0.5
FORGET_INTERVAL_S = 0.25
"""Far below the two seconds after which the sweeper would take a row."""
SWEEP_OUTAGE_INTERVAL_S = 2.0
COMPONENT = "database"


class Relay:
    """Publishes rows of one service's outbox and deletes each by its exact id once the broker has confirmed it.

    Deleting is not on anybody's way: confirmed ids are collected and deleted together, a few times a second.
    """

    def __init__(self, database: Database, publisher: Publisher, readiness: Readiness | None = None) -> None:
        self._database = database
        self._publisher = publisher
        self._readiness = readiness or Readiness()
        self._confirmed: list[UUID] = []
        self._some_confirmed = asyncio.Event()

    async def publish(self, messages: Sequence[Outgoing]) -> int:
        """Publish what was just committed; how many of them left. Never raises for an outage: the sweeper takes what stays."""
        if not messages:
            return 0
        faults.point("relay.before_publish")
        published = await self._publisher.publish(messages)
        faults.point("relay.after_confirm")
        hopeless = published.hopeless
        dropped = [message.id for message in messages if message.droppable and message.id in hopeless]
        self._confirmed += published.confirmed + dropped
        self._some_confirmed.set()
        await self._postpone(hopeless.difference(dropped), published.refused)
        return len(published.confirmed) + len(dropped)

    async def _postpone(self, hopeless: Collection[UUID], refused: Collection[UUID]) -> None:
        if not (hopeless or refused):
            return
        try:
            async with self._database.connection() as connection:
                faults.point("outbox.before_postpone")
                await outbox.postpone(connection, list(hopeless), outbox.HOPELESS)
                await outbox.postpone(connection, list(refused), outbox.REFUSED)
                faults.point("outbox.after_postpone")
        except AWAY_ERRORS as error:
            log.warning("outbox_postpone_failed", rows=len(hopeless) + len(refused), error=type(error).__name__)

    async def forget_confirmed(self) -> None:
        """Delete what was confirmed so far. What an outage keeps here is published once more by the sweeper, with the same ids."""
        confirmed, self._confirmed = self._confirmed, []
        if not confirmed:
            return
        try:
            async with self._database.connection() as connection:
                faults.point("outbox.before_delete")
                await outbox.delete(connection, confirmed)
                faults.point("outbox.after_delete")
        except AWAY_ERRORS as error:
            log.warning("outbox_delete_failed", rows=len(confirmed), error=type(error).__name__)

    async def forget_for_ever(self) -> None:
        """Delete confirmed rows as they come, until cancelled."""
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
        """Publish overdue rows once; how many left."""
        async with self._database.transaction() as tx:
            overdue = await outbox.take_overdue(tx)
            if not overdue:
                return 0
            faults.point("relay.before_sweep_commit")
        faults.point("relay.after_sweep_commit")
        left = await self.publish(overdue)
        if left:
            metrics.OUTBOX_SWEPT.inc(left)
            log.info("outbox_swept", messages=left)
        return left
