"""Serves a small web application of a service: its probes, or what others send to it."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

_SHUTDOWN_S: Final = 1.0  # at shutdown, a request under way still gets its answer, and a stuck one delays nothing
CONNECTIONS_MAX: Final = 200
"""Connections of one server. A service needs its open files for the broker, the database and the gateway. When there are more, the one is
closed that has been of no use for longest."""
UNUSED_MAX_S: Final = 30.0
"""So long a connection stays open on which no request is answered."""
_LOOK_EVERY_S: Final = 5.0


def _is_of_ours(line: logging.LogRecord) -> bool:
    """Whether it is about an error of ours. aiohttp logs each request that is no HTTP, with a traceback: anybody could fill the log."""
    return not (line.exc_info and isinstance(line.exc_info[1], HttpProcessingError))


_log = logging.getLogger(__name__)
_log.addFilter(_is_of_ours)


def reason_of(error: OSError) -> str:
    """Why an address cannot be listened on, in the system's words, without the address that asyncio repeats in them."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or type(error).__name__


class _Refused(asyncio.Protocol):
    """A connection too many: all others are answered."""

    def connection_made(self, transport: Any) -> None:
        transport.abort()


class _Connections:
    """The connections of a server. aiohttp would keep one for ever on which nothing comes, or half a request, and an hour between two."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unused_since: dict[Any, float] = {}
        self._answering: set[Any] = set()

    def made_by(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """What makes the protocol of a new connection."""

        def make() -> asyncio.Protocol:
            if len(self._unused_since) >= CONNECTIONS_MAX:
                self.forget_closed(server)
            if len(self._unused_since) >= CONNECTIONS_MAX and not self._end_longest_unused():
                return _Refused()
            handler = server()
            self._unused_since[handler] = self._loop.time()
            return handler

        return make

    @web.middleware
    async def watch(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Note that a request is answered."""
        connection = request.protocol
        self._answering.add(connection)
        try:
            return await handler(request)
        finally:
            self._answering.discard(connection)
            if connection in self._unused_since:
                self._unused_since[connection] = self._loop.time()

    def forget_closed(self, server: web.Server) -> None:
        """Forget those that are closed. A connection that was made just now may not be the server's yet."""
        opened, just_now = set(server.connections), self._loop.time() - 1
        self._unused_since = {
            one: since for one, since in self._unused_since.items() if one in opened or since > just_now
        }

    def end_unused(self, server: web.Server, now_s: float) -> None:
        """Close those on which no request was answered for a while."""
        self.forget_closed(server)
        for connection, since in list(self._unused_since.items()):
            if connection not in self._answering and now_s - since > UNUSED_MAX_S:
                self._end(connection)

    def _end_longest_unused(self) -> bool:
        """Close the one that has been of no use for longest, so that nobody keeps a probe out. Returns whether there is one.

        One that was made in this turn of the loop has no transport yet, by which it could be closed.
        """
        unused = [one for one in self._unused_since if one not in self._answering and one.transport is not None]
        if unused:
            self._end(min(unused, key=self._unused_since.__getitem__))
        return bool(unused)

    def _end(self, connection: Any) -> None:
        del self._unused_since[connection]
        if connection.transport is not None:
            connection.transport.abort()


class HttpServer:
    """Answers requests until it is closed."""

    def __init__(
        self,
        runner: web.AppRunner | None,
        listening: asyncio.Server | None = None,
        connections: _Connections | None = None,
    ) -> None:
        self._runner, self._listening, self._connections = runner, listening, connections
        self._looks: asyncio.TimerHandle | None = None
        if runner is not None:
            self._look()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The host and port pairs it listens on. Empty if it does not listen."""
        opened = self._listening.sockets if self._listening else ()
        return [(address[0], address[1]) for address in (one.getsockname() for one in opened)]

    def end_unused(self, now_s: float) -> None:
        """Close the connections of which nobody made use until `now_s` of the loop's time. It is called every few seconds."""
        if self._runner is not None and self._runner.server is not None and self._connections is not None:
            self._connections.end_unused(self._runner.server, now_s)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self.end_unused(loop.time())
        self._looks = loop.call_later(_LOOK_EVERY_S, self._look)

    async def close(self) -> None:
        """Stop listening. A second call does nothing."""
        if self._looks is not None:
            self._looks.cancel()
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


async def serve(app: web.Application, host: str, port: int) -> HttpServer:
    """Start serving `app`. With port 0 the system chooses one. Raises OSError if it cannot listen there.

    A body that says it is compressed is given as it came: nobody has to send one, and a small one may become large.
    """
    connections = _Connections()
    app.middlewares.append(connections.watch)
    runner = web.AppRunner(app, access_log=None, logger=_log, shutdown_timeout=_SHUTDOWN_S, auto_decompress=False)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - it is set up
    try:
        made = connections.made_by(runner.server)
        listening = await asyncio.get_running_loop().create_server(made, host, port, backlog=128)
    except BaseException:
        await runner.cleanup()
        raise
    return HttpServer(runner, listening, connections)
