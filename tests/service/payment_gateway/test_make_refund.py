"""MakeRefund from the saga: parts of a captured payment go back, each id once, and never more than is left."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from deploy.sandbox.server import Sandbox
from services.payment_gateway.domain import GatewayStep
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.stripe import StripeGateway
from shared.contracts import payment_gateway as messages
from tests.service.payment_gateway.conftest import (
    PaymentGatewayFixture,
    Start,
    about,
    decision,
    kind,
    requested,
    to_refund,
    version,
)
from tests.service.payment_gateway.scripted import UNKNOWN, Say, ScriptedGateway
from tests.service.payment_gateway.test_sandbox_faults import ledger_rows, service
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.hasty_gateway import PATIENT_S
from tests.support.upstream_client import Received, Subscription, UpstreamClient
from tests.support.waiting import until

IDS = [UUID(int=number) for number in range(81, 86)]


def to_make(payment_id: UUID, refund_id: UUID, amount_minor: int | None = None) -> messages.MakeRefund:
    return messages.MakeRefund(
        invoice_id="INV-1",
        payment_id=payment_id,
        refund_id=refund_id,
        amount_minor=amount_minor,
        currency="EUR",
        reason="returned",
    )


def facts(refund_id: UUID, amount_minor: int | None, refunded_minor: int) -> dict[str, Any]:
    told = {"refund_id": str(refund_id), "amount_minor": amount_minor, "refunded_minor": refunded_minor}
    told["left_minor"] = 1_250 - refunded_minor
    return {name: value for name, value in told.items() if value is not None}


async def refunds_of(payments: PaymentGatewayFixture, payment_id: UUID) -> list[tuple[str, int | None]]:
    found = await rows(
        payments.url, "SELECT status, amount_minor FROM refunds WHERE payment_id = $1 ORDER BY position", payment_id
    )
    return [(row["status"], row["amount_minor"]) for row in found]


async def test_parts_go_back_one_after_the_other_and_the_rest_last(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    payment_id = asking.payment_id
    async with start():
        await upstream.send(asking)
        await events.next()
        await asyncio.gather(
            upstream.send(to_make(payment_id, IDS[0], 250)),
            upstream.send(to_make(payment_id, IDS[1], 300)),
        )
        both = await events.take(2)
        assert {one.data["amount_minor"] for one in both} == {250, 300}
        assert (await payments.until(payment_id, "captured"))["due_at"] is None
        await upstream.send(to_make(payment_id, IDS[2]))
        rest = await events.next()
        await upstream.send(to_make(payment_id, IDS[2]))
        again = await events.next()
    assert rest.content == messages.PaymentRefunded(
        **about(asking, rest.data["version"]),
        amount_minor=700,
        currency="EUR",
        refund_id=f"re_memory_{IDS[2].hex}",
        refund=messages.RefundFacts(**facts(IDS[2], 700, 1_250)),
    )
    assert (again.id, again.message.body) == (rest.id, rest.message.body)
    assert sorted(order.amount_minor for order in gateway.refunds) == [250, 300, 700]
    assert (await payments.row(payment_id))["status"] == "refunded"
    assert sorted(await refunds_of(payments, payment_id), key=str) == [
        ("refunded", 250),
        ("refunded", 300),
        ("refunded", 700),
    ]


async def test_the_same_id_with_another_amount_is_a_dead_letter_and_changes_nothing(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        await events.next()
        await upstream.send(to_make(asking.payment_id, IDS[0], 250))
        await events.next()
        await upstream.send(to_make(asking.payment_id, IDS[0], 251))
        dead = await (await upstream.queue("dead-letters")).next()
    assert "refund_id_reused" in str(dead.message.headers)
    assert gateway.count(GatewayStep.REFUND) == 1


async def test_a_refund_above_what_is_left_there_is_a_case_and_the_next_one_goes_on(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """A colleague has given 1 000 back in the gateway's dashboard, and the invoice is told so first."""
    cases, asking = await upstream.queue("staff.cases"), requested()
    events = await upstream.tap("payment.events")
    payment_id = asking.payment_id
    async with start():
        await upstream.send(asking)
        captured = await payments.until(payment_id, "captured")
        by_hand = port.RefundOrder(uuid4(), uuid4(), 1_000, "EUR")
        await gateway.truth.refund(captured["gateway_id"], by_hand, key="by hand")
        await upstream.send(to_make(payment_id, IDS[0], 300))
        _, told = await events.take(2)
        assert (kind(told.type), told.data["amount_minor"], told.data["decided_by"]) == ("PaymentRefunded", 1_000, None)
        assert told.data["refund"] == facts(UUID(told.data["refund"]["refund_id"]), 1_000, 1_000)
        failed = await cases.next()
        assert (kind(failed.type), failed.data["reason"]) == ("PaymentRefundFailed", "refund_too_large")
        assert failed.data["refund"] == facts(IDS[0], 300, 1_000)
        await upstream.send(to_make(payment_id, IDS[1]))
        told_again = {kind(one.type): one.id for one in await cases.take(2)}
        assert told_again.keys() == {"PaymentRefundFailed", "PaymentInquired"}, "the gateway was asked once more"
        assert told_again["PaymentRefundFailed"] == failed.id, "and the case is told again"
        await upstream.send(decision(payment_id, "not_refunded", failed.data["version"]))
        kept, rest = sorted(await cases.take(2), key=version)  # two tasks publish them
    assert (kind(kept.type), kept.data["decided_by"]) == ("PaymentRefundFailed", "ann")
    assert rest.data["refund"] == facts(IDS[1], 250, 1_250)
    assert [order.amount_minor for order in gateway.refunds] == [250]
    assert await refunds_of(payments, payment_id) == [("kept", 300), ("refunded", 1_000), ("refunded", 250)]


async def test_a_person_has_a_refund_made_again(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    refused = port.RefundFailed("insufficient_balance_for_refund", "HTTP 400", left_minor=1_250)
    gateway.always(GatewayStep.REFUND, Say(refused))
    cases, asking = await upstream.queue("staff.cases"), requested()
    async with start():
        await upstream.send(asking)
        await payments.until(asking.payment_id, "captured")
        await upstream.send(to_make(asking.payment_id, IDS[0], 250))
        failed = await cases.next()
        assert failed.data["reason"] == "insufficient_balance_for_refund"
        assert gateway.count(GatewayStep.REFUND) == 4, "once, and once a rung"
        gateway.always(GatewayStep.REFUND, None)
        await upstream.send(decision(asking.payment_id, "refund_again", failed.data["version"]))
        made = await cases.next()
    assert (kind(made.type), made.data["refund"]) == ("PaymentRefunded", facts(IDS[0], 250, 250))
    keys = [key for step, key in gateway.calls if step is GatewayStep.REFUND]
    assert len(set(keys)) == len(keys), "the gateway would replay its refusal"


async def test_a_refund_whose_answer_was_lost_is_asked_for_and_not_made_twice(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.REFUND, Say(UNKNOWN, done=True))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        await events.next()
        await upstream.send(to_make(asking.payment_id, IDS[0], 250))
        doubt, made = await events.take(2)
    assert (kind(doubt.type), kind(made.type)) == ("PaymentRefundInDoubt", "PaymentRefunded")
    assert doubt.data["refund"] == facts(IDS[0], 250, 0)
    assert gateway.count(GatewayStep.REFUND) == 1


async def test_parts_at_the_sandbox_whatever_becomes_of_the_answers(
    environment: Environment, upstream: UpstreamClient, payments: PaymentGatewayFixture, tmp_path: Path
) -> None:
    """Five refunds a payment, four of them at once, at a gateway that loses answers, answers 500, or lacks balance; all keys are real."""
    ledger = tmp_path / "ledger.sqlite"
    tokens = ("refund_then_500", "refund_then_timeout", "refund_500_unmade", "refund_lost", "refund_low_balance")
    askings = [requested(method=f"pm_remit_{token}") for token in tokens]
    async with Sandbox(ledger) as sandbox, service(environment, sandbox):
        for asking in askings:
            await upstream.send(asking)
        for asking in askings:
            await payments.until(asking.payment_id, "captured")
            for number, refund_id in enumerate(IDS):
                await upstream.send(to_make(asking.payment_id, refund_id, None if number == 4 else 200))
        for asking in askings:
            await payments.until(asking.payment_id, "refunded")
    made = ledger_rows(
        ledger,
        """SELECT r.payment_intent, json_extract(d.metadata, '$.refund_id'), count(*), sum(r.amount)
           FROM refunds r JOIN refund_details d ON d.refund = r.id GROUP BY 1, 2""",
    )
    assert len(made) == len(askings) * len(IDS)
    assert {times for *_, times, _ in made} == {1}, "each refund was made once"
    whole = ledger_rows(ledger, "SELECT sum(amount) FROM refunds GROUP BY payment_intent")
    assert whole == [(1_250,)] * len(askings)
    assert ledger_rows(ledger, "SELECT key FROM idempotency_keys WHERE mismatches > 0") == []


async def test_a_refund_that_a_build_before_began_is_ended(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """It kept its one refund of a payment in the payment's row. Nothing of it is in the table of refunds."""
    asking = requested()
    async with start():
        await upstream.send(asking)
        await payments.until(asking.payment_id, "captured")
    connection = await asyncpg.connect(payments.url, timeout=10)
    await connection.execute("UPDATE payments SET status = 'refunding', version = version + 1, due_at = now()")
    await connection.close()
    # The gateway of the test forgot nothing: it lives as long as the test.
    async with start():
        await payments.until(asking.payment_id, "refunded")
        await upstream.send(to_refund(asking.payment_id))

        async def kept() -> bool:
            return bool(await refunds_of(payments, asking.payment_id))

        await until(kept, what="the refund in the table")
    assert await refunds_of(payments, asking.payment_id) == [("refunded", 1_250)]
    assert [order.refund_id for order in gateway.refunds] == [asking.payment_id]


async def test_a_refund_that_a_restore_took_from_us_is_told_once_more_under_its_own_id(
    environment: Environment, upstream: UpstreamClient, payments: PaymentGatewayFixture, tmp_path: Path
) -> None:
    """And what a colleague wrote in the dashboard is none of ours: it is told as given back by others."""
    events, asking = await upstream.tap("payment.events"), requested()
    payment_id = asking.payment_id
    async with Sandbox(tmp_path / "ledger.sqlite") as sandbox, service(environment, sandbox):
        await upstream.send(asking)
        captured = await payments.until(payment_id, "captured")
        await upstream.send(to_make(payment_id, IDS[0], 400))
        _, made = await events.take(2)
        await payments.until(payment_id, "captured")
        connection = await asyncpg.connect(payments.url, timeout=10)
        await connection.execute("DELETE FROM refunds")
        await connection.close()
        colleague = StripeGateway(api_key="sk_test_1", base_url=sandbox.url, timeout_s=PATIENT_S, connections=1)
        by_hand = port.RefundOrder(IDS[4], uuid4(), 50, "EUR")
        assert isinstance(await colleague.refund(captured["gateway_id"], by_hand, key="k"), port.Refunded)
        await colleague.close()
        await upstream.send(to_make(payment_id, IDS[1], 200))
        found, others, last = await events.take(3)
    assert (found.data["refund"], found.data["refund_id"]) == (facts(IDS[0], 400, 400), made.data["refund_id"])
    assert found.data["version"] > made.data["version"]
    assert UUID(others.data["refund"]["refund_id"]) not in {IDS[0], IDS[4]}
    assert (others.data["amount_minor"], last.data["refund"]) == (50, facts(IDS[1], 200, 650))


async def told_of(cases: Subscription, wanted: str) -> Received:
    """The next message of this kind."""
    while kind((told := await cases.next()).type) != wanted:
        pass
    return told


async def test_what_staff_paid_by_transfer_is_neither_looked_for_nor_given_back_again(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """The decision is kept with the refund, so that the next refund does not undo it."""
    gateway.then(GatewayStep.REFUND, Say(port.RefundFailed("expired_card", "HTTP 400", left_minor=1_250)))
    cases, asking = await upstream.queue("staff.cases"), requested()
    look = messages.InquirePayment(invoice_id="INV-1", payment_id=asking.payment_id, look=True)
    async with start():
        await upstream.send(asking)
        await payments.until(asking.payment_id, "captured")
        await upstream.send(to_make(asking.payment_id, IDS[0], 400))
        failed = await cases.next()
        await upstream.send(decision(asking.payment_id, "refunded", failed.data["version"]))
        await told_of(cases, "PaymentRefunded")
        await upstream.send(to_make(asking.payment_id, IDS[1]))
        rest = await told_of(cases, "PaymentRefunded")
        assert rest.data["refund"] == facts(IDS[1], 850, 1_250)
        await upstream.send(look)
        while (await told_of(cases, "PaymentInquired")).data["state"] != "refunded":
            pass  # what the look at once after the decision found
    assert [order.amount_minor for order in gateway.refunds] == [400, 850]
    kept = await rows(payments.url, "SELECT made_elsewhere FROM refunds ORDER BY position")
    assert [row["made_elsewhere"] for row in kept] == [True, False]
