"""An outage of the database of this service alone: it costs time, and no payment."""

import asyncio
from dataclasses import replace

import pytest

from services.payment_gateway.__main__ import assemble_with
from services.payment_gateway.domain import Policy
from services.payment_gateway.settings import ChargingSettings
from shared.batch.retry import BatchRetry, RetryState
from shared.service import Runtime
from tests.faults.frames import Postgres
from tests.faults.proxy import Network
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, asked, requested
from tests.service.payment_gateway.scripted import ScriptedGateway
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

PAYMENTS = 20
SETTINGS = ChargingSettings(
    "memory://", "", 20.0, 20, Policy((0.05,), 3_600.0), None, requests_per_s=10_000, endpoint_requests_per_s=10_000
)


async def test_questions_that_overtake_their_requests_in_an_outage_fail_no_payment(
    network: Network,
    environment: Environment,
    upstream: UpstreamClient,
    payments: PaymentGatewayFixture,
    gateway: ScriptedGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both queues wait for the database. The one with the questions of the saga is the first to notice that it is back."""
    holding: set[str] = set()
    questions_answered = asyncio.Event()

    async def outlast(retry: BatchRetry, _: Exception, state: RetryState) -> None:
        state.outages += 1
        holding.add(retry._name)
        await (questions_answered.wait() if "requests" in retry._name else asyncio.sleep(0.01))

    monkeypatch.setattr(BatchRetry, "outlast", outlast)
    proxy = network.stand_before(environment.databases["payment_gateway"], speaks=Postgres)
    proxied = replace(environment, databases=environment.databases | {"payment_gateway": proxy.url})
    asking = [requested() for _ in range(PAYMENTS)]

    async def assemble(runtime: Runtime) -> None:
        assemble_with(runtime, SETTINGS, gateway)

    async with proxied.running("payment_gateway", assemble):
        await upstream.send(first := requested())
        await payments.until(first.payment_id, "captured")
        proxy.refuse()
        proxy.reset()
        for one in asking:
            await upstream.send(one)
        questions = [await upstream.send(asked(one.payment_id)) for one in asking]
        await until(lambda: _both(holding), what="both queues to wait for the database")
        proxy.heal()
        await payments.until_handled(*questions)
        questions_answered.set()
        for one in asking:
            await payments.until(one.payment_id, "captured")


async def _both(holding: set[str]) -> bool:
    return {"payment_gateway.requests", "payment_gateway.commands"} <= holding
