"""The small server of probes and webhooks, over real sockets: strangers keep no connection of a service open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web

from shared import http_server
from shared.http_server import CONNECTIONS_MAX, UNUSED_MAX_S, HttpServer, serve
from tests.support.waiting import until

ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HELLO = b"hello"
DEADLINE_S = 20.0


class OpenServer:
    """A server whose answers at `/wait` wait for `go_on`."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.waiting = 0
        self.server = HttpServer(None)

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/wait":
            self.waiting += 1
            await self.go_on.wait()
        if request.path == "/bug":
            raise ZeroDivisionError
        return web.Response(body=HELLO)

    def passes(self, seconds: float) -> None:
        self.server.end_unused(asyncio.get_running_loop().time() + seconds)

    @asynccontextmanager
    async def connected(self, first: bytes) -> AsyncIterator[asyncio.StreamReader]:
        host, port = self.server.addresses[0]
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(first)
            await writer.drain()
            yield reader
        finally:
            writer.transport.abort()


@pytest.fixture
async def opened() -> AsyncIterator[OpenServer]:
    one = OpenServer()
    app = web.Application()
    app.router.add_get("/{path:.*}", one.answer)
    one.server = await serve(app, "127.0.0.1", 0)
    yield one
    one.go_on.set()
    await one.server.close()
    assert one.server.addresses == []


async def closed(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def closed_or_said(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        try:
            return (await reader.readuntil(HELLO))[-len(HELLO) :]
        except (ConnectionError, asyncio.IncompleteReadError):
            return b""


@pytest.mark.parametrize("first", [b"", b"GET / HT", ASK[:-2]])
async def test_a_connection_without_a_request_is_closed(first: bytes, opened: OpenServer) -> None:
    async with opened.connected(first) as silent, opened.connected(ASK) as other:
        await asyncio.wait_for(other.readuntil(HELLO), DEADLINE_S)  # so the one before it is known to the server, too
        opened.passes(UNUSED_MAX_S - 5)
        assert not silent.at_eof()
        opened.passes(UNUSED_MAX_S + 1)
        assert await closed(silent) == b""
        assert await closed(other) == b"", "and so is one that was used before"


@pytest.mark.parametrize("wrong", [b"content-length: -2", b"transfer-encoding: chunked\r\ncontent-length: 2", b"a: \0"])
async def test_what_is_no_http_fills_no_log(wrong: bytes, opened: OpenServer, caplog: pytest.LogCaptureFixture) -> None:
    async with opened.connected(ASK[:-2] + wrong + b"\r\n\r\n") as stranger:
        assert (await closed(stranger)).startswith(b"HTTP/1.0 400 ")
    assert caplog.record_tuples == []


async def test_an_error_of_ours_is_logged(opened: OpenServer, caplog: pytest.LogCaptureFixture) -> None:
    async with opened.connected(ASK.replace(b"/", b"/bug", 1)) as other:
        assert (await closed(other)).startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError" in caplog.text


async def test_one_that_waits_for_its_answer_gets_it(opened: OpenServer) -> None:
    async with opened.connected(ASK.replace(b"/", b"/wait", 1)) as waits:

        async def is_waiting() -> bool:
            return opened.waiting == 1

        await until(is_waiting, what="the request to be answered")
        opened.passes(10 * UNUSED_MAX_S)
        opened.go_on.set()
        await asyncio.wait_for(waits.readuntil(HELLO), DEADLINE_S)


async def test_whoever_holds_all_connections_keeps_nobody_out(opened: OpenServer) -> None:
    """Otherwise a stranger with two hundred silent connections had the orchestrator end every service, whose probes are refused."""
    async with AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(opened.connected(b"GET / HT")) for _ in range(CONNECTIONS_MAX + 20)]
        for _ in range(3):
            async with opened.connected(ASK) as taken:
                await asyncio.wait_for(taken.readuntil(HELLO), DEADLINE_S)
        assert await closed(silent[0]) == b"", "the first of them is the first to go"
        assert not silent[-1].at_eof()


async def test_so_many_that_are_answered_are_taken_and_more_when_some_have_gone(opened: OpenServer) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(CONNECTIONS_MAX):
            await stack.enter_async_context(opened.connected(ASK.replace(b"/", b"/wait", 1)))

        async def all_wait() -> bool:
            return opened.waiting == CONNECTIONS_MAX

        await until(all_wait, what="the requests to be answered")
        async with opened.connected(ASK) as refused:
            assert await closed(refused) == b""
        opened.go_on.set()
        opened.passes(0)

        async def is_taken() -> bool:
            async with opened.connected(ASK) as taken:
                return (await closed_or_said(taken)) == HELLO

        await until(is_taken, what="a connection to be taken")


async def test_those_that_come_at_once_do_not_push_each_other_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them can be closed yet: it would be forgotten, and stay open for ever."""
    monkeypatch.setattr(http_server, "CONNECTIONS_MAX", 2)

    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    make = http_server._Connections().made_by(web.Server(answer))
    assert [isinstance(make(), http_server._Refused) for _ in range(4)] == [False, False, True, True]
