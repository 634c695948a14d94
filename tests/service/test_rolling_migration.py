"""A column is renamed while instances are at work: the pre step, both builds side by side, the new one alone, the post step.

This is the example to copy; its migrations are in rolling_migration/. (tests/faults/versions.py does it with the services themselves.)
"""

import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from deploy.local.stack import Stack
from shared.persistence.database import Database
from shared.persistence.migrate import PostStepFirstError, migrate
from shared.persistence.schema import pending

NEW_FOLDER = Path(__file__).parent / "rolling_migration"
PRE, POST = "0002_pre_add_legal_name", "0003_post_drop_name"


class RunningBuild:
    """An instance of a build: its statements, on a pool of its own that stays open while the schema changes."""

    def __init__(self, database: Database, folder: Path, column: str) -> None:
        self._database = database
        self._folder = folder
        self._insert = f"INSERT INTO customers (id, {column}) VALUES ($1, $2)"
        self._rename = f"UPDATE customers SET {column} = $2 WHERE id = $1"
        self._select = f"SELECT {column} FROM customers WHERE id = $1"

    @classmethod
    @asynccontextmanager
    async def running(cls, url: str, folder: Path, column: str) -> "AsyncIterator[RunningBuild]":
        database = await Database.open(url, name="test", connections_max=1)
        try:
            yield cls(database, folder, column)
        finally:
            await database.close()

    async def why_not_started(self) -> str | None:
        async with self._database.connection() as connection:
            return await pending(connection, self._folder)

    async def add(self, name: str) -> UUID:
        id_ = uuid.uuid4()
        await self._run(self._insert, id_, name)
        return id_

    async def rename(self, id_: UUID, name: str) -> None:
        await self._run(self._rename, id_, name)

    async def name_of(self, id_: UUID) -> Any:
        async with self._database.connection() as connection:
            return await connection.fetchval(self._select, id_)

    async def _run(self, statement: str, *arguments: object) -> None:
        async with self._database.transaction() as tx:
            await tx.execute(statement, *arguments)


@pytest.fixture
def url(stack: Stack) -> Iterator[str]:
    """An empty database."""
    name = f"test_rolling_{uuid.uuid4().hex[:8]}"
    yield stack.create_database(name)
    stack.drop_database(name)


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    """The migrations that the old build has."""
    shutil.copy(NEW_FOLDER / "0001_initial.py", tmp_path)
    return tmp_path


async def _at_work(build: RunningBuild) -> None:
    id_ = await build.add("Ann")
    await build.rename(id_, "Ann Ltd")
    assert await build.name_of(id_) == "Ann Ltd"


async def test_a_column_is_renamed_while_instances_are_at_work(url: str, old_folder: Path) -> None:
    await migrate(url, old_folder)
    async with (
        RunningBuild.running(url, old_folder, "name") as old,
        RunningBuild.running(url, NEW_FOLDER, "legal_name") as new,
    ):
        await _at_work(old)
        from_before = await old.add("Bob")
        assert "run `remit migrate`" in (await new.why_not_started() or "")

        done = await migrate(url, NEW_FOLDER)
        assert ([step.name for step in done.applied], [step.name for step in done.waiting]) == ([PRE], [POST])
        assert await old.why_not_started() is None
        await _at_work(old)

        assert await new.why_not_started() is None
        await _at_work(new)
        assert await new.name_of(from_before) == "Bob"
        for writer, reader in ((old, new), (new, old)):
            id_ = await writer.add("Eve")
            assert await reader.name_of(id_) == "Eve"
            await reader.rename(id_, "Eve Ltd")
            assert await writer.name_of(id_) == "Eve Ltd"

        assert [step.name for step in (await migrate(url, NEW_FOLDER, post=True)).applied] == [POST]
        assert await new.why_not_started() is None
        await _at_work(new)
        assert await new.name_of(from_before) == "Bob"
        with pytest.raises(asyncpg.UndefinedColumnError):  # so a post step waits until no old instance is left
            await old.add("Dan")


async def test_a_pre_step_after_a_post_step_waits_for_it(url: str, old_folder: Path, tmp_path: Path) -> None:
    """A user who leaves a release out must stop the old instances."""
    await migrate(url, old_folder)
    folder = tmp_path / "two releases on"
    shutil.copytree(NEW_FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "0004_pre_more.py").write_text("revision = '0004'\ndown_revision = '0003'\n\n\ndef upgrade(): ...\n")
    with pytest.raises(
        PostStepFirstError, match=rf"0004_pre_more comes after {POST}: stop all instances of earlier builds"
    ):
        await migrate(url, folder)
    async with RunningBuild.running(url, old_folder, "name") as old:
        await _at_work(old)
    assert [step.revision for step in (await migrate(url, folder, post=True)).applied] == ["0002", "0003", "0004"]


async def test_an_empty_database_waits_for_no_post_step(url: str, tmp_path: Path) -> None:
    """No instance of an earlier build can be at work there, so nobody has to be asked to run a second command."""
    shutil.copytree(NEW_FOLDER, tmp_path, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    (tmp_path / "0004_pre_more.py").write_text("revision = '0004'\ndown_revision = '0003'\n\n\ndef upgrade(): ...\n")
    (tmp_path / "0005_post_less.py").write_text("revision = '0005'\ndown_revision = '0004'\n\n\ndef upgrade(): ...\n")
    done = await migrate(url, tmp_path)
    assert ([step.revision for step in done.applied], done.waiting) == (["0001", "0002", "0003", "0004", "0005"], [])


async def test_a_first_migration_that_was_interrupted_goes_on(url: str, tmp_path: Path) -> None:
    """It is a new database still: no service has started there, and whoever types `remit migrate` again is not asked for more."""
    shutil.copytree(NEW_FOLDER, tmp_path, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    last = tmp_path / "0004_pre_more.py"
    last.write_text("revision = '0004'\ndown_revision = '0003'\n\n\ndef upgrade():\n    raise InterruptedError\n")
    with pytest.raises(InterruptedError):
        await migrate(url, tmp_path)
    async with RunningBuild.running(url, NEW_FOLDER, "legal_name") as build:
        assert "run `remit migrate`" in (await build.why_not_started() or "")
        last.write_text(last.read_text().replace("raise InterruptedError", "..."))
        assert [step.revision for step in (await migrate(url, tmp_path)).applied] == ["0004"]
        assert await build.why_not_started() is None


async def test_an_older_build_finds_nothing_to_do_on_a_newer_schema(url: str, old_folder: Path) -> None:
    await migrate(url, NEW_FOLDER)
    assert (await migrate(url, old_folder, post=True)).applied == []
