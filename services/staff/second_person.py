"""Keeps the limits of STAFF_SECOND_PERSON in the database, where every action reads them, from whichever door it comes."""

import structlog

from services.staff import store
from services.staff.proposals import SecondPersonLimits
from shared.persistence.database import AWAY_ERRORS, Database

log = structlog.get_logger(__name__)

INTERVAL_S = 60.0
"""How soon limits that somebody else changed in the database are this service's again."""


class SecondPersonLimitsKeeper:
    """Writes the limits of this service's setting to the database, and again if they are others there."""

    name = "second_person_limits"
    interval_s = INTERVAL_S
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, limits: SecondPersonLimits) -> None:
        self._database = database
        self._above_minor = dict(limits.above_minor)

    async def run_once(self) -> float:
        """Write the limits if they differ. A change is logged: whoever reads the log later sees what held when."""
        async with self._database.transaction() as tx:
            there = await store.second_person_limits(tx)
            if there != self._above_minor:
                await store.set_second_person_limits(tx, self._above_minor)
        if there != self._above_minor:
            log.warning("second_person_limits_changed", before=there, after=self._above_minor)
        return self.interval_s
