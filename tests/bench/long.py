"""`make bench-long`: does Remit stay fast and small? It measures growth, memory, cleaning and rest.

Growth: the same build uses in turns two sets of databases on one server, a nearly empty one and one with a million invoices and five
million events (`tests.bench.stored`); the ratio of their throughputs counts. Memory: one set of services pays one chunk after the other,
and each service's memory is read after each chunk. Cleaning: expired rows are put beside the others, and the services delete them under
load. Rest: services without any messages do their idle work 50 times as often.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import asyncpg
import uvloop
from rich.console import Console

from deploy.local.errors import StackError
from deploy.local.fleet import ROOT, Fleet, open_fleet
from deploy.local.stack import KIND_VARIABLE, SERVICES, Service, Stack, open_stack
from shared.amqp.broker_link import BrokerLink
from shared.messaging.publisher import Publisher
from shared.observability.logs import configure_logs
from tests.bench import report, stored
from tests.bench.fast_idle import QUICKER
from tests.bench.load import Burst, EventListener, LoadError, declined, prepare, send
from tests.bench.measure import POSTGRESQL, Meter
from tests.bench.report import Goal
from tests.bench.scenarios import BenchRun, BenchScenario, ScenarioOutcome
from tests.bench.system import NotReadyError, Services, read_books, until

FOLDER: Final = ROOT / ".remit" / "bench" / "long"
PARTS: Final = ("growth", "cleaning", "memory", "rest")
FEW: Final = 100
"""Invoices that are copied. The services themselves take each through a declined and a captured payment, which makes five events."""
GATEWAY: Final = {"GATEWAY_URL": "memory://", "GATEWAY_MODE": "benchmark"}
GROWTH_GOAL_PERCENT: Final = 95.0
MEMORY_GOAL_MIB: Final = 100.0
FLAT_MIB: Final = 0.5
"""MiB that a service's memory may grow by with each 100 000 payments. Over a million it may grow by 5 MiB, which allocators do anyway."""
SAMPLES_SHOWN_MAX: Final = 10
REST_SAMPLE_S: Final = 2.0
REST_GOAL_MIB: Final = 3.0
"""Growth in a day of rest, in MiB: the least that three minutes can tell from nothing. A leak of a few bytes each time shows as more."""
DAY_S: Final = 86_400
CLEANING_TIMEOUT_S: Final = 90.0
"""Longer than the longest pause between two looks for expired rows, a minute."""
EXPIRED: Final[Mapping[str, tuple[Service, str]]] = {
    **{f"{service}.inbox": (service, "inbox") for service in ("invoice", "payment_gateway", "saga")},
    "saga.deadlines": ("saga", "deadlines"),
    "saga.transitions": ("saga", "transitions"),
    "payment_gateway.attempts": ("payment_gateway", "attempts"),
}


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = _options()
    configure_logs("bench", level="ERROR", format="console")
    os.environ[KIND_VARIABLE] = "private"
    console = Console()
    try:
        with _opened() as (stack, fleet), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(_measure(options, stack, fleet, console.print))
    except (StackError, LoadError, NotReadyError) as error:
        console.print(f"[bold red]{error}[/bold red]")
        return 2
    except KeyboardInterrupt:
        return 130
    return report.conclude(found, FOLDER, console, compare=options.compare)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-long ARGS=...", description=__doc__)
    parser.add_argument(
        "--invoices", type=int, default=1_000_000, help="invoices stored beforehand, five events each (default 1000000)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of growth, each on both sets of databases (default 3)"
    )
    parser.add_argument(
        "--payments", type=int, default=5_000, help="payments of a round, and of a chunk of memory (default 5000)"
    )
    parser.add_argument("--expired", type=int, default=100_000, help="expired rows in each table (default 100000)")
    parser.add_argument(
        "--memory-payments", type=int, default=100_000, help="payments while memory is watched (default 100000)"
    )
    parser.add_argument(
        "--rest-seconds", type=int, default=180, help=f"seconds of rest, each worth {QUICKER} (default 180)"
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="an earlier run (default: the last one)")
    return parser.parse_args()


@contextmanager
def _opened() -> Iterator[tuple[Stack, Fleet]]:
    with (
        open_stack(say=Console(stderr=True).print) as stack,
        open_fleet({"LOG_FORMAT": "json"}) as fleet,
    ):
        yield stack, fleet


async def _measure(
    options: argparse.Namespace, stack: Stack, fleet: Fleet, say: Callable[[str], None]
) -> report.BenchReport:
    about = report.about(options)
    parts = options.only or PARTS
    meter = await Meter.of(stack)
    publisher = Publisher(BrokerLink(stack.rabbitmq_url, name="bench publisher"))
    tables: list[report.Table] = []
    problems: list[str] = []
    wanted = set(parts)
    second = _second_databases(stack) if wanted & {"growth", "cleaning"} else None
    for databases in (stack, second):
        if databases is not None:
            await Services(databases, fleet).prepare()
    async with EventListener.open(stack.rabbitmq_url) as listener:
        empty = BenchRun(stack, Services(stack, fleet), meter, publisher, listener)
        benches = [empty]
        if second is not None:
            grown = BenchRun(second, Services(second, fleet), meter, publisher, listener)
            benches.append(grown)
            tables += await _beside_what_is_stored(empty, grown, wanted, options, say)
        if "memory" in wanted:
            tables += await _memory(empty, options, say)
        if "rest" in wanted:
            tables += await _rest(empty, options, say)
        for bench in benches:
            read = await read_books(bench.stack, since=bench.first)
            problems += report.problems(read, sent=bench.paid, lost=bench.lost, doubled=listener.doubled)
    await publisher.close()
    return report.BenchReport(about, tables, problems)


async def _beside_what_is_stored(
    empty: BenchRun, grown: BenchRun, wanted: Collection[str], options: argparse.Namespace, say: Callable[[str], None]
) -> list[report.Table]:
    tables = [await _store(grown, options, say)]
    if "growth" in wanted:
        tables += await _growth(empty, grown, options, say)
    if "cleaning" in wanted:
        tables.append(await _cleaning(grown, options, say))
    return tables


def _second_databases(stack: Stack) -> Stack:
    """The same broker and server with other databases."""
    return replace(stack, _service_urls=stack.create_service_databases("grown_"))


# -- growth ----------------------------------------------------------------------------------------------------------------------------


async def _store(grown: BenchRun, options: argparse.Namespace, say: Callable[[str], None]) -> report.Table:
    """Fill the second set of databases. Raises NotReadyError, LoadError."""
    few = prepare(FEW)
    await grown.services.start(GATEWAY)
    await grown.issue_by_running(few)
    await send(grown.publisher, [declined(payment) for payment in few])
    await grown.services.failed(FEW)
    await grown.pay(few)
    await grown.services.stop()
    copies = max(1, options.invoices // FEW)
    say(f"Storing {copies * FEW} invoices with {copies * FEW * 5} events and all that belongs to them")
    started = time.perf_counter()
    await stored.fill(grown.stack, copies)
    say(f"Stored in {time.perf_counter() - started:.0f} s")
    rows: dict[str, report.Row] = {
        name: {"rows": size.rows, "MiB": size.mib} for name, size in (await stored.sizes(grown.stack)).items()
    }
    return report.Table(
        "Stored beforehand", rows, "with indexes; of inbox and fired deadlines only what is within retention"
    )


async def _growth(
    empty: BenchRun, grown: BenchRun, options: argparse.Namespace, say: Callable[[str], None]
) -> list[report.Table]:
    """Rounds in turns; a different set of databases begins each round."""
    played: dict[str, list[ScenarioOutcome]] = {"empty": [], "grown": []}
    benches = {"empty": empty, "grown": grown}
    for number in range(1, options.rounds + 1):
        for name in ("empty", "grown") if number % 2 else ("grown", "empty"):
            say(f"Growth, round {number} of {options.rounds}, {name}")
            bench = benches[name]
            scenario = BenchScenario(name, GATEWAY, options.payments)
            payments = prepare(scenario.invoices)
            await bench.issue(payments)
            played[name].append(await bench.play(scenario, payments))
    per_s = {name: [_per_s(outcome) for outcome in found] for name, found in played.items()}
    ratios = [after / before * 100 for before, after in zip(per_s["empty"], per_s["grown"], strict=True)]
    rows: dict[str, report.Row] = {
        name: {
            "payments/s": statistics.median(per_s[name]),
            "lowest": min(per_s[name]),
            "highest": max(per_s[name]),
            "CPU ms each": statistics.median(o.spent.system_s / o.scenario.payments * 1e3 for o in found),
            "of it PostgreSQL": statistics.median(o.spent.cpu_s[POSTGRESQL] / o.scenario.payments * 1e3 for o in found),
        }
        for name, found in played.items()
    }
    by_round = ", ".join(f"{ratio:.0f} %" for ratio in ratios)
    growth = report.Table(
        "Growth", rows, f"medians of {options.rounds} rounds in turns; grown against empty by round: {by_round}"
    )
    goal = Goal(
        "payments/s, % of the empty database's", at_least=GROWTH_GOAL_PERCENT, reached=statistics.median(ratios)
    )
    return [growth, report.goals("Growth: the goal", [goal])]


def _per_s(outcome: ScenarioOutcome) -> float:
    assert isinstance(outcome.load, Burst)
    return outcome.load.per_s


# -- cleaning --------------------------------------------------------------------------------------------------------------------------


async def _cleaning(grown: BenchRun, options: argparse.Namespace, say: Callable[[str], None]) -> report.Table:
    """Store expired rows, and measure how fast the services delete them under load."""
    say(f"Cleaning: {options.expired} rows a table are beyond their retention")
    payments = prepare(options.payments)
    await grown.issue(payments)
    for service, table in EXPIRED.values():
        await _execute(grown.stack, service, _EXPIRE[table], options.expired)
    before = {name: await _expired(grown.stack, *at) for name, at in EXPIRED.items()}
    started = time.perf_counter()
    gone_after: dict[str, float] = {}
    await grown.services.start(GATEWAY)
    paying = asyncio.create_task(grown.pay(payments))

    async def are_gone() -> bool:
        for name, at in EXPIRED.items():
            if name not in gone_after and not await _expired(grown.stack, *at):
                gone_after[name] = time.perf_counter() - started
        return len(gone_after) == len(EXPIRED)

    await until(are_gone, CLEANING_TIMEOUT_S)
    load, _ = await paying
    watched_s = time.perf_counter() - started
    left = {name: await _expired(grown.stack, *at) for name, at in EXPIRED.items()}
    await grown.services.stop()
    rows: dict[str, report.Row] = {
        name: {
            "beyond retention": before[name],
            "left": left[name],
            "gone after s": gone_after.get(name, watched_s),
            "deleted a second": (before[name] - left[name]) / gone_after.get(name, watched_s),
        }
        for name in EXPIRED
    }
    per_s = load.per_s if isinstance(load, Burst) else 0.0
    note = f"from the start of the services, watched for up to {CLEANING_TIMEOUT_S:.0f} s; meanwhile {per_s:.0f} payments/s were paid"
    return report.Table("Cleaning", rows, note)


_OLD_ID: Final = "('00' || substr(md5(random()::text || n), 3))::uuid"
"""An id that sorts before the payments of the load, as stored payments do."""
_EXPIRE: Final = {
    "inbox": """INSERT INTO inbox (message_id, handled_at)
        SELECT gen_random_uuid(), now() - interval '100 days' FROM generate_series(1, $1::int)""",
    "deadlines": """INSERT INTO deadlines (id, payment_id, number, correlation_id, due_at, fired_at)
        SELECT gen_random_uuid(), gen_random_uuid(), 1, 'expired', now() - interval '100 days', now() - interval '100 days'
        FROM generate_series(1, $1::int)""",
    "transitions": f"""WITH ended AS (
            INSERT INTO sagas (payment_id, invoice_id, status, version, payment_version, failure_recorded, flagged, repeats, deadline,
                updated_at)
            SELECT {_OLD_ID}, 'expired', 'completed', 4, 3, false, false, 0, 1, now() - interval '500 days'
            FROM generate_series(1, $1::int / 4) AS payment (n) RETURNING payment_id)
        INSERT INTO transitions (payment_id, version, from_status, to_status, fact, cause_id, correlation_id, at)
        SELECT payment_id, version, 'settling', 'completed', 'Paid', gen_random_uuid(), payment_id::text, now() - interval '500 days'
        FROM ended CROSS JOIN generate_series(1, 4) AS version""",
    "attempts": f"""WITH at_rest AS (
            INSERT INTO payments (payment_id, invoice_id, status, version, gateway_id, receipt_number, was_case, rung, key_number, cause_id,
                correlation_id, fence, updated_at)
            SELECT {_OLD_ID}, 'expired', 'captured', 3, 'pi_expired', 'ch_expired', false, 0, 1, gen_random_uuid(), 'expired', 1,
                now() - interval '500 days'
            FROM generate_series(1, $1::int / 2) AS payment (n) RETURNING payment_id)
        INSERT INTO attempts (payment_id, fence, seq, at, recorded_at, step, answer, evidence, idempotency_key)
        SELECT payment_id, 1, seq, now(), now() - interval '500 days', 'execute', 'captured', 'HTTP 200', payment_id || ':execute:1'
        FROM at_rest CROSS JOIN generate_series(0, 1) AS seq""",
}
_COUNT_EXPIRED: Final = {
    "inbox": "SELECT count(*) FROM inbox WHERE handled_at < now() - interval '99 days'",
    "deadlines": "SELECT count(*) FROM deadlines WHERE fired_at < now() - interval '99 days'",
    "transitions": "SELECT count(*) FROM transitions WHERE at < now() - interval '499 days'",
    "attempts": "SELECT count(*) FROM attempts WHERE recorded_at < now() - interval '499 days'",
}


async def _expired(stack: Stack, service: Service, table: str) -> int:
    connection = await asyncpg.connect(stack.service_database_url(service), timeout=10)
    try:
        return int(await connection.fetchval(_COUNT_EXPIRED[table]))
    finally:
        await connection.close()


async def _execute(stack: Stack, service: Service, statement: str, *arguments: object) -> None:
    connection = await asyncpg.connect(stack.service_database_url(service), timeout=10)
    try:
        await connection.execute(statement, *arguments, timeout=stored.FILL_TIMEOUT_S)
    finally:
        await connection.close()


# -- memory ----------------------------------------------------------------------------------------------------------------------------


async def _memory(bench: BenchRun, options: argparse.Namespace, say: Callable[[str], None]) -> list[report.Table]:
    """One set of processes pays one chunk of payments after the other; the memory of each process is read after each chunk."""
    await bench.services.start(GATEWAY)
    meter = bench.meter.watching(bench.services.pids)
    samples: list[tuple[int, dict[str, float]]] = [(0, meter.resident_mib())]
    while samples[-1][0] < options.memory_payments:
        count = min(options.payments, options.memory_payments - samples[-1][0])
        payments = prepare(count)
        await bench.issue_by_running(payments)
        load, _ = await bench.pay(payments)
        samples.append((samples[-1][0] + count - load.lost, meter.resident_mib()))
        say(f"Memory: {samples[-1][0]} of {options.memory_payments} payments")
    await bench.services.stop()
    shown = {f"{paid:,} paid": mib for paid, mib in samples}
    note = "PostgreSQL: what its processes do not share; the load generator keeps what it received, and is not shown"
    return [_samples("Memory while paying, MiB resident", shown, note), _flatness(samples)]


def _samples(title: str, samples: Mapping[str, report.Row], note: str) -> report.Table:
    """Some evenly spaced samples, and the last one."""
    names = list(samples)
    step = max(1, len(names) // SAMPLES_SHOWN_MAX)
    return report.Table(title, {name: samples[name] for name in (*names[:-1:step], names[-1])}, note)


def _flatness(samples: Sequence[tuple[int, Mapping[str, float]]]) -> report.Table:
    """How much memory each service gained with every 100 000 payments, by least squares over the second half."""
    half = samples[len(samples) // 2 :]
    goals: list[Goal] = []
    for name in sorted(name for name in samples[0][1] if name in SERVICES):
        highest = max(mib[name] for _, mib in samples)
        goals.append(Goal(f"{name}: highest, MiB", at_most=MEMORY_GOAL_MIB, reached=highest))
        if len(half) > 1:
            growth = _slope(half, name) * 100_000
            goals.append(Goal(f"{name}: MiB more with 100 000 payments", at_most=FLAT_MIB, reached=growth))
    return report.goals("Memory: the goal", goals)


def _slope(samples: Sequence[tuple[float, Mapping[str, float]]], name: str) -> float:
    return statistics.linear_regression([at for at, _ in samples], [mib[name] for _, mib in samples]).slope


# -- rest ------------------------------------------------------------------------------------------------------------------------------


async def _rest(bench: BenchRun, options: argparse.Namespace, say: Callable[[str], None]) -> list[report.Table]:
    """The memory of services without any messages, every few seconds."""
    say(f"Rest: {options.rest_seconds} s, worth {options.rest_seconds * QUICKER / 3_600:.1f} hours")
    await bench.services.start(GATEWAY, fast_idle=True)
    meter = bench.meter.watching(bench.services.pids)
    started = time.perf_counter()
    samples: list[tuple[float, Mapping[str, float]]] = []
    while not samples or samples[-1][0] < options.rest_seconds:
        await asyncio.sleep(REST_SAMPLE_S)
        mib = meter.resident_mib()
        samples.append((time.perf_counter() - started, {name: mib[name] for name in mib if name in SERVICES}))
    await bench.services.stop()
    half = samples[len(samples) // 2 :]
    day_s = DAY_S / QUICKER
    goals = [
        Goal(f"{name}: MiB more in a day", at_most=REST_GOAL_MIB, reached=_slope(half, name) * day_s)
        for name in sorted(samples[0][1])
        if len(half) > 1
    ]
    shown = {f"{at:.0f} s": mib for at, mib in samples}
    note = f"new channels, retention, looks for due work: {QUICKER} times as often"
    return [_samples("Memory at rest, MiB resident", shown, note), report.goals("Rest: the goal", goals)]


if __name__ == "__main__":
    sys.exit(main())
