"""Stores every message of the queue `dead-letters`: any bytes and any headers, from our services and from the broker itself.

A message that the broker dead-letters may never have passed our border. So every message is scanned here, some for the second time. If
there is a card number anywhere, the body is not stored. All texts are redacted.

`shared.messaging.failures` reads what the headers say of the failure. Nothing is trusted that a sender could have written: the queue on
which a message failed is taken from the routing key with which it was dead-lettered.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Literal
from uuid import UUID

import structlog

from services.staff import charges, store
from services.staff.dead_letters import DeadLetter, DeadLetterRecord, Origin, Withheld, arrive, continues
from shared import crash_points
from shared.batch.commit import CommitLoop
from shared.batch.retry import BatchRetry, RetryState, Stopped
from shared.batch.turns import in_turns
from shared.card_data.plain import is_text
from shared.card_data.scan import has_card_data
from shared.card_data.values import as_text
from shared.clock import Clock
from shared.ids import derived_id, read_uuid
from shared.messaging import dead_letter_headers
from shared.messaging.codec import BODY_BYTES_MAX, attribute_of, decode, headers_too_large
from shared.messaging.consumer import Consumer, Delivery
from shared.messaging.dead_letters import NAMESPACE
from shared.messaging.envelope import Inbound
from shared.messaging.failures import COUNT_MAX, MessageFailure, death_of, read_arrived, string, text
from shared.messaging.topology import COMMANDS, DEAD_LETTERS
from shared.observability import metrics
from shared.observability.health import Liveness, Readiness
from shared.observability.logs import describe_error
from shared.observability.redaction import redact_value
from shared.persistence.database import Database, Trouble, trouble
from shared.records import replace

log = structlog.get_logger(__name__)

ERROR_TEXT_BYTES_MAX = 4_096
GENERATION_MAX = 1_000_000
"""A larger count of replays is not ours."""

# -- reading a delivery ----------------------------------------------------------------------------------------------------------------


def read(delivery: Delivery, *, staff_user: str | None = None) -> DeadLetter:
    """Read a delivery as a dead letter. Never raises because of its content. `staff_user` is the user as whom staff replay."""
    failure = read_arrived(delivery)
    original = failure.message
    withheld = _withheld(failure)
    sender = text(failure.sender(staff_user))
    decoded = decode(
        original.body,
        content_type=original.content_type,
        headers=original.headers,
        dropped_bytes=original.dropped_bytes,
    )
    own_id = read_uuid(original.message_id)
    type_ = decoded.data.wire_name if isinstance(decoded, Inbound) else decoded.type
    generation = _generation(failure, staff_user)
    letter = DeadLetter(
        id=_identity(failure, withheld, delivery, sender),
        queue=text(original.queue) or DEAD_LETTERS,
        origin=_origin(failure),
        reason=failure.reason,
        error_type=text(failure.error_type),
        error_text=text(failure.error_text, ERROR_TEXT_BYTES_MAX),
        tries=failure.tries,
        generation=generation,
        failed_at=failure.failed_at,
        exchange=text(original.exchange),
        routing_key=text(original.routing_key),
        message_id=text(original.message_id),
        event_id=own_id if withheld is Withheld.CARD_DATA else decoded.id or own_id,
        type=text(original.type) or text(type_),
        content_type=text(original.content_type),
        correlation_id=text(original.correlation_id),
        reply_to=text(original.reply_to),
        headers={} if withheld else _plain(original.headers),
        body=None if withheld else original.body,
        body_bytes=failure.body_bytes,
        withheld=withheld,
        replay_of=own_id if generation else None,
        sender=sender,
    )
    return charges.with_facts(letter, decoded if withheld is None else None)


def read_or_remains(delivery: Delivery, *, staff_user: str | None = None) -> DeadLetter:
    """Like `read`. If that fails because of a bug, return the remains of the delivery, so that the rest of its batch goes on."""
    try:
        return read(delivery, staff_user=staff_user)
    except Exception as error:
        log.exception("dead_letter_unreadable", queue=delivery.queue, body_bytes=delivery.body_bytes)
        return remains(delivery, error, Withheld.UNREADABLE)


def remains(delivery: Delivery, error: Exception, why: Literal[Withheld.UNREADABLE, Withheld.UNSTORABLE]) -> DeadLetter:
    """The little that is kept of a delivery that cannot be read, or that the database does not take.

    It must not stop the others, and people must still see it. Its body is not kept, because nobody can say that it has no card number.
    """
    return DeadLetter(
        id=derived_id(NAMESPACE, f"{why}\n{delivery.routing_key}\n{delivery.message_id}\n{delivery.body_bytes}"),
        queue=text(delivery.routing_key) or DEAD_LETTERS,
        origin="remit" if dead_letter_headers.QUEUE in delivery.headers else "broker",
        reason=why,
        error_type=type(error).__name__,
        error_text=text(describe_error(error), ERROR_TEXT_BYTES_MAX),
        withheld=why,
        event_id=read_uuid(delivery.message_id),
        body_bytes=min(delivery.body_bytes, COUNT_MAX),
        may_charge=False,
    )


def _generation(failure: MessageFailure, staff_user: str | None) -> int:
    """How often staff had replayed the message. Of a command only their own user can say so: with a count of their own senders would open
    again what a person has discarded."""
    is_said_by_us = failure.message.queue != COMMANDS or failure.message.user_id == staff_user
    return failure.replays if is_said_by_us and failure.replays <= GENERATION_MAX else 0


def _origin(failure: MessageFailure) -> Origin:
    """Who dead-lettered the message first. A service that set it aside again kept the broker's reason."""
    return "remit" if failure.by_service and not failure.reason.startswith("broker_") else "broker"


def _withheld(failure: MessageFailure) -> Withheld | None:
    original = failure.message
    if failure.withheld == dead_letter_headers.WITHHELD_TOO_LARGE or original.body_bytes > BODY_BYTES_MAX:
        return Withheld.TOO_LARGE
    if failure.withheld:
        return Withheld.NOT_TEXT if failure.withheld == dead_letter_headers.WITHHELD_NOT_TEXT else Withheld.CARD_DATA
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


def _identity(failure: MessageFailure, withheld: Withheld | None, delivery: Delivery, sender: str | None) -> UUID:
    """The id of the record: the same for a message of the same sender that fails on the same queue again, replayed or not.

    It uses no hash of a withheld body, because a card number could be found from the hash.
    """
    original = failure.message
    if withheld is None:
        digest = sha256(original.body + _event_headers(original.headers)).hexdigest()
    elif original.message_id:
        digest = ""
    else:  # the message has no id: use that of the dead letter, or the time when the broker dead-lettered it
        digest = delivery.message_id or f"{death_of(delivery, original.queue).get('time')} {original.body_bytes}"
    of_sender = "" if sender is None else f"\n{sender}"
    # The message's id as it is stored: a replay sends that.
    return derived_id(NAMESPACE, f"{original.queue}\n{text(original.message_id) or ''}\n{digest}{of_sender}")


def _event_headers(headers: Mapping[str, object]) -> bytes:
    """The CloudEvents attributes of a message in binary mode. They are part of its content."""
    attributes = {name: string(value) for name, value in headers.items() if attribute_of(name) is not None}
    return json.dumps(attributes, sort_keys=True).encode()


def _plain(headers: Mapping[str, object]) -> dict[str, object]:
    plain = redact_value(headers)
    return plain if isinstance(plain, dict) else {}


# -- storing a batch -------------------------------------------------------------------------------------------------------------------


class Intake:
    """Stores dead letters, batch after batch: one transaction, then one acknowledgement.

    In an outage a batch is held. A delivery is never acknowledged before its record is stored.
    """

    def __init__(
        self,
        consumer: Consumer,
        database: Database,
        clock: Clock,
        readiness: Readiness,
        *,
        staff_user: str | None = None,
        liveness: Liveness | None = None,
    ) -> None:
        self._consumer = consumer
        self._staff_user = staff_user
        self._database = database
        self._clock = clock
        self._retry = BatchRetry(consumer.queue, database, readiness, consumer=consumer, liveness=liveness)
        self._committing = CommitLoop(self._commit, give_up=self._remains_or_hold, retry=self._retry)

    async def run(self) -> None:
        """Store dead letters until the consumer is stopped and its buffer is empty."""
        while deliveries := await self._consumer.take():
            if self._consumer.is_stale(deliveries):
                continue  # the broker delivers all of them again
            try:
                letters = await in_turns(partial(read_or_remains, staff_user=self._staff_user), deliveries)
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
            await store.save_letters(tx, _arrived(records, letters, now), locked=records)
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
