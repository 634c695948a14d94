"""The journal of a saga that ended long ago is deleted. The saga's state stays, and later steps begin a new journal."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from asyncpg import UniqueViolationError

from services.saga import store
from services.saga.__main__ import assemble
from services.saga.deadlines import DeadlineScheduler
from services.saga.domain import Saga, SagaStatus
from services.saga.store import JOURNAL_RETENTION, SagaTransition
from shared.contracts.base import Contract
from shared.messaging.envelope import Cause
from shared.persistence.database import Database, MovedOnError
from shared.persistence.retention import delete_page
from shared.persistence.writes import WriteBatch
from tests.service.saga.test_deadlines import CAPTURED, LATER, OVERDUE, PAID, PAYMENT, REFUNDED, store_steps
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

Handled = Callable[[set[UUID]], Awaitable[None]]
PAID_STORY = (OVERDUE, CAPTURED, PAID)


@pytest.fixture
async def database(environment: Environment) -> AsyncIterator[Database]:
    opened = await Database.open(environment.databases["saga"], name="test", connections_max=3)
    yield opened
    await opened.close()


async def given(
    environment: Environment, upstream: UpstreamClient, handled: Handled, stories: Mapping[UUID, Sequence[Contract]]
) -> None:
    """These messages were handled, so long ago that the inbox has deleted their ids."""
    async with environment.running("saga", assemble):
        for payment, messages in stories.items():
            for message in messages:
                await handled({await upstream.send(message.model_copy(update={"payment_id": payment}))})
    await execute(environment.databases["saga"], "DELETE FROM inbox")


async def days_ago(environment: Environment, days: int, *payments: UUID) -> None:
    """Move everything about these payments so many days into the past."""
    for table, column in (("sagas", "updated_at"), ("transitions", "at")):
        statement = f"UPDATE {table} SET {column} = now() - interval '{days} days' WHERE payment_id = ANY($1::uuid[])"
        await execute(environment.databases["saga"], statement, list(payments))


async def given_paid_long_ago(environment: Environment, upstream: UpstreamClient, handled: Handled) -> None:
    await given(environment, upstream, handled, {PAYMENT: PAID_STORY})
    await days_ago(environment, 401, PAYMENT)


async def journal(environment: Environment, payment: UUID = PAYMENT) -> list[int]:
    query = "SELECT version FROM transitions WHERE payment_id = $1 ORDER BY version"
    return [row["version"] for row in await rows(environment.databases["saga"], query, payment)]


async def saga(environment: Environment, payment: UUID = PAYMENT) -> dict[str, Any]:
    (row,) = await rows(environment.databases["saga"], "SELECT * FROM sagas WHERE payment_id = $1", payment)
    return row


async def delete_old(database: Database, rows_max: int = 5_000) -> int:
    async with database.connection() as connection:
        return await delete_page(connection, replace(JOURNAL_RETENTION, rows_max=rows_max))


async def test_only_journals_of_sagas_that_ended_long_ago_are_deleted(
    environment: Environment, upstream: UpstreamClient, handled: Handled, database: Database
) -> None:
    waiting, moved, young, *ended = (uuid4() for _ in range(6))
    stories = dict.fromkeys((moved, young, *ended), PAID_STORY)
    await given(environment, upstream, handled, {waiting: [OVERDUE], **stories})
    await days_ago(environment, 500, waiting, moved)
    await days_ago(environment, 399, young)
    await days_ago(environment, 401, *ended)
    await execute(environment.databases["saga"], "UPDATE sagas SET updated_at = now() WHERE payment_id = $1", moved)
    before = {payment: await saga(environment, payment) for payment in (waiting, moved, young, *ended)}
    pages = [await delete_old(database, rows_max=1) for _ in range(4)]
    assert pages == [3, 3, 3, 0], "a journal is deleted whole; older rows that stay do not fill a page"
    for payment, row in before.items():
        kept = payment not in ended
        assert await journal(environment, payment) == ([*range(1, row["version"] + 1)] if kept else [])
        assert await saga(environment, payment) == row | {"journal_from": 1 if kept else 4}


async def test_the_running_service_deletes_them_by_itself(
    environment: Environment, upstream: UpstreamClient, handled: Handled
) -> None:
    await given_paid_long_ago(environment, upstream, handled)

    async def gone() -> bool:
        return not await journal(environment)

    async with environment.running("saga", assemble):
        await until(gone, what="the deletion of the journal")
    assert (await saga(environment))["journal_from"] == 4


async def test_a_message_repeated_after_its_journal_was_deleted_changes_nothing(
    environment: Environment,
    upstream: UpstreamClient,
    handled: Handled,
    database: Database,
    instances: tuple[DeadlineScheduler, DeadlineScheduler],
) -> None:
    await given_paid_long_ago(environment, upstream, handled)
    assert await delete_old(database) == 3
    before, other, leaving = await saga(environment), uuid4(), await upstream.tap("settlement.commands")
    async with environment.running("saga", assemble):
        await handled({await upstream.send(PAID)})
        neighbours = (PAID, OVERDUE.model_copy(update={"payment_id": other}), CAPTURED, PAID)
        await handled({await upstream.send(message) for message in neighbours})
    assert await instances[0].fire(now=LATER) > 0
    assert (await saga(environment), await journal(environment)) == (before, [])
    assert (await saga(environment, other))["status"] == "awaiting_outcome"
    assert {one.data["payment_id"] for one in await leaving.waiting()} <= {str(other)}
    assert await upstream.depth("dead-letters") == 0


async def test_a_saga_that_moves_after_its_journal_was_deleted_begins_a_new_one(
    environment: Environment, upstream: UpstreamClient, handled: Handled, database: Database
) -> None:
    await given_paid_long_ago(environment, upstream, handled)
    await delete_old(database)
    async with environment.running("saga", assemble):
        await handled({await upstream.send(REFUNDED)})
    after = await saga(environment)
    assert (after["status"], after["version"], after["journal_from"]) == ("refunded", 4, 4)
    assert await journal(environment) == [4]
    assert await delete_old(database) == 0
    await days_ago(environment, 401, PAYMENT)  # once more the whole retention
    assert await delete_old(database) == 1
    assert (await saga(environment))["journal_from"] == 5


async def test_a_locked_saga_is_skipped_and_a_simultaneous_step_waits(
    environment: Environment, upstream: UpstreamClient, handled: Handled, database: Database
) -> None:
    await given_paid_long_ago(environment, upstream, handled)
    async with database.transaction() as moving:
        await moving.execute("UPDATE sagas SET repeats = 1 WHERE payment_id = $1", PAYMENT)
        assert await delete_old(database) == 0
    async with AsyncExitStack() as opened:
        async with database.transaction() as forgetting:
            await delete_page(forgetting, JOURNAL_RETENTION)
            # Only now: the service deletes the journal by itself as it starts.
            await opened.enter_async_context(environment.running("saga", assemble))
            id_ = await upstream.send(REFUNDED)

            async def waits() -> bool:
                query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
                return bool(await rows(environment.databases["saga"], query))

            await until(waits, what="the refund to wait for the row")
        await handled({id_})
    after = await saga(environment)
    assert (after["status"], after["journal_from"], await journal(environment)) == ("refunded", 4, [4])


async def test_no_step_is_lost_while_journals_are_deleted(environment: Environment, database: Database) -> None:
    ended = [Saga(uuid4(), "INV-1", SagaStatus.COMPLETED) for _ in range(400)]
    cause = Cause(uuid4(), "flow-1", LATER)

    async def move(sagas: Sequence[Saga], status: SagaStatus) -> None:
        for saga in sagas:
            async with database.connection() as connection:
                writes = WriteBatch(connection, one_statement=True)
                moved = replace(saga, status=status, version=saga.version + 1)
                await store.save(writes, [(cause, SagaTransition(moved, saga.status, "Refunded", None))])
                await writes.flush()

    async def delete_all() -> int:
        return sum([await delete_old(database, rows_max=1) for _ in ended])

    await move([replace(saga, version=0) for saga in ended], SagaStatus.COMPLETED)
    await days_ago(environment, 401, *(saga.payment_id for saga in ended))
    moving = [replace(saga, version=1) for saga in ended]
    forgotten, _ = await asyncio.gather(
        delete_all(), move(moving, SagaStatus.REFUNDED)
    )  # side by side, in the same order
    assert forgotten > 0
    kept = """SELECT sagas.payment_id FROM sagas LEFT JOIN transitions USING (payment_id) GROUP BY sagas.payment_id
        HAVING count(transitions.version) <> sagas.version - journal_from + 1 OR min(transitions.version) <> journal_from"""
    assert await rows(environment.databases["saga"], kept) == []


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize(("first", "error"), [(1, UniqueViolationError), (2, MovedOnError), (4, MovedOnError)])
async def test_a_step_decided_on_another_version_is_not_stored(
    environment: Environment, database: Database, first: int, steps: int, error: type[Exception]
) -> None:
    """Such a step is not stored, whatever version it would reach: here the saga has version 2 and no journal, and the steps come from no
    saga, from version 1, and from version 3."""
    stored, guessed = Saga(PAYMENT, "INV-1", SagaStatus.COMPLETED, version=2), Saga(PAYMENT, "INV-1", SagaStatus.FAILED)
    await store_steps(database, [replace(stored, version=1), stored])
    await execute(environment.databases["saga"], "DELETE FROM transitions")
    before = await saga(environment)
    with pytest.raises(error):
        await store_steps(database, [replace(guessed, version=n) for n in range(first, first + steps)])
    assert (await saga(environment), await journal(environment)) == (before, [])
