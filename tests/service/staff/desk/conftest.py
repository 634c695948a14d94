"""What the tests of the desk share: a desk over a real database."""

from collections.abc import AsyncIterator

import pytest

from tests.support.desk_browser import DeskUnderTest, open_desk
from tests.support.environment import Environment


@pytest.fixture
async def desk(environment: Environment) -> AsyncIterator[DeskUnderTest]:
    """The desk with all its rooms."""
    async with open_desk(environment.databases["staff"]) as opened:
        yield opened
