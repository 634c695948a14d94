"""The border refuses bad input with the right reason, and does nothing else with any bytes."""

import json
import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.v1.event import CloudEvent
from hypothesis import example, given
from hypothesis import strategies as st

from shared.contracts import invoice
from shared.messaging import codec
from shared.messaging.codec import (
    BODY_BYTES_MAX,
    HEADERS_MAX,
    JSON_DATA,
    STRUCTURED,
    Malformed,
    MalformedReason,
    decode,
    encode,
)
from shared.messaging.envelope import Cause, Draft, Inbound

ID = "0190a5c4-0000-7000-8000-000000000001"
DATA: dict[str, Any] = {"invoice_id": "INV-1", "customer_id": "C-1", "amount_minor": 500, "currency": "EUR"}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": ID,
    "type": "remit.invoice.IssueInvoice.v1",
    "source": "/billing",
    "time": "2026-11-22T12:00:00Z",
    "data": DATA,
}
PAN = "4242424242424242"


def body(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in (EVENT | changes).items() if v is not None}).encode()


def reason(raw: bytes, content_type: str | None = STRUCTURED, headers: dict[str, Any] | None = None) -> MalformedReason:
    decoded = decode(raw, content_type=content_type, headers=headers)
    assert isinstance(decoded, Malformed), decoded
    return decoded.reason


def test_structured_mode() -> None:
    decoded = decode(body(correlationid="order-7", traceparent=f"00-{'a' * 32}-{'b' * 16}-01"), content_type=STRUCTURED)
    assert isinstance(decoded, Inbound)
    assert decoded.data == invoice.IssueInvoice(**DATA)
    assert (decoded.id, decoded.correlation_id) == (UUID(ID), "order-7")
    assert decoded.traceparent == f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.mark.parametrize("prefix", ["ce-", "ce_", "cloudEvents:", "cloudEvents_"])
def test_binary_mode(prefix: str) -> None:
    headers = {f"{prefix}{key}": value for key, value in EVENT.items() if key != "data"}
    decoded = decode(json.dumps(DATA).encode(), content_type=JSON_DATA, headers=headers)
    structured = decode(body(), content_type=f"{STRUCTURED}; charset=utf-8")
    assert decoded == structured


@pytest.mark.parametrize("prefix", ["Ce-", "CE-", "cloudevents:", "CLOUDEVENTS_"])
def test_binary_mode_in_letters_of_any_case(prefix: str) -> None:
    headers = {f"{prefix}{key.title()}": value for key, value in EVENT.items() if key != "data"}
    decoded = decode(json.dumps(DATA).encode(), content_type=JSON_DATA, headers=headers)
    assert decoded == decode(body(), content_type=STRUCTURED)


def test_an_attribute_that_is_said_twice_is_refused_unless_it_is_the_same() -> None:
    headers = {f"ce-{key}": value for key, value in EVENT.items() if key != "data"}
    raw = json.dumps(DATA).encode()
    assert isinstance(decode(raw, content_type=JSON_DATA, headers=headers | {"cloudEvents:id": ID}), Inbound)
    assert reason(raw, JSON_DATA, headers | {"cloudEvents:id": "other"}) is MalformedReason.NOT_A_CLOUD_EVENT


def time_of(time: Any) -> datetime | MalformedReason:
    headers = {f"ce-{key}": value for key, value in (EVENT | {"time": time}).items() if key != "data"}
    decoded = decode(json.dumps(DATA).encode(), content_type=JSON_DATA, headers=headers)
    return decoded.time if isinstance(decoded, Inbound) else decoded.reason


NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
TIMES: list[tuple[Any, datetime | MalformedReason]] = [
    (NOON, NOON),
    (NOON.replace(tzinfo=None), NOON),
    (int(NOON.timestamp() * 1_000) + 250, NOON.replace(microsecond=250_000)),
    ("2026-11-28T12:00:00Z", NOON),
    ("2026-11-28t12:00:00z", NOON),
    ("2026-11-28 12:00:00+00:00", NOON),
    ("2026-11-28T12:00:00-00:00", NOON),
    ("2026-11-28T17:30:00+05:30", NOON),
    ("2026-11-28T12:00:00.123456789Z", NOON.replace(microsecond=123_456)),
    ("2026-11-28t12:00:60.5z", NOON.replace(second=59, microsecond=500_000)),
    ("0001-01-01T00:00:00+23:59", MalformedReason.NOT_A_CLOUD_EVENT),
    ("yesterday", MalformedReason.NOT_A_CLOUD_EVENT),
    (10**18, MalformedReason.NOT_A_CLOUD_EVENT),
    (True, MalformedReason.NOT_A_CLOUD_EVENT),
    (1.5, MalformedReason.NOT_A_CLOUD_EVENT),
]


@pytest.mark.parametrize(("time", "expected"), TIMES, ids=[str(time) for time, _ in TIMES])
def test_time_in_every_form(time: Any, expected: datetime | MalformedReason) -> None:
    assert time_of(time) == expected


def test_data_in_base64() -> None:
    encoded = b64encode(json.dumps(DATA).encode()).decode()
    decoded = decode(body(data=None, data_base64=encoded), content_type=STRUCTURED)
    assert decoded == decode(body(), content_type=STRUCTURED)
    for wrong in ("%%%", b64encode(b"\xff\xfe").decode(), b64encode(b"{").decode(), 7, ["a"]):
        refused = reason(body(data=None, data_base64=wrong))
        assert refused in {MalformedReason.NOT_A_CLOUD_EVENT, MalformedReason.NOT_JSON}, wrong
    assert reason(body(data_base64=encoded)) is MalformedReason.NOT_A_CLOUD_EVENT, "which of the two counts?"
    card = b64encode(json.dumps(DATA | {"customer_id": PAN}).encode()).decode()
    assert reason(body(data=None, data_base64=card)) is MalformedReason.CARD_NUMBER


def test_the_official_sdk_is_understood_in_both_modes_of_both_bindings() -> None:
    """And understands us."""
    event = CloudEvent(
        {name: value for name, value in EVENT.items() if name not in {"data", "time"}}
        | {"time": datetime(2026, 11, 22, 12, tzinfo=UTC), "retries": 3, "datacontenttype": JSON_DATA},
        DATA,
    )
    expected = decode(body(), content_type=STRUCTURED)
    for binding in (rabbitmq.to_binary_event(event), rabbitmq.to_structured_event(event)):
        assert decode(binding.body, content_type=binding.content_type, headers=binding.headers) == expected
    for said in (amqp.to_binary_event(event), amqp.to_structured_event(event)):
        headers = said.application_properties
        assert decode(said.application_data, content_type=said.properties["content-type"], headers=headers) == expected
    assert isinstance(expected, Inbound)
    ours = encode(Draft(expected.data), Cause(UUID(ID), "C-1", NOON), 0, source="invoice")
    read = rabbitmq.from_structured_event(rabbitmq.RabbitMQMessage({}, ours.content_type, ours.body))
    assert (read.get_id(), read.get_data()) == (str(ours.id), DATA)


def test_what_a_replay_adds_counts_for_no_limit() -> None:
    headers: dict[str, Any] = {f"ce-{key}": value for key, value in EVENT.items() if key != "data"}
    headers |= {f"ce-ext{number}": "x" for number in range(HEADERS_MAX - len(headers))}
    headers["ce-long"] = headers.pop("ce-ext0") * 4_000
    raw = json.dumps(DATA).encode()
    assert isinstance(decode(raw, content_type=JSON_DATA, headers=headers), Inbound)
    replayed = headers | {"x-remit-replays": 1, "x-remit-replay-id": ID, "x-remit-sender": "s" * 255}
    assert isinstance(decode(raw, content_type=JSON_DATA, headers=replayed), Inbound)
    assert reason(raw, JSON_DATA, headers | {"ce-more": "x"}) is MalformedReason.HEADERS_TOO_LARGE


REFUSED = {
    "not utf-8": (b'{"a": "\xff"}', MalformedReason.NOT_JSON),
    "not json": (b"PAY ME", MalformedReason.NOT_JSON),
    "empty": (b"", MalformedReason.NOT_JSON),
    "not an object": (b"[]", MalformedReason.NOT_A_CLOUD_EVENT),
    "NaN": (body().replace(b"500", b"NaN"), MalformedReason.NOT_JSON),
    "too large": (b" " * (BODY_BYTES_MAX + 1), MalformedReason.TOO_LARGE),
    "duplicate key": (
        body().replace(b'"amount_minor"', b'"currency": "USD", "amount_minor"'),
        MalformedReason.DUPLICATE_KEY,
    ),
    "too deep": (b"[" * 30_000 + b"]" * 30_000, MalformedReason.TOO_DEEP),
    "long integer": (body().replace(b"500", b"9" * 5_000), MalformedReason.NUMBER_TOO_LONG),
    "NUL": (body(data=DATA | {"customer_id": "a\x00b"}), MalformedReason.NUL_CHARACTER),
    "lone surrogate": (body(data=DATA | {"customer_id": "\ud800"}), MalformedReason.LONE_SURROGATE),
    "no specversion": (body(specversion=None), MalformedReason.NOT_A_CLOUD_EVENT),
    "old specversion": (body(specversion="0.3"), MalformedReason.NOT_A_CLOUD_EVENT),
    "no id": (body(id=None), MalformedReason.NOT_A_CLOUD_EVENT),
    "id is no uuid": (body(id="17"), MalformedReason.NOT_A_CLOUD_EVENT),
    "bad time": (body(time="yesterday"), MalformedReason.NOT_A_CLOUD_EVENT),
    "bad correlation": (body(correlationid="a\nb"), MalformedReason.NOT_A_CLOUD_EVENT),
    "unknown type": (body(type="remit.invoice.BurnInvoice.v1"), MalformedReason.UNKNOWN_TYPE),
    "type is a number": (body(type=5), MalformedReason.NOT_A_CLOUD_EVENT),
    "unknown version": (body(type="remit.invoice.IssueInvoice.v9"), MalformedReason.UNKNOWN_VERSION),
    "no data": (body(data=None), MalformedReason.INVALID_DATA),
    "data is text": (body(data="x"), MalformedReason.INVALID_DATA),
    "field missing": (body(data={"invoice_id": "INV-1"}), MalformedReason.INVALID_DATA),
    "negative amount": (body(data=DATA | {"amount_minor": -5}), MalformedReason.INVALID_DATA),
    "huge amount": (body(data=DATA | {"amount_minor": 10**18}), MalformedReason.INVALID_DATA),
    "unknown currency": (body(data=DATA | {"currency": "XXX"}), MalformedReason.INVALID_DATA),
    "card number": (body(data=DATA | {"customer_id": PAN}), MalformedReason.CARD_NUMBER),
    "card number, grouped": (body(data=DATA | {"note": "4242 4242 4242 4242"}), MalformedReason.CARD_NUMBER),
    "card number, escaped": (
        body(data=DATA | {"note": "x"}).replace(b'"x"', b'"\\u0034242424242424242"'),
        MalformedReason.CARD_NUMBER,
    ),
    "cvv": (body(data=DATA | {"cvc": "123"}), MalformedReason.CVV),
}


@pytest.mark.parametrize(("raw", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused(raw: bytes, expected: MalformedReason) -> None:
    assert reason(raw) is expected


def test_wrong_content_types() -> None:
    assert reason(body(), None) is MalformedReason.CONTENT_TYPE
    assert reason(body(), "text/plain") is MalformedReason.CONTENT_TYPE
    assert reason(body(), JSON_DATA) is MalformedReason.NOT_A_CLOUD_EVENT, "JSON without ce- headers"


def test_headers_are_bounded_and_scanned() -> None:
    assert reason(body(), headers={"x": "y" * 10_000}) is MalformedReason.HEADERS_TOO_LARGE
    assert reason(body(), headers={f"h{n}": 1 for n in range(100)}) is MalformedReason.HEADERS_TOO_LARGE
    assert reason(body(), headers={"note": PAN}) is MalformedReason.CARD_NUMBER


def test_what_services_say_was_looked_through_when_it_came_in() -> None:
    def read(raw: bytes) -> Inbound | Malformed:
        return decode(raw, content_type=STRUCTURED, headers={"note": PAN}, is_ours=True)

    assert isinstance(read(body(correlationid=PAN)), Inbound)
    of_command = decode(body(), content_type=STRUCTURED, is_ours=True)
    assert isinstance(of_command, Inbound)
    assert (of_command.content_hash, of_command.outline_hash) == (b"", None), "its id is enough"
    refused = read(b"\xff")
    assert isinstance(refused, Malformed), "all else is asked of it, too"
    assert refused.reason is MalformedReason.NOT_JSON


@pytest.mark.parametrize("raw", [raw for raw, _ in REFUSED.values()], ids=REFUSED)
def test_a_refusal_never_shows_the_input(raw: bytes) -> None:
    refused = decode(raw, content_type=STRUCTURED)
    assert isinstance(refused, Malformed)
    assert PAN not in repr(refused)
    assert "4242 4242" not in repr(refused)


def test_no_hash_of_card_data_is_kept() -> None:
    refused = decode(REFUSED["card number"][0], content_type=STRUCTURED)
    assert isinstance(refused, Malformed)
    assert (refused.content_hash, refused.outline_hash) == (None, None)


@pytest.mark.parametrize(
    ("name", "number", "another"),
    [
        ("customer_id", "100000000000001", "100000000000002"),
        ("note", "1000 0000 0000 001", "1000 0000 0000 002"),
        ("note", 100000000000001, 100000000000002),
    ],
)
def test_long_numbers_count_for_the_content_hash_alone(name: str, number: Any, another: Any) -> None:
    """If one of them is found to be a card number, the hash of the rest is left. What no contract knows is found by nobody."""
    one, other, different = (
        decode(body(data=DATA | {name: value, "amount_minor": amount}), content_type=STRUCTURED)
        for value, amount in ((number, 500), (another, 500), (number, 501))
    )
    plain = decode(body(data=DATA), content_type=STRUCTURED)
    assert isinstance(one, Inbound)
    assert isinstance(other, Inbound)
    assert isinstance(different, Inbound)
    assert isinstance(plain, Inbound)
    is_known = name in DATA
    assert (one.content_hash is not None) == is_known
    assert (one.content_hash == other.content_hash) != is_known
    assert one.outline_hash == other.outline_hash is not None
    assert one.outline_hash not in {different.outline_hash, plain.content_hash}
    assert plain.outline_hash is None


def test_an_invalid_command_keeps_its_id_so_that_it_can_be_answered() -> None:
    refused = decode(REFUSED["negative amount"][0], content_type=STRUCTURED)
    assert isinstance(refused, Malformed)
    assert (refused.id, refused.type) == (UUID(ID), "remit.invoice.IssueInvoice.v1")
    assert refused.content_hash is not None
    assert "amount_minor" in refused.detail


def test_a_broken_trace_context_is_ignored() -> None:
    decoded = decode(body(traceparent="nonsense"), content_type=STRUCTURED)
    assert isinstance(decoded, Inbound)
    assert decoded.traceparent is None


def test_the_content_hash_does_not_depend_on_order_or_white_space() -> None:
    one = decode(body(), content_type=STRUCTURED)
    other = decode(
        json.dumps(dict(reversed(EVENT.items())) | {"data": dict(reversed(DATA.items()))}, indent=4).encode(),
        content_type=STRUCTURED,
    )
    different = decode(body(data=DATA | {"amount_minor": 501}), content_type=STRUCTURED)
    assert isinstance(one, Inbound)
    assert isinstance(other, Inbound)
    assert isinstance(different, Inbound)
    assert one.content_hash == other.content_hash != different.content_hash


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(raw: bytes) -> None:
    for content_type in (STRUCTURED, JSON_DATA, None):
        assert isinstance(decode(raw, content_type=content_type), Malformed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from([*EVENT, "correlationid", "traceparent"]), JSON))
def test_any_attributes_are_refused_or_read(changes: dict[str, Any]) -> None:
    assert isinstance(decode(json.dumps(EVENT | changes).encode(), content_type=STRUCTURED), Inbound | Malformed)


CAUSE = Cause(UUID(int=7), "order-7", datetime(2026, 11, 22, 12, tzinfo=UTC))


def test_an_encoded_message_can_be_decoded() -> None:
    written = encode(Draft(invoice.IssueInvoice(**DATA)), CAUSE, 0, source="invoice")
    decoded = decode(written.body, content_type=written.content_type)
    assert isinstance(decoded, Inbound)
    assert decoded.data == invoice.IssueInvoice(**DATA)
    assert (decoded.id, decoded.causation_id, decoded.correlation_id) == (written.id, CAUSE.id, "order-7")


def test_the_same_cause_gives_the_same_bytes() -> None:
    draft = Draft(invoice.IssueInvoice(**DATA))
    assert encode(draft, CAUSE, 0, source="invoice") == encode(draft, CAUSE, 0, source="invoice")
    assert encode(draft, CAUSE, 0, source="invoice").id != encode(draft, CAUSE, 1, source="invoice").id
    assert (
        encode(draft, replace(CAUSE, id=UUID(int=8)), 0, source="invoice").id
        != encode(draft, CAUSE, 0, source="invoice").id
    )


# -- JSON -------------------------------------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-(10**21), 10**21) | st.floats() | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS.map(json.dumps) | st.sampled_from(['"\\u0041"', '"a : b"', '"":"']),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(st.sampled_from(['"a"', '"b"', '"a" ', '"\\u0061"']), inner), max_size=4).map(
            lambda members: "{" + ", ".join(f"{key}:{value}" for key, value in members) + "}"
        )
    ),
    max_leaves=8,
)  # fmt: skip


def outcome(read: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return repr(read(body))
    except codec._MalformedError as refused:
        return refused.reason


def read_strictly(body: bytes) -> str | None:
    """What the standard library's reader makes of it, with a hook for each thing that is refused; None if it is."""
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_members_once, parse_int=_of_64_bits, parse_constant=_no_number
        )
        said = json.dumps(value, ensure_ascii=False)
        said.encode()
    except ValueError:
        return None
    return None if "\\u0000" in said.replace(r"\\", "") else repr(value)


def _members_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError
    return dict(pairs)


def _of_64_bits(digits: str) -> int:
    if not -(2**63) <= int(digits) < 10**codec.DIGITS_MAX:
        raise ValueError
    return int(digits)


def _no_number(name: str) -> float:
    raise ValueError(name)


@given(VALUES)
@example("-1000000000000000000")
@example('{"a": 9999999999999999999}')
@example('{"a": -10000000000000000000}')
@example('["9999999999999999999999", 0.5, "\\\\"]')
@example('[0.55555555555555555555555, 1e10, "\\"-1", "\ud83d\ude00"]')
@example("[11111111111111111111]")
@example('"\\u0000"')
@example('"\\\\u0000"')
def test_json_is_read_as_by_a_strict_reader(text: str) -> None:
    """orjson takes a repeated key, and makes floats of long integers; how it is known that there are any is our own."""
    body = text.encode("utf-8", "surrogatepass")
    read = outcome(codec.parse, body)
    assert (None if isinstance(read, MalformedReason) else read) == read_strictly(body)


@pytest.mark.parametrize("body", [b'{"a":1,"a":1}', b'{"a" :1,"a":1}', b'{"a":[{"b":1,"b":2}]}', b'{"a":"\\":","a":1}'])
def test_the_same_key_twice_is_refused_however_it_is_written(body: bytes) -> None:
    assert outcome(codec.parse, body) is MalformedReason.DUPLICATE_KEY


def nested(levels: int, opening: str, closing: str) -> bytes:
    return f"{opening * levels}1{closing * levels}".encode()


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_is_bounded(opening: str, closing: str) -> None:
    levels = codec.DEPTH_MAX // len(opening.replace('"a":', ""))
    assert not isinstance(outcome(codec.parse, nested(levels, opening, closing)), MalformedReason)
    assert outcome(codec.parse, nested(levels + 1, opening, closing)) is MalformedReason.TOO_DEEP


def test_a_wide_body_is_not_deep() -> None:
    body = json.dumps([{"a": [position]} for position in range(codec.DEPTH_MAX)]).encode()
    assert outcome(codec.parse, body) == repr(json.loads(body))


# -- how much there may be in a body ---------------------------------------------------------------------------------------------------


def holding(values: int, inner: bytes = b"0") -> bytes:
    return b"[" + b",".join([inner] * values) + b"]"


def refusal(body: bytes) -> MalformedReason | None:
    decoded = decode(body, content_type=STRUCTURED)
    return decoded.reason if isinstance(decoded, Malformed) else None


def test_a_body_with_too_many_values_is_refused_and_leaves_nothing() -> None:
    assert refusal(holding(codec.VALUES_MAX)) is MalformedReason.NOT_A_CLOUD_EVENT
    decoded = decode(holding(codec.VALUES_MAX + 1), content_type=STRUCTURED)
    assert isinstance(decoded, Malformed)
    assert (decoded.reason, decoded.content_hash, decoded.id) == (MalformedReason.TOO_LARGE, None, None)


@pytest.mark.parametrize("inner", [b"{}", b"[]", b'"a,b"', rb'"\",["', b'{"a":[1,2]}'])
def test_values_are_counted_wherever_they_stand(inner: bytes) -> None:
    each = 1 + len(re.findall(rb"[\[{,]", re.sub(rb'"(?:\\.|[^"\\])*"', b"", inner)))
    assert refusal(holding(codec.VALUES_MAX // each - 1, inner)) is MalformedReason.NOT_A_CLOUD_EVENT
    assert refusal(holding(codec.VALUES_MAX // each + 1, inner)) is MalformedReason.TOO_LARGE


@pytest.mark.parametrize("text", [b"," * 30_000, b"{[" * 9_000, rb"\",[" * 9_000])
def test_commas_and_brackets_of_a_text_are_no_values(text: bytes) -> None:
    assert refusal(b'["' + text + b'"]') is MalformedReason.NOT_A_CLOUD_EVENT


def test_many_values_that_are_also_too_deep_are_too_deep() -> None:
    assert refusal(b"[" * 33 + holding(2_000) + b"]" * 33) is MalformedReason.TOO_DEEP
