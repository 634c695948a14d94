"""Publishes outbox batches from memory right after their commit. `shared.messaging.outbox_sweeper` publishes those that stay behind."""

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
    """Publishes outbox batches of one service. `cleaner` deletes each by its exact id once the broker has confirmed all its messages."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database = database
        self._publisher = publisher
        self.cleaner = OutboxCleaner(database)

    async def publish(self, outbox_batches: Sequence[OutboxBatch]) -> int:
        """Publish outbox batches that are committed. Returns how many of their messages need no further publishing.

        Never raises for an outage: the sweeper publishes the rest later.
        """
        if not outbox_batches:
            return 0
        crash_points.reach("relay.before_publish")
        published = await self._publisher.publish(
            [message for outbox_batch in outbox_batches for message in outbox_batch.messages]
        )
        crash_points.reach("relay.after_confirm")
        results = [outbox.unpublished_of(outbox_batch, published) for outbox_batch in outbox_batches]
        self.cleaner.add(unpublished.outbox_batch.id for unpublished in results if not unpublished.count)
        await self._postpone([unpublished for unpublished in results if unpublished.is_answered])
        return sum(len(unpublished.outbox_batch.messages) - unpublished.count for unpublished in results)

    async def _postpone(self, refused: Sequence[Unpublished]) -> None:
        if not refused:
            return
        try:
            async with self._database.transaction() as tx:
                for unpublished in sorted(refused, key=lambda unpublished: unpublished.outbox_batch.id):
                    await outbox.postpone(tx, unpublished)  # in the order of ids, so that two processes never deadlock
                crash_points.reach("outbox.before_postpone")
            crash_points.reach("outbox.after_postpone")
        except AWAY_ERRORS as error:
            log.warning("outbox_postpone_failed", outbox_batches=len(refused), error=type(error).__name__)
