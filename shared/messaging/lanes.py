"""The two lanes on which a service publishes, put together: connections, relays, and the tasks that go on beside them.

What the services say to each other never waits for the outside lane. There, fresh messages and repeated ones have a connection each: a
message that ends the connection at every try must not take the fresh ones along.
"""

from collections.abc import Sequence

from shared.amqp.broker_link import BrokerLink
from shared.background import BackgroundTask
from shared.messaging.envelope import Lane
from shared.messaging.outbox_sampler import OutboxSampler
from shared.messaging.outbox_sweeper import OutboxSweeper
from shared.messaging.public_exchanges import PublicExchanges
from shared.messaging.publisher import Publisher
from shared.messaging.publisher_probe import PublisherProbe
from shared.messaging.relay import OutsideRelay, Relay
from shared.observability.health import Readiness
from shared.persistence.database import Database


class Lanes:
    """Both lanes of one service. `relay` publishes what was committed; `outside` has to run beside it.

    The outside lane is no part of `readiness`, since others can disturb it. Only its gauge tells of it.
    """

    def __init__(self, rabbitmq_url: str, database: Database, readiness: Readiness, *, name: str) -> None:
        def link(role: str) -> BrokerLink:
            return BrokerLink(rabbitmq_url, name=f"{name} {role}")

        outside_readiness = Readiness()
        inside = Publisher(link("publisher"), readiness)
        fresh = Publisher(link("publisher outside"), outside_readiness, lane=Lane.OUTSIDE)
        repeated = Publisher(link("sweeper outside"), outside_readiness, lane=Lane.OUTSIDE)
        public = PublicExchanges()
        self.outside = OutsideRelay(database, fresh, public=public)
        self.relay = Relay(database, inside, outside=self.outside, public=public)
        self._publishers = (inside, fresh, repeated)
        self.background_tasks: Sequence[BackgroundTask] = (
            PublisherProbe(inside),
            PublisherProbe(fresh),
            OutboxSweeper(database, self.relay, readiness),
            OutboxSweeper(database, OutsideRelay(database, repeated, public=public)),
            self.relay.cleaner,
            OutboxSampler(database),
        )

    async def close(self) -> None:
        """Close all connections of both lanes. Never raises an error of the broker."""
        for publisher in self._publishers:
            await publisher.close()
