"""Publishes outbox batches from memory right after their commit. `shared.messaging.outbox_sweeper` publishes those that stay behind.

A service has a relay for each lane. The inside relay waits for the confirms of its messages, which reach our own queues and nobody else's.
The batches of the outside lane, and what our own queues have taken of events, it only hands over: other tasks publish them, so nobody waits
for what depends on others. What others do not take is left to relays on connections of their own, which only sweepers call.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from shared import crash_points
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.outbox_keeper import OutboxKeeper
from shared.messaging.publisher import Published, Publisher
from shared.messaging.rest import Rest
from shared.messaging.routes import Routes, is_event, route_of, routes_of
from shared.messaging.topology import is_for_own_queues
from shared.observability import metrics
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database
from shared.persistence.outbox import OutboxBatch, Unpublished
from shared.records import replace

log = structlog.get_logger(__name__)

HANDED_OVER_BYTES_MAX = 16 * 1024**2
"""Messages of one lane that are kept in memory: about 1 900 answers, or 200 dead letters of the largest kind. What comes beyond that is
left to the sweeper."""
PROPERTIES_BYTES = 12 * 1024
"""What a message takes besides its body, at most about: a dead letter may have no body, 8 KiB of its sender's headers, and ours."""
AT_ONCE_MAX = 50
"""Outbox batches that were handed over and are published by one call, so that those which are confirmed are settled soon."""
ForAnotherLane = set[UUID]
"""The ids of messages that have to leave on another lane: public copies of what our own queues have taken, and what was not sent because
its route refuses."""


class Relay:
    """Publishes outbox batches of its lane, the inside one, and hands those of the outside lane over to `outside`.

    Once our own queues have taken the events of a batch, `public` publishes their public copies. `keeper` holds the batches meanwhile, and
    deletes each by its exact id once the broker has confirmed all its messages. Without `outside` or `public`, what is theirs is left to
    the sweepers.
    """

    lane = Lane.INSIDE

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        outside: "OutsideRelay | None" = None,
        public: "PublicRelay | None" = None,
        keeper: OutboxKeeper | None = None,
    ) -> None:
        self.is_answered = True
        """Whether the broker answered for all messages that were published last: it was no outage."""
        self.keeper: OutboxKeeper = keeper or (outside.keeper if outside is not None else OutboxKeeper(database))
        self._database = database
        self._publisher = publisher
        self._outside = outside
        self._public = public

    @property
    def is_resting(self) -> bool:
        """Whether the sweeper has to leave its lane alone for now."""
        return False

    async def publish(self, outbox_batches: Sequence[OutboxBatch]) -> int:
        """Publish outbox batches that are committed. Returns how many messages of this lane need no further publishing on it.

        Never raises for an outage: the sweeper publishes the rest later.
        """
        ours = [outbox_batch for outbox_batch in outbox_batches if outbox_batch.lane is self.lane]
        if self._outside is not None and len(ours) < len(outbox_batches):
            self._outside.hand_over([batch for batch in outbox_batches if batch.lane is Lane.OUTSIDE])
        return await self._publish(self.keeper.hold(ours)) if ours else 0

    async def _publish(self, held: Sequence[OutboxBatch]) -> int:
        """Publish outbox batches that are in hand. What is not confirmed is then handed on, or left to the sweepers."""
        left = held
        started_s = time.perf_counter()
        try:
            published, for_another_lane = await self._publish_messages(held)
            metrics.PUBLISH_SECONDS.labels(lane=self.lane).observe(time.perf_counter() - started_s)
            metrics.MESSAGES_PUBLISHED.labels(lane=self.lane).inc(len(published.confirmed))
            self.is_answered = not published.failed
            results = [outbox.unpublished_of(outbox_batch, published, for_another_lane) for outbox_batch in held]
            metrics.ANSWERS_DROPPED.inc(sum(len(unpublished.dropped) for unpublished in results))
            self.keeper.delete_soon(unpublished.outbox_batch for unpublished in results if not unpublished.count)
            unfinished = [
                unpublished for unpublished in results if unpublished.count and not self._hand_on(unpublished)
            ]
            left = [unpublished.outbox_batch for unpublished in unfinished]
            await self._postpone([unpublished for unpublished in unfinished if self._has_changed(unpublished)])
        finally:
            self.keeper.release(left)
        return sum(len(unpublished.outbox_batch.messages) - unpublished.stuck for unpublished in results)

    def _hand_on(self, unpublished: Unpublished) -> bool:
        """Hand a batch on of which nothing is left but public copies. Returns whether it was taken."""
        return (
            self._public is not None
            and unpublished.count == len(unpublished.public)
            and self._public.take_over(unpublished.outbox_batch)
        )

    def _has_changed(self, unpublished: Unpublished) -> bool:
        """Whether what is left of a batch differs from its row, so that the row has to change."""
        return unpublished.is_answered

    async def _publish_messages(self, held: Sequence[OutboxBatch]) -> tuple[Published, ForAnotherLane]:
        """Publish messages to our own queues, and nothing to the public: a binding of others may refuse an event, or cost the broker
        minutes. Events owe their public copies once our own queues have taken them."""
        messages = _messages_of(held)
        to_own = [
            message
            for message in messages
            if not is_event(message) or is_for_own_queues(message.exchange, message.routing_key)
        ]
        if not to_own:
            return Published(), {message.id for message in messages}
        crash_points.reach("relay.before_publish")
        published = await self._publisher.publish(to_own)
        crash_points.reach("relay.after_confirm")
        return published, _taken(messages, published)

    async def _postpone(self, refused: Sequence[Unpublished]) -> None:
        if not refused:
            return
        try:
            async with self._database.transaction() as tx:
                for unpublished in sorted(refused, key=lambda unpublished: unpublished.outbox_batch.id):
                    await outbox.postpone(tx, unpublished)  # in the order of ids, so that two processes never deadlock
                crash_points.reach("outbox.before_postpone")
            crash_points.reach("outbox.after_postpone")
        except AWAY_ERRORS as error:
            log.warning("outbox_postpone_failed", outbox_batches=len(refused), error=type(error).__name__)
            return
        for unpublished in refused:
            for message in unpublished.quarantined:
                log.error(
                    "message_quarantined",
                    message_id=str(message.id),
                    type=message.type,
                    advice="it ends the broker's connection at each try: `remit outbox list` shows it",
                )


def _messages_of(outbox_batches: Sequence[OutboxBatch]) -> list[Outgoing]:
    return [message for outbox_batch in outbox_batches for message in outbox_batch.messages]


def _taken(messages: Sequence[Outgoing], published: Published) -> set[UUID]:
    """The ids of those events that our own queues took, or that none of them takes."""
    if published.is_complete:
        return {message.id for message in messages if is_event(message)}
    left = published.undeliverable.union(published.not_taken, published.unclear, published.poison, published.failed)
    return {message.id for message in messages if is_event(message) and message.id not in left}


class _HandedOver:
    """Outbox batches in hand that wait in memory for the task that publishes them, in their order."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[OutboxBatch, int]] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self.all_published = asyncio.Event()
        self.all_published.set()

    def add(self, outbox_batch: OutboxBatch) -> bool:
        """Take a batch in. Returns whether there was room for it."""
        size = sum(len(message.body) + PROPERTIES_BYTES for message in outbox_batch.messages)
        if self._waiting_bytes + size > HANDED_OVER_BYTES_MAX:
            return False
        self._waiting.append((outbox_batch, size))
        self._waiting_bytes += size
        self.all_published.clear()
        self._arrived.set()
        return True

    async def next(self) -> list[OutboxBatch]:
        """Wait until there are batches, and take the first of them. What was taken before is published."""
        if not self._waiting:
            self.all_published.set()
            self._arrived.clear()
            await self._arrived.wait()
        taken = [self._waiting.popleft() for _ in range(min(AT_ONCE_MAX, len(self._waiting)))]
        self._waiting_bytes -= sum(size for _, size in taken)
        return [outbox_batch for outbox_batch, _ in taken]


class _RelayOfOthers(Relay):
    """A relay of a lane whose messages depend on others. All of them share `routes`."""

    def __init__(
        self, database: Database, publisher: Publisher, *, routes: Routes, keeper: OutboxKeeper | None = None
    ) -> None:
        super().__init__(database, publisher, keeper=keeper)
        self._routes = routes

    async def _send(self, messages: Sequence[Outgoing]) -> Published:
        crash_points.reach("relay.before_outside")
        published = await self._publisher.publish(messages)
        crash_points.reach("relay.after_outside")
        return published


class _RelayInBackground(_RelayOfOthers):
    """A relay that publishes what is handed over to it in a task of its own."""

    def __init__(
        self, database: Database, publisher: Publisher, *, routes: Routes, keeper: OutboxKeeper | None = None
    ) -> None:
        super().__init__(database, publisher, routes=routes, keeper=keeper)
        self._handed_over = _HandedOver()

    async def run(self) -> None:
        """Publish what is handed over until cancelled."""
        while True:
            await self._publish(self.keeper.still_reserved(await self._handed_over.next()))

    async def all_published(self) -> None:
        """Wait until everything that was handed over was sent to the broker once."""
        await self._handed_over.all_published.wait()


class OutsideRelay(_RelayInBackground):
    """Publishes outbox batches of the outside lane, either when it is called or, if they were handed over, by `run`."""

    lane = Lane.OUTSIDE

    def hand_over(self, outbox_batches: Sequence[OutboxBatch]) -> None:
        """Have `run` publish these batches. Those that do not fit into memory are left to the sweeper."""
        held = self.keeper.hold(outbox_batches)
        self.keeper.release([outbox_batch for outbox_batch in held if not self._handed_over.add(outbox_batch)])

    async def publish(self, outbox_batches: Sequence[OutboxBatch]) -> int:
        """Publish these outbox batches, which may also be public copies that the build before kept on this lane."""
        return await self._publish(self.keeper.hold(outbox_batches))

    async def _publish_messages(self, held: Sequence[OutboxBatch]) -> tuple[Published, ForAnotherLane]:
        """Publish messages, except those whose routes refuse. They change their lane, and so do those of which one has a silent queue."""
        refusing, sent = self._routes.by_refusal(_messages_of(held))
        published = await self._send(sent)
        if not published.is_complete:
            self._routes.learn(sent, published)
        return published, {message.id for message in refusing}.union(published.unclear)


class PublicRelay(_RelayInBackground):
    """Publishes public copies of events that our own queues have taken, from memory and for the first time.

    Their rows are still of the inside lane. Whatever is not confirmed becomes a row of the public lane, so that our own queues do not get
    it again. After calls that took long it rests, and takes nothing over.
    """

    lane = Lane.PUBLIC

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        routes: Routes,
        keeper: OutboxKeeper | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(database, publisher, routes=routes, keeper=keeper)
        self._rest = Rest(clock)

    @property
    def is_resting(self) -> bool:
        return self._rest.is_on

    def take_over(self, held: OutboxBatch) -> bool:
        """Have `run` publish the public copies of a batch that is in hand. Returns False if there is no room, or while it rests."""
        return not self._rest.is_on and self._handed_over.add(replace(held, lane=Lane.PUBLIC))

    def _has_changed(self, unpublished: Unpublished) -> bool:  # noqa: ARG002 - the signature is the base's
        return True

    async def _publish_messages(self, held: Sequence[OutboxBatch]) -> tuple[Published, ForAnotherLane]:
        """Publish the events among the messages. The others our own queues have."""
        messages = _messages_of(held)
        copies = [message for message in messages if is_event(message)]
        refusing, sent = self._routes.by_refusal(copies)
        if self._rest.is_on:  # it began while these batches waited in memory
            return _as_taken(messages, copies), {message.id for message in copies}
        crash_points.reach("relay.before_public")
        published = await self._publisher.publish(sent)
        crash_points.reach("relay.after_public")
        self._rest.after(published)
        if not published.is_complete:
            self._routes.learn(sent, published)
        elsewhere = {message.id for message in refusing}.union(published.unclear)
        return published.with_others(_as_taken(messages, copies)), elsewhere


def _as_taken(messages: Sequence[Outgoing], copies: Sequence[Outgoing]) -> Published:
    """What our own queues have of these messages: all but the copies."""
    if len(copies) == len(messages):
        return Published()
    return Published(confirmed=[message.id for message in messages if not is_event(message)])


class RetryRelay(_RelayOfOthers):
    """Publishes outbox batches that others did not take before: those of the retry lane or of the public lane."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        lane: Lane,
        routes: Routes,
        keeper: OutboxKeeper | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(database, publisher, routes=routes, keeper=keeper)
        self.lane = lane
        self._rest = Rest(clock) if lane is Lane.PUBLIC else None

    @property
    def is_resting(self) -> bool:
        return self._rest is not None and self._rest.is_on

    async def _publish_messages(self, held: Sequence[OutboxBatch]) -> tuple[Published, ForAnotherLane]:
        """Publish one message to each route that refuses. If it is taken, the others follow. If it is not, they fare like it unsent.

        But every public copy is sent at least once, because behind its route there may be queues that take it.
        """
        never_sent = _messages_of([outbox_batch for outbox_batch in held if not outbox_batch.refusals])
        untried = {message.id for message in never_sent if is_event(message)}
        first, apart, rest = self._routes.to_try(_messages_of(held), untried=untried)
        published = await self._send(first)
        tried = list(first)
        # Who tries a silent queue waits, so one a call is enough.
        while apart and not (published.silent or published.failed):
            tried += (group := apart.pop(0))
            published = published.with_others(await self._send(group))
        taken = {*published.confirmed, *published.undeliverable}
        open_ = routes_of(message for message in tried if message.id in taken)
        if following := [message for message in rest if route_of(message) in open_]:
            published = published.with_others(await self._send(following))
        self._routes.learn([*tried, *following], published)
        if self._rest is not None:
            self._rest.after(published)
        is_outage = bool(published.failed)
        for message in (*(message for group in apart for message in group), *rest):
            if route_of(message) not in open_:
                is_refused = not is_outage and message.id not in untried and self._routes.has_refused(message)
                (published.refused if is_refused else published.failed).append(message.id)
        published.failed += published.unclear
        published.unclear.clear()
        return published, set()
