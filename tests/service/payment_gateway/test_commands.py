"""Inquiries, refunds, decisions, reminders: what staff and the saga ask of a payment."""

import pytest

from services.payment_gateway.domain import GatewayStep
from services.payment_gateway.gateways import port
from tests.service.payment_gateway.conftest import (
    PaymentGatewayFixture,
    Start,
    asked,
    decision,
    kind,
    requested,
    to_refund,
)
from tests.service.payment_gateway.scripted import UNKNOWN, Say, ScriptedGateway
from tests.support.databases import execute, rows
from tests.support.upstream_client import Received, Subscription, UpstreamClient
from tests.support.waiting import until

# -- inquiries -------------------------------------------------------------------------------------------------------------------------


async def test_a_payment_never_seen_is_closed_and_its_request_is_never_sent(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asked(asking.payment_id))
        closed = await events.next()
        await upstream.send(asking)
        again = await events.next()
    assert (kind(closed.type), closed.data["reason"]) == ("PaymentNotCharged", "never_requested")
    assert (again.id, again.message.body) == (closed.id, closed.message.body)
    assert gateway.calls == []
    assert (await payments.row(asking.payment_id))["status"] == "not_charged"


async def test_a_known_outcome_is_announced_again_word_for_word(
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


async def test_asking_about_a_doubt_asks_the_gateway_now(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start(ladder_s=(3_600.0,)):
        await upstream.send(asking)
        doubt = await events.next()
        await upstream.send(asked(asking.payment_id))
        again, captured = await events.take(2)
    assert (again.id, again.message.body) == (doubt.id, doubt.message.body)
    assert kind(captured.type) == "PaymentCaptured"


async def test_an_attempt_that_was_asked_for_takes_a_rung_and_a_case_is_asked_about_at_once(
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


async def test_a_case_that_waits_for_a_person_is_asked_about_and_announced_again(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    cases, asking = await upstream.queue("staff.cases"), requested()
    async with start(ladder_s=(0.05,), remind_s=0.2):
        await upstream.send(asking)
        _, needs, again = await cases.take(3)
        assert kind(needs.type) == "PaymentNeedsDecision"
        assert (again.id, again.message.body) == (needs.id, needs.message.body)
        gateway.always(GatewayStep.INQUIRE, None)  # the gateway is back: nobody need decide
        await payments.until(asking.payment_id, "captured")


async def test_a_late_capture_that_nobody_heard_of_is_announced_again_until_it_is_given_back(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """The saga that waited has ended in failure and asks no more: were the announcement lost, the money would stay taken."""
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start(ladder_s=(0.05,), remind_s=0.2):
        await upstream.send(asking)
        needs = await payments.until(asking.payment_id, "needs_decision")
        await upstream.send(decision(asking.payment_id, "not_charged", needs["version"]))
        lost = await payments.until(asking.payment_id, "captured")
        late, again, and_again = await _heard(events, 3, "PaymentCaptured")
        assert late.data["late"]
        assert {(received.id, received.message.body) for received in (again, and_again)} == {
            (late.id, late.message.body)
        }
        assert (late.data["version"], lost["due_at"] is not None) == (lost["version"], True)
        await upstream.send(to_refund(asking.payment_id))
        await _heard(events, 1, "PaymentRefunded")
    refunded = await payments.row(asking.payment_id)
    assert (refunded["status"], refunded["due_at"]) == ("refunded", None), "nobody need hear of it again"


async def test_what_is_asked_about_and_settled_in_one_breath_is_at_rest(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """A capture that a person decided did not come late, whatever was asked just before: it is not announced again and again."""
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
    assert (row["decided_by"], row["due_at"]) == ("ann", None)


async def _heard(tap: Subscription, count: int, wanted: str) -> list[Received]:
    """The next messages of this kind, among others."""
    found: list[Received] = []
    while len(found) < count:
        received = await tap.next()
        found += [received] if kind(received.type) == wanted else []
    return found


# -- refunds ---------------------------------------------------------------------------------------------------------------------------


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
    assert (kind(settled.type), settled.data["decided_by"]) == (told, "ann")
    assert (await payments.row(asking.payment_id))["due_at"] is None


async def test_what_was_never_captured_is_not_given_back(
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


# -- decisions -------------------------------------------------------------------------------------------------------------------------


async def test_a_decision_about_what_is_settled_is_refused_and_kept(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        captured = await events.next()
        await upstream.send(decision(asking.payment_id, "not_charged", captured.data["version"]))
        refused = await events.next()
    assert (kind(refused.type), refused.data["reason"], refused.data["state"]) == (
        "PaymentResolutionRefused",
        "nothing_to_decide",
        "captured",
    )
    assert await rows(payments.url, "SELECT decided_by, refusal FROM decisions") == [
        {"decided_by": "ann", "refusal": "nothing_to_decide"}
    ]


async def test_a_decision_that_comes_again_after_the_inbox_forgot_it_decides_nothing(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=False))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    letters, asking = await upstream.queue("dead-letters"), requested()
    async with start(ladder_s=(0.05,)):
        await upstream.send(asking)
        needs = await payments.until(asking.payment_id, "needs_decision")
        message = decision(asking.payment_id, "captured", needs["version"])
        id_ = await upstream.send(message)
        before = await payments.until(asking.payment_id, "captured")
        events = await upstream.tap("payment.events")
        await execute(payments.url, "DELETE FROM inbox")
        await upstream.send(message, message_id=id_)

        async def handled_again() -> bool:
            return bool(await rows(payments.url, "SELECT FROM inbox WHERE message_id = $1", id_))

        await until(handled_again, what="the decision is taken in again")
    said = [kind(received.type) for received in await events.waiting()]
    assert "PaymentResolutionRefused" not in said, "it was not refused: it had taken effect"
    assert await letters.waiting() == []
    assert await payments.row(asking.payment_id) == before
    assert len(await rows(payments.url, "SELECT message_id FROM decisions")) == 1


async def test_a_decision_about_a_payment_never_seen_closes_it(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    cases, asking = await upstream.queue("staff.cases"), requested()
    async with start():
        await upstream.send(decision(asking.payment_id, "captured", 1))
        refused = await cases.next()
    assert (refused.data["reason"], refused.data["version"]) == ("unknown_payment", 1)
    assert (await payments.row(asking.payment_id))["reason"] == "never_requested"


async def test_a_message_that_is_not_for_this_queue_is_set_aside(start: Start, upstream: UpstreamClient) -> None:
    letters = await upstream.queue("dead-letters")
    async with start():
        stranger = (
            b'{"specversion":"1.0","id":"018f3c5e-0000-7000-8000-000000000009","type":"remit.invoice.VoidInvoice.v1",'
        )
        stranger += b'"source":"/x","data":{"invoice_id":"INV-1","reason":"no"}}'
        await upstream.send_raw(stranger, exchange="", key="payment_gateway.commands")
        letter = await letters.next()
        assert letter.message.routing_key == "payment_gateway.commands"
        events, asking = await upstream.tap("payment.events"), requested()
        await upstream.send(asking)

        async def captured() -> bool:
            return bool(await events.waiting())

        await until(captured, what="the next payment captured")
