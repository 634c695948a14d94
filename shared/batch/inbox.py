"""Deduplication: an inbox recognises messages that were handled before, so that each is handled once however often it arrives.

An inbox decides at the border whether a delivery is handled or becomes a dead letter. Within the batch's transaction it recognises the
messages that were handled before, and records those that are handled now. `MessageInbox` below knows the ids of messages. A service that
has to do more about a repeated message has an inbox of its own.
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
from shared.persistence.writes import WriteBatch
from shared.records import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """A delivery that is settled in a transaction. `message` is None if the inbox deals with it alone, without the handler."""

    id: UUID
    delivery: Delivery
    message: Inbound | None


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A delivery that becomes a dead letter. `reason` is a code for programs, `text` a sentence for people.

    `tries` counts the tries of this process. The broker counts earlier deliveries. `message` is None if it could not be read. `id` is the
    one under which the inbox would have kept it, if that is known.
    """

    delivery: Delivery
    reason: str
    text: str
    error: BaseException | None = None
    tries: int = 1
    message: Inbound | None = None
    id: UUID | None = None

    @property
    def about(self) -> dict[str, str]:
        """The ids of the invoice and the payment that the message is about, as far as it could be read and has them."""
        data = self.message.data if self.message is not None else None
        return {
            name: str(id_) for name in ("invoice_id", "payment_id") if (id_ := getattr(data, name, None)) is not None
        }


@dataclass(frozen=True, slots=True)
class DecidedBatch:
    """A batch after its decisions.

    `repeated` items were handled before, or came twice in this batch. `changes` has those of the fresh items, by message id.
    """

    fresh: Sequence[Item]
    repeated: Sequence[Item]
    changes: Mapping[UUID, Change[Any, Any, Any]]
    now: datetime


class Inbox(Protocol):
    """What the batch pipeline asks about the deliveries of one queue."""

    def admit(self, delivery: Delivery, read: Inbound | Malformed) -> Item | DeadLettered:
        """Decide whether a delivery is handled or becomes a dead letter. `read` is its decoded body. Pure."""
        ...

    async def handled_before(self, tx: Tx, items: Sequence[Item]) -> set[UUID]:
        """The ids of those items that were handled before."""
        ...

    async def record(self, writes: WriteBatch, decided: DecidedBatch) -> Sequence[Outgoing]:
        """Collect the writes that mark the fresh items as handled. Returns messages to publish about the batch, for instance answers.

        An item that is marked already is a unique violation, which is a conflict: the batch is repeated, and then recognises the item.
        """
        ...

    async def note_set_aside(self, tx: Tx, dead_lettered: Sequence[DeadLettered]) -> None:
        """Note that these deliveries become dead letters, in the transaction that stores them as such."""
        ...

    def refused(self, decided: DecidedBatch) -> Mapping[UUID, str]:
        """The fresh items that are refused, by their ids, with the reasons that they are told. Only asked for if a message was replayed."""
        ...


class MessageInbox:
    """Recognises messages by their ids, and answers nobody."""

    def admit(self, delivery: Delivery, read: Inbound | Malformed) -> Item | DeadLettered:
        """A message that cannot be read becomes a dead letter."""
        if isinstance(read, Malformed):
            return DeadLettered(delivery, str(read.reason), read.detail)
        return Item(read.id, delivery, read)

    async def handled_before(self, tx: Tx, items: Sequence[Item]) -> set[UUID]:
        return await inbox_table.load(tx, {item.id for item in items})

    async def record(self, writes: Tx, decided: DecidedBatch) -> Sequence[Outgoing]:
        if decided.fresh:
            await inbox_table.insert(writes, [item.id for item in decided.fresh])
        return ()

    async def note_set_aside(self, tx: Tx, dead_lettered: Sequence[DeadLettered]) -> None:
        """Nobody asks for these messages: staff have them."""

    def refused(self, decided: DecidedBatch) -> Mapping[UUID, str]:  # noqa: ARG002 - nothing is refused here
        return {}
