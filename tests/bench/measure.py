"""Measures what a run costs: CPU and memory by process, and what one payment costs broker and databases.

What is counted: of a service, its process with all threads; of PostgreSQL, the postmaster, every living process below it (backends, WAL
writer, checkpointer, autovacuum), and the ended ones that the postmaster has waited for; of RabbitMQ, the Erlang VM with its helpers. The
kernel's own threads, such as the disk's, are not counted: they show as "elsewhere", together with all other programs on the machine.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import asyncpg
import psutil

from deploy.local.stack import SERVICES, Stack

GENERATOR: Final = "load generator"
GATEWAY: Final = "gateway (HTTP)"
OUTSIDE: Final = frozenset({GENERATOR, GATEWAY})
"""Processes that are no part of the system: the sender and the gateway."""
RABBITMQ: Final = "RabbitMQ"
POSTGRESQL: Final = "PostgreSQL"
ELSEWHERE: Final = "elsewhere"
MIB: Final = 1024**2


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since each process began, and when they were read (seconds of `time.perf_counter`)."""

    at: float
    cpu_s: Mapping[str, float]
    machine_s: float

    def since(self, earlier: "Usage") -> "Spent":
        spent = {name: self.cpu_s[name] - earlier.cpu_s[name] for name in self.cpu_s}
        return Spent(self.at - earlier.at, spent, self.machine_s - earlier.machine_s)


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds by process within `elapsed_s` seconds; `machine_s`: of all processes of the machine."""

    elapsed_s: float
    cpu_s: Mapping[str, float]
    machine_s: float

    @property
    def elsewhere_s(self) -> float:
        return max(0.0, self.machine_s - sum(self.cpu_s.values()))

    @property
    def system_s(self) -> float:
        """CPU seconds of the services, the broker and the database."""
        return sum(cpu_s for name, cpu_s in self.cpu_s.items() if name not in OUTSIDE)


class Meter:
    """Reads the processes of one stack. The benchmark's own process is the load generator."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in roots.items()}
        self._generator = psutil.Process()

    @classmethod
    async def of(cls, stack: Stack) -> Self:
        """A meter for the broker and the database of a stack, which run as processes of this machine."""
        connection = await asyncpg.connect(stack.postgres_url, timeout=10)
        try:
            pid_file: str = await connection.fetchval("SELECT pg_read_file('postmaster.pid')")
        finally:
            await connection.close()
        broker = stack.broker.ctl("eval", "os:getpid().").strip().strip('"')
        return cls({RABBITMQ: int(broker), POSTGRESQL: int(pid_file.split(maxsplit=1)[0])})

    def watching(self, roots: Mapping[str, int]) -> "Meter":
        """A meter that also reads these processes."""
        return Meter({name: process.pid for name, process in self._processes.items()} | dict(roots))

    def read(self) -> Usage:
        cpu_s = {name: _tree_cpu_s(process) for name, process in self._processes.items()}
        own = self._generator.cpu_times()
        return Usage(time.perf_counter(), cpu_s | {GENERATOR: own.user + own.system}, _machine_s())

    def resident_mib(self) -> dict[str, float]:
        """Memory by process, in MiB; for PostgreSQL the sum of what its processes do not share."""
        return {name: _resident_mib(process) for name, process in self._processes.items()}


def _tree_cpu_s(root: psutil.Process) -> float:
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # it just ended: its time is in its parent's time of children
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _resident_mib(root: psutil.Process) -> float:
    children = root.children(recursive=True)
    if not children:
        return float(root.memory_info().rss) / MIB
    total = 0
    for process in (root, *children):
        try:
            memory = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        total += memory.rss - memory.shared
    return total / MIB


def _machine_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def cores() -> int:
    """The number of cores that the benchmark and all its processes share."""
    return len(os.sched_getaffinity(0))


# -- what one payment does -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DatabaseCounts:
    """PostgreSQL's counters: transactions by service, rows by service and table."""

    commits: Mapping[str, int]
    written: Mapping[str, int]
    """Rows inserted, updated or deleted."""
    inserted: Mapping[str, int]
    scanned: Mapping[str, int]
    """Rows read one after the other, without an index: work that grows with the table."""
    wal_bytes: int
    """Bytes of the whole server's write-ahead log."""

    def since(self, earlier: "DatabaseCounts") -> "DatabaseCounts":
        return DatabaseCounts(
            _less(self.commits, earlier.commits),
            _less(self.written, earlier.written),
            _less(self.inserted, earlier.inserted),
            _less(self.scanned, earlier.scanned),
            self.wal_bytes - earlier.wal_bytes,
        )


def _less(counts: Mapping[str, int], earlier: Mapping[str, int]) -> dict[str, int]:
    return {name: count - earlier.get(name, 0) for name, count in counts.items()}


async def database_counts(stack: Stack) -> DatabaseCounts:
    """Read the counters while no service runs: PostgreSQL's backends report seconds late, or when they end."""
    commits: dict[str, int] = {}
    written: dict[str, int] = {}
    inserted: dict[str, int] = {}
    scanned: dict[str, int] = {}
    wal_bytes = 0
    for service in SERVICES:
        connection = await asyncpg.connect(stack.service_database_url(service), timeout=10)
        try:
            commits[service] = await connection.fetchval(_COMMITS)
            tables = await connection.fetch(_ROWS)
            wal_bytes = int(await connection.fetchval("SELECT wal_bytes FROM pg_stat_wal"))
        finally:
            await connection.close()
        written |= {f"{service}.{table['relname']}": table["written"] for table in tables}
        inserted |= {f"{service}.{table['relname']}": table["inserted"] for table in tables}
        scanned |= {f"{service}.{table['relname']}": table["scanned"] for table in tables}
    return DatabaseCounts(commits, written, inserted, scanned, wal_bytes)


_COMMITS: Final = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
_ROWS: Final = """SELECT relname, n_tup_ins AS inserted, n_tup_ins + n_tup_upd + n_tup_del AS written, seq_tup_read AS scanned
    FROM pg_stat_user_tables"""
