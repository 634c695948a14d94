"""The worker of one queue: it takes the messages that have arrived, settles them in one transaction, publishes, acknowledges.

The steps have this order: take, read, admit, commit, dead-letter, publish, acknowledge. A message is acknowledged only when all its effects
are durable. A message that cannot be handled becomes a dead letter. One about a row that this build cannot read is postponed.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Generic
from uuid import UUID

import structlog

from shared import crash_points
from shared.batch.commit import CommitLoop
from shared.batch.handler import Effect, Key, MessageHandler, State
from shared.batch.inbox import DeadLettered, Inbox, Item, MessageInbox
from shared.batch.retry import TRIES_MAX, BatchRetry, RetryState, Stopped
from shared.batch.tracing import QueueTracing
from shared.batch.transaction import UnitOfWork
from shared.batch.turns import in_turns
from shared.card_data.plain import APART
from shared.card_data.scan import find_card_data
from shared.card_data.values import place_of
from shared.clock import Clock
from shared.messaging import dead_letters, facts
from shared.messaging.codec import MalformedReason, decode
from shared.messaging.consumer import Consumer, Delivery
from shared.messaging.envelope import Outgoing
from shared.messaging.failures import HANDLER_FAILED, MOVED_BACK, is_dead_letter
from shared.messaging.relay import Relay
from shared.messaging.topology import is_of_services
from shared.observability import metrics
from shared.observability.health import Liveness, Readiness
from shared.observability.logs import describe_error, redact
from shared.persistence import outbox
from shared.persistence.database import Database
from shared.persistence.outbox import OutboxBatch
from shared.persistence.unreadable import UnreadableRowsError

log = structlog.get_logger(__name__)

ALONE_AFTER_TRIES = 3
"""A message with more earlier deliveries than this gets a batch of its own. If it kills the process, no other message is affected."""
POSTPONE_S = 30.0
"""When a message about a row that this build cannot read is taken again. By then a newer build may have gone on with the row, or this
instance may have been replaced: the broker gives its messages to another one. The broker's consumer timeout (30 minutes) closes the channel
meanwhile and counts a delivery, so the limit is reached after two days. An outage of the database counts once, however long it is."""
MESSAGE_ID_SHOWN_MAX = 64
"""Characters, of a text that a sender chose."""


class QueueWorker(Generic[Key, State, Effect]):
    """Handles one queue with one handler, batch after batch."""

    def __init__(
        self,
        handler: MessageHandler[Key, State, Effect],
        *,
        inbox: Inbox | None = None,
        consumer: Consumer,
        database: Database,
        relay: Relay,
        clock: Clock,
        readiness: Readiness,
        liveness: Liveness | None = None,
        tracing: QueueTracing | None = None,
    ) -> None:
        self._inbox = inbox or MessageInbox()
        self._unit_of_work = UnitOfWork(handler, self._inbox, database=database, clock=clock)
        self._consumer = consumer
        self._database = database
        self._relay = relay
        self._clock = clock
        self._retry = BatchRetry(consumer.queue, database, readiness, consumer=consumer, liveness=liveness)
        self._tracing = tracing
        self._is_ours = is_of_services(consumer.queue)
        self._batch_size = metrics.BATCH_SIZE.labels(queue=consumer.queue)
        self._batch_seconds = metrics.BATCH_SECONDS.labels(queue=consumer.queue)
        self._handled = metrics.MESSAGES_HANDLED.labels(queue=consumer.queue, outcome="handled")
        self._postponed = metrics.MESSAGES_HANDLED.labels(queue=consumer.queue, outcome="postponed")
        self._duplicates = metrics.MESSAGES_HANDLED.labels(queue=consumer.queue, outcome="duplicate")

    async def run(self) -> None:
        """Handle batches until the consumer is stopped and its buffer is empty."""
        while deliveries := await self._consumer.take():
            for batch in _batches(deliveries):
                if self._consumer.is_stale(batch):
                    break  # the broker delivers all of them again
                try:
                    await self.handle(batch)
                except Stopped:
                    return

    def stop_holding(self) -> None:
        """Give up a batch that is held in an outage. The broker delivers it again after the restart."""
        self._retry.stop()

    async def handle(self, batch: Sequence[Delivery]) -> None:
        """Settle these deliveries: store, publish, dead-letter, acknowledge. Raises `Stopped` if the service stops in an outage."""
        started = time.perf_counter()
        admitted: Sequence[Item | DeadLettered] = await in_turns(self._admit, batch)
        if self._tracing is not None:
            admitted = self._tracing.enter(admitted)
        dead_lettered = [entry for entry in admitted if isinstance(entry, DeadLettered)]
        postponed: list[Delivery] = []

        async def give_up(item: Item, error: Exception, _: RetryState) -> None:
            if isinstance(error, UnreadableRowsError):
                log.error("row_unreadable", queue=self._consumer.queue, message_id=str(item.id), exc_info=error)
                postponed.append(item.delivery)
                return
            log.error("message_failed", message_id=str(item.id), exc_info=error)
            dead_lettered.append(
                DeadLettered(
                    item.delivery,
                    HANDLER_FAILED,
                    describe_error(error),
                    error,
                    tries=TRIES_MAX,
                    message=item.message,
                    id=item.id,
                )
            )

        committing = CommitLoop(self._commit, give_up=give_up, retry=self._retry)
        committed = await committing.run([entry for entry in admitted if isinstance(entry, Item)])
        if dead_lettered:
            committed += await self._dead_letter(dead_lettered)
        stored = [outbox_batch for outbox_batches in committed for outbox_batch in outbox_batches]
        facts.committed(stored)
        await self._relay.publish(stored)
        self._consumer.postpone(postponed, POSTPONE_S)
        self._postponed.inc(len(postponed))
        crash_points.reach("shell.before_ack")
        await self._consumer.ack([delivery for delivery in batch if delivery not in postponed])
        crash_points.reach("shell.after_ack")
        self._batch_size.observe(len(batch))
        seconds = time.perf_counter() - started
        self._batch_seconds.observe(seconds)
        if self._tracing is not None:
            self._tracing.record(dead_lettered, size=len(batch), seconds=seconds)

    def _admit(self, delivery: Delivery) -> Item | DeadLettered:
        if delivery.headers and is_dead_letter(delivery):
            return DeadLettered(delivery, MOVED_BACK, "it has the headers of a dead letter")
        if not self._is_ours and (refusal := _card_data_in_properties(delivery)) is not None:
            return refusal
        read = decode(
            delivery.body,
            content_type=delivery.content_type,
            content_encoding=delivery.content_encoding,
            headers=delivery.headers,
            dropped_bytes=delivery.dropped_bytes,
            is_ours=self._is_ours,
        )
        return self._inbox.admit(delivery, read)

    async def _commit(self, items: Sequence[Item], *, carefully: bool) -> list[OutboxBatch]:
        outbox_batches, fresh = await self._unit_of_work.commit(items, carefully=carefully)
        self._handled.inc(len(fresh))
        self._duplicates.inc(len(items) - len(fresh))
        if self._tracing is not None:
            self._tracing.handled(fresh)
        return outbox_batches

    async def _dead_letter(self, dead_lettered: Sequence[DeadLettered]) -> list[list[OutboxBatch]]:
        """Store dead letters in the outbox, since only then may their deliveries be acknowledged. Raises `Stopped`.

        Nobody waits until the broker has taken them: they carry words of others.
        """
        stored_as = await in_turns(self._as_dead_letter, dead_lettered)
        letters = {letter.id: letter for letter in stored_as}
        entries = {letter.id: entry for letter, entry in zip(stored_as, dead_lettered, strict=True)}
        for entry in dead_lettered:
            metrics.DEAD_LETTERS.labels(queue=entry.delivery.queue, reason=entry.reason).inc()
            message_id = redact(str(entry.delivery.message_id), max_characters=MESSAGE_ID_SHOWN_MAX)
            log.warning(
                "dead_lettered",
                queue=entry.delivery.queue,
                reason=entry.reason,
                correlation_id=facts.shown_id(entry.delivery.correlation_id or ""),
                message_id=message_id,
                **entry.about,
            )
        storing = CommitLoop(partial(self._store_dead_letters, entries), give_up=self._strip_or_hold, retry=self._retry)
        return await storing.run(list(letters.values()))

    async def _store_dead_letters(
        self,
        entries: Mapping[UUID, DeadLettered],
        letters: Sequence[Outgoing],
        *,
        carefully: bool,  # noqa: ARG002 - there is only one way to store
    ) -> list[OutboxBatch]:
        async with self._database.transaction() as tx:
            await self._inbox.note_set_aside(tx, [entries[letter.id] for letter in letters])
            outbox_batches = await outbox.insert(tx, letters)
            crash_points.reach("shell.before_dead_letter")
        crash_points.reach("shell.after_dead_letter")
        return outbox_batches

    async def _strip_or_hold(self, letter: Outgoing, error: Exception, state: RetryState) -> Outgoing:
        """What to store of a dead letter that the database refuses: nothing of the message but where it failed and why."""
        stripped = dead_letters.stripped(letter)
        if stripped == letter:
            await self._retry.outlast(error, state)
        return stripped

    def _as_dead_letter(self, entry: DeadLettered) -> Outgoing:
        if entry.reason == MOVED_BACK:
            try:
                return dead_letters.set_aside_again(entry.delivery, self._clock)
            except Exception:
                # A bug in reading words of others must cost one message its past, and not stop the queue.
                log.exception("dead_letter_unreadable", queue=entry.delivery.queue)
        return dead_letters.dead_letter(
            entry.delivery,
            reason=entry.reason,
            error=entry.error,
            text=entry.text,
            clock=self._clock,
            tries=entry.delivery.tries + entry.tries,
        )


def _card_data_in_properties(delivery: Delivery) -> DeadLettered | None:
    texts = delivery.property_texts
    if not texts or (found := find_card_data(APART.join(texts.values()))) is None:
        return None
    text = f"card data in {place_of(found, texts) or 'the properties of the message'}"
    return DeadLettered(delivery, str(MalformedReason.of(found)), text)


def _batches(deliveries: Sequence[Delivery]) -> Iterable[Sequence[Delivery]]:
    """Split deliveries so that each one that was redelivered often is a batch of its own. Their order is kept."""
    batch: list[Delivery] = []
    for delivery in deliveries:
        if delivery.tries > ALONE_AFTER_TRIES:
            if batch:
                yield batch
            yield [delivery]
            batch = []
        else:
            batch.append(delivery)
    if batch:
        yield batch
