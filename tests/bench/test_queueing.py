"""The simulated line of queues behaves as queues do, and the document says what it finds."""

from pathlib import Path

import pytest

from tests.bench.queueing import (
    BATCH_MAX,
    BATCH_S,
    MEASURED_MS,
    MESSAGE_S,
    STEPS,
    TABLES,
    QueueLine,
    QueueStep,
    arrivals_s,
    bench_machine,
    burst_rate,
)
from tests.unit.books.documents import table

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "deploy/OUTGROWING.md"


def test_a_lone_payment_takes_a_batch_of_one_in_each_step() -> None:
    found = QueueLine(bench_machine()).run([0.0])
    assert found.waits_s == pytest.approx([len(STEPS) * (BATCH_S + MESSAGE_S)])
    assert found.batch == 1


def test_what_waits_leaves_together_and_no_batch_is_larger_than_allowed() -> None:
    found = QueueLine([QueueStep("a", 1)]).run([0.0] * (BATCH_MAX + 2))
    assert found.batches == 3  # the first payment finds nobody else, the next 200 wait together
    assert found.ended_s == pytest.approx(3 * BATCH_S + (BATCH_MAX + 2) * MESSAGE_S)


def test_cores_are_shared() -> None:
    steps = [QueueStep("a", 2)]
    alone = QueueLine(steps).run([0.0, 0.0]).ended_s
    assert QueueLine(steps, cores=1).run([0.0, 0.0]).ended_s == pytest.approx(2 * alone)


def test_a_stopped_partition_keeps_its_own_and_no_others() -> None:
    stopped = QueueStep("a", 2, partitions=2, stopped_s=(0.0, 5.0))
    first, second = QueueLine([stopped]).run([1.0, 1.0]).waits_s
    assert first == pytest.approx(4.0 + BATCH_S + MESSAGE_S)
    assert second == pytest.approx(BATCH_S + MESSAGE_S)


def test_the_gateway_is_waited_for_outside_the_queue() -> None:
    found = QueueLine([QueueStep("a", 1, answer_s=100.0)]).run([0.0, 0.01])
    assert found.waits_s == pytest.approx([BATCH_S + MESSAGE_S] * 2)
    assert 50 < found.ended_s < 151


def test_arrivals_come_at_the_rate_and_are_the_same_every_time() -> None:
    found = arrivals_s(100, 10_000)
    assert found == sorted(found) == arrivals_s(100, 10_000)
    assert found[-1] == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("number", range(len(TABLES)), ids=["arithmetic", "measured", "rates", "partitions"])
def test_the_document_says_what_the_simulation_finds(number: int) -> None:
    header, rows = TABLES[number]
    assert list(table(DOCUMENT, *header).rows) == list(rows()), "put in what `python -m tests.bench.queueing` prints"


def test_it_is_compared_with_what_was_measured() -> None:
    measured = table(Path(__file__).parent / "README.md", "commands/s, one by one", "p50 ms")
    p50_ms = dict(zip(measured.column("commands/s, one by one"), measured.column("p50 ms"), strict=True))
    assert {int(rate): float(ms) for rate, ms in p50_ms.items() if rate.isdecimal()} == MEASURED_MS


def test_the_document_says_how_fast_a_burst_is() -> None:
    assert f"{burst_rate():.0f} payments/s simulated" in DOCUMENT.read_text().replace("\n", " ")
