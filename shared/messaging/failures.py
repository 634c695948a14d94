"""What a dead letter says of its failure: which message failed, on which queue, and why. It never raises because of what is written there.

A service says it in `x-remit-` headers (`shared.messaging.dead_letters`), the broker in `x-death`. Staff read both. A worker reads them as
well, if a dead letter comes to its queue: an operator has moved it there with the broker's own tools, or a sender wrote or copied headers.

What a sender could have written is not trusted further than it could go without: a message that others may have published has failed on the
queue where it is, whatever it claims. So nobody can have staff replay a message of theirs to another queue.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shared.amqp.frames import SHORT_STRING_BYTES_MAX
from shared.amqp.lenient_decoding import as_it_came
from shared.messaging import dead_letter_headers
from shared.messaging.codec import MalformedReason
from shared.messaging.consumer import Delivery
from shared.messaging.topology import (
    COMMAND_ENTRY,
    COMMANDS,
    EXCHANGES,
    QUEUE_NAMES,
    SUSPECT_COMMANDS,
    WORK_QUEUE_NAMES,
    work_queue_of,
)
from shared.observability.logs import redact
from shared.records import dataclass, replace

MOVED_BACK = "moved_back"
"""The reason, if a message has the headers of a dead letter and they do not say why it failed, or a sender may have written them."""
_NOBODY_VOUCHES = (
    "it has the headers of a dead letter, and came the way of senders: nobody vouches for what they say of a failure"
)
HANDLER_FAILED = "handler_failed"
"""The reason, if the handler or the database failed at every try."""
SHORT_TEXT_BYTES_MAX = SHORT_STRING_BYTES_MAX
"""The longest AMQP short string. A property must fit into one to be sent again."""
CODE_LENGTH_MAX = 64
COUNT_MAX = 2**31 - 1

_DEATH = "x-death"
_YEARS = (2000, 2200)
"""A time outside is not one of ours, and PostgreSQL may not take it."""
_NOT_OF_THE_SENDER = re.compile(
    r"x-remit-|x-unreadable$|x-death$|x-first-death-|x-last-death-|x-delivery-count$|x-acquired-count$"
)
_OF_DEAD_LETTERS = QUEUE_NAMES - WORK_QUEUE_NAMES - {SUSPECT_COMMANDS}
_WRITTEN_BY_US = {"", *(exchange.name for exchange in EXCHANGES)} - {COMMAND_ENTRY}
BROKER_REASONS = {
    "rejected": "a consumer rejected it",
    "expired": "its time to live was over",
    "maxlen": "its queue was full",
    "delivery_limit": "it was delivered more often than its queue allows",
}
FAILURE_REASONS = frozenset(
    {
        *map(str, MalformedReason),
        HANDLER_FAILED,
        MOVED_BACK,
        "unknown",
        *(f"broker_{reason}" for reason in BROKER_REASONS),
    }
)
"""All reasons that we and the broker give. A stranger can write others into a dead letter."""


@dataclass(frozen=True, slots=True)
class MessageFailure:
    """A message that failed. `message` is as it was on the queue on which it failed, with only those headers that its sender wrote.

    `by_service` is false if the broker dead-lettered it. `withheld` says why it comes without its body, `body_bytes` how long the body
    was, `replays` how often staff had replayed it.
    """

    message: Delivery
    by_service: bool
    reason: str
    error_type: str
    error_text: str
    tries: int
    failed_at: datetime | None
    withheld: str
    body_bytes: int
    replays: int
    said_sender: str | None = None
    """The name of the sender as whoever published the message has said it."""

    def sender(self, staff_user: str | None) -> str | None:
        """The name of the message's sender: as the broker vouched for it, or as staff said it when they replayed the message."""
        return dead_letter_headers.sender_of(self.message.user_id, self.said_sender, staff_user=staff_user)


def is_dead_letter(delivery: Delivery) -> bool:
    """Whether a message has the headers that only a dead letter should have. A replay by staff has none of them."""
    return dead_letter_headers.QUEUE in delivery.headers or _DEATH in delivery.headers


def of_the_sender(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers without those that the broker and our services write."""
    return {name: value for name, value in headers.items() if not _NOT_OF_THE_SENDER.match(name)}


def read_arrived(delivery: Delivery) -> MessageFailure:
    """Read a dead letter that arrived on `dead-letters`. Its routing key is the queue, unless somebody moved it there."""
    key = delivery.routing_key
    return _read(delivery, key if key in WORK_QUEUE_NAMES else _claimed_queue(delivery) or key)


def read_moved_back(delivery: Delivery) -> MessageFailure:
    """Read a dead letter that came to a work queue. What others may have published says nothing of why, when and how often it failed."""
    if _is_written_by_us(delivery):
        return _read(delivery, _claimed_queue(delivery) or work_queue_of(delivery.queue))
    said = _read(delivery, work_queue_of(delivery.queue))
    return replace(said, reason=MOVED_BACK, error_type="", error_text=_NOBODY_VOUCHES, tries=0, failed_at=None)


def _read(delivery: Delivery, queue: str) -> MessageFailure:
    headers = delivery.headers
    message = replace(delivery, queue=queue, headers=of_the_sender(headers))
    if not _is_by_service(delivery):
        return _by_broker(delivery, message)
    return MessageFailure(
        message=replace(
            message,
            exchange=string(headers.get(dead_letter_headers.EXCHANGE)),
            routing_key=string(headers.get(dead_letter_headers.ROUTING_KEY)),
            message_id=string(headers.get(dead_letter_headers.MESSAGE_ID)) or None,
            type=string(headers.get(dead_letter_headers.MESSAGE_TYPE)) or None,
            content_type=string(headers.get(dead_letter_headers.CONTENT_TYPE)) or None,
            correlation_id=string(headers.get(dead_letter_headers.CORRELATION_ID)) or None,
            reply_to=string(headers.get(dead_letter_headers.REPLY_TO)) or None,
            user_id=_user(delivery),
        ),
        by_service=True,
        reason=code(headers.get(dead_letter_headers.REASON)),
        error_type=string(headers.get(dead_letter_headers.ERROR_TYPE)),
        error_text=string(headers.get(dead_letter_headers.ERROR_TEXT)),
        tries=_count(headers.get(dead_letter_headers.TRIES)),
        failed_at=_moment(headers.get(dead_letter_headers.FAILED_AT)),
        withheld=string(headers.get(dead_letter_headers.BODY_WITHHELD)),
        body_bytes=_body_bytes(delivery),
        replays=dead_letter_headers.replays(delivery),
        said_sender=dead_letter_headers.said_sender(headers),
    )


def _user(delivery: Delivery) -> str | None:
    """The user who published the message that failed. Our services say it in a header, and set no `user_id` on a dead letter.

    That header is not believed if others could have published the message: a sender could have staff replay as another.
    """
    if delivery.user_id is not None or not _is_written_by_us(delivery):
        return delivery.user_id
    return string(delivery.headers.get(dead_letter_headers.USER)) or None


def _is_written_by_us(delivery: Delivery) -> bool:
    """Whether the message was published where only Remit and its operators may write.

    The broker names the exchange to which it was first published. A sender may pass messages on from an exchange of its own.
    """
    return delivery.exchange in _WRITTEN_BY_US


def _by_broker(delivery: Delivery, message: Delivery) -> MessageFailure:
    death = death_of(delivery, message.queue)
    keys = death.get("routing-keys")
    reason = string(death.get("reason"))
    return MessageFailure(
        message=replace(
            message,
            exchange=string(death.get("exchange")),
            routing_key=string(keys[0] if isinstance(keys, list) and keys else None),
        ),
        by_service=False,
        reason=code(f"broker_{reason}") if reason else "unknown",
        error_type="",
        error_text=f"RabbitMQ dead-lettered it: {BROKER_REASONS.get(reason, 'it does not say why')}",
        tries=_count(delivery.headers.get("x-delivery-count")) or _count(death.get("count")),
        failed_at=_moment(death.get("time")),
        withheld="",
        body_bytes=_body_bytes(delivery),
        replays=dead_letter_headers.replays(delivery),
        said_sender=dead_letter_headers.said_sender(delivery.headers),
    )


def _body_bytes(delivery: Delivery) -> int:
    """The length of the message's body when it failed. A service that withheld the body names it; of a body that is there nobody need."""
    if delivery.body_bytes or not _is_by_service(delivery):
        return min(delivery.body_bytes, COUNT_MAX)
    return _count(delivery.headers.get(dead_letter_headers.BODY_BYTES))


def death_of(delivery: Delivery, queue: str) -> Mapping[str, Any]:
    """The entry of `x-death` about a failure on this queue, or else the latest one. Empty if there is none that can be read."""
    entries = _deaths(delivery)
    here = [entry for entry in entries if entry.get("queue") == queue]
    return (here or entries or [{}])[0]


def _deaths(delivery: Delivery) -> list[Mapping[str, Any]]:
    """The entries of `x-death`, the latest first. The broker writes each new one in front of those that a sender may have forged."""
    deaths = delivery.headers.get(_DEATH)
    return [entry for entry in deaths if isinstance(entry, dict)] if isinstance(deaths, list) else []


def _last_died_on(delivery: Delivery) -> str | None:
    last = next((entry.get("queue") for entry in _deaths(delivery)), None)
    return last if isinstance(last, str) else None  # a sender can write a list or a table there


def _is_by_service(delivery: Delivery) -> bool:
    """Whether our headers are there, and not written by a sender whose message the broker dead-lettered afterwards."""
    if dead_letter_headers.QUEUE not in delivery.headers:
        return False
    if _DEATH not in delivery.headers:
        return True
    last = _last_died_on(delivery)
    return last in _OF_DEAD_LETTERS or (last == delivery.routing_key != COMMANDS and last in WORK_QUEUE_NAMES)


def _claimed_queue(delivery: Delivery) -> str | None:
    """The work queue on which the message failed, as its headers say; None if they name none."""
    ours = delivery.headers.get(dead_letter_headers.QUEUE) if _is_by_service(delivery) else _last_died_on(delivery)
    return ours if isinstance(ours, str) and ours in WORK_QUEUE_NAMES else None


# -- what is written there -------------------------------------------------------------------------------------------------------------


def string(value: object) -> str:
    """A value of a header as text, however long."""
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)


def short(text: str, bytes_max: int = SHORT_TEXT_BYTES_MAX) -> str:
    """The text, redacted, and at most `bytes_max` bytes as it is sent. There a mark (`shared.amqp.lenient_decoding`) is one byte.

    So an id of a message is never cut: cut, those of two messages could be alike.
    """
    redacted = redact(text)
    if fits(redacted, bytes_max):
        return redacted
    return redacted.encode()[:bytes_max].decode("utf-8", "ignore")


def fits(text: str, bytes_max: int = SHORT_TEXT_BYTES_MAX) -> bool:
    """Whether a text has at most `bytes_max` bytes as it is sent. What no message can hold counts as what replaces it."""
    try:
        sent = as_it_came(text)
    except UnicodeEncodeError:
        sent = text.encode("utf-8", "replace")
    return len(sent) <= bytes_max


def text(value: object, bytes_max: int = SHORT_TEXT_BYTES_MAX) -> str | None:
    """A text that is safe to store and send, at most `bytes_max` bytes as it is sent. None if it is blank."""
    kept = short(string(value), bytes_max)
    return kept if kept.strip() else None


def code(value: object) -> str:
    """A reason as a code: no other characters than those that the contracts take, and never empty."""
    return re.sub(r"[^A-Za-z0-9_.:-]", "_", text(value) or "")[:CODE_LENGTH_MAX] or "unknown"


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value <= COUNT_MAX else 0


def _moment(value: object) -> datetime | None:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(string(value))
    except ValueError:
        return None
    return moment if moment.tzinfo and _YEARS[0] <= moment.year < _YEARS[1] else None
