"""One unit of work: a batch is decided and stored in one transaction, together with the messages it publishes.

There are two ways to the same rows. A batch of an optimistic handler is read without locks, often from a cache. One statement stores it,
which is a transaction of its own. That takes two round trips instead of six. All other batches, and those that failed before, use a
transaction with locks.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Generic
from uuid import UUID

from shared import crash_points
from shared.batch import replays
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
from shared.persistence.unreadable import UnreadableRowsError
from shared.persistence.writes import WriteBatch

Changes = dict[UUID, Change[Key, State, Effect]]
"""The change that each message makes, by the id of the message."""


class UnitOfWork(Generic[Key, State, Effect]):
    """Commits the batches of one queue."""

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

    async def commit(self, items: Sequence[Item], *, carefully: bool) -> tuple[list[OutboxBatch], Sequence[Item]]:
        """Decide and store the batch. Returns the outbox batches to publish, and those of the items that were new.

        `carefully` is true if this batch failed before. Raises `HandlerErrors`, and what the database raises. Then nothing is stored, or,
        if the reply to the commit was lost, nobody knows.
        """
        try:
            if self._optimistic is not None and not (carefully or _may_be_repeated(items)):
                batches = await self._commit_at_once(self._optimistic, items)
                if batches is not None:
                    return batches, items
            return await self._commit_in_transaction(items)
        except Exception:
            if self._state_cache is not None:
                self._state_cache.invalidate()
            raise

    async def _commit_at_once(
        self, handler: OptimisticHandler[Key, State, Effect], items: Sequence[Item]
    ) -> list[OutboxBatch] | None:
        """Read, decide, and write everything in one statement. Returns None if the batch needs a transaction after all.

        Nothing is locked, and nothing checks first whether the messages were handled before. That is safe because every write is checked.
        There is a conflict if a state changed since it was read, if a message was handled before, or if a payment id is used already. Then
        nothing is stored, and the batch is repeated in a transaction. A message that changes no state needs no check: it is decided on a
        state that was just read, as if it had been handled at that moment.
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
        """Decide on cached states where there are some. Returns None if `load_unlocked` does.

        A reaction that writes nothing would show no conflict if its cached state is outdated. If there is such a reaction, the whole batch
        is decided again on states that are read.
        """
        messages = [item.message for item in items if item.message is not None]
        cached: Mapping[Key, State] = {}
        if self._state_cache is not None:
            cached = self._state_cache.get(map(handler.key, messages), epoch=self._database.epoch)
        changes = await self._decide_on(cached, handler, connection, items, messages, now)
        if changes and any(c.key in cached and not handler.is_conflict_checked(c.reaction) for c in changes.values()):
            changes = await self._decide_on({}, handler, connection, items, messages, now)
        return changes

    async def _decide_on(
        self,
        cached: Mapping[Key, State],
        handler: OptimisticHandler[Key, State, Effect],
        connection: Connection,
        items: Sequence[Item],
        messages: Sequence[Inbound],
        now: datetime,
    ) -> Changes[Key, State, Effect] | None:
        with self._blaming(items):
            states = await handler.load_unlocked(connection, messages, cached) if messages else {}
        return None if states is None else self._react(items, dict(states), now)

    async def _commit_in_transaction(self, items: Sequence[Item]) -> tuple[list[OutboxBatch], Sequence[Item]]:
        """Store the batch in a transaction with locks.

        If the reply to a commit was lost, the batch is repeated here. If that commit succeeded, every item is found handled and nothing new
        is published. The messages of that commit are in the outbox, where the sweeper finds them.
        """
        now = self._clock()
        async with self._database.transaction() as tx:
            writes = WriteBatch(tx)
            fresh, repeated = _fresh_and_repeated(items, await self._inbox.handled_before(tx, items))
            messages = [item.message for item in fresh if item.message is not None]
            with self._blaming(fresh):
                states = dict(await self._handler.load(tx, messages)) if messages else {}
            changes = self._react(fresh, states, now)
            batches = await self._write(writes, DecidedBatch(fresh, repeated, changes, now))
            await writes.flush()
            crash_points.reach("shell.before_commit")
        crash_points.reach("shell.after_commit")
        self._committed(changes)
        return batches, fresh

    @contextmanager
    def _blaming(self, items: Sequence[Item]) -> Iterator[None]:
        """If a row cannot be read, blame the messages about it alone. Raises `HandlerErrors`."""
        try:
            yield
        except UnreadableRowsError as error:
            blamed = [item for item in items if item.message and self._handler.key(item.message) in error.keys]
            raise HandlerErrors([(item, error) for item in blamed]) from error

    def _react(self, items: Sequence[Item], states: dict[Key, State], now: datetime) -> Changes[Key, State, Effect]:
        """Decide message after message, each on the state that the message before left. Raises `HandlerErrors`."""
        changes: Changes[Key, State, Effect] = {}
        errors: list[tuple[Item, Exception]] = []
        for item in items:
            if (message := item.message) is None:
                continue
            try:
                key = self._handler.key(message)
                reaction = self._handler.react(states[key], message)
            except Exception as error:  # noqa: BLE001 - a bug in the handler must not fail the other messages of the batch
                errors.append((item, error))
            else:
                states[key] = reaction.state
                changes[message.id] = Change(key, message, _cause(message, now), reaction)
        if errors:
            raise HandlerErrors(errors)
        return changes

    async def _write(self, writes: WriteBatch, decided: DecidedBatch) -> list[OutboxBatch]:
        """Collect all writes of the batch. Returns the outbox batches to publish after the commit."""
        changes: list[Change[Key, State, Effect]] = list(decided.changes.values())
        outgoing = [
            encode(draft, change.cause, position, source=self._handler.source)
            for change in changes
            for position, draft in enumerate(change.reaction.says)
        ]
        outgoing += await self._inbox.record(writes, decided)
        if replays.has_replays(decided):
            outgoing += replays.told(decided, self._inbox.refused(decided), source=self._handler.source)
        outgoing += await self._handler.save(writes, changes)
        return await outbox.insert(writes, outgoing)

    def _committed(self, changes: Changes[Key, State, Effect]) -> None:
        if self._listener is not None:
            self._listener.committed(list(changes.values()))
        if self._state_cache is not None:
            self._state_cache.put({change.key: change.reaction.state for change in changes.values()})


def _may_be_repeated(items: Sequence[Item]) -> bool:
    """Whether an item was delivered before, or comes twice in this batch. Then the inbox is asked before anything is written."""
    return len({item.id for item in items}) < len(items) or any(item.delivery.tries for item in items)


def _fresh_and_repeated(items: Sequence[Item], handled_before: Collection[UUID]) -> tuple[list[Item], list[Item]]:
    """The fresh items, and the repeated ones. If an item comes twice in one batch, the second is a repetition."""
    known = set(handled_before)
    fresh: list[Item] = []
    repeated: list[Item] = []
    for item in items:
        (repeated if item.id in known else fresh).append(item)
        known.add(item.id)
    return fresh, repeated


def _cause(message: Inbound, now: datetime) -> Cause:
    return Cause(message.id, message.correlation_id, now, message.traceparent)
