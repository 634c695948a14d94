"""Two sessions at the same rows: who takes work leaves what another has in hand, and whoever locks several rows does it in one order.

Nothing here is left to luck: one session holds its locks while the other is asked.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest

from services.invoice import refund_store
from services.invoice import store as invoices
from services.invoice.handlers import announce
from services.payment_gateway import store as payments
from services.payment_gateway.store import Lease
from services.saga import store as sagas
from services.staff import run_store
from services.staff import store as staff
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.persistence import inbox, outbox
from shared.persistence.database import Connection, Database
from shared.persistence.due_rows import WHENEVER
from shared.persistence.outbox import OutboxBatch
from shared.records import dataclass
from tests.support.databases import execute, until_one_waits
from tests.support.environment import Environment

FIRST, SECOND = UUID(int=1), UUID(int=2)
LEASE = Lease(UUID(int=9), 60.0, 30.0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE_S = 60.0
NOTHING_WAITS = "SET LOCAL lock_timeout = '1ms'"
"""A session that would wait for a lock of another gets an error in place of the wait."""


@asynccontextmanager
async def sessions(environment: Environment, service: str, number: int) -> AsyncIterator[list[Connection]]:
    """Transactions of so many instances of a service. All are rolled back."""
    async with AsyncExitStack() as closing:
        database = await Database.open(environment.databases[service], name="together", connections_max=number)
        closing.push_async_callback(database.close)
        opened = []
        for _ in range(number):
            connection = await closing.enter_async_context(database.connection())
            transaction = connection.transaction()
            await transaction.start()
            closing.push_async_callback(transaction.rollback)
            opened.append(connection)
        yield opened


# -- who takes work --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taker:
    """Something that takes the rows that are due. `put` makes one due, and `take` returns the ids of those that it got."""

    service: str
    put: str
    take: Callable[[Connection], Awaitable[Sequence[UUID]]]


async def sweep(tx: Connection) -> list[UUID]:
    return [batch.id for batch in await outbox.take_overdue(tx, Lane.INSIDE)]


async def claim(tx: Connection) -> list[UUID]:
    return [row.payment.payment_id for row in await payments.claim(tx, LEASE, at_most=10)]


async def fire(tx: Connection) -> list[UUID]:
    return [deadline.id for deadline in await sagas.fire_due(tx, at_most=10)]


async def remind_of_payments(tx: Connection) -> list[UUID]:
    before = {row["payment_id"] for row in await tx.fetch("SELECT payment_id FROM payments WHERE announced = 2")}
    await invoices.overdue_requests(tx, older_than_s=30.0, window=WHENEVER, announce=announce)
    after = await tx.fetch("SELECT payment_id FROM payments WHERE announced = 2")
    return [row["payment_id"] for row in after if row["payment_id"] not in before]


async def remind_of_refunds(tx: Connection) -> list[UUID]:
    found = await refund_store.overdue(tx, older_than_s=30.0, window=WHENEVER, at_most=10, doublings_max=8)
    return [row["refund_id"] for row in found]


async def clean(tx: Connection) -> list[UUID]:
    await tx.execute(sagas.JOURNAL_RETENTION.statement, sagas.JOURNAL_RETENTION_DAYS, 10)
    gone = await tx.fetch("SELECT payment_id FROM sagas WHERE journal_from > version")
    return [row["payment_id"] for row in gone]


async def send_run(tx: Connection) -> list[UUID]:
    leased = [(no, await run_store.lease(tx, no, UUID(int=8))) for no in (1, 2)]
    return [UUID(int=no) for no, taken in leased if taken is not None]


async def say_again(tx: Connection) -> list[UUID]:
    return [case.payment_id for case in await staff.lock_unheeded(tx, NOW, at_most=10)]


async def read_letters(tx: Connection) -> list[UUID]:
    return [letter.id for letter in await staff.lock_unread(tx, at_most=10)]


async def erase_bodies(tx: Connection) -> list[UUID]:
    before = {row["id"] for row in await tx.fetch("SELECT id FROM dead_letters WHERE body IS NULL")}
    await tx.execute(staff.BODY_RETENTION.statement, staff.BODY_RETENTION_DAYS, 10)
    after = await tx.fetch("SELECT id FROM dead_letters WHERE body IS NULL")
    return [row["id"] for row in after if row["id"] not in before]


_OLD = "now() - interval '500 days'"
CASE = """INSERT INTO cases (payment_id, invoice_id, correlation_id, status, version, attempts_version, details, opened_at, updated_at)
    VALUES ($1, 'INV-1', 'C-1', 'needs_decision', 4, 0, '{"attempts": [], "refusals": [], "decision": {"version": 4, "by": "ann",
        "id": "00000000-0000-0000-0000-000000000007", "resolution": "captured", "at": "2025-01-01T00:00:00Z"}}', now(), now())"""
LETTER = """INSERT INTO dead_letters (id, queue, origin, reason, tries, generation, headers, body, body_bytes, replays, seen, status,
        first_seen, last_seen, settled_by, settled_at, replay_entry)
    VALUES ($1, $1::uuid::text, 'remit', 'r', 1, 0, '{}', 'x', 1, 0, 1, 'replayed', now(), now(), 'ann', now() - interval '500 days', $1)"""
TAKERS = {
    "the sweeper": Taker(
        "saga",
        """INSERT INTO outbox (id, lane, refusals, losses, created_at, sweep_after, ids, exchanges, routing_keys, types, correlation_ids,
               content_types, headers, droppable, bodies, message_ids, reply_tos)
           VALUES ($1, 'inside', 0, 0, now(), '-infinity', ARRAY[$1::uuid], '{e}', '{k}', '{t}', '{c}', '{j}', ARRAY[NULL::jsonb], '{f}',
               ARRAY['\\x7b'::bytea], ARRAY[NULL::text], ARRAY[NULL::text])""",
        sweep,
    ),
    "the claimer": Taker(
        "payment_gateway",
        """INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, params_hash, status, version, method_token, was_case, rung,
               key_number, cause_id, correlation_id, fence, due_at)
           VALUES ($1, 'INV-1', 1250, 'EUR', 'hash', 'requested', 1, 'pm_card_visa', false, 0, 1, $1, 'C-1', 1, '-infinity')""",
        claim,
    ),
    "the scheduler of deadlines": Taker(
        "saga",
        "INSERT INTO deadlines (id, payment_id, number, correlation_id, due_at) VALUES ($1, $1, 1, 'C-1', '-infinity')",
        fire,
    ),
    "the reminder of payments": Taker(
        "invoice",
        f"INSERT INTO payments (payment_id, invoice_id, version, pending, announced_at) VALUES ($1, 'INV-1', 2, true, {_OLD})",
        remind_of_payments,
    ),
    "the reminder of refunds": Taker(
        "invoice",
        f"""INSERT INTO refunds (invoice_id, refund_id, payment_id, version, pending, announced_at)
            VALUES ('INV-1', $1, $1, 2, true, {_OLD})""",
        remind_of_refunds,
    ),
    "the cleaner of journals": Taker(
        "saga",
        f"""WITH saga AS (
                INSERT INTO sagas (payment_id, invoice_id, status, version, payment_version, failure_recorded, flagged, repeats, deadline,
                    updated_at) VALUES ($1, 'INV-1', 'completed', 1, 1, false, false, 0, 0, {_OLD}))
            INSERT INTO transitions (payment_id, version, from_status, to_status, fact, cause_id, correlation_id, at)
            VALUES ($1, 1, 'absent', 'completed', 'Paid', $1, 'C-1', {_OLD})""",
        clean,
    ),
    "the sender of a run": Taker(
        "staff",
        """INSERT INTO replay_runs (no, id, state, step, title, filter, bins, made_by, made_at, rate, total)
           SELECT coalesce(max(no), 0) + 1, $1, 'running', 'rest', 't', '{}', '{}', 'ann', now(), 1, 1 FROM replay_runs""",
        send_run,
    ),
    "who says decisions again": Taker("staff", CASE, say_again),
    "who reads failed messages": Taker("staff", LETTER, read_letters),
    "who erases bodies": Taker("staff", LETTER, erase_bodies),
}


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
async def test_who_takes_work_leaves_what_another_has_in_hand(environment: Environment, taker: Taker) -> None:
    url = environment.databases[taker.service]
    async with asyncio.timeout(DEADLINE_S), sessions(environment, taker.service, 2) as (one, other):
        await execute(url, taker.put, FIRST)
        assert list(await taker.take(one)) == [FIRST]
        await execute(url, taker.put, SECOND)
        await other.execute(NOTHING_WAITS)
        assert list(await taker.take(other)) == [SECOND]
    async with asyncio.timeout(DEADLINE_S), sessions(environment, taker.service, 1) as (third,):
        assert sorted(await taker.take(third)) == [FIRST, SECOND], "what both gave up is taken again"


async def test_what_fired_does_not_fire_again(environment: Environment) -> None:
    await execute(environment.databases["saga"], TAKERS["the scheduler of deadlines"].put, FIRST)
    async with sessions(environment, "saga", 1) as (tx,):
        assert [await fire(tx), await fire(tx)] == [[FIRST], []]


# -- who decides on a row --------------------------------------------------------------------------------------------------------------

INVOICE = """INSERT INTO invoices (invoice_id, status, version, customer_id, amount_minor, currency, updated_at)
    VALUES ($1::uuid::text, 'open', 1, 'C-1', 1250, 'EUR', now())"""
SAGA = """INSERT INTO sagas
        (payment_id, invoice_id, status, version, payment_version, failure_recorded, flagged, repeats, deadline, updated_at)
    VALUES ($1, 'INV-1', 'settling', 1, 1, false, false, 0, 0, now())"""


@dataclass(frozen=True, slots=True)
class Locker:
    """Something that locks rows, whichever order their ids are named in. `locked` counts those of an id that nobody has locked."""

    service: str
    put: str
    lock: Callable[[Connection, Sequence[UUID]], Coroutine[Any, Any, object]]
    free: str


async def load_invoices(tx: Connection, ids: Sequence[UUID]) -> object:
    return await invoices.load(tx, [str(id_) for id_ in ids], ())


async def postpone(tx: Connection, ids: Sequence[UUID]) -> object:
    """As the relay does it with what the broker refused."""

    class Given:
        def transaction(self) -> "Given":
            return self

        async def __aenter__(self) -> Connection:
            return tx

        async def __aexit__(self, *_: object) -> None:
            """The test rolls back."""

    relay = Relay(cast(Database, Given()), cast(Publisher, None))  # all that it uses here is a transaction
    message = Outgoing(UUID(int=7), "e", "k", "t", "c", b"{}")
    refused = [outbox.Unpublished(OutboxBatch(id_, [message]), refused=[message]) for id_ in ids]
    await relay._postpone(refused)
    return None


LOCKERS = {
    "invoices": Locker(
        "invoice",
        INVOICE,
        load_invoices,
        "SELECT 1 FROM invoices WHERE invoice_id = $1::uuid::text FOR UPDATE SKIP LOCKED",
    ),
    "payments": Locker(
        "payment_gateway",
        TAKERS["the claimer"].put,
        payments.load,
        "SELECT 1 FROM payments WHERE payment_id = $1 FOR UPDATE SKIP LOCKED",
    ),
    "sagas": Locker("saga", SAGA, sagas.load, "SELECT 1 FROM sagas WHERE payment_id = $1 FOR UPDATE SKIP LOCKED"),
    "failed messages": Locker(
        "staff", LETTER, staff.lock_letters, "SELECT 1 FROM dead_letters WHERE id = $1 FOR UPDATE SKIP LOCKED"
    ),
    "replayed messages": Locker(
        "staff", LETTER, staff.lock_replayed, "SELECT 1 FROM dead_letters WHERE id = $1 FOR UPDATE SKIP LOCKED"
    ),
    "cases": Locker(
        "staff", CASE, staff.lock_cases, "SELECT 1 FROM cases WHERE payment_id = $1 FOR UPDATE SKIP LOCKED"
    ),
    "refused outbox batches": Locker(
        "saga", TAKERS["the sweeper"].put, postpone, "SELECT 1 FROM outbox WHERE id = $1 FOR UPDATE SKIP LOCKED"
    ),
}


@pytest.mark.parametrize("locker", LOCKERS.values(), ids=LOCKERS)
async def test_who_decides_on_rows_has_locked_them_in_the_order_of_their_ids(
    environment: Environment, locker: Locker
) -> None:
    """While it waits for the first, it has not locked the second. So two that need both never wait for each other."""
    for id_ in (FIRST, SECOND):
        await execute(environment.databases[locker.service], locker.put, id_)
    async with asyncio.timeout(DEADLINE_S), sessions(environment, locker.service, 3) as (one, other, third):
        await locker.lock(one, [FIRST])
        assert await third.fetchval(locker.free, FIRST) is None, "locked by the first"
        waiting = asyncio.create_task(locker.lock(other, [SECOND, FIRST]))
        try:
            await until_one_waits(environment.databases[locker.service])
            assert await third.fetchval(locker.free, SECOND) == 1
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def test_ids_of_handled_messages_are_stored_in_their_order(environment: Environment) -> None:
    async with asyncio.timeout(DEADLINE_S), sessions(environment, "saga", 3) as (one, other, third):
        await inbox.insert(one, [SECOND])
        waiting = asyncio.create_task(inbox.insert(other, [SECOND, FIRST]))
        try:
            await until_one_waits(environment.databases["saga"])
            await third.execute(NOTHING_WAITS)
            with pytest.raises(asyncpg.LockNotAvailableError):  # the second session has stored it before it waits
                await inbox.insert(third, [FIRST])
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
