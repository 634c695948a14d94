"""The migrations of a service, the schema that they give, and whether the code's SQL fits that schema."""

import asyncio
import difflib
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from deploy.local.snapshot import migrated_snapshot, path_of
from deploy.local.stack import SERVICES, Stack
from shared.persistence import migrate as migrations
from shared.persistence.database import Connection, Database
from shared.persistence.migrate import Migrated, migrate
from shared.persistence.schema import needed_revision, pending, steps
from tests.support.environment import ROOT
from tests.support.statements import Tables, misfits, statements, statements_of, tables_of
from tests.support.waiting import DEADLINE_S, until


def _folder(service: str) -> Path:
    return ROOT / "services" / service / "migrations"


@contextmanager
def _new_database(stack: Stack) -> Iterator[str]:
    name = f"test_migrations_{uuid.uuid4().hex[:8]}"
    try:
        yield stack.create_database(name)
    finally:
        stack.drop_database(name)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _changed(connection: Connection, *changes: str) -> AsyncIterator[None]:
    """These changes hold until the end of the body."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        for change in changes:
            await connection.execute(change)
        yield
    finally:
        await transaction.rollback()


# -- the files ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_the_migration_files_are_one_alembic_history(service: str) -> None:
    folder = _folder(service)
    history = ScriptDirectory(str(folder), version_locations=[str(folder)]).walk_revisions()
    assert [step.revision for step in steps(folder)] == [script.revision for script in history][::-1]


@pytest.mark.parametrize(
    "name",
    ["0002_colour.py", "add_colour.py", "0002_pre.py", "2_pre_colour.py", "0002_later_colour.py", "0002_initial.py"],
)
def test_a_file_named_neither_pre_nor_post_is_refused(name: str, tmp_path: Path) -> None:
    for file in ("0001_initial.py", name):
        (tmp_path / file).touch()
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name}: name a migration 0002_pre_<what>.py")):
        steps(tmp_path)


def test_a_build_needs_its_newest_pre_step(tmp_path: Path) -> None:
    for file in ("0001_initial.py", "0002_post_a.py", "0003_pre_b.py", "0004_post_c.py"):
        (tmp_path / file).touch()
    assert needed_revision(tmp_path) == "0003"


async def test_an_empty_database_is_refused_until_it_is_migrated(stack: Stack) -> None:
    folder = _folder("invoice")
    with _new_database(stack) as url:
        database = await Database.open(url, name="test", connections_max=1)
        async with database.connection() as connection:
            assert "run `remit migrate`" in (await pending(connection, folder) or "")
        done = await migrate(url, folder)
        assert (done.applied, done.waiting) == (steps(folder), [])
        assert await migrate(url, folder) == Migrated([], [])
        async with database.connection() as connection:
            assert await pending(connection, folder) is None
        await database.close()


async def _started_from(stack_url: str, folder: Path, service: str, revision: str) -> None:
    """Migrate to this revision only, as the build before did."""
    before = folder / service / "migrations"
    before.mkdir(parents=True)
    for path in _folder(service).glob("*.py"):
        if path.stem == "__init__" or path.stem <= f"{revision}_~":
            shutil.copy(path, before)
    await migrate(stack_url, before, post=True)


async def test_a_change_of_a_table_holds_nobody_up_behind_its_lock(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup reads the table for long: the change gives its place in the queue up, and tries again."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(migrations, "AGAIN_IN_S", 0.01)
    tries = 0

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal tries
        tries += 1
        upgrade(*arguments, **named)

    upgrade = migrations._upgrade
    monkeypatch.setattr(migrations, "_upgrade", counted)
    with _new_database(stack) as url:
        await _started_from(url, tmp_path, "payment_gateway", "0010")
        tries = 0

        async def tried_again() -> bool:
            return tries > 2

        async with _connected(url) as reader:
            async with reader.transaction():
                await reader.execute("SELECT FROM payments")
                migrating = asyncio.create_task(migrate(url, _folder("payment_gateway")))
                await until(tried_again, what="the change to be tried again")
            async with asyncio.timeout(DEADLINE_S):
                assert [step.revision for step in (await migrating).applied][:1] == ["0011"]


async def test_an_index_is_made_while_services_write_and_by_one_of_two(stack: Stack, tmp_path: Path) -> None:
    """It waits for the transactions that are open, and nobody waits for it."""
    with _new_database(stack) as url:
        await _started_from(url, tmp_path, "saga", "0006")

        async def waits() -> bool:
            return bool(
                await writer.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%CREATE INDEX CONCURRENTLY%' "
                    "AND wait_event_type = 'Lock'"
                )
            )

        async with _connected(url) as writer, _connected(url) as other:
            transaction = other.transaction()
            await transaction.start()
            await other.execute("UPDATE sagas SET version = version")
            migrating = asyncio.gather(*(migrate(url, _folder("saga")) for _ in range(2)))
            await until(waits, what="the index to wait for the open transaction")
            async with asyncio.timeout(DEADLINE_S):
                await writer.execute("UPDATE sagas SET version = version")
                await transaction.commit()
                applied = sorted(len(one.applied) for one in await migrating)
            assert applied[0] == 0, "one of them finds nothing to do"
            assert applied[1] >= 1


# -- the schema they give ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
async def test_all_migrations_from_scratch_give_the_snapshot(service: str, stack: Stack) -> None:
    path = path_of(service)
    kept, given = path.read_text().splitlines(), (await migrated_snapshot(stack, service)).splitlines()
    difference = "\n".join(difflib.unified_diff(kept, given, "the snapshot", "what the migrations give", lineterm=""))
    assert kept == given, (
        f"{path.relative_to(ROOT)} differs from what the migrations beside it give. If a new migration is the reason, run "
        f"`make schema` and commit both. A migration that was released is never changed: undo that, and write another.\n{difference}"
    )


# -- the code's idea of it -------------------------------------------------------------------------------------------------------------


async def _complaints(connection: Connection, service: str) -> list[str]:
    tables = await tables_of(connection)
    return [
        f"{statement.where}: {misfit}. Mend the statement, or write a migration services/{service}/migrations/<number>_pre_<what>.py and "
        "run `make schema`"
        for statement in statements_of(service)
        for misfit in await misfits(connection, tables, statement.text)
    ]


async def _functions_of(connection: Connection) -> list[str]:
    """The functions of the schema as PostgreSQL keeps them. A trigger's function works with tables and types as a statement does."""
    found = await connection.fetch("SELECT prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    return [row["prosrc"] for row in found]


def _unused(tables: Tables, service: str, functions: list[str]) -> list[str]:
    """Tables and types that neither a statement nor a function of the schema names, and attributes of a row type that none with that type
    names: the code gives them no value."""
    texts = [*(statement.text for statement in statements_of(service)), *functions]
    unused = []
    for name, columns in tables.items():
        users = [text for text in texts if re.search(rf"\b{name}\b", text)]
        words = set(re.findall(r"\w+", " ".join(users)))
        if not users:
            unused.append(name)
        elif any(f"::{name}[]" in text for text in users):
            unused += [f"{name}.{column.name}" for column in columns if column.name not in words]
    return unused


@pytest.mark.parametrize("service", SERVICES)
async def test_every_statement_fits_the_tables_before_and_after_the_post_steps(service: str, stack: Stack) -> None:
    complaints, tables, functions = [], {}, []
    with _new_database(stack) as url:
        for post in (False, True):
            await migrate(url, _folder(service), post=post)
            async with _connected(url) as connection:
                complaints += await _complaints(connection, service)
                tables, functions = await tables_of(connection), await _functions_of(connection)
    assert not complaints, "\n".join(complaints)
    unused = _unused(tables, service, functions)
    assert not unused, (
        f"no statement and no function of {service} names {', '.join(unused)}: let one do so, or drop it in a migration "
        f"services/{service}/migrations/<number>_post_<what>.py"
    )


UNUSED = {
    "CREATE TABLE answers (id uuid)": "answers",
    "CREATE TYPE answer_row AS (id uuid)": "answer_row",
    "ALTER TYPE saga_row_3 ADD ATTRIBUTE mood text": "saga_row_3.mood",
}
"""What no statement uses after this change."""
_FUNCTION_WITH_THE_TYPE = """
    CREATE FUNCTION count_answers() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        found public.answer_row[];
    BEGIN
        RETURN NULL;
    END $$"""
MISFITS = {
    "ALTER TABLE sagas RENAME refund_reason TO why": 'column "refund_reason" of relation "sagas" does not exist',
    "ALTER TABLE sagas ADD mood text NOT NULL": "it gives sagas no mood",
    "ALTER TABLE transitions ALTER version TYPE bigint": "(integer) where transitions takes version (bigint)",
    "ALTER TYPE transition_row RENAME ATTRIBUTE fact TO what": "the rows give what (text) where transitions takes fact",
    "ALTER TYPE saga_row_3 DROP ATTRIBUTE flagged": 'column "flagged" does not exist',
    "ALTER TABLE outbox RENAME reply_tos TO askers": "shared/persistence/outbox.py",
    "DROP TABLE deadlines": 'relation "deadlines" does not exist',
}
"""What is said about a statement after this change."""


async def test_tables_and_columns_changed_without_the_code_are_noticed(stack: Stack) -> None:
    with _new_database(stack) as url:
        await migrate(url, _folder("saga"), post=True)
        async with _connected(url) as connection:
            for change, unused in UNUSED.items():
                async with _changed(connection, change):
                    tables, functions = await tables_of(connection), await _functions_of(connection)
                    assert _unused(tables, "saga", functions) == [unused], change
            type_, function = "CREATE TYPE answer_row AS (id uuid)", _FUNCTION_WITH_THE_TYPE
            async with _changed(connection, type_, function):
                assert _unused(await tables_of(connection), "saga", await _functions_of(connection)) == []
            for change, complaint in MISFITS.items():
                async with _changed(connection, "DROP VIEW outbox_messages", change):
                    complaints = await _complaints(connection, "saga")
                assert any(complaint in one for one in complaints), (change, complaints)
                assert all("services/saga/migrations/<number>_pre_<what>.py" in one for one in complaints), change


def test_a_statement_built_from_arguments_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its text is built: such a statement could not be checked against the tables."""
    monkeypatch.setattr("tests.support.statements.ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "careless_store.py"
    source.write_text("""
_SELECT = "SELECT id FROM things"

def find(table, lock):
    one = f"DELETE FROM {table}"
    other = f"{_SELECT} {lock}"
""")
    with pytest.raises(AssertionError, match=r"careless_store\.py:5: a statement must not depend on the call"):
        list(statements(source))
    source.write_text(source.read_text().replace('one = f"DELETE FROM {table}"', ""))
    with pytest.raises(AssertionError, match=r"careless_store\.py:6: a statement must not depend on the call"):
        list(statements(source))
