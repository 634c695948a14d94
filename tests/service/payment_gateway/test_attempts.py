"""Attempts of payments that were settled long ago are deleted, and the payment's row records it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from services.payment_gateway.domain import GatewayStep
from services.payment_gateway.ledger import ATTEMPTS_RETENTION
from shared.persistence.database import Database
from shared.persistence.retention import delete_page
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, Start, asked, requested, to_refund
from tests.service.payment_gateway.scripted import ScriptedGateway
from tests.support.databases import execute
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

STANDS = {
    "captured": ("captured", None, None),
    "declined": ("declined", None, None),
    "not charged": ("not_charged", None, None),
    "refunded": ("refunded", None, None),
    "a person let the money be": ("refund_failed", "ann", None),
    "a refund failed, nobody decided": ("refund_failed", None, None),
    "in doubt": ("in_doubt", None, None),
    "waits for a person": ("needs_decision", None, None),
    "captured late, announced again": ("captured", None, "3 hours"),
    "claimed": ("captured", None, "-1 hour"),
}
"""For each case: status, who decided, and when the next attempt is due."""
AT_REST = [*STANDS][:5]


@pytest.fixture
async def database(payments: PaymentGatewayFixture) -> AsyncIterator[Database]:
    opened = await Database.open(payments.url, name="test", connections_max=3)
    yield opened
    await opened.close()


async def store_payment(
    payments: PaymentGatewayFixture, name: str, *, days: int, recorded_days: int | None = None
) -> UUID:
    """Store a payment that has had this status for so many days, with two attempts."""
    payment_id = uuid4()
    status, decided_by, due_in = STANDS[name]
    await execute(
        payments.url,
        f"""INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, params_hash, status, version, method_token, gateway_id,
                receipt_number, decided_by, was_case, rung, key_number, cause_id, correlation_id, fence, due_at, updated_at)
            VALUES ($1, 'INV-1', 1250, 'EUR', 'hash', $2, 3, 'pm_card_visa', 'pi_1', 'ch_1', $3, false, 0, 1, $1, 'C-1', 1,
                now() + $4::text::interval, now() - interval '{days} days')""",
        payment_id,
        status,
        decided_by,
        due_in,
    )
    await execute(
        payments.url,
        f"""INSERT INTO attempts (payment_id, fence, seq, at, recorded_at, step, answer, evidence)
            SELECT $1, 1, seq, now(), now() - interval '{recorded_days or days} days', 'prepare', seq::text, 'HTTP 200'
            FROM generate_series(0, 1) AS seq""",
        payment_id,
    )
    return payment_id


async def delete_old(database: Database, rows_max: int = 5_000) -> int:
    async with database.connection() as connection:
        return await delete_page(connection, replace(ATTEMPTS_RETENTION, rows_max=rows_max))


async def test_only_attempts_of_long_settled_payments_are_deleted(
    payments: PaymentGatewayFixture, database: Database
) -> None:
    young = {name: await store_payment(payments, name, days=399, recorded_days=500) for name in STANDS}
    old = {name: await store_payment(payments, name, days=401) for name in STANDS}
    pages = [await delete_old(database, rows_max=1) for _ in range(len(AT_REST) + 1)]
    assert pages == [2] * len(AT_REST) + [0], (
        "all attempts of a payment at once; older ones that stay do not fill a page"
    )
    forgotten = {
        name
        for name, id_ in old.items()
        if (await payments.row(id_))["attempts_forgotten_at"] and not await payments.attempts(id_)
    }
    assert forgotten == set(AT_REST)
    for id_ in (*young.values(), *(id_ for name, id_ in old.items() if name not in forgotten)):
        assert len(await payments.attempts(id_)) == 2
        assert (await payments.row(id_))["attempts_forgotten_at"] is None


async def test_a_late_answer_is_kept_until_it_is_old_itself(
    payments: PaymentGatewayFixture, database: Database
) -> None:
    payment_id = await store_payment(payments, "declined", days=401)
    await execute(payments.url, "UPDATE attempts SET recorded_at = now(), answer = 'late' WHERE seq = 1")
    assert [await delete_old(database) for _ in range(2)] == [1, 0]
    assert await payments.attempts(payment_id) == [("prepare", "late")]


async def test_a_locked_row_is_skipped(payments: PaymentGatewayFixture, database: Database) -> None:
    payment_id = await store_payment(payments, "captured", days=401)
    async with database.transaction() as working:
        await working.execute("UPDATE payments SET fence = 2 WHERE payment_id = $1", payment_id)
        assert await delete_old(database) == 0
    assert await delete_old(database) == 2


async def test_the_running_service_deletes_attempts_and_the_payment_still_works(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, gateway: ScriptedGateway
) -> None:
    events, asking = await upstream.tap("payment.events"), requested()
    async with start():
        await upstream.send(asking)
        captured = await events.next()
    await execute(payments.url, "UPDATE payments SET updated_at = now() - interval '401 days'")
    await execute(payments.url, "UPDATE attempts SET recorded_at = now() - interval '401 days'")

    async def gone() -> bool:
        return not await payments.attempts(asking.payment_id)

    async with start():
        await until(gone, what="the deletion of the attempts")
        at_rest = await payments.row(asking.payment_id)
        await upstream.send(asked(asking.payment_id))
        again = await events.next()
        await upstream.send(to_refund(asking.payment_id))
        refunded = await payments.until(asking.payment_id, "refunded")
    assert (again.id, again.message.body) == (captured.id, captured.message.body)
    assert [step for step, _ in await payments.attempts(asking.payment_id)] == [
        GatewayStep.INQUIRE_REFUND,
        GatewayStep.REFUND,
    ]
    assert at_rest["attempts_forgotten_at"] is not None
    assert refunded["attempts_forgotten_at"] == at_rest["attempts_forgotten_at"]
