"""`python -m services.staff.desk` runs the staff desk: its pages, its API, and nothing else. The staff service does what follows."""

import asyncio
from pathlib import Path

from services.staff import people_store
from services.staff.desk.app import make_app
from services.staff.desk.desk import Desk
from services.staff.desk.settings import DeskSettings
from shared.clock import Clock
from shared.persistence.database import Database
from shared.persistence.retention import RetentionCleaner
from shared.service import run_process
from shared.web.server import Address, WebApp, serve_web

MIGRATIONS = Path(__file__).parent.parent / "migrations"
RETENTION = [people_store.REQUEST_RETENTION, people_store.SESSION_RETENTION, people_store.SIGN_IN_RETENTION]


async def serve_desk(settings: DeskSettings, stopping: asyncio.Event) -> int:
    """Run the desk until `stopping` is set, and return its exit code. Raises `ConfigurationError` for a mistake that stands."""

    def assemble(database: Database, clock: Clock) -> WebApp:
        app = make_app(Desk(database, settings, clock))
        return WebApp(app, app.state.live.close, [RetentionCleaner(database, RETENTION)])

    address = Address(settings.host, settings.port, "DESK_PORT", settings.proxies)
    return await serve_web(settings, MIGRATIONS, assemble, address=address, stopping=stopping)


def main() -> None:
    """Run the desk until it is told to stop."""
    run_process(DeskSettings, serve_desk)


if __name__ == "__main__":
    main()
