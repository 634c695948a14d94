"""Every fault of the sandbox's catalogue at once, through the production adapter: each payment ends as it must, in our store and in the
gateway's own ledger."""

import sqlite3
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any
from uuid import UUID

from deploy.sandbox.app import SandboxSettings
from deploy.sandbox.faults import BEHAVIOURS, REFUNDS, Ending, Manner, behaviour_of
from deploy.sandbox.server import Sandbox
from services.payment_gateway.__main__ import assemble_with
from services.payment_gateway.domain import GatewayStep, Policy
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.stripe import StripeGateway
from services.payment_gateway.settings import ChargingSettings
from shared.service import Runtime
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, requested, to_refund
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.hasty_gateway import HASTY_S, PATIENT_S, hasty_gateway
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

CONNECTIONS = 50
LIMITED_PAYMENTS = 20
POLICY = Policy(ladder_s=(0.1, 0.1, 0.2, 0.2, 0.3, 0.5), remind_s=3_600.0)
ENDINGS = {
    "captured": Ending.CAPTURED,
    "declined": Ending.DECLINED,
    "not_charged": Ending.NOT_CHARGED,
    "needs_decision": Ending.PERSON,
}
REFUND_ENDINGS = {
    "refund_fails": "refund_failed",
    "refund_fails_later": "refunded",
    "refund_pending": "refunded",
    "refund_pending_forever": "refund_in_doubt",
    "refund_then_500": "refunded",
    "refund_then_timeout": "refunded",
    "refund_500_unmade": "refunded",
    "refund_lost": "refunded",
    "refund_low_balance": "refunded",
    "refund_no_balance": "refund_failed",
    "refund_pending_balance": "refunded",
}


def ledger_rows(ledger: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(ledger)) as reader:
        return reader.execute(query).fetchall()


def withheld(token: str) -> set[GatewayStep]:
    """The steps that the sandbox answers this token never or late."""
    behaviour = behaviour_of(token)
    assert behaviour is not None
    if behaviour.once_confirmed is Manner.HANG:
        return set(GatewayStep)
    steps: set[GatewayStep] = set()
    if any(one.late or one.manner is Manner.HANG for one in behaviour.confirms):
        steps.add(GatewayStep.EXECUTE)
    if behaviour.refund.manner is Manner.HANG:
        steps.add(GatewayStep.REFUND)
    return steps


class HastyWhereItHangs:
    """See `port.Gateway`: the production adapter. It gives up soon on steps of payments whose answers are withheld, and on no others. So a
    busy machine turns no answer into a timeout, and no test waits long for an answer that never comes."""

    def __init__(self, url: str) -> None:
        self._patient = StripeGateway(api_key="sk_test_1", base_url=url, timeout_s=PATIENT_S, connections=CONNECTIONS)
        self._hasty = hasty_gateway(url, connections=CONNECTIONS)
        self._withheld: dict[str, set[GatewayStep]] = {}

    async def tokenise(self, card: port.Card, *, key: str) -> port.TokeniseAnswer:
        return await self._patient.tokenise(card, key=key)

    async def prepare(self, order: port.Order, *, key: str) -> port.PrepareAnswer:
        answer = await self._patient.prepare(order, key=key)
        if isinstance(answer, port.Prepared):
            self._withheld[answer.gateway_id] = withheld(order.method_token)
        return answer

    async def find(self, sought: port.Sought) -> port.FindAnswer:
        return await self._patient.find(sought)

    def _of(self, gateway_id: str, step: GatewayStep) -> StripeGateway:
        return self._hasty if step in self._withheld.get(gateway_id, ()) else self._patient

    async def execute(self, gateway_id: str, *, mandate: str | None = None, key: str) -> port.ExecuteAnswer:
        return await self._of(gateway_id, GatewayStep.EXECUTE).execute(gateway_id, mandate=mandate, key=key)

    async def inquire(self, gateway_id: str) -> port.ChargeAnswer:
        return await self._of(gateway_id, GatewayStep.INQUIRE).inquire(gateway_id)

    async def cancel(self, gateway_id: str, *, key: str) -> port.ChargeAnswer:
        return await self._of(gateway_id, GatewayStep.CANCEL).cancel(gateway_id, key=key)

    async def refund(self, gateway_id: str, order: port.RefundOrder, *, key: str) -> port.RefundAnswer:
        return await self._of(gateway_id, GatewayStep.REFUND).refund(gateway_id, order, key=key)

    async def inquire_refund(self, gateway_id: str, *refund_ids: UUID) -> port.RefundAnswer:
        return await self._of(gateway_id, GatewayStep.INQUIRE_REFUND).inquire_refund(gateway_id, *refund_ids)

    async def owner(self, gateway_id: str) -> port.OwnerAnswer:
        return await self._patient.owner(gateway_id)

    def pace_by(self, follow_up: port.FollowUp) -> None:
        self._patient.pace_by(follow_up)
        self._hasty.pace_by(follow_up)

    async def check(self) -> port.CheckAnswer:
        return await self._patient.check()

    async def close(self) -> None:
        await self._patient.close()
        await self._hasty.close()


def _settings(sandbox: Sandbox, policy: Policy) -> ChargingSettings:
    return ChargingSettings(
        sandbox.url,
        "sk_test_1",
        PATIENT_S,
        CONNECTIONS,
        policy,
        None,
        requests_per_s=10_000,
        endpoint_requests_per_s=10_000,
    )


def service(environment: Environment, sandbox: Sandbox) -> AbstractAsyncContextManager[None]:
    settings = _settings(sandbox, POLICY)

    async def assemble(runtime: Runtime) -> None:
        assemble_with(runtime, settings, HastyWhereItHangs(sandbox.url))

    return environment.running("payment_gateway", assemble)


async def until_all(payments: PaymentGatewayFixture, ids: set[UUID], *settled: str) -> dict[UUID, str]:
    async def stand() -> dict[UUID, str] | None:
        found = await rows(
            payments.url, "SELECT payment_id, status FROM payments WHERE payment_id = ANY($1)", list(ids)
        )
        states = {row["payment_id"]: row["status"] for row in found}
        return states if len(states) == len(ids) and set(states.values()) <= set(settled) else None

    states = await until(stand, within_s=90, what="every payment to be settled or to wait for a person")
    assert states is not None
    return states


async def test_every_fault_ends_as_it_must(
    environment: Environment, upstream: UpstreamClient, payments: PaymentGatewayFixture, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    tokens = {asking.payment_id: asking.method.token for asking in map(_with_token, BEHAVIOURS)}
    async with (
        Sandbox(ledger, settings=SandboxSettings(slow_s=2 * HASTY_S)) as sandbox,
        service(environment, sandbox),
    ):
        for payment_id, token in tokens.items():
            await upstream.send(requested(payment_id, method=token))
        states = await until_all(payments, set(tokens), *ENDINGS)
        for payment_id, token in tokens.items():
            assert ENDINGS[states[payment_id]] in BEHAVIOURS[token].ends, token
        await payments.outbox_is_empty()
    stored = await rows(payments.url, "SELECT status, gateway_id FROM payments")
    charged = [intent for (intent,) in ledger_rows(ledger, "SELECT payment_intent FROM charges")]
    cancelled = {i for (i,) in ledger_rows(ledger, "SELECT id FROM payment_intents WHERE status = 'canceled'")}
    assert len(charged) == len(set(charged)), "charged at most once"
    assert {row["gateway_id"] for row in stored if row["status"] == "captured"} <= set(charged)
    assert {row["gateway_id"] for row in stored if row["status"] in {"declined", "not_charged"}} <= cancelled
    confirmed = {intent for (intent,) in ledger_rows(ledger, "SELECT payment_intent FROM confirms")}
    assert confirmed <= {row["gateway_id"] for row in stored}, "each id was recorded before its confirm"
    assert ledger_rows(ledger, "SELECT key FROM idempotency_keys WHERE mismatches > 0") == []


async def test_every_refund_fault_ends_as_it_must(
    environment: Environment, upstream: UpstreamClient, payments: PaymentGatewayFixture, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    askings = {refund: _with_token(f"pm_remit_{refund}") for refund in REFUNDS}
    ids = {asking.payment_id for asking in askings.values()}
    async with Sandbox(ledger) as sandbox, service(environment, sandbox):
        for asking in askings.values():
            await upstream.send(asking)
        await until_all(payments, ids, "captured")
        for payment_id in ids:
            await upstream.send(to_refund(payment_id))
        for refund, asking in askings.items():
            await payments.until(asking.payment_id, REFUND_ENDINGS[refund])
    per_payment = ledger_rows(ledger, "SELECT count(*) FROM refunds GROUP BY payment_intent")
    assert per_payment == [(1,)] * (len(askings) - 1), "refunded once, or never for lack of balance"
    assert ledger_rows(ledger, "SELECT key FROM idempotency_keys WHERE mismatches > 0") == []
    unmade = ledger_rows(
        ledger, "SELECT count(DISTINCT key) FROM idempotency_keys WHERE path = '/v1/refunds' AND status = 500"
    )
    assert unmade == [(2,)], (
        "of those answered 500, one was made, and the other was not repeated under another key before it was replayed"
    )


def _with_token(token: str) -> Any:
    return requested(method=token)


async def test_payments_beyond_the_limit_of_the_gateway_are_all_captured_and_spend_no_rung(
    environment: Environment, upstream: UpstreamClient, payments: PaymentGatewayFixture, tmp_path: Path
) -> None:
    """The settings of the service are far above the limit, as if others used the same account."""
    asking = [requested() for _ in range(LIMITED_PAYMENTS)]
    limited = SandboxSettings(requests_per_s=LIMITED_PAYMENTS / 2)
    async with Sandbox(tmp_path / "ledger.sqlite", settings=limited) as sandbox:
        settings = _settings(sandbox, Policy((3_600.0,), 3_600.0))

        async def assemble(runtime: Runtime) -> None:
            assemble_with(runtime, settings, settings.open_gateway())

        async with environment.running("payment_gateway", assemble):
            for one in asking:
                await upstream.send(one)
            await until_all(payments, {one.payment_id for one in asking}, "captured")
        assert sandbox.refused_by_limit > 0
    assert await rows(payments.url, "SELECT DISTINCT rung FROM payments") == [{"rung": 0}]
    limits = await rows(payments.url, "SELECT count(*) AS n FROM attempts WHERE answer = 'limited'")
    assert limits[0]["n"] > 0
