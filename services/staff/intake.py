"""Stores every message of the queue `dead-letters`: any bytes and any headers, from our services and from the broker itself.

A message that the broker dead-letters may never have passed our border. So every message is scanned here, some for the second time. If
there is a card number anywhere, the body is not stored. All texts are redacted.

Nothing is trusted that a sender could have written. The queue on which a message failed is taken from the routing key with which it was
dead-lettered. A message with an `x-death` header was dead-lettered by the broker, because our services never write that header.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Literal, TypedDict
from uuid import UUID

import structlog

from services.staff import store
from services.staff.dead_letters import DeadLetter, DeadLetterRecord, Origin, Withheld, arrive, continues
from shared import crash_points
from shared.batch.commit import CommitLoop
from shared.batch.retry import BatchRetry, RetryState, Stopped
from shared.card_data.plain import is_text
from shared.card_data.values import as_text, has_card_data
from shared.clock import Clock
from shared.ids import derived_id, read_uuid
from shared.messaging import dead_letter_headers
from shared.messaging.codec import BODY_BYTES_MAX, decode, headers_too_large
from shared.messaging.consumer import Consumer, Delivery
from shared.messaging.dead_letters import NAMESPACE
from shared.messaging.envelope import Inbound
from shared.messaging.topology import DEAD_LETTERS
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error, redact
from shared.observability.redaction import redact_value
from shared.persistence.database import Database, Trouble, trouble
from shared.records import replace

log = structlog.get_logger(__name__)

SHORT_TEXT_BYTES_MAX = 255
"""The longest AMQP short string. A property must fit into one to be sent again."""
ERROR_TEXT_BYTES_MAX = 4_096
CODE_LENGTH_MAX = 64
GENERATION_MAX = 1_000_000
"""A larger count of replays is not ours. Upstream can write that header, too."""
COUNT_MAX = 2**31 - 1

_NOT_OF_THE_SENDER = re.compile(
    r"x-remit-|x-unreadable$|x-death$|x-first-death-|x-last-death-|x-delivery-count$|x-acquired-count$"
)

_BROKER_REASONS = {
    "rejected": "a consumer rejected it",
    "expired": "its time to live was over",
    "maxlen": "its queue was full",
    "delivery_limit": "it was delivered more often than its queue allows",
}

# -- reading a delivery ----------------------------------------------------------------------------------------------------------------


def read(delivery: Delivery) -> DeadLetter:
    """Read a delivery as a dead letter. Never raises because of its content."""
    original = _original(delivery)
    withheld = _withheld(original, delivery)
    decoded = decode(original.body, content_type=original.content_type, headers=original.headers)
    own_id = read_uuid(original.message_id)
    type_ = decoded.data.wire_name if isinstance(decoded, Inbound) else decoded.type
    generation = _generation(delivery)
    return DeadLetter(
        id=_identity(original, withheld, delivery),
        queue=_text(original.queue) or DEAD_LETTERS,
        exchange=_text(original.exchange),
        routing_key=_text(original.routing_key),
        message_id=_text(original.message_id),
        event_id=own_id if withheld is Withheld.CARD_DATA else decoded.id or own_id,
        type=_text(original.type or type_),
        content_type=_text(original.content_type),
        correlation_id=_text(original.correlation_id),
        reply_to=_text(original.reply_to),
        headers={} if withheld else _plain(original.headers),
        body=None if withheld else original.body,
        body_bytes=len(original.body),
        withheld=withheld,
        generation=generation,
        replay_of=own_id if generation else None,
        **(_why_by_service(delivery) if _is_ours(delivery) else _why_by_broker(delivery)),
    )


def read_or_remains(delivery: Delivery) -> DeadLetter:
    """Like `read`. If that fails because of a bug, return the remains of the delivery, so that the rest of its batch goes on."""
    try:
        return read(delivery)
    except Exception as error:
        log.exception("dead_letter_unreadable", queue=delivery.queue, body_bytes=len(delivery.body))
        return remains(delivery, error, Withheld.UNREADABLE)


def remains(delivery: Delivery, error: Exception, why: Literal[Withheld.UNREADABLE, Withheld.UNSTORABLE]) -> DeadLetter:
    """The little that is kept of a delivery that cannot be read, or that the database does not take.

    It must not stop the others, and people must still see it. Its body is not kept, because nobody can say that it has no card number.
    """
    return DeadLetter(
        id=derived_id(NAMESPACE, f"{why}\n{delivery.routing_key}\n{delivery.message_id}\n{len(delivery.body)}"),
        queue=_text(delivery.routing_key) or DEAD_LETTERS,
        origin="remit" if _is_ours(delivery) else "broker",
        reason=why,
        error_type=type(error).__name__,
        error_text=_text(describe_error(error), ERROR_TEXT_BYTES_MAX),
        withheld=why,
        event_id=read_uuid(delivery.message_id),
        body_bytes=len(delivery.body),
    )


def _is_ours(delivery: Delivery) -> bool:
    return dead_letter_headers.QUEUE in delivery.headers and "x-death" not in delivery.headers


def _original(delivery: Delivery) -> Delivery:
    """The message as it was on the queue on which it failed."""
    headers = {key: value for key, value in delivery.headers.items() if not _NOT_OF_THE_SENDER.match(key)}
    on_its_queue = replace(delivery, queue=delivery.routing_key, headers=headers)
    if _is_ours(delivery):
        return replace(
            on_its_queue,
            exchange=_string(delivery.headers.get(dead_letter_headers.EXCHANGE)),
            routing_key=_string(delivery.headers.get(dead_letter_headers.ROUTING_KEY)),
            message_id=_string(delivery.headers.get(dead_letter_headers.MESSAGE_ID)),
            type=_string(delivery.headers.get(dead_letter_headers.MESSAGE_TYPE)),
            content_type=_string(delivery.headers.get(dead_letter_headers.CONTENT_TYPE)),
            correlation_id=_string(delivery.headers.get(dead_letter_headers.CORRELATION_ID)),
            reply_to=_string(delivery.headers.get(dead_letter_headers.REPLY_TO)),
        )
    death = _death(delivery)
    keys = death.get("routing-keys")
    first_key = keys[0] if isinstance(keys, list) and keys else None
    return replace(on_its_queue, exchange=_string(death.get("exchange")), routing_key=_string(first_key))


def _death(delivery: Delivery) -> Mapping[str, object]:
    """The entry of `x-death` about this failure. Empty if it cannot be read."""
    deaths = delivery.headers.get("x-death")
    entries = [entry for entry in deaths if isinstance(entry, dict)] if isinstance(deaths, list) else []
    here = [entry for entry in entries if entry.get("queue") == delivery.routing_key]
    return (here or entries or [{}])[0]


def _withheld(original: Delivery, delivery: Delivery) -> Withheld | None:
    by_service = delivery.headers.get(dead_letter_headers.BODY_WITHHELD) if _is_ours(delivery) else None
    if by_service == dead_letter_headers.WITHHELD_TOO_LARGE or len(original.body) > BODY_BYTES_MAX:
        return Withheld.TOO_LARGE
    if by_service:
        return Withheld.NOT_TEXT if by_service == dead_letter_headers.WITHHELD_NOT_TEXT else Withheld.CARD_DATA
    if headers_too_large(original.headers):
        return Withheld.HEADERS_TOO_LARGE  # without scanning them: none of them is kept anyway
    if not is_text(original.body):
        return Withheld.NOT_TEXT
    return Withheld.CARD_DATA if _has_card_data(original) else None


def _has_card_data(original: Delivery) -> bool:
    """Whether there is card data anywhere, even in encoded form. This is the last check before the message is stored."""
    properties = {
        "exchange": original.exchange,
        "routing_key": original.routing_key,
        "message_id": original.message_id,
        "type": original.type,
        "content_type": original.content_type,
        "correlation_id": original.correlation_id,
        "reply_to": original.reply_to,
        "headers": original.headers,
    }
    return has_card_data(original.body) or has_card_data(as_text(properties))


def _identity(original: Delivery, withheld: Withheld | None, delivery: Delivery) -> UUID:
    """The id of the record: the same for a message that fails on the same queue again, replayed or not.

    It uses no hash of a withheld body, because a card number could be found from the hash.
    """
    if withheld is None:
        digest = sha256(original.body + _event_headers(original.headers)).hexdigest()
    elif original.message_id:
        digest = ""
    else:  # the message has no id: use that of the dead letter, or the time when the broker dead-lettered it
        digest = delivery.message_id or f"{_death(delivery).get('time')} {len(original.body)}"
    return derived_id(NAMESPACE, f"{original.queue}\n{original.message_id or ''}\n{digest}")


def _event_headers(headers: Mapping[str, object]) -> bytes:
    """The CloudEvents attributes of a message in binary mode. They are part of its content."""
    attributes = {
        name: _string(value) for name, value in headers.items() if name.startswith(("ce-", "ce_", "cloudEvents"))
    }
    return json.dumps(attributes, sort_keys=True).encode()


class _Why(TypedDict):
    origin: Origin
    reason: str
    error_type: str | None
    error_text: str | None
    tries: int
    failed_at: datetime | None


def _why_by_service(delivery: Delivery) -> _Why:
    """Why our service dead-lettered it, from its headers."""
    headers = delivery.headers
    return {
        "origin": "remit",
        "reason": _code(headers.get(dead_letter_headers.REASON)),
        "error_type": _text(headers.get(dead_letter_headers.ERROR_TYPE)),
        "error_text": _text(headers.get(dead_letter_headers.ERROR_TEXT), ERROR_TEXT_BYTES_MAX),
        "tries": _count(headers.get(dead_letter_headers.TRIES)),
        "failed_at": _moment(headers.get(dead_letter_headers.FAILED_AT)),
    }


def _why_by_broker(delivery: Delivery) -> _Why:
    """Why the broker dead-lettered it, from `x-death`."""
    death = _death(delivery)
    reason = _string(death.get("reason"))
    return {
        "origin": "broker",
        "reason": _code(f"broker_{reason}") if reason else "unknown",
        "error_type": None,
        "error_text": f"RabbitMQ dead-lettered it: {_BROKER_REASONS.get(reason, 'it does not say why')}",
        "tries": _count(delivery.headers.get("x-delivery-count")) or _count(death.get("count")),
        "failed_at": _moment(death.get("time")),
    }


def _generation(delivery: Delivery) -> int:
    count = dead_letter_headers.replays(delivery)
    return count if count <= GENERATION_MAX else 0


def _plain(headers: Mapping[str, object]) -> dict[str, object]:
    plain = redact_value(headers)
    return plain if isinstance(plain, dict) else {}


def _string(value: object) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)


def _text(value: object, bytes_max: int = SHORT_TEXT_BYTES_MAX) -> str | None:
    """A text that is safe to store and show, at most `bytes_max` bytes in UTF-8. None if it is empty."""
    return redact(_string(value)).encode()[:bytes_max].decode("utf-8", "ignore") or None


def _code(value: object) -> str:
    return re.sub(r"[^A-Za-z0-9_.:-]", "_", _text(value) or "")[:CODE_LENGTH_MAX] or "unknown"


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value <= COUNT_MAX else 0


def _moment(value: object) -> datetime | None:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(_string(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


# -- storing a batch -------------------------------------------------------------------------------------------------------------------


class Intake:
    """Stores dead letters, batch after batch: one transaction, then one acknowledgement.

    In an outage a batch is held. A delivery is never acknowledged before its record is stored.
    """

    def __init__(self, consumer: Consumer, database: Database, clock: Clock, readiness: Readiness) -> None:
        self._consumer = consumer
        self._database = database
        self._clock = clock
        self._retry = BatchRetry(consumer.queue, database, readiness, consumer=consumer)
        self._committing = CommitLoop(self._commit, give_up=self._remains_or_hold, retry=self._retry)

    async def run(self) -> None:
        """Store dead letters until the consumer is stopped and its buffer is empty."""
        while deliveries := await self._consumer.take():
            if self._consumer.is_stale(deliveries):
                continue  # the broker delivers all of them again
            try:
                # Scanning takes tens of milliseconds a body. It runs in a thread, so that heartbeats and probes go on meanwhile.
                letters = await asyncio.to_thread(
                    lambda batch: [read_or_remains(delivery) for delivery in batch], deliveries
                )
                await self._committing.run(list(zip(deliveries, letters, strict=True)))
            except Stopped:
                return
            crash_points.reach("staff.intake.before_ack")
            await self._consumer.ack(deliveries)
            crash_points.reach("staff.intake.after_ack")
            metrics.MESSAGES_HANDLED.labels(queue=self._consumer.queue, outcome="handled").inc(len(deliveries))

    def stop_holding(self) -> None:
        """Give up a batch that is held in an outage. The broker delivers it again after the restart."""
        self._retry.stop()

    async def _remains_or_hold(
        self, item: tuple[Delivery, DeadLetter], error: Exception, state: RetryState
    ) -> tuple[Delivery, DeadLetter]:
        """What to store of a dead letter that cannot be stored, although it was tried alone several times.

        If the database refuses the data, only the remains are stored. Any other error is a bug of ours. Then the dead letter is held with
        its body until the bug is repaired.
        """
        delivery, letter = item
        log.error("dead_letter_unstorable", queue=letter.queue, letter=str(letter.id), exc_info=error)
        if trouble(error) is Trouble.DATA and letter.withheld is not Withheld.UNSTORABLE:
            return delivery, remains(delivery, error, Withheld.UNSTORABLE)
        await self._retry.outlast(error, state)
        return delivery, letter

    async def _commit(self, batch: Sequence[tuple[Delivery, DeadLetter]], *, carefully: bool) -> None:  # noqa: ARG002 - there is only one way to commit
        now = self._clock()
        letters = [letter for _, letter in batch]
        async with self._database.transaction() as tx:
            ids = {letter.id for letter in letters} | {letter.replay_of for letter in letters if letter.replay_of}
            records = await store.lock_letters(tx, ids)
            await store.save_letters(tx, _arrived(records, letters, now))
            crash_points.reach("staff.intake.before_commit")
        crash_points.reach("staff.intake.after_commit")


def _arrived(
    records: dict[UUID, DeadLetterRecord], letters: Sequence[DeadLetter], now: datetime
) -> list[DeadLetterRecord]:
    """The records after these arrivals. The arrivals are taken in their order."""
    records = dict(records)
    changed: dict[UUID, DeadLetterRecord] = {}
    for letter in letters:
        resent = records.get(letter.replay_of) if letter.replay_of else None
        if resent is not None and continues(resent, letter):
            letter = replace(letter, id=resent.id, message_id=None)  # noqa: PLW2901 - the same dead letter, with the id of its record
        record = arrive(records.get(letter.id), letter, now)
        records[record.id] = changed[record.id] = record
    return list(changed.values())
