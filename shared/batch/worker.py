"""The batched shell: one transaction for what has arrived, a pure reaction per message in order, set-based writes.

The shell is set-based and knows no business; the core knows nothing of batches (DESIGN 3). Around the core it does what every service
needs: recognise duplicates, answer commands, set a bad message aside alone, repeat a batch that met a conflict, hold it through an
outage, publish after the commit and acknowledge last.
"""

import time
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Generic, Protocol, TypeVar, runtime_checkable
from uuid import UUID

import structlog

from shared import crash_points
from shared.batch.retry import TRIES_MAX, BatchRetry, RetryState, Stopped
from shared.batch.state_cache import StateCache
from shared.card_data.scan import find_card_number
from shared.clock import Clock
from shared.contracts.catalogue import BY_WIRE_NAME, PUBLIC_COMMANDS
from shared.contracts.invoice import CommandAnswered
from shared.ids import derived_id, read_uuid
from shared.messaging import dead_letters
from shared.messaging.codec import Malformed, MalformedReason, decode, encode
from shared.messaging.consumer import Consumer, Delivery
from shared.messaging.envelope import Cause, Draft, Inbound, Outgoing
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.messaging.topology import QUEUE_NAMES
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.persistence import answers as answer_store
from shared.persistence import inbox, outbox
from shared.persistence.answers import StoredAnswer
from shared.persistence.database import Connection, Database
from shared.persistence.outbox import OutboxBatch
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, replace

log = structlog.get_logger(__name__)

ALONE_AFTER_TRIES = 3
"""Redelivered more often than this: a batch of its own, so that what kills the process takes no neighbours along."""
DEAD_LETTER_PAUSE_S = 1.0

Key = TypeVar("Key", bound=Hashable)
State = TypeVar("State")
Effect = TypeVar("Effect")

# -- what a service gives to the shell -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The terminal answer of a command: accepted (`reason` is None), or rejected with a reason code."""

    reason: str | None = None
    detail: str | None = None


ACCEPTED = CommandResult()


@dataclass(frozen=True, slots=True)
class ClosedCommand:
    """The answer of another command than the one handled: one that was discarded unread."""

    command_id: UUID
    command_type: str
    reason: str
    reply_to: str | None
    reply_correlation_id: str | None


@dataclass(frozen=True, slots=True)
class Reaction(Generic[State, Effect]):
    """What one message brings about: the state after it, what is to be stored beside the state, what is to be said."""

    state: State
    effects: tuple[Effect, ...] = ()
    says: tuple[Draft, ...] = ()
    verdict: CommandResult | None = None
    closes: ClosedCommand | None = None


@dataclass(frozen=True, slots=True)
class Change(Generic[Key, State, Effect]):
    """A reaction with what it was about; `cause` gives every effect its id, time and correlation."""

    key: Key
    message: Inbound
    cause: Cause
    reaction: Reaction[State, Effect]


class MessageHandler(Protocol[Key, State, Effect]):
    """What a service does with the messages of one queue. `react` is pure; `load` and `save` are set-based."""

    @property
    def source(self) -> str:
        """The service's name, as in CloudEvents `source`."""
        ...

    @property
    def answers_commands(self) -> bool:
        """Whether this is the public queue: every command on it gets exactly one answer."""
        ...

    def key(self, message: Inbound) -> Key:
        """Which state the message is about."""
        ...

    async def load(self, tx: Connection, messages: Sequence[Inbound]) -> Mapping[Key, State]:
        """The state behind every key of `messages`, its rows locked in sorted order until the transaction ends."""
        ...

    def react(self, state: State, message: Inbound) -> Reaction[State, Effect]:
        """Decide. An exception is a bug: the message is set aside alone."""
        ...

    async def save(self, writes: WriteBatch, changes: Sequence[Change[Key, State, Effect]]) -> Sequence[Outgoing]:
        """A write or two a table; what is to be said again beside the drafts. Writes are collected: a query does not see them."""
        ...

    def rejected(self, answer: StoredAnswer) -> Sequence[Draft]:
        """What is said of a command that was rejected, by the core or before it reached the core."""
        ...

    def committed(self, changes: Sequence[Change[Key, State, Effect]]) -> None:
        """The changes are durable now."""
        ...


@runtime_checkable
class OptimisticHandler(MessageHandler[Key, State, Effect], Protocol[Key, State, Effect]):
    """A work whose every write is guarded by a unique key (an event's stream and version, a transition's, a payment's id) or by the version
    of the row, so that a decision on a state that moved meanwhile cannot be stored."""

    @property
    def state_cache(self) -> StateCache[Key, State] | None:
        """What may be recalled instead of read; shared by all works of the process on the same states."""
        ...

    async def load_unlocked(
        self, connection: Connection, messages: Sequence[Inbound], recalled: Mapping[Key, State]
    ) -> Mapping[Key, State] | None:
        """As `load`, without locks; what is recalled, or guessed to be absent, need not be read. None: these take a transaction."""
        ...

    def is_conflict_checked(self, reaction: Reaction[State, Effect]) -> bool:
        """Whether storing it fails where the state is not the one it was decided on. A refusal, or a message that changes nothing, is not
        guarded, so it is never decided on a state that was only recalled."""
        ...


# -- what the shell makes of a delivery ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """A delivery that will be settled in the transaction: handled by the core, or a command refused before it."""

    id: UUID
    delivery: Delivery
    message: Inbound | None = None
    refusal: StoredAnswer | None = None
    reply_to: str | None = None
    reply_correlation_id: str | None = None

    @property
    def content_hash(self) -> bytes | None:
        if self.message is not None:
            return self.message.content_hash
        return self.refusal.content_hash if self.refusal is not None else None


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A delivery that becomes a dead letter."""

    delivery: Delivery
    reason: str
    text: str
    error: BaseException | None = None
    tries: int = 1


class HandlerErrors(Exception):
    """The core raised for these items: a bug. The transaction is rolled back and repeated without them."""

    def __init__(self, errors: Sequence[tuple[Item, Exception]]) -> None:
        super().__init__()
        self.items = [item for item, _ in errors]
        self.__cause__ = errors[0][1]


class QueueWorker(Generic[Key, State, Effect]):
    """Handles one queue with one `MessageHandler`, batch after batch."""

    def __init__(
        self,
        work: MessageHandler[Key, State, Effect],
        *,
        consumer: Consumer,
        database: Database,
        publisher: Publisher,
        relay: Relay,
        clock: Clock,
        readiness: Readiness,
    ) -> None:
        self._work = work
        self._optimistic = work if isinstance(work, OptimisticHandler) else None
        self._consumer = consumer
        self._database = database
        self._publisher = publisher
        self._relay = relay
        self._clock = clock
        self._holding = BatchRetry(consumer, database, readiness)
        self._state_cache = self._optimistic.state_cache if self._optimistic is not None else None
        self._batch_size = metrics.BATCH_SIZE.labels(queue=consumer.queue)
        self._batch_seconds = metrics.BATCH_SECONDS.labels(queue=consumer.queue)
        self._handled = metrics.MESSAGES_HANDLED.labels(queue=consumer.queue, outcome="handled")
        self._duplicates = metrics.MESSAGES_HANDLED.labels(queue=consumer.queue, outcome="duplicate")

    async def run(self) -> None:
        """Until the consumer is stopped and its buffer is empty."""
        while deliveries := await self._consumer.take():
            for batch in _batches(deliveries):
                if self._consumer.is_stale(batch):
                    break  # the broker delivers all of them again
                try:
                    await self.handle(batch)
                except Stopped:
                    return

    def stop_holding(self) -> None:
        """Give up a batch that an outage holds; it is redelivered after the restart."""
        self._holding.stop()

    async def handle(self, batch: Sequence[Delivery]) -> None:
        """Everything that is owed to these deliveries: durable, said, acknowledged."""
        started = time.perf_counter()
        items, aside = self._admit(batch)
        outbox_batches, stumbled = await self._settle(items)
        await self._relay.publish(outbox_batches)
        if await self._set_aside([*aside, *stumbled]):
            crash_points.reach("shell.before_ack")
            await self._consumer.ack(batch)
            crash_points.reach("shell.after_ack")
        self._batch_size.observe(len(batch))
        self._batch_seconds.observe(time.perf_counter() - started)

    # -- the border ------------------------------------------------------------------------------------------------------------------

    def _admit(self, batch: Sequence[Delivery]) -> tuple[list[Item], list[DeadLettered]]:
        items: list[Item] = []
        aside: list[DeadLettered] = []
        for delivery in batch:
            match self._admit_one(delivery):
                case Item() as item:
                    items.append(item)
                case DeadLettered() as one:
                    aside.append(one)
        return items, aside

    def _admit_one(self, delivery: Delivery) -> Item | DeadLettered:
        if find_card_number(
            " ".join(filter(None, (delivery.message_id, delivery.correlation_id, delivery.reply_to, delivery.type)))
        ):
            return DeadLettered(
                delivery, str(MalformedReason.CARD_NUMBER), "a card number in the properties of the message"
            )
        message = decode(delivery.body, content_type=delivery.content_type, headers=delivery.headers)
        if isinstance(message, Malformed):
            return self._refuse_malformed(delivery, message)
        item = Item(
            message.id,
            delivery,
            message=message,
            reply_to=delivery.reply_to,
            reply_correlation_id=delivery.correlation_id or message.correlation_id,
        )
        if self._work.answers_commands:
            if message.data.wire_name not in PUBLIC_COMMANDS:
                return _refused(item, message, "not_public", "this type is not a public command")
            if delivery.reply_to in QUEUE_NAMES:
                return replace(
                    _refused(item, message, "reply_to_not_allowed", "reply_to names a queue of Remit"), reply_to=None
                )
        return item

    def _refuse_malformed(self, delivery: Delivery, malformed: Malformed) -> Item | DeadLettered:
        """A command gets its answer if we know whose it is, by its own id or that of AMQP, and nobody will ever be able to read it: a dead
        letter would wait for a person who can only discard it, since the same bytes fail again. What a later version may read, and what
        nobody could be answered for, is a dead letter."""
        command_id = read_uuid(delivery.message_id)
        if (
            malformed.id is not None and not malformed.fault.is_card_data
        ):  # of card data nothing is used, not even its id
            command_id = malformed.id
        if not (self._work.answers_commands and malformed.fault.is_for_ever and command_id is not None):
            return DeadLettered(delivery, str(malformed.fault), malformed.detail)
        answer = StoredAnswer(
            command_id=command_id,
            command_type=malformed.type if malformed.type in BY_WIRE_NAME else "unread",
            answer="rejected",
            correlation_id=malformed.correlation_id or str(command_id),
            reason=str(malformed.fault),
            detail=malformed.detail,
            content_hash=malformed.content_hash,
        )
        reply_to = delivery.reply_to if delivery.reply_to not in QUEUE_NAMES else None
        return Item(
            command_id, delivery, refusal=answer, reply_to=reply_to, reply_correlation_id=delivery.correlation_id
        )

    # -- the transaction, and what can go wrong with it -------------------------------------------------------------------------------

    async def _settle(self, items: Sequence[Item]) -> tuple[list[OutboxBatch], list[DeadLettered]]:
        """Commit the items; what is to be published, and those that had to be set aside."""
        if not items:
            return [], []
        patience = RetryState()
        while True:
            try:
                outbox_batches = await self._commit(items, carefully=patience.failures > 0)
            except Exception as error:  # noqa: BLE001 - whatever it is, the batch must end somewhere: see `trouble`
                if self._state_cache is not None:
                    self._state_cache.invalidate()
                if isinstance(error, HandlerErrors) and len(items) > 1:
                    return await self._without(items, error.items)
                if not await self._holding.can_repeat(error, patience, alone=len(items) == 1):
                    return await self._halves(items) if len(items) > 1 else ([], [_set_aside(items[0], error)])
            else:
                self._holding.succeeded()
                return outbox_batches, []

    async def _without(
        self, items: Sequence[Item], stumblers: Sequence[Item]
    ) -> tuple[list[OutboxBatch], list[DeadLettered]]:
        """Settle the others first; then the stumblers, each alone."""
        outbox_batches, aside = await self._settle([item for item in items if item not in stumblers])
        for stumbler in stumblers:
            more, also = await self._settle([stumbler])
            outbox_batches, aside = outbox_batches + more, aside + also
        return outbox_batches, aside

    async def _halves(self, items: Sequence[Item]) -> tuple[list[OutboxBatch], list[DeadLettered]]:
        """Some of this data can never be stored: halve until the offender is alone."""
        middle = len(items) // 2
        outbox_batches, aside = await self._settle(items[:middle])
        more, also = await self._settle(items[middle:])
        return outbox_batches + more, aside + also

    async def _commit(self, items: Sequence[Item], *, carefully: bool) -> list[OutboxBatch]:
        """Make it durable; what is to be published."""
        if self._optimistic is not None and not (carefully or _suspicious(items)):
            outbox_batches = await self._commit_at_once(self._optimistic, items)
            if outbox_batches is not None:
                return outbox_batches
        return await self._commit_in_transaction(items)

    async def _commit_at_once(
        self, work: "OptimisticHandler[Key, State, Effect]", items: Sequence[Item]
    ) -> list[OutboxBatch] | None:
        """Read, decide, and write everything in one statement, which is a transaction of its own: two round trips instead of six.

        Nothing is locked and nobody asks whether the messages came before. That is safe because every write of an optimistic work is
        guarded: a state that moved since it was read, a message or command that was handled, a payment id that is used is a conflict,
        nothing is stored, and the batch is repeated in a transaction. What changes no state happened when it was read.
        None: it takes a transaction after all.
        """
        now = self._clock()
        async with self._database.connection() as connection:
            changes = await self._decide(work, connection, items, now)
            if changes is None:
                return None
            if any(change.reaction.closes is not None for change in changes.values()):
                return None
            answers, says = self._conclude(items, changes, set(), now)
            writes = WriteBatch(connection, one_statement=True)
            if not work.answers_commands:
                await inbox.insert_all(writes, [item.id for item in items])
            said = [*says, *await work.save(writes, list(changes.values()))]
            await answer_store.insert(writes, answers)
            outbox_batches = await outbox.insert(writes, said)
            if not writes.fits_one_statement:
                return None
            crash_points.reach("shell.at_once.before_commit")
            await writes.flush()
            crash_points.reach("shell.at_once.after_commit")
        self._committed(items, items, changes)
        return outbox_batches

    async def _decide(
        self,
        work: "OptimisticHandler[Key, State, Effect]",
        connection: Connection,
        items: Sequence[Item],
        now: datetime,
    ) -> dict[UUID, Change[Key, State, Effect]] | None:
        """Decide on cached states where there are some, else on states that are read. None: as `load_unlocked`."""
        messages = [item.message for item in items if item.message is not None]
        recalled: Mapping[Key, State] = {}
        if self._state_cache is not None:
            recalled = self._state_cache.get(map(work.key, messages), epoch=self._database.epoch)
        changes = await self._decide_on(recalled, work, connection, items, messages, now)
        if changes and any(c.key in recalled and not work.is_conflict_checked(c.reaction) for c in changes.values()):
            changes = await self._decide_on({}, work, connection, items, messages, now)
        return changes

    async def _decide_on(
        self,
        recalled: Mapping[Key, State],
        work: "OptimisticHandler[Key, State, Effect]",
        connection: Connection,
        items: Sequence[Item],
        messages: Sequence[Inbound],
        now: datetime,
    ) -> dict[UUID, Change[Key, State, Effect]] | None:
        states = await work.load_unlocked(connection, messages, recalled) if messages else {}
        return None if states is None else self._react_all(items, dict(states), now)

    async def _commit_in_transaction(self, items: Sequence[Item]) -> list[OutboxBatch]:
        """Repeating it after a commit whose reply was lost finds every item already handled, and says nothing new: the parcel of that
        commit is the sweeper's."""
        now = self._clock()
        async with self._database.transaction() as tx:
            writes = WriteBatch(tx)
            fresh, repeated, stored = await self._recognise(tx, items)
            messages = [item.message for item in fresh if item.message is not None]
            states = dict(await self._work.load(tx, messages)) if messages else {}
            changes = self._react_all(fresh, states, now)
            closed_before = await self._answered_before(tx, changes)
            answers, says = self._conclude(fresh, changes, closed_before, now)
            stored |= {answer.command_id: answer for answer in answers}
            said = [
                *says,
                *self._answer_again(repeated, stored, now),
                *await self._work.save(writes, list(changes.values())),
            ]
            await answer_store.insert(writes, answers)
            outbox_batches = await outbox.insert(writes, said)
            await writes.flush()
            crash_points.reach("shell.before_commit")
        crash_points.reach("shell.after_commit")
        self._committed(items, fresh, changes)
        return outbox_batches

    def _committed(
        self, items: Sequence[Item], fresh: Sequence[Item], changes: Mapping[UUID, Change[Key, State, Effect]]
    ) -> None:
        self._work.committed(list(changes.values()))
        if self._state_cache is not None:
            self._state_cache.put({change.key: change.reaction.state for change in changes.values()})
        self._handled.inc(len(fresh))
        self._duplicates.inc(len(items) - len(fresh))

    async def _recognise(
        self, tx: Connection, items: Sequence[Item]
    ) -> tuple[list[Item], list[Item], dict[UUID, StoredAnswer]]:
        """Items seen for the first time, those that came before, and the stored answers of the latter (commands only)."""
        stored: dict[UUID, StoredAnswer] = {}
        if self._work.answers_commands:
            stored = await answer_store.load(tx, {item.id for item in items})
            known = set(stored)
        else:
            ids = {item.id for item in items}
            known = ids - await inbox.insert_new(tx, list(ids))
        fresh: list[Item] = []
        repeated: list[Item] = []
        for item in items:
            (repeated if item.id in known else fresh).append(item)
            known.add(item.id)  # the second of a pair within one batch is a repetition as well
        return fresh, repeated, stored

    def _react_all(
        self, fresh: Sequence[Item], states: dict[Key, State], now: datetime
    ) -> dict[UUID, Change[Key, State, Effect]]:
        changes: dict[UUID, Change[Key, State, Effect]] = {}
        errors: list[tuple[Item, Exception]] = []
        for item in fresh:
            message = item.message
            if message is None:
                continue
            try:
                key = self._work.key(message)
                reaction = self._work.react(states[key], message)
            except Exception as error:  # noqa: BLE001 - a bug in a handler must not take the neighbours along
                errors.append((item, error))
            else:
                states[key] = reaction.state
                changes[message.id] = Change(key, message, _cause(message, now), reaction)
        if errors:
            raise HandlerErrors(errors)
        return changes

    # -- answers -----------------------------------------------------------------------------------------------------------------------

    async def _answered_before(self, tx: Connection, changes: Mapping[UUID, Change[Key, State, Effect]]) -> set[UUID]:
        """Commands that are to be closed and have their answer already: it stands."""
        closing = {c.reaction.closes.command_id for c in changes.values() if c.reaction.closes is not None}
        return set(await answer_store.load(tx, closing)) if closing else set()

    def _conclude(
        self,
        fresh: Sequence[Item],
        changes: Mapping[UUID, Change[Key, State, Effect]],
        closed_before: set[UUID],
        now: datetime,
    ) -> tuple[list[StoredAnswer], list[Outgoing]]:
        """The answers to store, and everything that the reactions, refusals and answers say."""
        answers: list[StoredAnswer] = []
        says: list[Outgoing] = []
        for item in fresh:
            change = changes.get(item.id)
            cause = change.cause if change is not None else _cause_of_refusal(item, now)
            answer, reply_to, reply_correlation_id = _answer(item, change, closed_before)
            drafts = list(change.reaction.says) if change is not None else []
            if answer is not None:
                answers.append(answer)
                closed_before.add(answer.command_id)  # a second one in this batch finds it answered
                drafts += self._work.rejected(answer) if answer.answer == "rejected" else ()
            says += [encode(draft, cause, at, source=self._work.source) for at, draft in enumerate(drafts)]
            if answer is not None and reply_to:
                says.append(self._answer_message(answer, reply_to, reply_correlation_id, cause))
        return answers, says

    def _answer_again(
        self, repeated: Sequence[Item], stored: Mapping[UUID, StoredAnswer], now: datetime
    ) -> list[Outgoing]:
        """The stored answer for a command that came again; the same id with other data is told so, and nothing stored is touched."""
        says: list[Outgoing] = []
        for item in repeated:
            answer = stored.get(item.id)
            if answer is None or not item.reply_to:
                continue
            if (
                answer.content_hash is not None
                and item.content_hash is not None
                and answer.content_hash != item.content_hash
            ):
                answer = replace(
                    answer,
                    answer="rejected",
                    reason="command_id_reused",
                    detail="another command came under this id before",
                )
            cause = Cause(answer.command_id, answer.correlation_id, now)
            says.append(self._answer_message(answer, item.reply_to, item.reply_correlation_id, cause))
        return says

    def _answer_message(
        self, answer: StoredAnswer, reply_to: str, reply_correlation_id: str | None, cause: Cause
    ) -> Outgoing:
        data = CommandAnswered(
            command_id=answer.command_id, answer=answer.answer, reason=answer.reason, detail=answer.detail
        )
        # Each asker gets its own copy: its queue is part of the id, and so is a differing answer to a reused id.
        position = f"answer:{reply_to}:{answer.reason}"
        draft = Draft(
            data,
            message_id=derived_id(answer.command_id, position),
            reply_to=reply_to,
            reply_correlation_id=reply_correlation_id,
        )
        return encode(draft, cause, position, source=self._work.source, causation_id=answer.command_id)

    # -- dead letters ------------------------------------------------------------------------------------------------------------------

    async def _set_aside(self, aside: Sequence[DeadLettered]) -> bool:
        """Publish dead letters and wait until the broker has every one: only then may their deliveries be acknowledged. False: the
        channel that the deliveries came on is gone, they come again."""
        waiting = {
            letter.id: letter
            for one in aside
            for letter in [
                dead_letters.dead_letter(
                    one.delivery,
                    reason=one.reason,
                    error=one.error,
                    text=one.text,
                    clock=self._clock,
                    tries=one.delivery.tries + one.tries,
                )
            ]
        }
        for one in aside:
            metrics.DEAD_LETTERS.labels(queue=one.delivery.queue, reason=one.reason).inc()
            log.warning(
                "dead_letter", queue=one.delivery.queue, reason=one.reason, message_id=str(one.delivery.message_id)[:64]
            )
        while waiting:
            crash_points.reach("shell.before_dead_letter")
            published = await self._publisher.publish(list(waiting.values()))
            crash_points.reach("shell.after_dead_letter")
            for id_ in published.confirmed:
                del waiting[id_]
            for id_ in published.unencodable:
                waiting[id_] = dead_letters.stripped(waiting[id_])
            if waiting:
                if self._consumer.is_stale([aside[-1].delivery]):
                    return False
                await self._holding.pause(DEAD_LETTER_PAUSE_S)
        return True


def _suspicious(items: Sequence[Item]) -> bool:
    """Some of them came before, or twice at once: look before writing."""
    return len({item.id for item in items}) < len(items) or any(item.delivery.tries for item in items)


def _batches(deliveries: Sequence[Delivery]) -> Iterable[Sequence[Delivery]]:
    """Whoever was redelivered often gets a batch of its own; order is kept."""
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


def _refused(item: Item, message: Inbound, reason: str, detail: str) -> Item:
    answer = StoredAnswer(
        command_id=message.id,
        command_type=message.data.wire_name,
        answer="rejected",
        correlation_id=message.correlation_id,
        reason=reason,
        detail=detail,
        content_hash=message.content_hash,
    )
    return replace(item, message=None, refusal=answer)


def _answer(
    item: Item, change: Change[Key, State, Effect] | None, closed_before: Collection[UUID]
) -> tuple[StoredAnswer | None, str | None, str | None]:
    """The answer that the item brings about, to whom it goes, and under which correlation id."""
    if change is None:
        return item.refusal, item.reply_to, item.reply_correlation_id
    message, closed, verdict = change.message, change.reaction.closes, change.reaction.verdict
    if closed is not None and closed.command_id not in closed_before:
        answer = StoredAnswer(
            closed.command_id, closed.command_type, "rejected", message.correlation_id, reason=closed.reason
        )
        reply_to = closed.reply_to if closed.reply_to not in QUEUE_NAMES else None
        return answer, reply_to, closed.reply_correlation_id
    if verdict is None:
        return None, None, None
    answer = StoredAnswer(
        command_id=message.id,
        command_type=message.type,
        answer="accepted" if verdict.reason is None else "rejected",
        correlation_id=message.correlation_id,
        reason=verdict.reason,
        detail=verdict.detail,
        invoice_id=message.data.subject(),
        content_hash=message.content_hash,
    )
    return answer, item.reply_to, item.reply_correlation_id


def _cause(message: Inbound, now: datetime) -> Cause:
    return Cause(message.id, message.correlation_id, now, message.traceparent)


def _cause_of_refusal(item: Item, now: datetime) -> Cause:
    correlation = item.refusal.correlation_id if item.refusal is not None else str(item.id)
    return Cause(item.id, correlation, now)


def _set_aside(item: Item, error: Exception) -> DeadLettered:
    if isinstance(error, HandlerErrors) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    log.error("message_failed", message_id=str(item.id), exc_info=error)
    return DeadLettered(item.delivery, "handler_failed", describe_error(error), error, tries=TRIES_MAX)
