"""One unit of work: a batch is decided and stored in one transaction, with everything that is said about it.

Two ways lead to the same rows. An optimistic handler's batch is read without locks, often from a cache, and stored by one statement, which
is a transaction of its own: two round trips instead of six. Everything else, and what met trouble before, takes a transaction with locks.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Generic
from uuid import UUID

from shared import crash_points
from shared.batch.commit import HandlerErrors
from shared.batch.handler import (
    Change,
    CommitListener,
    Effect,
    Key,
    MessageHandler,
    OptimisticHandler,
    State,
)
from shared.batch.inbox import DecidedBatch, Inbox, Item
from shared.clock import Clock
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Inbound
from shared.persistence import outbox
from shared.persistence.database import Connection, Database
from shared.persistence.outbox import OutboxBatch
from shared.persistence.writes import WriteBatch

Changes = dict[UUID, Change[Key, State, Effect]]
"""By the id of the message."""


class UnitOfWork(Generic[Key, State, Effect]):
    """Commits batches of one queue."""

    def __init__(
        self, handler: MessageHandler[Key, State, Effect], inbox: Inbox, *, database: Database, clock: Clock
    ) -> None:
        self._handler = handler
        self._optimistic = handler if isinstance(handler, OptimisticHandler) else None
        self._listener = handler if isinstance(handler, CommitListener) else None
        self._state_cache = self._optimistic.state_cache if self._optimistic is not None else None
        self._inbox = inbox
        self._database = database
        self._clock = clock

    async def commit(self, items: Sequence[Item], *, carefully: bool) -> tuple[list[OutboxBatch], int]:
        """Make it durable. Returns what is to be published, and how many of the items were new. `carefully`: this batch met trouble.

        Raises `HandlerErrors`, and whatever the database raises; then nothing is stored, or (a lost reply) nobody knows.
        """
        try:
            if self._optimistic is not None and not (carefully or _came_before(items)):
                batches = await self._commit_at_once(self._optimistic, items)
                if batches is not None:
                    return batches, len(items)
            return await self._commit_in_transaction(items)
        except Exception:
            if self._state_cache is not None:
                self._state_cache.invalidate()
            raise

    async def _commit_at_once(
        self, handler: OptimisticHandler[Key, State, Effect], items: Sequence[Item]
    ) -> list[OutboxBatch] | None:
        """Read, decide, and write everything in one statement. None: it takes a transaction after all.

        Nothing is locked, and nobody asks whether the messages came before. That is safe because every write is checked: a state that moved
        since it was read, a message that was handled, a payment id that is used is a conflict. Then nothing is stored, and the batch is
        repeated in a transaction. What changes no state happened when it was read.
        """
        now = self._clock()
        async with self._database.connection() as connection:
            changes = await self._decide_unlocked(handler, connection, items, now)
            if changes is None:
                return None
            writes = WriteBatch(connection, one_statement=True)
            batches = await self._write(writes, DecidedBatch(items, (), changes, now))
            if not writes.fits_one_statement:
                return None
            crash_points.reach("shell.at_once.before_commit")
            await writes.flush()
            crash_points.reach("shell.at_once.after_commit")
        self._committed(changes)
        return batches

    async def _decide_unlocked(
        self,
        handler: OptimisticHandler[Key, State, Effect],
        connection: Connection,
        items: Sequence[Item],
        now: datetime,
    ) -> Changes[Key, State, Effect] | None:
        """On cached states where there are some. Where that leads to what no conflict would show, all of it is decided anew on states
        that are read. None: as `load_unlocked`."""
        messages = [item.message for item in items if item.message is not None]
        cached: Mapping[Key, State] = {}
        if self._state_cache is not None:
            cached = self._state_cache.get(map(handler.key, messages), epoch=self._database.epoch)
        changes = await self._decide_on(cached, handler, connection, items, now)
        if changes and any(c.key in cached and not handler.is_conflict_checked(c.reaction) for c in changes.values()):
            changes = await self._decide_on({}, handler, connection, items, now)
        return changes

    async def _decide_on(
        self,
        cached: Mapping[Key, State],
        handler: OptimisticHandler[Key, State, Effect],
        connection: Connection,
        items: Sequence[Item],
        now: datetime,
    ) -> Changes[Key, State, Effect] | None:
        messages = [item.message for item in items if item.message is not None]
        states = await handler.load_unlocked(connection, messages, cached) if messages else {}
        return None if states is None else self._react(items, dict(states), now)

    async def _commit_in_transaction(self, items: Sequence[Item]) -> tuple[list[OutboxBatch], int]:
        """Repeated after a commit whose reply was lost, it finds every item handled and says nothing new: what that commit said is in the
        outbox, for the sweeper."""
        now = self._clock()
        async with self._database.transaction() as tx:
            writes = WriteBatch(tx)
            fresh, repeated = _parted(items, await self._inbox.handled_before(tx, items))
            messages = [item.message for item in fresh if item.message is not None]
            states = dict(await self._handler.load(tx, messages)) if messages else {}
            changes = self._react(fresh, states, now)
            batches = await self._write(writes, DecidedBatch(fresh, repeated, changes, now))
            await writes.flush()
            crash_points.reach("shell.before_commit")
        crash_points.reach("shell.after_commit")
        self._committed(changes)
        return batches, len(fresh)

    def _react(self, items: Sequence[Item], states: dict[Key, State], now: datetime) -> Changes[Key, State, Effect]:
        """Message after message, each on the state that the one before left. Raises `HandlerErrors`."""
        changes: Changes[Key, State, Effect] = {}
        errors: list[tuple[Item, Exception]] = []
        for item in items:
            if (message := item.message) is None:
                continue
            try:
                key = self._handler.key(message)
                reaction = self._handler.react(states[key], message)
            except Exception as error:  # noqa: BLE001 - a bug in a handler must not take the neighbours along
                errors.append((item, error))
            else:
                states[key] = reaction.state
                changes[message.id] = Change(key, message, _cause(message, now), reaction)
        if errors:
            raise HandlerErrors(errors)
        return changes

    async def _write(self, writes: WriteBatch, settled: DecidedBatch) -> list[OutboxBatch]:
        """Collect all that is stored; what is to be published once it is committed."""
        changes: list[Change[Key, State, Effect]] = list(settled.changes.values())
        said = [
            encode(draft, change.cause, position, source=self._handler.source)
            for change in changes
            for position, draft in enumerate(change.reaction.says)
        ]
        said += await self._inbox.record(writes, settled)
        said += await self._handler.save(writes, changes)
        return await outbox.insert(writes, said)

    def _committed(self, changes: Changes[Key, State, Effect]) -> None:
        if self._listener is not None:
            self._listener.committed(list(changes.values()))
        if self._state_cache is not None:
            self._state_cache.put({change.key: change.reaction.state for change in changes.values()})


def _came_before(items: Sequence[Item]) -> bool:
    """Whether some were delivered before, or come twice at once: those are looked for before anything is written."""
    return len({item.id for item in items}) < len(items) or any(item.delivery.tries for item in items)


def _parted(items: Sequence[Item], handled_before: Collection[UUID]) -> tuple[list[Item], list[Item]]:
    """Fresh ones and repeated ones. The second of a pair within one batch is a repetition as well."""
    known = set(handled_before)
    fresh: list[Item] = []
    repeated: list[Item] = []
    for item in items:
        (repeated if item.id in known else fresh).append(item)
        known.add(item.id)
    return fresh, repeated


def _cause(message: Inbound, now: datetime) -> Cause:
    return Cause(message.id, message.correlation_id, now, message.traceparent)
