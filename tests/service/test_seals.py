"""Seals over the books: each row is in exactly one of them, whoever writes beside, and a restored database goes on."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from deploy.doctor.databases import look_at_database
from deploy.doctor.diagnosis import Condition, Diagnosis
from services.audit.checks import CHECKS
from services.audit.finding import CheckResult, Finding
from services.audit.stores import Sources, open_stores
from services.invoice.__main__ import MIGRATIONS
from services.invoice.books import BOOKS
from shared.clock import system_clock
from shared.persistence.database import Database
from shared.persistence.migrate import migrate
from shared.persistence.seals import Sealer
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.seals import seal

ANSWERS = tuple(book for book in BOOKS if book.table == "answers")
ANSWER = """
    INSERT INTO answers (command_id, command_type, invoice_id, answer, correlation_id)
    SELECT gen_random_uuid(), 'c', 'INV', 'accepted', 'c' FROM generate_series(1, $1)"""
SEALS = "SELECT from_tx, until_tx, row_count FROM seals WHERE book = 'answers' ORDER BY number"


@pytest_asyncio.fixture
async def database(environment: Environment) -> AsyncIterator[Database]:
    opened = await Database.open(environment.databases["invoice"], name="test", connections_max=4)
    yield opened
    await opened.close()


async def answer(environment: Environment, count: int = 1) -> None:
    await execute(environment.databases["invoice"], ANSWER, count)


async def sealed(environment: Environment) -> list[int]:
    """How many rows each seal covers, in their order; the spans follow each other."""
    seals = await rows(environment.databases["invoice"], SEALS)
    assert [one["from_tx"] for one in seals[1:]] == [one["until_tx"] for one in seals[:-1]]
    return [one["row_count"] for one in seals if one["row_count"]]


async def audited(environment: Environment) -> Finding:
    (check,) = [check for check in CHECKS if check.name == "books_sealed"]
    sources = Sources(environment.databases, None, None, None)
    async with open_stores(sources, datetime.now(UTC)) as stores:
        return await check.run(stores)


@asynccontextmanager
async def writing(environment: Environment, count: int) -> AsyncIterator[Any]:
    """A transaction that has written answers and is still open."""
    connection = await asyncpg.connect(environment.databases["invoice"])
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(ANSWER, count)
        yield transaction
    finally:
        await connection.close()


async def test_what_an_open_transaction_writes_is_sealed_later(environment: Environment, database: Database) -> None:
    await answer(environment, 2)
    await seal(environment.databases)
    await answer(environment)
    async with writing(environment, 3) as slow:
        for _ in range(4):
            await answer(environment)  # by a later transaction, which ends before
        await Sealer(database, ANSWERS).run_once()
        assert await sealed(environment) == [2, 1], "nothing of after the oldest open transaction"
        await slow.commit()
    await seal(environment.databases)
    assert await sealed(environment) == [2, 1, 7]
    assert (await audited(environment)).result is CheckResult.HOLDS


async def test_the_doctor_names_a_transaction_that_holds_the_seals_up(environment: Environment) -> None:
    def says(found: Sequence[Diagnosis]) -> list[tuple[Condition, str]]:
        return [(one.condition, one.do or "") for one in found if "sealed" in one.says]

    url = environment.databases["invoice"]
    await answer(environment)
    await seal(environment.databases)
    assert says(await look_at_database("invoice", url, system_clock)) == [(Condition.WELL, "")]
    async with writing(environment, 1):
        await answer(environment)
        await execute(url, "UPDATE answers SET answered_at = now() - interval '2 minutes'")
        ((condition, do),) = says(await look_at_database("invoice", url, system_clock))
        assert (condition, do.startswith("end the transaction of process ")) == (Condition.LOOK, True)
    await execute(url, "UPDATE answers SET answered_at = now()")


async def test_a_backlog_is_sealed_in_parts_and_a_transaction_never_divided(
    environment: Environment, database: Database
) -> None:
    for count in (1, 7, 2, 2, 2):
        await answer(environment, count)
    sealer = Sealer(database, ANSWERS, rows_max=5)
    waits = [await sealer.run_once() for _ in range(5)]
    assert await sealed(environment) == [1, 7, 4, 2]
    assert waits == [0.0, 0.0, 0.0, sealer.interval_s, sealer.interval_s]
    assert (await audited(environment)).result is CheckResult.HOLDS


async def test_many_instances_seal_each_row_once(environment: Environment, database: Database) -> None:
    sealers = [Sealer(database, ANSWERS) for _ in range(4)]
    for _ in range(5):
        await answer(environment, 2)
        await asyncio.gather(*(one.run_once() for one in sealers))
    await seal(environment.databases)
    assert sum(await sealed(environment)) == 10
    assert (await audited(environment)).result is CheckResult.HOLDS


async def test_the_seal_of_rows_of_before_counts_them(environment: Environment, database: Database) -> None:
    await answer(environment, 3)
    await execute(environment.databases["invoice"], "UPDATE answers SET written_in = 0")
    await seal(environment.databases)
    assert await sealed(environment) == [3]
    assert (await audited(environment)).result is CheckResult.HOLDS
    await execute(environment.databases["invoice"], "DELETE FROM answers WHERE ctid = (SELECT min(ctid) FROM answers)")
    found = await audited(environment)
    assert [breach.why for breach in found.breaches] == [
        f"of the 3 rows sealed by number {await _number(environment)}, 1 are gone, or rows were moved"
    ]


async def _number(environment: Environment) -> str:
    (one,) = await rows(environment.databases["invoice"], "SELECT number, at FROM seals WHERE row_count = 3")
    return f"{one['number']} (until {one['at']:%Y-%m-%d %H:%M:%S})"


async def test_every_head_is_logged(environment: Environment, database: Database) -> None:
    await answer(environment)
    with capture_logs() as logs:
        await Sealer(database, ANSWERS).run_once()
    (last,) = await rows(
        environment.databases["invoice"],
        "SELECT number || ':' || encode(hash, 'hex') AS head FROM seals ORDER BY number DESC LIMIT 1",
    )
    assert [(log["event"], log["head"], log["rows"]) for log in logs] == [("books_sealed", last["head"], 1)]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM seals",
        "UPDATE seals SET row_count = row_count + 1",
        "UPDATE seals SET digest = 'x'",
        "UPDATE seals SET salt = 'x'",
        "UPDATE seals SET salt = NULL, left_salt = 'x', left_digest = 'x', hash = sha256('x')",
    ],
)
async def test_a_seal_is_not_changed(environment: Environment, statement: str) -> None:
    await answer(environment)
    await seal(environment.databases)
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await execute(environment.databases["invoice"], statement)


async def test_a_database_that_was_restored_into_another_server_goes_on(
    environment: Environment, database: Database
) -> None:
    """The other server counts transactions from the beginning: here, the rows have the high numbers of the one before."""
    url = environment.databases["invoice"]
    await answer(environment, 2)
    await seal(environment.databases)
    await execute(url, "ALTER TABLE seals DISABLE TRIGGER seals_append_only")
    try:
        far = 10**12
        await execute(
            url,
            f"INSERT INTO seals (book, from_tx, until_tx, row_count, salt, digest, at) SELECT book, until_tx, {far}, 0, '', "
            "sha256(''), now() FROM seals WHERE book = 'answers' ORDER BY number DESC LIMIT 1",
        )
        with capture_logs() as logs:
            await Sealer(database, ANSWERS).run_once()
        assert [log["event"] for log in logs] == ["books_not_sealed"]

        for _ in range(2):  # the second time finds nothing to do
            await migrate(url, MIGRATIONS)
        await answer(environment, 5)
        await seal(environment.databases)
        assert await sealed(environment) == [2, 5]
        assert (await audited(environment)).result is CheckResult.HOLDS
    finally:
        await execute(
            url, "TRUNCATE seal_numbering, seals, answers"
        )  # or the next migration goes on from their numbers
        for table in ("events", "answers"):
            await execute(url, f"ALTER TABLE {table} ALTER written_in SET DEFAULT pg_current_xact_id()::text::bigint")
        await execute(url, "ALTER TABLE seals ENABLE TRIGGER seals_append_only")
