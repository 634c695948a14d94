"""Deadlines are rows that fire once, whichever instance fires them and whatever its clock shows. The state decides what they mean."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.saga import store
from services.saga.__main__ import assemble
from services.saga.deadlines import DeadlineScheduler
from services.saga.domain import Capture, Failure, Saga, SagaStatus
from services.saga.store import SagaTransition, deadline_id
from shared import crash_points
from shared.contracts import invoice as invoice_messages
from shared.contracts import payment_gateway as payment_messages
from shared.contracts.base import Contract
from shared.ids import derived_id
from shared.messaging.envelope import Cause
from shared.messaging.outbox_sweeper import OutboxSweeper
from shared.persistence.database import Database, MovedOnError
from shared.persistence.retention import delete_page
from shared.persistence.writes import WriteBatch
from tests.support.conversation import causes, contents
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

PAYMENT = UUID("6d0c3d1e-0d2f-4a0e-9a35-8a0f4a2b7d11")
ABOUT: dict[str, Any] = {"invoice_id": "INV-1", "payment_id": PAYMENT}
MONEY: dict[str, Any] = {"amount_minor": 1_250, "currency": "EUR"}
FIRST, SECOND = deadline_id(PAYMENT, 1), deadline_id(PAYMENT, 2)
LATER = datetime(2100, 1, 1, tzinfo=UTC)

OVERDUE = invoice_messages.InvoicePaymentOverdue(**ABOUT)
PAID = invoice_messages.InvoicePaid(**ABOUT, **MONEY, receipt_number="R-1")
FAILED = invoice_messages.InvoicePaymentFailed(**ABOUT, outcome="declined", reason="no", reference_code="PF-1")
REJECTED = invoice_messages.InvoiceSettlementRejected(**ABOUT, reason="void")
CAPTURED = payment_messages.PaymentCaptured(**ABOUT, **MONEY, version=4, receipt_number="R-1")
DECLINED = payment_messages.PaymentDeclined(**ABOUT, version=4, reason="no")
NEEDS_DECISION = payment_messages.PaymentNeedsDecision(**ABOUT, **MONEY, version=3, reason="silent")
REFUND_IN_DOUBT = payment_messages.PaymentRefundInDoubt(**ABOUT, **MONEY, version=6, reason="timeout")
REFUNDED = payment_messages.PaymentRefunded(**ABOUT, **MONEY, version=7)

ASK = payment_messages.InquirePayment(**ABOUT)
RECORD = invoice_messages.RecordPayment(**ABOUT, **MONEY, receipt_number="R-1")
TELL = invoice_messages.RecordPaymentFailure(**ABOUT, outcome="declined", reason="no")
TELL_REJECTED = invoice_messages.RecordPaymentFailure(**ABOUT, outcome="not_charged", reason="settlement_rejected")
REFUND = payment_messages.RefundPayment(**ABOUT, reason="the invoice cannot take the money: void")

Handled = Callable[[set[UUID]], Awaitable[None]]
Instances = tuple[DeadlineScheduler, DeadlineScheduler]

MEANINGS: dict[str, tuple[list[Contract], list[Contract]]] = {
    "awaiting_outcome": ([OVERDUE], [ASK]),
    "needs_decision": ([OVERDUE, NEEDS_DECISION], [ASK]),
    "settling": ([OVERDUE, CAPTURED], [RECORD]),
    "completed": ([OVERDUE, CAPTURED, PAID], []),
    "failed, not noted": ([OVERDUE, DECLINED], [TELL]),
    "failed": ([OVERDUE, DECLINED, FAILED], []),
    "refunding": ([OVERDUE, CAPTURED, REJECTED], [REFUND, TELL_REJECTED]),
    "refund_in_doubt": ([OVERDUE, CAPTURED, REJECTED, REFUND_IN_DOUBT], [REFUND, TELL_REJECTED]),
    "refunded": ([OVERDUE, CAPTURED, REJECTED, FAILED, REFUNDED], []),
}


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    crash_points.arm("")


async def given(environment: Environment, upstream: UpstreamClient, handled: Handled, *messages: Contract) -> None:
    """These messages were handled, one after the other."""
    async with environment.running("saga", assemble):
        for message in messages:
            await handled({await upstream.send(message, correlationid="flow-1")})


async def sagas(environment: Environment) -> list[dict[str, Any]]:
    return await rows(environment.databases["saga"], "SELECT status, version, repeats FROM sagas")


async def unfired(environment: Environment) -> list[UUID]:
    query = "SELECT id FROM deadlines WHERE fired_at IS NULL ORDER BY number"
    return [row["id"] for row in await rows(environment.databases["saga"], query)]


async def test_state_decides_what_a_deadline_means(
    environment: Environment, upstream: UpstreamClient, handled: Handled, instances: Instances
) -> None:
    """Each state is that of another payment. The first deadlines of all fire at once."""

    async def stand() -> dict[UUID, dict[str, Any]]:
        found = await rows(environment.databases["saga"], "SELECT payment_id, status, version, repeats FROM sagas")
        return {row["payment_id"]: row for row in found}

    payments = {name: UUID(int=number) for number, name in enumerate(MEANINGS, start=1)}
    async with environment.running("saga", assemble):
        for name, (messages, _) in MEANINGS.items():
            for message in messages:
                of_this = message.model_copy(update={"payment_id": payments[name]})
                await handled({await upstream.send(of_this, correlationid="flow-1")})
    before = await stand()
    leaving = await upstream.tap("settlement.commands")
    assert await instances[0].fire(now=LATER) == len(MEANINGS)
    received, after, waiting = await leaving.waiting(), await stand(), await unfired(environment)
    for name, payment in payments.items():
        says = [message.model_copy(update={"payment_id": payment}) for message in MEANINGS[name][1]]
        first, second = deadline_id(payment, 1), deadline_id(payment, 2)
        said = [one for one in received if one.data["payment_id"] == str(payment)]
        assert contents(said) == says, name
        assert [one.id for one in said] == [str(derived_id(first, position)) for position in range(len(says))], name
        assert causes(said) <= {(first, "flow-1")}, name
        assert after[payment]["status"] == before[payment]["status"], f"{name}: a deadline changes no status"
        assert (second in waiting) == bool(says), (
            f"{name}: a saga that waits has a deadline, one that has ended has none"
        )
        assert (after[payment] != before[payment]) == bool(says), name
    assert len(waiting) == sum(bool(says) for _, says in MEANINGS.values())


async def test_a_deadline_fires_once_when_two_instances_fire_at_the_same_time(
    environment: Environment, upstream: UpstreamClient, handled: Handled, instances: Instances
) -> None:
    payments = [uuid4() for _ in range(50)]
    requests = [OVERDUE.model_copy(update={"payment_id": payment}) for payment in payments]
    async with environment.running("saga", assemble):
        await handled({await upstream.send(request) for request in requests})
    leaving = await upstream.tap("settlement.commands")
    due = datetime.now(UTC) + timedelta(seconds=200)  # the first deadlines are due then, the second ones are not
    fired = await asyncio.gather(*(instance.fire(now=due) for instance in (*instances, *instances)))
    assert sum(fired) == len(payments)
    received = await leaving.waiting()
    assert {one.id for one in received} == {str(derived_id(deadline_id(payment, 1), 0)) for payment in payments}
    assert len(received) == len(payments)
    assert await sagas(environment) == [{"status": "awaiting_outcome", "version": 2, "repeats": 1}] * len(payments)


async def test_a_deadline_and_a_simultaneous_outcome_end_as_if_one_came_first(
    environment: Environment, upstream: UpstreamClient, handled: Handled, instances: Instances
) -> None:
    await given(environment, upstream, handled, OVERDUE)
    async with environment.running("saga", assemble):
        captured = await upstream.send(CAPTURED)
        await asyncio.gather(handled({captured}), instances[0].fire(now=LATER), instances[1].fire(now=LATER))
        await handled({await upstream.send(PAID)})
    assert [saga["status"] for saga in await sagas(environment)] == ["completed"]
    versions = await rows(environment.databases["saga"], "SELECT version FROM transitions ORDER BY version")
    assert [row["version"] for row in versions] == list(range(1, len(versions) + 1))


async def test_a_clock_an_hour_wrong_changes_only_when_questions_are_sent(
    environment: Environment, upstream: UpstreamClient, handled: Handled, instances: Instances
) -> None:
    await given(environment, upstream, handled, OVERDUE)
    now = datetime.now(UTC)
    leaving = await upstream.tap("settlement.commands")
    assert await instances[0].fire(now=now - timedelta(hours=1)) == 0
    assert await instances[0].fire() == 0, "by the database's clock nothing is due yet"
    assert await instances[0].fire(now=now + timedelta(hours=1)) == 1
    assert [one.type for one in await leaving.waiting()] == [ASK.wire_name]
    async with environment.running("saga", assemble):
        for message in (CAPTURED, PAID):
            await handled({await upstream.send(message)})
    assert [saga["status"] for saga in await sagas(environment)] == ["completed"]


async def test_a_crash_before_the_commit_leaves_the_deadline_to_fire_again_with_the_same_ids(
    environment: Environment, upstream: UpstreamClient, handled: Handled, instances: Instances
) -> None:
    await given(environment, upstream, handled, OVERDUE)
    before = await sagas(environment)
    leaving = await upstream.tap("settlement.commands")
    crash_points.arm("saga.deadlines.before_commit:1:raise")
    with pytest.raises(crash_points.InjectedFault):
        await instances[0].fire(now=LATER)
    assert (await sagas(environment), await unfired(environment), await leaving.waiting()) == (before, [FIRST], [])
    assert await instances[1].fire(now=LATER) == 1
    assert [one.id for one in await leaving.waiting()] == [str(derived_id(FIRST, 0))]


async def test_a_crash_after_the_commit_leaves_the_question_to_the_sweeper(
    environment: Environment, upstream: UpstreamClient, handled: Handled, instances: Instances
) -> None:
    await given(environment, upstream, handled, OVERDUE)
    leaving = await upstream.tap("settlement.commands")
    crash_points.arm("saga.deadlines.after_commit:1:raise")
    with pytest.raises(crash_points.InjectedFault):
        await instances[0].fire(now=LATER)
    await execute(environment.databases["saga"], "UPDATE outbox SET sweep_after = now()")
    assert await OutboxSweeper(instances[1]._database, instances[1]._relay).sweep() == 1
    assert [one.id for one in await leaving.waiting()] == [str(derived_id(FIRST, 0))]


OF_TOMORROW = ("status = 'of_tomorrow'", """refunds = '[{"of_tomorrow": 1}]'""")


@pytest.mark.parametrize("change", OF_TOMORROW)
async def test_an_unreadable_saga_holds_up_no_other(
    environment: Environment, upstream: UpstreamClient, handled: Handled, instances: Instances, change: str
) -> None:
    other = uuid4()
    await given(environment, upstream, handled, OVERDUE, OVERDUE.model_copy(update={"payment_id": other}))
    await execute(environment.databases["saga"], f"UPDATE sagas SET {change} WHERE payment_id = $1", PAYMENT)
    leaving = await upstream.tap("settlement.commands")
    assert await instances[0].fire(now=LATER) == 2
    assert [one.data["payment_id"] for one in await leaving.waiting()] == [str(other)]
    query = "SELECT id, due_at > now() + interval '30 s' AS later FROM deadlines WHERE fired_at IS NULL AND number = 1"
    assert await rows(environment.databases["saga"], query) == [{"id": FIRST, "later": True}]


async def test_the_running_service_asks_by_itself_at_growing_intervals(
    environment: Environment, upstream: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGA_DEADLINE_S", "0.1,0.2,3600")
    leaving = await upstream.tap("settlement.commands")
    async with environment.running("saga", assemble), environment.running("saga", assemble):
        await upstream.send(OVERDUE)
        asked = await leaving.take(2)

        async def waits_long() -> bool:
            query = "SELECT deadline_s FROM sagas WHERE deadline = 3"
            return await rows(environment.databases["saga"], query) == [{"deadline_s": 3600.0}]

        await until(waits_long, what="the third deadline")
    # Two instances publish, in any order, and one may publish what the other has not noted yet: its id tells.
    said = {one.id for one in [*asked, *await leaving.waiting()]}
    assert said == {str(derived_id(deadline, 0)) for deadline in (FIRST, SECOND)}


# -- the store -----------------------------------------------------------------------------------------------------------------------------

BARE = Saga(UUID(int=1), "INV-1", status=SagaStatus.COMPLETED, version=1)
FULL = Saga(
    UUID(int=2),
    "INV-2",
    status=SagaStatus.REFUND_IN_DOUBT,
    version=7,
    payment_version=9,
    capture=Capture(1_250, "EUR", "R-1"),
    failure=Failure("declined", "do_not_honor"),
    failure_recorded=True,
    flagged=True,
    refund_reason="captured after the payment had failed",
    repeats=3,
    deadline=5,
    deadline_s=120.0,
)


async def test_every_field_of_a_saga_is_stored(environment: Environment) -> None:
    """When it is new, when it was stored before, and when both are in one batch."""
    database = await Database.open(environment.databases["saga"], name="test", connections_max=1)
    later = replace(FULL, payment_id=BARE.payment_id, invoice_id=BARE.invoice_id, version=2)
    other = replace(BARE, payment_id=UUID(int=3))
    try:
        for steps, expected in (
            ([BARE, replace(FULL, version=1), FULL], [BARE, FULL]),
            ([later, other], [later, FULL, other]),
        ):
            await store_steps(database, steps)
            async with database.connection() as connection:
                ids = [BARE.payment_id, FULL.payment_id, other.payment_id, uuid4()]
                assert list((await store.load(connection, ids, lock=False)).values()) == expected
    finally:
        await database.close()


async def store_steps(database: Database, steps: Sequence[Saga]) -> None:
    """Store these states of sagas with one transition each, by one statement."""
    cause = Cause(uuid4(), "flow-1", LATER)
    async with database.connection() as connection:
        writes = WriteBatch(connection, one_statement=True)
        await store.save(writes, [(cause, SagaTransition(step, SagaStatus.ABSENT, "Paid", None)) for step in steps])
        assert writes.fits_one_statement
        await writes.flush()


async def test_only_deadlines_that_fired_long_ago_are_deleted(environment: Environment) -> None:
    for number, fired in ((1, "now() - interval '8 days'"), (2, "now() - interval '6 days'"), (3, "NULL")):
        await execute(
            environment.databases["saga"],
            f"""INSERT INTO deadlines (id, payment_id, number, correlation_id, due_at, fired_at)
                VALUES ($1, $2, {number}, 'flow-1', now() - interval '9 days', {fired})""",
            deadline_id(PAYMENT, number),
            PAYMENT,
        )
    database = await Database.open(environment.databases["saga"], name="test", connections_max=1)
    try:
        async with database.connection() as connection:
            assert await delete_page(connection, store.FIRED_RETENTION) == 1
    finally:
        await database.close()
    kept = await rows(environment.databases["saga"], "SELECT number FROM deadlines ORDER BY number")
    assert [row["number"] for row in kept] == [2, 3]


async def test_a_saga_that_changed_since_it_was_read_is_not_written_over(environment: Environment) -> None:
    """Its journal may be gone, so the version of the row itself is looked at."""
    payment_id = uuid4()
    await execute(
        environment.databases["saga"],
        """INSERT INTO sagas (payment_id, invoice_id, status, version, payment_version, failure_recorded, flagged, repeats, deadline,
               updated_at) VALUES ($1, 'INV-1', 'completed', 5, 3, false, false, 0, 0, now())""",
        payment_id,
    )
    read = Saga(payment_id=payment_id, invoice_id="INV-1", status=SagaStatus.SETTLING, version=3)
    cause = Cause(uuid4(), "C-1", datetime(2026, 1, 1, tzinfo=UTC))

    async def save(database: Database) -> None:
        async with database.transaction() as tx:
            writes = WriteBatch(tx)
            await store.save(writes, [(cause, SagaTransition(read, SagaStatus.AWAITING_OUTCOME, "Captured", None))])
            await writes.flush()

    database = await Database.open(environment.databases["saga"], name="test", connections_max=1)
    try:
        with pytest.raises(MovedOnError):
            await save(database)
    finally:
        await database.close()
    found = await rows(environment.databases["saga"], "SELECT status, version FROM sagas")
    assert found == [{"status": "completed", "version": 5}]
