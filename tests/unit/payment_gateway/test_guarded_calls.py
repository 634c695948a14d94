"""A call to the gateway that hangs, or fails by a bug of our own adapter, has an answer: nobody knows. It is never taken for unsent.

Who has lost a lease calls no more, and who stops gives its leases back.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from services.payment_gateway.charging import STEPS_MAX, Charging, lease_for
from services.payment_gateway.domain import GatewayStep, PaymentStatus, PaymentTransition
from services.payment_gateway.gateway_watch import GatewayWatch
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.memory import MemoryGateway
from services.payment_gateway.group_commit import GroupCommit, StepResult
from services.payment_gateway.pace import Pace
from services.payment_gateway.store import Origin, PaymentRow
from shared.clock import system_clock
from shared.observability.health import Readiness
from shared.persistence.database import Database
from shared.records import replace
from tests.support.virtual_time import run_in_virtual_time
from tests.unit.payment_gateway.payments import POLICY, payment

PREPARED = payment(PaymentStatus.PREPARED)


class Silent(MemoryGateway):
    """Takes what it is asked, and never answers."""

    async def prepare(self, order: port.Order, *, key: str) -> Any:
        await asyncio.Event().wait()

    async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> Any:
        await asyncio.Event().wait()


class BrokenGateway(MemoryGateway):
    """Has a bug that shows once the order was sent."""

    async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> Any:
        raise KeyError("status")


class FakeCommit:
    """Records every result; says each time whether the lease is still held."""

    def __init__(self, *held: bool) -> None:
        self._held = list(held)
        self.recorded: list[StepResult] = []

    async def record(self, result: StepResult) -> bool:
        self.recorded.append(result)
        return self._held.pop(0)

    async def all_published(self) -> None:
        """There is nothing to publish."""


class Released(Charging):
    """Notes what it gives back."""

    __slots__ = ("released",)

    def __post_init__(self) -> None:
        Charging.__post_init__(self)
        self.released: list[tuple[UUID, int]] = []

    async def release(self, held: Sequence[tuple[UUID, int]]) -> None:
        self.released += held


def charging(gateway: port.Gateway, *held: bool, kind: type[Released] = Released) -> Released:
    readiness = Readiness()
    return kind(
        gateway=gateway,
        keyring=None,
        policy=POLICY,
        lease=lease_for(UUID(int=1), 5.0, 10.0),
        calls_in_flight=1,
        call_timeout_s=5.0,
        database=cast(Database, None),
        commit=cast(GroupCommit, FakeCommit(*held)),
        readiness=readiness,
        clock=system_clock,
        watch=cast(GatewayWatch, None),
        pace=Pace(1_000.0, 1_000.0, follow_up_within_s=2.0),
    )


@pytest.mark.parametrize("gateway", [Silent(), BrokenGateway()], ids=["silent", "broken"])
def test_a_call_without_an_answer_may_have_charged(gateway: port.Gateway) -> None:
    async def call() -> object:
        return await charging(gateway)._guarded_call(GatewayStep.EXECUTE, PREPARED, "key")

    answer = run_in_virtual_time(call())
    assert type(answer) is port.Unknown


ROW = PaymentRow(
    payment(PaymentStatus.REQUESTED), 3, Origin(UUID(int=2), "C-1", None), datetime(2026, 1, 1, tzinfo=UTC)
)


class Noting(MemoryGateway):
    """Notes what is confirmed."""

    def __init__(self) -> None:
        MemoryGateway.__init__(self)
        self.confirmed: list[str] = []

    async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> Any:
        self.confirmed.append(gateway_id)
        return await MemoryGateway.execute(self, gateway_id, mandate=mandate, key=key)


@pytest.mark.parametrize(("held", "confirmed"), [((False,), 0), ((True, True), 1)], ids=["lost", "held"])
async def test_who_lost_the_lease_confirms_nothing(held: tuple[bool, ...], confirmed: int) -> None:
    gateway = Noting()
    working = charging(gateway, *held)
    working.clock = lambda: ROW.requested_at
    await working._work_on(ROW)
    assert len(gateway.confirmed) == confirmed


def test_who_stops_gives_back_what_is_not_finished() -> None:
    async def stop() -> list[tuple[UUID, int]]:
        working = charging(Silent())
        working.call_timeout_s, working.clock = 3_600.0, lambda: ROW.requested_at
        working.accept([ROW])
        await asyncio.sleep(1.0)  # no time passes outside of the virtual clock
        await working.finish()
        return working.released

    assert run_in_virtual_time(stop()) == [(ROW.payment.payment_id, ROW.fence)]


class Stopping(Noting):
    """The service is told to stop while it makes the payment."""

    working: Charging

    async def prepare(self, order: port.Order, *, key: str) -> Any:
        self.working.is_stopping = True
        return await MemoryGateway.prepare(self, order, key=key)


async def test_a_service_that_stops_leaves_the_next_step_to_others_at_once() -> None:
    gateway = Stopping()
    gateway.working = working = charging(gateway, True, True)
    working.clock = lambda: ROW.requested_at
    await working._work_on(ROW)
    (result,) = cast(FakeCommit, working.commit).recorded
    assert gateway.confirmed == []
    assert (result.update.kept, result.update.delay_s) == (False, 0.0)


class Endless(Released):
    """Its gateway's answers lead nowhere."""

    __slots__ = ()

    async def _take_step(self, step: GatewayStep | None, row: PaymentRow, seq: int) -> StepResult:
        del step, seq
        return StepResult(row, PaymentTransition(row.payment, then=GatewayStep.INQUIRE), self.clock())


async def test_no_payment_takes_steps_for_ever() -> None:
    working = charging(MemoryGateway(), *[True] * 2 * STEPS_MAX, kind=Endless)
    with pytest.raises(RuntimeError, match="lead nowhere"):
        await working._work_on(ROW)
    assert len(cast(FakeCommit, working.commit).recorded) == STEPS_MAX


class Quoting(MemoryGateway):
    """Quotes what it was sent."""

    async def prepare(self, order: port.Order, *, key: str) -> Any:
        return port.Refused("resource_missing", f"No such token: {order.method_token}")


async def test_the_token_of_a_card_is_not_in_the_evidence() -> None:
    working = charging(Quoting(), True)
    working.clock = lambda: ROW.requested_at
    await working._work_on(ROW)
    (result,) = cast(FakeCommit, working.commit).recorded
    assert result.attempt is not None
    assert result.attempt.evidence == "No such token: ****"


class Denying(MemoryGateway):
    """Denies every payment."""

    async def inquire(self, gateway_id: str) -> Any:
        return port.NotFound(f"no such payment: {gateway_id}")


class AwayDatabase:
    """Every look fails."""

    def connection(self) -> Any:
        raise ConnectionResetError


async def test_a_denial_is_not_believed_while_nobody_can_say_whose_key_it_is() -> None:
    working = charging(Denying())
    working.database = cast(Database, AwayDatabase())
    assert isinstance(await working._inquire(payment(PaymentStatus.CAPTURED)), port.NotSent)
    assert isinstance(await working._inquire(payment(PaymentStatus.IN_DOUBT)), port.NotFound)


# -- how many calls, and when ----------------------------------------------------------------------------------------------------------


def test_a_turn_that_became_void_is_not_used() -> None:
    async def begins_s() -> float:
        loop = asyncio.get_running_loop()
        working = charging(MemoryGateway())
        working.pace = Pace(100.0, 1.0, 2.0, clock=loop.time, jitter=lambda: 0.0)
        working.pace.take_turn(GatewayStep.PREPARE)
        loop.call_at(0.1, lambda: working.pace.slow_down(sent_s=loop.time(), retry_after_s=1.5))
        assert await working._has_turn(GatewayStep.PREPARE)
        return loop.time()

    assert run_in_virtual_time(begins_s()) == pytest.approx(1.6), "its turn was at 0.75 s"


def test_no_more_calls_are_in_flight_than_the_setting_says() -> None:
    class CountingCalls(Silent):
        calls = 0

        async def prepare(self, order: port.Order, *, key: str) -> Any:
            self.calls += 1
            await Silent.prepare(self, order, key=key)

    async def count() -> int:
        gateway = CountingCalls()
        working = charging(gateway)
        working.clock = lambda: ROW.requested_at
        working.accept([ROW, replace(ROW, fence=4)])
        await asyncio.sleep(1.0)
        await working.finish()
        return gateway.calls

    assert run_in_virtual_time(count()) == 1
