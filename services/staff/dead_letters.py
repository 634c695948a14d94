"""The record of a dead letter: what arrived, how often it was replayed, its status. Pure: no I/O, clock, randomness, logging.

A message that failed on one queue has one record, however often it arrives. A duplicate is only counted. A failure after a replay opens the
record again. The generation of an arrival tells the two apart: it says how often the message had been replayed when it failed.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from hashlib import blake2s
from typing import Literal
from uuid import UUID

from shared.records import dataclass, field, replace


class DeadLetterStatus(StrEnum):
    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class Withheld(StrEnum):
    """Why the body of a message is not stored. Without its body it cannot be replayed."""

    CARD_DATA = "card_data"
    TOO_LARGE = "too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    UNSTORABLE = "unstorable"
    UNREADABLE = "unreadable"
    NOT_TEXT = "not_text"
    ERASED = "erased"


Origin = Literal["remit", "broker"]
"""Who dead-lettered a message: one of our services, which says why, or the broker by itself."""

ReplayOutcome = Literal["handled", "duplicate", "rejected"]
"""What became of a replayed message: it was handled, it had been handled before, or it was answered with a refusal."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter that arrived.

    Every text is redacted. `body` is None if it is `withheld`. `queue` is the queue on which the message failed. `generation` says how
    often it had been replayed before. `event_id` is the CloudEvents id, if it can be read. For a command, its sender knows that id.
    `sender` is the name of the sender, if the broker vouched for one.

    `invoice_id`, `payment_id`, `amount_minor` and `currency` are as the body says, if it can be read. `may_charge` says whether a replay
    may charge a card, and `asked_at` when that was asked for. `may_charge` is None if nobody has read the body for that yet.

    A message that came without an id is replayed with the id of its record. If it fails again, `replay_of` is that id.
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
    sender: str | None = None
    invoice_id: str | None = None
    payment_id: UUID | None = None
    amount_minor: int | None = None
    currency: str | None = None
    may_charge: bool | None = None
    asked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Disposition:
    """Who replayed or discarded a dead letter, and why. A replay needs no reason."""

    by: str
    at: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """Everything about one dead letter. `letter` is the latest failure, `replays` counts the replays, `seen` the arrivals.

    `replay_entry` is the journal entry of the last replay. `outcome` says what became of that replay, if a service has told it.
    """

    letter: DeadLetter
    replays: int
    seen: int
    status: DeadLetterStatus
    first_seen: datetime
    last_seen: datetime
    settlement: Disposition | None = None
    replay_entry: UUID | None = None
    outcome: ReplayOutcome | None = None
    outcome_reason: str | None = None
    outcome_at: datetime | None = None

    @property
    def id(self) -> UUID:
        return self.letter.id

    @property
    def stands(self) -> Mapping[str, object]:
        """How it stands, as the journal tells it before and after an act."""
        return {"status": self.status.value, "replays": self.replays}

    @property
    def version(self) -> str:
        """Another text whenever something else is shown of it or would be sent. Whoever acts says which one they saw.

        What services tell of a replay, and duplicates that changed nothing, make no other version.
        """
        untold = replace(self, seen=0, last_seen=self.first_seen, outcome=None, outcome_reason=None, outcome_at=None)
        return blake2s(repr(untold).encode(), digest_size=8).hexdigest()


def arrive(record: DeadLetterRecord | None, letter: DeadLetter, now: datetime) -> DeadLetterRecord:
    """The record after one more arrival. `record` is None if the dead letter is new."""
    if record is None:
        return DeadLetterRecord(letter, letter.generation, 1, DeadLetterStatus.OPEN, now, now)
    counted = replace(record, seen=record.seen + 1, last_seen=now)
    if letter.generation < record.replays:
        return counted  # a late duplicate of a failure before the last replay
    if letter.generation == record.replays and record.status is DeadLetterStatus.DISCARDED:
        return counted  # the broker delivers at least once: a duplicate must not undo a person's decision
    return replace(counted, letter=letter, replays=letter.generation, status=DeadLetterStatus.OPEN, settlement=None)


def continues(record: DeadLetterRecord | None, letter: DeadLetter) -> bool:
    """Whether `letter` is a failure of the replayed message of `record`, which was sent with the record's id."""
    return (
        record is not None
        and record.letter.message_id is None
        and (record.letter.queue, record.letter.sender) == (letter.queue, letter.sender)
    )


def discarded(record: DeadLetterRecord, settlement: Disposition) -> DeadLetterRecord:
    """The record after a person gave the message up."""
    return replace(record, status=DeadLetterStatus.DISCARDED, settlement=settlement)


def replayed(record: DeadLetterRecord, settlement: Disposition, entry_id: UUID) -> DeadLetterRecord:
    """The record after a person had the message sent again. `entry_id` is that of the journal, by which its outcome is known."""
    return replace(
        record,
        status=DeadLetterStatus.REPLAYED,
        replays=record.replays + 1,
        settlement=settlement,
        replay_entry=entry_id,
        outcome=None,
        outcome_reason=None,
        outcome_at=None,
    )


def reopened(record: DeadLetterRecord) -> DeadLetterRecord:
    """The record after what settled it was undone: before anything of it was sent, or because nothing of it is ever sent."""
    replays = record.replays - 1 if record.status is DeadLetterStatus.REPLAYED else record.replays
    return replace(record, status=DeadLetterStatus.OPEN, replays=replays, settlement=None, replay_entry=None)
