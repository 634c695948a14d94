"""What the tests of the staff service share."""

from collections.abc import AsyncIterator

import pytest

from shared.persistence.database import Database
from tests.support.environment import Environment


@pytest.fixture
async def database(environment: Environment) -> AsyncIterator[Database]:
    """The connection of a person at the terminal."""
    opened = await Database.open(environment.databases["staff"], name="test", connections_max=4)
    yield opened
    await opened.close()
