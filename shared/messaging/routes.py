"""Which routes refuse messages now. A route is an exchange with a routing key; behind it a queue of somebody else may be full.

While the public copies of an event are refused, the event goes to our own queues alone. Otherwise each of our queues would get every event
again with each try. And while somebody's queue refuses answers, further answers to it go to the retry lane unsent, so those to others need
not share a connection and a sweeper with them.

What refuses is known by exchange and routing key, since others may have bound some events only. It is known in memory only: after a restart
the next refusal tells of it again.
"""

from collections.abc import Sequence

import structlog

from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import Published
from shared.messaging.topology import MUST_ROUTE, is_public, own_exchange
from shared.observability import metrics
from shared.records import replace

log = structlog.get_logger(__name__)

ROUTES_MAX = 10_000
"""Routes that are known to refuse, about a megabyte. Senders choose the names of their queues. Beyond this the oldest is forgotten, and its
next message tells of it again."""


class Routes:
    """What is known about the routes. All lanes of a service share it."""

    def __init__(self) -> None:
        self._refusing: dict[tuple[str, str], None] = {}

    def refuses(self, message: Outgoing) -> bool:
        """Whether the route of this message refused the last message that was sent there."""
        return bool(self._refusing) and route_of(message) in self._refusing

    def refused(self, messages: Sequence[Outgoing]) -> None:
        """The broker refused these messages, because a queue behind their routes takes none."""
        for message in messages:
            if is_event(message):
                metrics.PUBLIC_COPIES_REFUSED.labels(exchange=message.exchange).inc()
            if (route := route_of(message)) not in self._refusing:
                self._begins_to_refuse(route, message)

    def taken(self, messages: Sequence[Outgoing]) -> None:
        """The broker has taken these messages, or no queue is behind their routes any more."""
        if self._refusing:
            for message in messages:
                self._refusing.pop(route_of(message), None)

    def learn(self, messages: Sequence[Outgoing], published: Published) -> None:
        """Note what became of these messages when they were sent. A route that refused one of them refuses."""
        refused, unknown = set(published.refused), {*published.refused, *published.poison, *published.failed}
        self.taken([message for message in messages if message.id not in unknown])
        self.refused([message for message in messages if message.id in refused])

    def one_for_each(self, messages: Sequence[Outgoing]) -> tuple[list[Outgoing], list[Outgoing]]:
        """Those messages whose routes do not refuse, with the first for each route that does; and the rest."""
        shown: set[tuple[str, str]] = set()
        first: list[Outgoing] = []
        rest: list[Outgoing] = []
        for message in messages:
            if not self.refuses(message):
                first.append(message)
            elif (route := route_of(message)) in shown:
                rest.append(message)
            else:
                shown.add(route)
                first.append(message)
        return first, rest

    def _begins_to_refuse(self, route: tuple[str, str], message: Outgoing) -> None:
        if len(self._refusing) >= ROUTES_MAX:
            del self._refusing[next(iter(self._refusing))]
        self._refusing[route] = None
        if is_event(message):
            log.error(
                "public_copies_refused",
                exchange=message.exchange,
                routing_key=message.routing_key,
                advice="a queue that somebody bound to it is full: its owner drains or unbinds it; our own queues get theirs",
            )


def route_of(message: Outgoing) -> tuple[str, str]:
    """Exchange and routing key."""
    return message.exchange, message.routing_key


def is_event(message: Outgoing) -> bool:
    """Whether the public hears of this message, so that others can make the broker refuse it."""
    return is_public(message.exchange)


def for_own_queues(messages: Sequence[Outgoing]) -> list[Outgoing]:
    """These events with the same ids and bytes, for our own queues alone. Events that none of our queues takes are left out."""
    return [
        replace(message, exchange=own_exchange(message.exchange)) for message in messages if message.type in MUST_ROUTE
    ]
