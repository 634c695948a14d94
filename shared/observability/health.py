"""The HTTP endpoints for an orchestrator: is the service alive, is it ready, what do its metrics say.

Liveness says whether a restart would help: a part of the service has ended, or its work stands still. Readiness says whether the
dependencies are there. A service that lost a dependency stays alive and resumes by itself, so restarting it would not help.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.http_server import HttpServer, serve
from shared.observability.metrics import READY
from shared.observability.redaction import redact
from shared.observability.visible import visible

LOOPBACK: Final = "127.0.0.1"  # probes and metrics are for this machine only, unless HEALTH_HOST says otherwise
STARTING: Final = "starting"
STANDS_STILL_S: Final = 900.0
"""How long one piece of work may take: one try to commit a batch, or one run of a background task. Every wait in it has a timeout of 15 s
at most, so it ends in a few minutes even if servers swallow everything. What takes longer waits for something that never comes."""
_REASON_MAX = 200  # characters: a sentence, for a person who reads a probe's output


class Readiness:
    """Which components of this service are usable. Those named at construction are not usable until `set` says so.

    Anyone who can reach the port sees the reasons, so `set` redacts them.
    """

    def __init__(self, *components: str) -> None:
        self._reasons: dict[str, str | None] = {}
        for component in components:
            self.set(component, ok=False, reason=STARTING)

    def set(self, component: str, ok: bool, reason: str = "") -> None:  # noqa: FBT001 - the meaning of `ok` is plain
        """Set whether `component` is usable. `reason` says what is wrong; it is ignored if `ok`."""
        if ok and self._reasons.get(component, STARTING) is None:
            return  # nothing changes; this is called after every batch
        self._reasons[component] = None if ok else redact(reason, max_characters=_REASON_MAX) or "not ready"
        READY.labels(component).set(1 if ok else 0)

    @property
    def ready(self) -> bool:
        return not self.reasons

    @property
    def reasons(self) -> dict[str, str]:
        """What is wrong, by component. Empty if the service is ready."""
        return {component: reason for component, reason in self._reasons.items() if reason is not None}


class Liveness:
    """Which parts of this service have ended, or stand still. Only a restart mends either; no outage causes one of them.

    Work is watched while it goes on. Waiting for messages, or for the end of an outage between two tries, is no work.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._ended: dict[str, str] = {}
        self._at_work: dict[object, tuple[str, float]] = {}

    def ended(self, part: str, reason: str) -> None:
        """Say that `part`, which should run until the service stops, has ended. Others may see `reason`, so it is redacted."""
        self._ended[part] = redact(reason, max_characters=_REASON_MAX) or "ended"

    @contextmanager
    def at_work(self, part: str) -> Iterator[None]:
        """Watch one piece of work of `part`. Several may go on at once."""
        work = object()
        self._at_work[work] = part, self._monotonic()
        try:
            yield
        finally:
            del self._at_work[work]

    @property
    def reasons(self) -> dict[str, str]:
        """What is wrong, by part. Empty if the service is alive."""
        now_s = self._monotonic()
        standing = {
            part: f"its work stands still for {now_s - since_s:.0f} s"
            for part, since_s in self._at_work.values()
            if now_s - since_s > STANDS_STILL_S
        }
        return standing | self._ended


def health_app(readiness: Readiness, liveness: Liveness) -> web.Application:
    """The web application: `/livez` and `/readyz` (200, or 503 with the reasons), `/metrics` (Prometheus text).

    The event loop that does the service's work answers. So if that hangs, there is no answer at all, and a prober calls the service dead.
    """

    def answer(key: str, reasons: dict[str, str]) -> web.Response:
        body = {key: not reasons, "reasons": {name: visible(why) for name, why in reasons.items()}}
        return web.json_response(body, status=503 if reasons else 200)

    async def livez(_: web.Request) -> web.Response:
        return answer("live", liveness.reasons)

    async def readyz(_: web.Request) -> web.Response:
        return answer("ready", readiness.reasons)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


async def serve_health(readiness: Readiness, liveness: Liveness, *, host: str = LOOPBACK, port: int) -> HttpServer:
    """Start answering probes. `host` is HEALTH_HOST. `port` is HEALTH_PORT, and 0 means that no port is opened.

    Raises OSError if it cannot listen there.
    """
    return await serve(health_app(readiness, liveness), host, port) if port else HttpServer(None)
