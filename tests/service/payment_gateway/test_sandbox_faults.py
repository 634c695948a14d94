"""Every fault of the sandbox's catalogue at once, through the production adapter: each payment ends as it must, and the
gateway's own ledger says the same."""

import sqlite3
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any
from uuid import UUID

from deploy.sandbox.app import SandboxSettings
from deploy.sandbox.faults import BEHAVIOURS, REFUNDS, Ending
from deploy.sandbox.server import Sandbox
from services.payment_gateway.__main__ import assemble_with
from services.payment_gateway.domain import Policy
from services.payment_gateway.settings import ChargingSettings
from shared.service import Runtime
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, requested, to_refund
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

TIMEOUT_S = 0.3
POLICY = Policy(ladder_s=(0.1, 0.1, 0.2, 0.2, 0.3, 0.5), remind_s=3_600.0)
ENDINGS = {
    "captured": Ending.CAPTURED,
    "declined": Ending.DECLINED,
    "not_charged": Ending.NOT_CHARGED,
    "needs_decision": Ending.PERSON,
}
REFUND_ENDINGS = {
    "refund_fails": "refund_failed",
    "refund_pending": "refunded",
    "refund_pending_forever": "refund_in_doubt",
    "refund_then_500": "refunded",
    "refund_then_timeout": "refunded",
}


def ledger_rows(ledger: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(ledger)) as reader:
        return reader.execute(query).fetchall()


def service(environment: Environment, sandbox: Sandbox) -> AbstractAsyncContextManager[None]:
    settings = ChargingSettings(sandbox.url, "sk_test_1", TIMEOUT_S, 50, POLICY, None)

    async def assemble(runtime: Runtime) -> None:
        assemble_with(runtime, settings, settings.open_gateway())

    return environment.running("payment_gateway", assemble)


async def until_all(payments: PaymentGatewayFixture, ids: set[UUID], *settled: str) -> dict[UUID, str]:
    async def stand() -> dict[UUID, str] | None:
        found = await rows(
            payments.url, "SELECT payment_id, status FROM payments WHERE payment_id = ANY($1)", list(ids)
        )
        states = {row["payment_id"]: row["status"] for row in found}
        return states if len(states) == len(ids) and set(states.values()) <= set(settled) else None

    states = await until(stand, within_s=40, what="every payment settled or with a person")
    assert states is not None
    return states


async def test_every_fault_ends_as_it_must(
    environment: Environment, upstream: UpstreamClient, payments: PaymentGatewayFixture, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    tokens = {asking.payment_id: asking.method.token for asking in map(_with_token, BEHAVIOURS)}
    async with (
        Sandbox(ledger, settings=SandboxSettings(slow_s=2 * TIMEOUT_S)) as sandbox,
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
    assert confirmed <= {row["gateway_id"] for row in stored}, "recorded before it was confirmed"
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
    assert per_payment == [(1,)] * len(askings), "refunded at most once"


def _with_token(token: str) -> Any:
    return requested(method=token)
