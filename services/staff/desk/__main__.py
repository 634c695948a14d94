"""`python -m services.staff.desk` runs the staff desk: its pages, its API, and nothing else. The staff service does what follows."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from services.staff import people_store
from services.staff.desk.app import make_app
from services.staff.desk.desk import Desk
from services.staff.desk.settings import DeskSettings
from shared.clock import clock_of_a_service
from shared.observability.health import Liveness, Readiness
from shared.persistence.retention import RetentionCleaner
from shared.service import MISTAKE_STANDS_S, Patience, open_database, open_probes, or_stop, run_process
from shared.web.pulse import DatabasePulse
from shared.web.server import listen, serve_app

MIGRATIONS = Path(__file__).parent.parent / "migrations"
RETENTION = [people_store.REQUEST_RETENTION, people_store.SESSION_RETENTION, people_store.SIGN_IN_RETENTION]


async def serve_desk(settings: DeskSettings, stopping: asyncio.Event) -> int:
    """Run the desk until `stopping` is set, and return its exit code. Raises `ConfigurationError` for a mistake that stands."""
    readiness, liveness = Readiness("started"), Liveness()
    clock = clock_of_a_service(settings.clock_off_s)
    async with AsyncExitStack() as opened:
        health = await open_probes(readiness, liveness, settings)
        opened.push_async_callback(health.close)
        database = await or_stop(open_database(settings, MIGRATIONS, readiness, Patience(MISTAKE_STANDS_S)), stopping)
        if database is None:
            return 0
        opened.push_async_callback(database.close)
        listener = opened.enter_context(listen(settings.host, settings.port, variable="DESK_PORT"))
        desk = Desk(database, settings, clock)
        app = make_app(desk)
        return await serve_app(
            app,
            listener,
            proxies=settings.proxies,
            beside=[RetentionCleaner(database, RETENTION), DatabasePulse(database, readiness)],
            release=app.state.live.close,
            stopping=stopping,
            readiness=readiness,
            liveness=liveness,
        )


def main() -> None:
    """Run the desk until it is told to stop."""
    run_process(DeskSettings, serve_desk)


if __name__ == "__main__":
    main()
