"""Whether the database of the desk answers, for its readiness. Between two clicks nobody else would notice."""

from services.staff.desk.desk import Desk
from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.persistence.database import AWAY_ERRORS


class DatabasePulse:
    """Asks the database every few seconds whether it is there."""

    name = "desk_database"
    interval_s = 5.0
    retry_on = AWAY_ERRORS

    def __init__(self, desk: Desk, readiness: Readiness) -> None:
        self._desk, self._readiness = desk, readiness

    async def run_once(self) -> float:
        """Ask once, and say whether it answered."""
        try:
            async with self._desk.read() as connection:
                await connection.execute("SELECT 1")
        except AWAY_ERRORS as error:
            self._readiness.set("database", ok=False, reason=describe_error(error))
        else:
            self._readiness.set("database", ok=True)
        return self.interval_s
