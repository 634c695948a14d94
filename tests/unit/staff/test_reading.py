"""Whatever arrives on `dead-letters` becomes a dead letter, without any card number."""

import base64
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.staff import intake
from services.staff.actions.dead_letters import replayed_message
from services.staff.dead_letters import DeadLetter, Disposition, Withheld, arrive
from services.staff.dead_letters import discarded as discarded_by
from services.staff.intake import read
from shared.amqp.lenient_decoding import as_it_came, readable
from shared.card_data.scan import has_card_data
from shared.messaging.consumer import Delivery
from shared.messaging.dead_letters import dead_letter, set_aside_again
from shared.messaging.failures import SHORT_TEXT_BYTES_MAX
from shared.records import replace

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MESSAGE_ID = "0190a000-0000-7000-8000-000000000003"
CARD = "4242 4242 4242 4242"


def delivery(body: bytes = b"{", headers: dict[str, Any] | None = None, **properties: Any) -> Delivery:
    """A delivery as it comes to a work queue, or to `dead-letters` if the broker dead-lettered it."""
    given: dict[str, Any] = {
        "queue": "saga.events",
        "exchange": "invoice.events",
        "routing_key": "saga.events",
        "content_type": "application/cloudevents+json",
        "message_id": MESSAGE_ID,
        "correlation_id": None,
        "reply_to": None,
        "type": None,
    }
    return Delivery(body=body, tag=1, generation=1, headers=headers or {}, **given | properties)


def x_death(**entry: Any) -> dict[str, Any]:
    death = {"queue": "saga.events", "reason": "delivery_limit", "count": 1, "exchange": "invoice.events", "time": NOW}
    return {"x-death": [death | {"routing-keys": ["remit.invoice.InvoicePaid.v1"]} | entry]}


def set_aside(original: Delivery, *, tries: int = 1) -> Delivery:
    """The dead letter that one of our services makes of it, as staff receive it."""
    out = dead_letter(
        original, reason="not_json", error=ValueError("no"), text="no JSON", clock=lambda: NOW, tries=tries
    )
    return delivery(
        out.body,
        dict(out.headers),
        queue="dead-letters",
        exchange="dead-letters",
        routing_key=out.routing_key,
        content_type=out.content_type,
        message_id=str(out.id),
        type=out.type,
        correlation_id=out.correlation_id,
    )


def test_a_message_dead_lettered_by_a_service() -> None:
    original = delivery(type="T", correlation_id="C-1", reply_to="my-queue", routing_key="any")
    letter = read(set_aside(original, tries=3))
    expected = DeadLetter(
        id=letter.id,
        queue="saga.events",
        origin="remit",
        reason="not_json",
        error_type="ValueError",
        error_text="no JSON",
        tries=3,
        failed_at=NOW,
        exchange="invoice.events",
        routing_key="any",
        message_id=MESSAGE_ID,
        event_id=UUID(MESSAGE_ID),
        type="T",
        content_type="application/cloudevents+json",
        correlation_id="C-1",
        reply_to="my-queue",
        body=b"{",
        body_bytes=1,
        may_charge=False,
    )
    assert letter == expected


@pytest.mark.parametrize(
    ("queue", "type_", "may_charge"),
    [
        ("invoice.commands", "remit.invoice.PayInvoice.v2", True),
        ("payment_gateway.requests", "remit.invoice.InvoicePaymentRequested.v2", True),
        ("invoice.commands", "remit.invoice.VoidInvoice.v2", False),
        ("saga.events", "remit.invoice.PayInvoice.v2", False),
    ],
)
def test_a_later_version_of_what_charges_may_charge_once_it_can_be_read(
    queue: str, type_: str, may_charge: bool
) -> None:
    event = {"specversion": "1.0", "id": MESSAGE_ID, "type": type_, "source": "/billing", "data": {}}
    letter = read(set_aside(delivery(json.dumps(event).encode(), queue=queue)))
    assert (letter.queue, letter.may_charge) == (queue, may_charge)


def test_the_same_message_dead_lettered_by_the_broker_is_the_same_record() -> None:
    letter = read(delivery(headers=x_death() | {"ce-id": MESSAGE_ID, "x-delivery-count": 100}))
    assert (letter.origin, letter.reason, letter.tries) == ("broker", "broker_delivery_limit", 100)
    assert (letter.exchange, letter.routing_key) == ("invoice.events", "remit.invoice.InvoicePaid.v1")
    assert letter.headers == {"ce-id": MESSAGE_ID}
    assert letter.id == read(set_aside(delivery(headers={"ce-id": MESSAGE_ID}))).id


def test_the_queue_is_the_one_it_failed_on_whatever_its_headers_claim() -> None:
    claims = {"x-remit-queue": "payment_gateway.commands", "x-remit-reason": "trust_me", "x-remit-replays": 7}
    letter = read(delivery(headers=x_death() | claims, routing_key="invoice.commands"))
    assert (letter.queue, letter.origin, letter.reason, letter.headers) == (
        "invoice.commands",
        "broker",
        "broker_delivery_limit",
        {},
    )


def test_ids_that_cannot_be_read_keep_messages_apart_however_long() -> None:
    """Two messages under one id would be one record, and the body of the first be lost."""
    ids = [readable(b"\xff\0" * 127 + last) for last in (b"a", b"b")]
    letters = [read(one) for id_ in ids for one in (delivery(message_id=id_), set_aside(delivery(message_id=id_)))]
    assert [letter.message_id for letter in letters] == [ids[0], ids[0], ids[1], ids[1]]
    assert len({letter.id for letter in letters}) == 2


def test_a_header_is_replayed_whatever_bytes_its_name_has() -> None:
    """On the wire a name has 255 bytes; one that cannot be read is longer as a text."""
    name = readable(b"ce-" + b"\xff\0" * 126)
    for arrived in (set_aside(delivery(headers={name: "1"})), delivery(headers=x_death() | {name: "1"})):
        replay = replayed_message(arrive(None, read(arrived), NOW), UUID(MESSAGE_ID))
        assert replay.headers[name] == "1"


@pytest.mark.parametrize(
    "where",
    [
        {"body": json.dumps({"note": CARD}).encode()},
        {"body": CARD.encode()},
        {"body": base64.b64encode(f"card={CARD}".encode())},
        {"body": b'{"card":{"cvc":"123"}}'},
        {"message_id": CARD},
        {"correlation_id": "4242424242424242"},
        {"reply_to": CARD},
        {"type": CARD},
        {"content_type": CARD},
        {"headers": {"note": CARD}},
        {"headers": {"note": b"\xff" + CARD.encode()}},
        {"headers": {CARD: 1}},
        {"headers": {"number": 4242424242424242}},
        {"headers": {"deep": [{"deeper": {"deepest": [CARD]}}]}},
    ],
)
def test_a_card_number_anywhere_is_not_stored(where: dict[str, Any]) -> None:
    where["headers"] = where.get("headers", {}) | x_death()
    letter = read(delivery(**where))
    assert (letter.withheld, letter.body, letter.headers) == (Withheld.CARD_DATA, None, {})
    assert not has_card_data(repr(letter))


def test_a_card_number_in_the_routing_key_is_not_stored() -> None:
    letter = read(delivery(headers=x_death(**{"routing-keys": [CARD]})))
    assert (letter.withheld, letter.routing_key) == (Withheld.CARD_DATA, "[card number]")


def test_a_body_that_is_too_large_is_not_stored() -> None:
    assert read(delivery(b"x" * 65_537, x_death())).withheld is Withheld.TOO_LARGE
    assert read(delivery(headers=x_death() | {"h": "x" * 10_000})).withheld is Withheld.HEADERS_TOO_LARGE
    assert read(set_aside(delivery(b"x" * 65_537))).withheld is Withheld.TOO_LARGE


def test_headers_that_are_too_large_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    monkeypatch.setattr(intake, "has_card_data", looked.append)
    letter = read(delivery(headers=x_death() | {"h": "\\" * 100_000}))
    assert (letter.withheld, letter.headers, looked) == (Withheld.HEADERS_TOO_LARGE, {}, [])


def test_messages_of_one_id_and_other_content_are_other_records() -> None:
    assert read(delivery(b"one", x_death())).id != read(delivery(b"two", x_death())).id
    assert read(delivery(message_id=None, headers=x_death() | {"ce-id": "1"})).id != (
        read(delivery(message_id=None, headers=x_death() | {"ce-id": "2"})).id
    )


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=50) | st.binary(max_size=50)
    | st.datetimes() | st.binary(max_size=9).map(bytearray),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
known = ["x-death", "x-remit-queue", "x-remit-reason", "x-remit-tries", "x-remit-replays", "x-remit-failed-at"]
known += [
    "x-remit-body-withheld",
    "x-remit-message-id",
    "x-remit-type",
    "x-remit-reply-to",
    "x-delivery-count",
    "ce-id",
]
texts = st.none() | st.text(max_size=255)


@given(
    body=st.binary(max_size=200),
    headers=st.dictionaries(st.sampled_from(known) | st.text(max_size=20), values, max_size=8),
    message_id=texts, reply_to=texts, type_=texts, content_type=texts, correlation_id=texts,
)  # fmt: skip
def test_any_header_and_any_body_is_read(body: bytes, headers: dict[str, Any], type_: str | None, **texts: Any) -> None:
    letter = read(delivery(body, headers, type=type_, **texts))
    for text in (letter.queue, letter.reason, letter.message_id, letter.type, letter.reply_to, letter.correlation_id):
        assert text is None or (len(as_it_came(text)) <= SHORT_TEXT_BYTES_MAX and "\x00" not in text)
    assert 0 <= letter.generation <= 1_000_000
    assert 0 <= letter.tries < 2**31
    json.dumps(letter.headers, allow_nan=False)
    assert read(delivery(body, headers, type=type_, **texts)) == letter


@pytest.mark.parametrize(("user", "count"), [(None, 0), ("shop", 0), ("desk", 7)])
def test_only_staff_say_how_often_a_command_was_replayed(user: str | None, count: int) -> None:
    """By a count of its own a sender would open again what a person has discarded, and the audit would miss entries of the journal."""
    command: dict[str, Any] = {"queue": "invoice.commands", "exchange": "invoice.commands.entry", "user_id": user}
    failed = delivery(headers={"x-remit-replays": 7}, **command)
    by_broker = replace(
        failed, routing_key="invoice.commands", headers=failed.headers | x_death(queue="invoice.commands")
    )
    for letter in (set_aside(failed), by_broker):
        assert read(letter, staff_user="desk").generation == count
    discarded = discarded_by(arrive(None, read(set_aside(failed), staff_user="desk"), NOW), Disposition("ann", NOW))
    again = read(set_aside(replace(failed, headers={"x-remit-replays": 8})), staff_user="desk")
    assert arrive(discarded, again, NOW).status == ("open" if count else "discarded")


FORGED = {"x-remit-sender": "shop"}


@pytest.mark.parametrize(
    ("user", "headers", "sender"),
    [
        (None, {}, None),
        (None, FORGED, None),
        ("billing", {}, "billing"),
        ("billing", FORGED, "billing"),
        ("desk", FORGED, "shop"),
        ("desk", {}, None),
    ],
)
def test_a_dead_letter_keeps_the_name_of_its_sender(
    user: str | None, headers: dict[str, Any], sender: str | None
) -> None:
    """Whether a service or the broker dead-lettered it. Only staff, as the user `desk`, say for whom they replayed it."""
    by_service = read(set_aside(delivery(headers=headers, user_id=user)), staff_user="desk")
    by_broker = read(delivery(headers=x_death() | headers, user_id=user), staff_user="desk")
    assert (by_service.sender, by_broker.sender) == (sender, sender)
    assert by_service.id == by_broker.id
    assert by_service.headers == by_broker.headers == {}


def test_the_same_message_of_two_senders_is_two_dead_letters() -> None:
    first, second = (set_aside(delivery(user_id=user)) for user in ("billing", "shop"))
    assert first.message_id != second.message_id, "each must reach staff"
    assert read(first).id != read(second).id
    again = set_aside(delivery(headers={"x-remit-sender": "billing", "x-remit-replays": 1}, user_id="desk"))
    assert read(again, staff_user="desk").id == read(first).id, "replayed by staff, it is the same dead letter"


def test_a_sender_cannot_have_staff_replay_its_message_as_anothers() -> None:
    """With the headers of a dead letter its message is set aside again, as that of whoever sent it."""
    forged = {"x-remit-queue": "invoice.commands", "x-remit-user": "shop", "x-remit-sender": "shop"}
    where: dict[str, Any] = {"queue": "invoice.commands", "exchange": "invoice.commands.entry"}
    for user in ("billing", None):
        again = set_aside_again(delivery(headers=forged, user_id=user, **where), lambda: NOW)
        letter = read(delivery(again.body, dict(again.headers), routing_key=again.routing_key), staff_user="desk")
        assert letter.sender == user


def test_a_dead_letter_that_an_operator_moved_keeps_its_sender() -> None:
    moved = replace(set_aside(delivery(user_id="billing")), queue="saga.events", exchange="")
    again = set_aside_again(moved, lambda: NOW)
    letter = read(delivery(again.body, dict(again.headers), routing_key=again.routing_key), staff_user="desk")
    assert letter.sender == "billing"
