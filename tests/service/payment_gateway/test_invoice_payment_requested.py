"""InvoicePaymentRequested: the payment is charged at most once, and its outcome is published."""

import asyncio
import json

from services.payment_gateway.domain import GatewayStep
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.port import ChargeDetails
from shared.contracts import invoice
from shared.contracts import payment_gateway as messages
from shared.ids import derived_id
from tests.service.payment_gateway.conftest import (
    PaymentGatewayFixture,
    Start,
    about,
    captured_of,
    kind,
    requested,
)
from tests.service.payment_gateway.scripted import UNKNOWN, Say, ScriptedGateway
from tests.support.upstream_client import Received, UpstreamClient


async def test_a_payment_is_captured_in_two_steps(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        message_id = await upstream.send(asking, correlationid="C-9")
        captured = await events.next()
        await payments.outbox_is_empty()  # on a busy machine the sweeper publishes what is left
    assert captured.content == captured_of(asking, 3)
    assert captured.id == str(derived_id(asking.payment_id, 3))
    assert (captured.event["correlationid"], captured.event["causationid"]) == ("C-9", str(message_id))
    assert captured.message.routing_key == captured.type
    assert await payments.attempts(asking.payment_id) == [("prepare", "prepared"), ("execute", "captured")]
    row = await payments.row(asking.payment_id)
    assert (row["status"], row["fence"], row["leased_by"], row["due_at"]) == ("captured", 1, None, None)


DETAILS = ChargeDetails(
    "cus_1", "mandate_1", "Hosting in May: 日本", "HOSTING 05", (("contract", "C-7"), ("team", "web & mail"))
)


async def test_a_saved_card_is_charged_with_what_its_sender_said_also_after_a_restart(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """The first call comes from the message in memory, the second one from the row."""
    gateway.then(GatewayStep.PREPARE, Say(port.NotSent("refused")))
    texts = invoice.ChargeDetails(
        description=DETAILS.description,
        statement_descriptor=DETAILS.statement_descriptor,
        metadata={"team": "web & mail", "contract": "C-7"},
    )
    method = invoice.TokenMethod(token="pm_card_visa", customer="cus_1", mandate="mandate_1", details=texts)
    asking = requested().model_copy(update={"method": method})
    async with start():
        await upstream.send(asking)
        await payments.until(asking.payment_id, "captured")
    assert [order.details for order in gateway.orders] == [DETAILS, DETAILS]
    assert gateway.mandates == ["mandate_1"]


async def test_a_decline_is_recorded_after_its_cancel(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    events, asking = (
        await upstream.tap("payment.events"),
        requested(method="pm_card_visa_chargeDeclinedInsufficientFunds"),
    )
    async with start():
        await upstream.send(asking)
        declined = await events.next()
    assert declined.content == messages.PaymentDeclined(**about(asking, 4), reason="insufficient_funds")
    assert await payments.attempts(asking.payment_id) == [
        ("prepare", "prepared"),
        ("execute", "declined:insufficient_funds"),
        ("cancel", "cancelled"),
    ]


async def test_a_refused_payment_was_never_charged(start: Start, upstream: UpstreamClient) -> None:
    events, asking = await upstream.tap("payment.events"), requested(method="tok_unknown")
    async with start():
        await upstream.send(asking)
        refused = await events.next()
    assert refused.content == messages.PaymentNotCharged(**about(asking, 2), reason="resource_missing")


async def test_a_charge_whose_answer_was_lost_is_found_by_retrieving(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        doubt, captured = await events.take(2)
    assert (kind(doubt.type), doubt.data["reason"], doubt.data["version"]) == (
        "PaymentInDoubt",
        "no_readable_answer",
        3,
    )
    assert [(a["step"], a["answer"], a["evidence"]) for a in doubt.data["attempts"]] == [
        ("prepare", "prepared", "memory"),
        ("execute", "unknown", "HTTP 504 req_1"),
    ]
    assert captured.content == captured_of(asking, 4)
    assert captured.message.routing_key == f"{captured.type}.case", "staff receive the end of a case"
    assert gateway.count(GatewayStep.EXECUTE) == 1


async def test_a_confirm_that_never_arrived_is_sent_again_under_another_key(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=False))
    asking = requested()
    async with start():
        await upstream.send(asking)
        await payments.until(asking.payment_id, "captured")
    keys = [key for step, key in gateway.calls if step is GatewayStep.EXECUTE]
    assert keys == [f"{asking.payment_id}:execute:1", f"{asking.payment_id}:execute:2"]


async def test_a_call_beyond_the_limit_is_tried_again_after_the_requested_time_and_spends_no_rung(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    busy = Say(port.Limited("HTTP 429", retry_after_s=0.1))
    gateway.then(GatewayStep.PREPARE, busy, busy)
    gateway.then(GatewayStep.EXECUTE, busy)
    asking = requested()
    async with start(ladder_s=(3_600.0,)):
        await upstream.send(asking)
        await payments.until(asking.payment_id, "captured")
    steps = [step for step, _ in await payments.attempts(asking.payment_id)]
    assert steps == ["prepare", "prepare", "prepare", "execute", "inquire", "execute"]


async def test_duplicate_requests_on_two_instances_are_one_payment(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    events = await upstream.tap("payment.events")
    askings = [requested() for _ in range(30)]
    ids, received = {str(asking.payment_id) for asking in askings}, list[Received]()
    async with start(), start():
        for _ in range(3):  # other message ids, so that the payment id must recognise them, not the inbox
            await asyncio.gather(*(upstream.send(asking) for asking in askings))
        while {h.data["payment_id"] for h in received} != ids:
            received.append(await events.next())
        await payments.outbox_is_empty()
    assert gateway.count(GatewayStep.PREPARE) == gateway.count(GatewayStep.EXECUTE) == len(askings)
    assert await upstream.depth("dead-letters") == 0
    # A request that came after the outcome was answered by the same outcome, byte for byte.
    bodies: dict[str, set[bytes]] = {}
    for h in [*received, *await events.waiting()]:
        bodies.setdefault(h.id, set()).add(h.message.body)
    assert {len(same) for same in bodies.values()} == {1}


async def test_a_payment_id_used_for_something_else_is_a_dead_letter(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    letters, asking = await upstream.queue("dead-letters"), requested()
    async with start():
        await upstream.send(asking)
        await payments.until(asking.payment_id, "captured")
        await upstream.send(requested(asking.payment_id, amount_minor=99))
        letter = await letters.next()
    assert "payment_id_reused" in str(letter.message.headers["x-remit-error-text"])
    assert json.loads(letter.message.body)["data"]["amount_minor"] == 99
    assert (await payments.row(asking.payment_id))["amount_minor"] == 1_250
