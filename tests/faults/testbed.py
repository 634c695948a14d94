"""One private environment for trials: a virtual host, four databases, a sandbox gateway, the four services as processes, and a sender.

Testbeds on one stack run side by side: no testbed sees what another one does.
"""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import aio_pika
import asyncpg
import psutil

from deploy.demo.scenes import Stage
from deploy.demo.upstream import Upstream
from deploy.local.errors import StackError
from deploy.local.fleet import ROOT
from deploy.local.stack import SERVICES, UPSTREAM, Service, Stack
from deploy.local.system import System, open_system_on
from deploy.permissions.databases import AUDIT
from shared.messaging.apply import apply_topology
from shared.messaging.topology import QUEUES
from shared.persistence.database import AWAY_ERRORS
from tests.faults import workload
from tests.faults.tap import Tap
from tests.support.databases import rows

T = TypeVar("T")

HEARTBEAT_S: Final = 2
"""The broker closes the connection of a stopped process after two to three of these."""
LEASE_S: Final = 3 * 1.0 + 1.5
"""Seconds, by the settings below: three calls and the margin."""
SETTINGS: Final = {
    "GATEWAY_TIMEOUT_S": "1",
    "GATEWAY_LEASE_MARGIN_S": "1.5",
    "GATEWAY_LADDER_S": "0.2,0.4,0.8,1.5",
    "SAGA_DEADLINE_S": "6,12,24",
    "INVOICE_REMIND_AFTER_S": "3",
}
"""Settings by which things take seconds that take minutes or hours in production."""

FIRED_WITHIN_S: Final = 60.0
DRAINED_WITHIN_S: Final = 120.0
"""Longer than the saga's last deadline and the longest back-off of a refused message together."""
POLL_S: Final = 0.1
DRAIN_POLL_S: Final = 0.25
KEEP_POLL_S: Final = 0.2
AT_ONCE: Final = 20
_PORTS: Final = range(14_000, 17_900)
"""Ports of health endpoints: below those of stacks and of outgoing connections."""

_UNDER_WAY: Final[dict[Service, str]] = {
    "invoice": "SELECT count(*) FROM outbox",
    "payment_gateway": """SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM payments WHERE leased_by IS NOT NULL OR status IN
        ('requested', 'prepared', 'cancelling', 'in_doubt', 'refunding', 'refund_in_doubt'))""",
    "saga": """SELECT (SELECT count(*) FROM outbox)
        + (SELECT count(*) FROM sagas WHERE status IN ('awaiting_outcome', 'settling', 'refunding')
           OR jsonb_path_exists(refunds, '$[*] ? (@.status == "asked" || @.status == "made" && @.is_recorded == false)'))""",
    "staff": "SELECT count(*) FROM outbox",
}
_LONGEST_FIRST: Final[tuple[Service, ...]] = ("payment_gateway", "saga", "invoice", "staff")
_HANDLED: Final[dict[Service, str]] = {
    "invoice": """SELECT min(at) AS at FROM (SELECT answered_at AS at FROM answers UNION ALL SELECT handled_at FROM inbox) a
        WHERE at > to_timestamp($1)""",
    "payment_gateway": "SELECT min(handled_at) AS at FROM inbox WHERE handled_at > to_timestamp($1)",
    "saga": "SELECT min(handled_at) AS at FROM inbox WHERE handled_at > to_timestamp($1)",
    "staff": """SELECT min(at) AS at FROM (SELECT handled_at AS at FROM inbox UNION ALL SELECT last_seen FROM dead_letters) a
        WHERE at > to_timestamp($1)""",
}


_opening = asyncio.Lock()
"""Migrations are run one database at a time: Alembic's context is one for the whole process."""


class Testbed:
    """The environment of a trial; the package's docstring shows how a trial uses it."""

    def __init__(self, name: str, system: System, upstream: Upstream, tap: Tap) -> None:
        self.name = name
        self.system = system
        self.upstream = upstream
        self.tap = tap
        self.restarts = 0
        self.surprises: list[str] = []
        self.trials = 0
        self.restarted_at: dict[str, float] = {}
        self.ports: dict[str, int] = {}
        self._settings: dict[str, dict[str, str]] = {}
        self.dead_letters: list[UUID] = []
        self.lost: set[str] = set()
        """Queues that were deleted with their messages."""
        self.thorough = False
        """Whether the audit also gets the number of unacknowledged deliveries (it costs a second of CPU)."""
        self.baselines: list[Path] = []
        """Earlier states that the audit compares with."""
        self._kept: set[str] = set()
        self._turn = asyncio.Lock()
        self._scenes: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._numbers = iter(range(1, 1_000_000))
        self._counters: dict[int, Counter[str]] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, stack: Stack, name: str, *, owns_stack: bool = False, **settings: str
    ) -> "AsyncIterator[Testbed]":
        """Open a testbed in which all services run. `owns_stack`: no other testbed uses the stack, so its default virtual host and
        databases will do."""
        async with AsyncExitStack() as opened:
            own = stack
            if not owns_stack:
                part = stack.part(name)
                own = await asyncio.to_thread(part.__enter__)
                opened.push_async_callback(asyncio.to_thread, part.__exit__, None, None, None)
            await asyncio.to_thread(_let_impersonate, own)
            own = _with_heartbeat(own)
            manager = open_system_on(own, **(SETTINGS | settings))
            async with _opening:
                system = await asyncio.to_thread(manager.__enter__)
            opened.push_async_callback(asyncio.to_thread, manager.__exit__, None, None, None)
            upstream = await opened.enter_async_context(
                Upstream.open(own.rabbitmq_url_of(UPSTREAM), name=name, history=system.history)
            )
            upstream.patience_s = (
                DRAINED_WITHIN_S  # servers may be away for minutes; only that the answer comes matters
            )
            tap = await opened.enter_async_context(Tap.open(own.rabbitmq_url, system.folder / "tap.jsonl"))
            testbed = cls(name, system, upstream, tap)
            for service in SERVICES:
                await testbed.start(service)
            keeper = asyncio.create_task(testbed._keep(), name=f"keeper of {name}")
            try:
                yield testbed
            finally:
                keeper.cancel()
                for scene in testbed._scenes:
                    scene.cancel()
                await asyncio.gather(keeper, *testbed._scenes, return_exceptions=True)

    # -- services ------------------------------------------------------------------------------------------------------------------------

    @property
    def vhost(self) -> str:
        """The name of its virtual host."""
        return self.system.stack.vhost

    def database(self, service: Service) -> str:
        return self.system.stack.administrator_database_url(service)

    async def start(self, service: str, *, instance: int = 1, **settings: str) -> None:
        """Start an instance. From now on it is kept running: after its first end it is started again, without `settings`."""
        async with self._turn:
            await self._start(service, instance, settings)

    async def _start(self, service: str, instance: int, settings: dict[str, str]) -> None:
        name = service if instance == 1 else f"{service}-{instance}"
        self.ports[name] = _free_port()
        settings_now = {"HEALTH_PORT": str(self.ports[name])} | settings
        await asyncio.to_thread(lambda: self.system.fleet.start(service, instance=instance, **settings_now))
        self._settings[name] = settings
        self._kept.add(name)

    async def restart(self, service: str, *, instance: int = 1, **settings: str) -> None:
        """SIGTERM, wait, and start with other settings."""
        await self.stop(service if instance == 1 else f"{service}-{instance}")
        await self.start(service, instance=instance, **settings)

    async def stop(self, name: str) -> None:
        """SIGTERM; it stays down. It is killed if it does not end in time."""
        async with self._turn:
            await self._stop(name)

    async def _stop(self, name: str) -> None:
        self._kept.discard(name)
        if name not in self.system.fleet.names:
            return
        await self._scrape(name)
        self.signal(name, signal.SIGCONT)  # a stopped process reacts to no other signal but SIGKILL
        try:
            await asyncio.to_thread(self.system.fleet.stop, name)
        except StackError:
            self.surprises.append(f"{name} did not stop in time")
            await asyncio.to_thread(self.system.fleet.kill, name)

    async def kill(self, name: str) -> None:
        """kill -9; it stays down."""
        async with self._turn:
            self._kept.discard(name)
            await asyncio.to_thread(self.system.fleet.kill, name)

    def signal(self, name: str, number: signal.Signals) -> None:
        self.system.fleet.signal(name, number)

    def is_stopped(self, name: str) -> bool:
        """Whether the process is in state T (stopped)."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.system.fleet.pid(name)).status() == psutil.STATUS_STOPPED
        return False

    async def ends(self, name: str) -> bool:
        """Whether its process has ended."""
        return not await asyncio.to_thread(self.system.fleet.is_running, name)

    def log_of(self, name: str) -> "LogMark":
        """The instance's log from now on."""
        path = self.system.folder / f"{name}.log"
        return LogMark(path, path.stat().st_size if path.exists() else 0)

    async def put_right(self, touched: Collection[str] = SERVICES) -> None:
        """Leave one plain instance of each of these services, whatever the last trial left."""
        await self.stop_extras(touched)
        for service in (service for service in SERVICES if service in touched):
            changed = {key for key in self._settings.get(service, {}) if key != "REMIT_FAULT"}
            if service not in self._kept or changed:
                await self.restart(service)

    async def stop_extras(self, touched: Collection[str] = SERVICES) -> None:
        """Stop all but one instance of each of these services."""
        for name in list(self.system.fleet.names):
            if name not in SERVICES and name.partition("-")[0] in touched:
                await self.stop(name)

    async def _keep(self) -> None:
        """Supervise: start every instance again that ends, without a fault."""
        while True:
            await asyncio.sleep(KEEP_POLL_S)
            async with self._turn:
                for name in sorted(self._kept):
                    if await self.ends(name):
                        service, _, instance = name.partition("-")
                        self.restarts += 1
                        await self._start(service, int(instance or 1), {})
                        self.restarted_at[name] = time.time()

    # -- the workload --------------------------------------------------------------------------------------------------------------------

    def play(self, *names: str, rounds: int = 1) -> None:
        """Play scenes in the background, by default the mix."""
        for name in (names or workload.MIX) * rounds:
            task = asyncio.create_task(self._play(name))
            self._scenes.add(task)

    async def played(self) -> None:
        """Wait until the scenes that play now are over; each has deadlines of its own. In random mode new scenes follow for ever."""
        if scenes := set(self._scenes):
            await asyncio.wait(scenes)
            self._scenes -= scenes

    @property
    def playing(self) -> int:
        return sum(not scene.done() for scene in self._scenes)

    async def _play(self, name: str) -> None:
        scene = workload.scene(name, self)
        keys: Any = self.system.public_keys["keys"]
        async with self._turns:
            try:
                played = await scene.play(Stage(self.upstream, keys[0]), f"{self.name}-{next(self._numbers)}")
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody should hear of it
                self.surprises.append(f"{name}: {type(error).__name__} {error}")
            else:
                if not workload.tolerable(scene, played.result):
                    self.surprises.append(f"{name}: {played.result}")

    def number(self) -> int:
        """A number that no invoice of this testbed has in its name yet."""
        return next(self._numbers)

    def note_sent(self, command_id: UUID, type_: str, *, is_looked_for: bool = True) -> None:
        """Record a command that was sent without our sender, for the audit. It need not end under this id unless it is looked for."""
        told = {"command_id": str(command_id), "type": type_, "confirmed": is_looked_for}
        with self.system.history.open("a", encoding="utf-8") as history:
            history.write(json.dumps(told) + "\n")

    # -- waiting -------------------------------------------------------------------------------------------------------------------------

    async def until(
        self, condition: Callable[[], Awaitable[bool]], *, what: str, within_s: float = FIRED_WITHIN_S
    ) -> None:
        """Wait until the condition is true. Raises TimeoutError, which names it."""
        give_up_at = time.monotonic() + within_s
        while not await condition():
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"not within {within_s:g} s: {what}")
            await asyncio.sleep(POLL_S)

    async def until_under_load(self) -> None:
        """Wait until some of the scenes are over, and some are not."""
        begun = self.playing

        async def some_over() -> bool:
            return self.playing < begun

        await self.until(some_over, what="the first scene to end")

    async def until_restarted(self, name: str, *, since: float) -> None:
        """Wait until the supervisor has started it again."""

        async def restarted() -> bool:
            return self.restarted_at.get(name, 0.0) > since

        await self.until(restarted, what=f"{name} is started again")

    async def until_logged(self, log: "LogMark", event: str, *, within_s: float = FIRED_WITHIN_S) -> None:
        """Wait for a log line of that event."""

        async def logged() -> bool:
            return log.has(event)

        await self.until(logged, what=f"{event} in {log.path.name}", within_s=within_s)

    async def ask_database(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """The answer; None while a database is away. A query that no database could answer is a bug of ours, and raised."""
        try:
            return await ask()
        except asyncpg.SyntaxOrAccessError:
            raise
        except AWAY_ERRORS:
            return None

    async def until_answered(self, ask: Callable[[], Awaitable[T]], *, within_s: float = FIRED_WITHIN_S) -> T:
        """The answer, even if a database is away for a while. Raises TimeoutError."""
        give_up_at = time.monotonic() + within_s
        while (answer := await self.ask_database(ask)) is None:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"no database answered within {within_s:g} s")
            await asyncio.sleep(POLL_S)
        return answer

    async def until_drained(self) -> None:
        """Wait until all scenes are over and no work is left, twice in a row. Raises TimeoutError with what is left."""
        while self._scenes:
            await self.played()
        give_up_at = time.monotonic() + DRAINED_WITHIN_S
        calm = 0
        while calm < 2:  # a message between two places is seen nowhere, but not twice in a row
            left = await self._anything_left()
            calm = 0 if left else calm + 1
            if left and time.monotonic() > give_up_at:
                raise TimeoutError(f"work was left after {DRAINED_WITHIN_S:.0f} s: {', '.join(await self.left())}")
            await asyncio.sleep(DRAIN_POLL_S)

    async def left(self) -> list[str]:
        """Work that is still under way, by service and queue; `unknown` for a server that is away."""
        return [
            *filter(None, [await self._left_of(service) for service in SERVICES]),
            *await self._left_at_the_broker(),
        ]

    async def _anything_left(self) -> bool:
        """Whether work is left. Asks first where work lasts longest: a look costs a login, and testbeds look four times a second."""
        for service in _LONGEST_FIRST:
            if await self._left_of(service):
                return True
        return bool(await self._left_at_the_broker())

    async def _left_of(self, service: Service) -> str | None:
        found = await self.ask_database(lambda: rows(self.database(service), _UNDER_WAY[service]))
        count = "unknown" if found is None else next(iter(found[0].values()))
        return f"{service}: {count}" if count else None

    async def _left_at_the_broker(self) -> list[str]:
        try:
            return [f"{queue}: {depth}" for queue, depth in (await self._depths()).items() if depth]
        except Exception as error:  # noqa: BLE001 - whatever the client raises: the broker is away
            return [f"broker: {type(error).__name__}"]

    async def _depths(self) -> dict[str, int]:
        async with asyncio.timeout(10):
            connection = await aio_pika.connect(self.system.stack.rabbitmq_url, timeout=5)
            async with connection:
                channel = await connection.channel()
                names = [queue.name for queue in QUEUES]
                declared = [await channel.declare_queue(name, passive=True, timeout=5) for name in names]
                return {
                    name: one.declaration_result.message_count or 0 for name, one in zip(names, declared, strict=True)
                }

    async def handled_after(self, service: Service, moment: float) -> float | None:
        """When the service first handled a message after that time; None if it has not."""
        found = await rows(self.database(service), _HANDLED[service], moment)
        at = found[0]["at"]
        return None if at is None else float(at.timestamp())

    async def apply_topology(self) -> None:
        """Create again what was deleted, our own listening queues included."""
        await apply_topology(self.system.stack.rabbitmq_url)
        await self.tap.listen()

    # -- the audit -----------------------------------------------------------------------------------------------------------------------

    async def remit(self, *arguments: str, **settings: str) -> "Remit":
        """Run `remit` as a person would."""
        environment = dict(os.environ) | dict(self.system.environment) | settings
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "deploy.cli.main", *arguments,
            cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return Remit(process)

    async def audit(self, *more: str) -> list[dict[str, Any]]:
        """The findings of the audit on all data of this testbed, check by check."""
        arguments = ["--json", "--drained", "--ledger", str(self.system.ledger), "--history", str(self.system.history)]
        evidence = [("--tap", str(self.tap.path)), ("--logs", str(self.system.folder))]
        evidence += [("--lost", queue) for queue in sorted(self.lost)]
        if self.thorough:
            evidence.append(("--unacked", str(await asyncio.to_thread(self._unacked))))
        evidence += [("--baseline", str(path)) for path in self.baselines]
        known = await asyncio.to_thread(audit_options)
        arguments += [word for option, value in evidence if option in known for word in (option, value)]
        done = await (await self.remit("audit", *arguments, *more, **self.system.stack.environment_of(AUDIT))).result()
        try:
            findings: list[dict[str, Any]] = json.loads(done.stdout)["checks"]
        except ValueError:
            raise StackError(f"the audit failed: {done.stderr.strip()[-500:]}") from None
        return findings

    def _unacked(self) -> Path:
        """Write a file for the audit with the counts of each queue that only the broker's own tool knows."""
        stack = self.system.stack
        columns = ("name", "messages", "messages_ready", "messages_unacknowledged", "--formatter", "json")
        path = self.system.folder / "unacked.json"
        path.write_text(stack.broker.ctl("--quiet", "list_queues", "--vhost", self.vhost, *columns))
        return path

    async def take_baseline(self, *, digest: bool = True) -> None:
        """Record the drained system's state, with which later audits compare. Does nothing if `remit audit` cannot do that yet."""
        if "--baseline" not in await asyncio.to_thread(audit_options):
            return
        path = self.system.folder / f"baseline-{self.trials}-{len(self.baselines)}.json"
        how = "--digest" if digest else "--no-digest"
        ledger = ("--ledger", str(self.system.ledger))
        done = await (
            await self.remit("audit", "baseline", str(path), how, *ledger, **self.system.stack.environment_of(AUDIT))
        ).result()
        if done.code != 0:
            raise StackError(f"no baseline: {done.stderr.strip()[-500:]}")
        self.baselines.append(path)

    # -- counters ------------------------------------------------------------------------------------------------------------------------

    async def count_seen(self) -> dict[str, int]:
        """How many duplicates, redeliveries, payments in doubt and conflicts there were so far, by the services' own counters. A killed
        process loses its counters, so there were at least so many."""
        for name in sorted(self._kept):
            await self._scrape(name)
        seen: Counter[str] = sum(self._counters.values(), Counter())
        query = "SELECT count(*) AS n FROM outcomes WHERE type LIKE '%InDoubt%'"
        found = await self.ask_database(lambda: rows(self.database("payment_gateway"), query))
        return {
            "duplicates": seen["duplicates"],
            "redeliveries": seen["redeliveries"],
            "in_doubt": found[0]["n"] if found else 0,
            "conflicts": seen["conflicts"],
        }

    async def _scrape(self, name: str) -> None:
        if (port := self.ports.get(name)) is not None:
            counts = await asyncio.to_thread(_counters, port)
            if counts is not None:
                self._counters[port] = counts  # only one process uses a port, so its last figures count


class LogMark:
    """The part of a log that is written after a moment."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self._offset = offset

    @property
    def text(self) -> str:
        if not self.path.exists():
            return ""
        with self.path.open("rb") as log:
            log.seek(self._offset)
            return log.read().decode(errors="replace")

    def has(self, event: str) -> bool:
        """Whether there is a log line of that event."""
        return f'"event":"{event}"' in self.text


@dataclass(frozen=True, slots=True)
class CommandDone:
    """The end of a command: its exit code and output."""

    code: int
    stdout: str
    stderr: str


class Remit:
    """A process of `remit` that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def is_stopped(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED
        return False

    async def result(self) -> CommandDone:
        stdout, stderr = await self.process.communicate()
        return CommandDone(self.process.returncode or 0, stdout.decode(), stderr.decode())


# -- small things ----------------------------------------------------------------------------------------------------------------------


def _let_impersonate(stack: Stack) -> None:
    """Let the administrator publish in the name of others: the tap delivers their messages again."""
    stack.broker.ctl("set_user_tags", stack.administrator, "administrator", "impersonator")


def _with_heartbeat(stack: Stack) -> Stack:
    return replace(stack, rabbitmq_url=f"{stack.rabbitmq_url}?heartbeat={HEARTBEAT_S}")


_given: set[int] = set()


def _free_port() -> int:
    """A port that nobody listens on, and that no process of this run had before."""
    while True:
        port = random.choice(_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


def _counters(port: int) -> "Counter[str] | None":
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    return counted(text)


def counted(text: str) -> "Counter[str]":
    """The counts that the audit's check `planned_faults_fired` needs, from a page of metrics."""
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        for start, what in _COUNTED.items():
            if line.startswith(start) and (what != "duplicates" or 'outcome="duplicate"' in line):
                counts[what] += int(float(line.rpartition(" ")[2]))
    return counts


_COUNTED: Final = {
    "remit_messages_handled_total": "duplicates",
    "remit_redeliveries_total": "redeliveries",
    'remit_batch_retries_total{cause="conflict"': "conflicts",
}


@lru_cache(maxsize=1)
def audit_options() -> str:
    """The options that `remit audit` has."""
    asked = (sys.executable, "-m", "deploy.cli.main", "audit", "--help")
    return subprocess.run(
        asked, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"}
    ).stdout
