"""Which routes refuse messages now. A route is an exchange with a routing key. A queue behind it may be full, or without a leader.

While somebody's queue refuses answers or public copies, further ones to it are left to the sweeper of what is refused, unsent. So those to
others need not share a connection with them.

What refuses is known by exchange and routing key, since others may have bound some events only. It is known in memory only: after a restart
the next refusal tells of it again.

Addresses of direct reply-to are routes by their kinds (`shared.messaging.reply_address`), and the other way round: one that the broker
cannot read ends the connection, so a kind refuses until a message by itself has shown that it does not. The kind of the node that we are
connected to needs no message: the broker says which it is.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

import structlog

from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import Published
from shared.messaging.reply_address import direct_kind, kind_of
from shared.messaging.topology import is_public
from shared.observability import metrics
from shared.persistence.outbox import PUBLIC_REFUSED, Backoff
from shared.records import dataclass

log = structlog.get_logger(__name__)

ROUTES_MAX = 10_000
"""Routes that are known to refuse, some megabytes. Senders choose the names of their queues. Beyond this the oldest is forgotten, and its
next message tells of it again."""
FAILED = Backoff(2.0, 2)
"""How long a route of answers is left in peace after one got no sign, or ended the connection: each try costs time. The longest wait is
8 s. Nobody waits for public copies, and theirs is longer."""
APART_MAX = 20
"""Routes that are tried apart by one call. Each takes milliseconds, and 20 to 70 ms if a message ends the connection (measured)."""

Route = tuple[str, str]
"""Exchange and routing key."""
_UNKNOWN = object()


@dataclass(slots=True)
class _Refusal:
    """Why a route refuses. A full queue says so at once. One that may have no leader says nothing, and an address may end the connection:
    so messages are tried there apart from those to other routes.

    `failures` counts how often in a row that went wrong, and `not_before` is when the next one is tried.
    """

    apart: bool = False
    failures: int = 0
    not_before: float = 0.0


class Routes:
    """What is known about the routes. All lanes of a service share it. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refusing: dict[Route, _Refusal] = {}
        self._proven: dict[Route, None] = {}
        """The kinds of direct reply-to that end no connection, the one that was used last at the end."""

    def refuses(self, message: Outgoing) -> bool:
        """Whether the route of this message did not take the last message that was sent there, or is not known to be harmless."""
        if message.exchange and not self._refusing:
            return False  # as nearly always
        return self._refusal_of(message) is not None

    def has_refused(self, message: Outgoing) -> bool:
        """Whether this route refused a message, and is not only under suspicion. An address that nobody has tried yet refused nothing."""
        refusal = self._refusal_of(message)
        return refusal is not None and (refusal.failures > 0 or not refusal.apart)

    def learn(self, messages: Sequence[Outgoing], published: Published) -> None:
        """Note what became of these messages when they were sent. A route that did not take one of them refuses."""
        open_ = {*published.confirmed, *published.undeliverable}
        refused, silent, unclear, poison = (
            set(ids) for ids in (published.refused, published.silent, published.unclear, published.poison)
        )
        harmless = open_.difference(published.unencodable)  # an address that was never sent shows nothing
        for message in messages:
            if message.id in open_:
                self._refusing.pop(route_of(message), None)
            if message.id in harmless and _is_direct(message):
                self._proves(route_of(message))
        for message in messages:
            if message.id in unclear:
                self._refuses(message, apart=True)
            elif message.id in refused:
                self._refuses(message, apart=False, is_to_blame=True)
            elif message.id in silent or (message.id in poison and _is_direct(message)):
                self._refuses(message, apart=True, is_to_blame=True)

    def by_refusal(self, messages: Sequence[Outgoing]) -> tuple[Sequence[Outgoing], Sequence[Outgoing]]:
        """Those messages whose routes refuse now, and the others."""
        refusing = [message for message in messages if self.refuses(message)]
        return refusing, [message for message in messages if not self.refuses(message)] if refusing else messages

    def to_try(
        self, messages: Sequence[Outgoing], *, untried: Collection[UUID]
    ) -> tuple[list[Outgoing], list[list[Outgoing]], list[Outgoing]]:
        """Those messages that can be sent together, those that have to be sent apart from all others, by route, and the rest.

        Of messages to one route that refuses, one is tried, if it is time, and with it those in `untried`. Of the routes apart, the least
        suspect is the first, and of those the one for which most is waiting: many wait for an answer from a true address, and whoever
        forges as many for each address has few. Half of the places are for those that came first, so that nobody waits for ever behind
        fresh ones, however many somebody forges.
        """
        now = self._clock()
        together: list[Outgoing] = []
        apart: dict[Route, tuple[_Refusal, list[Outgoing]]] = {}
        rest: list[Outgoing] = []
        shown: set[Route] = set()
        for message in messages:
            route, refusal = route_of(message), self._refusal_of(message)
            if refusal is None:
                together.append(message)
            elif now < refusal.not_before or (route in shown and message.id not in untried):
                rest.append(message)
            elif not refusal.apart:
                together.append(message)
            else:
                apart.setdefault(route, (refusal, []))[1].append(message)
            if refusal is not None:
                shown.add(route)
        wait_there = Counter(route_of(message) for message in rest)
        place = {route: number for number, route in enumerate(apart)}
        ranked = sorted(
            apart, key=lambda route: ((refusal := apart[route][0]).failures > 0, -wait_there[route], refusal.not_before)
        )
        half = APART_MAX // 2
        ranked[half:] = sorted(ranked[half:], key=lambda route: (apart[route][0].failures > 0, place[route]))
        rest += (message for route in ranked[APART_MAX:] for message in apart[route][1])
        return together, [apart[route][1] for route in ranked[:APART_MAX]], rest

    def _refusal_of(self, message: Outgoing) -> _Refusal | None:
        """Why the route of this message refuses; None if it does not."""
        route = route_of(message)
        refusal = self._refusing.get(route)
        if refusal is None and _is_direct(message):
            if route not in self._proven:
                return _Refusal(apart=True)
            self._proves(route)
        return refusal

    def _proves(self, route: Route) -> None:
        """This kind of direct reply-to ends no connection. What is used again is forgotten last."""
        if self._proven.pop(route, _UNKNOWN) is _UNKNOWN:
            _make_room(self._proven)
        self._proven[route] = None

    def trust(self, address: str) -> None:
        """The broker itself wrote this address of direct reply-to: its node exists."""
        if (kind := kind_of(address)) is not None:
            self._proves(("", kind))

    def _refuses(self, message: Outgoing, *, apart: bool, is_to_blame: bool = False) -> None:
        if is_to_blame and is_event(message):
            metrics.PUBLIC_COPIES_REFUSED.labels(exchange=message.exchange).inc()
            if not self.has_refused(message):
                log.error(
                    "public_copies_refused",
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    advice="a queue that somebody bound to it takes none: its owner drains or unbinds it; our own queues get theirs",
                )
        route = route_of(message)
        if route not in self._refusing:
            _make_room(self._refusing)
        refusal = self._refusing.setdefault(route, _Refusal())
        refusal.apart = apart
        if apart and is_to_blame and self._clock() >= refusal.not_before:  # once, however many were sent together
            backoff = PUBLIC_REFUSED if is_event(message) else FAILED
            refusal.not_before = self._clock() + backoff.delay_s(refusal.failures)
            refusal.failures += 1


def _make_room(routes: dict[Route, Any]) -> None:
    """Make room for one more route: the oldest is forgotten."""
    if len(routes) >= ROUTES_MAX:
        del routes[next(iter(routes))]


def _is_direct(message: Outgoing) -> bool:
    return direct_kind(message.exchange, message.routing_key) is not None


def route_of(message: Outgoing) -> Route:
    """The route that the message takes. All addresses of direct reply-to of one kind are one route."""
    return message.exchange, direct_kind(message.exchange, message.routing_key) or message.routing_key


def routes_of(messages: Iterable[Outgoing]) -> set[Route]:
    """The routes that the messages take."""
    return {route_of(message) for message in messages}


def is_event(message: Outgoing) -> bool:
    """Whether the public hears of this message, so that others can make the broker refuse it."""
    return is_public(message.exchange)
