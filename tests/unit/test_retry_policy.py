"""The retry policy: waits grow up to a maximum, jitter only shortens them, and only outages are retried."""

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from shared.outage_log import OutageLog
from shared.records import dataclass, field, replace
from shared.retry_policy import OUTAGE, RetryPolicy

EXACT = RetryPolicy(initial_s=0.1, factor=2.0, maximum_s=2.0, jitter=0.0)


@dataclass(slots=True)
class Flaky:
    """Raises these errors one after the other, then answers."""

    errors: list[Exception]
    slept_s: list[float] = field(default_factory=list)

    async def work(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)

    async def retried_by(self, policy: RetryPolicy) -> str:
        return await policy.call(
            self.work,
            on=(OSError, TimeoutError),
            outage=OutageLog(structlog.get_logger(), "away", "back"),
            sleep=self.sleep,
        )


def test_waits_grow_by_the_factor_up_to_the_maximum() -> None:
    assert [EXACT.delay_s(failures) for failures in range(1, 8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_an_outage_of_any_length_is_retried() -> None:
    assert EXACT.delay_s(1_000_000) == 2.0


def test_a_policy_without_waits_waits_for_nothing() -> None:
    assert RetryPolicy(initial_s=0.0, factor=2.0, maximum_s=0.0, jitter=0.5).delay_s(5) == 0.0


def test_jitter_shortens_a_wait_by_its_share_at_most() -> None:
    policy = replace(EXACT, jitter=0.25)
    waits = [policy.delay_s(100) for _ in range(1_000)]
    assert 1.5 <= min(waits) < 1.6
    assert 1.9 < max(waits) <= 2.0


def test_work_goes_on_soon_after_an_outage() -> None:
    assert max(OUTAGE.delay_s(failures) for failures in range(1, 1_000)) <= 2.0


async def test_the_result_of_a_first_attempt_costs_no_wait() -> None:
    flaky = Flaky([])
    assert await flaky.retried_by(EXACT) == "done"
    assert flaky.slept_s == []


async def test_an_outage_is_retried_and_told_where_it_begins_changes_and_ends() -> None:
    refused = ConnectionRefusedError("nobody listens")
    flaky = Flaky([refused, refused, TimeoutError()])
    with capture_logs() as logged:
        assert await flaky.retried_by(EXACT) == "done"
    assert flaky.slept_s == [0.1, 0.2, 0.4]
    assert logged == [
        {"event": "away", "log_level": "warning", "error": "ConnectionRefusedError: nobody listens"},
        {"event": "away", "log_level": "warning", "error": "TimeoutError"},
        {"event": "back", "log_level": "info", "failures": 3},
    ]


async def test_another_error_than_an_outage_is_raised_unchanged() -> None:
    flaky = Flaky([OSError(), KeyError("a bug")])
    with pytest.raises(KeyError, match="a bug"):
        await flaky.retried_by(EXACT)
    assert flaky.slept_s == [0.1]


async def test_a_sleep_that_raises_gives_up() -> None:
    class StoppedError(Exception):
        pass

    async def stop(_seconds: float) -> None:
        raise StoppedError

    flaky = Flaky([OSError(), OSError()])
    with pytest.raises(StoppedError):
        await EXACT.call(
            flaky.work, on=(Exception,), outage=OutageLog(structlog.get_logger(), "away", "back"), sleep=stop
        )


async def test_a_cancelled_call_ends() -> None:
    entered = asyncio.Event()

    async def hang() -> None:
        entered.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(
        EXACT.call(hang, on=(Exception,), outage=OutageLog(structlog.get_logger(), "away", "back"))
    )
    await entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
