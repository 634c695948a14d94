"""Deadlines that fire when the test calls for them, and the tables of the saga."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import UUID

import pytest

from services.saga.deadlines import DeadlineScheduler
from services.saga.domain import ReminderSchedule
from shared.amqp.broker_link import BrokerLink
from shared.clock import system_clock
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.persistence.database import Database
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.waiting import until

PATIENCE = ReminderSchedule((120.0, 300.0))


@pytest.fixture
async def instances(environment: Environment) -> AsyncIterator[tuple[DeadlineScheduler, DeadlineScheduler]]:
    """The deadline schedulers of two instances, each with connections of its own."""
    async with AsyncExitStack() as closing:
        made = []
        for name in ("one", "two"):
            database = await Database.open(environment.databases["saga"], name=name, connections_max=4)
            closing.push_async_callback(database.close)
            publisher = Publisher(BrokerLink(environment.rabbitmq_url, name=name))
            closing.push_async_callback(publisher.close)
            made.append(DeadlineScheduler(database, Relay(database, publisher), system_clock, PATIENCE))
        yield made[0], made[1]


@pytest.fixture
def handled(environment: Environment) -> Callable[[set[UUID]], Awaitable[None]]:
    """Wait until all these messages were handled, and everything they caused was published."""

    async def wait(ids: set[UUID]) -> None:
        async def done() -> bool:
            inbox = await rows(environment.databases["saga"], "SELECT message_id FROM inbox")
            outbox = await rows(environment.databases["saga"], "SELECT id FROM outbox")
            return ids <= {row["message_id"] for row in inbox} and not outbox

        await until(done, what="the handling of all messages")

    return wait
