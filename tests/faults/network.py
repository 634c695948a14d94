"""The network between one service and a server misbehaves under load, and heals. The service resumes unaided, and is not ready meanwhile
(row 17). Lost confirms, acks and replies to COMMIT: rows 1, 4, 5 and 6; lost answers of the gateway: row 9."""

import atexit
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Final, Literal

from deploy.local.stack import SERVICES, Service, database_variable
from tests.faults import workload
from tests.faults.frames import Amqp, Flow, FrameEvent, Http, Postgres, Speaks
from tests.faults.proxy import RESET, SILENCE, BlackHole, Drip, Manner, Network, Proxy, Stall, Then, open_network
from tests.faults.ready import until_not_ready, until_ready
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial

FAMILY: Final = "network"
Server = Literal["broker", "database", "gateway"]

NTH: Final = 2
"""Drop this one of its kind, since the first may belong to the start of a service. (Staff publish only now and then.)"""
RESETS: Final = 3
DRIPPED_PIECES_MIN: Final = 300
ESTIMATE_S: Final = 20.0

NOT_READY_BECAUSE: Final[dict[Server, tuple[str, ...]]] = {
    "broker": ("publisher", "consumer "),
    "database": ("database", "charging"),
    "gateway": ("gateway",),
}
"""The components of readiness that depend on each server."""


@lru_cache(maxsize=1)
def network() -> Network:
    """One thread of proxies for the whole run. After a trial a service goes on over its healed proxy until its next start."""
    opened = ExitStack()
    atexit.register(opened.close)
    return opened.enter_context(open_network())


@dataclass(frozen=True, slots=True)
class Line:
    """The connections between a service and a server, through a proxy."""

    testbed: Testbed
    service: Service
    server: Server
    proxy: Proxy

    @classmethod
    async def lay(cls, testbed: Testbed, service: Service, server: Server) -> "Line":
        """Start the service again with a proxy before the server."""
        url, variable, speaks = _where(testbed, service, server)
        proxy = network().stand_before(url, speaks=speaks)
        await testbed.restart(service, instance=1, **{variable: proxy.url})
        await until_ready(testbed, service)
        return cls(testbed, service, server, proxy)

    def play(self) -> None:
        """Play scenes that make this service use that server. Staff publish only after a decision."""
        if self.service == "staff" and self.server == "broker":
            self.testbed.play(workload.LATE_SUCCESS)
        self.testbed.play()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        async def so() -> bool:
            return condition()

        await self.testbed.until(so, what=what)

    async def until_not_ready(self) -> None:
        await until_not_ready(self.testbed, self.service, NOT_READY_BECAUSE[self.server])


def _where(testbed: Testbed, service: Service, server: Server) -> tuple[str, str, Speaks]:
    """A server's URL, the setting that names it, and its protocol."""
    match server:
        case "broker":
            return testbed.system.stack.rabbitmq_url_of(service), "RABBITMQ_URL", Amqp
        case "database":
            return testbed.system.stack.database_url_of(service, service), database_variable(service), Postgres
        case "gateway":
            return testbed.system.sandbox.url, "GATEWAY_URL", Http


# -- faults: each injects, waits until it has fired, and returns how often it fired; all are healed afterwards ---------------------------

Inject = Callable[[Line], Awaitable[int]]


async def _lost(line: Line, *, event: FrameEvent, then: Then, about: str = "") -> int:
    # Staff receive few messages. Acks wait for each other, so on a fast machine a load may end with the first one.
    nth = 1 if line.service == "staff" or event is FrameEvent.ACK else NTH
    rule = line.proxy.drop(event, nth=nth, then=then, about=about)
    line.play()
    await line.until(lambda: rule.fired > 0, f"{event.value} is lost")
    if then == SILENCE:
        gave_up = f"ends vanished {Flow.TO_SERVER.value}"
        await line.until(lambda: line.proxy.counts[gave_up] > 0, "the service gives the silent connection up")
    return rule.fired


async def _partitioned(line: Line, **manners: Manner) -> int:
    await _until_known(line, lambda: line.proxy.become(**manners))
    return line.proxy.counts["bytes vanished"] + line.proxy.counts["pieces stalled"]


async def _refused(line: Line) -> int:
    def refuse() -> None:
        line.proxy.refuse()
        line.proxy.reset()

    await _until_known(line, refuse)
    return max(line.proxy.counts["connections reset"], 1)  # if none was open, the service met the refusal itself


async def _until_known(line: Line, disturb: Callable[[], None]) -> None:
    """Disturb the line under load until the service is not ready."""
    line.play()
    await line.testbed.until_under_load()
    disturb()
    line.play()
    await line.until_not_ready()


async def _reset(line: Line) -> int:
    line.play()
    for number in range(1, RESETS + 1):
        await line.until(lambda: line.proxy.connections > 0, "a connection to cut")
        reached = line.proxy.counts[
            "connections accepted"
        ]  # read first: an idle service connects once more, and at once
        line.proxy.reset()
        line.play()
        await line.until(lambda before=reached: line.proxy.counts["connections accepted"] > before, f"reset {number}")  # type: ignore[misc]
    return line.proxy.counts["connections reset"]


async def _half_closed(line: Line) -> int:
    line.play()
    for flow in Flow:
        await line.until(lambda: line.proxy.connections > 0, "a connection to close by half")
        line.proxy.half_close(flow)
    line.play()
    return line.proxy.counts["connections half-closed"]


async def _dripped(line: Line) -> int:
    line.proxy.become(to_server=Drip(), to_client=Drip())
    line.play()
    await line.until(lambda: line.proxy.counts["pieces dripped"] > DRIPPED_PIECES_MIN, "bytes to drip")
    return line.proxy.counts["pieces dripped"]


@dataclass(frozen=True, slots=True)
class NetworkFault:
    """A fault of the network. `between`: the servers before which it makes sense."""

    name: str
    injects: str
    inject: Inject
    between: frozenset[Server] = field(default_factory=lambda: frozenset(NOT_READY_BECAUSE))


FAULTS: Final[tuple[NetworkFault, ...]] = (
    NetworkFault("confirm_lost", "a confirm is lost, then the connection is cut",
          partial(_lost, event=FrameEvent.CONFIRM, then=RESET), frozenset({"broker"})),
    NetworkFault("confirm_lost_in_silence", "a confirm is lost, and all that follows on its connection",
          partial(_lost, event=FrameEvent.CONFIRM, then=SILENCE), frozenset({"broker"})),
    NetworkFault("ack_lost", "an ack is lost, then the connection is cut",
          partial(_lost, event=FrameEvent.ACK, then=RESET), frozenset({"broker"})),
    NetworkFault("commit_reply_lost", "the reply to a commit is lost, then the connection is cut",
          partial(_lost, event=FrameEvent.COMMIT, then=RESET, about="INSERT INTO"), frozenset({"database"})),
    NetworkFault("commit_reply_lost_in_silence", "the reply to a commit is lost, and all that follows on its connection",
          partial(_lost, event=FrameEvent.COMMIT, then=SILENCE, about="INSERT INTO"), frozenset({"database"})),
    NetworkFault("answer_lost", "an answer is lost, then the connection is cut",
          partial(_lost, event=FrameEvent.ANSWER, then=RESET), frozenset({"gateway"})),
    NetworkFault("black_hole_to_server", "what the service sends vanishes until it notices", partial(_partitioned, to_server=BlackHole())),
    NetworkFault("black_hole_to_client", "what the server sends vanishes until the service notices",
          partial(_partitioned, to_client=BlackHole())),
    NetworkFault("late", "what the service sends arrives after it gave up: late commits, publishes, acks and charges",
          partial(_partitioned, to_server=Stall())),
    NetworkFault("refused", "cut, and refused until the service notices", _refused),
    NetworkFault("reset", f"all connections are cut, {RESETS} times", _reset),
    NetworkFault("half_closed", "one direction of each connection ends, then the other", _half_closed),
    NetworkFault("drip", "a few bytes at a time", _dripped),
)  # fmt: skip

SHORT: Final = frozenset(
    {
        "network/invoice.broker:confirm_lost",
        "network/saga.broker:ack_lost",
        "network/payment_gateway.database:commit_reply_lost",
        "network/payment_gateway.gateway:answer_lost",
        "network/staff.database:refused",
    }
)


async def _run(testbed: Testbed, note: Note, *, fault: NetworkFault, service: Service, server: Server) -> None:
    line = await Line.lay(testbed, service, server)
    try:
        note.fired(await fault.inject(line))
    finally:
        line.proxy.heal()
    note.mended()
    await until_ready(testbed, service)
    testbed.play()


def _lines() -> Iterator[tuple[Service, Server]]:
    for service in SERVICES:
        yield service, "broker"
        yield service, "database"
    yield "payment_gateway", "gateway"


def trials() -> Sequence[Trial]:
    """Each fault on each line between a service and a server."""
    made = []
    for service, server in _lines():
        for fault in FAULTS:
            if server not in fault.between:
                continue
            name = f"{FAMILY}/{service}.{server}:{fault.name}"
            made.append(
                Trial(
                    name=name,
                    family=FAMILY,
                    injects=f"between {service} and its {server}: {fault.injects}",
                    run=partial(_run, fault=fault, service=service, server=server),
                    estimate_s=ESTIMATE_S,
                    touches=frozenset({service}),
                    short=name in SHORT,
                    random=not (service == "staff" and server == "broker"),
                )
            )
    return made
