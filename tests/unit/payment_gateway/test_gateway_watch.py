"""The watch over the gateway's access: what an answer means is decided by one check, and a wrong key is told without end, once a minute."""

import asyncio

import pytest
from structlog.testing import capture_logs

from services.payment_gateway import gateway_watch
from services.payment_gateway.gateway_watch import GatewayWatch
from services.payment_gateway.gateways import port
from shared.observability.health import Readiness
from tests.service.payment_gateway.scripted import ScriptedGateway

UNAUTHORISED = port.Misconfigured("HTTP 401 Invalid API Key", otherwise=port.NotSent("HTTP 401 Invalid API Key"))
DEADLINE_S = 10.0


class WatchClock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def watch_over(gateway: ScriptedGateway, clock: WatchClock | None = None) -> tuple[GatewayWatch, Readiness]:
    readiness = Readiness()
    return GatewayWatch(gateway, readiness, timeout_s=DEADLINE_S, monotonic=clock or WatchClock()), readiness


async def test_an_answer_to_one_payment_means_what_it_says_about_that_payment() -> None:
    gateway = ScriptedGateway()
    watch, readiness = watch_over(gateway)
    assert await watch.meaning(UNAUTHORISED) == UNAUTHORISED.otherwise
    assert not watch.is_refused
    assert readiness.ready


async def test_a_gateway_that_refuses_everything_refuses_the_service() -> None:
    gateway = ScriptedGateway()
    gateway.checked = UNAUTHORISED
    watch, readiness = watch_over(gateway)
    assert await watch.meaning(UNAUTHORISED) == UNAUTHORISED
    assert watch.is_refused
    assert readiness.reasons == {"gateway access": "HTTP 401 Invalid API Key"}


@pytest.mark.parametrize("unreached", [port.Unknown("timeout"), port.Limited("429")])
async def test_a_check_that_reaches_nobody_leaves_the_answer_as_it_is(unreached: port.CheckAnswer) -> None:
    gateway = ScriptedGateway()
    gateway.checked = unreached
    watch, readiness = watch_over(gateway)
    assert await watch.meaning(UNAUTHORISED) == UNAUTHORISED
    assert watch.is_refused
    assert not readiness.ready


async def test_one_check_answers_for_all_payments_that_wait_for_it() -> None:
    gateway = ScriptedGateway()
    watch, _ = watch_over(gateway)
    answers = await asyncio.gather(*(watch.meaning(UNAUTHORISED) for _ in range(100)))
    assert answers == [UNAUTHORISED.otherwise] * 100
    assert gateway.checks == 1


async def test_all_goes_on_when_the_key_is_mended() -> None:
    gateway = ScriptedGateway()
    gateway.checked = UNAUTHORISED
    watch, readiness = watch_over(gateway)
    assert await watch.run_once() == gateway_watch.CHECK_INTERVAL_S
    before = watch.is_refused, readiness.ready
    gateway.checked = port.Usable()
    assert await watch.run_once() == gateway_watch.IDLE_INTERVAL_S
    after = watch.is_refused, readiness.ready
    assert (before, after) == ((True, False), (False, True))
    await watch.run_once()
    assert gateway.checks == 2, "a gateway that takes the service is not asked again"


async def test_a_gateway_that_is_away_at_the_start_is_checked_later() -> None:
    gateway = ScriptedGateway()
    gateway.checked = port.NotSent("no connection")
    watch, readiness = watch_over(gateway)
    assert await watch.run_once() == gateway_watch.CHECK_INTERVAL_S
    before = watch.is_refused, readiness.ready
    gateway.checked = UNAUTHORISED
    await watch.run_once()
    after = watch.is_refused, readiness.ready
    assert (before, after) == ((False, True), (True, False))


async def test_the_error_is_logged_once_a_minute() -> None:
    gateway, clock = ScriptedGateway(), WatchClock()
    gateway.checked = UNAUTHORISED
    watch, _ = watch_over(gateway, clock)
    with capture_logs() as logged:
        for _ in range(25):
            await watch.run_once()
            clock.now_s += gateway_watch.CHECK_INTERVAL_S
    assert [entry["event"] for entry in logged] == ["gateway_refuses_service"] * 3
    assert {(entry["log_level"], entry["evidence"]) for entry in logged} == {("error", "HTTP 401 Invalid API Key")}


async def test_a_wait_ends_when_the_gateway_begins_to_refuse() -> None:
    gateway = ScriptedGateway()
    watch, _ = watch_over(gateway)
    waiting = asyncio.create_task(watch.wait(3_600))
    await asyncio.sleep(0)
    gateway.checked = UNAUTHORISED
    await watch.meaning(UNAUTHORISED)
    async with asyncio.timeout(DEADLINE_S):
        await waiting
