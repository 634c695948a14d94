"""Two listeners on loopback: the API, and one for people that still listens when the API refuses connections."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from deploy.sandbox.app import BODY_BYTES_MAX, Api, Mode, SandboxSettings
from deploy.sandbox.bank import SandboxBank, new_id
from deploy.sandbox.ledger import Ledger

log = logging.getLogger(__name__)

SHUTDOWN_S = 2.0  # how long requests may still take at SIGTERM; connections that hang are closed at once
SETTLE_S = 0.05  # the answer to "refuse from now on" has so much time to leave before its connection is cut


class Sandbox:
    """The server: `async with Sandbox(path) as sandbox: sandbox.url`. The ledger is kept; modes and requests in flight are not."""

    def __init__(
        self,
        ledger: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        admin_port: int = 0,
        settings: SandboxSettings | None = None,
        clock: Callable[[], float] = time.time,
        ids: Callable[[str], str] = new_id,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger_path = ledger
        self._host, self._port, self._admin_port = host, port, admin_port
        self._settings = settings or SandboxSettings()
        self._clock, self._ids, self._sleep = clock, ids, sleep

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def admin_url(self) -> str:
        return f"http://{self._host}:{self._admin_port}"

    @property
    def refused_by_limit(self) -> int:
        """How many requests were answered 429, because their endpoint takes no more a second."""
        return self._api.limits.refused

    def switch(self, mode: Mode) -> None:
        """Switch the mode of the whole gateway, except to and from `refuse`, for which listeners have to be opened and closed."""
        self._api.mode = mode

    async def __aenter__(self) -> "Sandbox":
        self._ledger = Ledger(self._ledger_path)
        bank = SandboxBank(self._ledger, clock=self._clock, ids=self._ids)
        self._api = Api(self._ledger, bank, clock=self._clock, settings=self._settings, sleep=self._sleep)
        self._api.on_refuse = self._refuse
        self._runner = await _runner(self._api.routes())
        self._admin = await _runner(self._api.admin_routes())
        self._site = await self._listen(self._runner, self._port)
        self._port = _port_of(self._runner)
        await self._listen(self._admin, self._admin_port)
        self._admin_port = _port_of(self._admin)
        log.info("sandbox gateway on %s, for people on %s/_sandbox/ledger", self.url, self.admin_url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.close()
        await self._runner.cleanup()
        await self._admin.cleanup()
        self._ledger.close()

    async def _listen(self, runner: web.AppRunner, port: int) -> web.TCPSite:
        site = web.TCPSite(runner, self._host, port, reuse_address=True)
        await site.start()
        return site

    async def _refuse(self, refuse: bool) -> None:  # noqa: FBT001 - a switch with two positions
        if refuse:
            await self._site.stop()
            asyncio.get_running_loop().call_later(SETTLE_S, self._cut_connections)
        else:
            self._site = await self._listen(self._runner, self._port)

    def _cut_connections(self) -> None:
        """Close all open connections, because a kept-alive one would still be served."""
        for connection in self._runner.server.connections if self._runner.server else []:
            connection.force_close()


async def _runner(routes: list[web.RouteDef]) -> web.AppRunner:
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.add_routes(routes)
    # A handler that hangs ends when its client hangs up. An action that happens late runs in a task of its own.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    return runner


def _port_of(runner: web.AppRunner) -> int:
    port: int = runner.addresses[0][1]
    return port
