"""The lanes on which a service publishes, put together: connections, relays, and the tasks that go on beside them.

What the services say to each other never waits for the other lanes. On those, what was refused or ended a connection has a connection and a
sweeper of its own: however much others do not take, it must not hold up what they would.
"""

import asyncio
from collections.abc import Sequence

from shared.amqp.broker_link import BrokerLink
from shared.background import BackgroundTask
from shared.messaging.envelope import Lane
from shared.messaging.outbox_keeper import OutboxKeeper
from shared.messaging.outbox_sweeper import OutboxSweeper
from shared.messaging.publisher import Publisher
from shared.messaging.publisher_probe import PublisherProbe
from shared.messaging.relay import OutsideRelay, PublicRelay, Relay, RetryRelay
from shared.messaging.routes import Routes
from shared.observability.health import Readiness
from shared.persistence import outbox
from shared.persistence.database import Database


class Lanes:
    """All lanes of one service. `relay` publishes what was committed; `outside` and `public` have to run beside it.

    `reading` tells what waits in the outbox. Only the inside lane is a part of `readiness`, since others can disturb the rest. The gauge
    of the outside lane tells of it.
    """

    def __init__(self, rabbitmq_url: str, database: Database, readiness: Readiness, *, name: str) -> None:
        routes, keeper = Routes(), OutboxKeeper(database)

        def publisher(role: str, lane: Lane, said: Readiness | None = None) -> Publisher:
            tell = routes.trust if lane is Lane.OUTSIDE else None
            return Publisher(BrokerLink(rabbitmq_url, name=f"{name} {role}"), said, lane=lane, tell_reply_address=tell)

        inside = publisher("publisher", Lane.INSIDE, readiness)
        outside = publisher("publisher outside", Lane.OUTSIDE)
        retry = publisher("publisher retry", Lane.RETRY)
        public = publisher("publisher public", Lane.PUBLIC)
        public_retry = publisher("publisher public retry", Lane.PUBLIC)
        self.outside = OutsideRelay(database, outside, routes=routes, keeper=keeper)
        self.public = PublicRelay(database, public, routes=routes, keeper=keeper)
        self.relay = Relay(database, inside, outside=self.outside, public=self.public)
        self._publishers = (inside, outside, retry, public, public_retry)
        sweepers = (
            OutboxSweeper(database, self.relay, readiness),
            OutboxSweeper(database, self.outside),
            OutboxSweeper(database, RetryRelay(database, retry, lane=Lane.RETRY, routes=routes, keeper=keeper)),
            OutboxSweeper(database, RetryRelay(database, public_retry, lane=Lane.PUBLIC, routes=routes, keeper=keeper)),
        )
        self.background_tasks: Sequence[BackgroundTask] = (
            PublisherProbe(inside),
            PublisherProbe(outside),
            *sweepers,
            keeper,
        )
        self.reading = outbox.reading({sweeper.lane: sweeper.overdue for sweeper in sweepers})

    async def all_published(self) -> None:
        """Wait until everything that was handed to the lanes of others was sent to the broker once."""
        await asyncio.gather(self.outside.all_published(), self.public.all_published())

    async def close(self) -> None:
        """Close all connections of all lanes. Never raises an error of the broker."""
        await asyncio.gather(*(publisher.close() for publisher in self._publishers))
