"""Which instances of the services run, as they say themselves, and how our queues stand, as the broker counts them."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from services.staff import story_store
from shared import crash_points
from shared.amqp.broker_link import BROKER_ERRORS, RPC_TIMEOUT_S, BrokerLink, ChannelNotFoundEntity, losses_as_errors
from shared.batch.handler import Change, Reaction
from shared.contracts.operations import Heartbeat
from shared.messaging.envelope import Inbound, Outgoing
from shared.messaging.topology import QUEUES
from shared.persistence.database import AWAY_ERRORS, Connection, Database
from shared.persistence.writes import WriteBatch


class HeartbeatHandler:
    """Keeps the newest heartbeat of each instance."""

    source = "staff"

    def key(self, message: Inbound) -> UUID:
        return message.id

    async def load(self, tx: Connection, messages: Sequence[Inbound]) -> Mapping[UUID, None]:  # noqa: ARG002
        return dict.fromkeys(message.id for message in messages)

    def react(self, state: None, message: Inbound) -> Reaction[None, None]:
        if not isinstance(message.data, Heartbeat):
            raise TypeError(f"{message.type} is no heartbeat")
        return Reaction(state)

    async def save(self, writes: WriteBatch, changes: Sequence[Change[UUID, None, None]]) -> Sequence[Outgoing]:
        newest: dict[str, Inbound] = {}
        for change in sorted(changes, key=lambda change: change.message.time):
            newest[_heartbeat(change.message).instance] = change.message
        if newest:
            ordered = [newest[name] for name in sorted(newest)]
            await story_store.keep_heartbeats(writes, [(message.time, _heartbeat(message)) for message in ordered])
        return ()


def _heartbeat(message: Inbound) -> Heartbeat:
    assert isinstance(message.data, Heartbeat)  # noqa: S101 - `react` refused any other
    return message.data


class QueueWatch:
    """Asks the broker every ten seconds how many messages and consumers our queues have, and keeps the answer.

    `link` is for this watch only: if a queue is missing, asking for it ends the channel.
    """

    name = "queue_watch"
    interval_s = 10.0
    retry_on = (*BROKER_ERRORS, *AWAY_ERRORS)

    def __init__(self, link: BrokerLink, database: Database) -> None:
        self._link = link
        self._database = database

    async def run_once(self) -> float:
        """Look once. Raises if the broker or the database is away: then what was seen grows old."""
        seen = [(queue.name, *(await self._look_at(queue.name))) for queue in QUEUES]
        async with self._database.transaction() as tx:
            await story_store.keep_queues(tx, seen)
            crash_points.reach("staff.queues.before_commit")
        crash_points.reach("staff.queues.after_commit")
        return self.interval_s

    async def _look_at(self, name: str) -> tuple[int | None, int]:
        with losses_as_errors():
            channel = await self._link.channel(confirms=False)
            try:
                state = await channel.queue_declare(name, passive=True, timeout=RPC_TIMEOUT_S)
            except ChannelNotFoundEntity:
                return None, 0
            finally:
                if not channel.is_closed:
                    await channel.close(timeout=RPC_TIMEOUT_S)
        return state.message_count or 0, state.consumer_count or 0
