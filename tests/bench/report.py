"""Shows the figures as tables for people (with rich), as JSON for programs, and as ratios to those of an earlier run."""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table as RichTable

from deploy.local.fleet import ROOT
from tests.bench.limits import LONE_RATE_PER_S, ROW_WRITES, Limits, Needs, ceilings
from tests.bench.load import Burst, Steady
from tests.bench.measure import ELSEWHERE, GATEWAY, GENERATOR, POSTGRESQL, RABBITMQ, cores
from tests.bench.scenarios import WARM_UP, ScenarioOutcome
from tests.bench.system import BenchBooks

PERCENTILES: Final = (50, 95, 99)

WORTH_SHOWING: Final = 0.1
"""Tables with fewer written rows per payment are left out: they belong to polls and the like."""

FILE_WIDTH: Final = 120
"""Width, in columns, of tables that go into a file or a pipe, where rich would take 80."""
LEAST_COMPARED: Final = 1e-3
"""Smaller values are not compared: their ratio would show only rounding."""
Row = Mapping[str, float | str]


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers or words by row and column; a cell may be absent."""

    title: str
    rows: Mapping[str, Row]
    note: str = ""

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.rows.values() for column in row))


@dataclass(frozen=True, slots=True)
class BenchReport:
    """One run: what it was, its figures, and its problems. The figures of a run with problems are not kept."""

    about: Mapping[str, Any]
    tables: Sequence[Table]
    problems: Sequence[str] = field(default=())

    def save(self, folder: Path, name: str) -> Path:
        """Write `name`.json into `folder`; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.json"
        path.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))
        return path


def about(options: argparse.Namespace) -> dict[str, Any]:
    """The build, the time, the machine, its load, and the options of the run."""
    began = datetime.now(UTC)
    commit = subprocess.run(
        ("git", "--no-optional-locks", "describe", "--always", "--dirty"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "commit": commit.stdout.strip() or "no commit",
        "began": began.strftime("%Y%m%dT%H%M%SZ"),
        "cores": cores(),
        "python": f"{platform.python_version()} ({Path(sys.executable).resolve()})",
        "load_before": os.getloadavg()[0],
        "options": {name: str(value) for name, value in vars(options).items()},
    }


@dataclass(frozen=True, slots=True)
class Goal:
    """A number that must be reached, or not passed. `at_best`: what this run's raw limits, or the calls in flight, allow."""

    name: str
    reached: float
    at_least: float | None = None
    at_most: float | None = None
    at_best: float | None = None

    @property
    def met(self) -> bool:
        """Whether the goal was reached."""
        return (self.at_least is None or self.reached >= self.at_least) and (
            self.at_most is None or self.reached <= self.at_most
        )

    @property
    def bound(self) -> str:
        """The bound in words."""
        return f"at least {self.at_least:,g}" if self.at_least is not None else f"at most {self.at_most or 0:,g}"


def goals(title: str, wanted: Iterable[Goal], note: str = "") -> Table:
    """A table of goals, beside what was reached."""
    rows = {
        goal.name: {
            "goal": goal.bound,
            "at best": "" if goal.at_best is None else goal.at_best,
            "reached": goal.reached,
            "": "met" if goal.met else "missed",
        }
        for goal in wanted
    }
    return Table(title, rows, note)


# -- an earlier run --------------------------------------------------------------------------------------------------------------------


class Earlier:
    """The cells of an earlier run, by title, row and column."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        tables = orjson.loads(path.read_bytes())["tables"] if path is not None else []
        self._rows: dict[str, Mapping[str, Row]] = {table["title"]: table["rows"] for table in tables}

    @classmethod
    def newest(cls, folder: Path) -> "Earlier":
        """The last run saved in `folder`, if there is one: file names are times."""
        return cls(max(folder.glob("*.json"), default=None))

    def ratio(self, title: str, row: str, column: str, value: float) -> float | None:
        """How many times the earlier value this one is; None if there is no earlier one, or if it is next to nothing."""
        earlier = self._rows.get(title, {}).get(row, {}).get(column)
        return value / earlier if isinstance(earlier, int | float) and abs(earlier) >= LEAST_COMPARED else None


def conclude(report: BenchReport, folder: Path, console: Console, *, compare: Path | None = None) -> int:
    """Show the run beside the one in the file `compare`, or beside the folder's newest. Keep it there unless a payment was lost or doubled.
    Returns the exit status."""
    show(report, Earlier(compare) if compare else Earlier.newest(folder), console)
    if report.problems:
        return 1
    console.print(f"Kept in {report.save(folder, report.about['began']).relative_to(ROOT)}")
    return 0


def show(report: BenchReport, earlier: Earlier, console: Console) -> None:
    """Print every table; beside each value its ratio to the earlier one."""
    about = report.about
    console.print(
        f"{about['commit']}, {about['cores']} cores, Python {about['python']}; load before: {about['load_before']:.1f}"
    )
    if not console.is_terminal:
        console.width = FILE_WIDTH
    for table in report.tables:
        shown = RichTable(title=table.title, caption=table.note or None, title_justify="left", caption_justify="left")
        shown.add_column("")
        for column in table.columns:
            shown.add_column(column, justify="right")
        for name, row in table.rows.items():
            shown.add_row(name, *(_cell(table.title, name, column, row, earlier) for column in table.columns))
        console.print(shown)
    if earlier.path is not None:
        console.print(f"[dim]x: times the value of {earlier.path}[/dim]")
    for problem in report.problems:
        console.print(f"[bold red]{problem}[/bold red]")


def _cell(title: str, name: str, column: str, row: Row, earlier: Earlier) -> str:
    value = row.get(column)
    if value is None or isinstance(value, str):
        return value or ""
    ratio = earlier.ratio(title, name, column, value)
    return _number(value) if ratio is None else f"{_number(value)} [dim]x{ratio:.2f}[/dim]"


def _number(value: float) -> str:
    """The number with three significant digits."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


# -- the tables ------------------------------------------------------------------------------------------------------------------------


def throughput(outcomes: Sequence[ScenarioOutcome]) -> Table:
    rows = {
        outcome.scenario.name: {
            "payments/s": outcome.load.per_s,
            **_spread(outcome.rounds_per_s),
            "payments": outcome.load.paid,
            "seconds": outcome.load.elapsed_s,
            "all sent after s": outcome.load.published_s,
            "of the machine %": _share(outcome),
            "staff behind": outcome.unheard,
        }
        for outcome in outcomes
        if isinstance(outcome.load, Burst)
    }
    return Table(
        "Throughput",
        rows,
        "by gateway; from the first PayInvoice published to the last InvoicePaid received outside; of several rounds, the middle one; "
        "staff behind: payments that staff had not taken in by then",
    )


def _spread(rounds_per_s: Sequence[float]) -> Row:
    return {"slowest": min(rounds_per_s), "fastest": max(rounds_per_s)} if len(rounds_per_s) > 1 else {}


def _share(outcome: ScenarioOutcome) -> float:
    """Our part of the machine's CPU, in percent: well below 100 if other programs ran, which then slowed us down."""
    spent = outcome.spent
    return sum(spent.cpu_s.values()) / (cores() * spent.elapsed_s) * 100


def latency(outcomes: Sequence[ScenarioOutcome], found: Limits | None) -> Table:
    rows = {
        outcome.scenario.name: _latency(outcome.load)
        for outcome in outcomes
        if isinstance(outcome.load, Steady) and outcome.load.spans
    }
    if found is not None:
        rows[f"raw hops and commits, {LONE_RATE_PER_S}/s"] = _latency(found.lone)
    return Table(
        "Latency, ms",
        rows,
        "from the time the PayInvoice was due to be published, to InvoicePaid received outside; calm: not while the machine "
        "stalled; raw: five hops through a quorum queue and six commits of a row, one after the other in one process",
    )


def _latency(load: Steady) -> Row:
    calm = load.without_stalls()
    row = {f"p{percent}": load.percentile(percent) for percent in PERCENTILES} | {"worst": load.percentile(100)}
    if calm.spans:
        row |= {"p50 calm": calm.percentile(50), "p99 calm": calm.percentile(99)}
    elapsed_s = load.spans[-1][1] - load.spans[0][0]
    row["stalled %"] = 100 * sum(until - since for since, until in load.stalls) / elapsed_s
    return row | {"sent late by": load.late_ms, "payments": len(load.spans)}


def cpu(outcomes: Sequence[ScenarioOutcome]) -> Table:
    """Milliseconds of CPU per payment by process, and milliseconds per second of an idle system."""
    columns: dict[str, Row] = {}
    for outcome in outcomes:
        payments, spent = outcome.scenario.payments, outcome.spent
        columns[outcome.scenario.name] = {
            **{name: cpu_s / payments * 1e3 for name, cpu_s in spent.cpu_s.items() if name != GENERATOR},
            "together": spent.system_s / payments * 1e3,
            GENERATOR: spent.cpu_s[GENERATOR] / payments * 1e3,
            ELSEWHERE: spent.elsewhere_s / payments * 1e3,
        }
    if outcomes:
        idle = outcomes[0].idle
        busy = {**idle.cpu_s, "together": idle.system_s, ELSEWHERE: idle.elsewhere_s}
        columns["idle, ms/s"] = {name: cpu_s / idle.elapsed_s * 1e3 for name, cpu_s in busy.items()}
    names = _in_order(name for column in columns.values() for name in column)
    rows = {name: {title: column[name] for title, column in columns.items() if name in column} for name in names}
    return Table("CPU, ms per payment", rows, "children and ended backends included; kernel threads are elsewhere")


def _in_order(names: Iterable[str]) -> list[str]:
    last = [RABBITMQ, POSTGRESQL, "together", GENERATOR, GATEWAY, ELSEWHERE]
    return sorted(dict.fromkeys(names), key=lambda name: (last.index(name) + 1 if name in last else 0, name))


def memory(outcomes: Sequence[ScenarioOutcome]) -> Table:
    rows = {
        name: {o.scenario.name: o.resident_mib[name] for o in outcomes if name in o.resident_mib}
        for name in _in_order(name for outcome in outcomes for name in outcome.resident_mib)
    }
    return Table("Memory at the end, MiB resident", rows)


def starts(outcomes: Sequence[ScenarioOutcome], alone: Mapping[str, tuple[float, float]]) -> Table:
    """Times of starts and drains. `alone`: of each service started by itself."""
    rows = {f"{name} alone": {"start": start_s, "drain": drain_s} for name, (start_s, drain_s) in alone.items()}
    rows |= {outcome.scenario.name: {"start": outcome.start_s, "drain": outcome.drain_s} for outcome in outcomes}
    return Table(
        "Start and drain, s",
        rows,
        "or all services at once; from spawn to every queue consumed; SIGTERM to the last exit",
    )


def needs(outcome: ScenarioOutcome) -> Needs:
    """What one payment of a burst needs, counted by PostgreSQL.

    Published messages: events, outcomes, and the saga's commands (rows of the invoice's inbox). Delivered messages: inbox rows and answers.
    The generator's own are added: one publish, one delivery.
    """
    payments = outcome.scenario.invoices
    inserted = outcome.database_counts.inserted

    def each(table: str) -> float:
        return sum(count for name, count in inserted.items() if name.endswith(f".{table}")) / payments

    return Needs(
        publishes=1 + each("events") + each("outcomes") + inserted.get("invoice.inbox", 0) / payments,
        deliveries=1 + each("inbox") + each("answers"),
        row_writes=sum(outcome.database_counts.written.values()) / payments,
    )


def work(outcome: ScenarioOutcome) -> Table:
    """What one payment does; a batch's transactions are shared by its messages."""
    payments, done, asked = outcome.scenario.invoices, outcome.database_counts, needs(outcome)
    rows: dict[str, Row] = {
        "publishes": {"": asked.publishes},
        "deliveries": {"": asked.deliveries},
        "bytes of WAL": {"": done.wal_bytes / payments},
        "transactions": {"": sum(done.commits.values()) / payments},
        **{f"  {service}": {"": commits / payments} for service, commits in done.commits.items()},
        "rows": {"written": asked.row_writes, "scanned": sum(done.scanned.values()) / payments},
    }
    for table in sorted(done.written):
        written, scanned = done.written[table] / payments, done.scanned[table] / payments
        if max(written, scanned) >= WORTH_SHOWING:
            rows[f"  {table}"] = {"written": written, "scanned": scanned}
    note = f"{WARM_UP} payments of warm-up included; scanned: read without an index"
    return Table(f"What a payment does ({outcome.scenario.name})", rows, note)


def limits(found: Limits) -> Table:
    named = {
        "publish, aio-pika, confirmed": found.publish_aio_pika,
        "publish, shared.messaging": found.publish_ours,
        "consume, aio-pika, single acks": found.consume_aio_pika,
        "consume, shared.messaging": found.consume_ours,
        "statements of a message, set-based": found.set_based,
        "the same, one transaction each": found.single,
    }
    rows: dict[str, Row] = {
        name: {"per s": limit.per_s, "client us": limit.client_us, "server us": limit.server_us}
        for name, limit in named.items()
    }
    rows["rows written, set-based"] = {
        "per s": found.set_based.per_s * ROW_WRITES,
        "client us": found.set_based.client_us / ROW_WRITES,
        "server us": found.set_based.server_us / ROW_WRITES,
    }
    return Table("Raw limits", rows, "per item; quorum queue, bodies of a PayInvoice; 200 messages a batch")


def ceiling(found: Limits, outcome: ScenarioOutcome, load: Burst) -> Table:
    """What the raw limits allow for the messages and rows of one payment, and how much of it a burst reached."""
    rows = {
        name: {"payments/s": top.per_s, "CPU ms": top.cpu_ms, "reached %": load.per_s / top.per_s * 100}
        for name, top in ceilings(found, needs(outcome)).items()
    }
    return Table(
        f"Ceiling ({outcome.scenario.name})", rows, "the same messages and rows, no other code, all cores busy"
    )


def books(read: BenchBooks, *, sent: int, lost: int, doubled: int, repeated: int) -> Table:
    rows: dict[str, Row] = {
        "payments sent": {"": sent},
        "lost: InvoicePaid never heard": {"": lost},
        "doubled: two different InvoicePaid": {"": doubled},
        "the same InvoicePaid heard again": {"": repeated},
        "invoices paid": {"": read.paid},
        "invoices paid twice": {"": read.paid_twice},
        "payments captured": {"": read.captured},
        "sagas completed": {"": read.completed},
        "dead letters": {"": read.dead_letters},
    }
    for service, count in read.outbox.items():
        rows[f"outbox rows left, {service}"] = {"": count}
    for service, count in read.inbox.items():
        rows[f"inbox rows kept, {service}"] = {"": count}
    return Table("The books", rows)


def problems(read: BenchBooks, *, sent: int, lost: int, doubled: int) -> list[str]:
    """Why this run does not count; empty if every payment is accounted for."""
    found = {
        f"{lost} payments lost: their InvoicePaid was never received": lost,
        f"{doubled} payments had two different InvoicePaid": doubled,
        f"{read.paid_twice} invoices were paid twice": read.paid_twice,
        f"{sent} payments were sent, {read.paid} invoices are paid": sent - read.paid,
        f"{sent} payments were sent, {read.captured} are captured": sent - read.captured,
        f"{sent} payments were sent, {read.completed} sagas are completed": sent - read.completed,
        f"{read.dead_letters} messages became dead letters (`remit dead-letters list` would show why)": read.dead_letters,
        f"{read.waiting} outbox batches wait": read.waiting,
    }
    return [sentence for sentence, wrong in found.items() if wrong]
