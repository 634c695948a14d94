"""A call to the gateway that hangs, or fails by a bug of our own adapter, has an answer: nobody knows. It is never taken for unsent.

Who has lost a lease calls no more, and who stops gives its leases back.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from services.payment_gateway.charging import Charging, lease_for
from services.payment_gateway.domain import GatewayStep, PaymentStatus
from services.payment_gateway.gateway_watch import GatewayWatch
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.memory import MemoryGateway
from services.payment_gateway.group_commit import GroupCommit
from services.payment_gateway.pace import Pace
from services.payment_gateway.store import Origin, PaymentRow
from shared.clock import system_clock
from shared.observability.health import Readiness
from shared.persistence.database import Database
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

    async def record(self, _: object) -> bool:
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


def charging(gateway: port.Gateway, *held: bool) -> Released:
    readiness = Readiness()
    return Released(
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
