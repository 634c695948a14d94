"""Deletes outbox batches that the broker has confirmed."""

from collections.abc import Iterable
from uuid import UUID

from shared import crash_points
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database


class OutboxCleaner:
    """Collects the ids of confirmed outbox batches and deletes them together in the background, so that no message waits for it."""

    name = "outbox_cleaner"
    interval_s = 0.25
    """Far below the two seconds after which the sweeper would take an outbox batch."""
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database) -> None:
        self._database = database
        self._confirmed: list[UUID] = []

    def add(self, confirmed: Iterable[UUID]) -> None:
        """Note the ids of outbox batches that the broker has confirmed completely."""
        self._confirmed += confirmed

    async def run_once(self) -> float:
        """Delete what was confirmed since the last run."""
        await self.delete_confirmed()
        return self.interval_s

    async def delete_confirmed(self) -> None:
        """Delete what was confirmed so far. Raises one of `AWAY_ERRORS`.

        After an error the batches are deleted later. The sweeper may publish them once more before that, with the same ids.
        """
        confirmed, self._confirmed = self._confirmed, []
        if not confirmed:
            return
        try:
            async with self._database.connection() as connection:
                crash_points.reach("outbox.before_delete")
                await outbox.delete(connection, confirmed)
                crash_points.reach("outbox.after_delete")
        except AWAY_ERRORS:
            self._confirmed += confirmed
            raise
