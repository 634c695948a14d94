"""A call to the gateway that hangs, or fails by a bug of our own adapter, has an answer: nobody knows. It is never taken for unsent."""

import asyncio
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
from shared.clock import system_clock
from shared.observability.health import Readiness
from shared.persistence.database import Database
from tests.support.virtual_time import run_in_virtual_time
from tests.unit.payment_gateway.payments import POLICY, payment

PREPARED = payment(PaymentStatus.PREPARED)


class Silent(MemoryGateway):
    """Takes the order, and never answers."""

    async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> Any:
        await asyncio.Event().wait()


class FaultyGateway(MemoryGateway):
    """Has a bug that shows once the order was sent."""

    async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> Any:
        raise KeyError("status")


def charging(gateway: port.Gateway) -> Charging:
    readiness = Readiness()
    return Charging(
        gateway=gateway,
        keyring=None,
        policy=POLICY,
        lease=lease_for(UUID(int=1), 5.0, 10.0),
        calls_in_flight=1,
        call_timeout_s=5.0,
        database=cast(Database, None),
        commit=cast(GroupCommit, None),
        readiness=readiness,
        clock=system_clock,
        watch=cast(GatewayWatch, None),
        pace=cast(Pace, None),
    )


@pytest.mark.parametrize("gateway", [Silent(), FaultyGateway()], ids=["silent", "broken"])
def test_a_call_without_an_answer_may_have_charged(gateway: port.Gateway) -> None:
    async def call() -> object:
        return await charging(gateway)._guarded_call(GatewayStep.EXECUTE, PREPARED, "key")

    answer = run_in_virtual_time(call())
    assert type(answer) is port.Unknown
