"""Migrations: what a service asks at its start."""

from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from deploy.local.stack import SERVICES, Stack
from shared.persistence.database import Database
from shared.persistence.migrate import migrate
from shared.persistence.schema import newest_revision, pending

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("service", SERVICES)
def test_the_newest_file_is_alembics_head(service: str) -> None:
    folder = ROOT / "services" / service / "migrations"
    assert newest_revision(folder) == ScriptDirectory(str(folder), version_locations=[str(folder)]).get_current_head()


async def test_an_empty_database_is_refused_until_it_is_migrated(stack: Stack) -> None:
    folder = ROOT / "services" / "invoice" / "migrations"
    url = stack.create_database("test_migrations")
    try:
        database = await Database.open(url, name="test", connections_max=1)
        async with database.connection() as connection:
            assert "run `remit migrate`" in (await pending(connection, folder) or "")
        assert await migrate(url, folder) == [newest_revision(folder)]
        assert await migrate(url, folder) == []
        async with database.connection() as connection:
            assert await pending(connection, folder) is None
        await database.close()
    finally:
        stack.drop_database("test_migrations")
