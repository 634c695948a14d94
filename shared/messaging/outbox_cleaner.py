"""Deletes from the outbox what the broker has confirmed."""

from collections.abc import Iterable
from uuid import UUID

from shared import crash_points
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database


class OutboxCleaner:
    """Collects the ids of confirmed parcels and deletes them together, so that deleting is on nobody's way."""

    name = "outbox_cleaner"
    interval_s = 0.25
    """Far below the two seconds after which the sweeper would take a parcel."""
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database) -> None:
        self._database = database
        self._confirmed: list[UUID] = []

    def add(self, confirmed: Iterable[UUID]) -> None:
        """The broker has confirmed all of these parcels."""
        self._confirmed += confirmed

    async def run_once(self) -> float:
        """What was confirmed since the last run."""
        await self.delete_confirmed()
        return self.interval_s

    async def delete_confirmed(self) -> None:
        """Delete what was confirmed so far. Raises one of `AWAY_ERRORS`: then it is deleted later, or the sweeper publishes it once more,
        with the same ids."""
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
