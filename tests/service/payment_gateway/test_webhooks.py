"""Events of the gateway: each makes its payment be looked at now, and none is believed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import aiohttp
import pytest
from stripe import WebhookSignature

from services.payment_gateway import webhooks
from services.payment_gateway.__main__ import assemble_with
from services.payment_gateway.domain import GatewayStep, PaymentStatus, Policy
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.port import Gateway
from services.payment_gateway.gateways.stripe import StripeGateway
from services.payment_gateway.gateways.stripe_events import Shows
from services.payment_gateway.settings import ChargingSettings, WebhookSettings
from services.payment_gateway.store import RowState
from services.payment_gateway.webhooks import BODY_BYTES_MAX, PATH, Seen, Webhooks, what_to_do
from shared.service import Runtime
from shared.settings import ConfigurationError
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, requested
from tests.service.payment_gateway.scripted import UNKNOWN, Say, ScriptedGateway
from tests.support.databases import execute
from tests.support.environment import Environment
from tests.support.localstripe import running_localstripe
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import DEADLINE_S

SECRET = "whsec_test"
HOUR_S = 3_600.0


class Endpoint:
    """The service's endpoint, from outside."""

    def __init__(self, webhooks: Webhooks) -> None:
        self.url = f"http://127.0.0.1:{webhooks.listens_on}{PATH}"

    async def post(self, body: bytes, signature: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url, data=body, headers={"Stripe-Signature": signature}) as answer,
        ):
            return answer.status, (await answer.text()).strip()

    async def tell(self, kind: str, gateway_id: str, payment_id: UUID | None = None) -> tuple[int, str]:
        """Send an event about the payment, as Stripe signs it. Only a PaymentIntent has our payment id."""
        thing: dict[str, Any] = {"object": "refund", "id": "re_1", "payment_intent": gateway_id}
        if payment_id is not None:
            thing = {"object": "payment_intent", "id": gateway_id, "metadata": {"payment_id": str(payment_id)}}
        body = json.dumps({"type": kind, "livemode": False, "data": {"object": thing}}).encode()
        return await self.post(body, WebhookSignature.generate_signature_header(body.decode(), SECRET))


StartListening = Callable[..., AbstractAsyncContextManager[Endpoint]]


@pytest.fixture
def listening(environment: Environment, gateway: ScriptedGateway) -> StartListening:
    """`async with listening() as endpoint:` runs an instance that asks by itself only once an hour."""

    @asynccontextmanager
    async def start(instead: Callable[[], Gateway] | None = None) -> AsyncIterator[Endpoint]:
        settings = ChargingSettings("memory://", "", 20.0, 20, Policy((HOUR_S, HOUR_S), HOUR_S), None)
        opened: asyncio.Future[Webhooks] = asyncio.get_running_loop().create_future()

        async def assemble(runtime: Runtime) -> None:
            charging = assemble_with(runtime, settings, instead() if instead else gateway)
            hooks = Webhooks(WebhookSettings("127.0.0.1", 0, (SECRET,)), charging, runtime.database, livemode=False)
            await hooks.listen()
            runtime.run_beside("webhooks", hooks.run)
            opened.set_result(hooks)

        async with environment.running("payment_gateway", assemble):
            async with asyncio.timeout(DEADLINE_S):
                endpoint = Endpoint(await opened)
            yield endpoint

    return start


async def in_doubt(
    upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> tuple[UUID, str]:
    """A payment that was captured, and nobody here knows. Its next inquiry is due in an hour."""
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    asking = requested()
    await upstream.send(asking)
    row = await payments.until(asking.payment_id, "in_doubt")
    return asking.payment_id, row["gateway_id"]


async def test_an_event_makes_its_payment_be_looked_at_now(
    listening: StartListening, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    async with listening() as endpoint:
        payment_id, gateway_id = await in_doubt(upstream, payments, gateway)
        assert await endpoint.tell("payment_intent.succeeded", gateway_id, payment_id) == (200, "looked")
        await payments.until(payment_id, "captured")
        again = await endpoint.tell("payment_intent.succeeded", gateway_id, payment_id)
        assert again == (200, "nothing_new"), "a repeated event costs no call"
        payment_id, gateway_id = await in_doubt(upstream, payments, gateway)
        assert await endpoint.tell("refund.updated", gateway_id) == (200, "looked"), "the gateway says whose it is"
        await payments.until(payment_id, "captured")
    assert gateway.count(GatewayStep.INQUIRE) == 2


async def test_no_event_is_believed(
    listening: StartListening, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """It says that nothing was captured. The gateway is asked, and says what is true."""
    async with listening() as endpoint:
        payment_id, gateway_id = await in_doubt(upstream, payments, gateway)
        assert await endpoint.tell("payment_intent.canceled", gateway_id, payment_id) == (200, "looked")
        row = await payments.until(payment_id, "captured")
    assert row["receipt_number"] == gateway_id.replace("pi_", "ch_", 1)


async def test_what_is_none_of_ours_changes_nothing(
    listening: StartListening, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    async with listening() as endpoint:
        payment_id, gateway_id = await in_doubt(upstream, payments, gateway)
        before = await payments.row(payment_id)
        forged = WebhookSignature.generate_signature_header("{}", "whsec_other")
        stale = WebhookSignature.generate_signature_header("{}", SECRET, int(time.time()) - 3_600)
        assert await endpoint.post(b"{}", forged) == (400, "forged")
        assert await endpoint.post(b"{}", stale) == (400, "forged")
        assert await endpoint.post(b" " * (BODY_BYTES_MAX + 1), forged) == (413, "too_large")
        assert await endpoint.tell("payment_intent.succeeded", "pi_other", payment_id) == (200, "foreign")
        assert await endpoint.tell("payment_intent.succeeded", gateway_id, UUID(int=9)) == (200, "foreign")
        assert await endpoint.tell("charge.refunded", "pi_other") == (200, "foreign")
        assert await payments.row(payment_id) == before
    assert gateway.count(GatewayStep.INQUIRE) == 0


async def test_what_cannot_be_stored_now_is_sent_again_by_the_gateway(
    listening: StartListening,
    environment: Environment,
    upstream: UpstreamClient,
    payments: PaymentGatewayFixture,
    gateway: ScriptedGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening() as endpoint:
        payment_id, gateway_id = await in_doubt(upstream, payments, gateway)
        database = payments.url
        await execute(database, "UPDATE payments SET leased_by = gen_random_uuid(), due_at = now() + interval '1 hour'")
        assert await endpoint.tell("charge.refunded", gateway_id) == (503, "busy"), "an instance works on it"
        assert await endpoint.tell("payment_intent.succeeded", gateway_id, payment_id) == (200, "nothing_new")
        await execute(database, "UPDATE payments SET leased_by = NULL")
        await execute(database, "ALTER TABLE payments RENAME TO hidden")
        try:
            assert await endpoint.tell("payment_intent.succeeded", gateway_id, payment_id) == (503, "away")
        finally:
            await execute(database, "ALTER TABLE hidden RENAME TO payments")
        with monkeypatch.context() as patch:
            patch.setattr(webhooks, "AT_WORK_MAX", 0)
            assert await endpoint.tell("payment_intent.succeeded", gateway_id, payment_id) == (503, "busy")
        assert await endpoint.tell("payment_intent.succeeded", gateway_id, payment_id) == (200, "looked")
        await payments.until(payment_id, "captured")


@pytest.mark.foreign
async def test_localstripe_sends_an_event_and_the_doubt_ends(
    listening: StartListening, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    """The answer to the confirm is lost, and nobody would ask for an hour."""

    class LosesTheAnswer(StripeGateway):
        async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> port.ExecuteAnswer:
            await super().execute(gateway_id, mandate=mandate, key=key)
            return UNKNOWN

    with running_localstripe() as url:

        def localstripe() -> Gateway:
            return LosesTheAnswer(api_key="sk_test_1", base_url=url, timeout_s=DEADLINE_S, connections=4)

        async with listening(localstripe) as endpoint:
            told = {"url": endpoint.url, "secret": SECRET}
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{url}/_config/webhooks/remit", json=told) as answer,
            ):
                assert answer.status == 200
            asking = requested()
            await upstream.send(asking)
            row = await payments.until(asking.payment_id, "captured")
    steps = await payments.attempts(asking.payment_id)
    assert (row["status"], steps) == (
        "captured",
        [("prepare", "prepared"), ("execute", "unknown"), ("inquire", "captured")],
    )


@pytest.mark.parametrize(
    ("shows", "status", "is_held", "seen"),
    [
        (Shows.CAPTURE, PaymentStatus.IN_DOUBT, False, Seen.LOOKED),
        (Shows.CAPTURE, PaymentStatus.PREPARED, True, Seen.NOTHING_NEW),
        (Shows.CAPTURE, PaymentStatus.NOT_CHARGED, False, Seen.LOOKED),
        (Shows.CAPTURE, PaymentStatus.REFUNDED, False, Seen.NOTHING_NEW),
        (Shows.NO_CAPTURE, PaymentStatus.DECLINED, False, Seen.NOTHING_NEW),
        (Shows.NO_CAPTURE, PaymentStatus.CAPTURED, False, Seen.LOOKED),
        (Shows.SOMETHING_ELSE, PaymentStatus.CAPTURED, False, Seen.LOOKED),
        (Shows.SOMETHING_ELSE, PaymentStatus.CAPTURED, True, Seen.BUSY),
        (Shows.SOMETHING_ELSE, "of_a_newer_build", False, Seen.LOOKED),
    ],
)
def test_an_event_is_worth_a_look_unless_our_books_say_the_same(
    shows: Shows, status: str, *, is_held: bool, seen: Seen
) -> None:
    assert what_to_do(shows, RowState(status, is_held)) is seen


async def test_a_port_that_is_taken_is_told_at_the_start(listening: StartListening) -> None:
    async with listening() as endpoint:
        port_taken = int(endpoint.url.rsplit(":", 1)[1].partition("/")[0])
        other = Webhooks(WebhookSettings("127.0.0.1", port_taken, (SECRET,)), Mock(), Mock(), livemode=False)
        with pytest.raises(ConfigurationError, match=r"^GATEWAY_WEBHOOK_PORT cannot be opened: .*\.$"):
            await other.listen()
