"""InquirePayment from the saga or from staff: a known outcome is announced again, a payment in doubt is asked about now."""

from services.payment_gateway.domain import GatewayStep
from tests.service.payment_gateway.conftest import (
    PaymentGatewayFixture,
    Start,
    asked,
    captured_of,
    decision,
    requested,
    version,
)
from tests.service.payment_gateway.scripted import UNKNOWN, Say, ScriptedGateway
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until


async def test_a_question_that_overtakes_the_request_closes_nothing(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        asked_first = await upstream.send(asked(asking.payment_id))
        await payments.until_handled(asked_first)
        assert await events.waiting() == []
        assert await payments.row(asking.payment_id) == {"status": None}
        await upstream.send(asking)
        captured = await events.next()
    assert captured.content == captured_of(asking, 3)


async def test_a_known_outcome_is_announced_again_byte_for_byte(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        captured = await events.next()
        await upstream.send(asked(asking.payment_id))
        again = await events.next()
    assert (again.id, again.message.body) == (captured.id, captured.message.body)
    assert gateway.count(GatewayStep.INQUIRE) == 0


async def test_asking_about_a_payment_in_doubt_asks_the_gateway_now(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start(ladder_s=(3_600.0,)):
        await upstream.send(asking)
        doubt = await events.next()
        await upstream.send(asked(asking.payment_id))
        again, captured = sorted(await events.take(2), key=version)  # two tasks publish them
    assert (again.id, again.message.body) == (doubt.id, doubt.message.body)
    assert captured.content == captured_of(asking, 4)


async def test_an_inquiry_uses_a_rung_and_a_case_is_inquired_at_once(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    asking = requested()
    async with start(ladder_s=(3_600.0, 3_600.0)):
        await upstream.send(asking)
        await payments.until(asking.payment_id, "in_doubt")
        await upstream.send(asked(asking.payment_id))

        async def climbed() -> bool:
            return bool((await payments.row(asking.payment_id))["rung"] == 2)

        await until(climbed, what="the second rung")
        await upstream.send(asked(asking.payment_id))
        await payments.until(asking.payment_id, "needs_decision")
        assert gateway.count(GatewayStep.INQUIRE) == 2
        await upstream.send(asked(asking.payment_id))

        async def inquired() -> bool:
            return len(await payments.attempts(asking.payment_id)) == 5

        await until(inquired, what="one more inquiry, long before the reminder")
    assert gateway.count(GatewayStep.INQUIRE) == 3


async def test_a_payment_asked_about_and_settled_in_one_batch_has_no_next_attempt(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """A capture that a person decided did not come late, even after an inquiry just before it: so it is not announced again and again."""
    gateway.always(GatewayStep.EXECUTE, Say(UNKNOWN))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start(ladder_s=(3_600.0,)):
        await upstream.send(asking)
        doubt = await events.next()
    await upstream.send(asked(asking.payment_id))
    await upstream.send(decision(asking.payment_id, "captured", doubt.data["version"]))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    async with start(ladder_s=(3_600.0,)):
        row = await payments.until(asking.payment_id, "captured")
    assert (row["decided_by"], row["settled_as"]) == ("ann", None), "only a capture after another outcome is late"
