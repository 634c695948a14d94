"""A scenario starts the services, warms them up, puts them under one kind of load, stops them, and measures what it took."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from deploy.local.stack import Stack
from shared.messaging.publisher import Publisher
from tests.bench.load import Burst, EventListener, Steady, TimedPayment, burst, send, steady
from tests.bench.measure import DatabaseCounts, Meter, Spent, database_counts
from tests.bench.pulse import pulse, stalls
from tests.bench.scraping import scraping
from tests.bench.system import NO_UUID, Services

WARM_UP: Final = 200
"""Payments before the measurement: they open connections, prepare statements and warm up code paths."""
IDLE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class BenchScenario:
    """One kind of load. `rate_per_s`: None means as fast as confirms allow. `instances`: of each service. `half_of`: the run whose rate is
    halved. `allowed_per_s`: what the number of calls in flight allows. `rounds`: how often it is played. `is_scraped`: the services serve
    metrics, and are asked for them."""

    name: str
    gateway: Mapping[str, str]
    payments: int
    rate_per_s: float | None = None
    instances: int = 1
    half_of: str | None = None
    allowed_per_s: float | None = None
    rounds: int = 1
    is_scraped: bool = False

    @property
    def invoices(self) -> int:
        return WARM_UP + self.payments


@dataclass(frozen=True, slots=True)
class ScenarioOutcome:
    """The figures of a scenario. `spent`: for the measured payments until everything about them was settled; `database_counts`: with those
    of the warm-up. `rounds`, and `rounds_per_s`, their payments per second: this is the one in the middle; empty for a steady load.
    `unheard`: payments that staff had not taken in when the last one was paid; taking them in is part of `spent`."""

    scenario: BenchScenario
    load: Burst | Steady
    settled: bool
    spent: Spent
    idle: Spent
    database_counts: DatabaseCounts
    resident_mib: Mapping[str, float]
    start_s: float
    drain_s: float
    rounds_per_s: Sequence[float] = ()
    unheard: int = 0
    rounds: "Sequence[ScenarioOutcome]" = ()


def median(rounds: Sequence[ScenarioOutcome]) -> ScenarioOutcome:
    """The round in the middle by payments per second (the slower of two), with the most memory and the slowest drain of all rounds."""
    rates = {outcome.load.per_s: outcome for outcome in rounds if isinstance(outcome.load, Burst)}
    if not rates:
        return rounds[0]
    in_order = sorted(rates)
    return replace(
        rates[in_order[(len(in_order) - 1) // 2]],
        rounds_per_s=in_order,
        rounds=rounds,
        resident_mib={name: max(one.resident_mib[name] for one in rounds) for name in rounds[0].resident_mib},
        drain_s=max(one.drain_s for one in rounds),
    )


@dataclass(slots=True)
class BenchRun:
    """What a scenario runs on. `issued` and `paid`: the invoices and payments sent so far; `first`: the first payment id."""

    stack: Stack
    services: Services
    meter: Meter
    publisher: Publisher
    listener: EventListener
    issued: int = 0
    paid: int = 0
    lost: int = 0
    first: UUID = NO_UUID

    async def issue(self, payments: Sequence[TimedPayment]) -> None:
        """Issue all invoices before anything is measured. Raises NotReadyError."""
        await self.services.start({"GATEWAY_URL": "memory://", "GATEWAY_MODE": "benchmark"})
        await self.issue_by_running(payments)
        await self.services.stop()

    async def issue_by_running(self, payments: Sequence[TimedPayment]) -> None:
        """As `issue`, with services that run already."""
        if self.first == NO_UUID:
            self.first = min(payment.payment_id for payment in payments)
        await send(self.publisher, [payment.issue for payment in payments])
        self.issued += len(payments)
        await self.services.issued(self.issued)

    async def play(self, scenario: BenchScenario, payments: Sequence[TimedPayment]) -> ScenarioOutcome:
        """Run one scenario. Raises LoadError, NotReadyError."""
        before = await database_counts(self.stack)
        start_s = await self.services.start(
            scenario.gateway, instances=scenario.instances, serves_metrics=scenario.is_scraped
        )
        meter = self.meter.watching(self.services.pids)
        await self.pay(payments[:WARM_UP])
        rested = meter.read()
        await asyncio.sleep(IDLE_S)
        begun = meter.read()
        with scraping(self.services.metrics_ports):
            load = await self.send(payments[WARM_UP:], rate_per_s=scenario.rate_per_s)
            unheard = await self.services.unheard(self.paid - self.lost)
            settled = await self.settled(payments[WARM_UP:], load)
        ended = meter.read()
        resident_mib = meter.resident_mib()
        drain_s = await self.services.stop()
        return ScenarioOutcome(
            scenario=scenario,
            load=load,
            settled=settled,
            spent=ended.since(begun),
            idle=begun.since(rested),
            database_counts=(await database_counts(self.stack)).since(before),
            resident_mib=resident_mib,
            start_s=start_s,
            drain_s=drain_s,
            unheard=unheard,
        )

    async def pay(
        self, payments: Sequence[TimedPayment], *, rate_per_s: float | None = None
    ) -> tuple[Burst | Steady, bool]:
        """Pay these with services that run; returns whether all were settled. Raises LoadError."""
        load = await self.send(payments, rate_per_s=rate_per_s)
        return load, await self.settled(payments, load)

    async def send(self, payments: Sequence[TimedPayment], *, rate_per_s: float | None) -> Burst | Steady:
        """Pay these until the last one is heard of. Raises LoadError."""
        load: Burst | Steady
        if rate_per_s is None:
            load = await burst(self.publisher, self.listener, payments)
        else:
            with pulse() as beats:
                steadily = await steady(self.publisher, self.listener, payments, rate_per_s=rate_per_s)
            load = replace(steadily, stalls=stalls(beats))
        self.paid += len(payments)
        self.lost += load.lost
        return load

    async def settled(self, payments: Sequence[TimedPayment], load: Burst | Steady) -> bool:
        """Wait until nothing is left to do for them, by staff neither; False if that takes too long."""
        ids = [payment.payment_id for payment in payments]
        return await self.services.settled(ids, lost=load.lost) and await self.services.heard(self.paid - self.lost)
