"""`python -m services.invoice.door` runs the door, by which senders ask. It reads the invoice database, and speaks to nothing else."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from services.invoice.door.app import Door, make_app
from services.invoice.door.reader import Reader
from services.invoice.door.settings import DoorSettings
from services.invoice.door.waiting import WaitingRoom
from shared.clock import clock_of_a_service
from shared.observability.health import Liveness, Readiness
from shared.service import MISTAKE_STANDS_S, Patience, open_database, open_probes, or_stop, run_process
from shared.web.pulse import DatabasePulse
from shared.web.server import listen, serve_app

MIGRATIONS = Path(__file__).parent.parent / "migrations"


async def serve_door(settings: DoorSettings, stopping: asyncio.Event) -> int:
    """Run the door until `stopping` is set, and return its exit code. Raises `ConfigurationError` for a mistake that stands."""
    readiness, liveness = Readiness("started"), Liveness()
    clock = clock_of_a_service(settings.clock_off_s)
    async with AsyncExitStack() as opened:
        health = await open_probes(readiness, liveness, settings)
        opened.push_async_callback(health.close)
        database = await or_stop(open_database(settings, MIGRATIONS, readiness, Patience(MISTAKE_STANDS_S)), stopping)
        if database is None:
            return 0
        opened.push_async_callback(database.close)
        listener = opened.enter_context(listen(settings.host, settings.port, variable="DOOR_PORT"))
        reader = Reader(database, settings.of_senders())
        room = WaitingRoom(reader.settled)
        return await serve_app(
            make_app(Door(database, reader, room, clock)),
            listener,
            proxies=settings.proxies,
            beside=[room, DatabasePulse(database, readiness)],
            release=room.close,
            stopping=stopping,
            readiness=readiness,
            liveness=liveness,
        )


def main() -> None:
    """Run the door until it is told to stop."""
    run_process(DoorSettings, serve_door)


if __name__ == "__main__":
    main()
