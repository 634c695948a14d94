"""Measures how evenly the machine runs: `python -m tests.bench.pulse` repeats the same little work, and records its CPU time.

A virtual machine can be ten times slower for a tenth of a second, and no counter shows it: the time is not stolen, but every access to
memory takes longer. A latency measured meanwhile is the machine's, not ours (Gil Tene's jHiccup shows the same beside a JVM). CPU time is
measured, not the clock's, so that waiting for a core does not count. It ends with its parent's pipe, and takes 2 % of a core.
"""

import random
import select
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import orjson

from deploy.local.fleet import ROOT
from tests.bench.load import Span

INTERVAL_S: Final = 0.01
WORDS: Final = 2**22
"""32 MiB: more than a core's caches and page tables hold, so that access to memory is measured."""
READS: Final = 500
STALLED_FROM: Final = 2.5
"""A beat is slow if it takes this many times the median. Nine tenths of beats take 0.7 to 1.4 times the median, in stalls 3 to 6 times
(measured on an idle machine)."""
END_TIMEOUT_S: Final = 10.0

Beat = tuple[float, float]
"""When a beat began, in seconds of `time.perf_counter`, and the seconds of CPU that it took."""


@contextmanager
def pulse() -> Iterator[list[Beat]]:
    """Measure beats while the block runs; the list is filled at its end."""
    beats: list[Beat] = []
    command = (sys.executable, "-m", "tests.bench.pulse")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            yield beats
        finally:
            noted, _ = process.communicate(timeout=END_TIMEOUT_S)
    beats += [(at, cpu_s) for at, cpu_s in orjson.loads(noted)]


def stalls(beats: Sequence[Beat]) -> list[Span]:
    """The times when the machine ran slowly, each from a slow beat to the next normal one."""
    if not beats:
        return []
    limit = STALLED_FROM * statistics.median(cpu_s for _, cpu_s in beats)
    found: list[Span] = []
    began: float | None = None
    for at, cpu_s in beats:
        if cpu_s > limit:
            began = at if began is None else began
        elif began is not None:
            found.append((began, at))
            began = None
    if began is not None:
        found.append((began, beats[-1][0] + INTERVAL_S))
    return found


def _beat(memory: "array[int]", places: Sequence[int]) -> Beat:
    at, before = time.perf_counter(), time.thread_time()
    sum(map(memory.__getitem__, places))
    return at, time.thread_time() - before


def main() -> None:
    """Measure until standard input closes."""
    memory = array("q", bytes(8 * WORDS))
    places = random.Random(1).sample(range(WORDS), READS)
    beats: list[Beat] = []
    while not select.select([sys.stdin], [], [], INTERVAL_S)[0]:
        beats.append(_beat(memory, places))
    sys.stdout.buffer.write(orjson.dumps(beats))


if __name__ == "__main__":
    main()
