"""What happens to an answer when its transaction fails, again and again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import REGISTRY

from services.payment_gateway import group_commit
from services.payment_gateway.domain import Outcome, Payment, PaymentStatus, PaymentTransition, Policy
from services.payment_gateway.group_commit import TRIES_MAX, GroupCommit, StepResult, UnrecordableError, _measure
from services.payment_gateway.store import Lease, Origin, PaymentRow
from shared.batch import retry
from shared.messaging.envelope import Outgoing
from shared.messaging.relay import Relay
from shared.observability.health import Readiness
from shared.persistence.database import Database
from shared.persistence.outbox import OutboxBatch
from shared.retry_policy import RetryPolicy

IDS = [UUID(int=number) for number in range(1, 5)]
NOW = datetime(2026, 11, 23, tzinfo=UTC)


class Failing(GroupCommit):
    """Its transactions fail with `error` so many times, or always while `offender` is among the results."""

    error: Exception
    times: int = 0
    offender: UUID | None = None
    tries: int = 0

    async def _commit(self, results: Sequence[StepResult], *, carefully: bool) -> tuple[list[bool], list[OutboxBatch]]:
        self.tries += 1
        if self.tries <= self.times or self.offender in {r.row.payment.payment_id for r in results}:
            raise self.error
        return [True] * len(results), []


@pytest.fixture
def commit(monkeypatch: pytest.MonkeyPatch) -> Failing:
    monkeypatch.setattr(retry, "CONFLICT_PAUSE_S", 0.0)
    monkeypatch.setattr(retry, "OUTAGE", RetryPolicy(0.0, 1.0, 0.0, 0.0))
    return Failing(
        database=cast("Database", None),
        relay=cast("Relay", None),
        readiness=Readiness(),
        lease=Lease(UUID(int=9), 10.0, 5.0),
        policy=Policy((1.0,), 3_600.0),
    )


@asynccontextmanager
async def running(commit: GroupCommit) -> AsyncIterator[None]:
    task = asyncio.create_task(commit.run())
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def result(payment_id: UUID) -> StepResult:
    payment = Payment(payment_id, "INV-1", PaymentStatus.REQUESTED)
    return StepResult(PaymentRow(payment, 1, Origin(payment_id, "C-1", None), NOW), PaymentTransition(payment), NOW)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.LockNotAvailableError("55P03"),
        asyncpg.DeadlockDetectedError("40P01"),
        asyncpg.SerializationError("40001"),
        asyncpg.CannotConnectNowError("57P03"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_answer_survives_an_outage_of_any_length(commit: Failing, error: Exception) -> None:
    commit.error, commit.times = error, 5 * TRIES_MAX
    async with running(commit):
        assert await commit.record(result(IDS[0]))
    assert commit.tries == commit.times + 1, "never split, never given up"


@pytest.mark.parametrize(
    "error",
    [asyncpg.UniqueViolationError("23505"), asyncpg.CheckViolationError("23514"), asyncpg.DataError("22000")],
    ids=lambda error: type(error).__name__,
)
async def test_only_a_result_that_can_never_be_stored_is_given_up(commit: Failing, error: Exception) -> None:
    commit.error, commit.offender = error, IDS[2]
    async with running(commit):
        recorded: list[Any] = await asyncio.gather(*(commit.record(result(i)) for i in IDS), return_exceptions=True)
    assert [type(r) for r in recorded] == [bool, bool, UnrecordableError, bool]


async def test_a_result_that_could_not_be_stored_for_a_while_is_not_given_up(commit: Failing) -> None:
    """The broker would not bring it again, so it gets many tries."""
    commit.error, commit.times = asyncpg.CheckViolationError("23514"), TRIES_MAX - 1
    async with running(commit):
        assert await commit.record(result(IDS[0]))


async def test_a_result_whose_task_is_gone_keeps_no_other_waiting(commit: Failing) -> None:
    gone = asyncio.create_task(commit.record(result(IDS[0])))
    await asyncio.sleep(0)
    gone.cancel()
    async with running(commit):
        assert await commit.record(result(IDS[1]))
    assert commit.tries == 1, "nothing is stored again because nobody waits for one of them"


BATCHES = [OutboxBatch(id_, [Outgoing(id_, "e", "k", "t", "c", b"{}")]) for id_ in IDS]


class NotingRelay:
    """Stands in for the relay: it notes what it is to publish."""

    def __init__(self) -> None:
        self.published: list[OutboxBatch] = []

    async def publish(self, outbox_batches: Sequence[OutboxBatch]) -> None:
        self.published += outbox_batches


async def test_whoever_stops_waits_until_the_outcomes_were_published(commit: Failing) -> None:
    commit._relay = cast("Relay", relay := NotingRelay())
    commit._conclude((), (), BATCHES)
    waiting = asyncio.create_task(commit.all_published())
    await asyncio.sleep(0)
    assert not waiting.done()
    publishing = asyncio.create_task(commit.publish())
    async with asyncio.timeout(60):
        await waiting
    publishing.cancel()
    assert relay.published == BATCHES


def test_outcomes_that_do_not_fit_into_memory_are_left_to_the_sweeper(
    commit: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "UNPUBLISHED_MAX", 2)
    commit._conclude((), (), BATCHES)
    assert list(commit._unpublished) == BATCHES[-2:]


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(
    ("before", "outcome", "name", "labels", "rise"),
    [
        (PaymentStatus.PREPARED, Outcome.CAPTURED, "remit_charge_seconds_sum", {"outcome": "captured"}, 90.0),
        (PaymentStatus.CANCELLING, Outcome.DECLINED, "remit_charge_seconds_count", {"outcome": "declined"}, 1.0),
        (PaymentStatus.PREPARED, Outcome.IN_DOUBT, "remit_charge_seconds_count", {"outcome": "in_doubt"}, 0.0),
        (PaymentStatus.DECLINED, Outcome.CAPTURED_LATE, "remit_late_captures_total", {}, 1.0),
        (PaymentStatus.CAPTURED, Outcome.NEEDS_DECISION, "remit_contradictions_total", {}, 1.0),
        (PaymentStatus.IN_DOUBT, Outcome.NEEDS_DECISION, "remit_contradictions_total", {}, 0.0),
    ],
    ids=["captured", "declined", "in doubt", "late", "contradiction", "ladder exhausted"],
)
def test_what_became_of_a_payment_is_measured(
    before: PaymentStatus, outcome: Outcome, name: str, labels: dict[str, str], rise: float
) -> None:
    payment = Payment(IDS[0], "INV-1", before)
    row = PaymentRow(payment, 1, Origin(IDS[0], "C-1", None), NOW - timedelta(seconds=90))
    was = counted(name, **labels)
    _measure([StepResult(row, PaymentTransition(payment, outcome=outcome), NOW)])
    assert counted(name, **labels) - was == pytest.approx(rise), "the sum is of floats that other tests counted before"
