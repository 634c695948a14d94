"""What the tests of the staff service share."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, cast

import pytest

from services.staff.journal import JournalSeals
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.persistence.database import Database
from tests.support.environment import Environment


@pytest.fixture
async def database(environment: Environment) -> AsyncIterator[Database]:
    """The connection of a person at the terminal."""
    opened = await Database.open(environment.databases["staff"], name="test", connections_max=4)
    yield opened
    await opened.close()


class Passing:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **time: float) -> None:
        self.now += timedelta(**time)


@pytest.fixture
def passing() -> Passing:
    return Passing()


class Sealing(Protocol):
    """Makes the task that seals the journal, as an instance of the service has it."""

    def __call__(self, file: Path | None = None) -> JournalSeals: ...


@pytest.fixture
def sealing(database: Database, passing: Passing) -> Sealing:
    """No queue of ours takes the event of a seal, so nothing is published but the public copy, which stays in the outbox."""
    relay = Relay(database, cast("Publisher", object()))
    return lambda file=None: JournalSeals(database, relay, passing, file)
