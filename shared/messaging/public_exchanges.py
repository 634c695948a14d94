"""Which public exchanges refuse messages now, because a queue that somebody else bound to them is full.

While one refuses, its events go to our own queues alone, and their public copies wait in the outbox. Otherwise each of our queues would get
every event again with each try. What refuses is known by exchange and routing key, since others may have bound some events only. It is
known in memory only: after a restart the next refusal tells of it again.
"""

from collections.abc import Sequence

import structlog

from shared.messaging.envelope import Outgoing
from shared.messaging.topology import MUST_ROUTE, is_public, own_exchange
from shared.observability import metrics
from shared.records import replace

log = structlog.get_logger(__name__)


class PublicExchanges:
    """What is known about the public exchanges. Both lanes of a service share it."""

    def __init__(self) -> None:
        self._refusing: set[tuple[str, str]] = set()

    def refuses(self, message: Outgoing) -> bool:
        """Whether the public copy of this message would be refused now."""
        return bool(self._refusing) and (message.exchange, message.routing_key) in self._refusing

    def refused(self, messages: Sequence[Outgoing]) -> None:
        """Public copies of these messages were refused, while our own queues were not to blame."""
        for message in messages:
            metrics.PUBLIC_COPIES_REFUSED.labels(exchange=message.exchange).inc()
            if (route := (message.exchange, message.routing_key)) not in self._refusing:
                self._refusing.add(route)
                log.error(
                    "public_copies_refused",
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    advice="a queue that somebody bound to it is full: its owner drains or unbinds it; our own queues get theirs",
                )

    def taken(self, messages: Sequence[Outgoing]) -> None:
        """The broker took public copies of these messages."""
        if self._refusing:
            self._refusing -= {(message.exchange, message.routing_key) for message in messages}


def is_event(message: Outgoing) -> bool:
    """Whether the public hears of this message, so that others can make the broker refuse it."""
    return is_public(message.exchange)


def for_own_queues(messages: Sequence[Outgoing]) -> list[Outgoing]:
    """These events with the same ids and bytes, for our own queues alone. Events that none of our queues takes are left out."""
    return [
        replace(message, exchange=own_exchange(message.exchange)) for message in messages if message.type in MUST_ROUTE
    ]
