"""The pace of the calls to the gateway, in virtual time: what a limit costs, and that it fails nobody.

The real `Charging` works on the payments. In place of the database there is a heap of due rows, which the instances share.
"""

import asyncio
import heapq
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from deploy.sandbox.limits import RateLimits
from services.payment_gateway.charging import JITTER, Charging, lease_for
from services.payment_gateway.domain import GatewayStep, Payment, PaymentStatus
from services.payment_gateway.gateway_watch import GatewayWatch
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.memory import MemoryGateway
from services.payment_gateway.gateways.port import GatewayEndpoint
from services.payment_gateway.group_commit import GroupCommit, StepResult
from services.payment_gateway.pace import (
    BACK_OFF,
    BURST_S,
    INQUIRIES_SHARE,
    RESUME_JITTER,
    SEARCH_SHARE,
    SETTLE_S,
    SLOWEST,
    Pace,
    follow_up_within_s,
)
from services.payment_gateway.settings import CALLS_IN_FLIGHT, ENDPOINT_REQUESTS_PER_S, REQUESTS_PER_S
from services.payment_gateway.store import Origin, PaymentRow
from shared.observability.health import Readiness
from shared.persistence.database import Database
from shared.records import replace
from tests.support.virtual_time import run_in_virtual_time
from tests.unit.payment_gateway.payments import POLICY

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT_PER_S = 25.0
LATENCY_S = 0.3
CLAIM_INTERVAL_S = 0.02


class LimitedGateway(MemoryGateway):
    """A gateway that takes `LIMIT_PER_S` requests a second at each endpoint, and answers the others 429."""

    def __init__(self, limits: RateLimits, retry_after_s: float | None) -> None:
        super().__init__()
        self._limits = limits
        self._retry_after_s = retry_after_s

    async def _limited(self, endpoint: str) -> port.Limited | None:
        taken = self._limits.takes(endpoint)
        await asyncio.sleep(LATENCY_S)
        return None if taken else port.Limited("HTTP 429", self._retry_after_s)

    async def prepare(self, order: port.Order, *, key: str) -> port.PrepareAnswer:
        return await self._limited("prepare") or await super().prepare(order, key=key)

    async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> port.ExecuteAnswer:
        return await self._limited("execute") or await super().execute(gateway_id, mandate=mandate, key=key)

    async def inquire(self, gateway_id: str) -> port.ChargeAnswer:
        return await self._limited("inquire") or await super().inquire(gateway_id)


class Rows:
    """The rows of all payments: which are due when, and which are captured."""

    def __init__(self, payments: int) -> None:
        self.payments = payments
        self.due: list[tuple[float, int, PaymentRow]] = []
        self.captured: set[UUID] = set()
        self.spent_rungs = 0
        self.put_back = 0
        self.done = asyncio.Event()

    def put(self, row: PaymentRow, delay_s: float) -> None:
        self.put_back += 1
        heapq.heappush(self.due, (asyncio.get_running_loop().time() + delay_s, self.put_back, row))

    def take(self, at_most: int) -> list[PaymentRow]:
        now, taken = asyncio.get_running_loop().time(), list[PaymentRow]()
        while self.due and len(taken) < at_most and self.due[0][0] <= now:
            taken.append(heapq.heappop(self.due)[2])
        return taken

    async def record(self, result: StepResult) -> bool:
        payment = result.transition.payment
        self.spent_rungs += payment.rung
        if payment.status is PaymentStatus.CAPTURED:
            self.captured.add(payment.payment_id)
            if len(self.captured) == self.payments:
                self.done.set()
        elif result.transition.then is None:
            assert result.transition.delay_s is not None, f"{payment.status}: {payment.reason}"
            self.put(replace(result.row, payment=payment), result.transition.delay_s)
        return True


def instance(rows: Rows, gateway: port.Gateway, *, per_s: float, endpoint_per_s: float) -> Charging:
    readiness = Readiness()
    return Charging(
        gateway=gateway,
        keyring=None,
        policy=POLICY,
        lease=lease_for(UUID(int=1), 10.0, 10.0),
        calls_in_flight=CALLS_IN_FLIGHT,
        call_timeout_s=10.0,
        database=cast("Database", None),
        commit=cast("GroupCommit", rows),
        readiness=readiness,
        clock=lambda: NOW,
        watch=GatewayWatch(gateway, readiness, timeout_s=10.0),
        pace=Pace(per_s, endpoint_per_s, follow_up_within_s(10.0), asyncio.get_running_loop().time, jitter=lambda: 0.5),
        jitter=lambda: 0.5,
    )


async def pay_all(payments: int, *, instances: int, retry_after_s: float | None, **pace: float) -> tuple[float, int]:
    """The seconds that all payments took, and how often the gateway said 429."""
    clock = asyncio.get_running_loop().time
    rows, limits = Rows(payments), RateLimits(LIMIT_PER_S, clock)
    origin = Origin(UUID(int=1), "C-1", None)
    for number in range(payments):
        payment = Payment(UUID(int=number), "INV-1", PaymentStatus.REQUESTED, 1, 1_250, "EUR", "pm_card_visa")
        rows.put(PaymentRow(payment, 1, origin, NOW), 0.0)
    gateway = LimitedGateway(limits, retry_after_s)

    async def work(charging: Charging) -> None:
        while True:
            charging.accept(rows.take(charging.free))
            await asyncio.sleep(CLAIM_INTERVAL_S)

    workers = [asyncio.create_task(work(instance(rows, gateway, **cast("Any", pace)))) for _ in range(instances)]
    await rows.done.wait()
    for worker in workers:
        worker.cancel()
    assert rows.spent_rungs == 0
    return clock(), limits.refused


@pytest.mark.parametrize(
    ("payments", "instances", "endpoint_per_s", "retry_after_s"),
    [
        pytest.param(5_000, 1, ENDPOINT_REQUESTS_PER_S["live"], None, id="one instance, by default"),
        pytest.param(5_000, 2, LIMIT_PER_S / 2, None, id="two that share the limit by their settings"),
        pytest.param(2_000, 2, LIMIT_PER_S, None, id="two that each take the whole limit for theirs"),
        pytest.param(2_000, 2, LIMIT_PER_S, 1.0, id="the same, and the gateway says when to come again"),
    ],
)
def test_payments_at_a_limit_are_all_captured_in_little_more_than_the_ideal_time(
    payments: int, instances: int, endpoint_per_s: float, retry_after_s: float | None
) -> None:
    """Each payment makes one call to each of two endpoints."""
    work = pay_all(
        payments,
        instances=instances,
        retry_after_s=retry_after_s,
        per_s=REQUESTS_PER_S["live"],
        endpoint_per_s=endpoint_per_s,
    )
    needed_s, refused = run_in_virtual_time(work)
    assert needed_s <= 1.3 * payments / LIMIT_PER_S
    assert (refused > 0) is (instances * endpoint_per_s > LIMIT_PER_S)


async def put_back_while_paused(*, stops: bool) -> tuple[float, PaymentStatus]:
    """What becomes of a payment at work while the gateway asks for a wait: when it is due again, and its status."""
    clock = asyncio.get_running_loop().time
    rows, limits = Rows(1), RateLimits(LIMIT_PER_S, clock)
    charging = instance(rows, LimitedGateway(limits, None), per_s=80.0, endpoint_per_s=20.0)
    charging.pace.slow_down(sent_s=clock(), retry_after_s=1.0 if stops else 60.0)
    payment = Payment(UUID(int=1), "INV-1", PaymentStatus.REQUESTED, 1, 1_250, "EUR", "pm_card_visa")
    charging.accept([PaymentRow(payment, 1, Origin(UUID(int=1), "C-1", None), NOW)])
    if stops:
        await asyncio.sleep(0.1)
        charging.is_stopping = True
    await asyncio.gather(*charging._tasks)
    ((due_s, _, row),) = rows.due
    assert rows.spent_rungs == 0
    return due_s, row.payment.status


def test_a_payment_whose_turn_comes_too_late_for_its_lease_is_put_back_until_then() -> None:
    due_s, status = run_in_virtual_time(put_back_while_paused(stops=False))
    assert status is PaymentStatus.REQUESTED
    assert due_s == pytest.approx(60.0 * (1.0 + RESUME_JITTER / 2) * (1.0 + JITTER / 2))


def test_a_service_that_stops_gives_waiting_payments_to_others_unsent() -> None:
    due_s, status = run_in_virtual_time(put_back_while_paused(stops=True))
    assert status is PaymentStatus.REQUESTED
    assert due_s < 2.0


# -- one pace --------------------------------------------------------------------------------------------------------------------------


class PaceClock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> PaceClock:
    return PaceClock()


FOLLOW_UP_S = 2.0


def paced(clock: PaceClock, per_s: float = 100.0, endpoint_per_s: float = 10.0) -> Pace:
    return Pace(per_s, endpoint_per_s, FOLLOW_UP_S, clock, jitter=lambda: 1.0)


def waits(pace: Pace, step: GatewayStep, calls: int) -> list[float]:
    return [round(pace.take_turn(step).wait_s, 3) for _ in range(calls)]


def test_calls_to_one_endpoint_get_turns_one_after_the_other_and_other_endpoints_have_their_own(
    clock: PaceClock,
) -> None:
    pace = paced(clock)
    assert waits(pace, GatewayStep.EXECUTE, 5) == [0.0, 0.0, 0.0, 0.05, 0.15]
    assert waits(pace, GatewayStep.PREPARE, 1) == [0.0]
    clock.now_s += 10.0
    assert waits(pace, GatewayStep.EXECUTE, 4) == [0.0, 0.0, 0.0, 0.05], "a quiet time is no credit beyond a burst"


def test_a_share_of_all_calls_is_kept_from_charges(clock: PaceClock) -> None:
    pace = paced(clock, per_s=10.0, endpoint_per_s=1_000.0)
    per_s = 10.0 * (1.0 - INQUIRIES_SHARE)
    charges = waits(pace, GatewayStep.PREPARE, 41)
    assert charges[-1] == pytest.approx(40 / per_s - BURST_S)
    assert pace.take_turn(GatewayStep.INQUIRE).wait_s < charges[-1], "an inquiry does not queue behind all charges"


def test_a_429_slows_all_calls_voids_their_turns_and_the_pace_recovers(clock: PaceClock) -> None:
    pace = paced(clock)
    turn = pace.take_turn(GatewayStep.EXECUTE)
    clock.now_s += 0.1
    pace.slow_down(sent_s=clock.now_s - 0.1, retry_after_s=None)
    assert turn.round != pace.round
    assert pace.speed == BACK_OFF
    assert waits(pace, GatewayStep.INQUIRE, 4)[-1] == pytest.approx(3 / (10.0 * BACK_OFF), abs=1e-3)
    clock.now_s += 4.0
    assert BACK_OFF < pace.speed < 1.0
    clock.now_s += 60.0
    assert pace.speed == 1.0


def test_calls_that_were_in_flight_together_slow_the_pace_once(clock: PaceClock) -> None:
    pace = paced(clock)
    sent_s = clock.now_s
    clock.now_s += 0.2
    for _ in range(30):
        pace.slow_down(sent_s=sent_s, retry_after_s=None)
    assert (pace.speed, pace.round) == (BACK_OFF, 1)
    clock.now_s += SETTLE_S
    pace.slow_down(sent_s=clock.now_s, retry_after_s=None)
    assert pace.speed < BACK_OFF


def test_after_a_storm_of_429s_the_pace_is_slow_and_recovers_within_minutes(clock: PaceClock) -> None:
    pace = paced(clock)
    for _ in range(60):
        clock.now_s += 2 * SETTLE_S
        pace.slow_down(sent_s=clock.now_s, retry_after_s=None)
    assert pace.speed == SLOWEST
    clock.now_s += 240.0
    assert pace.speed == 1.0
    clock.now_s += 1e9
    assert pace.speed == 1.0


def test_nothing_is_sent_while_the_gateway_asks_to_wait_and_instances_do_not_resume_together(clock: PaceClock) -> None:
    pace = paced(clock)
    pace.slow_down(sent_s=clock.now_s, retry_after_s=8.0)
    pace.slow_down(sent_s=clock.now_s, retry_after_s=1.0)  # a shorter wait ends no longer one
    assert pace.wait_s(GatewayStep.INQUIRE) == 10.0
    assert pace.room(9.0) == 0
    assert pace.room(11.0) > 0
    unjittered = Pace(100.0, 10.0, FOLLOW_UP_S, clock, jitter=lambda: 0.0)
    unjittered.slow_down(sent_s=clock.now_s, retry_after_s=8.0)
    assert unjittered.wait_s(GatewayStep.INQUIRE) == 8.0


# -- further requests of a call --------------------------------------------------------------------------------------------------------


async def follows_up(answers: Sequence[object], pace: Pace, endpoint: GatewayEndpoint) -> list[tuple[float, object]]:
    """When each of so many further requests was made, and what came of it."""
    clock, told, left = asyncio.get_running_loop().time, list[tuple[float, object]](), list(answers)

    async def request() -> object:
        return left.pop(0)

    for _ in answers:
        answer = await pace.follow_up(endpoint, request)
        told.append((round(clock(), 3), answer))
    return told


def further(
    answers: Sequence[object], endpoint: GatewayEndpoint, endpoint_per_s: float
) -> tuple[list[tuple[float, object]], Pace]:
    async def made() -> tuple[list[tuple[float, object]], Pace]:
        pace = Pace(100.0, endpoint_per_s, FOLLOW_UP_S, clock=asyncio.get_running_loop().time, jitter=lambda: 0.0)
        return await follows_up(answers, pace, endpoint), pace

    return run_in_virtual_time(made())


@pytest.mark.parametrize("endpoint", GatewayEndpoint)
def test_further_requests_have_turns_of_their_endpoint(endpoint: GatewayEndpoint) -> None:
    told, pace = further(["done"] * 4, endpoint, endpoint_per_s=2.0)
    per_s = 2.0 * (SEARCH_SHARE if endpoint is GatewayEndpoint.SEARCH else 1.0)
    assert told[-1][0] == pytest.approx(3 / per_s - BURST_S, abs=1e-2)
    first_of_a_call = {GatewayEndpoint.RETRIEVE: GatewayStep.INQUIRE, GatewayEndpoint.SEARCH: GatewayStep.FIND}.get(
        endpoint
    )
    assert first_of_a_call is None or pace.wait_s(first_of_a_call) > 0.0, (
        "they share it with the first requests of calls"
    )


def test_a_further_request_that_is_answered_429_slows_all_calls_and_the_next_one_waits_for_as_long_as_asked() -> None:
    busy = port.Limited("429", retry_after_s=1.0)
    told, pace = further(["done", busy, "done"], GatewayEndpoint.LIST_REFUNDS, endpoint_per_s=20.0)
    assert [answer for _, answer in told] == ["done", busy, "done"]
    assert told[-1][0] == pytest.approx(1.0, abs=0.1)
    assert pace.speed < 1.0


def test_a_further_request_whose_turn_became_void_takes_another_one() -> None:
    async def slowed_meanwhile() -> list[tuple[float, object]]:
        loop = asyncio.get_running_loop()
        pace = Pace(100.0, 1.0, FOLLOW_UP_S, clock=loop.time, jitter=lambda: 0.0)
        loop.call_at(0.1, lambda: pace.slow_down(sent_s=loop.time(), retry_after_s=1.5))
        return await follows_up(["first", "second"], pace, GatewayEndpoint.RETRIEVE)

    (first_s, _), (second_s, _) = run_in_virtual_time(slowed_meanwhile())
    assert first_s == 0.0
    assert second_s == pytest.approx(1.6), "its turn was at 0.75 s"


def test_a_further_request_whose_turn_comes_too_late_is_not_made() -> None:
    busy = port.Limited("429", retry_after_s=60.0)
    told, _ = further([busy, "never"], GatewayEndpoint.RETRIEVE, endpoint_per_s=20.0)
    late = told[-1][1]
    assert isinstance(late, port.Limited)
    assert (late.is_ours, late.retry_after_s) == (True, 60.0)


async def ask_twice_each(calls: int, per_s: float) -> tuple[float, int]:
    """Seconds and requests until so many calls that are due together have made two requests each, of 300 ms."""
    charging = instance(Rows(0), cast("port.Gateway", None), per_s=per_s, endpoint_per_s=per_s)
    clock, made = asyncio.get_running_loop().time, 0

    async def request() -> str:
        nonlocal made
        made += 1
        await asyncio.sleep(0.3)
        return "answered"

    async def call() -> None:
        answer: object = None
        while answer != "answered":
            while not await charging._has_turn(GatewayStep.INQUIRE_REFUND):
                await asyncio.sleep(charging.pace.wait_s(GatewayStep.INQUIRE_REFUND))
            await request()
            answer = await charging.pace.follow_up(GatewayEndpoint.LIST_REFUNDS, request)

    async with asyncio.timeout(10 * calls / per_s):
        await asyncio.gather(*(call() for _ in range(calls)))
    return clock(), made


@pytest.mark.parametrize("per_s", [20.0, 80.0])
def test_calls_that_all_need_a_further_request_end_and_waste_none(per_s: float) -> None:
    calls = 500
    took_s, made = run_in_virtual_time(ask_twice_each(calls, per_s))
    assert made == 2 * calls
    assert took_s <= 1.3 * 2 * calls / per_s


async def speed_after(answer: port.Limited) -> float:
    class SaysNothingElse(LimitedGateway):
        async def prepare(self, order: port.Order, *, key: str) -> port.PrepareAnswer:
            return answer

    rows, limits = Rows(1), RateLimits(LIMIT_PER_S, asyncio.get_running_loop().time)
    charging = instance(rows, SaysNothingElse(limits, None), per_s=80.0, endpoint_per_s=20.0)
    payment = Payment(UUID(int=1), "INV-1", PaymentStatus.REQUESTED, 1, 1_250, "EUR", "pm_card_visa")
    charging.accept([PaymentRow(payment, 1, Origin(UUID(int=1), "C-1", None), NOW)])
    await asyncio.gather(*charging._tasks)
    assert rows.spent_rungs == 0
    return charging.pace.speed


def test_a_request_that_our_own_pace_did_not_make_slows_nothing_more() -> None:
    assert run_in_virtual_time(speed_after(port.Limited("too late", 1.0, is_ours=True))) == 1.0
    assert run_in_virtual_time(speed_after(port.Limited("HTTP 429"))) == BACK_OFF
