"""What an orchestrator asks a service over HTTP: is it alive, is it ready, how is it doing.

Liveness says only that the event loop turns. Readiness says whether the dependencies are there: a service that lost one
stays alive and resumes by itself (DESIGN 3), so restarting it would help nobody.
"""

from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.observability.metrics import READY
from shared.observability.redaction import redact

LOOPBACK: Final = "127.0.0.1"  # probes and metrics are for this machine unless HEALTH_HOST says otherwise
STARTING: Final = "starting"
_REASON_MAX = 200  # characters: a sentence, for a person who reads a probe's output
_SHUTDOWN_S = 1.0  # a probe under way at shutdown gets its answer, a stuck one is not waited for


class Readiness:
    """Which components of this service are usable. Those named at construction are not until they say so.

    Reasons are shown to whoever can reach the port, so they are redacted on the way in.
    """

    def __init__(self, *components: str) -> None:
        self._reasons: dict[str, str | None] = {}
        for component in components:
            self.set(component, ok=False, reason=STARTING)

    def set(self, component: str, ok: bool, reason: str = "") -> None:  # noqa: FBT001 - `ok` says itself
        """`reason` tells what is wrong; it is dropped when nothing is."""
        if ok and self._reasons.get(component, STARTING) is None:
            return  # said after every batch
        self._reasons[component] = None if ok else redact(reason, max_characters=_REASON_MAX) or "not ready"
        READY.labels(component).set(1 if ok else 0)

    @property
    def ready(self) -> bool:
        return not self.reasons

    @property
    def reasons(self) -> dict[str, str]:
        """What is wrong, by component; empty when the service is ready."""
        return {component: reason for component, reason in self._reasons.items() if reason is not None}


def health_app(readiness: Readiness) -> web.Application:
    """`GET /live` (200), `GET /ready` (200, or 503 with the reasons), `GET /metrics` (Prometheus text)."""

    async def live(_: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def ready(_: web.Request) -> web.Response:
        body = {"ready": readiness.ready, "reasons": readiness.reasons}
        return web.json_response(body, status=200 if readiness.ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/live", live)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)
    return app


class HealthServer:
    """Answers probes until it is closed."""

    def __init__(self, runner: web.AppRunner | None) -> None:
        self._runner = runner

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens; empty if it does not."""
        return [(address[0], address[1]) for address in self._runner.addresses] if self._runner else []

    async def close(self) -> None:
        """Stops listening; may be called again."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


async def serve_health(readiness: Readiness, *, host: str = LOOPBACK, port: int) -> HealthServer:
    """Starts answering probes. `port` is HEALTH_PORT, 0 for not at all; `host` is HEALTH_HOST.

    Raises OSError if it cannot listen there.
    """
    if port == 0:
        return HealthServer(None)
    runner = web.AppRunner(health_app(readiness), access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return HealthServer(runner)
