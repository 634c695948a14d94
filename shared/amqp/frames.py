"""AMQP 0-9-1 frames of the hot path, written and read by hand: publish, deliver, confirm, return, ack.

What a payment costs at the broker's client is frames: aiormq and pamqp make a dozen objects, three futures and a task a message (measured:
a third of a busy service's CPU). Here a message to publish is one run of bytes, and one that arrives is one `Delivery`. Everything else
(handshake, channels, declarations, heartbeats, closing) stays with the library; `shared.amqp.transport` parts the two.

Source: AMQP 0-9-1 specification, 2.3.5 (frames), 4.2 (formats); RabbitMQ's `amqp0-9-1.extended.xml` for nack.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pamqp import encode as pamqp_encode

from shared.amqp.lenient_decoding import UNREADABLE, read_table, readable

METHOD, HEADER, BODY = 1, 2, 3
KINDS: Final = frozenset({METHOD, HEADER, BODY, 8})
"""Of frames; 8 is a heartbeat."""
FRAME_END: Final = 0xCE
_END: Final = b"\xce"
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

DELIVER: Final = b"\x00\x3c\x00\x3c"  # class 60 (basic), method 60
RETURN: Final = b"\x00\x3c\x00\x32"
ACK: Final = b"\x00\x3c\x00\x50"
NACK: Final = b"\x00\x3c\x00\x78"
CONTENT_METHODS: Final = frozenset({DELIVER, RETURN})
CONFIRM_METHODS: Final = frozenset({ACK, NACK})

SHORT_STRING_BYTES_MAX: Final = 255
_PERSISTENT: Final = b"\x02"  # delivery mode

frame_prefix = struct.Struct(">BHI")
"""Kind, channel, bytes of payload; behind the payload stands `FRAME_END`."""
PREFIX_BYTES: Final = frame_prefix.size
FRAME_BYTES_MIN: Final = PREFIX_BYTES + 1
_publish_prefix = struct.Struct(">BHI4sH")
_header_prefix = struct.Struct(">BHIHHQH")
_ack = struct.Struct(">BHI4sQBB")
_flags_at = struct.Struct(">QH").unpack_from
_tag_at = struct.Struct(">QB").unpack_from

# Flags of the properties that we write (class basic, 1.8).
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _CORRELATION_ID = 0x8000, 0x2000, 0x1000, 0x0400
_REPLY_TO, _MESSAGE_ID, _TYPE, _APP_ID = 0x0200, 0x0080, 0x0020, 0x0008

# -- out -------------------------------------------------------------------------------------------------------------------------------


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
) -> bytes:
    """The frames of one persistent message; empty texts are left out. `payload_max`: bytes that a frame may carry on this connection.

    Raises ValueError, TypeError or struct.error for what AMQP cannot carry.
    """
    flags = _DELIVERY_MODE | _MESSAGE_ID | _APP_ID
    parts: list[bytes] = []
    if content_type:
        flags |= _CONTENT_TYPE
        parts.append(_short(content_type))
    if headers:
        flags |= _HEADERS
        parts.append(pamqp_encode.field_table(dict(headers)))
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
    parts.append(_known_short(app_id))
    properties = b"".join(parts)
    if len(properties) + 14 > payload_max:  # the broker closes the connection at a header frame above its maximum
        raise ValueError(f"properties and headers of {len(properties)} bytes must not reach the broker")
    head = _header_prefix.pack(HEADER, channel, 14 + len(properties), 60, 0, len(body), flags)
    method = _publish_method(channel, exchange, routing_key, mandatory)
    pieces = [body[at : at + payload_max] for at in range(0, len(body), payload_max)]  # none of an empty body
    content = [part for piece in pieces for part in (frame_prefix.pack(BODY, channel, len(piece)), piece, _END)]
    return b"".join((method, head, properties, _END, *content))


@lru_cache(maxsize=1024)
def _publish_method(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:  # noqa: FBT001 - as in the frame
    route = _short(exchange) + _short(routing_key) + (b"\x01" if mandatory else b"\x00")
    return _publish_prefix.pack(METHOD, channel, 6 + len(route), b"\x00\x3c\x00\x28", 0) + route + _END


def _short(text: str) -> bytes:
    data = text.encode()
    if len(data) > SHORT_STRING_BYTES_MAX:
        raise ValueError("a text in the properties of a message has at most 255 bytes")
    return bytes((len(data),)) + data


_known_short = lru_cache(maxsize=256)(_short)


def ack_up_to(channel: int, tag: int) -> bytes:
    """Acknowledge everything that was delivered on `channel` up to `tag`."""
    return _ack.pack(METHOD, channel, 13, ACK, tag, 1, FRAME_END)


# -- in --------------------------------------------------------------------------------------------------------------------------------


class Deliver(NamedTuple):
    tag: int
    redelivered: bool
    exchange: str
    routing_key: str


class Properties(NamedTuple):
    """Of a message, as far as somebody here reads them."""

    content_type: str | None
    headers: dict[str, Any]
    correlation_id: str | None
    reply_to: str | None
    message_id: str | None
    type: str | None


def read_deliver(payload: bytes) -> Deliver:
    """Of a method frame that begins with `DELIVER`."""
    at = 5 + payload[4]  # behind the consumer tag
    tag, redelivered = _tag_at(payload, at)
    exchange, at = _text_at(payload, at + 9)
    routing_key, _ = _text_at(payload, at)
    return Deliver(tag, bool(redelivered & 1), exchange, routing_key)


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """Tag, and whether everything before it is meant, too; of a method frame that begins with `ACK` or `NACK`."""
    tag, bits = _tag_at(payload, 4)
    return tag, bool(bits & 1)


def read_body_size(payload: bytes) -> int:
    """Of a header frame."""
    size: int = _flags_at(payload, 4)[0]
    return size


def read_properties(payload: bytes) -> Properties:
    """Of a header frame. A sender may write whatever it likes into them: what cannot be read is marked, and nothing is raised."""
    try:
        return _properties(payload)
    except (IndexError, struct.error, ValueError):
        return Properties(None, {UNREADABLE: True}, None, None, None, None)


_TEXT, _TABLE, _OCTET, _TIMESTAMP = 0, -1, 1, 8
"""What a property is made of; above 0, so many bytes that nobody here reads."""
_UNREAD: Final = 6
# By their flags, from the highest bit on: what each is made of, and its place in `Properties`.
_LAYOUT: Final = {
    0x8000: (_TEXT, 0),  # content type
    0x4000: (_TEXT, _UNREAD),  # content encoding
    0x2000: (_TABLE, 1),  # headers
    0x1000: (_OCTET, _UNREAD),  # delivery mode
    0x0800: (_OCTET, _UNREAD),  # priority
    0x0400: (_TEXT, 2),  # correlation id
    0x0200: (_TEXT, 3),  # reply to
    0x0100: (_TEXT, _UNREAD),  # expiration
    0x0080: (_TEXT, 4),  # message id
    0x0040: (_TIMESTAMP, _UNREAD),
    0x0020: (_TEXT, 5),  # type; behind it stand user id, app id and cluster id
}


@lru_cache(maxsize=256)
def _layout(flags: int) -> tuple[tuple[int, int], ...]:
    return tuple(made_of for flag, made_of in _LAYOUT.items() if flags & flag)


def _properties(payload: bytes) -> Properties:
    values: list[Any] = [None, {}, None, None, None, None, None]
    at = 14
    for made_of, place in _layout(_flags_at(payload, 4)[1]):
        if made_of == _TEXT:
            values[place], at = _text_at(payload, at)
        elif made_of == _TABLE:
            consumed, values[place] = read_table(memoryview(payload)[at:])
            at += consumed
        else:
            at += made_of
    return Properties(*values[:_UNREAD])


def _text_at(payload: bytes, at: int) -> tuple[str, int]:
    """A short string and where it ends."""
    end = at + 1 + payload[at]
    return readable(payload[at + 1 : end]), end
