"""`python -m services.invoice.door` runs the door, by which senders ask. It reads the invoice database, and speaks to nothing else."""

import asyncio
from pathlib import Path

from services.invoice.door.app import Door, make_app
from services.invoice.door.reader import Reader
from services.invoice.door.settings import DoorSettings
from services.invoice.door.waiting import WaitingRoom
from shared.clock import Clock
from shared.persistence.database import Database
from shared.service import run_process
from shared.web.server import Address, WebApp, serve_web

MIGRATIONS = Path(__file__).parent.parent / "migrations"


async def serve_door(settings: DoorSettings, stopping: asyncio.Event) -> int:
    """Run the door until `stopping` is set, and return its exit code. Raises `ConfigurationError` for a mistake that stands."""

    def assemble(database: Database, clock: Clock) -> WebApp:
        reader = Reader(database, settings.of_senders())
        room = WaitingRoom(reader.settled)
        return WebApp(make_app(Door(database, reader, room, clock)), room.close, [room])

    address = Address(settings.host, settings.port, "DOOR_PORT", settings.proxies)
    return await serve_web(settings, MIGRATIONS, assemble, address=address, stopping=stopping)


def main() -> None:
    """Run the door until it is told to stop."""
    run_process(DoorSettings, serve_door)


if __name__ == "__main__":
    main()
