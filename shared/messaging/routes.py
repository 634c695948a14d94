"""Which routes refuse messages now. A route is an exchange with a routing key. A queue behind it may be full, or without a leader.

While the public copies of an event are refused, the event goes to our own queues alone. Otherwise each of our queues would get every event
again with each try. And while somebody's queue refuses answers, further answers to it go to the retry lane unsent, so those to others need
not share a connection and a sweeper with them.

What refuses is known by exchange and routing key, since others may have bound some events only. It is known in memory only: after a restart
the next refusal tells of it again.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import Published
from shared.messaging.topology import MUST_ROUTE, is_public, own_exchange
from shared.observability import metrics
from shared.persistence.outbox import Backoff
from shared.records import dataclass, replace

log = structlog.get_logger(__name__)

ROUTES_MAX = 10_000
"""Routes that are known to refuse, some megabytes. Senders choose the names of their queues. Beyond this the oldest is forgotten, and its
next message tells of it again."""
SILENT = Backoff(2.0, 2)
"""How long a route is left alone after its messages got no sign: whoever tries it waits `SILENT_AFTER_S`. The longest time is 8 s."""

Route = tuple[str, str]
"""Exchange and routing key."""


@dataclass(slots=True)
class _Refusal:
    """Why a route refuses. A full queue says so at once. One that may have no leader says nothing, so messages are tried there `alone`.

    `silences` counts how often in a row it said nothing to a message alone, and `not_before` is when one is tried again.
    """

    alone: bool = False
    silences: int = 0
    not_before: float = 0.0


class Routes:
    """What is known about the routes. All lanes of a service share it. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refusing: dict[Route, _Refusal] = {}

    def refuses(self, message: Outgoing) -> bool:
        """Whether the route of this message did not take the last message that was sent there."""
        return bool(self._refusing) and route_of(message) in self._refusing

    def has_refused(self, message: Outgoing) -> bool:
        """Whether that was the fault of this route: it is not only under suspicion because of messages that were sent together."""
        refusal = self._refusing.get(route_of(message))
        return refusal is not None and (refusal.silences > 0 or not refusal.alone)

    def learn(self, messages: Sequence[Outgoing], published: Published) -> None:
        """Note what became of these messages when they were sent. A route that did not take one of them refuses."""
        open_ = {*published.confirmed, *published.undeliverable}
        refused, silent, unclear = set(published.refused), set(published.silent), set(published.unclear)
        if self._refusing:
            for route in routes_of(message for message in messages if message.id in open_):
                self._refusing.pop(route, None)
        for message in messages:
            if message.id in unclear:
                self._refusal_of(message).alone = True
            elif message.id in refused or message.id in silent:
                self._report(message)
                refusal = self._refusal_of(message)
                refusal.alone = message.id in silent
                if refusal.alone and self._clock() >= refusal.not_before:  # once, however many were sent together
                    refusal.not_before = self._clock() + SILENT.delay_s(refusal.silences)
                    refusal.silences += 1

    def to_try(self, messages: Sequence[Outgoing]) -> tuple[list[Outgoing], list[Outgoing], list[Outgoing]]:
        """Those messages that can be sent together, those that have to be sent alone, and the rest.

        Of messages to one route that refuses, one is tried, if it is time. Of those to be sent alone, the least suspect is the first.
        """
        now = self._clock()
        together: list[Outgoing] = []
        alone: dict[Route, Outgoing] = {}
        rest: list[Outgoing] = []
        shown: set[Route] = set()
        for message in messages:
            route = route_of(message)
            refusal = self._refusing.get(route)
            if refusal is None:
                together.append(message)
            elif route in shown or now < refusal.not_before:
                rest.append(message)
            elif refusal.alone:
                alone[route] = message
            else:
                together.append(message)
            if refusal is not None:
                shown.add(route)
        suspicion = sorted(
            alone, key=lambda route: (self._refusing[route].silences > 0, self._refusing[route].not_before)
        )
        return together, [alone[route] for route in suspicion], rest

    def _refusal_of(self, message: Outgoing) -> _Refusal:
        """The refusal of this message's route, which may be a new one."""
        route = route_of(message)
        if route not in self._refusing:
            if len(self._refusing) >= ROUTES_MAX:
                del self._refusing[next(iter(self._refusing))]
            self._refusing[route] = _Refusal()
        return self._refusing[route]

    def _report(self, message: Outgoing) -> None:
        if is_event(message):
            metrics.PUBLIC_COPIES_REFUSED.labels(exchange=message.exchange).inc()
            if not self.has_refused(message):
                log.error(
                    "public_copies_refused",
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    advice="a queue that somebody bound to it takes none: its owner drains or unbinds it; our own queues get theirs",
                )


def route_of(message: Outgoing) -> Route:
    """The route that the message takes."""
    return message.exchange, message.routing_key


def routes_of(messages: Iterable[Outgoing]) -> set[Route]:
    """The routes that the messages take."""
    return {route_of(message) for message in messages}


def is_event(message: Outgoing) -> bool:
    """Whether the public hears of this message, so that others can make the broker refuse it."""
    return is_public(message.exchange)


def for_own_queues(messages: Sequence[Outgoing]) -> list[Outgoing]:
    """These events with the same ids and bytes, for our own queues alone. Events that none of our queues takes are left out."""
    return [
        replace(message, exchange=own_exchange(message.exchange)) for message in messages if message.type in MUST_ROUTE
    ]
