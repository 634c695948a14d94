"""A dead letter as staff keep it: what arrived, how often it was sent again, how it stands. Pure: no I/O, clock, randomness, logging.

One message that failed on one queue is one record, however often it comes: duplicates only count, a failure after a replay opens the same
record again. Which of the two an arrival is says its generation: how often the message had been replayed when it failed.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from shared.records import dataclass, field, replace


class DeadLetterStatus(StrEnum):
    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class Withheld(StrEnum):
    """Why the message is not kept whole, and therefore cannot be replayed."""

    CARD_DATA = "card_data"
    TOO_LARGE = "too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    UNSTORABLE = "unstorable"
    UNREADABLE = "unreadable"
    ERASED = "erased"


Origin = Literal["remit", "broker"]
"""Who set it aside: a service of ours, which says why, or the broker by itself."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What arrived. Every text is redacted; `body` is None where it is `withheld`. `queue` is where it failed, `generation` how often it
    had been replayed before. `event_id` is the CloudEvents id where it can be read: of a command, the id its sender knows it by.

    `replay_of` is set on what we sent again under the record's own id, because it had come without one.
    """

    id: UUID
    queue: str
    origin: Origin
    reason: str
    error_type: str | None = None
    error_text: str | None = None
    tries: int = 0
    generation: int = 0
    failed_at: datetime | None = None
    exchange: str | None = None
    routing_key: str | None = None
    message_id: str | None = None
    event_id: UUID | None = None
    type: str | None = None
    content_type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    headers: Mapping[str, object] = field(default_factory=dict)
    body: bytes | None = None
    body_bytes: int = 0
    withheld: Withheld | None = None
    replay_of: UUID | None = None


@dataclass(frozen=True, slots=True)
class Disposition:
    """Who replayed or discarded it, and why (a replay needs no reason)."""

    by: str
    at: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """`letter` is the failure seen last; `replays` counts how often staff sent it again, `seen` how often it arrived."""

    letter: DeadLetter
    replays: int
    seen: int
    status: DeadLetterStatus
    first_seen: datetime
    last_seen: datetime
    settlement: Disposition | None = None

    @property
    def id(self) -> UUID:
        return self.letter.id


def arrive(record: DeadLetterRecord | None, letter: DeadLetter, now: datetime) -> DeadLetterRecord:
    """The record after one more arrival."""
    if record is None:
        return DeadLetterRecord(letter, letter.generation, 1, DeadLetterStatus.OPEN, now, now)
    again = replace(record, seen=record.seen + 1, last_seen=now)
    if letter.generation < record.replays:
        return again  # a late duplicate of what was replayed since
    if letter.generation == record.replays and record.status is DeadLetterStatus.DISCARDED:
        return again  # somebody decided; the broker delivers at least once
    return replace(again, letter=letter, replays=letter.generation, status=DeadLetterStatus.OPEN, settlement=None)


def continues(record: DeadLetterRecord | None, letter: DeadLetter) -> bool:
    """Whether `letter` is the failure of what we sent again under this record's own id."""
    return record is not None and record.letter.message_id is None and record.letter.queue == letter.queue


def settle(
    record: DeadLetterRecord,
    status: Literal[DeadLetterStatus.REPLAYED, DeadLetterStatus.DISCARDED],
    settlement: Disposition,
) -> DeadLetterRecord:
    """The record after a person replayed or discarded it."""
    replays = record.replays + 1 if status is DeadLetterStatus.REPLAYED else record.replays
    return replace(record, status=status, replays=replays, settlement=settlement)
