"""If reading or storing a dead letter fails, none is lost, none stops the others, and no body is withheld for a fault of ours."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import asyncpg
import pytest

from services.staff import intake, store
from services.staff.dead_letters import DeadLetterRecord, Withheld
from services.staff.intake import Intake
from shared.batch import retry
from shared.messaging.codec import decode
from shared.messaging.consumer import Consumer, Delivery
from shared.observability.health import Readiness
from shared.persistence.database import Database
from shared.retry_policy import RetryPolicy

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
Fault = Callable[[Sequence[DeadLetterRecord]], None]


def delivery(body: bytes) -> Delivery:
    return Delivery(
        body=body,
        tag=1,
        generation=1,
        headers={},
        queue="dead-letters",
        exchange="invoice.events",
        routing_key="saga.events",
        content_type="application/json",
        message_id=f"id of {body!r}",
        correlation_id=None,
        reply_to=None,
        type=None,
    )


class OneBatch:
    """A consumer with one batch."""

    queue = "dead-letters"

    def __init__(self, *bodies: bytes, stale: bool = False) -> None:
        self._batches = [[delivery(body) for body in bodies]]
        self._stale = stale
        self.acknowledged: list[bytes] = []

    async def take(self) -> Sequence[Delivery]:
        return self._batches.pop() if self._batches else []

    def is_stale(self, deliveries: Sequence[Delivery]) -> bool:
        return self._stale or not deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.acknowledged += [one.body for one in deliveries]


class NoDatabase:
    """Its commits go to `kept`: see `table`."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield


@pytest.fixture
def fault() -> list[Fault]:
    """The result of each save of records, one after the other; the last one repeats."""
    return [lambda _: None]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, fault: list[Fault]) -> dict[bytes | None, DeadLetterRecord]:
    """The stored records by body."""
    table: dict[bytes | None, DeadLetterRecord] = {}

    async def lock_letters(_tx: object, _ids: object) -> dict[Any, DeadLetterRecord]:
        return {}

    async def save_letters(_tx: object, records: Sequence[DeadLetterRecord], *, locked: object) -> None:
        assert not locked
        (fault.pop(0) if len(fault) > 1 else fault[0])(records)
        table.update({record.letter.body: record for record in records})

    monkeypatch.setattr(store, "lock_letters", lock_letters)
    monkeypatch.setattr(store, "save_letters", save_letters)
    monkeypatch.setattr(retry, "OUTAGE", RetryPolicy(0.0, 1.0, 0.0, 0.0))
    return table


async def take_in(*bodies: bytes, stale: bool = False) -> list[bytes]:
    """Run the intake; returns the bodies that were acknowledged."""
    consumer = OneBatch(*bodies, stale=stale)
    await Intake(cast(Consumer, consumer), cast(Database, NoDatabase()), lambda: NOW, Readiness()).run()
    return consumer.acknowledged


def a_bug(_: Sequence[DeadLetterRecord]) -> None:
    raise LookupError("ours")


async def test_a_fault_of_ours_withholds_no_body(
    fault: list[Fault], kept: dict[bytes | None, DeadLetterRecord]
) -> None:
    fault[:0] = [a_bug] * 20
    assert await take_in(b"one", b"two") == [b"one", b"two"]
    assert kept.keys() == {b"one", b"two"}


async def test_a_batch_whose_channel_is_gone_is_left_to_the_broker(
    kept: dict[bytes | None, DeadLetterRecord],
) -> None:
    assert await take_in(b"one", stale=True) == []
    assert kept == {}


async def test_data_that_the_database_refuses_is_withheld(
    fault: list[Fault], kept: dict[bytes | None, DeadLetterRecord]
) -> None:
    def refuse(records: Sequence[DeadLetterRecord]) -> None:
        if any(record.letter.body == b"bad" for record in records):
            raise asyncpg.exceptions.DataError("no")

    fault[:] = [refuse]
    assert await take_in(b"one", b"bad", b"two") == [b"one", b"bad", b"two"]
    assert kept.keys() == {b"one", b"two", None}
    assert (kept[None].letter.withheld, kept[None].letter.error_type) == (Withheld.UNSTORABLE, "DataError")


async def test_an_unreadable_dead_letter_is_recorded_and_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, kept: dict[bytes | None, DeadLetterRecord]
) -> None:
    def fails_on_one(body: bytes, **properties: Any) -> Any:
        if body == b"bad":
            raise RecursionError("4242 4242 4242 4242")
        return decode(body, **properties)

    monkeypatch.setattr(intake, "decode", fails_on_one)
    assert await take_in(b"bad", b"two") == [b"bad", b"two"]
    letter = kept[None].letter
    assert (letter.withheld, letter.reason, letter.error_type) == (Withheld.UNREADABLE, "unreadable", "RecursionError")
    assert (letter.queue, letter.body_bytes, letter.error_text) == ("saga.events", 3, "RecursionError: [card number]")
    assert kept.keys() == {None, b"two"}


def test_what_arrives_twice_in_one_batch_is_one_record_that_counts_both() -> None:
    letter = intake.read(delivery(b'{"a":1}'))
    (record,) = intake._arrived({}, [letter, letter], NOW)
    assert (record.id, record.seen) == (letter.id, 2)
