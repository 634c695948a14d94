"""`make bench-peers`: compares Remit with other ways to do the same durable work, on the same machine, broker and database, in turns.

Each round starts one system, warms it up, sends it a burst, waits until everything is settled, and stops it; then the next system follows.
The others run in a virtual environment of their own (requirements.txt). Figures count only if no system lost or doubled a payment.
"""

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from deploy.local.errors import StackError
from deploy.local.fleet import ROOT, Fleet, open_fleet
from deploy.local.stack import KIND_VARIABLE, Stack, open_stack
from shared.amqp.broker_link import BrokerLink
from shared.messaging.publisher import Publisher
from shared.observability.logs import configure_logs
from tests.bench import report
from tests.bench.load import Burst, EventListener, LoadError, TimedPayment, prepare
from tests.bench.measure import POSTGRESQL, RABBITMQ, Meter
from tests.bench.peers import running
from tests.bench.peers.running import PEERS, Round, Running
from tests.bench.scenarios import WARM_UP, BenchRun, BenchScenario
from tests.bench.system import NotReadyError, Services, read_books

FOLDER: Final = ROOT / ".remit" / "bench" / "peers"
OURS: Final = "Remit"


def main() -> int:
    """Run the comparison; returns the exit status."""
    options = _options()
    configure_logs("bench", level="ERROR", format="console")
    os.environ[KIND_VARIABLE] = "private"
    console = Console()
    try:
        with (
            _opened(options.python) as (stack, ours, theirs),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            found = runner.run(_measure(options, stack, ours, theirs, console.print))
    except (StackError, LoadError, NotReadyError) as error:
        console.print(f"[bold red]{error}[/bold red]")
        return 2
    except KeyboardInterrupt:
        return 130
    return report.conclude(found, FOLDER, console)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-peers ARGS=...", description=__doc__)
    parser.add_argument(
        "--python", type=Path, required=True, help="the Python of the virtual environment with the others"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default 3)")
    parser.add_argument("--payments", type=int, default=3_000, help="payments of ours in a round (default 3000)")
    parser.add_argument("--peer-payments", type=int, default=500, help="payments of each other system (default 500)")
    return parser.parse_args()


@contextmanager
def _opened(python: Path) -> Iterator[tuple[Stack, Fleet, Fleet]]:
    """A broker and a database of our own, a fleet for our services, and a fleet for the others."""
    with (
        open_stack(say=Console(stderr=True).print) as stack,
        open_fleet({"LOG_FORMAT": "json"}) as ours,
        open_fleet({}, python=str(python.absolute())) as theirs,
    ):
        yield stack, ours, theirs


# -- ours ------------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ours:
    """Remit, as `make bench` runs it with the in-process gateway at 0 ms."""

    bench: BenchRun
    payments: list[TimedPayment]
    rounds: list[Round] = field(default_factory=list)

    async def play(self, count: int) -> None:
        """Play one round. Raises NotReadyError, LoadError."""
        scenario = BenchScenario(OURS, {"GATEWAY_URL": "memory://", "GATEWAY_MODE": "benchmark"}, count)
        outcome = await self.bench.play(scenario, self.payments[: scenario.invoices])
        self.payments = self.payments[scenario.invoices :]
        assert isinstance(outcome.load, Burst)
        self.rounds.append(Round(outcome.load, outcome.spent))

    async def problems(self) -> list[str]:
        """Reasons why its figures do not count."""
        bench = self.bench
        read = await read_books(bench.stack)
        return report.problems(read, sent=bench.paid, lost=bench.lost, doubled=bench.listener.doubled)


# -- all of them, in turns -------------------------------------------------------------------------------------------------------------


async def _measure(
    options: argparse.Namespace, stack: Stack, fleet: Fleet, theirs: Fleet, say: Callable[[str], None]
) -> report.BenchReport:
    about = report.about(options)
    meter = await Meter.of(stack)
    services = Services(stack, fleet)
    await services.prepare()
    publisher = Publisher(BrokerLink(stack.rabbitmq_url, name="bench publisher"))
    async with AsyncExitStack() as opened:
        listener = await opened.enter_async_context(EventListener.open(stack.rabbitmq_url))
        ours = Ours(
            BenchRun(stack, services, meter, publisher, listener),
            prepare(options.rounds * (WARM_UP + options.payments)),
        )
        say("Issuing our invoices")
        await ours.bench.issue(ours.payments)
        invoices = options.rounds * (running.WARM_UP + options.peer_payments)
        peers = [await Running.prepared(peer, stack, theirs, meter, invoices) for peer in PEERS]
        for number in range(1, options.rounds + 1):
            say(f"Round {number} of {options.rounds}: {OURS}, {', '.join(peer.peer.name for peer in peers)}")
            await ours.play(options.payments)
            for peer in peers:
                await peer.play(options.peer_payments, opened)
        problems = await ours.problems()
        for peer in peers:
            problems += await peer.problems()
        for peer in peers:
            await peer.publisher.close()
    await publisher.close()
    rounds = {OURS: ours.rounds} | {peer.peer.name: peer.rounds for peer in peers}
    return report.BenchReport(about, [_compared(rounds), _in_rounds(rounds)], problems)


def _compared(rounds: Mapping[str, Sequence[Round]]) -> report.Table:
    """The comparison, with a column for each system."""

    def middle(of: Sequence[float]) -> float:
        return statistics.median(of)

    per_s = {name: middle([one.load.per_s for one in played]) for name, played in rounds.items()}
    cpu_ms = {name: middle([one.cpu_ms for one in played]) for name, played in rounds.items()}
    figures: dict[str, report.Row] = {
        "payments/s": per_s,
        "ours is so many times as fast": {name: per_s[OURS] / value for name, value in per_s.items()},
        "CPU ms per payment, together": cpu_ms,
        "so many times ours": {name: value / cpu_ms[OURS] for name, value in cpu_ms.items()},
        **{
            f"  {part}": {name: middle([one.part_ms(part) for one in played]) for name, played in rounds.items()}
            for part in (RABBITMQ, POSTGRESQL)
        },
        "of the machine's CPU %": {
            name: middle([one.machine_percent for one in played]) for name, played in rounds.items()
        },
        "payments sent": {
            name: sum(one.load.paid + one.load.lost for one in played) for name, played in rounds.items()
        },
        "lost": {name: sum(one.load.lost for one in played) for name, played in rounds.items()},
    }
    return report.Table(
        "Beside others", figures, "medians of the rounds; CPU of all processes: the system's own, RabbitMQ, PostgreSQL"
    )


def _in_rounds(rounds: Mapping[str, Sequence[Round]]) -> report.Table:
    rows = {
        name: {f"round {number}": one.load.per_s for number, one in enumerate(played, start=1)}
        for name, played in rounds.items()
    }
    return report.Table("Payments/s by round", rows, "in turns: those above before those below, round after round")


if __name__ == "__main__":
    sys.exit(main())
