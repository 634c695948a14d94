"""How a web process listens, serves, and stops: uvicorn, told to end by our own signals, and watched like the parts of a service."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from shared.background import BackgroundTask, run_every
from shared.build import this_build
from shared.clock import Clock, clock_of_a_service
from shared.http_server import reason_of
from shared.observability import metrics
from shared.observability.health import Liveness, Readiness
from shared.persistence.database import Database
from shared.records import dataclass
from shared.service import (
    EXIT_FAILED,
    MISTAKE_STANDS_S,
    Patience,
    ProcessSettings,
    open_database,
    open_probes,
    or_stop,
)
from shared.settings import ConfigurationError
from shared.web.connections import Connections, room_for_connections
from shared.web.pulse import DatabasePulse

log = structlog.get_logger(__name__)

DRAIN_S: Final = 5
"""How long requests under way may take when the process stops. An answer takes far less than a second."""


class WebServer(uvicorn.Server):
    """uvicorn, without its own handling of signals: the process stops as services do."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Address:
    """Where a web process listens. `proxies` in front of it are believed about whose request they bring.

    `variable` is the setting that names the port.
    """

    host: str
    port: int
    variable: str
    proxies: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class WebApp:
    """What a web process serves. `beside` runs beside it. `release` ends requests that wait, so that none outlives the process."""

    app: ASGIApp
    release: Callable[[], Awaitable[None]]
    beside: Sequence[BackgroundTask] = ()


def _listen(at: Address) -> socket.socket:
    """Open the port. Raises `ConfigurationError` that names its variable."""
    try:
        return socket.create_server((at.host, at.port), family=_family(at.host), backlog=1024)
    except OSError as error:
        where = f"port {at.port} of {at.host}"
        raise ConfigurationError(f"{at.variable}: {where} cannot be opened: {reason_of(error)}.") from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def serve_web(
    settings: ProcessSettings,
    migrations: Path,
    assemble: Callable[[Database, Clock], WebApp],
    *,
    address: Address,
    stopping: asyncio.Event,
) -> int:
    """Serve what `assemble` makes of the database until `stopping` is set or a part ends by itself, and return the exit code.

    Raises `ConfigurationError` for a mistake that stands.
    """
    readiness, liveness = Readiness("started"), Liveness()
    clock = clock_of_a_service(settings.clock_off_s)
    async with AsyncExitStack() as opened:
        health = await open_probes(readiness, liveness, settings)
        opened.push_async_callback(health.close)
        database = await or_stop(open_database(settings, migrations, readiness, Patience(MISTAKE_STANDS_S)), stopping)
        if database is None:
            return 0
        opened.push_async_callback(database.close)
        listener = opened.enter_context(_listen(address))
        web = assemble(database, clock)
        connections = Connections(room_for_connections())
        beside = [*web.beside, DatabasePulse(database, readiness), connections]
        server = WebServer(web_config(web.app, connections, address.proxies))
        return await _serve(server, listener, beside, web.release, stopping, readiness, liveness)


async def _serve(
    server: WebServer,
    listener: socket.socket,
    beside: Sequence[BackgroundTask],
    release: Callable[[], Awaitable[None]],
    stopping: asyncio.Event,
    readiness: Readiness,
    liveness: Liveness,
) -> int:
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="web")
    tasks = {serving, *(asyncio.create_task(run_every(one, liveness=liveness), name=one.name) for one in beside)}
    readiness.set("started", ok=True)
    _say_started(listener)
    stop = asyncio.create_task(_until(stopping), name="stop signal")
    await asyncio.wait({*tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
    readiness.set("started", ok=False, reason="stopping")
    failed = [task for task in tasks if task.done()]
    for task in failed:
        cause = None if task.cancelled() else task.exception()
        log.error("part_ended", part=task.get_name(), exc_info=cause)
    log.info("draining")
    await release()
    server.should_exit = True
    await asyncio.wait({serving}, timeout=2 * DRAIN_S)
    for task in (*tasks, stop):
        task.cancel()
    await asyncio.gather(*tasks, stop, return_exceptions=True)
    log.info("stopped", failed=bool(failed))
    return EXIT_FAILED if failed else 0


async def _until(stopping: asyncio.Event) -> None:
    await stopping.wait()


def web_config(app: ASGIApp, connections: Connections, proxies: Sequence[str] = ()) -> uvicorn.Config:
    """How uvicorn serves an application. Its connections are those of `connections`."""
    return uvicorn.Config(
        app,
        interface="asgi3",
        lifespan="off",
        loop="none",
        http=connections,  # type: ignore[arg-type] # uvicorn calls it as it calls a class
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=",".join(proxies),
        timeout_graceful_shutdown=DRAIN_S,
    )


def _say_started(listener: socket.socket) -> None:
    build = this_build()
    metrics.BUILD_INFO.labels(version=build.version, revision=build.revision).set(1)
    port = listener.getsockname()[1]
    log.info("started", pid=os.getpid(), port=port, version=build.version, revision=build.revision, python=build.python)
