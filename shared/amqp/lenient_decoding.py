"""Decoders that read whatever a sender put into properties and headers.

pamqp raises on a short string that is not UTF-8, a time beyond the year 9999, an unknown field type, or a table nested without end; it
raises in the connection's reader, so one such message would end the connection of every consumer, again at each redelivery (found with
`message_id` = FF FE). AMQP 0-9-1 does not promise UTF-8 in short strings. Here what is readable is read, and the rest is marked, so that
the message reaches the code that sets it aside.

They read a view of the frame and copy nothing but the texts: an array of 120 000 empty fields fits into one frame, and copying what is left
of it at each of them stopped the loop for half a second (found by the fuzzer).
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from pamqp import decode
from pamqp.common import Struct

DEPTH_MAX: Final = 16
"""Nesting of header tables and arrays that is read; the broker's own `x-death` needs three."""
UNREADABLE: Final = "x-unreadable"
"""A header set where the rest of a table could not be read."""
LENGTH_BYTES: Final = 4
TIMESTAMP_BYTES: Final = 8

_UNREADABLE_ERRORS = (ValueError, OverflowError, OSError)
_Decoder = Callable[[bytes | memoryview], tuple[int, Any]]


def readable(text: bytes) -> str:
    """The text of a short string. One `?` for each byte that cannot be read, so that what came in one fits into one, and an answer can go
    back under a strange correlation id. NUL is as foreign: no database takes it, and a `reply_to` with one would cost a healthy command."""
    if text.isascii() and b"\0" not in text:
        return text.decode("ascii")
    return text.decode("utf-8", "replace").replace("\ufffd", "?").replace("\0", "?")


def _short_string(value: bytes | memoryview) -> tuple[int, str]:
    if not value:
        raise ValueError("no length of a short string")
    length = value[0]
    return length + 1, readable(bytes(value[1 : length + 1]))


def _long_string(value: bytes | memoryview) -> tuple[int, str | bytes]:
    end = _end(value)
    text = bytes(value[LENGTH_BYTES:end])
    try:
        return end, text.decode("utf-8")
    except UnicodeDecodeError:
        return end, text


def _end(value: bytes | memoryview) -> int:
    """Where the text, table or array ends whose length stands at the beginning."""
    try:
        return LENGTH_BYTES + int(Struct.integer.unpack(value[:LENGTH_BYTES])[0])
    except struct.error:
        raise ValueError("no length") from None


def _timestamp(value: bytes | memoryview) -> tuple[int, datetime]:
    try:
        consumed, moment = decode.timestamp(bytes(value[:TIMESTAMP_BYTES]))
    except _UNREADABLE_ERRORS:
        return TIMESTAMP_BYTES, datetime.fromtimestamp(0, tz=UTC)
    return consumed, moment


def _table_at(depth: int) -> _Decoder:
    def table(value: bytes | memoryview) -> tuple[int, dict[str, Any]]:
        end = _end(value)
        fields_of = memoryview(value)[:end]
        fields: dict[str, Any] = {}
        offset = LENGTH_BYTES
        try:
            while offset < end:
                consumed, key = _short_string(fields_of[offset:])
                offset += consumed
                consumed, fields[key] = _field(fields_of[offset:], depth)
                offset += consumed
        except _UNREADABLE_ERRORS:
            fields[UNREADABLE] = True
        return end, fields

    return table


def _array_at(depth: int) -> _Decoder:
    def array(value: bytes | memoryview) -> tuple[int, list[Any]]:
        end = _end(value)
        fields_of = memoryview(value)[:end]
        items: list[Any] = []
        offset = LENGTH_BYTES
        try:
            while offset < end:
                consumed, item = _field(fields_of[offset:], depth)
                offset += consumed
                items.append(item)
        except _UNREADABLE_ERRORS:
            items.append(UNREADABLE)
        return end, items

    return array


def _field(value: memoryview, depth: int) -> tuple[int, Any]:
    kind = bytes(value[:1])
    if kind in {b"F", b"A"}:
        if depth >= DEPTH_MAX:
            raise ValueError("nested too deep")
        consumed, inner = (_table_at if kind == b"F" else _array_at)(depth + 1)(value[1:])
    else:
        try:
            consumed, inner = _FIELDS[kind](value[1:])
        except KeyError:
            raise ValueError("unknown type of field") from None
    return consumed + 1, inner


_FIELDS: dict[bytes, Callable[..., tuple[int, Any]]] = decode.TABLE_MAPPING | {b"S": _long_string, b"T": _timestamp}


read_table: Final = _table_at(0)
"""Bytes consumed, and the fields, of a table at the beginning of these bytes."""
