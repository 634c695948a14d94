"""The arithmetic of the benchmark. No test here depends on time."""

from pathlib import Path

import pytest

from tests.bench.limits import ROW_WRITES, Limit, Limits, Needs, ceiling, middle
from tests.bench.load import Burst, Steady
from tests.bench.measure import GENERATOR, DatabaseCounts, Usage, cores
from tests.bench.pulse import INTERVAL_S, STALLED_FROM, pulse, stalls
from tests.bench.report import BenchReport, Earlier, Table, problems
from tests.bench.scenarios import BenchScenario, ScenarioOutcome, median
from tests.bench.system import BenchBooks


def test_a_percentile_is_a_measured_latency() -> None:
    load = Steady([(0.0, n / 1_000) for n in range(200, 0, -1)], lost=0, late_ms=0.0)
    assert [load.percentile(percent) for percent in (0, 50, 99, 99.9, 100)] == [1.0, 100.0, 198.0, 200.0, 200.0]


def test_the_burst_in_the_middle_counts() -> None:
    rounds = [_outcome(Burst(100, 0, published_s=0.1, elapsed_s=elapsed_s)) for elapsed_s in (4.0, 1.0, 2.0)]
    assert (median(rounds).load, median(rounds).rounds_per_s) == (rounds[2].load, [25.0, 50.0, 100.0])
    assert (median(rounds).drain_s, median(rounds).resident_mib) == (4.0, {"saga": 4.0}), "the worst of all rounds"
    assert median(rounds[:2]).load == rounds[0].load, "the slower of two"
    assert median([_outcome(Steady([], lost=0, late_ms=0.0))]).rounds_per_s == ()


def _outcome(load: Burst | Steady) -> ScenarioOutcome:
    """An outcome with this load; a burst took as many seconds to drain, and as many MiB, as it took seconds to play."""
    usage = Usage(at=0.0, cpu_s={}, machine_s=0.0)
    spent = usage.since(usage)
    size = load.elapsed_s if isinstance(load, Burst) else 0.0
    return ScenarioOutcome(
        BenchScenario("0 ms", {}, 100),
        load,
        True,
        spent,
        spent,
        DatabaseCounts({}, {}, {}, {}, 0),
        {"saga": size},
        0.0,
        size,
    )


def test_payments_under_way_while_the_machine_stalled_can_be_left_out() -> None:
    load = Steady([(0.0, 1.0), (1.0, 2.5), (2.0, 2.9), (3.0, 3.5)], lost=0, late_ms=0.0, stalls=[(2.2, 3.0)])
    assert load.without_stalls().latencies_ms == [500.0, 1_000.0]


def test_the_machine_stalls_while_the_same_work_takes_far_longer() -> None:
    usual, slow = 0.001, 0.001 * STALLED_FROM + 0.001
    took = [usual, usual, slow, slow, usual, usual, usual, slow]
    beats = [(float(at), cpu_s) for at, cpu_s in enumerate(took)]
    assert stalls(beats) == [(2.0, 4.0), (7.0, 7.0 + INTERVAL_S)]
    assert stalls([]) == []


def test_the_pulse_ends_with_its_block_and_returns_its_beats() -> None:
    with pulse() as beats:
        assert beats == []
    assert beats == sorted(beats)


def test_the_ceiling_is_all_cores_divided_by_the_cost_of_messages_and_rows() -> None:
    publish, consume = Limit(1.0, client_us=60.0, server_us=40.0), Limit(1.0, client_us=30.0, server_us=20.0)
    rows = Limit(1.0, client_us=10.0 * ROW_WRITES, server_us=10.0 * ROW_WRITES)
    top = ceiling(Needs(publishes=5, deliveries=6, row_writes=10), publish=publish, consume=consume, rows=rows)
    assert top.cpu_ms == pytest.approx((5 * 100 + 6 * 50 + 10 * 20) / 1_000)
    assert top.per_s == pytest.approx(cores() * 1_000)


def test_the_measurement_of_a_limit_in_the_middle_counts() -> None:
    def found(us: float) -> Limits:
        limit = Limit(1e6 / us, client_us=us, server_us=us)
        return Limits(limit, limit, limit, limit, limit, limit, lone=Steady([(0.0, us)], lost=0, late_ms=0.0))

    of_three = middle([found(3.0), found(1.0), found(2.0)])
    assert {of_three.publish_ours.us, of_three.single.us} == {4.0}
    assert of_three.lone.latencies_ms == [1_000.0, 2_000.0, 3_000.0], "the floor counts every payment"
    assert middle([found(3.0), found(1.0)]).set_based.us == 6.0, "the higher of two"


def test_elsewhere_is_what_the_machine_used_beside_us() -> None:
    earlier = Usage(at=1.0, cpu_s={GENERATOR: 1.0, "saga": 2.0}, machine_s=10.0)
    spent = Usage(at=3.0, cpu_s={GENERATOR: 1.5, "saga": 3.0}, machine_s=13.0).since(earlier)
    assert (spent.elapsed_s, spent.system_s, spent.elsewhere_s) == (2.0, 1.0, 1.5)


def test_a_run_is_compared_with_the_last_saved_one(tmp_path: Path) -> None:
    for name, per_s in (("20260101T000000Z", 100.0), ("20260102T000000Z", 200.0)):
        BenchReport({}, [Table("Throughput", {"0 ms": {"payments/s": per_s}})]).save(tmp_path, name)
    earlier = Earlier.newest(tmp_path)
    assert earlier.ratio("Throughput", "0 ms", "payments/s", 300.0) == 1.5
    assert earlier.ratio("Throughput", "20 ms", "payments/s", 300.0) is None


def test_the_first_run_is_compared_with_nothing(tmp_path: Path) -> None:
    assert Earlier.newest(tmp_path).ratio("Throughput", "0 ms", "payments/s", 300.0) is None


@pytest.mark.parametrize(
    ("change", "complaints"),
    [
        ({}, 0),
        ({"paid": 9}, 1),
        ({"paid_twice": 1}, 1),
        ({"captured": 11}, 1),
        ({"completed": 9}, 1),
        ({"dead_letters": 1}, 1),
        ({"outbox": {"saga": 2}}, 1),
    ],
)
def test_every_payment_is_accounted_for(change: dict[str, int], complaints: int) -> None:
    whole: dict[str, object] = {"invoices": 10, "paid": 10, "paid_twice": 0, "captured": 10, "completed": 10}
    whole |= {"dead_letters": 0, "inbox": {}, "outbox": {}}
    books = BenchBooks(**(whole | change))  # type: ignore[arg-type]  # a table of cases
    assert len(problems(books, sent=10, lost=0, doubled=0)) == complaints
