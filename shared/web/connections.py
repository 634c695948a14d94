"""What a connection to a web process may hold: nobody keeps one without using it, and nobody's request grows without end.

uvicorn closes a connection only when it is idle after an answer. One on which nothing comes, or half a request, or on which nobody reads
the answer, it would keep for ever, and it would collect a head of any size.
"""

import resource
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = structlog.get_logger(__name__)

HEAD_BYTES_MAX: Final = 32 * 1024
"""Of a request: its address and headers, and what comes of it without being a part of a body. Proxies take as much."""
REQUEST_WITHIN_S: Final = 30.0
"""In so long a request has arrived whole, or the next one has. A form of 1 MiB takes 35 KiB/s."""
STALLED_S: Final = 30.0
"""So long an answer waits for somebody who reads nothing of it."""
CONNECTIONS_MAX: Final = 8_000
"""More than may wait at the door. When there are more, those that have been of no use for longest are closed."""
FILES_KEPT: Final = 200
"""Open files that a process needs for other things."""
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"  # RFC 6585
)


class HeadTooLargeError(Exception):
    """A request has a larger head than is taken."""


class Connections:
    """All connections of a process. It is run as a task beside the server, and closes those that nobody uses."""

    name = "connection_watch"
    interval_s = 5.0
    retry_on: tuple[type[Exception], ...] = ()

    def __init__(self, at_most: int = CONNECTIONS_MAX, now_s: Callable[[], float] = time.monotonic) -> None:
        self._at_most, self.now_s = at_most, now_s
        self._all: set[BoundedConnection] = set()
        self._unused: OrderedDict[BoundedConnection, None] = OrderedDict()
        """Those on which no request is answered, the ones first that have been so for longest."""
        self._ended = 0

    def __call__(self, *args: Any, **options: Any) -> "BoundedConnection":
        """A new connection, as uvicorn makes one of its protocol."""
        return BoundedConnection(self, *args, **options)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator["BoundedConnection"]:
        return iter(self._all)

    def add(self, connection: "BoundedConnection") -> None:
        """Count a connection that was opened, and close another one if there are too many."""
        self._all.add(connection)
        self._unused[connection] = None
        if len(self._all) > self._at_most:
            self._end(next(iter(self._unused)))  # this one, if all others are in use

    def use(self, connection: "BoundedConnection") -> None:
        """A request has arrived on it and is answered."""
        self._unused.pop(connection, None)

    def release(self, connection: "BoundedConnection") -> None:
        """What arrived on it was answered."""
        if connection in self._all:
            self._unused[connection] = None

    def forget(self, connection: "BoundedConnection") -> None:
        """It was closed."""
        self._all.discard(connection)
        self._unused.pop(connection, None)

    def _end(self, connection: "BoundedConnection") -> None:
        self._ended += 1
        self.forget(connection)
        connection.transport.abort()

    async def run_once(self) -> float:
        """Close the connections that nobody uses."""
        for connection in [one for one in self._all if one.is_overdue()]:
            self._end(connection)
        if self._ended:
            log.info("connections_ended", count=self._ended, left=len(self._all))
            self._ended = 0
        return self.interval_s


class BoundedConnection(HttpToolsProtocol):
    """A connection with limits of time and size."""

    def __init__(self, connections: Connections, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._registry = connections
        self._since = 0.0
        """Since when something is waited for: the rest of a request, the next one, or that somebody reads."""
        self._is_receiving = False
        self._silent_bytes = 0
        """Bytes that came since the last piece of a body or the end of a request."""
        self._header_bytes = 0
        self._unsent_bytes = 0

    # -- what comes --------------------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """It was opened."""
        super().connection_made(transport)
        self._since = self._registry.now_s()
        self._registry.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It was closed."""
        self._registry.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes came. What is no part of a body may not be much."""
        self._silent_bytes += len(data)
        super().data_received(data)
        if self._silent_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_receiving, self._header_bytes = True, 0
        self._since = self._registry.now_s()

    def on_url(self, url: bytes) -> None:
        """A part of its address."""
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind a body."""
        self._count_header(len(name) + len(value))
        super().on_header(name, value)

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > HEAD_BYTES_MAX:
            raise HeadTooLargeError

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It has arrived whole."""
        self._is_receiving, self._silent_bytes = False, 0
        self._since = self._registry.now_s()
        if self._is_answering():
            self._registry.use(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It was answered."""
        super().on_response_complete()
        self._since = self._registry.now_s()
        if not self._is_answering():  # the next request may have come already
            self._registry.release(self)

    def send_400_response(self, msg: str) -> None:
        """What came cannot be read."""
        if self._header_bytes > HEAD_BYTES_MAX:
            self._refuse()
        elif self._is_answering():
            self.transport.abort()  # in the middle of an answer nothing else can be said
        else:
            super().send_400_response(msg)

    def _refuse(self) -> None:
        if self._is_answering():
            self.transport.abort()
        else:
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    # -- what takes too long -----------------------------------------------------------------------------------------------------------

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def is_overdue(self) -> bool:
        """Whether it is of no use any more. Is asked every few seconds."""
        now = self._registry.now_s()
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent_bytes:  # somebody reads, or there is more to read
            self._unsent_bytes, self._since = unsent, now
        if unsent:
            return now - self._since > STALLED_S
        if self._is_answering() and not self._is_receiving:
            return False  # the application has limits of its own
        if self.flow.read_paused:
            return False  # it is us who do not read
        return now - self._since > REQUEST_WITHIN_S


def room_for_connections() -> int:
    """How many connections this process may have, after it has allowed itself as many open files as it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + FILES_KEPT
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return CONNECTIONS_MAX
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed - FILES_KEPT)
