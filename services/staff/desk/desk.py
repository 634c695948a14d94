"""What a handler of the desk works with."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from services.staff.desk.settings import DeskSettings
from shared.clock import Clock, system_clock
from shared.ids import new_id
from shared.persistence.database import Connection, Database
from shared.records import dataclass


@dataclass(frozen=True, slots=True)
class Desk:
    """The database of the staff service, a clock, the settings, and where new ids come from."""

    database: Database
    settings: DeskSettings
    clock: Clock = system_clock
    ids: Callable[[], UUID] = new_id

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        """A connection on which everything is read as of one moment, and nothing can be written."""
        async with (
            self.database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection
