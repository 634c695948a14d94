"""Requests in, outcomes out: on a real broker and database, with a gateway that misbehaves as told."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.payment_gateway import charging, store
from services.payment_gateway.__main__ import assemble_with
from services.payment_gateway.domain import GatewayStep, Policy
from services.payment_gateway.gateways import port
from services.payment_gateway.settings import ChargingSettings
from shared.ids import derived_id
from shared.observability.metrics import READY
from shared.persistence.database import Record
from shared.service import Runtime
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, Start, asked, decision, kind, requested
from tests.service.payment_gateway.scripted import UNKNOWN, Hold, Say, ScriptedGateway
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import Received, UpstreamClient
from tests.support.waiting import until

DEADLINE_S = 60.0


async def test_a_payment_is_captured_in_two_steps(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        message_id = await upstream.send(asking, correlationid="C-9")
        captured = await events.next()
    gateway_id = f"pi_memory_{asking.payment_id}:prepare:1"
    assert (kind(captured.type), captured.data) == (
        "PaymentCaptured",
        {
            "invoice_id": "INV-1",
            "payment_id": str(asking.payment_id),
            "version": 3,
            "amount_minor": 1_250,
            "currency": "EUR",
            "receipt_number": gateway_id.replace("pi_", "ch_", 1),
            "gateway_id": gateway_id,
            "late": False,
            "decided_by": None,
        },
    )
    assert captured.id == str(derived_id(asking.payment_id, 3))
    assert (captured.event["correlationid"], captured.event["causationid"]) == ("C-9", str(message_id))
    assert captured.message.routing_key == captured.type
    assert await payments.attempts(asking.payment_id) == [("prepare", "prepared"), ("execute", "captured")]
    row = await payments.row(asking.payment_id)
    assert (row["status"], row["fence"], row["leased_by"], row["due_at"]) == ("captured", 1, None, None)
    await payments.outbox_is_empty()


async def test_an_answer_that_is_kept_already_is_kept_once(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    """As after a commit whose reply was lost."""
    events, asking = await upstream.tap("payment.events"), requested()
    await execute(
        payments.url,
        """INSERT INTO attempts (payment_id, fence, seq, at, step, answer, evidence)
           SELECT $1, 1, seq, now(), 'prepare', 'kept', 'HTTP 200' FROM generate_series(1, 2) AS seq""",
        asking.payment_id,
    )
    async with start():
        await upstream.send(asking)
        captured = await events.next()
    assert (kind(captured.type), captured.data["version"]) == ("PaymentCaptured", 3)
    assert await payments.attempts(asking.payment_id) == [("prepare", "kept"), ("prepare", "kept")]


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
    assert (kind(declined.type), declined.data["reason"]) == ("PaymentDeclined", "insufficient_funds")
    assert await payments.attempts(asking.payment_id) == [
        ("prepare", "prepared"),
        ("execute", "declined:insufficient_funds"),
        ("cancel", "cancelled"),
    ]


async def test_a_refusal_was_never_charged(start: Start, upstream: UpstreamClient) -> None:
    events = await upstream.tap("payment.events")
    async with start():
        await upstream.send(requested(method="tok_unknown"))
        refused = await events.next()
    assert (kind(refused.type), refused.data["reason"]) == ("PaymentNotCharged", "resource_missing")


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
    assert (kind(captured.type), captured.data["version"], captured.data["late"]) == ("PaymentCaptured", 4, False)
    assert captured.message.routing_key == f"{captured.type}.case", "staff hear how a case ends"
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


async def test_what_was_not_sent_is_tried_again_after_the_time_asked_for(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    busy = Say(port.NotSent("HTTP 429", retry_after_s=0.1))
    gateway.then(GatewayStep.PREPARE, busy, busy)
    gateway.then(GatewayStep.EXECUTE, busy)
    asking = requested()
    async with start():
        await upstream.send(asking)
        await payments.until(asking.payment_id, "captured")
    steps = [step for step, _ in await payments.attempts(asking.payment_id)]
    assert steps == ["prepare", "prepare", "prepare", "execute", "inquire", "execute"]


async def test_a_silent_gateway_needs_a_person_whose_decision_is_watched(
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
        not_charged, late = await cases.take(2)
    assert (kind(not_charged.type), not_charged.data["decided_by"]) == ("PaymentNotCharged", "ann")
    assert not_charged.event["causationid"] == str(decided)
    assert (kind(late.type), late.data["late"], late.data["version"]) == ("PaymentCaptured", True, 6)
    stored = await rows(payments.url, "SELECT resolution, evidence, decided_by, refusal FROM decisions")
    assert stored == [
        {
            "resolution": "not_charged",
            "evidence": "statement of 22 November, line 4",
            "decided_by": "ann",
            "refusal": None,
        }
    ]


async def test_of_two_deciders_one_wins_and_the_other_is_told(
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
        told = [
            received
            for received in await events.take(4)
            if kind(received.type) not in {"PaymentInDoubt", "PaymentNeedsDecision"}
        ]
    captured, refused = told
    assert (captured.data["receipt_number"], captured.data["decided_by"]) == ("R-77", "ann")
    assert (kind(refused.type), refused.data["reason"], refused.data["decided_by"]) == (
        "PaymentResolutionRefused",
        "version_differs",
        "bob",
    )
    assert (refused.data["state"], refused.data["version"]) == ("captured", version + 1)


async def test_an_answer_that_comes_after_the_decision_is_a_late_capture(
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
    assert (kind(late.type), late.data["late"]) == ("PaymentCaptured", True)
    assert ("inquire", "captured") in await payments.attempts(asking.payment_id), "kept without looking at the fence"


async def test_a_holder_that_slept_through_its_lease_changes_nothing(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    slept = Hold()
    gateway.then(GatewayStep.EXECUTE, slept)
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        async with asyncio.timeout(DEADLINE_S):
            await slept.reached.wait()
        await execute(payments.url, "UPDATE payments SET due_at = now()")  # the lease is over
        captured = await events.next()
        slept.let_go.set()

        async def recorded() -> bool:
            return len(await payments.attempts(asking.payment_id)) == 3

        await until(recorded, what="the sleeper's answer recorded")
        assert await events.waiting() == []
    assert (captured.data["version"], captured.data["late"]) == (3, False)
    row = await payments.row(asking.payment_id)
    assert (row["status"], row["version"], row["fence"]) == ("captured", 3, 2)
    assert await payments.attempts(asking.payment_id) == [
        ("prepare", "prepared"),
        ("execute", "captured"),
        ("inquire", "captured"),
    ]


async def test_duplicates_on_two_instances_are_one_payment(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    events = await upstream.tap("payment.events")
    askings = [requested() for _ in range(30)]
    ids, received = {str(asking.payment_id) for asking in askings}, list[Received]()
    async with start(), start():
        for _ in range(3):  # other message ids: not the inbox but the payment id recognises them
            await asyncio.gather(*(upstream.send(asking) for asking in askings))
        while {h.data["payment_id"] for h in received} != ids:
            received.append(await events.next())
        await payments.outbox_is_empty()
    assert gateway.count(GatewayStep.PREPARE) == gateway.count(GatewayStep.EXECUTE) == len(askings)
    assert await upstream.depth("dead-letters") == 0
    # Whoever came after the outcome was told it again, word for word.
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


async def test_columns_of_the_next_build_do_not_disturb_this_one(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    gateway.then(GatewayStep.EXECUTE, Say(UNKNOWN, done=True))
    events, asking = await upstream.tap("payment.events"), requested()
    for table in ("payments", "attempts", "outcomes", "decisions"):
        await execute(payments.url, f"ALTER TABLE {table} ADD COLUMN added text")
    try:
        async with start():
            await upstream.send(asking)
            doubt, captured = await events.take(2)
            await upstream.send(asked(asking.payment_id))
            again = await events.next()
    finally:
        for table in ("payments", "attempts", "outcomes", "decisions"):
            await execute(payments.url, f"ALTER TABLE {table} DROP COLUMN added")
    assert [a["step"] for a in doubt.data["attempts"]] == ["prepare", "execute"]
    assert (again.id, again.message.body) == (captured.id, captured.message.body)


async def test_a_row_that_cannot_be_read_is_left_alone_and_the_others_are_worked_on(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a rollback: the newer build has stored what this one does not know."""
    strange, known, readable = requested(), requested(), store._row
    stands, met = requested(), asyncio.Event()

    def reads(record: Record) -> store.PaymentRow:
        if record["payment_id"] == strange.payment_id:
            met.set()
            raise ValueError("'escrowed' is not a valid Status")
        return readable(record)

    monkeypatch.setattr(store, "_row", reads)
    await _store_due(payments.url, strange.payment_id, known.payment_id)
    async with start(), asyncio.timeout(DEADLINE_S):
        await payments.until(known.payment_id, "captured")
        await met.wait()
        await upstream.send(stands)
        await payments.until(stands.payment_id, "captured")
    assert (await payments.row(strange.payment_id))["status"] == "requested"


async def _store_due(url: str, *payment_ids: UUID) -> None:
    for payment_id in payment_ids:
        await execute(
            url,
            """INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, params_hash, status, version, method_token, was_case,
                   rung, key_number, cause_id, correlation_id, fence, due_at)
               VALUES ($1, 'INV-1', 1250, 'EUR', 'hash', 'requested', 1, 'pm_card_visa', false, 0, 1, $1, 'C-1', 1, now())""",
            payment_id,
        )


async def test_whatever_a_look_for_due_rows_raises_the_service_goes_on(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims, failures = store.claim, [KeyError("due"), ValueError("due")]

    async def claim(*args: Any, **options: Any) -> list[store.PaymentRow]:
        if failures:
            raise failures.pop()
        return await claims(*args, **options)

    due = uuid4()
    monkeypatch.setattr(store, "claim", claim)
    await _store_due(payments.url, due)
    async with start():
        await payments.until(due, "captured")
    assert failures == []


async def test_answers_are_held_while_the_database_is_away(
    start: Start,
    upstream: UpstreamClient,
    payments: PaymentGatewayFixture,
    gateway: ScriptedGateway,
    environment: Environment,
) -> None:
    held = Hold()
    gateway.then(GatewayStep.EXECUTE, held)
    events, asking = await upstream.tap("payment.events"), requested()
    name = payments.url.rpartition("/")[2]
    other = environment.databases["invoice"]
    async with start():
        await upstream.send(asking)
        async with asyncio.timeout(DEADLINE_S):
            await held.reached.wait()
        await execute(other, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        try:
            await execute(other, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            held.let_go.set()
            await _until_refused(payments.url)
        finally:
            await execute(other, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
        captured = await events.next()
    assert captured.data["version"] == 3
    assert gateway.calls == [
        (GatewayStep.PREPARE, f"{asking.payment_id}:prepare:1"),
        (GatewayStep.EXECUTE, f"{asking.payment_id}:execute:1"),
    ], "the gateway was not asked again"


async def _until_refused(url: str) -> None:
    async def refused() -> bool:
        try:
            await rows(url, "SELECT 1")
        except Exception:  # noqa: BLE001 - however it says no
            return True
        return False

    await until(refused, what="the database refusing connections")


async def test_a_lost_broker_connection_cancels_no_charge(
    environment: Environment, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    held, runtimes = Hold(), list[Runtime]()
    gateway.then(GatewayStep.EXECUTE, held)
    asking = requested()

    async def assemble(runtime: Runtime) -> None:
        runtimes.append(runtime)
        assemble_with(runtime, ChargingSettings("memory://", "", 10.0, 20, Policy((0.05,), 3_600.0), None), gateway)

    async with environment.running("payment_gateway", assemble), asyncio.timeout(DEADLINE_S):
        await upstream.send(asking)
        await held.reached.wait()
        connection = runtimes[0].consume_link._connection
        assert connection is not None
        await connection.close()
        held.let_go.set()
        await payments.until(asking.payment_id, "captured")
        second = requested()
        await upstream.send(second)  # and the consumers come back by themselves
        await payments.until(second.payment_id, "captured")
    assert gateway.count(GatewayStep.EXECUTE) == 2


async def test_a_stopping_instance_finishes_its_call_and_leaves_the_rest_to_others(
    start: Start,
    upstream: UpstreamClient,
    payments: PaymentGatewayFixture,
    gateway: ScriptedGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, finish = Hold(), charging.Charging.finish

    async def let_go_and_finish(stopping: charging.Charging) -> None:
        asyncio.get_running_loop().call_soon(held.let_go.set)  # once the stop has begun
        await finish(stopping)

    monkeypatch.setattr(charging.Charging, "finish", let_go_and_finish)
    gateway.then(GatewayStep.PREPARE, held)
    events, asking = await upstream.tap("payment.events"), requested()
    async with asyncio.timeout(DEADLINE_S):
        async with start():
            await upstream.send(asking)
            await held.reached.wait()
        row = await payments.row(asking.payment_id)
        assert (row["status"], row["leased_by"]) == ("prepared", None)
        assert gateway.count(GatewayStep.EXECUTE) == 0
        async with start():
            captured = await events.next()
    assert kind(captured.type) == "PaymentCaptured"
    assert [step for step, _ in await payments.attempts(asking.payment_id)] == ["prepare", "inquire", "execute"]


async def test_a_gateway_that_is_away_is_told_by_readiness_while_it_is_away(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """One payment that is never answered is no sign; several in a row are."""

    async def says(ready: bool) -> None:
        async def so() -> bool:
            return bool(READY.labels(charging.GATEWAY_COMPONENT)._value.get()) is ready

        await until(so, what=f"gateway ready={ready}")

    ids = [uuid4() for _ in range(charging.SILENT_PAYMENTS_MAX)]
    async with start(ladder_s=(0.05,) * 10_000):  # none is given up before the gateway is back
        await upstream.send(requested(healthy := uuid4()))
        await payments.until(healthy, "captured")
        await says(ready=True)
        gateway.always(GatewayStep.PREPARE, Say(port.NotSent("connection refused")))
        for id_ in ids:
            await upstream.send(requested(id_))
        await says(ready=False)
        gateway.always(GatewayStep.PREPARE, None)
        for id_ in ids:
            await payments.until(id_, "captured")
        await says(ready=True)
