"""Whether the database of a web process answers, for its readiness. Between two requests nobody else would notice."""

from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.persistence.database import AWAY_ERRORS, Database


class DatabasePulse:
    """Asks the database every few seconds whether it is there."""

    name = "database_pulse"
    interval_s = 5.0
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, readiness: Readiness) -> None:
        self._database, self._readiness = database, readiness

    async def run_once(self) -> float:
        """Ask once, and say whether it answered."""
        try:
            async with self._database.connection() as connection:
                await connection.execute("SELECT 1")
        except AWAY_ERRORS as error:
            self._readiness.set("database", ok=False, reason=describe_error(error))
        else:
            self._readiness.set("database", ok=True)
        return self.interval_s
