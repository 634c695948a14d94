"""AMQP 0-9-1 frames of the hot path, encoded and decoded by hand: publish, deliver, confirm, return, ack.

For each message aiormq and pamqp make a dozen objects, three futures and a task. That was a third of a busy service's CPU (measured).
Here a message to publish becomes one run of bytes, and one that arrives becomes two plain tuples. The client library does the rest:
handshake, channels, declarations, heartbeats, closing. `shared.amqp.transport` separates the two.

Source: AMQP 0-9-1 specification, 2.3.5 (frames), 4.2 (formats); RabbitMQ's `amqp0-9-1.extended.xml` for nack.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pamqp import encode as pamqp_encode

from shared.amqp.lenient_decoding import LENGTH_BYTES, UNREADABLE, as_it_came, read_table, readable

METHOD, HEADER, BODY = 1, 2, 3
KINDS: Final = frozenset({METHOD, HEADER, BODY, 8})
"""All kinds of frames. 8 is a heartbeat."""
FRAME_END: Final = 0xCE
_END: Final = b"\xce"
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

DELIVER: Final = b"\x00\x3c\x00\x3c"  # class 60 (basic), method 60
RETURN: Final = b"\x00\x3c\x00\x32"
ACK: Final = b"\x00\x3c\x00\x50"
NACK: Final = b"\x00\x3c\x00\x78"
CONTENT_METHODS: Final = frozenset({DELIVER, RETURN})
CONFIRM_METHODS: Final = frozenset({ACK, NACK})

DIRECT_REPLY_TO: Final = "amq.rabbitmq.reply-to"
"""RabbitMQ's name for answers without a queue. Who consumes it may write it as reply address, and the broker replaces it by a true one."""
SHORT_STRING_BYTES_MAX: Final = 255
_PERSISTENT: Final = b"\x02"  # delivery mode

frame_prefix = struct.Struct(">BHI")
"""Kind, channel, and length of the payload in bytes. `FRAME_END` follows the payload."""
PREFIX_BYTES: Final = frame_prefix.size
FRAME_BYTES_MIN: Final = PREFIX_BYTES + 1
_publish_prefix = struct.Struct(">BHI4sH")
_header_prefix = struct.Struct(">BHIHHQH")
_ack = struct.Struct(">BHI4sQBB")
_flags_at = struct.Struct(">QH").unpack_from
_tag_at = struct.Struct(">QB").unpack_from

# The flags of the properties that we write (AMQP class basic, 1.8).
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _CORRELATION_ID = 0x8000, 0x2000, 0x1000, 0x0400
_REPLY_TO, _MESSAGE_ID, _TYPE, _USER_ID, _APP_ID = 0x0200, 0x0080, 0x0020, 0x0010, 0x0008

# -- frames to send --------------------------------------------------------------------------------------------------------------------


def publish(
    channel: int,
    *,
    exchange: str,
    routing_key: str,
    mandatory: bool,
    content_type: str,
    correlation_id: str,
    reply_to: str | None,
    message_id: str,
    type_: str,
    headers: Mapping[str, Any],
    body: bytes,
    app_id: str,
    payload_max: int,
    user_id: str | None = None,
) -> bytes:
    """The frames of one persistent message. Properties with an empty text are left out.

    The broker takes a `user_id` only if it is the name of the connection's user, and closes the channel for any other.
    `payload_max` is the largest payload of a frame on this connection, in bytes. Raises ValueError, TypeError or struct.error if AMQP
    cannot carry the message.
    """
    flags = _DELIVERY_MODE | _MESSAGE_ID | _APP_ID
    parts: list[bytes] = []
    if content_type:
        flags |= _CONTENT_TYPE
        parts.append(_short(content_type))
    if headers:
        flags |= _HEADERS
        parts.append(_table(headers))
    parts.append(_PERSISTENT)
    if correlation_id:
        flags |= _CORRELATION_ID
        parts.append(_short(correlation_id))
    if reply_to is not None:
        flags |= _REPLY_TO
        parts.append(_short(reply_to))
    parts.append(_short(message_id))
    if type_:
        flags |= _TYPE
        parts.append(_known_short(type_))
    if user_id is not None:
        flags |= _USER_ID
        parts.append(_known_short(user_id))
    parts.append(_known_short(app_id))
    properties = b"".join(parts)
    if (
        len(properties) + 14 > payload_max
    ):  # the broker closes the connection if a header frame is larger than its maximum
        raise ValueError(f"properties and headers of {len(properties)} bytes must not reach the broker")
    head = _header_prefix.pack(HEADER, channel, 14 + len(properties), 60, 0, len(body), flags)
    method = _publish_method(channel, exchange, routing_key, mandatory)
    pieces = [
        body[start : start + payload_max] for start in range(0, len(body), payload_max)
    ]  # an empty body has no body frame
    content = [part for piece in pieces for part in (frame_prefix.pack(BODY, channel, len(piece)), piece, _END)]
    return b"".join((method, head, properties, _END, *content))


@lru_cache(maxsize=1024)
def _publish_method(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:  # noqa: FBT001 - as in the frame
    route = _short(exchange) + _short(routing_key) + (b"\x01" if mandatory else b"\x00")
    return _publish_prefix.pack(METHOD, channel, 6 + len(route), b"\x00\x3c\x00\x28", 0) + route + _END


def _table(headers: Mapping[str, Any]) -> bytes:
    """The headers, each name with the bytes with which it came. pamqp would cut a name after 128 bytes."""
    fields = b"".join(_short(name) + pamqp_encode.encode_table_value(headers[name]) for name in sorted(headers))
    return len(fields).to_bytes(LENGTH_BYTES, "big") + fields


def _short(text: str) -> bytes:
    data = as_it_came(text)
    if len(data) > SHORT_STRING_BYTES_MAX:
        raise ValueError("a text in the properties of a message has at most 255 bytes")
    return bytes((len(data),)) + data


_known_short = lru_cache(maxsize=256)(_short)


def ack_up_to(channel: int, tag: int) -> bytes:
    """The frame that acknowledges everything delivered on `channel` up to and including `tag`."""
    return _ack.pack(METHOD, channel, 13, ACK, tag, 1, FRAME_END)


def ack_one(channel: int, tag: int) -> bytes:
    """The frame that acknowledges the delivery with this tag alone."""
    return _ack.pack(METHOD, channel, 13, ACK, tag, 0, FRAME_END)


# -- frames that arrive ----------------------------------------------------------------------------------------------------------------


class Deliver(NamedTuple):
    """The method frame of a delivery, without its consumer tag."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str


class Properties(NamedTuple):
    """Those properties of a message that Remit's code reads."""

    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    correlation_id: str | None
    reply_to: str | None
    message_id: str | None
    type: str | None
    user_id: str | None


def read_deliver(payload: bytes) -> Deliver:
    """Read the payload of a method frame that begins with `DELIVER`."""
    offset = 5 + payload[4]  # skips the consumer tag
    tag, redelivered = _tag_at(payload, offset)
    exchange, offset = _text_at(payload, offset + 9)
    routing_key, _ = _text_at(payload, offset)
    return Deliver(tag, bool(redelivered & 1), exchange, routing_key)


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """The tag, and whether all earlier tags are confirmed too. `payload` is of a method frame that begins with `ACK` or `NACK`."""
    tag, bits = _tag_at(payload, 4)
    return tag, bool(bits & 1)


def read_body_size(payload: bytes) -> int:
    """The length of the body in bytes, from the payload of a header frame."""
    size: int = _flags_at(payload, 4)[0]
    return size


def read_properties(payload: bytes) -> Properties:
    """The properties, from the payload of a header frame. Never raises: senders write anything there, and unreadable parts are marked."""
    try:
        return _properties(payload)
    except (IndexError, struct.error, ValueError):
        return Properties(None, None, {UNREADABLE: True}, None, None, None, None, None)


_TEXT, _TABLE, _OCTET, _TIMESTAMP = 0, -1, 1, 8
"""The format of a property. A number above 0 is the length in bytes of a property that is skipped."""
_UNREAD: Final = 8
_LENGTH_BYTES: Final = 4
# The properties by their flags, from the highest bit on: the format of each, and its place in `Properties`.
_LAYOUT: Final = {
    0x8000: (_TEXT, 0),  # content type
    0x4000: (_TEXT, 1),  # content encoding
    0x2000: (_TABLE, 2),  # headers
    0x1000: (_OCTET, _UNREAD),  # delivery mode
    0x0800: (_OCTET, _UNREAD),  # priority
    0x0400: (_TEXT, 3),  # correlation id
    0x0200: (_TEXT, 4),  # reply to
    0x0100: (_TEXT, _UNREAD),  # expiration
    0x0080: (_TEXT, 5),  # message id
    0x0040: (_TIMESTAMP, _UNREAD),
    0x0020: (_TEXT, 6),  # type
    0x0010: (_TEXT, 7),  # user id; app id and cluster id follow it, and are not read
}


def read_names(payload: bytes) -> tuple[bytes, bytes]:
    """Message id and app id, byte for byte, from the payload of a header frame whose properties we wrote. Empty if they are not there."""
    flags, offset = _flags_at(payload, 4)[1], 14
    texts: dict[int, bytes] = {}
    for flag, (format_, _) in (_LAYOUT | {_APP_ID: (_TEXT, _UNREAD)}).items():
        if not flags & flag:
            continue
        if format_ == _TEXT:
            start, offset = offset + 1, offset + 1 + payload[offset]
            texts[flag] = payload[start:offset]
        elif format_ == _TABLE:
            offset += _LENGTH_BYTES + int.from_bytes(payload[offset : offset + _LENGTH_BYTES], "big")
        else:
            offset += format_
    return texts.get(_MESSAGE_ID, b""), texts.get(_APP_ID, b"")


@lru_cache(maxsize=256)
def _layout(flags: int) -> tuple[tuple[int, int], ...]:
    return tuple(format_and_place for flag, format_and_place in _LAYOUT.items() if flags & flag)


def _properties(payload: bytes) -> Properties:
    values: list[Any] = [None, None, {}, None, None, None, None, None, None]
    offset = 14
    for format_, place in _layout(_flags_at(payload, 4)[1]):
        if format_ == _TEXT:
            values[place], offset = _text_at(payload, offset)
        elif format_ == _TABLE:
            consumed, values[place] = read_table(memoryview(payload)[offset:])
            offset += consumed
        else:
            offset += format_
    return Properties(*values[:_UNREAD])


def _text_at(payload: bytes, offset: int) -> tuple[str, int]:
    """The short string at `offset`, and the offset where it ends."""
    end = offset + 1 + payload[offset]
    return readable(payload[offset + 1 : end]), end
