"""Leases, outages and restarts: whatever happens to an instance, a payment is charged once, and its answer is kept."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.payment_gateway import charging, store
from services.payment_gateway.__main__ import assemble_with
from services.payment_gateway.domain import GatewayStep, Policy
from services.payment_gateway.gateways import port
from services.payment_gateway.settings import ChargingSettings
from shared.observability.metrics import READY
from shared.persistence.database import Database, Record
from shared.service import Runtime
from tests.service.payment_gateway.conftest import (
    PaymentGatewayFixture,
    Start,
    asked,
    kind,
    requested,
)
from tests.service.payment_gateway.scripted import UNKNOWN, Hold, Say, ScriptedGateway
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

DEADLINE_S = 60.0


async def test_an_answer_recorded_already_is_recorded_once(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture
) -> None:
    """The state after a commit whose reply was lost."""
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


async def test_an_instance_that_slept_through_its_lease_changes_nothing(
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


async def test_an_unreadable_row_is_skipped_and_the_others_are_handled(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state after a rollback: the newer build has stored a value that this one does not know."""
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


async def test_the_service_goes_on_after_any_error_in_claiming(
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


async def test_answers_are_kept_in_memory_while_the_database_is_away(
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
    ], "the gateway is not asked again"


async def _until_refused(url: str) -> None:
    async def refused() -> bool:
        try:
            await rows(url, "SELECT 1")
        except Exception:  # noqa: BLE001 - however it says no
            return True
        return False

    await until(refused, what="the database to refuse connections")


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
        for consumer in runtimes[0].consumers:
            assert consumer.link._connection is not None
            await consumer.link._connection.close()
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
        asyncio.get_running_loop().call_soon(held.let_go.set)  # after the stop has begun
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


async def test_readiness_reports_a_gateway_that_is_away(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    """One payment without an answer is no sign of an outage; several in a row are."""

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


async def test_a_message_that_is_not_for_this_queue_is_dead_lettered(start: Start, upstream: UpstreamClient) -> None:
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


async def test_begun_payments_are_claimed_before_new_ones_that_wait_for_longer(environment: Environment) -> None:
    url = environment.databases["payment_gateway"]
    new, begun = uuid4(), uuid4()
    for payment_id, status, gateway_id, age_s in ((new, "requested", None, 60.0), (begun, "in_doubt", "pi_1", 1.0)):
        await execute(
            url,
            """INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, status, version, method_token, gateway_id, was_case,
                   rung, key_number, cause_id, correlation_id, fence, due_at)
               VALUES ($1, 'INV-1', 5, 'EUR', $2, 1, 'pm_1', $3, false, 0, 1, $1, 'C-1', 1, now() - make_interval(secs => $4))""",
            payment_id,
            status,
            gateway_id,
            age_s,
        )
    database = await Database.open(url, name="test", connections_max=1)
    lease = store.Lease(uuid4(), 10.0, 5.0)
    async with database.connection() as connection:
        first = await store.claim(connection, lease, at_most=5, only_begun=True)
        second = await store.claim(connection, lease, at_most=5)
    await database.close()
    assert [[row.payment.payment_id for row in claimed] for claimed in (first, second)] == [[begun], [new]]
