"""All lanes of one service without the service: a test commits messages, and sweeps a lane when it wants."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from shared.amqp.broker_link import BrokerLink
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.outbox_keeper import OutboxKeeper
from shared.messaging.outbox_sweeper import OutboxSweeper
from shared.messaging.publisher import Publisher
from shared.messaging.relay import OutsideRelay, PublicRelay, Relay, RetryRelay
from shared.messaging.routes import Routes
from shared.persistence import outbox
from shared.persistence.database import Database

COPIES_WITHIN_S = 60.0


def answer(address: str) -> Outgoing:
    """An answer, which may be given up."""
    return Outgoing(uuid4(), "", address, "t", "c", b"{}", droppable=True)


class PublishingLanes:
    """The lanes of a service with their relays and sweepers, as `shared.messaging.lanes` puts them together."""

    def __init__(self, rabbitmq_url: str, database: Database) -> None:
        self._database = database
        self.now = 0.0
        """The time by which a route is left alone, or the public lane rests, in seconds."""
        routes, keeper = Routes(clock=lambda: self.now), OutboxKeeper(database)
        self.publishers = {
            lane: Publisher(
                BrokerLink(rabbitmq_url, name=f"test {lane}"),
                lane=lane,
                tell_reply_address=routes.trust if lane is Lane.OUTSIDE else None,
            )
            for lane in Lane
        }
        self.public = PublicRelay(
            database, self.publishers[Lane.PUBLIC], routes=routes, keeper=keeper, clock=lambda: self.now
        )
        self.inside = Relay(database, self.publishers[Lane.INSIDE], public=self.public, keeper=keeper)
        self.outside = OutsideRelay(database, self.publishers[Lane.OUTSIDE], routes=routes, keeper=keeper)
        self._relays: dict[Lane, Relay] = {Lane.INSIDE: self.inside, Lane.OUTSIDE: self.outside}
        for lane in (Lane.RETRY, Lane.PUBLIC):
            self._relays[lane] = RetryRelay(
                database, self.publishers[lane], lane=lane, routes=routes, keeper=keeper, clock=lambda: self.now
            )

    async def say(self, *messages: Outgoing) -> None:
        """Commit these messages in one transaction, and publish them."""
        async with self._database.transaction() as tx:
            outbox_batches = await outbox.insert(tx, messages)
        await self.inside.publish(outbox_batches)
        await self._publish_copies()
        await self.inside.keeper.delete_confirmed()
        if outside := [outbox_batch for outbox_batch in outbox_batches if outbox_batch.lane is Lane.OUTSIDE]:
            await self.outside.publish(outside)
            await self.outside.keeper.delete_confirmed()

    async def _publish_copies(self) -> None:
        """Let the public lane publish what was handed over to it. Raises what ended it."""
        running = asyncio.create_task(self.public.run())
        published = asyncio.create_task(self.public.all_published())
        await asyncio.wait({running, published}, timeout=COPIES_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        assert running.done() or published.done(), "the public copies were not published"
        for task in (running, published):
            task.cancel()
        ended, _ = await asyncio.gather(running, published, return_exceptions=True)
        if not isinstance(ended, asyncio.CancelledError):
            assert ended is not None
            raise ended

    async def keep(self, *messages: Outgoing, lane: Lane | None = None) -> None:
        """Store each of these messages in an outbox batch of its own, as if it had waited there, by default on its own lane."""
        async with self._database.transaction() as tx:
            for message in messages:
                await outbox.insert(tx, [message])
            if lane is not None:
                await tx.execute(
                    "UPDATE outbox SET lane = $1 WHERE ids[1] = ANY($2)", lane, [one.id for one in messages]
                )

    async def sweep(self, lane: Lane) -> None:
        """Make everything due, and sweep one lane once.

        All of it is long overdue, in its order and within seconds, since one sweep takes a range of due times: not those of a minute, and
        not both those of the last three seconds and older ones.
        """
        async with self._database.connection() as connection:
            await connection.execute(
                """UPDATE outbox SET sweep_after = now() - interval '1 hour' + (created_at - now()) / 10
                WHERE sweep_after < 'infinity'"""
            )
        await OutboxSweeper(self._database, self._relays[lane]).sweep()
        await self._publish_copies()
        await self.inside.keeper.delete_confirmed()

    async def waiting(self) -> Sequence[tuple[str, int]]:
        """Lane and number of refusals of each message in the outbox."""
        async with self._database.connection() as connection:
            found = await connection.fetch("SELECT lane, refusals FROM outbox_messages ORDER BY created_at, id")
        return [(row["lane"], row["refusals"]) for row in found]

    async def close(self) -> None:
        for publisher in self.publishers.values():
            await publisher.close()
