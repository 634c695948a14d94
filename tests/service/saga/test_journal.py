"""The journal of a saga that ended long ago is deleted; what the saga became stays, and what comes later is written beside nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from asyncpg import UniqueViolationError

from services.saga import store
from services.saga.__main__ import assemble
from services.saga.deadlines import Deadlines
from services.saga.domain import Saga, Status
from services.saga.store import FORGET_JOURNAL, Transition
from shared.contracts.base import Contract
from shared.messaging.envelope import Cause
from shared.persistence.database import Database, MovedOnError
from shared.persistence.retention import forget_page
from shared.persistence.writes import Writes
from tests.service.saga.test_deadlines import CAPTURED, LATER, PAID, PAYMENT, REFUNDED, REQUESTED, store_steps
from tests.support.bus import Bus
from tests.support.databases import execute, rows
from tests.support.waiting import until
from tests.support.world import World

Handled = Callable[[set[UUID]], Awaitable[None]]
PAID_STORY = (REQUESTED, CAPTURED, PAID)


@pytest.fixture
async def database(world: World) -> AsyncIterator[Database]:
    opened = await Database.open(world.databases["saga"], name="test", connections_max=3)
    yield opened
    await opened.close()


async def given(world: World, bus: Bus, handled: Handled, stories: Mapping[UUID, Sequence[Contract]]) -> None:
    """These messages were handled, so long ago that the inbox has forgotten them."""
    async with world.running("saga", assemble):
        for payment, messages in stories.items():
            for message in messages:
                await handled({await bus.tell_saga(message.model_copy(update={"payment_id": payment}))})
    await execute(world.databases["saga"], "DELETE FROM inbox")


async def days_ago(world: World, days: int, *payments: UUID) -> None:
    """All that happened to these payments happened then."""
    for table, column in (("sagas", "updated_at"), ("transitions", "at")):
        statement = f"UPDATE {table} SET {column} = now() - interval '{days} days' WHERE payment_id = ANY($1::uuid[])"
        await execute(world.databases["saga"], statement, list(payments))


async def given_paid_long_ago(world: World, bus: Bus, handled: Handled) -> None:
    await given(world, bus, handled, {PAYMENT: PAID_STORY})
    await days_ago(world, 401, PAYMENT)


async def journal(world: World, payment: UUID = PAYMENT) -> list[int]:
    query = "SELECT version FROM transitions WHERE payment_id = $1 ORDER BY version"
    return [row["version"] for row in await rows(world.databases["saga"], query, payment)]


async def saga(world: World, payment: UUID = PAYMENT) -> dict[str, Any]:
    (row,) = await rows(world.databases["saga"], "SELECT * FROM sagas WHERE payment_id = $1", payment)
    return row


async def forget(database: Database, rows_max: int = 5_000) -> int:
    async with database.connection() as connection:
        return await forget_page(connection, replace(FORGET_JOURNAL, rows_max=rows_max))


async def test_only_journals_of_sagas_that_ended_long_ago_are_deleted_and_the_others_hold_up_nobody(
    world: World, bus: Bus, handled: Handled, database: Database
) -> None:
    waiting, moved, young, *ended = (uuid4() for _ in range(6))
    stories = dict.fromkeys((moved, young, *ended), PAID_STORY)
    await given(world, bus, handled, {waiting: [REQUESTED], **stories})
    await days_ago(world, 500, waiting, moved)
    await days_ago(world, 399, young)
    await days_ago(world, 401, *ended)
    await execute(world.databases["saga"], "UPDATE sagas SET updated_at = now() WHERE payment_id = $1", moved)
    before = {payment: await saga(world, payment) for payment in (waiting, moved, young, *ended)}
    pages = [await forget(database, rows_max=1) for _ in range(4)]
    assert pages == [3, 3, 3, 0], "a journal goes whole; older rows that stay do not fill a page"
    for payment, row in before.items():
        kept = payment not in ended
        assert await journal(world, payment) == ([*range(1, row["version"] + 1)] if kept else [])
        assert await saga(world, payment) == row | {"journal_from": 1 if kept else 4}


async def test_the_running_service_deletes_them_by_itself(world: World, bus: Bus, handled: Handled) -> None:
    await given_paid_long_ago(world, bus, handled)

    async def gone() -> bool:
        return not await journal(world)

    async with world.running("saga", assemble):
        await until(gone, what="the journal gone")
    assert (await saga(world))["journal_from"] == 4


async def test_what_comes_again_after_its_journal_is_gone_changes_nothing(
    world: World, bus: Bus, handled: Handled, database: Database, instances: tuple[Deadlines, Deadlines]
) -> None:
    await given_paid_long_ago(world, bus, handled)
    assert await forget(database) == 3
    before, other, leaving = await saga(world), uuid4(), await bus.tap("settlement.commands")
    async with world.running("saga", assemble):
        await handled({await bus.tell_saga(REQUESTED)})
        neighbours = (REQUESTED, REQUESTED.model_copy(update={"payment_id": other}), CAPTURED, PAID)
        await handled({await bus.tell_saga(message) for message in neighbours})
    assert await instances[0].fire(LATER) > 0
    assert (await saga(world), await journal(world)) == (before, [])
    assert (await saga(world, other))["status"] == "awaiting_outcome"
    assert {one.data["payment_id"] for one in await leaving.waiting()} <= {str(other)}
    assert await bus.depth("dead-letters") == 0


async def test_a_saga_that_moves_after_its_journal_is_gone_begins_another_there(
    world: World, bus: Bus, handled: Handled, database: Database
) -> None:
    await given_paid_long_ago(world, bus, handled)
    await forget(database)
    async with world.running("saga", assemble):
        await handled({await bus.tell_saga(REFUNDED)})
    after = await saga(world)
    assert (after["status"], after["version"], after["journal_from"]) == ("refunded", 4, 4)
    assert await journal(world) == [4]
    assert await forget(database) == 0
    await days_ago(world, 401, PAYMENT)  # as long again
    assert await forget(database) == 1
    assert (await saga(world))["journal_from"] == 5


async def test_a_saga_at_work_is_left_alone_and_one_that_comes_meanwhile_waits(
    world: World, bus: Bus, handled: Handled, database: Database
) -> None:
    await given_paid_long_ago(world, bus, handled)
    async with database.transaction() as moving:
        await moving.execute("UPDATE sagas SET repeats = 1 WHERE payment_id = $1", PAYMENT)
        assert await forget(database) == 0
    async with world.running("saga", assemble):
        async with database.transaction() as forgetting:
            await forget_page(forgetting, FORGET_JOURNAL)
            id_ = await bus.tell_saga(REFUNDED)

            async def waits() -> bool:
                query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
                return bool(await rows(world.databases["saga"], query))

            await until(waits, what="the refund waiting for the row")
        await handled({id_})
    after = await saga(world)
    assert (after["status"], after["journal_from"], await journal(world)) == ("refunded", 4, [4])


async def test_no_step_is_lost_of_sagas_that_move_while_journals_are_deleted(world: World, database: Database) -> None:
    ended = [Saga(uuid4(), "INV-1", Status.COMPLETED) for _ in range(400)]
    cause = Cause(uuid4(), "flow-1", LATER)

    async def move(sagas: Sequence[Saga], status: Status) -> None:
        for saga in sagas:
            async with database.connection() as connection:
                writes = Writes(connection, one_statement=True)
                moved = replace(saga, status=status, version=saga.version + 1)
                await store.save(writes, [(cause, Transition(moved, saga.status, "Refunded", None))])
                await writes.flush()

    async def forget_all() -> int:
        return sum([await forget(database, rows_max=1) for _ in ended])

    await move([replace(saga, version=0) for saga in ended], Status.COMPLETED)
    await days_ago(world, 401, *(saga.payment_id for saga in ended))
    moving = [replace(saga, version=1) for saga in ended]
    forgotten, _ = await asyncio.gather(forget_all(), move(moving, Status.REFUNDED))  # side by side, in the same order
    assert forgotten > 0
    kept = """SELECT sagas.payment_id FROM sagas LEFT JOIN transitions USING (payment_id) GROUP BY sagas.payment_id
        HAVING count(transitions.version) <> sagas.version - journal_from + 1 OR min(transitions.version) <> journal_from"""
    assert await rows(world.databases["saga"], kept) == []


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize(("first", "error"), [(1, UniqueViolationError), (2, MovedOnError), (4, MovedOnError)])
async def test_what_was_decided_on_another_version_is_not_stored(
    world: World, database: Database, first: int, steps: int, error: type[Exception]
) -> None:
    """Whatever version it would reach: a saga of version 2, its journal gone, and steps from no saga, from version 1, from version 3."""
    stored, guessed = Saga(PAYMENT, "INV-1", Status.COMPLETED, version=2), Saga(PAYMENT, "INV-1", Status.FAILED)
    await store_steps(database, [replace(stored, version=1), stored])
    await execute(world.databases["saga"], "DELETE FROM transitions")
    before = await saga(world)
    with pytest.raises(error):
        await store_steps(database, [replace(guessed, version=n) for n in range(first, first + steps)])
    assert (await saga(world), await journal(world)) == (before, [])
