"""The proxy itself: a client and a server see exactly the fault that was ordered."""

import asyncio
import contextlib
import http.client
import socket
import socketserver
import threading
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aio_pika
import asyncpg
import pytest
from aiormq.exceptions import AMQPError

from tests.faults.frames import Amqp, Flow, FrameEvent, Http, Postgres
from tests.faults.proxy import RESET, SILENCE, BlackHole, Delay, Drip, Network, Proxy, Stall
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.waiting import until

QUIET_S = 0.2
"""Seconds without any bytes after which a direction counts as quiet."""
WAIT_S = 20.0


class Echo(socketserver.BaseRequestHandler):
    """Sends all bytes back, and `bye` at the end of the stream."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(4096):
                self.request.sendall(data)
            self.request.sendall(b"bye")


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True


@pytest.fixture
def echo(network: Network) -> Iterator[Proxy]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield network.stand_before(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()


@contextlib.contextmanager
def connected(proxy: Proxy) -> Iterator[socket.socket]:
    port = int(proxy.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
        client.sendall(b"hello")
        assert exactly(client, 5) == b"hello", "the connection must reach the server"
        yield client


def exactly(client: socket.socket, count: int) -> bytes:
    """The next `count` bytes, or fewer if the stream ends before."""
    received = b""
    while len(received) < count and (data := client.recv(count - len(received))):
        received += data
    return received


def is_quiet(client: socket.socket) -> bool:
    client.settimeout(QUIET_S)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(WAIT_S)
    return False


def test_bytes_and_the_end_of_a_stream_pass(echo: Proxy) -> None:
    with connected(echo) as client:
        client.sendall(b"x" * 300_000)
        assert exactly(client, 300_000) == b"x" * 300_000
        client.shutdown(socket.SHUT_WR)
        assert exactly(client, 3) == b"bye"
        assert client.recv(1) == b""


def test_delayed_and_dripped_bytes_all_come(echo: Proxy) -> None:
    with connected(echo) as client:
        echo.become(to_server=Delay(0.01), to_client=Drip(bytes_at_once=3, pause_s=0.0001))
        client.sendall(b"x" * 900)
        assert exactly(client, 900) == b"x" * 900
    assert echo.counts["pieces delayed"] >= 1
    assert echo.counts["pieces dripped"] >= 300


def test_a_stalled_direction_loses_nothing(echo: Proxy) -> None:
    with connected(echo) as client:
        echo.become(to_server=Stall())
        client.sendall(b"later")
        assert is_quiet(client)
        echo.heal()
        assert exactly(client, 5) == b"later"


@pytest.mark.parametrize("flow", Flow)
def test_a_black_hole_swallows_one_direction_and_the_connection_stays_until_it_heals(echo: Proxy, flow: Flow) -> None:
    with connected(echo) as client:
        echo.become(**{flow.name.lower(): BlackHole()})
        client.sendall(b"gone")
        assert is_quiet(client)
        assert echo.counts["bytes vanished"] == 4
        assert echo.connections == 1
        echo.heal()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_black_hole_also_swallows_the_end_of_a_connection(echo: Proxy) -> None:
    with connected(echo) as client:
        echo.become(to_server=BlackHole())
        client.close()
        with connected_through_nothing(echo) as other:
            assert is_quiet(other)
        assert echo.connections == 2, "the server does not know that the clients left"
    echo.heal()


@contextlib.contextmanager
def connected_through_nothing(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), WAIT_S) as client:
        client.sendall(b"?")
        yield client


def test_a_connection_that_lost_nothing_survives_healing(echo: Proxy) -> None:
    with connected(echo) as client:
        echo.become(to_client=BlackHole())
        echo.heal()
        client.sendall(b"still")
        assert exactly(client, 5) == b"still"


def test_reset_cuts_every_connection(echo: Proxy) -> None:
    with connected(echo) as client:
        echo.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert echo.counts["connections reset"] == 1


def test_half_close_ends_one_direction(echo: Proxy) -> None:
    with connected(echo) as client:
        echo.half_close(Flow.TO_SERVER)
        assert exactly(client, 3) == b"bye"
    with connected(echo) as client:
        echo.half_close(Flow.TO_CLIENT)
        assert client.recv(1) == b""
        client.sendall(b"it can still be written to")
    assert echo.counts["connections half-closed"] >= 2


def test_connections_are_refused_until_the_proxy_heals_on_the_same_port(echo: Proxy) -> None:
    with connected(echo) as client:
        echo.refuse()
        with pytest.raises(ConnectionRefusedError), connected(echo):
            pass
        client.sendall(b"open ones stay")
        assert exactly(client, 14) == b"open ones stay"
    echo.heal()
    with connected(echo):
        pass


def test_without_a_server_the_connection_is_reset(network: Network) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        proxy = network.stand_before(f"http://127.0.0.1:{reserved.getsockname()[1]}")
        with pytest.raises(ConnectionResetError), connected(proxy):
            pass


# -- HTTP ------------------------------------------------------------------------------------------------------------------------------


class Counting(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


def ask(proxy: Proxy) -> int:
    client = http.client.HTTPConnection("127.0.0.1", int(proxy.url.rpartition(":")[2]), timeout=WAIT_S)
    with contextlib.closing(client):
        client.request("GET", "/")
        return client.getresponse().status


def test_the_gateway_answer_is_lost_after_the_request_was_made(network: Network) -> None:
    Counting.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        proxy = network.stand_before(f"http://127.0.0.1:{server.server_address[1]}", speaks=Http)
        rule = proxy.drop(FrameEvent.ANSWER, nth=2)
        assert ask(proxy) == HTTPStatus.NO_CONTENT
        with pytest.raises(ConnectionResetError):
            ask(proxy)
        assert (rule.seen, rule.fired, Counting.asked) == (2, 1, 2)
        server.shutdown()


# -- RabbitMQ --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", [RESET, SILENCE])
async def test_a_confirm_is_lost_and_the_message_is_in_the_queue(
    network: Network, environment: Environment, then: str
) -> None:
    proxy = network.stand_before(environment.rabbitmq_url, speaks=Amqp)
    rule = proxy.drop(FrameEvent.CONFIRM, nth=3, then=RESET if then == RESET else SILENCE)
    connection = await aio_pika.connect(proxy.url, timeout=WAIT_S)
    channel = await connection.channel()
    queue = await channel.declare_queue("invoice.commands", passive=True)
    for number in range(2):
        await channel.default_exchange.publish(aio_pika.Message(b"%d" % number), queue.name, timeout=WAIT_S)
    with pytest.raises((AMQPError, OSError, TimeoutError, asyncio.CancelledError)):
        await channel.default_exchange.publish(aio_pika.Message(b"2"), queue.name, timeout=1.0)
    proxy.heal()
    with contextlib.suppress(AMQPError, OSError, RuntimeError, TimeoutError):
        await connection.close()
    assert (rule.seen, rule.fired) == (3, 1)
    assert await bodies(environment.rabbitmq_url, "invoice.commands", 3) == [b"0", b"1", b"2"]


async def test_an_ack_is_lost_and_the_message_is_redelivered(network: Network, environment: Environment) -> None:
    proxy = network.stand_before(environment.rabbitmq_url, speaks=Amqp)
    rule = proxy.drop(FrameEvent.ACK)
    connection = await aio_pika.connect(proxy.url, timeout=WAIT_S)
    channel = await connection.channel()
    await channel.default_exchange.publish(aio_pika.Message(b"again"), "invoice.commands", timeout=WAIT_S)
    delivered = await (await channel.get_queue("invoice.commands")).get(timeout=WAIT_S)
    assert delivered is not None
    with contextlib.suppress(AMQPError, OSError, RuntimeError):
        await delivered.ack()

    async def fired() -> bool:
        return rule.fired == 1

    await until(fired, what="the ack")
    with contextlib.suppress(AMQPError, OSError, RuntimeError, asyncio.CancelledError):
        await connection.close()
    assert await bodies(environment.rabbitmq_url, "invoice.commands", 1) == [b"again"]


async def bodies(url: str, queue: str, count: int) -> list[bytes]:
    """The next messages of a queue, read without the proxy; fails if there are more."""
    connection = await aio_pika.connect(url, timeout=WAIT_S)
    async with connection, asyncio.timeout(WAIT_S):
        channel = await connection.channel()
        waiting = await channel.get_queue(queue)
        found: list[bytes] = []
        while len(found) < count:
            if (message := await waiting.get(no_ack=True, fail=False)) is not None:
                found.append(message.body)
        assert await waiting.get(no_ack=True, fail=False) is None
        return found


# -- PostgreSQL ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def table(environment: Environment) -> AsyncIterator[str]:
    url = environment.databases["invoice"]
    await execute(url, "CREATE TABLE proxied (n int)")
    yield url
    await execute(url, "DROP TABLE proxied")


LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError, TimeoutError)


@pytest.mark.parametrize("then", [RESET, SILENCE])
async def test_the_reply_to_a_commit_is_lost_and_the_rows_are_stored(network: Network, table: str, then: str) -> None:
    proxy = network.stand_before(table, speaks=Postgres)
    rule = proxy.drop(FrameEvent.COMMIT, nth=2, then=RESET if then == RESET else SILENCE, about="INSERT")
    connection = await asyncpg.connect(proxy.url, timeout=WAIT_S, command_timeout=1.0)
    async with connection.transaction():
        await connection.execute("INSERT INTO proxied SELECT generate_series(1, $1)", 2)
    await connection.execute("UPDATE proxied SET n = n")
    with contextlib.suppress(ZeroDivisionError):
        async with connection.transaction():
            await connection.execute("INSERT INTO proxied VALUES (99)")
            raise ZeroDivisionError
    with pytest.raises(LOST):
        async with connection.transaction():
            await connection.execute("INSERT INTO proxied VALUES ($1)", 3)
    connection.terminate()
    assert (rule.seen, rule.fired) == (2, 1)
    assert [row["n"] for row in await rows(table, "SELECT n FROM proxied ORDER BY n")] == [1, 2, 3]


async def test_the_reply_to_a_statement_that_commits_by_itself_is_lost(network: Network, table: str) -> None:
    proxy = network.stand_before(table, speaks=Postgres)
    connection = await asyncpg.connect(proxy.url, timeout=WAIT_S)
    assert await connection.fetch("SELECT n FROM proxied") == []
    rule = proxy.drop(FrameEvent.COMMIT)
    with pytest.raises(LOST):
        await connection.execute(
            "WITH w0 AS (INSERT INTO proxied VALUES ($1)), w1 AS (INSERT INTO proxied VALUES ($2)) SELECT", 1, 2
        )
    connection.terminate()
    assert rule.fired == 1
    assert [row["n"] for row in await rows(table, "SELECT n FROM proxied ORDER BY n")] == [1, 2]


def test_the_first_of_several_servers_that_accepts_gets_the_connection(network: Network) -> None:
    with socket.socket() as away, EchoServer(("127.0.0.1", 0), Echo) as server:
        away.bind(("127.0.0.1", 0))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        ports = (away.getsockname()[1], server.server_address[1])
        with connected(network.stand_before(*(f"http://127.0.0.1:{port}" for port in ports))):
            pass
        server.shutdown()
