"""A network that misbehaves on command: TCP proxies on loopback, between a service and its broker, database or gateway.

    with open_network() as network:
        proxy = network.stand_before(stack.rabbitmq_url, speaks=Amqp)
        fleet.start("invoice", RABBITMQ_URL=proxy.url)
        lost = proxy.drop(FrameEvent.CONFIRM, nth=3, then=RESET)
        proxy.become(to_client=BlackHole())
        proxy.heal()

The proxies run in one thread with an event loop of its own. Every method here is called from ordinary code, and returns when it is done.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from tests.faults.frames import Flow, Frame, FrameEvent, Plain, Session, Speaks

T = TypeVar("T")

CHUNK_BYTES: Final = 65_536
CONTROL_TIMEOUT_S: Final = 30.0
"""How long a call into the proxies' loop may take; it takes milliseconds on an idle machine."""
CONNECT_TIMEOUT_S: Final = 10.0
DEFAULT_PORTS: Final = {"amqp": 5672, "postgresql": 5432, "http": 80}
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger {on, 0 s}: close() sends RST (socket(7), SO_LINGER)


@dataclass(frozen=True, slots=True)
class Pass:
    """Bytes pass unchanged."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Each piece arrives that much later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Drip:
    """A few bytes pass at a time."""

    bytes_at_once: int = 7
    pause_s: float = 0.001


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing moves and nothing is lost, as in a partition that ends before TCP gives up. All of it arrives when the proxy heals."""


@dataclass(frozen=True, slots=True)
class BlackHole:
    """Bytes vanish, and so does the end of a connection. A connection that lost bytes is reset when the proxy heals, because its streams no
    longer fit together; a firewall that lost its state does the same."""


Manner = Pass | Delay | Drip | Stall | BlackHole
Then = Literal["reset", "silence"]
ALWAYS: Final = 1_000_000
"""`times` of a rule that never ends by itself."""
RESET: Final = "reset"
SILENCE: Final = "silence"


@dataclass(slots=True)
class Rule:
    """Drop the `nth` event that passes and those after it, `times` in all. Then cut the connection with RST, or let everything on it
    vanish: what follows a lost frame would be a protocol error. `about`: drop only COMMITs with this text in their statements, or
    parts of messages with this text in them."""

    event: FrameEvent
    nth: int
    times: int
    then: Then
    about: str
    seen: int = 0
    fired: int = 0

    def takes(self, frame: Frame) -> bool:
        """Whether this frame must be dropped; counts the frame."""
        if frame.event is not self.event or self.about not in frame.about:
            return False
        self.seen += 1
        taken = self.nth <= self.seen < self.nth + self.times
        self.fired += taken
        return taken


@dataclass(eq=False, slots=True)
class _ProxiedConnection:
    """A client's connection and the server's, which belong together."""

    session: Session
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    silenced: bool = False
    torn: bool = False
    ended: set[Flow] = field(default_factory=set)

    def sink(self, flow: Flow) -> asyncio.StreamWriter:
        return self.server if flow is Flow.TO_SERVER else self.client

    def reset(self) -> None:
        for writer in (self.client, self.server):
            _reset(writer)

    def end(self, flow: Flow) -> None:
        """Tell the receiver that no more bytes come."""
        self.ended.add(flow)
        with contextlib.suppress(OSError):
            self.sink(flow).write_eof()


class Proxy:
    """Stands before one server, or before the nodes of a cluster: the first that accepts takes a connection. `counts`: what was done to the
    network, in words and how often, so that a run can prove that its fault happened."""

    def __init__(self, network: "Network", targets: Sequence[SplitResult], speaks: Speaks) -> None:
        self._network = network
        self._targets = targets
        self._speaks = speaks
        self._manners: dict[Flow, Manner] = {flow: Pass() for flow in Flow}
        self._changed = asyncio.Event()
        self._rules: list[Rule] = []
        self._connections: set[_ProxiedConnection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._problems: list[BaseException] = []
        self._server: asyncio.Server | None = None
        self._reserved: socket.socket | None = None
        self._port = 0
        self.counts: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """The URL of the server through this proxy."""
        userinfo, at, _ = self._targets[0].netloc.rpartition("@")
        return self._targets[0]._replace(netloc=f"{userinfo}{at}127.0.0.1:{self._port}").geturl()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    # -- what can be done to the network -----------------------------------------------------------------------------------------------

    def become(self, *, to_server: Manner | None = None, to_client: Manner | None = None) -> None:
        """Change how bytes travel, on open connections and new ones; None: no change."""

        async def change() -> None:
            for flow, manner in ((Flow.TO_SERVER, to_server), (Flow.TO_CLIENT, to_client)):
                if manner is not None:
                    self._manners[flow] = manner
            self._wake()

        self._network.run(change())

    def drop(self, event: FrameEvent, *, nth: int = 1, times: int = 1, then: Then = RESET, about: str = "") -> Rule:
        """Arm a rule, which counts events from now on."""
        rule = Rule(event, nth, times, then, about)

        async def arm() -> None:
            self._rules.append(rule)

        self._network.run(arm())
        return rule

    def reset(self) -> None:
        """Cut every open connection with RST."""

        async def cut() -> None:
            for connection in list(self._connections):
                self._reset(connection)

        self._network.run(cut())

    def half_close(self, flow: Flow) -> None:
        """End one direction of every open connection. Its receiver reads the end, and can still write."""

        async def end() -> None:
            for connection in self._connections:
                connection.end(flow)
                self.counts["connections half-closed"] += 1

        self._network.run(end())

    def refuse(self) -> None:
        """Refuse new connections; open ones stay. The proxy keeps its port: it is bound, but does not listen."""
        self._network.run(self._stop_listening())

    def heal(self) -> None:
        """Let everything pass again: rules are disarmed, and connections that lost bytes are reset."""
        self._network.run(self._heal())

    # -- within the loop ---------------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        self._reserved = _bound(0)
        self._port = self._reserved.getsockname()[1]
        await self._listen()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._reserved is not None:
            self._reserved.close()
        for connection in list(self._connections):
            connection.reset()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        if self._problems:  # a bug of the proxy must not pass for a fault of the network
            raise self._problems[0]

    async def _listen(self) -> None:
        reserved, self._reserved = self._reserved, None
        if reserved is not None:
            self._server = await asyncio.start_server(self._accept, sock=reserved)

    async def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
            self._reserved = _bound(self._port)

    async def _heal(self) -> None:
        self._manners = {flow: Pass() for flow in Flow}
        self._rules.clear()
        for connection in [connection for connection in self._connections if connection.torn]:
            self._reset(connection)
        self._wake()
        await self._listen()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _reset(self, connection: _ProxiedConnection) -> None:
        connection.reset()
        self.counts["connections reset"] += 1

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: "asyncio.Task[None]") -> None:
        self._serving.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._problems.append(problem)

    async def _serve(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.counts["connections accepted"] += 1
        reached = await self._reach()
        if reached is None:
            _reset(client)
            return
        from_server, server = reached
        connection = _ProxiedConnection(self._speaks(), client, server)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(connection, Flow.TO_SERVER, from_client))
                pumps.create_task(self._pump(connection, Flow.TO_CLIENT, from_server))
        finally:
            self._connections.discard(connection)
            for writer in (client, server):
                writer.close()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the first server that accepts one; None if none does."""
        for target in self._targets:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    port = target.port or DEFAULT_PORTS[target.scheme]
                    return await asyncio.open_connection(target.hostname, port)
            except OSError:  # also TimeoutError, which is an OSError
                continue
        return None

    async def _pump(self, connection: _ProxiedConnection, flow: Flow, source: asyncio.StreamReader) -> None:
        """Carry one direction until it ends. If the receiver is gone, the sender learns it from the other direction."""
        news = flow
        try:
            while data := await source.read(CHUNK_BYTES):
                news = flow.opposite
                await self._pass_on(connection, flow, data)
                news = flow
        except OSError:
            await self._until_the_end_may_pass(connection, news)
            connection.reset()
        else:
            await self._until_the_end_may_pass(connection, flow)
            if flow not in connection.ended:
                connection.end(flow)

    async def _until_the_end_may_pass(self, connection: _ProxiedConnection, flow: Flow) -> None:
        """Wait until the end of a connection may pass. Like its bytes it vanishes in a black hole, and heal() resets the rest."""
        if isinstance(self._manner(connection, flow), BlackHole):
            self.counts[f"ends vanished {flow.value}"] += 1
        while isinstance(self._manner(connection, flow), BlackHole | Stall):
            connection.torn |= isinstance(self._manner(connection, flow), BlackHole)
            await self._changed.wait()

    async def _pass_on(self, connection: _ProxiedConnection, flow: Flow, data: bytes) -> None:
        passing = bytearray()
        for frame in connection.session.cut(flow, data):
            rule = None if connection.silenced else self._rule_for(frame)
            if rule is None:
                passing += frame.raw
                continue
            await self._carry(connection, flow, bytes(passing))
            passing.clear()
            self.counts[f"{rule.event.name} dropped"] += 1
            if rule.then == RESET:
                self._reset(connection)
                return
            connection.silenced = connection.torn = True
        await self._carry(connection, flow, bytes(passing))

    def _rule_for(self, frame: Frame) -> Rule | None:
        return next((rule for rule in self._rules if rule.takes(frame)), None)

    async def _carry(self, connection: _ProxiedConnection, flow: Flow, data: bytes) -> None:
        sink = connection.sink(flow)
        while data and flow not in connection.ended:
            piece = data
            match self._manner(connection, flow):
                case Pass():
                    pass
                case Delay(seconds):
                    self.counts["pieces delayed"] += 1
                    await asyncio.sleep(seconds)
                case Drip(bytes_at_once, pause_s):
                    self.counts["pieces dripped"] += 1
                    piece = data[:bytes_at_once]
                    await asyncio.sleep(pause_s)
                case Stall():
                    self.counts["pieces stalled"] += 1
                    await self._changed.wait()
                    continue
                case BlackHole():
                    self.counts["bytes vanished"] += len(data)
                    connection.torn = True
                    return
            data = data[len(piece) :]
            sink.write(piece)
            await sink.drain()

    def _manner(self, connection: _ProxiedConnection, flow: Flow) -> Manner:
        return BlackHole() if connection.silenced else self._manners[flow]


class Network:
    """The thread in which the proxies run."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._proxies: list[Proxy] = []

    def stand_before(self, *urls: str, speaks: Speaks = Plain) -> Proxy:
        """A proxy before the server of a URL, or before the nodes of a cluster."""
        proxy = Proxy(self, [urlsplit(url) for url in urls], speaks)
        self.run(proxy.open())
        self._proxies.append(proxy)
        return proxy

    def heal(self) -> None:
        """Everywhere."""
        for proxy in self._proxies:
            proxy.heal()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the proxies' loop; returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CONTROL_TIMEOUT_S)

    def close(self) -> None:
        """End every connection."""
        for proxy in self._proxies:
            self.run(proxy.close())


@contextmanager
def open_network() -> Iterator[Network]:
    """A network without proxies at first; all proxies end with the block."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_forever, name="network", daemon=True)
        thread.start()
        network = Network(loop)
        try:
            yield network
        finally:
            try:
                network.close()
            finally:
                loop.call_soon_threadsafe(loop.stop)
                thread.join(CONTROL_TIMEOUT_S)


def _bound(port: int) -> socket.socket:
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", port))
    return reserved


def _reset(writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    if not transport.is_closing():
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
