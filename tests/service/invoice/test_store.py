"""What a batch stores about its invoices."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from asyncpg import UniqueViolationError

from services.invoice import answers, store
from services.invoice.answers import StoredAnswer
from services.invoice.domain import Event, Invoice, Issued, MethodSummary, PaymentRequested, evolve
from services.invoice.store import NewEvent
from shared.messaging.envelope import Cause
from shared.persistence.database import Database, MovedOnError
from shared.persistence.writes import WriteBatch
from shared.records import replace
from tests.support.environment import Environment

ISSUED = Issued("C-1", 1_250, "EUR")
ISSUED_TYPE = "remit.invoice.IssueInvoice.v1"
CAUSE = Cause(UUID(int=1), "flow-1", datetime(2026, 1, 1, tzinfo=UTC))


def requested(number: int) -> PaymentRequested:
    return PaymentRequested(UUID(int=number), 1_250, "EUR", MethodSummary("token", "abc"))


async def test_new_and_known_invoices_are_stored_by_one_statement(environment: Environment) -> None:
    database = await Database.open(environment.databases["invoice"], name="test", connections_max=1)
    known: dict[str, Invoice] = {}
    try:
        await stored(database, known, [("INV-1", ISSUED)])
        await stored(
            database,
            known,
            [("INV-1", requested(1)), ("INV-2", ISSUED), ("INV-3", ISSUED), ("INV-3", requested(3))],
        )
        assert {id_: invoice.version for id_, invoice in known.items()} == {"INV-1": 2, "INV-2": 1, "INV-3": 2}
        async with database.connection() as connection:
            assert await store.differing(connection, list(known.values())) == []
    finally:
        await database.close()


async def stored(database: Database, known: dict[str, Invoice], happened: list[tuple[str, Event]]) -> None:
    new_events = []
    for invoice_id, event in happened:
        known[invoice_id] = evolve(known.get(invoice_id, Invoice(invoice_id)), event)
        new_events.append((invoice_id, CAUSE, NewEvent(event, known[invoice_id].version, 0, None)))
    async with database.connection() as connection:
        writes = WriteBatch(connection, one_statement=True)
        await store.save(writes, new_events=new_events, invoices={id_: known[id_] for id_, _ in happened})
        assert writes.fits_one_statement
        await writes.flush()


async def test_a_command_that_was_answered_meanwhile_is_a_conflict(environment: Environment) -> None:
    """Else two instances could decide one command, and its sender would hear but one of the decisions."""
    database = await Database.open(environment.databases["invoice"], name="test", connections_max=1)
    accepted = StoredAnswer(UUID(int=1), ISSUED_TYPE, "accepted", "flow-1")

    async def store_answer(answer: StoredAnswer) -> None:
        async with database.transaction() as tx:
            writes = WriteBatch(tx)
            await answers.insert(writes, [answer])
            await writes.flush()

    try:
        await store_answer(accepted)
        with pytest.raises(UniqueViolationError):
            await store_answer(replace(accepted, answer="rejected"))
    finally:
        await database.close()


async def test_a_command_that_was_answered_under_its_former_id_is_a_conflict(environment: Environment) -> None:
    """`SENDERS` was changed meanwhile. The batch is repeated, and finds that answer; a former id of another sender means nothing."""
    database = await Database.open(environment.databases["invoice"], name="test", connections_max=1)
    former, now = UUID(int=1), UUID(int=2)

    async def store_answer(id_: UUID, former_ids: dict[UUID, str | None]) -> None:
        async with database.transaction() as tx:
            writes = WriteBatch(tx)
            answer = StoredAnswer(id_, ISSUED_TYPE, "accepted", "flow-1", sender="billing")
            await answers.insert(writes, [answer], former_ids)
            await writes.flush()

    try:
        await store_answer(former, {})
        with pytest.raises(MovedOnError):
            await store_answer(now, {former: "billing"})
        await store_answer(now, {former: "shop"})
    finally:
        await database.close()
