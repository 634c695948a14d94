"""`python -m services.staff.desk` runs the staff desk: its pages, its API, and nothing else. The staff service does what follows."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import structlog
import uvicorn
from fastapi import FastAPI

from services.staff import people_store
from services.staff.desk.app import make_app
from services.staff.desk.desk import Desk
from services.staff.desk.pulse import DatabasePulse
from services.staff.desk.settings import DeskSettings
from shared.background import run_every
from shared.build import this_build
from shared.clock import clock_of_a_service
from shared.http_server import reason_of
from shared.observability import metrics
from shared.observability.health import Liveness, Readiness
from shared.persistence.retention import RetentionCleaner
from shared.service import (
    EXIT_FAILED,
    MISTAKE_STANDS_S,
    Patience,
    open_database,
    open_probes,
    or_stop,
    run_process,
)
from shared.settings import ConfigurationError

log = structlog.get_logger(__name__)

MIGRATIONS = Path(__file__).parent.parent / "migrations"
DRAIN_S = 5
"""How long requests under way may take when the desk stops. A page takes far less than a second."""
RETENTION = [people_store.REQUEST_RETENTION, people_store.SESSION_RETENTION, people_store.SIGN_IN_RETENTION]


class _Server(uvicorn.Server):
    """uvicorn, without its own handling of signals: the desk stops as services do."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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
        listener = opened.enter_context(_listen(settings.host, settings.port))
        desk = Desk(database, settings, clock)
        app = make_app(desk)
        server = _Server(_config(settings, app))
        cleaner = RetentionCleaner(database, RETENTION)
        tasks = {
            asyncio.create_task(server.serve(sockets=[listener]), name="desk"),
            asyncio.create_task(run_every(cleaner, liveness=liveness), name="retention"),
            asyncio.create_task(run_every(DatabasePulse(desk, readiness), liveness=liveness), name="pulse"),
        }
        readiness.set("started", ok=True)
        _say_started(listener)
        stop = asyncio.create_task(_until(stopping), name="stop signal")
        await asyncio.wait({*tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
        readiness.set("started", ok=False, reason="stopping")
        await app.state.live.close()
        return await _end(server, tasks, stop)


async def _until(stopping: asyncio.Event) -> None:
    await stopping.wait()


def _config(settings: DeskSettings, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        loop="none",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=",".join(settings.proxies),
        timeout_graceful_shutdown=DRAIN_S,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=_family(host), backlog=1024)
    except OSError as error:
        where = f"port {port} of {host}"
        raise ConfigurationError(f"DESK_PORT: {where} cannot be opened: {reason_of(error)}.") from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _say_started(listener: socket.socket) -> None:
    build = this_build()
    metrics.BUILD_INFO.labels(version=build.version, revision=build.revision).set(1)
    port = listener.getsockname()[1]
    log.info("started", pid=os.getpid(), port=port, version=build.version, revision=build.revision, python=build.python)


async def _end(server: uvicorn.Server, tasks: set[asyncio.Task[None]], stop: asyncio.Task[None]) -> int:
    """Let requests under way end, then end everything."""
    failed = [task for task in tasks if task.done()]
    for task in failed:
        cause = None if task.cancelled() else task.exception()
        log.error("part_ended", part=task.get_name(), exc_info=cause)
    log.info("draining")
    server.should_exit = True
    serving = [task for task in tasks if task.get_name() == "desk"]
    await asyncio.wait(serving, timeout=2 * DRAIN_S)
    for task in (*tasks, stop):
        task.cancel()
    await asyncio.gather(*tasks, stop, return_exceptions=True)
    log.info("stopped", failed=bool(failed))
    return EXIT_FAILED if failed else 0


def main() -> None:
    """Run the desk until it is told to stop."""
    run_process(DeskSettings, serve_desk)


if __name__ == "__main__":
    main()
