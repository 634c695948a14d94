"""What is done about a failed batch: a conflict is repeated, an outage is outlasted, and only what can never be stored is given up."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import asyncpg
import pytest

from shared.batch import retry
from shared.batch.retry import CONFLICTS_MAX, HOLD_MAX_S, TRIES_MAX, BatchRetry, RetryState, Stopped
from shared.messaging.consumer import Consumer
from shared.observability.health import Readiness
from shared.persistence.database import Database
from shared.retry_policy import RetryPolicy

LOCKED = asyncpg.LockNotAvailableError("canceling statement due to lock timeout")
TAKEN = asyncpg.UniqueViolationError("duplicate key value violates unique constraint")
AWAY = ConnectionResetError("reset by peer")
BAD = asyncpg.NumericValueOutOfRangeError("out of range")


class FakeConsumer:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")


class SlowToAnswer:
    """Answers from the third try on, if it answers at all."""

    def __init__(self) -> None:
        self.tries = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["SlowToAnswer"]:
        self.tries += 1
        if self.tries < 3:
            raise AWAY
        yield self

    async def fetchval(self, _query: str) -> int:
        return 1


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait takes time."""
    monkeypatch.setattr(retry, "CONFLICT_PAUSE_S", 0.0)
    monkeypatch.setattr(retry, "OUTAGE", RetryPolicy(0.0, 1.0, 0.0, 0.0))


@pytest.fixture
def consumer() -> FakeConsumer:
    return FakeConsumer()


@pytest.fixture
def database() -> SlowToAnswer:
    return SlowToAnswer()


@pytest.fixture
def batch_retry(consumer: FakeConsumer, database: SlowToAnswer) -> BatchRetry:
    return BatchRetry("q", cast(Database, database), Readiness(), consumer=cast(Consumer, consumer))


@pytest.mark.parametrize("error", [LOCKED, TAKEN], ids=["lock", "key"])
async def test_a_conflict_is_repeated_many_times(batch_retry: BatchRetry, error: Exception) -> None:
    state = RetryState()
    assert [await batch_retry.can_repeat(error, state, alone=False) for _ in range(CONFLICTS_MAX)] == [
        True
    ] * CONFLICTS_MAX
    assert (state.conflicts, state.outages, state.tries) == (CONFLICTS_MAX, 0, 0)


async def test_a_lock_that_is_held_for_long_sets_nothing_aside(batch_retry: BatchRetry) -> None:
    state = RetryState(conflicts=CONFLICTS_MAX)
    for _ in range(2 * TRIES_MAX):
        assert await batch_retry.can_repeat(LOCKED, state, alone=True)
    assert state.tries == 0, "that another session holds a lock is never the message's fault"


async def test_a_key_that_stays_taken_is_the_messages_fault(batch_retry: BatchRetry) -> None:
    state = RetryState(conflicts=CONFLICTS_MAX)
    assert [await batch_retry.can_repeat(TAKEN, state, alone=True) for _ in range(TRIES_MAX)] == [True, True, False]


async def test_an_outage_gives_nothing_up(batch_retry: BatchRetry) -> None:
    state = RetryState()
    for _ in range(2 * TRIES_MAX):
        assert await batch_retry.can_repeat(AWAY, state, alone=True)
    assert (state.outages, state.tries) == (2 * TRIES_MAX, 0)


async def test_bad_data_is_given_up_alone(batch_retry: BatchRetry) -> None:
    assert not await batch_retry.can_repeat(BAD, RetryState(), alone=False), "others of the batch may be fine"
    state = RetryState()
    assert [await batch_retry.can_repeat(BAD, state, alone=True) for _ in range(TRIES_MAX)] == [True, True, False]


async def test_a_long_outage_gives_the_deliveries_back_until_the_database_answers(
    batch_retry: BatchRetry, consumer: FakeConsumer, database: SlowToAnswer
) -> None:
    await batch_retry.outlast(AWAY, RetryState(since=time.monotonic() - HOLD_MAX_S / 2))
    assert (consumer.asked, database.tries) == ([], 0), "a batch is held for a while"
    state = RetryState(since=time.monotonic() - HOLD_MAX_S - 1.0)
    await batch_retry.outlast(AWAY, state)
    assert consumer.asked == ["pause", "resume"]
    assert database.tries == 3, "nothing is taken before the database answers"
    await batch_retry.outlast(AWAY, state)
    assert consumer.asked == ["pause", "resume"], "the time that a batch is held begins anew"


async def test_a_service_that_stops_waits_for_no_database(
    batch_retry: BatchRetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "OUTAGE", RetryPolicy(3_600.0, 1.0, 3_600.0, 0.0))
    waiting = asyncio.create_task(batch_retry.outlast(AWAY, RetryState()))
    await asyncio.sleep(0)
    batch_retry.stop()
    async with asyncio.timeout(30):
        with pytest.raises(Stopped):
            await waiting
        with pytest.raises(Stopped):
            await batch_retry.outlast(AWAY, RetryState())
