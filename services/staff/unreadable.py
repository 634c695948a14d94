"""Watches the queue `dead-letters.unreadable`: what this service could not even receive waits there for a person."""

import structlog

from shared.amqp.broker_link import BROKER_ERRORS, RPC_TIMEOUT_S, BrokerLink, losses_as_errors
from shared.messaging.topology import UNREADABLE_DEAD_LETTERS
from shared.observability import metrics

log = structlog.get_logger(__name__)


class UnreadableWatch:
    """Counts the messages of the queue, and logs an error when there are more than before.

    `link` is for this watch only: if the queue is missing, asking for it may end the connection.
    """

    name = "unreadable_watch"
    interval_s = 30.0
    retry_on = BROKER_ERRORS

    def __init__(self, link: BrokerLink) -> None:
        self._link = link
        self._seen = 0

    async def run_once(self) -> float:
        """Look once. Raises one of `BROKER_ERRORS` if the broker is away or the queue is missing."""
        try:
            waiting = await self._count()
        except BROKER_ERRORS:
            metrics.DEAD_LETTERS_UNREADABLE.hide()
            raise
        metrics.DEAD_LETTERS_UNREADABLE.show({(): waiting})
        if waiting > self._seen:
            log.error("dead_letters_unreadable", queue=UNREADABLE_DEAD_LETTERS, messages=waiting)
        self._seen = waiting
        return self.interval_s

    async def _count(self) -> int:
        with losses_as_errors():
            channel = await self._link.channel(confirms=False)
            try:
                state = await channel.queue_declare(UNREADABLE_DEAD_LETTERS, passive=True, timeout=RPC_TIMEOUT_S)
            finally:
                if not channel.is_closed:
                    await channel.close(timeout=RPC_TIMEOUT_S)
        return state.message_count or 0
