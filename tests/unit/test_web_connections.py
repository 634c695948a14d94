"""Over real sockets: nobody keeps a connection of a web process without using it, and nobody's request grows without end."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from starlette.types import Message, Receive, Scope, Send

from shared.web.connections import (
    FILES_KEPT,
    HEAD_BYTES_MAX,
    REQUEST_WITHIN_S,
    STALLED_S,
    BoundedConnection,
    Connections,
    room_for_connections,
)
from shared.web.server import WebServer, web_config
from tests.support.waiting import until

ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n"
SEND = b"POST /read HTTP/1.1\r\nhost: x\r\n"
HELLO = b"hello"
DEADLINE_S = 20.0
LARGE_BYTES = 64 * 1024 * 1024
"""More than the buffers of a loopback connection take."""


@dataclass
class TurnedClock:
    now_s: float = 0.0


@dataclass
class Served:
    """An application that answers at once, but for `/wait`, `/read` which reads a body, and `/large` which says much."""

    connections: Connections
    clock: TurnedClock
    port: int
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    read: list[int] = field(default_factory=list)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            self.waiting += 1
            await self.go_on.wait()
        if scope["path"] == "/read":
            self.read.append(await _read(receive))
        answer = b"x" * LARGE_BYTES if scope["path"] == "/large" else HELLO
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def passes(self, seconds: float) -> None:
        """So much time passes, and the connections are looked at."""
        self.clock.now_s += seconds
        assert await self.connections.run_once() == Connections.interval_s

    async def seen(self, what: Callable[[BoundedConnection], object], *, times: int = 1) -> None:
        """Wait until so many connections are so."""

        async def are_so() -> bool:
            return sum(map(bool, map(what, self.connections))) == times

        await until(are_so, what="the server to see what came")


async def _read(receive: Receive) -> int:
    size = 0
    message: Message = {}
    while message.get("type") != "http.disconnect" and message.get("more_body", True):
        message = await receive()
        size += len(message.get("body", b""))
    return size


@dataclass
class RawClient:
    """Somebody who opened a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hears(self) -> bytes:
        """What comes until the server closes the connection."""
        heard = b""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while piece := await self.reader.read(1 << 20):
                    heard = (heard + piece)[-1024:]
            except ConnectionError:
                pass
        return heard

    async def is_answered(self) -> bool:
        async with asyncio.timeout(DEADLINE_S):
            return (await self.reader.readuntil(HELLO)).startswith(b"HTTP/1.1 200")


@asynccontextmanager
async def serve(at_most: int = 100) -> AsyncIterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    clock = TurnedClock()
    connections = Connections(at_most, lambda: clock.now_s)
    served = Served(connections, clock, listener.getsockname()[1])
    server = WebServer(web_config(served.app, connections))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield served
    finally:
        served.go_on.set()
        server.should_exit = True
        async with asyncio.timeout(DEADLINE_S):
            await serving
        listener.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as one:
        yield one


@asynccontextmanager
async def connected(served: Served, *first: bytes) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    peer = RawClient(reader, writer)
    try:
        for data in first:
            await peer.send(data)
        yield peer
    finally:
        writer.transport.abort()


# -- what is not used --------------------------------------------------------------------------------------------------------------------

HALVES: dict[str, tuple[bytes, Callable[[BoundedConnection], object]]] = {
    "nothing": (b"", lambda _: True),
    "half an address": (b"GET /inv", lambda one: one._is_receiving),
    "half a head": (ASK[:-2], lambda one: one._is_receiving),
    "half a body": (SEND + b"content-length: 10\r\n\r\n12345", lambda one: one._is_receiving and one._is_answering()),
    "a body that nobody reads": (
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345",
        lambda one: one._is_receiving and one.server_state.total_requests,
    ),
    "a chunk without an end": (SEND + b"transfer-encoding: chunked\r\n\r\nff\r\n1", lambda one: one._is_answering()),
    "an answered request, then half of another": (ASK + ASK[:-2], lambda one: one._is_receiving),
}


@pytest.mark.parametrize("what", HALVES)
async def test_what_is_not_sent_to_its_end_is_given_up(what: str, served: Served) -> None:
    said, is_seen = HALVES[what]
    async with connected(served, said) as peer:
        await served.seen(is_seen)
        await served.passes(REQUEST_WITHIN_S)
        assert len(served.connections) == 1
        await served.passes(1)
        assert len(served.connections) == 0
        await peer.hears()


async def test_a_trickle_does_not_put_it_off(served: Served) -> None:
    async with connected(served, ASK[:-2]) as peer:
        await served.seen(lambda one: one._is_receiving)
        for at in range(3):
            await served.passes(REQUEST_WITHIN_S / 3)
            await peer.send(b"x: y\r\n")
            came = len(ASK) - 2 + 6 * (at + 1)
            await served.seen(lambda one, came=came: one._silent_bytes == came)  # type: ignore[misc]
        await served.passes(1)
        await peer.hears()


async def test_blank_lines_after_an_answer_do_not_put_it_off(served: Served) -> None:
    async with connected(served, ASK) as peer:
        assert await peer.is_answered()
        await peer.send(b"\r\n\r\n")
        await served.seen(lambda one: one._silent_bytes)
        await served.passes(REQUEST_WITHIN_S + 1)
        await peer.hears()


async def test_whoever_waits_for_an_answer_waits_as_long_as_it_takes(served: Served) -> None:
    async with connected(served, WAIT) as peer:
        await served.seen(lambda one: one._is_answering())
        await served.passes(10 * REQUEST_WITHIN_S)
        served.go_on.set()
        assert await peer.is_answered()
        await peer.send(ASK)
        assert await peer.is_answered(), "and it may be used again"


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_an_answer_that_nobody_reads_is_given_up(method: bytes, served: Served) -> None:
    async with connected(served, method + b" /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") as peer:
        await served.seen(lambda one: one.transport.get_write_buffer_size())
        await served.passes(0)
        await served.passes(STALLED_S)
        assert len(served.connections) == 1
        await served.passes(1)
        assert len(served.connections) == 0
        await peer.hears()


async def test_an_answer_that_is_read_slowly_is_sent_to_its_end(served: Served) -> None:
    async with connected(served, b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") as peer:
        heard = 0
        await served.seen(lambda one: one.transport.get_write_buffer_size())
        await served.passes(0)
        while heard < LARGE_BYTES:
            async with asyncio.timeout(DEADLINE_S):
                heard += len(await peer.reader.readexactly(LARGE_BYTES // 4))
            await served.passes(STALLED_S)
        assert (await peer.hears()).endswith(b"x")


# -- what is too large -------------------------------------------------------------------------------------------------------------------

LONG = b"a" * (HEAD_BYTES_MAX + 1)
TOO_LARGE: dict[str, bytes] = {
    "an address": b"GET /" + LONG + b" HTTP/1.1\r\n\r\n",
    "an address without an end": b"GET /" + LONG,
    "a header": b"GET / HTTP/1.1\r\nx: " + LONG + b"\r\n\r\n",
    "a header without an end": b"GET / HTTP/1.1\r\nx: " + LONG,
    "a name without an end": b"GET / HTTP/1.1\r\n" + LONG,
    "many headers": b"GET / HTTP/1.1\r\n" + b"x: 123456\r\n" * (HEAD_BYTES_MAX // 7 + 1) + b"\r\n",
    "blank lines": b"\r\n" * HEAD_BYTES_MAX,
}


@pytest.mark.parametrize("what", TOO_LARGE)
async def test_a_head_that_is_too_large_is_refused(what: str, served: Served) -> None:
    async with connected(served) as peer:
        sending = asyncio.create_task(peer.send(TOO_LARGE[what]))
        assert (await peer.hears()).startswith(b"HTTP/1.1 431 ")
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.parametrize("trailer", [b"x: " + LONG, b"x: 123456\r\n" * (HEAD_BYTES_MAX // 7 + 1)])
async def test_trailers_that_are_too_large_are_refused(trailer: bytes, served: Served) -> None:
    async with connected(served, SEND + b"transfer-encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n") as peer:
        sending = asyncio.create_task(peer.send(trailer))
        assert await peer.hears() == b"", "its request is being read, so nothing can be said"
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_large_body_is_no_large_head(served: Served) -> None:
    size = 40 * HEAD_BYTES_MAX
    async with connected(served, SEND + f"content-length: {size}\r\n\r\n".encode(), b"x" * size) as peer:
        assert await peer.is_answered()
        await peer.send(ASK * 2)
        assert await peer.is_answered()
        assert await peer.is_answered()
    assert served.read == [size]


async def test_rubbish_beside_a_request_that_waits_says_nothing_in_its_place(served: Served) -> None:
    async with connected(served, WAIT) as peer:
        await served.seen(lambda one: one._is_answering())
        await peer.send(b"\0rubbish\r\n\r\n")
        assert await peer.hears() == b""


# -- too many ----------------------------------------------------------------------------------------------------------------------------


async def test_when_there_are_too_many_the_one_unused_for_longest_is_closed() -> None:
    async with (
        serve(3) as served,
        connected(served, WAIT) as waits,
        connected(served) as oldest,
        connected(served) as other,
    ):
        await served.seen(lambda one: one._is_answering())
        await served.seen(lambda _: True, times=3)
        async with connected(served, ASK) as asks:
            assert await asks.is_answered()
            assert await oldest.hears() == b""
            served.go_on.set()
            assert await waits.is_answered()
            await other.send(ASK)
            assert await other.is_answered()


async def test_when_all_are_in_use_the_next_one_is_refused() -> None:
    async with serve(1) as served, connected(served, WAIT) as waits:
        await served.seen(lambda one: one._is_answering())
        async with connected(served) as refused:
            assert await refused.hears() == b""
        served.go_on.set()
        assert await waits.is_answered()


@pytest.mark.parametrize(
    ("soft", "hard", "room"),
    [(1_024, 4_096, 3_896), (1_024, -1, 8_000), (-1, -1, 8_000), (20_000, 20_000, 8_000), (1_024, 1_024, 824)],
)
def test_there_is_room_for_as_many_connections_as_files_may_be_open(
    soft: int, hard: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: allowed.append(both))
    assert room_for_connections() == room
    assert all(new == room + FILES_KEPT and of == hard for new, of in allowed)
