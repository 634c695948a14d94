"""A message as our code sees it: CloudEvents attributes plus typed data, and what AMQP adds on the way in and out."""

from datetime import datetime
from uuid import UUID

from shared.contracts.base import Contract
from shared.ids import derived_id
from shared.messaging.topology import RoutingSuffix
from shared.records import dataclass, field


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message that passed the border: well-formed, of a known type, its data valid.

    `content_hash` is SHA-256 over the canonical (type, data) of a command; nobody asks for that of an event.
    """

    id: UUID
    data: Contract
    correlation_id: str
    time: datetime
    causation_id: UUID | None = None
    traceparent: str | None = None
    content_hash: bytes = b""

    @property
    def type(self) -> str:
        return self.data.wire_name


@dataclass(frozen=True, slots=True)
class Draft:
    """What a handler wants said. The shell gives it an id, a time and a correlation.

    `message_id` overrides the derived id where DESIGN 2 names another source (an outcome: payment id and row version).
    `reply_to` sends it to that queue instead of the contract's exchange.
    """

    data: Contract
    message_id: UUID | None = None
    routing_suffix: RoutingSuffix = ""
    reply_to: str | None = None
    reply_correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message ready to leave, bytes and all; one of those in a row of the outbox.

    `droppable`: if no queue takes it, count and forget it (an answer whose asker has gone); otherwise it stays in the outbox until
    something does take it.
    `message_id` and `reply_to` are set where a message of somebody else is sent again as it came: its own id, which need not be a UUID and
    may wait for several queues at once, and whom it wants to be answered.
    """

    id: UUID
    exchange: str
    routing_key: str
    type: str
    correlation_id: str
    body: bytes
    droppable: bool = False
    headers: dict[str, str | int] = field(default_factory=dict)
    content_type: str = "application/cloudevents+json"
    message_id: str | None = None
    reply_to: str | None = None

    @property
    def amqp_message_id(self) -> str:
        return self.message_id or str(self.id)


@dataclass(frozen=True, slots=True)
class Cause:
    """What a message is caused by: enough to give every message it brings about its id, time and correlation, again and again."""

    id: UUID
    correlation_id: str
    time: datetime
    traceparent: str | None = None

    def message_id(self, position: int | str) -> UUID:
        return derived_id(self.id, position)
