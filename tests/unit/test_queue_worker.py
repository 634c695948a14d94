"""A batch is acknowledged once all its effects are durable, and never if its channel is gone. What is set aside is stored first."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared.batch import retry
from shared.batch.commit import HandlerErrors
from shared.batch.handler import MessageHandler
from shared.batch.inbox import DeadLettered, Item
from shared.batch.worker import ALONE_AFTER_TRIES, QueueWorker
from shared.messaging.consumer import Consumer, Delivery
from shared.messaging.envelope import Outgoing
from shared.messaging.relay import Relay
from shared.observability.health import Readiness
from shared.persistence import outbox
from shared.persistence.database import Database
from shared.persistence.outbox import OutboxBatch
from shared.persistence.unreadable import UnreadableRowsError
from shared.retry_policy import RetryPolicy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE_S = 30.0
AWAY = ConnectionResetError("reset by peer")


def delivery(tag: int, *, tries: int = 0, body: bytes = b"{") -> Delivery:
    return Delivery(body, tag, 1, "q", "", "", None, str(uuid4()), None, None, None, tries=tries)


class Parts:
    """What the worker works with. `steps` is what it did, in order."""

    queue = "q"

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.arriving: list[list[Delivery]] = []
        self.stale: set[int] = set()
        self.unreadable: set[int] = set()
        self.stored: list[Outgoing] = []
        self.errors: list[Exception] = []
        """What storing dead letters raises, one after the other."""

    # the consumer

    async def take(self) -> list[Delivery]:
        return self.arriving.pop(0) if self.arriving else []

    def is_stale(self, deliveries: Sequence[Delivery]) -> bool:
        return deliveries[-1].tag in self.stale

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.steps.append(f"ack {[one.tag for one in deliveries]}")

    def postpone(self, deliveries: Sequence[Delivery], _seconds: float) -> None:
        if deliveries:
            self.steps.append(f"postpone {[one.tag for one in deliveries]}")

    # the relay

    async def publish(self, outbox_batches: Sequence[OutboxBatch]) -> int:
        self.steps.append(f"publish {len(outbox_batches)}")
        return len(outbox_batches)

    # the database

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Parts"]:
        if self.errors:
            raise self.errors.pop(0)
        yield self

    # the inbox, and the unit of work

    def admit(self, one: Delivery, _read: object) -> Item | DeadLettered:
        if one.body != b"{":
            return DeadLettered(one, "not_json", "no JSON")
        return Item(UUID(one.message_id or ""), one, None)

    async def note_set_aside(self, *_: object) -> None:
        """Nobody is told in this test."""

    async def commit(self, items: Sequence[Item], *, carefully: bool) -> tuple[list[OutboxBatch], Sequence[Item]]:
        if blamed := [item for item in items if item.delivery.tag in self.unreadable]:
            raise HandlerErrors([(item, UnreadableRowsError([item.id])) for item in blamed])
        self.steps.append(f"commit {[item.delivery.tag for item in items]}")
        return [], items


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def queue_worker(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> QueueWorker[Any, Any, Any]:
    """No wait takes time; dead letters are stored in `parts`."""
    monkeypatch.setattr(retry, "OUTAGE", RetryPolicy(0.0, 1.0, 0.0, 0.0))

    async def insert(_tx: object, messages: Sequence[Outgoing]) -> list[OutboxBatch]:
        parts.steps.append("store dead letters")
        parts.stored += messages
        return [OutboxBatch(uuid4(), messages)]

    monkeypatch.setattr(outbox, "insert", insert)
    made: QueueWorker[Any, Any, Any] = QueueWorker(
        cast("MessageHandler[Any, Any, Any]", None),
        inbox=cast(Any, parts),
        consumer=cast(Consumer, parts),
        database=cast(Database, parts),
        relay=cast(Relay, parts),
        clock=lambda: NOW,
        readiness=Readiness(),
    )
    made._unit_of_work = cast(Any, parts)
    return made


async def test_a_batch_is_stored_and_published_before_it_is_acknowledged(
    parts: Parts, queue_worker: QueueWorker[Any, Any, Any]
) -> None:
    parts.arriving = [[delivery(1), delivery(2, body=b"PAY ME")]]
    await queue_worker.run()
    assert parts.steps == ["commit [1]", "store dead letters", "publish 1", "ack [1, 2]"]


async def test_what_cannot_be_read_here_is_postponed_before_the_others_are_acknowledged(
    parts: Parts, queue_worker: QueueWorker[Any, Any, Any]
) -> None:
    """One acknowledgement is for all before it, unless the consumer knows which of them are postponed."""
    parts.arriving, parts.unreadable = [[delivery(1), delivery(2), delivery(3)]], {2}
    await queue_worker.run()
    assert parts.steps == ["commit [1, 3]", "publish 0", "postpone [2]", "ack [1, 3]"]


async def test_a_batch_whose_channel_is_gone_is_not_handled(
    parts: Parts, queue_worker: QueueWorker[Any, Any, Any]
) -> None:
    parts.arriving, parts.stale = [[delivery(1)], [delivery(2)]], {1}
    await queue_worker.run()
    assert parts.steps == ["commit [2]", "publish 0", "ack [2]"], "the broker delivers the first one again"


async def test_what_was_delivered_often_is_handled_alone(
    parts: Parts, queue_worker: QueueWorker[Any, Any, Any]
) -> None:
    often = ALONE_AFTER_TRIES + 1
    parts.arriving = [[delivery(1), delivery(2, tries=often - 1), delivery(3, tries=often), delivery(4)]]
    await queue_worker.run()
    assert [step for step in parts.steps if step.startswith("commit")] == ["commit [1, 2]", "commit [3]", "commit [4]"]


async def test_nothing_is_acknowledged_while_its_dead_letter_cannot_be_stored(
    parts: Parts, queue_worker: QueueWorker[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "OUTAGE", RetryPolicy(3_600.0, 1.0, 3_600.0, 0.0))
    parts.arriving, parts.errors = [[delivery(1, body=b"PAY ME")]], [AWAY]
    running = asyncio.create_task(queue_worker.run())
    async with asyncio.timeout(DEADLINE_S):
        while parts.errors:
            await asyncio.sleep(0)
        queue_worker.stop_holding()
        await running
    assert parts.steps == [], "the broker delivers it again after the restart"


async def test_a_dead_letter_that_the_database_refuses_is_stored_without_the_message(
    parts: Parts, queue_worker: QueueWorker[Any, Any, Any]
) -> None:
    parts.errors = [asyncpg.UntranslatableCharacterError("no such character") for _ in range(retry.TRIES_MAX)]
    parts.arriving = [[delivery(1, body=b"PAY ME")]]
    async with asyncio.timeout(DEADLINE_S):
        await queue_worker.run()
    assert parts.steps == ["store dead letters", "publish 1", "ack [1]"]
    assert [letter.body for letter in parts.stored] != [b"PAY ME"]


async def test_even_the_rest_of_a_dead_letter_is_held_until_the_database_takes_it(
    parts: Parts, queue_worker: QueueWorker[Any, Any, Any]
) -> None:
    refused = 3 * retry.TRIES_MAX
    parts.errors = [asyncpg.UntranslatableCharacterError("no such character") for _ in range(refused)]
    parts.arriving = [[delivery(1, body=b"PAY ME")]]
    async with asyncio.timeout(DEADLINE_S):
        await queue_worker.run()
    assert parts.steps == ["store dead letters", "publish 1", "ack [1]"], "nothing is acknowledged unstored"
