"""Bodies of dead letters that were settled long ago are erased; what remains is that there was one, and what people did with it."""

import asyncio

import structlog

from services.staff import store
from shared import faults
from shared.clock import Clock
from shared.persistence.database import AWAY_ERRORS, Database

log = structlog.get_logger(__name__)

ERASE_EVERY_S = 600.0
"""Ten minutes late in thirty days is nothing; 72 000 bodies a day are more than people settle."""


class Eraser:
    """Erases in the background, a bounded number at a time."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """For ever; while the database is away, bodies wait."""
        while True:
            try:
                await self.erase()
            except AWAY_ERRORS as error:
                log.warning("erasing_postponed", error=type(error).__name__)
            await asyncio.sleep(ERASE_EVERY_S)

    async def erase(self) -> int:
        """One statement; how many bodies it erased."""
        async with self._database.connection() as connection:
            faults.point("staff.erase.before_commit")
            erased = await store.erase_bodies(connection, self._clock())
            faults.point("staff.erase.after_commit")
        if erased:
            log.info("dead_letters_erased", count=erased)
        return erased
