"""RefundPayment from the saga: captured money goes back once."""

import pytest

from services.payment_gateway.domain import GatewayStep
from services.payment_gateway.gateways import port
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, Start, decision, kind, requested, to_refund
from tests.service.payment_gateway.scripted import UNKNOWN, Say, ScriptedGateway
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until


async def test_a_refund_is_asked_for_then_made_once(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        await events.next()
        order = await upstream.send(to_refund(asking.payment_id))
        refunded = await events.next()
        await upstream.send(to_refund(asking.payment_id))
        again = await events.next()
    assert (kind(refunded.type), refunded.data["version"], refunded.data["amount_minor"]) == (
        "PaymentRefunded",
        5,
        1_250,
    )
    assert refunded.event["causationid"] == str(order)
    assert (again.id, again.message.body) == (refunded.id, refunded.message.body)
    assert (await payments.attempts(asking.payment_id))[2:] == [
        ("inquire_refund", "no_refund"),
        ("refund", "refunded"),
    ]


async def test_a_refund_whose_answer_was_lost_is_found_by_asking(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.REFUND, Say(UNKNOWN, done=True))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        await events.next()
        await upstream.send(to_refund(asking.payment_id))
        doubt, refunded = await events.take(2)
    assert (kind(doubt.type), kind(refunded.type)) == ("PaymentRefundInDoubt", "PaymentRefunded")
    assert gateway.count(GatewayStep.REFUND) == 1


@pytest.mark.parametrize(
    ("resolution", "told"), [("not_refunded", "PaymentRefundFailed"), ("refunded", "PaymentRefunded")]
)
async def test_a_refund_that_fails_is_a_case_that_a_person_settles(
    start: Start,
    upstream: UpstreamClient,
    payments: PaymentGatewayFixture,
    gateway: ScriptedGateway,
    resolution: str,
    told: str,
) -> None:
    gateway.always(GatewayStep.REFUND, Say(port.RefundFailed("expired_or_canceled_card", "HTTP 400")))
    cases, asking = await upstream.queue("staff.cases"), requested()
    async with start():
        await upstream.send(asking)
        await payments.until(asking.payment_id, "captured")
        await upstream.send(to_refund(asking.payment_id))
        failed = await cases.next()
        assert (kind(failed.type), failed.data["reason"]) == ("PaymentRefundFailed", "expired_or_canceled_card")
        assert failed.data["attempts"][-1]["answer"] == "refund_failed:expired_or_canceled_card"
        await upstream.send(decision(asking.payment_id, resolution, failed.data["version"]))  # type: ignore[arg-type]
        settled = await cases.next()

        async def at_rest() -> bool:
            return (await payments.row(asking.payment_id))["due_at"] is None

        if resolution == "not_refunded":
            await until(at_rest, what="the gateway, which made no refund, to agree")
    assert (kind(settled.type), settled.data["decided_by"]) == (told, "ann")


async def test_a_payment_that_was_never_captured_is_not_refunded(
    start: Start, upstream: UpstreamClient, gateway: ScriptedGateway
) -> None:
    events, asking = await upstream.tap("payment.events"), requested(method="pm_card_chargeDeclined")
    async with start():
        await upstream.send(asking)
        declined = await events.next()
        await upstream.send(to_refund(asking.payment_id))
        again = await events.next()
    assert (again.id, again.message.body) == (declined.id, declined.message.body)
    assert gateway.count(GatewayStep.REFUND) == 0
