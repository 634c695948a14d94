"""The migrations of a service: their names, and what it asks at its start."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from deploy.local.stack import SERVICES, Stack
from shared.persistence.database import Database
from shared.persistence.migrate import migrate
from shared.persistence.schema import needed_revision, pending, steps
from tests.support.environment import ROOT


def _folder(service: str) -> Path:
    return ROOT / "services" / service / "migrations"


@contextmanager
def _new_database(stack: Stack) -> Iterator[str]:
    name = f"test_migrations_{uuid.uuid4().hex[:8]}"
    try:
        yield stack.create_database(name)
    finally:
        stack.drop_database(name)


# -- the files -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_the_files_are_alembics_history(service: str) -> None:
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
        assert (await migrate(url, folder)).applied[-1].revision == needed_revision(folder)
        assert (await migrate(url, folder)).applied == []
        async with database.connection() as connection:
            assert await pending(connection, folder) is None
        await database.close()
