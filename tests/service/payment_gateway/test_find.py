"""What was forgotten: a payment id that the gateway knows is never prepared anew, whatever the database lost."""

from datetime import timedelta

import pytest

from services.payment_gateway.domain import GatewayStep
from services.payment_gateway.gateways import port
from shared.clock import system_clock
from shared.contracts import invoice
from tests.service.payment_gateway.conftest import (
    PaymentGatewayFixture,
    Start,
    about,
    captured_of,
    decision,
    kind,
    requested,
)
from tests.service.payment_gateway.scripted import UNKNOWN, Say, ScriptedGateway
from tests.support.databases import execute
from tests.support.upstream_client import UpstreamClient

LONG_AGO_S = 30 * 3_600
LONG_AGO = system_clock() - timedelta(seconds=LONG_AGO_S)
"""When a request was made that is handled only now. Its idempotency keys may be deleted by then."""
FORGET = """WITH a AS (DELETE FROM attempts WHERE payment_id = $1), o AS (DELETE FROM outcomes WHERE payment_id = $1)"""
FORGET_ALL = f"{FORGET}, i AS (DELETE FROM inbox) DELETE FROM payments WHERE payment_id = $1"
FORGET_THAT_IT_WAS_BEGUN = f"""{FORGET} UPDATE payments SET status = 'requested', version = 1, gateway_id = NULL, receipt_number = NULL,
    key_number = 1, fence = fence + 1, leased_by = NULL, due_at = now(), created_at = now() - interval '30 hours' WHERE payment_id = $1"""
FORGET_THE_OUTCOME = f"""{FORGET} UPDATE payments SET status = 'prepared', version = 2, reason = NULL, key_number = 1, rung = 0,
    was_case = false, fence = fence + 1, leased_by = NULL, due_at = now(), created_at = now() - interval '30 hours' WHERE payment_id = $1"""


class Restored:
    """A payment that went its whole way, and was then forgotten, in part or altogether. The gateway has forgotten our keys, too."""

    def __init__(
        self, start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
    ):
        self.start, self.upstream, self.payments, self.gateway = start, upstream, payments, gateway

    async def forget(self, asking: invoice.InvoicePaymentRequested, status: str, *, how: str = FORGET_ALL) -> None:
        async with self.start():
            await self.upstream.send(asking, time=LONG_AGO.isoformat())
            await self.payments.until(asking.payment_id, status)
            await self.payments.outbox_is_empty()
        self.gateway.calls.clear()
        await execute(self.payments.url, how, asking.payment_id)

    def gateway_id(self, asking: invoice.InvoicePaymentRequested) -> str:
        (found,) = [
            id_ for id_, one in self.gateway.truth._payments.items() if one.order.payment_id == asking.payment_id
        ]
        return found


@pytest.fixture
def restored(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> Restored:
    return Restored(start, upstream, payments, gateway)


async def test_a_request_that_comes_again_after_a_restore_finds_its_charge(restored: Restored) -> None:
    asking = requested()
    await restored.forget(asking, "captured")
    events = await restored.upstream.tap("payment.events")
    async with restored.start():
        await restored.upstream.send(asking, time=LONG_AGO.isoformat())
        captured = await events.next()
    version = captured.data["version"]
    assert captured.content == captured_of(asking, version)
    assert version > LONG_AGO_S, "above all that was told before it was forgotten"
    assert await restored.payments.attempts(asking.payment_id) == [("find", "found"), ("inquire", "captured")]
    assert restored.gateway.count(GatewayStep.PREPARE) == restored.gateway.count(GatewayStep.EXECUTE) == 0


async def test_a_row_that_lost_what_was_begun_finds_its_charge(restored: Restored) -> None:
    asking = requested()
    await restored.forget(asking, "captured", how=FORGET_THAT_IT_WAS_BEGUN)
    async with restored.start():
        await restored.payments.until(asking.payment_id, "captured")
    assert restored.gateway.count(GatewayStep.PREPARE) == 0


async def test_an_outcome_after_a_restore_is_none_that_others_have_heard(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """The doubt was told, and only our database forgot it. The capture must not have its version: others would drop it as known."""
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start(ladder_s=(3_600.0,)):
        await upstream.send(asking)
        doubt = await events.next()
        await payments.outbox_is_empty()
    await execute(payments.url, FORGET_THE_OUTCOME, asking.payment_id)
    async with start():
        outcome = await events.next()
    assert (kind(doubt.type), kind(outcome.type)) == ("PaymentInDoubt", "PaymentCaptured")
    assert doubt.data["version"] == 3
    assert outcome.data["version"] >= LONG_AGO_S
    assert outcome.id != doubt.id


async def test_a_decision_after_a_restore_is_none_that_others_have_heard(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.always(GatewayStep.EXECUTE, Say(UNKNOWN))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start(ladder_s=(3_600.0,)):
        await upstream.send(asking)
        doubt = await events.next()
        await execute(payments.url, "UPDATE payments SET created_at = now() - interval '30 hours'")
        await upstream.send(decision(asking.payment_id, "captured", doubt.data["version"]))
        captured = await events.next()
    assert kind(captured.type) == "PaymentCaptured"
    assert captured.data["version"] >= LONG_AGO_S


async def test_what_was_declined_is_not_charged_when_it_comes_again(restored: Restored) -> None:
    asking = requested(method="pm_card_chargeDeclined")
    await restored.forget(asking, "declined")
    events = await restored.upstream.tap("payment.events")
    async with restored.start():
        await restored.upstream.send(asking, time=LONG_AGO.isoformat())
        ended = await events.next()
    assert (kind(ended.type), ended.data["reason"]) == ("PaymentNotCharged", "cancelled_at_gateway")
    assert restored.gateway.count(GatewayStep.EXECUTE) == 0


async def test_one_that_was_never_confirmed_is_confirmed_now(restored: Restored) -> None:
    asking = requested()
    prepared = await restored.gateway.truth.prepare(
        port.Order(asking.payment_id, "INV-1", asking.amount_minor, asking.currency, "pm_card_visa"), key="other"
    )
    assert isinstance(prepared, port.Prepared)
    async with restored.start():
        await restored.upstream.send(asking, time=LONG_AGO.isoformat())
        row = await restored.payments.until(asking.payment_id, "captured")
    assert row["gateway_id"] == prepared.gateway_id
    assert restored.gateway.confirmed == [prepared.gateway_id]


async def test_how_old_a_request_is_survives_the_instance_that_took_it(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.FIND, Say(port.NotSent("refused")))
    asking = requested()
    async with start(ladder_s=(60.0,)):
        await upstream.send(asking, time=LONG_AGO.isoformat())
        await payments.until_attempted(asking.payment_id, 1)
    await execute(payments.url, "UPDATE payments SET due_at = now()")
    async with start():
        await payments.until(asking.payment_id, "captured")
    steps = [step for step, _ in await payments.attempts(asking.payment_id)]
    assert steps == ["find", "find", "prepare", "execute"]


async def test_a_young_payment_is_not_looked_for(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    asking = requested()
    async with start():
        await upstream.send(asking)
        row = await payments.until(asking.payment_id, "captured")
    assert gateway.count(GatewayStep.FIND) == 0
    assert row["requested_at"] is None


async def test_a_search_that_is_never_answered_ends_with_a_person_and_charges_nothing(restored: Restored) -> None:
    """Nobody guesses that it was not charged. What the person decides is compared with the gateway once that answers."""
    asking = requested()
    await restored.forget(asking, "captured")
    events = await restored.upstream.tap("payment.events")
    restored.gateway.always(GatewayStep.FIND, Say(UNKNOWN))
    async with restored.start(ladder_s=(0.05, 0.05), watch_s=0.1):
        await restored.upstream.send(asking, time=LONG_AGO.isoformat())
        case = await events.next()
        assert (kind(case.type), case.data["reason"], case.data["gateway_id"]) == (
            "PaymentNeedsDecision",
            "no_readable_answer",
            None,
        )
        assert [attempt["step"] for attempt in case.data["attempts"]] == ["find"] * 3
        await restored.upstream.send(decision(asking.payment_id, "captured", case.data["version"]))
        refused = await events.next()
        assert (kind(refused.type), refused.data["reason"]) == ("PaymentResolutionRefused", "does_not_fit")
        await restored.upstream.send(decision(asking.payment_id, "not_charged", case.data["version"]))
        ended = await events.next()
        assert kind(ended.type) == "PaymentNotCharged"
        restored.gateway.always(GatewayStep.FIND, None)
        late = await events.next()
    assert case.data["version"] < ended.data["version"] < late.data["version"]
    told = about(asking, late.data["version"])
    assert {name: late.data[name] for name in ("late", *told)} == {
        "late": True,
        **{name: str(value) if name == "payment_id" else value for name, value in told.items()},
    }
    assert late.data["gateway_id"] == restored.gateway_id(asking)
    assert restored.gateway.count(GatewayStep.EXECUTE) == 0


async def test_a_decision_agrees_once_the_gateway_says_that_it_has_nothing(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.always(GatewayStep.FIND, Say(UNKNOWN))
    asking = requested()
    async with start(ladder_s=(0.05,), watch_s=0.1):
        await upstream.send(asking, time=LONG_AGO.isoformat())
        case = await payments.until(asking.payment_id, "needs_decision")
        await upstream.send(decision(asking.payment_id, "not_charged", case["version"]))
        await payments.until(asking.payment_id, "not_charged")
        gateway.always(GatewayStep.FIND, None)
        await payments.until_at_rest(asking.payment_id)
    row = await payments.row(asking.payment_id)
    assert (row["status"], row["gateway_side"]["answer"]) == ("not_charged", "not_found")
    assert gateway.orders == []
