"""How a service starts, drains and stops.

At its start a service reads its settings, configures its logs, opens its database and checks its migrations, connects to the broker, and
starts its consumers. On SIGTERM or SIGINT it takes no more messages, finishes the batches at work, publishes what was committed, and
closes. A second signal exits at once. Nothing is lost by that: unfinished work is done again after the restart. A part of the service that
ends by itself is a failure: the process exits with 1, and its supervisor starts it again.
"""

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar

import structlog
import uvloop

from shared import crash_points
from shared.amqp.broker_link import BROKER_ERRORS, AccessRefusedError, BrokerLink, CannotConnectError
from shared.background import BackgroundTask, run_every
from shared.batch.handler import MessageHandler
from shared.batch.inbox import Inbox
from shared.batch.tracing import QueueTracing
from shared.batch.worker import QueueWorker
from shared.build import this_build
from shared.clock import OFF_MOST_S as CLOCK_OFF_MOST_S
from shared.clock import Clock, clock_of_a_service
from shared.heartbeat import HeartbeatSender, Vitals
from shared.http_server import HttpServer, reason_of
from shared.messaging.consumer import PREFETCH, Consumer
from shared.messaging.lanes import Lanes
from shared.messaging.optional_queues import HeartbeatSettings
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.messaging.start_check import missing_at, writes_of
from shared.observability import metrics
from shared.observability.health import Liveness, Readiness, serve_health
from shared.observability.logs import configure_logs, describe_error
from shared.observability.traces import TraceSettings, open_tracer
from shared.observability.visible import visible
from shared.outage_log import OutageLog
from shared.persistence import inbox as inbox_table
from shared.persistence import schema
from shared.persistence.database import AWAY_ERRORS, Database, mistake_of
from shared.persistence.retention import RetentionCleaner, RetentionRule
from shared.persistence.rights import rights_of
from shared.persistence.seals import Book, Sealer
from shared.persistence.stalled_sessions import StalledSessions
from shared.persistence.store_sampler import Reading, StoreSampler
from shared.retry_policy import OUTAGE, Sleep
from shared.settings import (
    FOREIGN_VARIABLES,
    LOWER_CASE,
    UPPER_CASE,
    BrokerSettings,
    ConfigurationError,
    DatabaseUrl,
    EnvironmentVariables,
    Settings,
    variable,
)
from shared.urls import has_one_host

if TYPE_CHECKING:
    from shared.observability.spans import Tracer

log = structlog.get_logger(__name__)
T = TypeVar("T")
S = TypeVar("S", bound="ServiceSettings")
P = TypeVar("P", bound="ProcessSettings")

DRAIN_OUTSIDE_S = 2.0
"""How long draining waits for the outside lane and for public copies. They depend on others, and the outbox keeps what is left."""
DRAIN_TIMEOUT_S = 20.0
"""How long draining may take. Kubernetes kills after 30 s. A batch at work takes far less than a second."""
CANCEL_INTERVAL_S, CANCELS_MAX = 1.0, 5
"""How often a task that does not end is cancelled again, and how many times."""
CONNECTIONS_MAX = 10
MISTAKE_STANDS_S = 5.0
"""How long a mistake has to stand at the start before it ends the service. Users and virtual hosts that a broker imports at its start, and
names of containers that start at the same time, are there sooner."""
EXIT_FAILED, EXIT_MISCONFIGURED, EXIT_FORCED = 1, 2, 130


class ProcessSettings(Settings):
    """The settings that every process of ours has which stays: services, and the staff desk. Each declares its `database_url`."""

    name: str
    database_url: DatabaseUrl
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], UPPER_CASE] = variable(
        "LOG_LEVEL", "INFO", about="The lowest level that is logged."
    )
    log_format: Annotated[Literal["auto", "json", "console"], LOWER_CASE] = variable(
        "LOG_FORMAT", "auto", about="How log lines look; `auto`: `console` on a terminal, else `json`."
    )
    log_facts: Annotated[Literal["on", "off"], LOWER_CASE] = variable(
        "LOG_FACTS", "on", about="`on`: one line for each [business fact](README.md#logs)."
    )
    health_host: str = variable(
        "HEALTH_HOST",
        "127.0.0.1",
        must="an address of this machine",
        about="The address where probes and metrics listen.",
    )
    health_port: int = variable(
        "HEALTH_PORT", 0, ge=0, le=65_535, about="The port of [probes](README.md#probes) and metrics; 0: none."
    )
    fault: str = variable(
        "REMIT_FAULT",
        "",
        must="a crash point: name:nth:action",
        unset="none",
        about="In tests: where the process fails ([all points](../tests/README.md#how-to-inject-a-fault)).",
    )
    clock_off_s: float = variable(
        "REMIT_FAULT_CLOCK_S", 0.0, ge=-CLOCK_OFF_MOST_S, le=CLOCK_OFF_MOST_S, about="In tests: how wrong the clock is."
    )
    foreign_variables: str = variable(
        FOREIGN_VARIABLES,
        "",
        must="names of variables, separated by commas",
        unset="none",
        about="Variables of other programs whose names look like a slip of one of these.",
    )
    version: str = variable(
        "REMIT_VERSION",
        "",
        must="a text",
        unset="that of the installed package",
        about="The version of the build, which an image says of itself.",
    )
    revision: str = variable(
        "REMIT_REVISION",
        "",
        must="a text",
        unset="that of the repository, if there is one",
        about="The commit of the build, which an image says of itself.",
    )
    stripe_log: Literal[""] = variable(
        "STRIPE_LOG",
        "",
        must="left unset: by it the Stripe SDK prints what it sends, card numbers included",
        unset="as it must be",
        about="A variable of the Stripe SDK, by which it prints what it sends.",
    )

    @property
    def database_variable(self) -> str:
        """The variable that has the URL of its database."""
        return str(type(self).model_fields["database_url"].alias)


class ServiceSettings(ProcessSettings, TraceSettings, BrokerSettings, HeartbeatSettings):
    """The settings that every service has. Each declares its `database_url`, and what only it has. Web processes have no traces: no payment
    goes through them."""


class Patience:
    """Decides when a mistake at the start ends the service: once it has stood for a while.

    A broker that starts may not know its users yet, and a name may come a little later: what may go away by itself ends no service. Once
    the service was connected it waits for ever, since then others are at work on its set-up.
    """

    def __init__(self, mistake_stands_s: float) -> None:
        self._stands_s = mistake_stands_s
        self._since: float | None = None

    def failed(self, mistake: str | None) -> None:
        """Note a failure: a mistake, as a sentence, or None for an outage. Raises `ConfigurationError` for a mistake that stands."""
        if mistake is None:
            self._since = None
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= self._stands_s:
            raise ConfigurationError(mistake)
        log.warning("mistake_at_start", detail=mistake, ends_in_s=round(self._since + self._stands_s - now, 1))


class Worker(Protocol):
    """Handles the messages of its consumer."""

    async def run(self) -> None:
        """Handle messages until the consumer is stopped and its buffer is empty."""
        ...

    def stop_holding(self) -> None:
        """Give up a batch that is held in an outage."""
        ...


@dataclass(slots=True)
class Runtime:
    """The parts of a running service. Its `assemble` function gets this, and adds consumers and background tasks."""

    settings: ServiceSettings
    database: Database
    lanes: Lanes
    readiness: Readiness
    liveness: Liveness
    clock: Clock
    tracer: "Tracer | None" = None
    links: list[BrokerLink] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    parts: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = field(default_factory=list)
    finishers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    retention_rules: list[RetentionRule] = field(default_factory=lambda: [inbox_table.RETENTION])
    readings: list[Reading] = field(default_factory=list)
    vitals: Vitals = field(default_factory=Vitals)
    exchanges: Sequence[str] = ()
    """Those that the service writes to, by their names in permissions."""

    def settings_as(self, kind: type[S]) -> S:
        """The settings, which are of this kind: those of the service that is assembled. Raises TypeError for another service's."""
        if not isinstance(self.settings, kind):
            raise TypeError(f"these are the settings of {self.settings.name}")
        return self.settings

    @property
    def relay(self) -> Relay:
        """Publishes what was committed, on the lane where it belongs."""
        return self.lanes.relay

    def consume(
        self,
        queue: str,
        handler: MessageHandler[Any, Any, Any],
        *,
        inbox: Inbox | None = None,
        prefetch: int = PREFETCH,
        gather_s: float = 0.0,
    ) -> Consumer:
        """Handle `queue` with `handler`.

        `inbox` recognises repeated messages, by default by their ids. `prefetch` is the number of messages that may be unacknowledged.
        `gather_s` is how long a batch that is not full waits for more of them.
        """
        consumer = self.add_consumer(queue, prefetch=prefetch, gather_s=gather_s)
        self.workers.append(
            QueueWorker(
                handler,
                inbox=inbox,
                consumer=consumer,
                database=self.database,
                relay=self.relay,
                clock=self.clock,
                readiness=self.readiness,
                liveness=self.liveness,
                tracing=None if self.tracer is None else QueueTracing(self.tracer, queue),
            )
        )
        return consumer

    def add_consumer(self, queue: str, *, prefetch: int, wary: bool = False, gather_s: float = 0.0) -> Consumer:
        """A consumer of `queue` with a connection of its own, for a worker that the caller adds. See `Consumer` for the rest."""
        link = self.link(queue)
        consumer = Consumer(link, queue, readiness=self.readiness, prefetch=prefetch, wary=wary, gather_s=gather_s)
        self.consumers.append(consumer)
        return consumer

    def link(self, role: str) -> BrokerLink:
        """A connection to the broker for this role alone, which is closed when the service stops."""
        link = BrokerLink(self.settings.rabbitmq_url, name=f"{self.settings.name} {role}")
        self.links.append(link)
        return link

    async def close_links(self) -> None:
        """Close all these connections. Never raises an error of the broker."""
        await asyncio.gather(*(link.close() for link in self.links))

    def in_background(self, task: BackgroundTask, *, first_in_s: float = 0.0, wait: Sleep = asyncio.sleep) -> None:
        """Run `task` repeatedly beside the consumers, with `shared.background.run_every`."""
        self.run_beside(task.name, lambda: run_every(task, first_in_s=first_in_s, wait=wait, liveness=self.liveness))

    def run_beside(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `run` beside the consumers until the service stops. It is cancelled after the consumers have drained."""
        self.parts.append((name, run))

    def add_retention(self, *rules: RetentionRule) -> None:
        """Also delete the rows that `rules` describe, as those of the inbox are deleted."""
        self.retention_rules += rules

    def seal(self, books: Sequence[Book]) -> None:
        """Seal these books while the service runs, and what it wrote last when it drains."""
        sealer = Sealer(self.database, books)
        self.in_background(sealer)
        self.on_drain(sealer.finish)

    def sample(self, *readings: Reading) -> None:
        """Also show the gauges of `readings`, as those of the outbox are shown."""
        self.readings += readings

    def on_drain(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Await `finish` after the consumers have drained and before anything is closed."""
        self.finishers.append(finish)


Assemble = Callable[[Runtime], Awaitable[None]]


def run_service(kind: type[ServiceSettings], migrations: Path, assemble: Assemble) -> None:
    """The main function of every service. It ends the process with the service's exit code."""
    run_process(kind, lambda settings, stopping: serve(settings, migrations, assemble, stopping))


def run_process(kind: type[P], serve: Callable[[P, asyncio.Event], Awaitable[int]]) -> None:
    """Read the settings, run `serve` until the event is set by a signal, and end the process with the exit code that it returns."""
    name = str(kind.model_fields["name"].default)
    try:
        settings = _read(kind)
        with_facts = settings.log_facts == "on"
        configure_logs(name, level=settings.log_level, format=settings.log_format, with_facts=with_facts)
        crash_points.arm_from_environment()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_serve_until_signal(settings, serve))
    except ConfigurationError as error:
        sys.stderr.write(f"{visible(f'{name}: {error}')}\n")
        code = EXIT_MISCONFIGURED
    sys.exit(code)


def _read(kind: type[P]) -> P:
    environment = EnvironmentVariables()
    if (slip := environment.misspelled(kind.known_variables())) is not None:
        raise ConfigurationError(slip)
    return kind.read(environment)


async def _serve_until_signal(settings: P, serve: Callable[[P, asyncio.Event], Awaitable[int]]) -> int:
    _spare_the_garbage_collector()
    return await serve(settings, _listen_for_signals())


async def serve(
    settings: ServiceSettings,
    migrations: Path,
    assemble: Assemble,
    stopping: asyncio.Event,
    *,
    mistake_stands_s: float = MISTAKE_STANDS_S,
) -> int:
    """Run a service until `stopping` is set, and return its exit code. The caller configures logs.

    Raises `ConfigurationError` for a mistake that stands at the start for `mistake_stands_s` seconds.
    """
    readiness, liveness = Readiness("started"), Liveness()
    clock = clock_of_a_service(settings.clock_off_s)
    tracer = open_tracer(settings, settings.name)
    async with AsyncExitStack() as opened:
        if tracer is not None:
            opened.push_async_callback(tracer.close)
        health = await open_probes(readiness, liveness, settings)
        opened.push_async_callback(health.close)
        database = await or_stop(open_database(settings, migrations, readiness, Patience(mistake_stands_s)), stopping)
        if database is None:
            return 0
        opened.push_async_callback(database.close)
        lanes = Lanes(settings.rabbitmq_url, database, readiness, name=settings.name)
        opened.push_async_callback(lanes.close)
        runtime = Runtime(settings, database, lanes, readiness, liveness, clock, tracer)
        opened.push_async_callback(runtime.close_links)
        await assemble(runtime)
        runtime.exchanges = writes_of(migrations.parent)
        return await _run_until_stopped(runtime, stopping, Patience(mistake_stands_s))


async def open_probes(readiness: Readiness, liveness: Liveness, settings: ProcessSettings) -> HttpServer:
    """Start answering probes, as the settings say. Raises `ConfigurationError` if it cannot listen there."""
    try:
        return await serve_health(readiness, liveness, host=settings.health_host, port=settings.health_port)
    except OSError as error:
        where = f"port {settings.health_port} of {settings.health_host}"
        raise ConfigurationError(f"HEALTH_PORT: {where} cannot be opened: {reason_of(error)}.") from None


async def _run_until_stopped(runtime: Runtime, stopping: asyncio.Event, patience: Patience) -> int:
    _add_common_tasks(runtime)
    parts = [asyncio.create_task(run(), name=name) for name, run in runtime.parts]
    consumers = [
        asyncio.create_task(consumer.run(), name=f"consumer {consumer.queue}") for consumer in runtime.consumers
    ]
    workers = [asyncio.create_task(worker.run(), name="worker") for worker in runtime.workers]
    stop = asyncio.create_task(stopping.wait(), name="stop signal")
    runtime.readiness.set("started", ok=True)
    build = this_build()
    metrics.BUILD_INFO.labels(version=build.version, revision=build.revision).set(1)
    log.info("started", pid=os.getpid(), version=build.version, revision=build.revision, python=build.python)
    check = asyncio.create_task(_check_broker(runtime, patience), name="start check")
    everything = {*parts, *consumers, *workers, stop}
    mistake = await _first_end(everything, check)
    failed = [task for task in everything if task is not stop and task.done()]
    for task in failed:
        cause = None if task.cancelled() else task.exception()
        runtime.liveness.ended(task.get_name(), describe_error(cause) if cause is not None else "ended")
        log.error("part_ended", part=task.get_name(), exc_info=cause)
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            await _drain(runtime, workers)
    except TimeoutError:
        log.warning("drain_timed_out", seconds=DRAIN_TIMEOUT_S)
    await _end({*everything, check})
    log.info("stopped", failed=bool(failed))
    if mistake is not None:
        raise mistake
    return EXIT_FAILED if failed else 0


async def _first_end(tasks: "set[asyncio.Task[Any]]", check: "asyncio.Task[None]") -> ConfigurationError | None:
    """Wait until one of the tasks ends, or until the check finds a mistake, which is returned. That the check ends well, ends nothing."""
    await asyncio.wait({*tasks, check}, return_when=asyncio.FIRST_COMPLETED)
    if check.done() and not check.cancelled() and (error := check.exception()) is not None:
        if isinstance(error, ConfigurationError):
            return error
        raise error
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return None


def _add_common_tasks(runtime: Runtime) -> None:
    """Add the background tasks that every service has."""
    for task in runtime.lanes.background_tasks:
        runtime.in_background(task)
    runtime.run_beside("outside_relay", runtime.lanes.outside.run)
    runtime.run_beside("public_relay", runtime.lanes.public.run)
    runtime.in_background(RetentionCleaner(runtime.database, runtime.retention_rules))
    runtime.in_background(StalledSessions(runtime.database))
    runtime.in_background(StoreSampler(runtime.database, [runtime.lanes.reading, *runtime.readings]))
    if runtime.settings.heartbeats == "on":
        _add_heartbeat(runtime)


def _add_heartbeat(runtime: Runtime) -> None:
    sender = HeartbeatSender(
        runtime.settings.name,
        Publisher(runtime.link("heartbeats")),
        database=runtime.database,
        readiness=runtime.readiness,
        vitals=runtime.vitals,
        clock=runtime.clock,
    )
    runtime.in_background(sender)
    runtime.on_drain(sender.say_goodbye)


async def _end(tasks: "Collection[asyncio.Task[Any]]") -> None:
    """Cancel `tasks`, and again if one caught the cancellation by mistake: a service that was told to stop must end."""
    running = set(tasks)
    for _ in range(CANCELS_MAX):
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_INTERVAL_S)
        if not running:
            return
        log.warning("not_cancelled", parts=sorted(task.get_name() for task in running))


def _spare_the_garbage_collector() -> None:
    """Make the garbage collector run rarely, and skip the objects that the imports made, since those stay for ever.

    Reference counts free the objects of messages without it. This saves 10 % of the CPU of a busy service (measured). It does not look for
    the 2 000 objects that the imports leave behind: that would take 40 ms.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _drain(runtime: Runtime, workers: "list[asyncio.Task[None]]") -> None:
    runtime.readiness.set("started", ok=False, reason="stopping")
    log.info("draining")
    await asyncio.gather(*(consumer.stop() for consumer in runtime.consumers))
    for worker in runtime.workers:
        worker.stop_holding()
    await asyncio.gather(*workers, return_exceptions=True)
    for finish in runtime.finishers:
        await finish()
    try:
        async with asyncio.timeout(DRAIN_OUTSIDE_S):
            await runtime.lanes.all_published()
    except TimeoutError:
        log.warning("left_to_the_sweeper", lanes="outside, public")
    try:
        await runtime.relay.keeper.delete_confirmed()
    except AWAY_ERRORS as error:
        log.warning("left_to_the_sweeper", error=type(error).__name__)


async def open_database(
    settings: ProcessSettings, migrations: Path, readiness: Readiness, patience: Patience
) -> Database:
    """Open the database, and wait while it is away. Raises `ConfigurationError` for a mistake, or if the database is not migrated."""
    return await OUTAGE.call(
        lambda: _open_or_say_why(settings, migrations, readiness, patience),
        on=AWAY_ERRORS,
        outage=OutageLog(log, "database_away", "database_back"),
    )


async def _open_or_say_why(
    settings: ProcessSettings, migrations: Path, readiness: Readiness, patience: Patience
) -> Database:
    """Open the database. If it does not open, readiness says why. A mistake that stands for long enough is a `ConfigurationError`."""
    try:
        database = await _open_migrated(settings, migrations)
    except AWAY_ERRORS as error:
        readiness.set("database", ok=False, reason=describe_error(error))
        mistake = mistake_of(error, is_only_host=has_one_host(settings.database_url))
        patience.failed(None if mistake is None else f"{settings.database_variable}: {mistake}")
        raise
    readiness.set("database", ok=True)
    return database


async def _open_migrated(settings: ProcessSettings, migrations: Path) -> Database:
    database = await Database.open(
        settings.database_url,
        name=f"remit {settings.name}",
        connections_max=CONNECTIONS_MAX,
        rights=rights_of(migrations.parent, settings.name),
    )
    try:
        async with database.connection() as connection:
            problem = await schema.another_service(connection, migrations)
        if problem is None:
            await database.refuse_if_rights_are_missing()
            async with database.connection() as connection:
                problem = await schema.pending(connection, migrations)
    except BaseException:
        await database.close()
        raise
    if problem is None:
        return database
    await database.close()
    raise ConfigurationError(f"{settings.database_variable}: {problem}.")


async def _check_broker(runtime: Runtime, patience: Patience) -> None:
    """Return once the broker was reached and has what this service needs, and lets it write and consume. Raises `ConfigurationError` for a
    mistake that stands."""
    link = BrokerLink(runtime.settings.rabbitmq_url, name=f"{runtime.settings.name} start")
    queues = [consumer.queue for consumer in runtime.consumers]
    is_there, failures = False, 0
    try:
        while True:
            try:
                mistake = None if is_there else await missing_at(link, queues, runtime.exchanges)
                is_there = mistake is None
                if is_there and _all_consume(runtime.consumers):
                    return
            except (AccessRefusedError, CannotConnectError) as error:
                mistake = f"RABBITMQ_URL: {str(error).removeprefix('RABBITMQ_URL: ')}."
            except BROKER_ERRORS:
                mistake = None
            patience.failed(mistake)
            failures += 1
            await asyncio.sleep(OUTAGE.delay_s(failures))
    finally:
        await link.close()


def _all_consume(consumers: Sequence[Consumer]) -> bool:
    """Whether each has consumed its queue. Raises AccessRefusedError if one may not: only who consumes finds out."""
    for consumer in consumers:
        if consumer.refused is not None:
            raise consumer.refused
    return all(consumer.has_consumed for consumer in consumers)


async def or_stop(work: Coroutine[Any, Any, T], stopping: asyncio.Event) -> T | None:
    """The result of `work`, or None if the service was told to stop before `work` ended."""
    task, stop = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None


def _listen_for_signals() -> asyncio.Event:
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            log.warning("second_signal")
            os._exit(EXIT_FORCED)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stopping
