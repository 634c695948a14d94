"""The goals for Remit on two cores, beside what a run reached."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tests.bench import observability
from tests.bench.limits import Limits, ceilings
from tests.bench.load import Burst, Steady
from tests.bench.report import Goal, Table, goals, needs
from tests.bench.scenarios import BenchScenario, ScenarioOutcome

HTTP_LATENCY_MS: Final = 300
CALLS_A_PAYMENT: Final = 2
"""Calls of one payment: prepare and execute, one after the other."""
FEW_CALLS: Final = 60
"""Calls in flight: 100 payments/s at most, far from what the machine can do, so that two instances can gain."""
MANY_CALLS: Final = 400
"""Calls in flight: 667 payments/s at most."""
UP_TO_PER_S: Final = 500
"""Up to this rate only the calls in flight must limit: with fewer calls nine tenths of what they allow, with more at least this rate."""
SECONDS: Final = 20
"""The shortest burst to the slow gateway, in seconds: the first and the last 0.6 s cannot be full."""
TWO: Final = "0 ms, two of each"


def http(gateway: Mapping[str, str], *, calls: int, instances: int = 1) -> BenchScenario:
    """A burst to the gateway that answers late."""
    allowed_per_s = instances * calls * 1_000 / (HTTP_LATENCY_MS * CALLS_A_PAYMENT)
    return BenchScenario(
        _name(calls, instances),
        {**gateway, "GATEWAY_CALLS_IN_FLIGHT": str(calls)},
        round(allowed_per_s * SECONDS),
        instances=instances,
        allowed_per_s=allowed_per_s,
    )


def _name(calls: int, instances: int = 1) -> str:
    return f"{HTTP_LATENCY_MS} ms HTTP, {calls} calls" + (", two of each" if instances == 2 else "")


def table(
    outcomes: Sequence[ScenarioOutcome], alone: Mapping[str, tuple[float, float]], allowed: Limits | None
) -> Table:
    """The goals for what was measured; what was not measured is left out."""
    played = {outcome.scenario.name: outcome for outcome in outcomes}
    found = [
        *_top(played, allowed),
        *_http(played),
        *_latencies(outcomes, allowed),
        *_instances(played),
        *_starts(alone),
        *_memory(outcomes),
        *observability.goals(played),
    ]
    note = "at best: by the raw limits of this run, if all that services did were to send, receive and store; over HTTP by calls"
    return goals("Goals", found, note)


def _per_s(played: Mapping[str, ScenarioOutcome], name: str) -> float | None:
    outcome = played.get(name)
    return outcome.load.per_s if outcome is not None and isinstance(outcome.load, Burst) else None


def _top(played: Mapping[str, ScenarioOutcome], allowed: Limits | None) -> Iterator[Goal]:
    per_s = _per_s(played, "0 ms")
    if per_s is None:
        return
    top = played["0 ms"]
    cpu_ms = top.spent.system_s / top.scenario.payments * 1e3
    tops = ceilings(allowed, needs(top)).values() if allowed is not None else ()
    best = max(tops, key=lambda ceiling: ceiling.per_s, default=None)
    yield Goal("payments/s, gateway 0 ms", per_s, at_least=2_000, at_best=best.per_s if best else None)
    if best is not None:
        yield Goal("% of what the raw limits allow", per_s / best.per_s * 100, at_least=60)
    yield Goal("CPU ms per payment", cpu_ms, at_most=1.0, at_best=best.cpu_ms if best else None)


def _http(played: Mapping[str, ScenarioOutcome]) -> Iterator[Goal]:
    for name, outcome in played.items():
        allowed, per_s = outcome.scenario.allowed_per_s, _per_s(played, name)
        if allowed is not None and per_s is not None:
            yield Goal(f"payments/s, {name}", per_s, at_least=min(0.9 * allowed, UP_TO_PER_S), at_best=allowed)


def _latencies(outcomes: Sequence[ScenarioOutcome], allowed: Limits | None) -> Iterator[Goal]:
    for outcome in outcomes:
        load, scenario = outcome.load, outcome.scenario
        if not isinstance(load, Steady) or not load.spans:
            continue
        if scenario.half_of is not None:
            yield Goal(f"p99 ms at half of the top, {scenario.rate_per_s or 0:.0f}/s", load.percentile(99), at_most=100)
            continue
        for percent, at_most in ((50, 8), (99, 25)):
            at_best = allowed.lone.percentile(percent) if allowed is not None else None
            yield Goal(f"p{percent} ms, {scenario.name}", load.percentile(percent), at_most=at_most, at_best=at_best)


def _instances(played: Mapping[str, ScenarioOutcome]) -> Iterator[Goal]:
    one, two = _per_s(played, "0 ms"), _per_s(played, TWO)
    if one and two:
        yield Goal("two of each, 0 ms: times one (noise allowed)", two / one, at_least=0.95)
    one, two = _per_s(played, _name(FEW_CALLS)), _per_s(played, _name(FEW_CALLS, 2))
    if one and two:
        yield Goal("two of each, 300 ms HTTP: times one (noise allowed)", two / one, at_least=1.9)


def _starts(alone: Mapping[str, tuple[float, float]]) -> Iterator[Goal]:
    if alone:
        yield Goal("start of a service alone, s, the slowest", max(start_s for start_s, _ in alone.values()), at_most=1)
        yield Goal("drain of a service alone, s, the slowest", max(drain_s for _, drain_s in alone.values()), at_most=2)


def _memory(outcomes: Sequence[ScenarioOutcome]) -> Iterator[Goal]:
    services = ("invoice", "payment_gateway", "saga", "staff")
    resident = [mib for o in outcomes for name, mib in o.resident_mib.items() if name.startswith(services)]
    if resident:
        yield Goal("MiB of a service, the largest (make bench-long)", max(resident), at_most=100)
    if outcomes:
        yield Goal("drain of all under load's end, s, the slowest", max(o.drain_s for o in outcomes), at_most=2)
