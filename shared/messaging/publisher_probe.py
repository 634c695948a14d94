"""Checks whether the broker takes messages, also when there is nothing to publish."""

from shared.amqp.broker_link import BROKER_ERRORS
from shared.messaging.publisher import Publisher


class PublisherProbe:
    """Keeps the publisher's channel open, and so lets the publisher tell readiness of an outage and of its end."""

    name = "publisher_probe"
    interval_s = 0.5
    """How long a lost channel may go unnoticed while nothing is published. A run costs nothing while the channel is fine."""
    retry_on = BROKER_ERRORS

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def run_once(self) -> float:
        """Check the channel once, and open it if it is lost."""
        await self._publisher.keep_open()
        return self.interval_s
