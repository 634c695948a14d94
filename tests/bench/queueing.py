"""`python -m tests.bench.queueing`: a payment's way as a line of queues, simulated. Its tables stand in deploy/OUTGROWING.md.

Arithmetic tells how many cores a rate needs. It does not tell how long a payment waits, because a batch is what has arrived: the busier a
queue is, the larger are its batches, and the cheaper is each message. Nor does it tell how long a stop lasts for those behind it.

The way has six steps, each with a queue in front and a commit at its end. A batch of n messages takes `BATCH_S + n * MESSAGE_S`. Both
numbers are fitted to two measurements (tests/bench/README.md): a lone payment, and a burst. What they say of the loads between is compared
with what was measured there. Payments arrive at random (exponential gaps), by a generator with a fixed seed: the same numbers every time.
"""

import heapq
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

STEPS: Final = (
    "invoice.commands",
    "payment_gateway.requests",
    "prepared",
    "charged",
    "saga.events",
    "invoice.settlement",
)
"""The queues on the way of a payment. Two of them are in the memory of the payment-gateway service: they wait for the gateway's answers."""
BATCH_S: Final = 0.0023
"""What a batch costs beside its messages. Six of them, with one message each, are the 15.2 ms of a lone payment."""
MESSAGE_S: Final = 0.00023
"""What a message costs in a large batch. Six of them are the 1.4 ms of CPU of a payment in a burst."""
CALL_S: Final = 0.0004
"""What a call to the gateway costs the service, beside what a message costs."""
BATCH_MAX: Final = 200
ANSWER_S: Final = 0.3
"""How long the gateway takes to answer a call on average, where there is one: between half of it and one and a half."""
SEED: Final = 20


@dataclass(frozen=True, slots=True)
class QueueStep:
    """A queue with its instances. `partitions` queues share the load, each with its share of the instances."""

    name: str
    instances: int
    partitions: int = 1
    message_s: float = MESSAGE_S
    answer_s: float = 0.0
    """What a message waits for the gateway before it is in this queue, on average."""
    stopped_s: tuple[float, float] | None = None
    """When the first partition gives nothing out, from and to: its leader was lost."""


@dataclass(frozen=True, slots=True)
class QueueRun:
    """What became of the payments. `waits_s` has what each took, without the gateway's answers, in the order of their arrival."""

    waits_s: Sequence[float]
    batches: int
    steps: int
    ended_s: float

    def percentile_s(self, share: float) -> float:
        """The time within which this share of the payments was done."""
        ordered = sorted(self.waits_s)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    @property
    def batch(self) -> float:
        """Messages in a batch, on average."""
        return len(self.waits_s) * self.steps / self.batches


@dataclass(slots=True)
class _Queue:
    step: int
    instances: int
    opens_s: float = 0.0
    waiting: deque[int] = field(default_factory=deque)
    busy: int = 0


class QueueLine:
    """A line of steps. `cores` are shared by all instances; without it, each instance has a core of its own."""

    def __init__(self, steps: Sequence[QueueStep], *, cores: int | None = None) -> None:
        self._steps = steps
        self._queues = [
            [_Queue(number, step.instances // step.partitions) for _ in range(step.partitions)]
            for number, step in enumerate(steps)
        ]
        self._all = [queue for partitions in self._queues for queue in partitions]
        self._cores = cores
        self._free = math.inf if cores is None else cores
        self._touched: list[_Queue] = []
        self._answered_s: list[float] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._now = 0.0
        self._batches = 0
        self._turn = 0
        self._draw = random.Random(SEED)

    def run(self, arrivals_s: Sequence[float]) -> QueueRun:
        """Send a payment through the line at each of these times, and run until all are done."""
        done = [0.0] * len(arrivals_s)
        self._answered_s = [0.0] * len(arrivals_s)
        for payment, at_s in enumerate(arrivals_s):
            self._at(at_s, lambda payment=payment: self._arrive(0, payment, done))  # type: ignore[misc]
        while self._events:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
            self._start(done)
        times = zip(done, arrivals_s, self._answered_s, strict=True)
        waits = [at_s - came_s - answered_s for at_s, came_s, answered_s in times]
        return QueueRun(waits, self._batches, len(self._steps), self._now)

    def _at(self, time_s: float, happen: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time_s, self._number, happen))

    def _arrive(self, step: int, payment: int, done: list[float]) -> None:
        if step == len(self._steps):
            done[payment] = self._now
            return
        wait_s = self._steps[step].answer_s
        if wait_s:
            wait_s *= self._draw.uniform(0.5, 1.5)
            self._answered_s[payment] += wait_s
            self._at(self._now + wait_s, lambda: self._put(step, payment))
        else:
            self._put(step, payment)

    def _put(self, step: int, payment: int) -> None:
        queue = self._queues[step][payment % self._steps[step].partitions]
        queue.waiting.append(payment)
        self._touched.append(queue)
        stopped_s = self._steps[step].stopped_s
        if queue is self._queues[step][0] and stopped_s is not None and stopped_s[0] <= self._now < stopped_s[1]:
            queue.opens_s = stopped_s[1]
            self._at(stopped_s[1], lambda: self._touched.append(queue))

    def _start(self, done: list[float]) -> None:
        """Start every batch that can start. Where cores are few, any queue may wait for one: they take turns, so that none starves."""
        queues = self._touched if self._cores is None else self._all
        self._touched = []
        self._turn += 1
        for offset in range(len(queues)):
            queue = queues[(self._turn + offset) % len(queues)]
            while queue.waiting and queue.busy < queue.instances and self._free > 0 and queue.opens_s <= self._now:
                batch = [queue.waiting.popleft() for _ in range(min(BATCH_MAX, len(queue.waiting)))]
                queue.busy += 1
                self._free -= 1
                self._batches += 1
                took_s = BATCH_S + len(batch) * self._steps[queue.step].message_s
                self._at(self._now + took_s, lambda queue=queue, batch=batch: self._end(queue, batch, done))  # type: ignore[misc]

    def _end(self, queue: _Queue, batch: Sequence[int], done: list[float]) -> None:
        queue.busy -= 1
        self._free += 1
        self._touched.append(queue)
        for payment in batch:
            self._arrive(queue.step + 1, payment, done)


def arrivals_s(rate: float, count: int) -> list[float]:
    """The times of arrival of `count` payments, `rate` a second, at random."""
    draw = random.Random(SEED)
    found, at_s = [], 0.0
    for _ in range(count):
        at_s += draw.expovariate(rate)
        found.append(at_s)
    return found


# -- the bench's machine: two cores, one instance of each service, a gateway that answers at once ------------------------------------------

MEASURED_MS: Final = {30: 15.2, 100: 13.8, 200: 24.2, 400: 49.4, 600: 100.0}
"""p50 by payments a second (tests/bench/README.md)."""


def bench_machine() -> list[QueueStep]:
    return [QueueStep(name, instances=1) for name in STEPS]


def against_measurements() -> Iterable[tuple[str, ...]]:
    for rate, measured_ms in MEASURED_MS.items():
        found = QueueLine(bench_machine(), cores=2).run(arrivals_s(rate, 10 * rate))
        yield f"{rate}", f"{measured_ms:g}", f"{found.percentile_s(0.5) * 1000:.0f}", f"{found.batch:.1f}"


def burst_rate() -> float:
    """Payments a second if all of them wait from the beginning."""
    count = 4_000
    return count / QueueLine(bench_machine(), cores=2).run([0.0] * count).ended_s


# -- many machines: each instance has a core, the gateway takes 300 ms for each of two calls -----------------------------------------------

BUSY: Final = 0.7
"""The share of its time that an instance should work."""


def _message_s(name: str) -> float:
    return MESSAGE_S + (CALL_S if name in {"prepared", "charged"} else 0.0)


def steps_for(rate: float, **events: object) -> list[QueueStep]:
    """The steps with as many instances as this rate keeps busy for `BUSY` of their time, two at least."""
    found = []
    for name in STEPS:
        message_s = _message_s(name)
        instances = max(2, math.ceil(rate * (message_s + BATCH_S / BATCH_MAX) / BUSY))
        answer_s = ANSWER_S if name in {"prepared", "charged"} else 0.0
        found.append(QueueStep(name, instances, message_s=message_s, answer_s=answer_s))
    return found


def by_rate() -> Iterable[tuple[str, ...]]:
    for rate in (1_000, 2_000, 5_000, 10_000):
        steps = steps_for(rate)
        found = QueueLine(steps).run(arrivals_s(rate, 2 * rate))
        ours_ms = [found.percentile_s(share) * 1000 for share in (0.5, 0.99)]
        yield (
            f"{rate:,}".replace(",", " "),
            " + ".join(str(step.instances) for step in steps),
            f"{ours_ms[0]:.0f}",
            f"{ours_ms[1]:.0f}",
            f"{found.batch:.0f}",
        )


STOP_S: Final = 0.5
"""How long no message was handled after the leader of a queue was killed, in a cluster of three (tests/faults/cluster.py)."""


def by_partitions() -> Iterable[tuple[str, ...]]:
    """`saga.events`, or one of its partitions, loses its leader at 10 000 payments a second."""
    rate, begins_s = 10_000, 0.7
    for partitions in (1, 2, 4, 8):
        steps = [
            QueueStep(
                step.name,
                8 if step.name == "saga.events" else step.instances,
                partitions if step.name == "saga.events" else 1,
                step.message_s,
                step.answer_s,
                (begins_s, begins_s + STOP_S) if step.name == "saga.events" else None,
            )
            for step in steps_for(rate)
        ]
        found = QueueLine(steps).run(arrivals_s(rate, 2 * rate))
        usual_s = found.percentile_s(0.25)
        late = sum(wait_s > usual_s + 0.1 for wait_s in found.waits_s)
        yield f"{partitions}", f"{late:,}".replace(",", " "), f"{found.percentile_s(1.0) * 1000:.0f}"


# -- what needs no simulation --------------------------------------------------------------------------------------------------------------

CPU_S: Final = 0.00145
"""CPU of a payment in a burst, over all processes (tests/bench/README.md, "A burst")."""
SHARES: Final = {"RabbitMQ": 0.72, "PostgreSQL": 0.48, "saga": 0.51, "payment_gateway": 0.50, "invoice": 0.45}
"""How an earlier build's CPU was divided (same place)."""
LOG_BYTES: Final = 512 * 1024**2 / 65_000
STORED_BYTES: Final = 9 * 1024**3 / 1_000_000
"""What a payment leaves in RabbitMQ's log, and in the databases ("A burst", "Growth and memory")."""
DAY_S: Final = 86_400


def arithmetic() -> Iterable[tuple[str, ...]]:
    """What a payment costs, and what so many a second cost."""
    cpu_s = {name: CPU_S * share / sum(SHARES.values()) for name, share in SHARES.items()}
    cpu_s["payment_gateway"] += 2 * CALL_S
    for name, seconds in cpu_s.items():
        yield _row(f"cores: {name}", f"{seconds * 1000:.2f} ms", seconds)
    yield _row("cores in all", f"{sum(cpu_s.values()) * 1000:.2f} ms", sum(cpu_s.values()))
    yield _row("messages published", "5", 5)
    yield _row("messages delivered", "7", 7)
    yield _row("calls to the gateway", "2", 2)
    yield _row("calls in flight, at 300 ms a call", "0.6 s", 2 * ANSWER_S)
    yield _row("RabbitMQ's log on each node, MB/s", f"{LOG_BYTES / 1000:.1f} kB", LOG_BYTES / 1e6)
    yield _row("kept in the databases, GB a day", f"{STORED_BYTES / 1000:.1f} kB", STORED_BYTES * DAY_S / 1e9)


def _row(name: str, one: str, of_one: float) -> tuple[str, ...]:
    at = (of_one * rate for rate in (100, 1_000, 10_000))
    return (name, one, *(f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.2g}" for value in at))


TABLES: Final[Sequence[tuple[tuple[str, ...], Callable[[], Iterable[tuple[str, ...]]]]]] = (
    (("what it costs", "a payment", "100/s", "1 000/s", "10 000/s"), arithmetic),
    (("payments/s on two cores", "p50 ms measured", "p50 ms simulated", "messages in a batch"), against_measurements),
    (("payments/s", "instances of each step", "p50 ms", "p99 ms", "messages in a batch"), by_rate),
    (("queues for saga.events", "payments more than 100 ms late", "latest ms"), by_partitions),
)


def main() -> None:
    """Print the tables as they stand in the document."""
    for header, rows in TABLES:
        lines = [header, ("---",) * len(header), *rows()]
        sys.stdout.writelines(
            f"| {' | '.join(line)} |\n" if line[0] != "---" else f"|{'|'.join(line)}|\n" for line in lines
        )
        sys.stdout.write("\n")
    sys.stdout.write(f"burst: {burst_rate():.0f} payments/s\n")


if __name__ == "__main__":
    main()
