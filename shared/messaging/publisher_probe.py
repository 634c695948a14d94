"""Finds out whether the broker takes messages, also when there is nothing to publish."""

from shared.amqp.broker_link import BROKER_ERRORS
from shared.messaging.publisher import Publisher


class PublisherProbe:
    """Keeps the publisher's channel open, and readiness true to what it meets."""

    name = "publisher_probe"
    interval_s = 0.5
    """How long an outage may go unnoticed in a quiet hour. While the channel is fine it costs nothing."""
    retry_on = BROKER_ERRORS

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def run_once(self) -> float:
        """One look at the channel."""
        await self._publisher.keep_open()
        return self.interval_s
