"""Serves a small web application of a service: its probes, or what others send to it."""

import os
from typing import Final

from aiohttp import web

_SHUTDOWN_S: Final = 1.0  # at shutdown, a request under way still gets its answer, and a stuck one delays nothing


def reason_of(error: OSError) -> str:
    """Why an address cannot be listened on, in the system's words, without the address that asyncio repeats in them."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or type(error).__name__


class HttpServer:
    """Answers requests until it is closed."""

    def __init__(self, runner: web.AppRunner | None) -> None:
        self._runner = runner

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The host and port pairs it listens on. Empty if it does not listen."""
        return [(address[0], address[1]) for address in self._runner.addresses] if self._runner else []

    async def close(self) -> None:
        """Stop listening. A second call does nothing."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


async def serve(app: web.Application, host: str, port: int) -> HttpServer:
    """Start serving `app`. With port 0 the system chooses one. Raises OSError if it cannot listen there."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return HttpServer(runner)
