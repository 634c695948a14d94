"""From the outbox to the broker, at once and from memory. What stays there is published by `shared.messaging.outbox_sweeper`."""

from collections.abc import Sequence

import structlog

from shared import crash_points
from shared.messaging.outbox_cleaner import OutboxCleaner
from shared.messaging.publisher import Publisher
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database
from shared.persistence.outbox import OutboxBatch, Unpublished

log = structlog.get_logger(__name__)


class Relay:
    """Publishes parcels of one service's outbox. `cleaner` deletes each by its exact id once the broker has confirmed all of it."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database = database
        self._publisher = publisher
        self.cleaner = OutboxCleaner(database)

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
        self.cleaner.add(one.outbox_batch.id for one in left if not one.count)
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
