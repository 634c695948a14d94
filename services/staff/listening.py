"""Takes in what staff hear of invoices and payments: the queue `staff.journal`. It says nothing, and decides nothing."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog

from services.staff import story_store
from services.staff.heard import NUMBERS, hear
from shared import crash_points
from shared.batch.handler import Change, Reaction
from shared.batch.inbox import DecidedBatch, Item, MessageInbox
from shared.messaging.envelope import Inbound, Outgoing
from shared.persistence.database import AWAY_ERRORS, Connection, Database, Tx
from shared.persistence.writes import WriteBatch
from shared.records import dataclass

log = structlog.get_logger(__name__)


class NoInbox(MessageInbox):
    """Handles every message again however often it comes, because each write is a merge that does the same twice."""

    async def handled_before(self, tx: Tx, items: Sequence[Item]) -> set[UUID]:  # noqa: ARG002 - the signature is the base's
        return set()

    async def record(self, writes: Tx, decided: DecidedBatch) -> Sequence[Outgoing]:  # noqa: ARG002 - the signature is the base's
        return ()


@dataclass(frozen=True, slots=True)
class JournalHandler:
    """Stores what messages tell, a batch in one statement. There is no state to read: the rows merge it."""

    source: str = "staff"
    state_cache: None = None

    def key(self, message: Inbound) -> UUID:
        return message.id

    async def load(self, tx: Connection, messages: Sequence[Inbound]) -> Mapping[UUID, None]:  # noqa: ARG002
        return dict.fromkeys(message.id for message in messages)

    async def load_unlocked(
        self,
        connection: Connection,  # noqa: ARG002
        messages: Sequence[Inbound],
        cached: Mapping[UUID, None],  # noqa: ARG002
    ) -> Mapping[UUID, None]:
        return dict.fromkeys(message.id for message in messages)

    def is_conflict_checked(self, reaction: Reaction[None, None]) -> bool:  # noqa: ARG002
        """Nothing is decided, so nothing can be decided on what has changed."""
        return True

    def react(self, state: None, message: Inbound) -> Reaction[None, None]:
        if type(message.data) not in NUMBERS:
            raise TypeError(
                f"{message.type} is not for staff to hear"
            )  # a binding is wrong: this message alone is set aside
        return Reaction(state)

    async def save(self, writes: WriteBatch, changes: Sequence[Change[UUID, None, None]]) -> Sequence[Outgoing]:
        if changes:
            await story_store.save(writes, hear(change.message for change in changes))
        return ()


class WeekKeeper:
    """Makes the partitions of messages ahead of time, and drops those that are too old."""

    name = "week_keeper"
    interval_s = 3_600.0
    """A week is made two weeks before it begins."""
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> float:
        async with self._database.transaction() as tx:
            changed = await story_store.keep_weeks(tx)
            crash_points.reach("staff.weeks.before_commit")
        crash_points.reach("staff.weeks.after_commit")
        if changed:
            log.info("weeks_kept", partitions=changed)
        return self.interval_s
