"""What the gateway refuses: one payment, with its own words; or this service, which is the operator's to mend and no payment's fault."""

from typing import Any

import pytest

from deploy.sandbox.app import Mode
from deploy.sandbox.server import Sandbox
from services.payment_gateway import gateway_watch
from services.payment_gateway.domain import GatewayStep
from services.payment_gateway.gateways import port
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, Start, kind, requested
from tests.service.payment_gateway.scripted import Say, ScriptedGateway
from tests.service.payment_gateway.test_sandbox_faults import service
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

UNAUTHORISED = port.Misconfigured("HTTP 401 Invalid API Key", otherwise=port.NotSent("HTTP 401 Invalid API Key"))


TOLD = {
    "pm_remit_confirm_refused": ("PaymentNotCharged", "charge_not_permitted", None),
    "pm_unknown": ("PaymentNotCharged", "resource_missing", None),
    "pm_card_authenticationRequired": ("PaymentDeclined", "authentication_required", None),
    "pm_remit_action_required": ("PaymentDeclined", "authentication_required", None),
    "pm_card_visa_chargeDeclinedInsufficientFunds": ("PaymentDeclined", "insufficient_funds", "try_again_later"),
}
"""Outcome, reason and advice that a payment with this token comes to."""


async def test_a_refusal_is_told_at_once_with_the_gateways_own_code(
    environment: Environment, upstream: UpstreamClient, payments: PaymentGatewayFixture, tmp_path: Any
) -> None:
    events, askings = await upstream.tap("payment.events"), [requested(method=token) for token in TOLD]
    async with Sandbox(tmp_path / "ledger.sqlite") as sandbox, service(environment, sandbox):
        for asking in askings:
            await upstream.send(asking)
        told = {one.data["payment_id"]: one for one in await events.take(len(TOLD))}
    for asking, (token, expected) in zip(askings, TOLD.items(), strict=True):
        one = told[str(asking.payment_id)]
        assert (kind(one.type), one.data["reason"], one.data.get("advice")) == expected, token
        assert (await payments.row(asking.payment_id))["was_case"] is False, f"{token}: a refusal is no doubt"


async def test_a_refused_confirm_keeps_the_sentence_of_that_call(
    environment: Environment, upstream: UpstreamClient, payments: PaymentGatewayFixture, tmp_path: Any
) -> None:
    asking = requested(method="pm_remit_confirm_refused")
    async with Sandbox(tmp_path / "ledger.sqlite") as sandbox, service(environment, sandbox):
        await upstream.send(asking)
        await payments.until(asking.payment_id, "not_charged")
    assert await payments.attempts(asking.payment_id) == [
        ("prepare", "prepared"),
        ("execute", "refused:charge_not_permitted"),
        ("cancel", "cancelled"),
    ]
    (execute,) = await rows(payments.url, "SELECT evidence FROM attempts WHERE step = 'execute'")
    assert "The card network does not take this kind of charge" in execute["evidence"]
    assert "param payment_method" in execute["evidence"]


async def test_a_wrong_key_costs_no_payment_anything(
    start: Start,
    upstream: UpstreamClient,
    payments: PaymentGatewayFixture,
    gateway: ScriptedGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_watch.GatewayWatch, "interval_s", 0.05)
    for step in (GatewayStep.PREPARE, GatewayStep.EXECUTE, GatewayStep.INQUIRE):
        gateway.always(step, Say(UNAUTHORISED))
    gateway.checked = UNAUTHORISED
    first, second = requested(), requested()
    async with start(ladder_s=(0.01,)):
        await upstream.send(first)

        async def refused() -> bool:
            return gateway.checks > 5

        await until(refused, what="the gateway checked again and again")
        calls = len(gateway.calls)
        await upstream.send(second)
        await payments.until(second.payment_id, "requested")
        checks = gateway.checks

        async def checked_again() -> bool:
            return gateway.checks > checks + 5

        await until(checked_again, what="more checks")
        assert len(gateway.calls) == calls <= 1, "nothing is claimed"
        for asking in (first, second):
            row = await payments.row(asking.payment_id)
            assert (row["status"], row["rung"], row["key_number"]) == ("requested", 0, 1)
        for step in (GatewayStep.PREPARE, GatewayStep.EXECUTE, GatewayStep.INQUIRE):
            gateway.always(step, None)
        gateway.checked = port.Usable()
        for asking in (first, second):
            await payments.until(asking.payment_id, "captured")


async def test_a_key_that_is_refused_between_prepare_and_execute_leaves_no_doubt(
    start: Start,
    upstream: UpstreamClient,
    payments: PaymentGatewayFixture,
    gateway: ScriptedGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_watch.GatewayWatch, "interval_s", 0.05)
    gateway.then(GatewayStep.EXECUTE, Say(UNAUTHORISED))
    gateway.checked = port.Usable()
    asking = requested()
    async with start():

        async def checked() -> bool:
            return gateway.checks > 0

        await until(checked, what="the check at the start")
        gateway.checked = UNAUTHORISED
        await upstream.send(asking)
        await payments.until(asking.payment_id, "prepared")

        async def told() -> bool:
            return ("execute", "misconfigured") in await payments.attempts(asking.payment_id)

        await until(told, what="the refused confirm recorded")
        row = await payments.row(asking.payment_id)
        assert (row["status"], row["rung"], row["was_case"]) == ("prepared", 0, False)
        gateway.checked = port.Usable()
        await payments.until(asking.payment_id, "captured")
    assert (await payments.row(asking.payment_id))["was_case"] is False


async def test_payments_wait_for_the_operator_and_go_on(
    environment: Environment,
    upstream: UpstreamClient,
    payments: PaymentGatewayFixture,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The production adapter in front of a gateway whose key, permissions, URL or mode is wrong, one after the other."""
    monkeypatch.setattr(gateway_watch.GatewayWatch, "interval_s", 0.05)

    async def waits_and_goes_on(sandbox: Sandbox, mode: Mode) -> None:
        asking = requested()
        sandbox.switch(mode)
        await upstream.send(asking)

        async def told() -> bool:
            return ("prepare", "misconfigured") in await payments.attempts(asking.payment_id)

        if mode is Mode.LIVE:  # only an answer about a payment tells the mode
            await until(told, what="the answer of the other mode recorded")
        else:
            await payments.until(asking.payment_id, "requested")
        assert (await payments.row(asking.payment_id))["rung"] == 0, mode
        sandbox.switch(Mode.NORMAL)
        await payments.until(asking.payment_id, "captured")

    async with Sandbox(tmp_path / "ledger.sqlite") as sandbox, service(environment, sandbox):
        for mode in (Mode.UNAUTHORISED, Mode.FORBIDDEN, Mode.ELSEWHERE, Mode.LIVE):
            await waits_and_goes_on(sandbox, mode)
