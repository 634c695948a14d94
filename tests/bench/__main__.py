"""`make bench`: measures payments per second, latency and CPU per payment, and what broker and database allow on this machine.

It is a benchmark, not a test: it fails only if a payment is lost or doubled. Everything runs on a private stack of its own. The services
run as in production, by default with the in-process gateway.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from deploy.local.errors import StackError
from deploy.local.fleet import ROOT, Fleet, open_fleet
from deploy.local.stack import KIND_VARIABLE, Stack, open_stack
from deploy.local.system import SANDBOX_KEY
from deploy.sandbox.process import start_sandbox
from shared.amqp.broker_link import BrokerLink
from shared.messaging.publisher import Publisher
from shared.observability.logs import configure_logs
from tests.bench import goals, limits, observability, report
from tests.bench.load import Burst, EventListener, LoadError, TimedPayment, prepare
from tests.bench.measure import GATEWAY, Meter
from tests.bench.scenarios import BenchRun, BenchScenario, ScenarioOutcome, median
from tests.bench.scraping import discarding_collector
from tests.bench.system import NotReadyError, Services, read_books

FOLDER: Final = ROOT / ".remit" / "bench"
PARTS: Final = ("throughput", "latency", "http", "instances", "starts", "limits")
OBSERVABILITY: Final = "observability"
"""A part that is measured only if it is named: it takes as long as all others."""
SANDBOX: Final = "sandbox"
TOP: Final = "0 ms"
"""The throughput run with the in-process gateway; other runs are compared with it."""
ROUNDS: Final = 3
"""Bursts of a scenario, of which the middle one counts: single bursts of a run differed by 10 to 40 % on a machine that we share."""
HALF: Final = "half of the top"
HALF_S: Final = 10.0
GATEWAY_START_S: Final = 20.0
PAYMENTS_MAX: Final = 1_000_000


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = _options()
    configure_logs("bench", level="ERROR", format="console")
    console = Console()
    try:
        with _opened(options) as (stack, fleet, gateways), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(_measure(options, stack, fleet, gateways, console.print))
    except (StackError, LoadError, NotReadyError) as error:
        console.print(f"[bold red]{error}[/bold red]")
        return 2
    except KeyboardInterrupt:
        return 130
    return report.conclude(found, FOLDER, console, compare=options.compare)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--payments", type=_payments, default=5_000, help="payments of each burst (default 5000)")
    parser.add_argument("--rate", type=_positive, default=30.0, help="commands/s of the latency run (default 30)")
    parser.add_argument("--seconds", type=_positive, default=20.0, help="how long the latency run is (default 20)")
    parser.add_argument(
        "--only", choices=(*PARTS, OBSERVABILITY), action="append", help="only this part; may be repeated"
    )
    parser.add_argument("--skip-latency", action="store_true", help="without the latency runs")
    parser.add_argument(
        "--gateway-url",
        help=f"only a burst to this gateway over HTTP; {SANDBOX!r} starts our own. GATEWAY_API_KEY is its key",
    )
    parser.add_argument("--compare", type=Path, metavar="FILE", help="an earlier run (default: the last one)")
    return parser.parse_args()


def _payments(text: str) -> int:
    number = int(text)
    if not 1 <= number <= PAYMENTS_MAX:
        raise argparse.ArgumentTypeError(f"must be from 1 to {PAYMENTS_MAX}")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number <= PAYMENTS_MAX:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {PAYMENTS_MAX}")
    return number


@dataclass(frozen=True, slots=True)
class Gateways:
    """Gateways, by the services' environment. `http_pid`: the process that answers over HTTP after `goals.HTTP_LATENCY_MS`.
    `collector_url`: where traces may go."""

    in_process: Mapping[str, str]
    http: Mapping[str, str]
    http_pid: int
    named: Mapping[str, str] | None
    collector_url: str


@contextmanager
def _opened(options: argparse.Namespace) -> Iterator[tuple[Stack, Fleet, Gateways]]:
    """A broker and a database of our own, whatever the environment offers, because their processes are measured. And the gateways."""
    os.environ[KIND_VARIABLE] = "private"
    with ExitStack() as opened:
        stack = opened.enter_context(open_stack(say=Console(stderr=True).print))
        switches = {name: os.environ.get(name, "on") for name in ("LOG_FACTS", "STAFF_JOURNAL", "HEARTBEATS")}
        fleet = opened.enter_context(open_fleet({"LOG_FORMAT": "json", **switches}))
        process, http_url = opened.enter_context(_http_gateway(fleet.folder / "gateway-port"))
        key = os.environ.get("GATEWAY_API_KEY", SANDBOX_KEY)
        url, named = options.gateway_url, None
        if url == SANDBOX:
            ledger = fleet.folder / "ledger.sqlite"
            url = opened.enter_context(start_sandbox(ledger, log=fleet.folder / "sandbox.log")).url
        if url is not None:
            named = {"GATEWAY_URL": url, "GATEWAY_API_KEY": key}
        http = {"GATEWAY_URL": http_url, "GATEWAY_API_KEY": SANDBOX_KEY}
        yield (
            stack,
            fleet,
            Gateways(
                {"GATEWAY_URL": "memory://", "GATEWAY_MODE": "benchmark"},
                http,
                process.pid,
                named,
                opened.enter_context(discarding_collector()),
            ),
        )


@contextmanager
def _http_gateway(port_file: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    command = (sys.executable, "-m", "tests.bench.gateway", str(port_file), str(goals.HTTP_LATENCY_MS))
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) as process:
        give_up_at = time.monotonic() + GATEWAY_START_S
        while not (port_file.exists() and port_file.read_text()):
            if time.monotonic() > give_up_at or process.poll() is not None:
                raise StackError("the gateway of the benchmark did not start")
            time.sleep(0.02)
        yield process, f"http://127.0.0.1:{port_file.read_text()}"


def _scenarios(options: argparse.Namespace, gateways: Gateways) -> list[BenchScenario]:
    if gateways.named is not None:
        return [BenchScenario(options.gateway_url, gateways.named, options.payments)]
    parts = set(options.only or PARTS) - ({"latency"} if options.skip_latency else set())
    in_process, scenarios = gateways.in_process, []
    if parts & {"throughput", "latency", "instances"}:
        scenarios.append(BenchScenario(TOP, in_process, options.payments, rounds=ROUNDS))
    if "instances" in parts:
        scenarios.append(BenchScenario(goals.TWO, in_process, options.payments, instances=2, rounds=ROUNDS))
    if "latency" in parts:
        count = round(options.rate * options.seconds)
        scenarios.append(BenchScenario(f"{options.rate:g}/s", in_process, count, options.rate))
        scenarios.append(BenchScenario(HALF, in_process, options.payments, half_of=TOP))
    scenarios += _over_http(parts, gateways.http)
    if OBSERVABILITY in parts:
        scenarios += observability.scenarios(in_process, gateways.collector_url, options.payments)
    return scenarios


def _over_http(parts: set[str], gateway: Mapping[str, str]) -> list[BenchScenario]:
    scenarios = []
    if parts & {"http", "instances"}:
        scenarios.append(goals.http(gateway, calls=goals.FEW_CALLS))
    if "http" in parts:
        scenarios.append(goals.http(gateway, calls=goals.MANY_CALLS))
    if "instances" in parts:
        scenarios.append(goals.http(gateway, calls=goals.FEW_CALLS, instances=2))
    return scenarios


async def _measure(
    options: argparse.Namespace, stack: Stack, fleet: Fleet, gateways: Gateways, say: Callable[[str], None]
) -> report.BenchReport:
    about = report.about(options)
    parts = options.only or PARTS
    meter = (await Meter.of(stack)).watching({GATEWAY: gateways.http_pid})
    found: list[limits.Limits] = []

    async def raw_limits() -> None:
        if "limits" in parts and gateways.named is None:
            say("Raw limits of broker and database")
            found.append(await limits.measure(stack, meter))

    outcomes: list[ScenarioOutcome] = []
    books: list[report.Table] = []
    problems: list[str] = []
    services = Services(stack, fleet)
    await services.prepare()
    alone = await services.starts_alone(gateways.in_process) if "starts" in parts and gateways.named is None else {}
    if scenarios := _scenarios(options, gateways):
        outcomes, books, problems = await _play(scenarios, stack, services, meter, raw_limits, say)
    else:
        await raw_limits()
    allowed = limits.middle(found) if found else None
    top = next((o for o in outcomes if o.scenario.name == TOP), None)
    tables = [
        goals.table(outcomes, alone, allowed),
        report.throughput(outcomes),
        report.latency(outcomes, allowed),
        report.cpu(outcomes),
        observability.table({outcome.scenario.name: outcome for outcome in outcomes}),
        report.memory(outcomes),
        report.starts(outcomes, alone),
        *(report.work(outcome) for outcome in outcomes[:1] if isinstance(outcome.load, Burst)),
        *books,
        *([report.ceiling(allowed, top, top.load)] if allowed and top and isinstance(top.load, Burst) else []),
        *([report.limits(allowed)] if allowed else []),
    ]
    return report.BenchReport(about, [table for table in tables if table.rows], problems)


async def _play(
    scenarios: Sequence[BenchScenario],
    stack: Stack,
    services: Services,
    meter: Meter,
    raw_limits: Callable[[], Awaitable[None]],
    say: Callable[[str], None],
) -> tuple[list[ScenarioOutcome], list[report.Table], list[str]]:
    publisher = Publisher(BrokerLink(stack.rabbitmq_url, name="bench publisher"))
    async with EventListener.open(stack.rabbitmq_url) as listener:
        bench = BenchRun(stack, services, meter, publisher, listener)
        outcomes = await _outcomes(bench, scenarios, raw_limits, say)
        read = await read_books(stack)
    await publisher.close()
    counted = {"sent": bench.paid, "lost": bench.lost, "doubled": listener.doubled}
    books = report.books(read, repeated=listener.repeated, **counted)
    return outcomes, [books], report.problems(read, **counted)


async def _outcomes(
    bench: BenchRun,
    scenarios: Sequence[BenchScenario],
    raw_limits: Callable[[], Awaitable[None]],
    say: Callable[[str], None],
) -> list[ScenarioOutcome]:
    """The outcome of each scenario.

    Scenarios of several rounds come first, in turns with each other and with the raw limits: if the machine slows down meanwhile, it does
    so for all of them.
    """
    payments: list[TimedPayment] = prepare(sum(scenario.invoices * scenario.rounds for scenario in scenarios))
    say(f"Issuing {len(payments)} invoices")
    await bench.issue(payments)
    unpaid = iter(payments)
    played: dict[str, list[ScenarioOutcome]] = {scenario.name: [] for scenario in scenarios}

    async def play(planned: BenchScenario) -> None:
        batch = [*islice(unpaid, planned.invoices)]
        scenario = _at_half(planned, played[planned.half_of]) if planned.half_of else planned
        say(f"{scenario.payments} payments, {scenario.name}")
        played[scenario.name].append(await bench.play(scenario, batch[: scenario.invoices]))

    for turn in range(max(scenario.rounds for scenario in scenarios)):
        await raw_limits()
        for scenario in scenarios:
            if 1 < scenario.rounds > turn:
                await play(scenario)
    for scenario in scenarios:
        if scenario.rounds == 1:
            await play(scenario)
    return [median(rounds) for rounds in played.values()]


def _at_half(scenario: BenchScenario, rounds: Sequence[ScenarioOutcome]) -> BenchScenario:
    """The same scenario with half the rate of these rounds, for ten seconds."""
    top = median(rounds).load
    assert isinstance(top, Burst)
    rate_per_s = top.per_s / 2
    return replace(scenario, rate_per_s=rate_per_s, payments=min(scenario.payments, round(rate_per_s * HALF_S)))


if __name__ == "__main__":
    sys.exit(main())
