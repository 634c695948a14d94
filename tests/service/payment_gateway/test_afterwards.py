"""A payment's life after its outcome, through the production adapter: days pass in milliseconds."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from deploy.sandbox.faults import Deed
from deploy.sandbox.server import Sandbox
from services.payment_gateway import store
from services.payment_gateway.__main__ import assemble_with
from services.payment_gateway.domain import GatewayStep, Policy
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.memory import MemoryGateway
from services.payment_gateway.gateways.stripe import StripeGateway
from services.payment_gateway.settings import ChargingSettings
from shared.contracts import payment_gateway as messages
from shared.persistence.database import Database
from shared.service import Runtime
from tests.service.payment_gateway.conftest import (
    PaymentGatewayFixture,
    Start,
    about,
    decision,
    kind,
    requested,
    to_refund,
)
from tests.service.payment_gateway.scripted import UNKNOWN, Say, ScriptedGateway
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.hasty_gateway import PATIENT_S
from tests.support.upstream_client import Received, Subscription, UpstreamClient
from tests.support.waiting import until

DAYS = Policy(
    ladder_s=(0.05, 0.05),
    remind_s=0.2,
    watch_s=0.2,
    refund_looks_s=(0.05,) * 3,
    cancel_looks_s=(0.05,),
    capture_looks_s=(0.05,),
)


@pytest.fixture
async def sandbox(environment: Environment, tmp_path: Path) -> AsyncIterator[Sandbox]:
    """The service at a sandbox, with days that last milliseconds."""
    async with Sandbox(tmp_path / "ledger.sqlite") as sandbox:
        settings = ChargingSettings(sandbox.url, "sk_test_1", PATIENT_S, 20, DAYS, None)

        async def assemble(runtime: Runtime) -> None:
            gateway = StripeGateway(api_key="sk_test_1", base_url=sandbox.url, timeout_s=PATIENT_S, connections=20)
            assemble_with(runtime, settings, gateway)

        async with environment.running("payment_gateway", assemble):
            yield sandbox


async def told(events: Subscription, payment_ids: dict[UUID, Any], wanted: str) -> dict[UUID, Received]:
    """The next message of this type about each of these payments."""
    found: dict[UUID, Received] = {}
    while found.keys() < payment_ids.keys():
        received = await events.next()
        payment_id = UUID(received.data["payment_id"])
        if kind(received.type) == wanted and payment_id in payment_ids:
            found.setdefault(payment_id, received)
    return found


async def do(sandbox: Sandbox, deed: Deed, gateway_id: str) -> None:
    """What others do to a payment beside the API."""
    async with aiohttp.ClientSession(sandbox.admin_url, raise_for_status=True) as people:
        await people.post(f"/_sandbox/payments/{gateway_id}/{deed.value}", json={})


SIDE = {"answer": "captured", "captured_minor": 1_250, "refunded_minor": 0, "currency": "EUR", "disputed": False}
CONTRADICTED: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "pm_remit_disputed": ("disputed", "captured", SIDE | {"disputed": True}),
    "pm_remit_inquired_about": ("disputed", "captured", SIDE | {"disputed": True}),
    "pm_remit_dispute_lost": ("disputed", "captured", SIDE | {"disputed": True, "lost_minor": 1_250}),
    "pm_remit_refunded_there": ("refunded_at_gateway", "captured", SIDE | {"refunded_minor": 1_250}),
    "pm_remit_partly_refunded_there": ("refunded_at_gateway", "captured", SIDE | {"refunded_minor": 625}),
    "pm_remit_partial_capture": ("capture_differs", None, SIDE | {"captured_minor": 750}),
    "pm_remit_over_capture": ("capture_differs", None, SIDE | {"captured_minor": 1_375}),
}
"""For each token: the reason of its case, what it had been settled as, and what the gateway says, beside how its dispute stands."""
STANDS: dict[str, str] = {
    "pm_remit_disputed": "needs_response",
    "pm_remit_inquired_about": "warning_needs_response",
    "pm_remit_dispute_lost": "lost",
}


async def test_what_the_gateway_changes_afterwards_becomes_a_case_with_both_sides(
    sandbox: Sandbox, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    assert sandbox.url
    events = await upstream.tap("payment.events")
    asked = {(asking := requested(method=token)).payment_id: (token, asking) for token in CONTRADICTED}
    for _, asking in asked.values():
        await upstream.send(asking)
    cases = await told(events, asked, "PaymentNeedsDecision")
    for payment_id, (token, asking) in asked.items():
        reason, settled_as, side = CONTRADICTED[token]
        shown = cases[payment_id].data
        dispute = shown["gateway"].pop("dispute", {})
        assert dispute.get("status") == STANDS.get(token)
        assert (
            not dispute or {"reason": "fraudulent", "amount_minor": 1_250, "currency": "EUR"}.items() <= dispute.items()
        )
        assert bool(dispute) is ("evidence_due_at" in dispute)
        assert (shown["reason"], shown.get("settled_as"), shown["gateway"]) == (reason, settled_as, side), token
        assert shown["amount_minor"] == asking.amount_minor
    differ = {i: asked[i] for i, (token, _) in asked.items() if CONTRADICTED[token][0] == "capture_differs"}
    for payment_id in differ:
        row = await payments.row(payment_id)
        await upstream.send(decision(payment_id, "captured", row["version"]))
    refused = await told(events, differ, "PaymentResolutionRefused")
    assert {received.data["reason"] for received in refused.values()} == {"does_not_fit"}
    for payment_id in differ:
        await upstream.send(decision(payment_id, "give_back", (await payments.row(payment_id))["version"]))
    back = await told(events, differ, "PaymentRefunded")
    for payment_id, (token, _) in differ.items():
        assert back[payment_id].data["amount_minor"] == CONTRADICTED[token][2]["captured_minor"]
        assert (back[payment_id].data["decided_by"], back[payment_id].data["asked_by"]) == (None, "ann")


async def test_what_was_given_back_in_the_dashboard_is_told_as_a_refund_of_the_invoice(
    sandbox: Sandbox, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    """A refund that is asked for meanwhile is kept, and begins with the decision."""
    assert sandbox.url
    events, asking = await upstream.tap("payment.events"), requested(method="pm_remit_partly_refunded_there")
    wanted = {asking.payment_id: None}
    await upstream.send(asking)
    case = (await told(events, wanted, "PaymentNeedsDecision"))[asking.payment_id].data
    refund_id = uuid4()
    make = messages.MakeRefund(
        invoice_id="INV-1", payment_id=asking.payment_id, refund_id=refund_id, currency="EUR", reason="returned"
    )
    await payments.until_handled(await upstream.send(make))
    kept = await rows(payments.url, "SELECT refund_id, status FROM refunds")
    assert [tuple(row.values()) for row in kept] == [(refund_id, "waiting")]
    await upstream.send(decision(asking.payment_id, "not_charged", case["version"]))
    await told(events, wanted, "PaymentResolutionRefused")
    await upstream.send(decision(asking.payment_id, "refunded", case["version"]))
    by_hand = (await told(events, wanted, "PaymentRefunded"))[asking.payment_id].data
    rest = (await told(events, wanted, "PaymentRefunded"))[asking.payment_id].data
    assert (by_hand["amount_minor"], by_hand["decided_by"]) == (625, "ann")
    assert by_hand["refund"]["refund_id"] not in {str(asking.payment_id), str(refund_id)}
    assert (rest["amount_minor"], rest["refund"]["refund_id"]) == (625, str(refund_id))
    assert (await payments.row(asking.payment_id))["status"] == "refunded"


async def test_a_dispute_of_what_was_given_back_is_a_case_until_it_is_won(
    sandbox: Sandbox, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    wanted = {asking.payment_id: None}
    look = messages.InquirePayment(invoice_id="INV-1", payment_id=asking.payment_id, look=True)
    await upstream.send(asking)
    gateway_id = (await payments.until(asking.payment_id, "captured"))["gateway_id"]
    await upstream.send(to_refund(asking.payment_id))
    back = (await told(events, wanted, "PaymentRefunded"))[asking.payment_id].data
    await do(sandbox, Deed.DISPUTE, gateway_id)
    await upstream.send(look)
    case = (await told(events, wanted, "PaymentNeedsDecision"))[asking.payment_id].data
    assert (case["reason"], case["settled_as"]) == ("disputed", "refunded")
    assert (case["gateway"]["refunded_minor"], case["gateway"]["dispute"]["status"]) == (1_250, "needs_response")
    await do(sandbox, Deed.WIN_DISPUTE, gateway_id)
    await payments.until(asking.payment_id, "refunded")
    again = (await told(events, wanted, "PaymentRefunded"))[asking.payment_id].data
    assert again["version"] > case["version"] > back["version"]
    assert again["refund"] == back["refund"]


async def test_a_bank_that_sends_a_refund_back_and_a_capture_after_a_cancel_are_found(
    sandbox: Sandbox, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    assert sandbox.url
    events = await upstream.tap("payment.events")
    bounced, revived = (
        requested(method="pm_remit_refund_fails_later"),
        requested(method="pm_remit_captured_after_cancel"),
    )
    await upstream.send(bounced)
    await upstream.send(revived)
    await payments.until(bounced.payment_id, "captured")
    await upstream.send(to_refund(bounced.payment_id))
    failed = (await told(events, {bounced.payment_id: None}, "PaymentRefundFailed"))[bounced.payment_id].data
    assert (failed["reason"], failed["settled_as"]) == ("lost_or_stolen_card", "refunded")
    late = await payments.until(revived.payment_id, "captured")
    assert (late["settled_as"], late["due_at"] is not None) == ("declined", True)
    announced = await rows(
        payments.url, "SELECT body FROM outcomes WHERE payment_id = $1 ORDER BY version", revived.payment_id
    )
    assert b'"late":true' in bytes(announced[-1]["body"])


async def test_a_decision_is_watched_through_a_rotated_key_until_the_gateway_shows_the_capture(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """The gateway is silent for longer than the ladder, and the customer has paid again: the first charge must not be forgotten."""
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    gateway.always(GatewayStep.CANCEL, Say(UNKNOWN))
    cases, asking = await upstream.queue("staff.cases"), requested()
    async with start(ladder_s=(0.05,), remind_s=3_600.0, watch_s=0.05):
        await upstream.send(asking)
        needs = await payments.until(asking.payment_id, "needs_decision")
        await upstream.send(decision(asking.payment_id, "not_charged", needs["version"]))

        async def outlived_the_ladder() -> bool:
            return gateway.count(GatewayStep.CANCEL) > 5

        await until(outlived_the_ladder, what="looks behind the end of the ladder")
        gateway.always(GatewayStep.CANCEL, None)
        late = await told(cases, {asking.payment_id: None}, "PaymentCaptured")
    assert late[asking.payment_id].data["late"]


async def test_a_wrong_decision_is_taken_back_and_decided_anew(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    gateway.always(GatewayStep.INQUIRE, Say(UNKNOWN))
    gateway.always(GatewayStep.CANCEL, Say(UNKNOWN))
    cases, asking = await upstream.queue("staff.cases"), requested()
    wanted = {asking.payment_id: None}
    async with start(ladder_s=(0.05,)):
        await upstream.send(asking)
        needs = (await told(cases, wanted, "PaymentNeedsDecision"))[asking.payment_id].data
        await upstream.send(decision(asking.payment_id, "not_charged", needs["version"]))
        settled = (await told(cases, wanted, "PaymentNotCharged"))[asking.payment_id].data
        await upstream.send(decision(asking.payment_id, "reopen", settled["version"], by="bob"))
        again = (await told(cases, wanted, "PaymentNeedsDecision"))[asking.payment_id].data
        assert (again["reason"], again["settled_as"]) == ("reopened_by_person", "not_charged")
        await upstream.send(decision(asking.payment_id, "captured", again["version"], by="bob"))
        captured = (await told(cases, wanted, "PaymentCaptured"))[asking.payment_id]
    assert captured.content == messages.PaymentCaptured(
        **about(asking, again["version"] + 1),
        amount_minor=1_250,
        currency="EUR",
        receipt_number="R-77",
        gateway_id=again["gateway_id"],
        late=True,
        decided_by="bob",
    )
    decisions = await rows(payments.url, "SELECT resolution, decided_by FROM decisions ORDER BY expected_version")
    assert [tuple(row.values()) for row in decisions] == [
        ("not_charged", "ann"),
        ("reopen", "bob"),
        ("captured", "bob"),
    ]


async def test_asking_about_a_settled_payment_asks_the_gateway_and_tells_staff(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    cases, asking = await upstream.queue("staff.cases"), requested()
    look = messages.InquirePayment(invoice_id="INV-1", payment_id=asking.payment_id, look=True)
    async with start():
        await upstream.send(asking)
        settled = await payments.until(asking.payment_id, "captured")
        await upstream.send(look)
        first = await cases.next()
        await upstream.send(look)
        second = await cases.next()
    assert [kind(received.type) for received in (first, second)] == ["PaymentInquired"] * 2
    assert first.data["attempts"][-1]["answer"] == "captured"
    assert (first.data["version"], first.data["state"]) == (settled["version"], "captured")
    assert first.id != second.id, "new answers are new news"
    assert second.data["number"] > first.data["number"]
    assert gateway.count(GatewayStep.INQUIRE) == 2


async def test_a_capture_that_the_gateway_denies_is_a_case_only_if_it_knows_another(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """A key of another account denies everything: that is no case, and the log says it. Two denied beside each other are no account."""
    cases = await upstream.queue("staff.cases")
    asking, beside, other = map(requested, sorted(uuid4() for _ in range(3)))
    wanted = {asking.payment_id: None}
    look = messages.InquirePayment(invoice_id="INV-1", payment_id=asking.payment_id, look=True)
    async with start():
        for one in (asking, other):
            await upstream.send(one)
            await payments.until(one.payment_id, "captured")
        ours, gateway.truth = gateway.truth, MemoryGateway()
        await upstream.send(beside)
        await payments.until(beside.payment_id, "captured")
        gateway.truth = MemoryGateway()
        await upstream.send(look)
        shown = (await told(cases, wanted, "PaymentInquired"))[asking.payment_id].data
        assert (shown["state"], shown["attempts"][-1]["answer"]) == ("captured", "unknown")
        assert "is the key of another account?" in shown["attempts"][-1]["evidence"]
        gateway.truth = ours
        gateway.then(GatewayStep.INQUIRE, Say(port.NotFound("404")))
        await upstream.send(look)
        case = (await told(cases, wanted, "PaymentNeedsDecision"))[asking.payment_id].data
    assert (case["reason"], case["settled_as"], case["gateway"]["answer"]) == ("not_captured", "captured", "not_found")


async def test_only_what_the_gateway_itself_called_captured_shows_whose_key_it_is(
    payments: PaymentGatewayFixture,
) -> None:
    """What a person called captured the gateway may deny for good, whatever the key."""
    by_person = {1, 3, 5, 7}
    for number in range(1, 8):
        await execute(
            payments.url,
            """INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, status, version, gateway_id, receipt_number,
                   decided_by, was_case, rung, key_number, cause_id, correlation_id, fence)
               VALUES ($1, 'INV-1', 1250, 'EUR', 'captured', 2, $2, $2, $3, false, 0, 1, $1, 'C-1', 1)""",
            UUID(int=number),
            f"pi_{number}",
            "ann" if number in by_person else None,
        )
    database = await Database.open(payments.url, name="test", connections_max=1)
    try:
        async with database.connection() as connection:
            found = {number: sorted(await store.captures_beside(connection, UUID(int=number))) for number in (1, 4, 7)}
    finally:
        await database.close()
    assert found == {1: ["pi_2", "pi_6"], 4: ["pi_2", "pi_6"], 7: ["pi_6"]}
