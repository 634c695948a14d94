"""Staff hear what became of messages that they replayed, and of no others."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from shared.batch import replays
from shared.batch.inbox import DecidedBatch, Item
from shared.contracts.operations import ReplayHandled
from shared.messaging import dead_letter_headers
from shared.messaging.consumer import Delivery

NOW = datetime(2026, 11, 28, 3, tzinfo=UTC)
REPLAY = UUID("0190a5c4-7b1e-7c3a-9f20-5d1b8e6a4c77")


def item(number: int, **headers: Any) -> Item:
    named = {f"x-remit-{name.replace('_', '-')}": value for name, value in headers.items()}
    delivery = Delivery(
        queue="invoice.commands",
        exchange="",
        routing_key="invoice.commands",
        content_type=None,
        message_id=None,
        correlation_id=None,
        reply_to=None,
        type=None,
        body=b"",
        tag=number,
        generation=1,
        headers=named,
    )
    return Item(UUID(int=number), delivery, None)


def batch(fresh: Sequence[Item] = (), repeated: Sequence[Item] = ()) -> DecidedBatch:
    return DecidedBatch(fresh, repeated, {}, NOW)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"replays": 1},
        {"replay_id": str(REPLAY)},
        {"replays": 0, "replay_id": str(REPLAY)},
        {"replays": -1, "replay_id": str(REPLAY)},
        {"replays": "1", "replay_id": str(REPLAY)},
    ],
)
def test_nothing_is_said_of_what_staff_did_not_replay(headers: dict[str, Any]) -> None:
    decided = batch([item(1, **headers)], [item(2, **headers)])
    assert not replays.has_replays(decided)
    assert replays.told(decided, {}, source="invoice") == []


@pytest.mark.parametrize("forged", ["x" * 1_000, "", [1], {"a": 1}, None, str(REPLAY).replace("-", "")])
def test_an_id_that_staff_did_not_write_is_passed_over(forged: object) -> None:
    assert replays.told(batch([item(1, replays=1, replay_id=forged)]), {}, source="invoice") == []


def test_each_replayed_message_is_told_of_once_with_what_became_of_it() -> None:
    handled, refused, again = (item(n, replays=n, replay_id=str(UUID(int=100 + n))) for n in (1, 2, 3))
    decided = batch([handled, item(9), refused], [again])
    said = replays.told(decided, {refused.id: "already_paid"}, source="invoice")
    reports = [one.data for one in said]
    assert [
        (one.replay_id.int, one.message_id.int, one.queue, one.replays, one.outcome, one.reason)
        for one in reports
        if isinstance(one, ReplayHandled)
    ] == [
        (101, 1, "invoice.commands", 1, "handled", None),
        (102, 2, "invoice.commands", 2, "rejected", "already_paid"),
        (103, 3, "invoice.commands", 3, "duplicate", None),
    ]
    assert said == replays.told(decided, {refused.id: "already_paid"}, source="invoice")
    assert len({one.id for one in said}) == 3


def test_the_header_is_read_as_staff_write_it() -> None:
    delivery = item(1, replays=1, replay_id=str(REPLAY)).delivery
    assert dead_letter_headers.replay_id(delivery) == REPLAY
