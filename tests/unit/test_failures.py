"""What a dead letter says of its failure, and a dead letter that comes back: it is set aside again as it was."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.staff import intake
from shared.card_data.effort import Effort
from shared.messaging import dead_letters, failures
from shared.messaging.consumer import Delivery
from shared.messaging.dead_letters import dead_letter, set_aside_again
from shared.messaging.envelope import Outgoing
from shared.messaging.topology import (
    COMMAND_ENTRY,
    COMMANDS,
    DEAD_LETTERS,
    FORMER_COMMAND_ENTRY,
    SUSPECT_COMMANDS,
    WORK_QUEUES,
)
from tests.unit.staff.test_reading import delivery, known, set_aside, values, x_death

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = datetime(2026, 11, 23, 12, tzinfo=UTC)
ID = UUID("0190a000-0000-7000-8000-000000000003")


def moved(letter: Delivery, *, queue: str, exchange: str = "") -> Delivery:
    """The dead letter, moved to a queue."""
    return replace(letter, queue=queue, exchange=exchange, routing_key=queue)


def arrived(letter: Outgoing) -> Delivery:
    """A dead letter of ours, as staff receive it."""
    return delivery(
        letter.body,
        dict(letter.headers),
        queue=DEAD_LETTERS,
        exchange=DEAD_LETTERS,
        routing_key=letter.routing_key,
        content_type=letter.content_type,
        message_id=str(letter.id),
        type=letter.type,
        correlation_id=letter.correlation_id,
    )


ORIGINALS = {
    "plain": delivery(type="T", correlation_id="C-1", reply_to="my-queue", routing_key="any"),
    "binary mode": delivery(headers={"ce-id": str(ID), "ce-type": "T"}),
    "replayed": delivery(headers={"x-remit-replays": 3}),
    "without an id": delivery(message_id=None),
    "with card data": delivery(b"4242 4242 4242 4242"),
    "with card data, without an id": delivery(b"4242 4242 4242 4242", message_id=None),
    "too large": delivery(b"x" * 65_537),
    "compressed": delivery(b"\x1f\x8b\x00\xff"),
}


@pytest.mark.parametrize("queue", [queue.name for queue in WORK_QUEUES])
@pytest.mark.parametrize("original", ORIGINALS.values(), ids=ORIGINALS)
def test_a_dead_letter_of_ours_is_set_aside_again_as_it_was(original: Delivery, queue: str) -> None:
    first = set_aside(original, tries=3)
    again = set_aside_again(moved(first, queue=queue), lambda: LATER)
    assert (str(again.id), again.routing_key, again.headers, again.body) == (
        first.message_id,
        first.routing_key,
        first.headers,
        first.body,
    )
    assert intake.read(arrived(again)) == intake.read(first)


@pytest.mark.parametrize("to", [DEAD_LETTERS, "payment_gateway.commands"])
def test_a_dead_letter_of_ours_that_the_broker_dead_lettered_is_not_wrapped_again(to: str) -> None:
    first = set_aside(delivery(type="T", correlation_id="C-1"))
    by_broker = {"x-death": [{"queue": to, "reason": "delivery_limit", "count": 1}]}
    twice = replace(first, headers=first.headers | by_broker)
    if to != DEAD_LETTERS:
        twice = replace(twice, routing_key=to)  # it was moved to a work queue before, and died there
    read = intake.read(twice)
    assert (read.reason, read.type, read.correlation_id, read.message_id) == ("not_json", "T", "C-1", str(ID))


def test_a_dead_letter_of_the_broker_keeps_its_reason_tries_and_origin() -> None:
    first = delivery(headers=x_death() | {"x-delivery-count": 100}, queue=DEAD_LETTERS, exchange=DEAD_LETTERS)
    again = arrived(set_aside_again(moved(first, queue="saga.events"), lambda: LATER))
    assert "x-death" not in again.headers
    assert intake.read(again) == intake.read(first)


def test_a_dead_letter_back_on_its_queue_is_of_the_queue_on_which_it_failed() -> None:
    first = set_aside(delivery())
    assert intake.read(moved(first, queue=DEAD_LETTERS)) == intake.read(first)


@pytest.mark.parametrize("queue", [COMMANDS, SUSPECT_COMMANDS])
@pytest.mark.parametrize(
    "claims",
    [
        {"x-remit-queue": "payment_gateway.commands"},
        {"x-death": [{"queue": "payment_gateway.commands", "reason": "expired", "count": 1}]},
        {"x-death": [{"queue": DEAD_LETTERS}], "x-remit-queue": "payment_gateway.commands"},
    ],
)
def test_what_came_by_the_exchange_for_commands_failed_on_their_queue(queue: str, claims: dict[str, Any]) -> None:
    forged = delivery(headers=claims, queue=queue, exchange=COMMAND_ENTRY, routing_key="any")
    assert set_aside_again(forged, lambda: NOW).routing_key == COMMANDS


@pytest.mark.parametrize("death", [None, "text", [], ["text"], [{}], [{"queue": 7}], 3])
def test_a_death_that_says_nothing_is_a_reason_of_its_own(death: object) -> None:
    letter = intake.read(arrived(set_aside_again(delivery(headers={"x-death": death}), lambda: NOW)))
    assert (letter.reason, letter.tries, letter.failed_at) == ("moved_back", 1, NOW)


def test_a_failure_on_the_queue_of_suspects_is_one_of_a_command() -> None:
    letter = dead_letter(
        delivery(queue=SUSPECT_COMMANDS), reason="unknown_type", error=None, text="", clock=lambda: NOW, tries=1
    )
    assert letter.routing_key == letter.headers["x-remit-queue"] == COMMANDS


@pytest.mark.parametrize("property_", ["message_id", "correlation_id", "type", "reply_to", "content_type"])
def test_nothing_of_a_dead_letter_tells_the_card_number_in_a_property(property_: str) -> None:
    """A hash of it would, too: whoever has the rest of the message finds it by trying all numbers."""
    said: list[dict[str, Any]] = [{property_: f"card {number}"} for number in ("4242424242424242", "5555555555554444")]
    letters = [set_aside(delivery(**one)) for one in said]
    assert letters[0] == letters[1]
    assert "[card number]" in str(letters[0])


def test_nor_does_one_in_the_name_of_a_sender() -> None:
    letters = [
        set_aside(delivery(headers={"x-remit-sender": f"card {number}"}, user_id="staff"))
        for number in ("4242424242424242", "5555555555554444")
    ]
    assert letters[0] == letters[1]


def test_a_replay_is_no_dead_letter() -> None:
    assert not failures.is_dead_letter(delivery(headers={"x-remit-replays": 1, "ce-id": str(ID)}))


@pytest.mark.parametrize(("count", "looked_at"), [(900, 0), (60, 60)])
def test_headers_are_looked_through_on_one_account_and_not_if_they_are_too_many(
    count: int, looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand of them took longer than thirty bodies as bad as can be."""
    accounts: list[Effort] = []

    def look(_: str | bytes, effort: Effort | None = None) -> bool:
        if effort is not None:
            accounts.append(effort)
        return False

    monkeypatch.setattr(dead_letters, "has_card_data", look)
    letter = set_aside(delivery(headers={f"ce-{number}": "4242 4242 4242 4241 x " * 5 for number in range(count)}))
    assert (len(accounts), len(set(map(id, accounts)))) == (looked_at, min(looked_at, 1))
    assert sum(name.startswith("ce-") for name in letter.headers) == looked_at


@pytest.mark.parametrize("year", ["0001", "1999", "2200", "9999"])
def test_a_time_that_nothing_can_store_is_none(year: str) -> None:
    headers = {"x-remit-queue": "saga.events", "x-remit-failed-at": f"{year}-01-01T00:00:00+14:00"}
    assert failures.read_arrived(delivery(headers=headers)).failed_at is None


@given(
    body=st.binary(max_size=200),
    headers=st.dictionaries(st.sampled_from(known) | st.text(max_size=20), values, max_size=8),
    texts=st.lists(st.none() | st.text(max_size=255), min_size=5, max_size=5),
    queue=st.sampled_from([*(queue.name for queue in WORK_QUEUES), SUSPECT_COMMANDS]),
    exchange=st.sampled_from([COMMAND_ENTRY, "", DEAD_LETTERS]),
)
def test_whatever_is_written_there_it_is_set_aside_in_a_queue_that_takes_it(
    body: bytes, headers: dict[str, Any], texts: list[str | None], queue: str, exchange: str
) -> None:
    names = ("message_id", "reply_to", "type", "content_type", "correlation_id")
    came = delivery(body, headers, queue=queue, exchange=exchange, **dict(zip(names, texts, strict=True)))
    letter = set_aside_again(came, lambda: NOW)
    assert letter.routing_key in {one.name for one in WORK_QUEUES}
    assert "x-death" not in letter.headers
    assert all(len(str(value)) <= dead_letters.TEXT_LENGTH_MAX for value in letter.headers.values())
    assert failures.is_dead_letter(arrived(letter))
    assert intake.read(arrived(letter)).queue == letter.routing_key


@pytest.mark.parametrize("named", [["a"], {"a": 1}, bytearray(b"a"), None, 7], ids=repr)
def test_a_death_on_what_is_no_queue_is_read(named: object) -> None:
    """A sender can write any AMQP value there; some cannot even be looked for in a set."""
    headers = {"x-remit-queue": "x", "x-death": [{"queue": named}]}
    suspect = delivery(headers=headers, queue=SUSPECT_COMMANDS, exchange=COMMAND_ENTRY, routing_key="any")
    assert set_aside_again(suspect, lambda: NOW).routing_key == COMMANDS
    letter = delivery(headers=headers, queue=DEAD_LETTERS, exchange=DEAD_LETTERS, routing_key="saga.events")
    assert intake.read(letter).queue == "saga.events"


@pytest.mark.parametrize("exchange", [COMMAND_ENTRY, FORMER_COMMAND_ENTRY, "shop.own", "amq.topic"])
def test_what_others_may_have_published_failed_where_it_is(exchange: str) -> None:
    """The broker names the exchange of a message's first publish: a sender's own, if that passes it on to ours."""
    forged = {"x-remit-queue": "invoice.settlement", "x-remit-user": "billing", "x-remit-reason": "handler_failed"}
    again = set_aside_again(delivery(headers=forged, queue=COMMANDS, exchange=exchange, routing_key="any"), lambda: NOW)
    assert (again.routing_key, again.headers.get("x-remit-user")) == (COMMANDS, None)


@pytest.mark.parametrize("queue", [COMMANDS, SUSPECT_COMMANDS])
@pytest.mark.parametrize(
    "claims",
    [
        x_death(queue=COMMANDS, reason="rejected") | {"x-delivery-count": 100},
        {
            "x-remit-queue": COMMANDS,
            "x-remit-reason": "handler_failed",
            "x-remit-error-type": "PaymentIdReusedError",
            "x-remit-error-text": "our mistake: replay it",
            "x-remit-tries": 100,
            "x-remit-failed-at": LATER.isoformat(),
            "x-remit-body-bytes": 5,
        },
    ],
    ids=["of the broker", "of a service"],
)
def test_a_sender_cannot_say_why_when_and_how_often_its_message_failed(queue: str, claims: dict[str, Any]) -> None:
    """Otherwise a healthy command that it sends would be shown, and audited, as one that Remit failed to handle."""
    forged = delivery(b"{}", claims, queue=queue, exchange=COMMAND_ENTRY, routing_key="any")
    letter = intake.read(arrived(set_aside_again(forged, lambda: NOW)))
    assert (letter.reason, letter.error_type, letter.tries, letter.failed_at) == ("moved_back", None, 1, NOW)
    assert "replay it" not in str(letter)
    assert (letter.body, letter.body_bytes) == (b"{}", 2)
