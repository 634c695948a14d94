"""When the claimer of leases looks again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from services.payment_gateway import store
from services.payment_gateway.charging import Charging
from services.payment_gateway.domain import Payment, PaymentStatus
from services.payment_gateway.lease_claimer import BEGUN_EVERY, BUSY_INTERVAL_S, COMPONENT, LeaseClaimer
from services.payment_gateway.store import Lease, Origin, PaymentRow
from shared.observability.health import Readiness
from shared.persistence.database import Database
from shared.persistence.due_rows import WHENEVER, DueRows, DueWindow
from shared.records import dataclass, field


@dataclass(slots=True)
class FakeCharging:
    """Has room, and accepts the rows it is given."""

    free: int = 5
    free_for_begun: int = 5
    lease: Lease = field(default_factory=lambda: Lease(UUID(int=1), seconds=30, renew_below_s=20))
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    is_stopping: bool = False
    accepted: list[Any] = field(default_factory=list)
    released: list[tuple[UUID, int]] = field(default_factory=list)

    def accept(self, rows: list[Any]) -> None:
        self.accepted += rows

    async def release(self, held: list[tuple[UUID, int]]) -> None:
        self.released += held


class IdleDatabase:
    """Gives connections that nobody uses."""

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        yield


@pytest.fixture
def charging() -> FakeCharging:
    return FakeCharging()


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
def claimer(charging: FakeCharging, readiness: Readiness) -> LeaseClaimer:
    return LeaseClaimer(cast("Charging", charging), cast("Database", IdleDatabase()), readiness)


@pytest.fixture
def due(monkeypatch: pytest.MonkeyPatch) -> list[list[Any] | Exception]:
    """The result of each look; nothing is due once the list is empty."""
    looks: list[list[Any] | Exception] = []

    async def look(*_: object) -> DueWindow:
        return WHENEVER

    async def claim(*_: object, at_most: int, only_begun: bool, window: DueWindow) -> list[Any]:
        assert window == WHENEVER
        if only_begun:
            return ["begun"]
        found = looks.pop(0) if looks else []
        if isinstance(found, Exception):
            raise found
        return found[:at_most]

    monkeypatch.setattr(DueRows, "look", look)
    monkeypatch.setattr(store, "claim", claim)
    return looks


async def test_looks_become_rarer_while_nothing_is_due(
    claimer: LeaseClaimer, charging: FakeCharging, due: list[list[Any] | Exception]
) -> None:
    due += [[], [], [], [], [], ["row"], []]
    assert [await claimer.run_once() for _ in range(7)] == [0.04, 0.08, 0.16, 0.25, 0.25, BUSY_INTERVAL_S, 0.04]
    assert charging.accepted == ["row"]


@pytest.mark.usefixtures("due")
async def test_without_room_it_waits_briefly_and_reads_nothing(claimer: LeaseClaimer, charging: FakeCharging) -> None:
    charging.free = 0
    assert [await claimer.run_once() for _ in range(3)] == [BUSY_INTERVAL_S] * 3


@pytest.mark.usefixtures("due")
async def test_begun_payments_go_on_although_there_is_no_room_for_new_ones(
    claimer: LeaseClaimer, charging: FakeCharging
) -> None:
    charging.free = 0
    for _ in range(2 * BEGUN_EVERY):
        await claimer.run_once()
    assert charging.accepted == ["begun", "begun"]


async def test_what_was_claimed_while_the_service_stops_is_given_back_at_once(
    claimer: LeaseClaimer, charging: FakeCharging, due: list[list[Any] | Exception]
) -> None:
    payment = Payment(UUID(int=7), "INV-1", PaymentStatus.REQUESTED)
    origin = Origin(UUID(int=8), "C-1", None)
    due.append([PaymentRow(payment, 3, origin, datetime(2026, 11, 23, tzinfo=UTC))])
    charging.is_stopping = True  # it began while the claim was on its way
    await claimer.run_once()
    assert (charging.accepted, charging.released) == ([], [(UUID(int=7), 3)])


async def test_readiness_reports_a_failed_look_until_one_succeeds(
    claimer: LeaseClaimer, readiness: Readiness, due: list[list[Any] | Exception]
) -> None:
    due.append(KeyError("one row"))
    with pytest.raises(KeyError):
        await claimer.run_once()
    assert readiness.reasons == {COMPONENT: "KeyError"}
    await claimer.run_once()
    assert readiness.ready


def test_no_error_of_a_row_ends_the_service(claimer: LeaseClaimer) -> None:
    assert claimer.retry_on == (Exception,)


async def test_a_wait_ends_at_once_when_rows_became_due_here(claimer: LeaseClaimer, charging: FakeCharging) -> None:
    charging.woken.set()
    async with asyncio.timeout(10):
        await claimer.wait(3_600.0)
    assert not charging.woken.is_set(), "the next wait must not end early as well"


async def test_a_wait_ends_when_its_time_is_over(claimer: LeaseClaimer) -> None:
    async with asyncio.timeout(10):
        await claimer.wait(0.0)
