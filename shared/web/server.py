"""How a web process listens, serves, and stops: uvicorn, told to end by our own signals, and watched like the parts of a service."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from shared.background import BackgroundTask, run_every
from shared.build import this_build
from shared.http_server import reason_of
from shared.observability import metrics
from shared.observability.health import Liveness, Readiness
from shared.service import EXIT_FAILED
from shared.settings import ConfigurationError

log = structlog.get_logger(__name__)

DRAIN_S: Final = 5
"""How long requests under way may take when the process stops. An answer takes far less than a second."""


class _Server(uvicorn.Server):
    """uvicorn, without its own handling of signals: the process stops as services do."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int, *, variable: str) -> socket.socket:
    """Open a port. Raises `ConfigurationError` that names `variable`."""
    try:
        return socket.create_server((host, port), family=_family(host), backlog=1024)
    except OSError as error:
        where = f"port {port} of {host}"
        raise ConfigurationError(f"{variable}: {where} cannot be opened: {reason_of(error)}.") from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def serve_app(
    app: ASGIApp,
    listener: socket.socket,
    *,
    proxies: Sequence[str],
    beside: Sequence[BackgroundTask],
    release: Callable[[], Awaitable[None]],
    stopping: asyncio.Event,
    readiness: Readiness,
    liveness: Liveness,
) -> int:
    """Serve until `stopping` is set or a part ends by itself, and return the exit code.

    `proxies` are believed about whose request they bring. `beside` runs beside it. `release` ends requests that wait, so that none outlives
    the process.
    """
    server = _Server(_config(app, proxies))
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


def _config(app: ASGIApp, proxies: Sequence[str]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        loop="none",
        http="httptools",
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
