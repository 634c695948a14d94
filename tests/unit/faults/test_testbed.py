"""What a testbed reads from its services: their logs from a moment on, and their counters."""

from pathlib import Path

from prometheus_client import generate_latest

from shared.observability import metrics
from tests.faults.testbed import LogMark, counted


def test_a_mark_shows_what_came_after_it(tmp_path: Path) -> None:
    log = tmp_path / "saga.log"
    log.write_text("before\n")
    mark = LogMark(log, log.stat().st_size)
    assert mark.text == ""
    with log.open("a") as lines:
        lines.write('{"event":"fault_fired"}\n')
    assert mark.text == '{"event":"fault_fired"}\n'


def test_a_log_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    assert LogMark(tmp_path / "saga.log", 0).text == ""


def test_the_counters_of_a_service_are_read() -> None:
    before = counted(generate_latest().decode())
    metrics.MESSAGES_HANDLED.labels(queue="saga.events", outcome="duplicate").inc(3)
    metrics.MESSAGES_HANDLED.labels(queue="saga.events", outcome="handled").inc(50)
    metrics.REDELIVERIES.labels(queue="saga.events").inc(2)
    metrics.BATCH_RETRIES.labels(queue="saga.events", cause="conflict").inc()
    metrics.BATCH_RETRIES.labels(queue="saga.events", cause="outage").inc(7)
    after = counted(generate_latest().decode())
    assert after - before == {"duplicates": 3, "redeliveries": 2, "conflicts": 1}
