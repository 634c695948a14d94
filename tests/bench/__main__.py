"""`make bench`: payments per second, latency and CPU per payment, beside what broker and database allow on this machine.

A benchmark, not a test: it fails only if a payment is lost or doubled. Everything runs on a private stack of its own; the services are
the processes of production, with the in-process gateway unless told otherwise.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from deploy.local.errors import StackError
from deploy.local.fleet import ROOT, Fleet, open_fleet
from deploy.local.stack import KIND_VARIABLE, Stack, open_stack
from deploy.local.system import SANDBOX_KEY
from deploy.sandbox.process import start_sandbox
from shared.messaging.broker import BrokerLink
from shared.messaging.publisher import Publisher
from shared.observability.logs import configure_logs
from tests.bench import limits, report
from tests.bench.load import Burst, Listener, LoadError, Payment, prepare
from tests.bench.measure import Meter
from tests.bench.scenarios import Bench, Outcome, Scenario
from tests.bench.system import NotReadyError, Services, read_books

FOLDER: Final = ROOT / ".remit" / "bench"
PARTS: Final = ("throughput", "latency", "limits")
SANDBOX: Final = "sandbox"
IN_PROCESS: Final = {"0 ms": "memory://", "20 ms": "memory://?latency_ms=20"}
"""The in-process gateway, by how long it takes to answer."""
PAYMENTS_MAX: Final = 1_000_000


def main() -> int:
    """Run it; the exit status."""
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
    earlier = report.Earlier(options.compare) if options.compare else report.Earlier.newest(FOLDER)
    report.show(found, earlier, console)
    if found.problems:
        return 1
    console.print(f"Kept in {found.save(FOLDER, found.about['began']).relative_to(ROOT)}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--payments", type=_payments, default=5_000, help="of each throughput run (default 5000)")
    parser.add_argument("--rate", type=_positive, default=30.0, help="commands/s of the latency run (default 30)")
    parser.add_argument("--seconds", type=_positive, default=20.0, help="how long the latency run is (default 20)")
    parser.add_argument("--only", choices=PARTS, help="just this part")
    parser.add_argument("--skip-latency", action="store_true", help="without the latency run")
    parser.add_argument(
        "--gateway-url",
        help=f"a gateway over HTTP instead of the in-process one; {SANDBOX!r} starts our own. GATEWAY_API_KEY is its key",
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


@contextmanager
def _opened(options: argparse.Namespace) -> Iterator[tuple[Stack, Fleet, dict[str, Mapping[str, str]]]]:
    """Broker and database of our own, whatever the environment offers: their processes are measured. And the gateways by name."""
    os.environ[KIND_VARIABLE] = "private"
    with ExitStack() as opened:
        stack = opened.enter_context(open_stack(say=Console(stderr=True).print))
        fleet = opened.enter_context(open_fleet(stack.environment() | {"LOG_FORMAT": "json"}))
        url = options.gateway_url
        if url is None:
            yield stack, fleet, {name: {"GATEWAY_URL": url} for name, url in IN_PROCESS.items()}
            return
        if url == SANDBOX:
            ledger = fleet.folder / "ledger.sqlite"
            url = opened.enter_context(start_sandbox(ledger, log=fleet.folder / "sandbox.log")).url
        key = os.environ.get("GATEWAY_API_KEY", SANDBOX_KEY)
        yield stack, fleet, {options.gateway_url: {"GATEWAY_URL": url, "GATEWAY_API_KEY": key}}


def _scenarios(options: argparse.Namespace, gateways: Mapping[str, Mapping[str, str]]) -> list[Scenario]:
    scenarios: list[Scenario] = []
    if options.only in {None, "throughput"}:
        scenarios += [Scenario(name, gateway, options.payments) for name, gateway in gateways.items()]
    if options.only == "latency" or (options.only is None and not options.skip_latency):
        gateway = next(iter(gateways.values()))
        count = round(options.rate * options.seconds)
        scenarios.append(Scenario(f"{options.rate:g}/s", gateway, count, options.rate))
    return scenarios


async def _measure(
    options: argparse.Namespace,
    stack: Stack,
    fleet: Fleet,
    gateways: Mapping[str, Mapping[str, str]],
    say: Callable[[str], None],
) -> report.Report:
    about = report.about(options)
    meter = await Meter.of(stack)
    allowed = None
    if options.only in {None, "limits"}:
        say("Raw limits of broker and database")
        allowed = await limits.measure(stack, meter)
    tables: list[report.Table] = []
    problems: list[str] = []
    if scenarios := _scenarios(options, gateways):
        outcomes, tables, problems = await _play(scenarios, stack, fleet, meter, say)
        first = outcomes[0]
        if allowed and isinstance(first.load, Burst):
            tables.append(report.ceilings(allowed, first, first.load))
    if allowed:
        tables.append(report.limits(allowed))
    return report.Report(about, [table for table in tables if table.rows], problems)


async def _play(
    scenarios: Sequence[Scenario], stack: Stack, fleet: Fleet, meter: Meter, say: Callable[[str], None]
) -> tuple[list[Outcome], list[report.Table], list[str]]:
    services = Services(stack, fleet)
    await services.prepare()
    publisher = Publisher(BrokerLink(stack.rabbitmq_url, name="bench publisher"))
    async with Listener.open(stack.rabbitmq_url) as listener:
        bench = Bench(stack, services, meter, publisher, listener)
        outcomes = await _outcomes(bench, scenarios, say)
        read = await read_books(stack)
    await publisher.close()
    counted = {"sent": bench.paid, "heard_lost": bench.lost, "doubled": listener.doubled}
    tables = [
        report.throughput(outcomes),
        report.latency(outcomes),
        report.cpu(outcomes),
        report.memory(outcomes),
        report.starts(outcomes),
        *(report.work(outcome) for outcome in outcomes[:1] if isinstance(outcome.load, Burst)),
        report.books(read, repeated=listener.repeated, **counted),
    ]
    return outcomes, tables, report.problems(read, **counted)


async def _outcomes(bench: Bench, scenarios: Sequence[Scenario], say: Callable[[str], None]) -> list[Outcome]:
    payments: list[Payment] = prepare(sum(scenario.invoices for scenario in scenarios))
    say(f"Issuing {len(payments)} invoices")
    await bench.issue(payments)
    outcomes: list[Outcome] = []
    for scenario in scenarios:
        say(f"{scenario.payments} payments, {scenario.name}")
        outcomes.append(await bench.play(scenario, payments[: scenario.invoices]))
        payments = payments[scenario.invoices :]
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
