"""The HTTP endpoints for an orchestrator: is the service alive, is it ready, what do its metrics say.

Liveness only says that the event loop runs. Readiness says whether the dependencies are there. A service that lost a dependency stays alive
and resumes by itself, so restarting it would not help.
"""

from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.http_server import HttpServer, serve
from shared.observability.metrics import READY
from shared.observability.redaction import redact
from shared.observability.visible import visible

LOOPBACK: Final = "127.0.0.1"  # probes and metrics are for this machine only, unless HEALTH_HOST says otherwise
STARTING: Final = "starting"
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


def health_app(readiness: Readiness) -> web.Application:
    """The web application: `GET /live` (200), `GET /ready` (200, or 503 with the reasons), `GET /metrics` (Prometheus text)."""

    async def live(_: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def ready(_: web.Request) -> web.Response:
        body = {"ready": readiness.ready, "reasons": {name: visible(why) for name, why in readiness.reasons.items()}}
        return web.json_response(body, status=200 if readiness.ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/live", live)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)
    return app


async def serve_health(readiness: Readiness, *, host: str = LOOPBACK, port: int) -> HttpServer:
    """Start answering probes. `host` is HEALTH_HOST. `port` is HEALTH_PORT, and 0 means that no port is opened.

    Raises OSError if it cannot listen there.
    """
    return await serve(health_app(readiness), host, port) if port else HttpServer(None)
