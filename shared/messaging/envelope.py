"""A message as our code sees it: CloudEvents attributes, typed data, and what AMQP adds on the way in and out."""

from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from shared.contracts.base import Contract
from shared.ids import derived_id
from shared.messaging.topology import DEAD_LETTERS, RoutingSuffix
from shared.records import dataclass, field


class Lane(StrEnum):
    """The lanes on which messages leave a service. Each has a connection, outbox rows and a sweeper of its own, so none waits for another.

    Inside goes what the services say to each other. Outside goes whatever carries words or addresses of others: answers, replays, dead
    letters. Public copies of events go on `PUBLIC`, once our own queues have the events. What others did not take of the outside lane waits
    on `RETRY`. Whatever is tried again has a connection of its own: however much of it waits, nothing that is sent for the first time does.
    """

    INSIDE = "inside"
    OUTSIDE = "outside"
    RETRY = "retry"
    PUBLIC = "public"


NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
"""The time of a message whose sender says none: CloudEvents leave it to them."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message that passed the border: it is well-formed, its type is known, its data is valid.

    `content_hash` is SHA-256 over the canonical (type, data) of a command that others sent. It is empty for all else, since nothing
    needs that. `outline_hash` is over its outline, without long numbers; None if it has none. A command with long numbers in members that
    no contract knows has only that.
    """

    id: UUID
    data: Contract
    correlation_id: str
    time: datetime
    causation_id: UUID | None = None
    traceparent: str | None = None
    content_hash: bytes | None = b""
    outline_hash: bytes | None = None
    sender: str | None = None
    """The name of the upstream system that sent a command. None if nobody can say, and for messages of our own services."""

    @property
    def type(self) -> str:
        return self.data.wire_name

    @property
    def sent_at(self) -> datetime | None:
        """When it was sent, as its sender says. None if the sender does not say."""
        return None if self.time == NO_TIME else self.time


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that a handler wants to publish. The batch pipeline gives it an id, a time and a correlation id.

    `message_id` replaces the id that is derived from the cause. An outcome of a payment has one: it is derived from payment id and row
    version. `reply_to` is the queue that the message is sent to, instead of the contract's exchange.
    """

    data: Contract
    message_id: UUID | None = None
    routing_suffix: RoutingSuffix = ""
    reply_to: str | None = None
    reply_correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An encoded message that is ready to publish. A row of the outbox holds one or more of these.

    `droppable` says what happens if no queue takes the message. If true, it is counted and dropped: it is an answer, and its receiver has
    gone. If false, it stays in the outbox until a queue takes it.

    `message_id` and `reply_to` are set when staff sends a message of another sender again as it came. `message_id` is then the message's
    own id, which need not be a UUID, and several messages in the outbox may have the same one. `reply_to` is where its sender wants the
    answer.
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
    data: Contract | None = field(default=None, compare=False, repr=False)
    """What the message says. It is not stored: only the process that makes the message has it, and only when it first says so."""
    thread: str = field(default="", compare=False, repr=False)
    """The correlation id of the business that `data` belongs to. That of an answer to its sender may be another, which the sender chose."""

    @property
    def lane(self) -> Lane:
        """The lane on which it is first published. Answers and replays go straight to a queue; they and dead letters are of others."""
        return Lane.INSIDE if self.exchange and self.exchange != DEAD_LETTERS else Lane.OUTSIDE


@dataclass(frozen=True, slots=True)
class Cause:
    """The message that causes others. It gives each message it causes the same id, time and correlation id, however often it is handled."""

    id: UUID
    correlation_id: str
    time: datetime
    traceparent: str | None = None

    def message_id(self, position: int | str) -> UUID:
        return derived_id(self.id, position)
