"""Poison: every input that shared/README.md, "Input", warns of is refused for its reason, at every border.

For any other input the same promises hold (tests/fuzz/holds.py). `python -m tests.fuzz` searches for inputs that break them.
"""

import json
import struct
import time
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.invoice.command_inbox import RefusedCommand
from services.payment_gateway.domain import GatewayStep
from services.payment_gateway.gateways import port
from shared.amqp import frames
from shared.amqp.lenient_decoding import UNREADABLE, as_it_came
from shared.batch.inbox import DeadLettered, Item
from shared.messaging.codec import JSON_DATA, STRUCTURED, Malformed, MalformedReason
from shared.messaging.consumer import Delivery
from shared.messaging.envelope import Inbound
from tests.fuzz import holds
from tests.fuzz.corpus import CORPUS, EVENT, HEALTHY_AFTER_ALL, ID, PAN, Poison, event
from tests.fuzz.holds import FuzzedReply
from tests.fuzz.targets import DECLINE, SPOKEN, TARGETS, header_frame, intent

every_poison = pytest.mark.parametrize("poison", CORPUS.values(), ids=CORPUS)
bounded = settings(max_examples=150, derandomize=True, database=None)
"""The same examples in every run: what the fuzzer finds by chance becomes an entry of the corpus, not a test that fails now and then."""


def arrived(poison: Poison, message_id: str | None, **properties: Any) -> Delivery:
    return holds.delivery(
        poison.body,
        content_type=poison.content_type,
        content_encoding=poison.content_encoding,
        headers=poison.headers,
        message_id=message_id,
        **properties,
    )


# -- the corpus ------------------------------------------------------------------------------------------------------------------------


@every_poison
def test_poison_is_refused_for_its_reason(poison: Poison) -> None:
    refused = holds.codec(poison.body, poison.content_type, poison.headers, poison.content_encoding)
    assert isinstance(refused, Malformed)
    assert refused.reason is poison.reason


@pytest.mark.parametrize("body", HEALTHY_AFTER_ALL.values(), ids=HEALTHY_AFTER_ALL)
def test_an_input_that_only_looks_like_poison_is_read(body: bytes) -> None:
    decoded = holds.codec(body, STRUCTURED, {})
    assert isinstance(decoded, Inbound) or decoded.reason is MalformedReason.INVALID_DATA


def test_every_malformed_reason_has_its_poison() -> None:
    assert {poison.reason for poison in CORPUS.values()} == set(MalformedReason)


@every_poison
def test_an_unreadable_command_with_an_id_is_answered_unless_an_upgrade_may_read_it(poison: Poison) -> None:
    admitted = holds.border(arrived(poison, ID, reply_to="billing.answers", correlation_id="mine-1"))
    if poison.upgradable:
        assert isinstance(admitted, DeadLettered)
        assert admitted.reason == poison.reason
        return
    assert isinstance(admitted, RefusedCommand)
    answer = admitted.answer
    assert (admitted.command_id, answer.answer, answer.reason) == (UUID(ID), "rejected", poison.reason)
    assert (answer.command_id == UUID(ID)) is not poison.reason.is_card_data, "card data spends no id"
    said = holds.answered(admitted)[-1]
    assert (said.exchange, said.routing_key, said.correlation_id) == ("", "billing.answers", "mine-1")


@every_poison
def test_an_unreadable_message_without_an_id_is_a_dead_letter(poison: Poison) -> None:
    bodys_own = holds.codec(poison.body, poison.content_type, poison.headers, poison.content_encoding)
    admitted = holds.border(arrived(poison, "17", reply_to=None))
    assert isinstance(admitted, DeadLettered) or admitted.id == bodys_own.id


@every_poison
def test_poison_among_the_dead_letters_is_kept_with_its_reason(poison: Poison) -> None:
    by_the_broker = {"x-death": [{"queue": "invoice.commands", "reason": "delivery_limit", "count": 21}]}
    letter = holds.dead_letter(arrived(poison, ID, queue="dead-letters", routing_key="invoice.commands"))
    again = holds.dead_letter(
        holds.delivery(
            poison.body,
            content_type=poison.content_type,
            headers=poison.headers | by_the_broker,
            message_id=ID,
            queue="dead-letters",
            routing_key="invoice.commands",
        )
    )
    assert (letter.queue, letter.body_bytes) == ("invoice.commands", len(poison.body))
    assert again.reason == "broker_delivery_limit"
    assert again.id == letter.id, "the same message"


def test_an_unreadable_command_with_a_used_id_counts_as_other_data() -> None:
    """Its bytes tell it apart from the command that was handled under this id, and are the same if it is repeated."""
    cut_off, words = (holds.codec(CORPUS[name].body, STRUCTURED, {}) for name in ("cut off", "words"))
    assert cut_off.content_hash is not None
    assert cut_off.content_hash != words.content_hash
    assert holds.codec(CORPUS["cut off"].body, STRUCTURED, {}).content_hash == cut_off.content_hash


@pytest.mark.parametrize("name", ["64 KiB and a byte", "one huge header", "card number", "security code"])
def test_no_hash_of_unread_input_is_kept(name: str) -> None:
    poison = CORPUS[name]
    assert holds.codec(poison.body, poison.content_type, poison.headers, poison.content_encoding).content_hash is None


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_input_a_fuzzer_starts_from_keeps_the_promises(target: Any) -> None:
    for seed in target.seeds:
        target.check(seed)


# -- any message -----------------------------------------------------------------------------------------------------------------------

TEXT = st.text("aZ09-{}\"'\\\x00\ud800é\uff14", max_size=12) | st.sampled_from(
    [PAN, "4242 4242 4242 4242", ID, "x" * 300]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
CHANGED_EVENTS = st.dictionaries(st.sampled_from([*EVENT, "time", "correlationid", "note"]), JSON).map(
    lambda changes: json.dumps(EVENT | changes).encode()
)
CHANGED_DATA = st.dictionaries(st.sampled_from(["invoice_id", "reason", "amount_minor", "note"]), JSON).map(
    lambda data: event(data=data)
)
BODIES = (
    st.binary(max_size=200)
    | CHANGED_EVENTS
    | CHANGED_DATA
    | st.sampled_from([poison.body for poison in CORPUS.values()])
)
CONTENT_TYPES = st.sampled_from([STRUCTURED, JSON_DATA, None, "text/plain"])
SHORT = st.none() | st.text("aZ09 -?é", max_size=60) | st.sampled_from([ID, PAN, "invoice.settlement", "?" * 255])
HEADER_VALUES = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | TEXT | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
HEADERS = st.dictionaries(
    st.sampled_from(["ce-id", "ce-type", "ce-specversion", "ce-note", "x-death", "x-remit-queue", "x-remit-replays"])
    | st.text("ce-4 ", max_size=24),
    HEADER_VALUES,
    max_size=5,
)


@bounded
@given(BODIES, CONTENT_TYPES, HEADERS)
def test_any_message_is_read_or_refused(body: bytes, content_type: str | None, headers: dict[str, Any]) -> None:
    holds.codec(body, content_type, headers)


@bounded
@given(BODIES, CONTENT_TYPES, HEADERS, SHORT, SHORT, SHORT)
def test_any_command_is_answered_once_or_is_one_dead_letter(
    body: bytes,
    content_type: str | None,
    headers: dict[str, Any],
    message_id: str | None,
    correlation_id: str | None,
    reply_to: str | None,
) -> None:
    holds.border(
        holds.delivery(
            body,
            content_type=content_type,
            headers=headers,
            message_id=message_id,
            correlation_id=correlation_id,
            reply_to=reply_to,
        )
    )


@bounded
@given(BODIES, CONTENT_TYPES, HEADERS, SHORT, SHORT)
def test_any_dead_letter_is_kept(
    body: bytes, content_type: str | None, headers: dict[str, Any], message_id: str | None, type_: str | None
) -> None:
    holds.dead_letter(
        holds.delivery(
            body,
            content_type=content_type,
            headers=headers,
            message_id=message_id,
            type_=type_,
            queue="dead-letters",
            routing_key="saga.events",
        )
    )


# -- frames ----------------------------------------------------------------------------------------------------------------------------

CONTENT_TYPE_FLAG, HEADERS_FLAG, REPLY_TO_FLAG = 1 << 15, 1 << 13, 1 << 9


def table(raw: bytes) -> bytes:
    return header_frame(struct.pack(">HI", HEADERS_FLAG, len(raw)) + raw)


def headers_of(raw: bytes) -> dict[str, Any]:
    read = holds.frame(table(raw), event())
    return read.headers


@bounded
@given(st.binary(max_size=200))
def test_any_table_of_headers_is_read(raw: bytes) -> None:
    headers_of(raw)


@bounded
@given(st.binary(max_size=300))
def test_any_properties_are_read(raw: bytes) -> None:
    holds.frame(header_frame(raw), event())


def test_a_table_cut_off_in_the_middle_of_a_number_is_marked() -> None:
    assert headers_of(b"\x01aI\x00") == {UNREADABLE: True}


def test_texts_of_a_table_are_read_whole() -> None:
    assert headers_of(b"\x01aS\x00\x00\x00\x03\xc3\xa9!\x01bS\x00\x00\x00\x01\xff") == {"a": "é!", "b": b"\xff"}


def test_a_frame_full_of_small_fields_takes_time_in_proportion() -> None:
    """Copying the rest of a frame at each of 120 000 fields blocked the loop for half a second."""

    def each_s(count: int) -> float:
        raw = table(b"\x01aA" + struct.pack(">I", count) + b"V" * count)[frames.PREFIX_BYTES : -1]
        started = time.thread_time()
        frames.read_properties(raw)
        return (time.thread_time() - started) / count

    # In turns, so that a busy machine slows down both.
    few, many = zip(*((each_s(10_000), each_s(120_000)) for _ in range(5)), strict=True)
    assert min(many) < 2 * min(few), "three times as long if the rest is copied"


def test_short_strings_stay_short_and_storable() -> None:
    """Otherwise an answer to a correlation id that is no UTF-8 could not be sent, and a NUL in `reply_to` would lose a healthy command."""
    flags = struct.pack(">H", CONTENT_TYPE_FLAG | REPLY_TO_FLAG)
    content_type = bytes([len(STRUCTURED)]) + STRUCTURED.encode()
    read = holds.frame(header_frame(flags + content_type + b"\xff" + b"\xff\x00" * 127 + b"a"), event())
    assert read.reply_to is not None
    assert len(read.reply_to) == len(as_it_came(read.reply_to)) == 255
    assert read.reply_to.endswith("a")
    assert "\0" not in read.reply_to
    admitted = holds.border(read)
    assert isinstance(admitted, Item)
    assert admitted.message is not None


# -- answers of a gateway ----------------------------------------------------------------------------------------------------------------

STEPS = st.sampled_from(list(holds.BEFORE))
INTENTS = st.dictionaries(
    st.sampled_from(
        ["id", "status", "amount", "amount_received", "currency", "latest_charge", "last_payment_error", "error"]
    ),
    JSON
    | st.sampled_from(
        ["succeeded", "canceled", "requires_payment_method", "processing", "pi_1", 1250, 1251, "eur", DECLINE]
    ),
)
SAID = (
    JSON
    | INTENTS
    | st.sampled_from(list(SPOKEN.values()))
    | st.tuples(st.sampled_from(list(SPOKEN.values())), INTENTS).map(lambda pair: pair[0] | pair[1])
)
REPLIES = st.builds(
    FuzzedReply,
    status=st.sampled_from([200, 201, 204, 301, 400, 401, 402, 403, 404, 409, 418, 429, 500, 502, 503]),
    body=SAID.map(lambda said: json.dumps(said).encode()) | st.binary(max_size=40),
    headers=st.sampled_from(
        [{}, {"Idempotent-Replayed": "true"}, {"Retry-After": "1e999"}, {"Request-Id": f"{PAN}\n"}]
    ),
)


@bounded
@given(STEPS, st.lists(REPLIES, min_size=1, max_size=3))
def test_any_reply_of_a_gateway_is_one_of_the_ports_answers(step: GatewayStep, replies: list[FuzzedReply]) -> None:
    holds.gateway(step, replies)


@pytest.mark.parametrize(
    "step",
    [GatewayStep.EXECUTE, GatewayStep.CANCEL, GatewayStep.INQUIRE, GatewayStep.REFUND, GatewayStep.INQUIRE_REFUND],
)
@pytest.mark.parametrize("status", [200, 409, 418, 500, 502, 503])
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"error": 5}', b"<html>", b"\xff", b"[" * 100_000])
def test_a_meaningless_reply_is_in_doubt(step: GatewayStep, status: int, body: bytes) -> None:
    assert isinstance(holds.gateway(step, [FuzzedReply(status, body, {})]), port.Unknown)


@pytest.mark.parametrize("depth", range(100, 1_500, 25))
@pytest.mark.parametrize("member", ["status", "error"])
def test_a_deeply_nested_reply_is_in_doubt(member: str, depth: int) -> None:
    """At some depth the JSON can be read, but the value that was read cannot be shown."""
    deep = b'{"id": "pi_1", "%b": %b%b}' % (member.encode(), b"[" * depth, b"]" * depth)
    refusal = b'{"error": {"type": "card_error", "message": %b%b}}' % (b"[" * depth, b"]" * depth)
    assert isinstance(holds.gateway(GatewayStep.EXECUTE, [FuzzedReply(200, deep, {})]), port.Unknown)
    assert not isinstance(
        holds.gateway(GatewayStep.EXECUTE, [FuzzedReply(402, refusal, {})]), port.Captured | port.Declined
    )


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (intent("succeeded", amount_received=1250), port.Captured),
        (intent("succeeded", amount_received=1251), port.Captured),
        (intent("succeeded") | {"id": "pi_2"}, port.Unknown),
        (intent("canceled"), port.Cancelled),
        (intent("requires_capture"), port.Unknown),
    ],
)
def test_the_promises_about_a_gateway_can_fail(said: dict[str, Any], meaning: type) -> None:
    """`holds.gateway` also checks what the core makes of it: a capture of another amount becomes a case for a person, never captured."""
    assert isinstance(holds.gateway(GatewayStep.EXECUTE, [FuzzedReply(200, json.dumps(said).encode(), {})]), meaning)
