"""ResolvePayment from staff: a person decides about a payment whose outcome is unknown."""

import asyncio

from services.payment_gateway.domain import GatewayStep
from services.payment_gateway.gateways import port
from shared.contracts import payment_gateway as messages
from tests.service.payment_gateway.conftest import (
    JOURNAL_HEAD,
    PaymentGatewayFixture,
    Start,
    about,
    captured_of,
    decision,
    kind,
    requested,
    version,
)
from tests.service.payment_gateway.scripted import UNKNOWN, Hold, Say, ScriptedGateway
from tests.support.databases import execute, rows
from tests.support.upstream_client import Received, UpstreamClient

DEADLINE_S = 60.0


async def test_a_silent_gateway_needs_a_person_and_is_still_asked_after_the_decision(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.always(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    cases, asking = await upstream.queue("staff.cases"), requested()
    async with start():
        await upstream.send(asking)
        doubt, needs = await cases.take(2)
        assert (kind(doubt.type), kind(needs.type)) == ("PaymentInDoubt", "PaymentNeedsDecision")
        assert [a["step"] for a in needs.data["attempts"]] == ["prepare", "execute", "inquire", "inquire", "inquire"]
        decided = await upstream.send(decision(asking.payment_id, "not_charged", needs.data["version"]))
        not_charged, late = sorted(await cases.take(2), key=version)  # two tasks publish them
    assert not_charged.content == messages.PaymentNotCharged(
        **about(asking, 5), reason="decided_by_person", decided_by="ann"
    )
    assert not_charged.event["causationid"] == str(decided)
    assert late.content == captured_of(asking, 6, late=True)
    stored = await rows(payments.url, "SELECT resolution, evidence, decided_by, refusal, journal_head FROM decisions")
    assert stored == [
        {
            "resolution": "not_charged",
            "evidence": "statement of 22 November, line 4",
            "decided_by": "ann",
            "refusal": None,
            "journal_head": JOURNAL_HEAD,
        }
    ]


async def test_one_of_two_deciders_wins_and_the_other_is_told(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.always(GatewayStep.EXECUTE, Say(UNKNOWN))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        version = (await payments.until(asking.payment_id, "needs_decision"))["version"]
        await upstream.send(decision(asking.payment_id, "captured", version, by="ann"))
        await upstream.send(decision(asking.payment_id, "not_charged", version, by="bob"))
        told: dict[str, Received] = {}
        while "PaymentResolutionRefused" not in told:
            received = await events.next()
            told[kind(received.type)] = received
    captured, refused = told["PaymentCaptured"], told["PaymentResolutionRefused"]
    assert captured.content == captured_of(asking, version + 1, receipt_number="R-77", decided_by="ann")
    assert refused.content == messages.PaymentResolutionRefused(
        **about(asking, version + 1),
        reason="version_differs",
        state="captured",
        decided_by="bob",
        resolution="not_charged",
    )


async def test_a_capture_reported_after_the_decision_is_a_late_capture(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    held = Hold()
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    gateway.then(GatewayStep.INQUIRE, held)
    gateway.always(GatewayStep.CANCEL, Say(UNKNOWN))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        doubt = await events.next()
        async with asyncio.timeout(DEADLINE_S):
            await held.reached.wait()
        await upstream.send(decision(asking.payment_id, "not_charged", doubt.data["version"]))
        await events.next()
        held.let_go.set()
        late = await events.next()
    assert late.content == captured_of(asking, 5, late=True)
    assert ("inquire", "captured") in await payments.attempts(asking.payment_id), "it is kept whatever the fence"


async def test_a_decision_about_a_settled_payment_is_refused_and_recorded(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        captured = await events.next()
        await upstream.send(decision(asking.payment_id, "not_charged", captured.data["version"]))
        refused = await events.next()
    assert refused.content == messages.PaymentResolutionRefused(
        **about(asking, 3),
        reason="nothing_to_decide",
        state="captured",
        decided_by="ann",
        resolution="not_charged",
    )
    assert await rows(payments.url, "SELECT decided_by, refusal FROM decisions") == [
        {"decided_by": "ann", "refusal": "nothing_to_decide"}
    ]


async def test_a_decision_repeated_after_the_inbox_deleted_it_decides_nothing(
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

        await payments.until_handled(id_)
    said = [kind(received.type) for received in await events.waiting()]
    assert "PaymentResolutionRefused" not in said, "a decision that took effect is not refused"
    assert await letters.waiting() == []
    after = await payments.row(asking.payment_id)
    assert (after["status"], after["version"]) == ("captured", before["version"])
    assert len(await rows(payments.url, "SELECT message_id FROM decisions")) == 1


async def test_only_not_charged_can_be_decided_about_a_payment_never_seen_and_its_request_is_never_sent(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    cases, events, asking = await upstream.queue("staff.cases"), await upstream.tap("payment.events"), requested()
    async with start():
        id_ = await upstream.send(decision(asking.payment_id, "captured", 4))
        refused = await cases.next()
        assert await payments.row(asking.payment_id) == {"status": None}
        await upstream.send(decision(asking.payment_id, "not_charged", 1))
        closed = [await events.next() for _ in range(2)][-1]
        await upstream.send(asking)
        again = await events.next()
    assert refused.content == messages.PaymentResolutionRefused(
        **about(asking, 4),
        reason="unknown_payment",
        state="never_seen",
        decided_by="ann",
        resolution="captured",
    )
    kept = await rows(payments.url, "SELECT message_id, refusal FROM decisions ORDER BY decided_at")
    assert kept[0] == {"message_id": id_, "refusal": "unknown_payment"}
    assert (len(kept), kept[1]["refusal"]) == (2, None)
    assert closed.content == messages.PaymentNotCharged(
        **about(asking, 1), reason="decided_by_person", decided_by="ann"
    )
    assert (again.id, again.message.body) == (closed.id, closed.message.body)
    assert {step for step, _ in gateway.calls} <= {GatewayStep.FIND}, "it is only looked for"


async def test_what_was_closed_before_its_request_came_and_turns_out_captured_is_a_case_with_the_amount_of_the_capture(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """The database was restored to a time before the request, which then failed for another reason, and a person gave it up."""
    events, asking = await upstream.tap("payment.events"), requested()
    order = port.Order(asking.payment_id, asking.invoice_id, 1_250, "EUR", "pm_card_visa")
    prepared = await gateway.truth.prepare(order, key="before")
    assert isinstance(prepared, port.Prepared)
    await gateway.truth.execute(prepared.gateway_id, key="before")
    async with start():
        await upstream.send(decision(asking.payment_id, "not_charged", 1))
        closed, found = await events.next(), await events.next()
        assert (kind(closed.type), kind(found.type)) == ("PaymentNotCharged", "PaymentNeedsDecision")
        assert (found.data["reason"], found.data["settled_as"]) == ("unknown_here", "not_charged")
        assert (found.data["amount_minor"], found.data["currency"]) == (1_250, "EUR")
        await upstream.send(decision(asking.payment_id, "give_back", found.data["version"]))
        row = await payments.until(asking.payment_id, "refunded")
    assert (row["amount_minor"], row["currency"], row["gateway_id"]) == (1_250, "EUR", prepared.gateway_id)
