"""The messages of `staff.replays`: what became of replayed messages, noted with the dead letters. Nothing is published here."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from services.staff import store
from shared.batch.handler import Change, Reaction
from shared.contracts.operations import ReplayHandled
from shared.messaging.envelope import Inbound, Outgoing
from shared.persistence.database import Connection
from shared.persistence.writes import WriteBatch


class ReplayHandler:
    """Notes what a service tells of a replay. What is told of a replay that is unknown here changes nothing."""

    source = "staff"

    def key(self, message: Inbound) -> UUID:
        return _report(message).replay_id

    async def load(self, tx: Connection, messages: Sequence[Inbound]) -> Mapping[UUID, None]:
        """There is no state to decide on. The rows that `save` changes are locked."""
        replay_ids = [self.key(message) for message in messages]
        await store.lock_replayed(tx, replay_ids)
        return dict.fromkeys(replay_ids)

    def react(self, state: None, message: Inbound) -> Reaction[None, ReplayHandled]:  # noqa: ARG002 - no state
        return Reaction(None, (_report(message),))

    async def save(
        self, writes: WriteBatch, changes: Sequence[Change[UUID, None, ReplayHandled]]
    ) -> Sequence[Outgoing]:
        """Note what is told. Of two reports about one replay, that it was handled counts more than that it was a duplicate."""
        found = [(effect, change.cause.time) for change in changes for effect in change.reaction.effects]
        ordered = sorted(found, key=lambda one: one[0].outcome == "duplicate")
        first = {report.replay_id: (report, at) for report, at in reversed(ordered)}
        await store.note_outcomes(writes, [(r.replay_id, r.outcome, r.reason, at) for r, at in first.values()])
        return ()


def _report(message: Inbound) -> ReplayHandled:
    if not isinstance(message.data, ReplayHandled):
        raise TypeError(f"{message.type} is not for staff.replays")
    return message.data
