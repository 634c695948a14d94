"""Our own reading and writing of frames, compared with pamqp; and the reader that divides a stream between us and the library."""

import asyncio
import math
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pamqp import commands, heartbeat
from pamqp.body import ContentBody
from pamqp.frame import marshal, unmarshal
from pamqp.header import ContentHeader

from shared.amqp import frames
from shared.amqp.lenient_decoding import FIELDS_MAX, UNREADABLE, as_it_came, readable
from shared.amqp.transport import _ChannelFrames, _Reader

SHORT = st.text(max_size=60)
EXCHANGE = st.from_regex(r"[a-zA-Z0-9-_.:]{0,30}", fullmatch=True)
PAYLOAD_MAX = 100
BODY_BYTES_MAX = 90


def parted(raw: bytes) -> list[Any]:
    """All frames in these bytes, as pamqp reads them."""
    found = []
    while raw:
        consumed, _, frame = unmarshal(raw)
        found.append(frame)
        raw = raw[consumed:]
    return found


@given(EXCHANGE, SHORT, st.booleans(), SHORT, st.none() | SHORT, SHORT, SHORT, st.binary(max_size=350))
def test_published_frames_are_those_that_pamqp_would_write(
    exchange: str,
    routing_key: str,
    mandatory: bool,
    correlation_id: str,
    reply_to: str | None,
    message_id: str,
    type_: str,
    body: bytes,
) -> None:
    raw = frames.publish(
        3,
        exchange=exchange,
        routing_key=routing_key,
        mandatory=mandatory,
        content_type="application/json",
        correlation_id=correlation_id,
        reply_to=reply_to,
        message_id=message_id,
        type_=type_,
        headers={"x-tries": 3, "x-text": "é"},
        body=body,
        app_id="remit",
        payload_max=1_000,
    )
    method, header, *bodies = parted(raw)
    assert (method.exchange, method.routing_key, method.mandatory) == (exchange, routing_key, mandatory)
    properties = header.properties
    assert (properties.content_type, properties.delivery_mode, properties.app_id) == ("application/json", 2, "remit")
    assert properties.headers == {"x-tries": 3, "x-text": "é"}
    assert (properties.correlation_id or "", properties.message_type or "") == (correlation_id, type_)
    assert (properties.message_id, properties.reply_to) == (message_id, reply_to)
    assert header.body_size == len(body)
    assert b"".join(part.value for part in bodies) == body


def test_the_name_of_the_user_is_written_and_read() -> None:
    raw = frames.publish(
        3,
        exchange="e",
        routing_key="k",
        mandatory=True,
        content_type="",
        correlation_id="",
        reply_to=None,
        message_id="m",
        type_="t",
        headers={},
        body=b"{}",
        app_id="remit",
        payload_max=1_000,
        user_id="billing",
    )
    _, header, _ = parted(raw)
    assert (header.properties.user_id, header.properties.app_id) == ("billing", "remit")
    payload = header.marshal()
    assert frames.read_properties(payload).user_id == "billing"


def test_a_body_is_cut_to_what_a_frame_may_carry() -> None:
    raw = published(b"x" * 250)
    assert [len(part.value) for part in parted(raw)[2:]] == [100, 100, 50]


def published(
    body: bytes, *, message_id: str = "1", correlation_id: str = "c", headers: Mapping[str, Any] | None = None
) -> bytes:
    return frames.publish(
        1,
        exchange="e",
        routing_key="k",
        mandatory=True,
        content_type="",
        correlation_id=correlation_id,
        reply_to=None,
        message_id=message_id,
        type_="t",
        headers=headers or {},
        body=body,
        app_id="remit",
        payload_max=PAYLOAD_MAX if headers is None else 2 * PAYLOAD_MAX + 2 * 255,
    )


@given(st.binary(max_size=255), st.binary(max_size=255))
@example(b"\xff\xfe\x00", b"")
@example("\ue1ff".encode(), b"\xff")
@example("\ue100".encode(), b"\x00")
@example(b"\xff" * 255, b"\xff" * 254)
@example(b"m\xfcnchen", "m\u00fcnchen".encode())
def test_what_cannot_be_read_goes_back_as_it_came(text: bytes, other: bytes) -> None:
    assert as_it_came(readable(text)) == text
    assert (readable(text) == readable(other)) is (text == other)
    assert "\0" not in readable(text)
    readable(text).encode()  # PostgreSQL takes it
    if text:
        frame = published(b"{}", correlation_id=readable(text), headers={readable(text): 1})
        assert frame.count(bytes((len(text),)) + text) >= 2, "the property, and the header's name"


@pytest.mark.parametrize("correlation_id", ["c" * 256, "é" * 128, "c" * 200])
def test_a_text_that_amqp_cannot_carry_is_an_error(correlation_id: str) -> None:
    """A text is too long for a short string, or the headers for a header frame of this connection."""
    with pytest.raises(ValueError, match="bytes"):
        published(b"", correlation_id=correlation_id)


@given(SHORT, st.integers(1, 2**63 - 1), st.booleans(), EXCHANGE, SHORT)
def test_a_delivery_is_read(consumer: str, tag: int, redelivered: bool, exchange: str, routing_key: str) -> None:
    deliver = commands.Basic.Deliver(consumer, tag, redelivered, exchange, routing_key)
    clean = [readable(text.encode()) for text in (exchange, routing_key)]
    assert frames.read_deliver(marshal(deliver, 1)[7:-1]) == (tag, redelivered, *clean)


PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "content_type": SHORT,
        "content_encoding": SHORT,
        "headers": st.dictionaries(SHORT, SHORT | st.integers(0, 99), min_size=1, max_size=3),
        "delivery_mode": st.just(2),
        "priority": st.integers(0, 9),
        "correlation_id": SHORT,
        "reply_to": SHORT,
        "expiration": SHORT,
        "message_id": SHORT,
        "message_type": SHORT,
        "user_id": SHORT,
        "app_id": SHORT,
    },
)


@given(PROPERTIES)
def test_any_set_of_properties_is_read(properties: dict[str, Any]) -> None:
    header = ContentHeader(properties=commands.Basic.Properties(**properties), body_size=7)
    payload = marshal(header, 1)[7:-1]
    assert frames.read_body_size(payload) == 7
    read = frames.read_properties(payload)
    for name, expected in (
        ("content_type", read.content_type),
        ("correlation_id", read.correlation_id),
        ("reply_to", read.reply_to),
        ("message_id", read.message_id),
        ("message_type", read.type),
    ):
        text = properties.get(name)
        assert (expected or None) == (readable(text.encode()) if text else None), name
    assert len(read.headers) == len(properties.get("headers", {}))
    names = [properties.get(name, "").encode() for name in ("message_id", "app_id")]
    assert frames.read_names(payload) == tuple(names), "byte for byte"


@given(st.binary(max_size=60))
def test_properties_cut_anywhere_raise_nothing(raw: bytes) -> None:
    frames.read_properties(b"\x00\x3c\x00\x00" + bytes(8) + raw)


def test_a_table_of_many_fields_is_read_in_part() -> None:
    """A frame has room for 120 000 of them. As Python objects, those of 400 messages would be gigabytes."""
    fields = b"".join(b"\x06%06dV" % number for number in range(5_000))
    table = len(fields).to_bytes(4, "big") + fields
    payload = b"\x00\x3c\x00\x00" + bytes(8) + b"\x20\x00" + table
    read = frames.read_properties(payload).headers
    assert (len(read), read[UNREADABLE]) == (FIELDS_MAX + 1, True)
    array = b"\x01aA" + (5_000).to_bytes(4, "big") + b"V" * 5_000
    nested = frames.read_properties(payload[:14] + len(array).to_bytes(4, "big") + array).headers["a"]
    assert (len(nested), nested[-1]) == (FIELDS_MAX, UNREADABLE)


@given(st.integers(1, 2**63 - 1), st.booleans())
def test_confirms_are_read(tag: int, multiple: bool) -> None:
    for confirm in (commands.Basic.Ack(tag, multiple), commands.Basic.Nack(tag, multiple, False)):
        assert frames.read_confirm(marshal(confirm, 1)[7:-1]) == (tag, multiple)
    for frame, all_before in ((frames.ack_up_to(2, tag), True), (frames.ack_one(2, tag), False)):
        (ack, *_) = parted(frame)
        assert (ack.delivery_tag, ack.multiple) == (tag, all_before)


# -- the stream ------------------------------------------------------------------------------------------------------------------------


class Noted:
    """A listener that records what it receives."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.confirms: list[int] = []

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        assert frames.read_deliver(method).routing_key == "k"
        assert frames.read_body_size(header) == len(body) or (
            frames.read_body_size(header) > BODY_BYTES_MAX and not body
        )
        self.bodies.append(body)

    def on_confirm(self, method: bytes) -> None:
        self.confirms.append(frames.read_confirm(method)[0])


TAPPED, LIBRARY = 1, 2


def delivery(channel: int, body: bytes) -> bytes:
    pieces = [body[at : at + 50] for at in range(0, len(body), 50)]
    return b"".join(
        (
            marshal(commands.Basic.Deliver("c", 1, False, "e", "k"), channel),
            marshal(ContentHeader(properties=commands.Basic.Properties(), body_size=len(body)), channel),
            *(marshal(ContentBody(piece), channel) for piece in pieces),
        )
    )


STREAM = st.lists(
    st.tuples(st.sampled_from(["delivery", "confirm", "other"]), st.sampled_from([TAPPED, LIBRARY]), st.binary(max_size=120)),
    max_size=8,
)  # fmt: skip


@given(STREAM, st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_each_frame_reaches_its_receiver_however_the_stream_is_cut(
    stream: Sequence[tuple[str, int, bytes]], cuts: Sequence[int]
) -> None:
    listener, raw, to_library = Noted(), b"", b""
    bodies, confirms = [], []
    for number, (kind, channel, body) in enumerate(stream, start=1):
        if kind == "delivery":
            frame = delivery(channel, body)
            bodies += [body if len(body) <= BODY_BYTES_MAX else b""] if channel == TAPPED else []
        elif kind == "confirm":
            frame = marshal(commands.Basic.Ack(number, False), channel)
            confirms += [number] if channel == TAPPED else []
        else:
            frame = marshal(commands.Queue.DeclareOk("q", 1, 1), channel)
        raw += frame
        to_library += frame if channel == LIBRARY or kind == "other" else b""
    passed = asyncio.run(fed(listener, raw, cuts, shown_at=math.inf))
    assert (listener.bodies, listener.confirms) == (bodies, confirms)
    assert passed == to_library


async def fed(listener: Noted, raw: bytes, cuts: Sequence[int], *, shown_at: float = 0.0) -> bytes:
    """The bytes that the library receives, when these bytes arrive in pieces of these sizes, again and again."""
    reader = _Reader({TAPPED: _ChannelFrames(listener, BODY_BYTES_MAX)}, asyncio.get_running_loop())
    reader._shown_at = shown_at
    at = turn = 0
    while at < len(raw):
        size = cuts[turn % len(cuts)]
        reader.feed_data(raw[at : at + size])
        at, turn = at + size, turn + 1
    reader.feed_eof()
    return await reader.read()


class Counted:
    """A listener that keeps nothing."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def on_message(self, _method: bytes, header: bytes, body: bytes) -> None:
        self.sizes.append((frames.read_body_size(header), len(body)))

    def on_confirm(self, method: bytes) -> None: ...


async def test_nothing_of_a_large_body_is_kept() -> None:
    """60 messages of 16 MiB would be a gigabyte. They come in frames of 128 KiB, and a socket cuts those anywhere."""
    listener, piece = Counted(), bytes(128 * 1024 - 8)
    reader = _Reader({TAPPED: _ChannelFrames(listener, 64 * 1024)}, asyncio.get_running_loop())
    size = 128 * len(piece)
    method = marshal(commands.Basic.Deliver("c", 1, False, "e", "k"), TAPPED)
    header = marshal(ContentHeader(properties=commands.Basic.Properties(), body_size=size), TAPPED)
    body = marshal(ContentBody(piece), TAPPED)
    half = len(body) // 2
    tracemalloc.start()
    try:
        for _ in range(4):
            reader.feed_data(method + header)
            for _ in range(128):
                reader.feed_data(body[:half])
                reader.feed_data(body[half:])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert listener.sizes == [(size, 0)] * 4
    assert peak < 2 * 1024**2


async def test_a_frame_that_comes_in_many_pieces_is_joined_once() -> None:
    listener, body = Counted(), bytes(100_000)
    raw = marshal(commands.Basic.Deliver("c", 1, False, "e", "k"), TAPPED)
    raw += marshal(ContentHeader(properties=commands.Basic.Properties(), body_size=len(body)), TAPPED)
    raw += marshal(ContentBody(body), TAPPED)
    reader = _Reader({TAPPED: _ChannelFrames(listener, len(body))}, asyncio.get_running_loop())
    held = 0
    for at in range(0, len(raw), 1_000):
        reader.feed_data(raw[at : at + 1_000])
        held = max(held, len(reader._rest))
    assert listener.sizes == [(len(body), len(body))]
    assert held > 90, "the pieces wait as they came"


async def test_taken_frames_are_a_sign_of_life_for_the_library() -> None:
    """Otherwise a connection with deliveries only would be closed for its silence."""
    assert await fed(Noted(), delivery(TAPPED, b"{}"), [1_000]) == frames.HEARTBEAT == marshal(heartbeat.Heartbeat(), 0)


async def test_a_broker_of_another_version_is_left_to_the_library() -> None:
    assert await fed(Noted(), b"AMQP\x00\x00\x09\x01", [8]) == b"AMQP\x00\x00\x09\x01"
