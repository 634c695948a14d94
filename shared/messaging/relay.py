"""Publishes outbox batches from memory right after their commit. `shared.messaging.outbox_sweeper` publishes those that stay behind.

A service has a relay for each lane. The inside relay waits for the confirms of its messages. It only hands over the batches of the outside
lane: another task publishes them, so nobody waits for what depends on others. What others do not take goes to a lane of its own, where only
a sweeper publishes.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from uuid import UUID

import structlog

from shared import crash_points
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.outbox_keeper import OutboxKeeper
from shared.messaging.publisher import Published, Publisher
from shared.messaging.routes import Routes, for_own_queues, is_event, route_of, routes_of
from shared.observability import metrics
from shared.persistence import outbox
from shared.persistence.database import AWAY_ERRORS, Database
from shared.persistence.outbox import OutboxBatch, Unpublished
from shared.records import replace

log = structlog.get_logger(__name__)

HANDED_OVER_BYTES_MAX = 16 * 1024**2
"""Messages of the outside lane that are kept in memory: about 1 900 answers, or 200 dead letters of the largest kind. What comes beyond
that is left to the sweeper."""
PROPERTIES_BYTES = 8 * 1024
"""What a message takes besides its body, at most about: a dead letter may have no body and 24 headers."""
AT_ONCE_MAX = 50
"""Outbox batches of the outside lane that are published by one call, so that those which are confirmed are settled soon."""
ForAnotherLane = set[UUID]
"""The ids of messages that have to leave on another lane: public copies of what our own queues have taken, and what was not sent because
its route refuses."""


class Relay:
    """Publishes outbox batches of its lane, the inside one, and hands those of the outside lane over to `outside`.

    `keeper` holds the batches meanwhile, and deletes each by its exact id once the broker has confirmed all its messages. Without
    `outside`, batches of that lane are left to the sweeper.
    """

    lane = Lane.INSIDE

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        outside: "OutsideRelay | None" = None,
        routes: Routes | None = None,
        keeper: OutboxKeeper | None = None,
    ) -> None:
        self.is_answered = True
        """Whether the broker answered for all messages that were published last: it was no outage."""
        self.keeper: OutboxKeeper = keeper or (outside.keeper if outside is not None else OutboxKeeper(database))
        self._database = database
        self._publisher = publisher
        self._outside = outside
        self._routes = routes or Routes()

    async def publish(self, outbox_batches: Sequence[OutboxBatch]) -> int:
        """Publish outbox batches that are committed. Returns how many messages of this lane need no further publishing on it.

        Never raises for an outage: the sweeper publishes the rest later.
        """
        ours = [outbox_batch for outbox_batch in outbox_batches if outbox_batch.lane is self.lane]
        if self._outside is not None and len(ours) < len(outbox_batches):
            self._outside.hand_over([batch for batch in outbox_batches if batch.lane is Lane.OUTSIDE])
        return await self._publish(self.keeper.hold(ours)) if ours else 0

    async def _publish(self, held: Sequence[OutboxBatch]) -> int:
        """Publish outbox batches that are in hand. What is not confirmed is then left to the sweepers."""
        left = held
        try:
            published, for_another_lane = await self._publish_messages(held)
            self.is_answered = not published.failed
            results = [outbox.unpublished_of(outbox_batch, published, for_another_lane) for outbox_batch in held]
            metrics.ANSWERS_DROPPED.inc(sum(len(unpublished.dropped) for unpublished in results))
            self.keeper.delete_soon(unpublished.outbox_batch for unpublished in results if not unpublished.count)
            left = [unpublished.outbox_batch for unpublished in results if unpublished.count]
            await self._postpone([unpublished for unpublished in results if unpublished.is_answered])
        finally:
            self.keeper.release(left)
        return sum(len(unpublished.outbox_batch.messages) - unpublished.stuck for unpublished in results)

    async def _publish_messages(self, held: Sequence[OutboxBatch]) -> tuple[Published, ForAnotherLane]:
        """Publish messages to everybody. Those that the public refuses go to our own queues alone, and owe their public copies.

        While the public refuses, that is known before. Otherwise a refusal tells of it, if our own queues then take the message.
        """
        known, to_all = self._routes.by_refusal(_messages_of(held))
        crash_points.reach("relay.before_publish")
        published = await self._publisher.publish(to_all)
        crash_points.reach("relay.after_confirm")
        refused = {*published.not_taken, *published.unclear}
        suspects = [message for message in to_all if message.id in refused and is_event(message)] if refused else []
        if not (known or suspects):
            return published, set()
        to_own = for_own_queues([*known, *suspects])
        crash_points.reach("relay.before_own")
        own = await self._publisher.publish(to_own)
        crash_points.reach("relay.after_own")
        owed = _taken([*known, *suspects], own)
        self._routes.learn([message for message in suspects if message.id in owed], published)
        return _with_own(published, own, sent_again={message.id for message in suspects}), owed

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
    """The ids of those messages that our own queues took, or that none of them takes."""
    left = published.undeliverable.union(published.not_taken, published.unclear, published.poison, published.failed)
    return {message.id for message in messages if message.id not in left}


def _with_own(published: Published, own: Published, *, sent_again: set[UUID]) -> Published:
    """Both results as one. What was sent again to our own queues has its second result; what they took still owes its public copy."""

    def first(ids: Sequence[UUID]) -> list[UUID]:
        return [id_ for id_ in ids if id_ not in sent_again]

    not_again = replace(
        published,
        refused=first(published.refused),
        silent=first(published.silent),
        unclear=first(published.unclear),
    )
    return not_again.with_others(replace(own, confirmed=[]))


class _RelayOfOthers(Relay):
    """A relay of a lane whose messages depend on others."""

    async def _send(self, messages: Sequence[Outgoing]) -> Published:
        crash_points.reach("relay.before_outside")
        published = await self._publisher.publish(messages)
        crash_points.reach("relay.after_outside")
        return published


class OutsideRelay(_RelayOfOthers):
    """Publishes outbox batches of the outside lane, either when it is called or, if they were handed over, by `run`."""

    lane = Lane.OUTSIDE

    def __init__(
        self, database: Database, publisher: Publisher, *, routes: Routes, keeper: OutboxKeeper | None = None
    ) -> None:
        super().__init__(database, publisher, routes=routes, keeper=keeper)
        self._waiting: deque[tuple[OutboxBatch, int]] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._all_published = asyncio.Event()
        self._all_published.set()

    def hand_over(self, outbox_batches: Sequence[OutboxBatch]) -> None:
        """Have `run` publish these batches. Those that do not fit into memory are left to the sweeper."""
        for outbox_batch in outbox_batches:
            size = sum(len(message.body) + PROPERTIES_BYTES for message in outbox_batch.messages)
            if self._waiting_bytes + size <= HANDED_OVER_BYTES_MAX and self.keeper.hold([outbox_batch]):
                self._waiting.append((outbox_batch, size))
                self._waiting_bytes += size
        self._all_published.clear()
        self._arrived.set()

    async def run(self) -> None:
        """Publish what is handed over until cancelled."""
        while True:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(AT_ONCE_MAX, len(self._waiting)))]
                self._waiting_bytes -= sum(size for _, size in taken)
                await self._publish(self.keeper.still_reserved([outbox_batch for outbox_batch, _ in taken]))
            self._all_published.set()
            self._arrived.clear()
            await self._arrived.wait()

    async def all_published(self) -> None:
        """Wait until everything that was handed over was sent to the broker once."""
        await self._all_published.wait()

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
    ) -> None:
        super().__init__(database, publisher, routes=routes, keeper=keeper)
        self.lane = lane

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
        is_outage = bool(published.failed)
        for message in (*(message for group in apart for message in group), *rest):
            if route_of(message) not in open_:
                is_refused = not is_outage and message.id not in untried and self._routes.has_refused(message)
                (published.refused if is_refused else published.failed).append(message.id)
        published.failed += published.unclear
        published.unclear.clear()
        return published, set()
