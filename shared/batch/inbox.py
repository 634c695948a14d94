"""Which messages came before: every delivery is settled once, however often it arrives.

An inbox says what becomes of a delivery at the border, recognises what was handled before, and records what is handled now, in the same
transaction. `MessageInbox` goes by the ids of messages. A service that has to do more about a repeated message brings an inbox of its own.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from shared.batch.handler import Change
from shared.messaging.codec import Malformed
from shared.messaging.consumer import Delivery
from shared.messaging.envelope import Inbound, Outgoing
from shared.persistence import inbox as inbox_table
from shared.persistence.database import Tx
from shared.records import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """A delivery that a transaction settles. `message` is None where there is nothing for the handler: the inbox sees to it alone."""

    id: UUID
    delivery: Delivery
    message: Inbound | None


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A delivery that becomes a dead letter. `reason` is a code for programs, `text` a sentence for people."""

    delivery: Delivery
    reason: str
    text: str
    error: BaseException | None = None
    tries: int = 1


@dataclass(frozen=True, slots=True)
class DecidedBatch:
    """A batch after its decisions. `repeated`: came before, or twice in this batch. `changes` of the fresh ones, by message id."""

    fresh: Sequence[Item]
    repeated: Sequence[Item]
    changes: Mapping[UUID, Change[Any, Any, Any]]
    now: datetime


class Inbox(Protocol):
    """What the pipeline asks about every delivery of one queue."""

    def admit(self, delivery: Delivery, read: Inbound | Malformed) -> Item | DeadLettered:
        """What becomes of it at the border. Pure."""
        ...

    async def handled_before(self, tx: Tx, items: Sequence[Item]) -> set[UUID]:
        """The ids of those that were handled before."""
        ...

    async def record(self, writes: Tx, decided: DecidedBatch) -> Sequence[Outgoing]:
        """Collect what marks the fresh ones as handled. One that is marked already is a unique violation: a conflict, so the batch is
        repeated and recognises it. Returns what is to be said about it."""
        ...


class MessageInbox:
    """By message id; nobody is told."""

    def admit(self, delivery: Delivery, read: Inbound | Malformed) -> Item | DeadLettered:
        """A message that cannot be read is a dead letter."""
        if isinstance(read, Malformed):
            return DeadLettered(delivery, str(read.reason), read.detail)
        return Item(read.id, delivery, read)

    async def handled_before(self, tx: Tx, items: Sequence[Item]) -> set[UUID]:
        return await inbox_table.load(tx, {item.id for item in items})

    async def record(self, writes: Tx, decided: DecidedBatch) -> Sequence[Outgoing]:
        if decided.fresh:
            await inbox_table.insert(writes, [item.id for item in decided.fresh])
        return ()
