"""The lease of a payment's row has moved on to another instance: what the first one still does, and what it must leave."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest

from services.payment_gateway import store
from services.payment_gateway.domain import Outcome, PaymentStatus, PaymentTransition, Policy
from services.payment_gateway.gateways import port
from services.payment_gateway.group_commit import GroupCommit, StepResult
from services.payment_gateway.store import Lease, PaymentRow, PaymentUpdate, RowState
from shared.messaging.relay import Relay
from shared.observability.health import Readiness
from shared.persistence.database import Connection, Database
from shared.records import replace
from tests.service.payment_gateway.conftest import PaymentGatewayFixture
from tests.support.databases import execute, rows

DEADLINE_S = 60.0
ID = UUID(int=1)
ONE, OTHER = Lease(UUID(int=8), 60.0, 30.0), Lease(UUID(int=9), 60.0, 30.0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CAPTURED = port.Captured("pi_1", 1_250, "EUR", "ch_1", "succeeded")


@pytest.fixture
async def database(payments: PaymentGatewayFixture) -> AsyncIterator[Database]:
    opened = await Database.open(payments.url, name="holders", connections_max=2)
    yield opened
    await opened.close()


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[Connection]:
    async with asyncio.timeout(DEADLINE_S), database.connection() as connection:
        yield connection


@pytest.fixture
def commit(database: Database) -> GroupCommit:
    return GroupCommit(
        database=database, relay=cast(Relay, None), readiness=Readiness(), lease=ONE, policy=Policy((1.0,), 3_600.0)
    )


async def claimed(payments: PaymentGatewayFixture, connection: Connection, lease: Lease) -> PaymentRow:
    """The row, leased. It is put there by the first call, and taken over by later ones."""
    await execute(
        payments.url,
        """INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, params_hash, status, version, method_token, gateway_id,
               was_case, rung, key_number, cause_id, correlation_id, fence, due_at)
           VALUES ($1, 'INV-1', 1250, 'EUR', 'hash', 'prepared', 2, 'pm_1', 'pi_1', false, 0, 1, $1, 'C-1', 1, now())
           ON CONFLICT (payment_id) DO UPDATE SET due_at = now()""",
        ID,
    )
    (row,) = await store.claim(connection, lease, at_most=1)
    return row


async def test_who_lost_a_lease_cannot_give_it_back(payments: PaymentGatewayFixture, connection: Connection) -> None:
    mine = await claimed(payments, connection, ONE)
    theirs = await claimed(payments, connection, OTHER)
    await store.release(connection, [(ID, mine.fence)])
    assert (await payments.row(ID))["leased_by"] == OTHER.holder
    await store.release(connection, [(ID, theirs.fence)])
    assert (await payments.row(ID))["leased_by"] is None


async def test_who_has_finished_gives_nothing_back(payments: PaymentGatewayFixture, connection: Connection) -> None:
    """A stopping service names what it held when it began to stop. What has come to rest since is not due again."""
    row = await claimed(payments, connection, ONE)
    await store.update(connection, [PaymentUpdate(row, row.fence, delay_s=None)], ONE)
    await store.release(connection, [(ID, row.fence)])
    assert (await payments.row(ID))["due_at"] is None


async def test_both_sides_are_stored_by_who_holds_the_row(
    payments: PaymentGatewayFixture, connection: Connection
) -> None:
    mine = await claimed(payments, connection, ONE)
    sided = replace(mine, payment=replace(mine.payment, settled_as=PaymentStatus.CAPTURED))
    theirs = await claimed(payments, connection, OTHER)
    await store.note_sides(connection, [sided])
    assert (await payments.row(ID))["settled_as"] is None
    await store.note_sides(connection, [replace(sided, fence=theirs.fence)])
    assert (await payments.row(ID))["settled_as"] == "captured"


@pytest.mark.parametrize(("left_s", "is_held"), [(60.0, True), (-1.0, False)])
async def test_a_row_is_held_until_its_lease_ends(
    payments: PaymentGatewayFixture, connection: Connection, left_s: float, is_held: bool
) -> None:
    await claimed(payments, connection, ONE)
    await connection.execute("UPDATE payments SET due_at = now() + make_interval(secs => $1)", left_s)
    assert await store.state_of(connection, ID, "pi_1") == RowState("prepared", is_held)


async def test_whoever_looks_at_how_a_row_stands_keeps_others_from_it(
    payments: PaymentGatewayFixture, database: Database
) -> None:
    async with database.connection() as connection:
        await claimed(payments, connection, ONE)
    async with asyncio.timeout(DEADLINE_S), database.transaction() as one, database.transaction() as other:
        assert await store.state_of(one, ID, "pi_1") == RowState("prepared", is_held=True)
        await other.execute("SET LOCAL lock_timeout = '1ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await store.state_of(other, ID, "pi_1")


async def test_an_inquiry_leaves_a_row_to_its_holder(payments: PaymentGatewayFixture, connection: Connection) -> None:
    row = await claimed(payments, connection, ONE)
    until = (await payments.row(ID))["due_at"]
    await store.hurry(connection, [ID])
    assert (await payments.row(ID))["due_at"] == until
    await store.update(connection, [PaymentUpdate(row, row.fence, delay_s=3_600.0)], ONE)
    await store.hurry(connection, [ID])
    assert [found.payment.payment_id for found in await store.claim(connection, OTHER, at_most=1)] == [ID]


@pytest.mark.parametrize(
    ("status", "decided_by", "rungs"),
    [
        ("declined", None, [5, 5, 5]),
        ("refunded", None, [0, 0, 0]),
        ("refund_failed", "ann", [5, 5, 5]),
        ("refund_failed", None, [5, 6, 7]),
        ("in_doubt", None, [1, 2, 3]),
    ],
)
async def test_a_look_for_news_counts_only_before_a_payment_is_settled(
    payments: PaymentGatewayFixture, connection: Connection, status: str, decided_by: str | None, rungs: list[int]
) -> None:
    """However many events come, the watch goes on as long as it would without them. A ladder of doubt has its end."""
    await claimed(payments, connection, ONE)
    settled = "UPDATE payments SET status = $1, decided_by = $2, rung = $3, leased_by = NULL, due_at = NULL"
    await connection.execute(settled, status, decided_by, rungs[0])
    looked = []
    for _ in rungs:
        looked.append((await payments.row(ID))["rung"])
        await store.hurry(connection, [ID])
        await store.hurry(connection, [ID])  # it is due already
        await connection.execute("UPDATE payments SET rung = rung + 1, due_at = now() + interval '1 hour'")  # the look
    assert looked == rungs


async def test_what_is_found_at_the_gateway_takes_no_row_from_its_holder(
    payments: PaymentGatewayFixture, connection: Connection
) -> None:
    mine = await claimed(payments, connection, ONE)
    before = await payments.row(ID)
    found = replace(mine.payment, status=PaymentStatus.NEEDS_DECISION, gateway_id="pi_2", reason="unknown_here")
    await store.insert_strays(connection, [replace(mine, payment=found)])
    assert await payments.row(ID) == before


LEFT_S = "extract(epoch FROM due_at - now())::float8"


@pytest.mark.parametrize(("left_s", "renewed"), [(45.0, False), (20.0, True)], ids=["young", "old"])
async def test_a_holder_that_goes_on_renews_a_lease_that_is_old(
    payments: PaymentGatewayFixture, connection: Connection, left_s: float, renewed: bool
) -> None:
    row = await claimed(payments, connection, ONE)
    await connection.execute("UPDATE payments SET due_at = now() + make_interval(secs => $1)", left_s)
    before = (await payments.row(ID))["due_at"]
    assert await store.update(connection, [PaymentUpdate(row, row.fence, kept=True)], ONE)
    after = await payments.row(ID)
    assert (after["leased_by"], after["due_at"] > before) == (ONE.holder, renewed)


async def outcomes(payments: PaymentGatewayFixture) -> list[dict[str, Any]]:
    """What waits in the outbox, by its types."""
    return await rows(payments.url, "SELECT id, types FROM outbox")


async def test_a_late_capture_is_stored_and_takes_the_row_over(
    payments: PaymentGatewayFixture, connection: Connection, commit: GroupCommit
) -> None:
    """Whoever holds the row now has decided on a payment without the capture, and may store nothing any more."""
    mine = await claimed(payments, connection, ONE)
    theirs = await claimed(payments, connection, OTHER)
    held, outbox_batches = await commit._commit(
        [StepResult(mine, PaymentTransition(mine.payment), NOW, answer=CAPTURED)], carefully=True
    )
    row = await payments.row(ID)
    assert (held, row["status"], row["receipt_number"]) == ([False], "captured", "ch_1")
    assert [(found["id"], found["types"]) for found in await outcomes(payments)] == [
        (batch.id, [message.type for message in batch.messages]) for batch in outbox_batches
    ]
    assert len(outbox_batches) == 1
    assert not await store.update(connection, [PaymentUpdate(theirs, theirs.fence)], OTHER)


REFUND = """INSERT INTO refunds (payment_id, refund_id, position, reason, asked_minor, status, by_hand_minor, version, key_number)
    VALUES ($1, $2, $3, 'a test', 500, 'at_work', 0, 0, 1)"""
ONE_REFUND, NEXT_REFUND = UUID(int=11), UUID(int=12)


@pytest.mark.parametrize(("moved_on", "becomes"), [(False, ["refunded"]), (True, ["kept", "at_work"])])
async def test_a_late_refund_is_that_of_the_refund_which_was_asked_for(
    payments: PaymentGatewayFixture, connection: Connection, commit: GroupCommit, moved_on: bool, becomes: list[str]
) -> None:
    """A person let the money stay meanwhile, and the next refund is at work: it was not made."""
    await claimed(payments, connection, ONE)
    await connection.execute("UPDATE payments SET status = 'refunding', receipt_number = 'ch_1'")
    await connection.execute(REFUND, ID, ONE_REFUND, 1)
    mine = await claimed(payments, connection, ONE)
    if moved_on:
        await connection.execute("UPDATE refunds SET status = 'kept', decided_by = 'ann'")
        await connection.execute(REFUND, ID, NEXT_REFUND, 2)
    await claimed(payments, connection, OTHER)
    late = StepResult(mine, PaymentTransition(mine.payment), NOW, answer=port.Refunded("re_1", "made", 500))
    held, outbox_batches = await commit._commit([late], carefully=True)
    assert (held, len(outbox_batches)) == ([False], 0 if moved_on else 1)
    stored = await rows(payments.url, "SELECT status FROM refunds ORDER BY position")
    assert [row["status"] for row in stored] == becomes


@pytest.mark.parametrize("carefully", [False, True], ids=["at once", "in a transaction"])
async def test_an_outcome_is_in_the_outbox_before_anybody_publishes_it(
    payments: PaymentGatewayFixture, connection: Connection, commit: GroupCommit, carefully: bool
) -> None:
    row = await claimed(payments, connection, ONE)
    captured = replace(row.payment, status=PaymentStatus.CAPTURED, version=3, receipt_number="ch_1")
    result = StepResult(row, PaymentTransition(captured, outcome=Outcome.CAPTURED), NOW, answer=CAPTURED)
    held, outbox_batches = await commit._commit([result], carefully=carefully)
    assert (held, len(outbox_batches)) == ([True], 1)
    assert [found["id"] for found in await outcomes(payments)] == [batch.id for batch in outbox_batches]
