"""Decoders that never fail, whatever a sender wrote into the properties and headers of a message.

pamqp raises on a short string that is not UTF-8, on a time beyond the year 9999, on an unknown field type, and on a table nested without
end. It raises in the connection's reader. So one such message ends the connection of every consumer, and does so again at each redelivery
(found with `message_id` = FF FE). AMQP 0-9-1 does not promise UTF-8 in short strings. The decoders here read what is readable and mark the
rest, so the message reaches the code that dead-letters it.

They read a view of the frame and copy only texts. One frame can hold an array of 120 000 empty fields. Copying the rest of the frame at
each field stopped the event loop for half a second (found by the fuzzer).
"""

import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from pamqp import decode
from pamqp.common import Struct

DEPTH_MAX: Final = 16
"""How deep header tables and arrays may be nested to be read. The broker's own `x-death` needs three levels."""
FIELDS_MAX: Final = 1_000
"""How many fields of a header table are read, those within others included. A frame has room for 120 000 empty ones: as Python objects they
take megabytes, and tens of milliseconds while the event loop reads the socket. A healthy message has a dozen."""
UNREADABLE: Final = "x-unreadable"
"""The header that marks a table whose rest could not be read."""
LENGTH_BYTES: Final = 4
TIMESTAMP_BYTES: Final = 8

_UNREADABLE_ERRORS = (ValueError, OverflowError, OSError)


def readable(text: bytes) -> str:
    """The text of a short string, with a mark for each byte that cannot be read, so that `as_it_came` gives the same bytes back.

    NUL is marked as well, since PostgreSQL does not take it. The marks are characters for private use, which no screen shows and
    `str.isprintable` refuses. Bytes that spell such a character are marked, too: otherwise two texts would read alike.
    """
    if text.isascii() and b"\0" not in text:
        return text.decode("ascii")
    read = text.decode("utf-8", "surrogateescape")
    return _MARKS.sub(_as_escapes, read).translate(_MARK_OF)


def as_it_came(text: str) -> bytes:
    """The bytes behind a `readable` text. A text that holds no mark is UTF-8."""
    if text.isascii():
        return text.encode("ascii")
    return text.translate(_BEHIND_MARK).encode("utf-8", "surrogateescape")


def has_marks(text: str) -> bool:
    """Whether a `readable` text has bytes that could not be read."""
    return _MARKS.search(text) is not None


_FIRST_MARK: Final = 0xE100
_FIRST_ESCAPE: Final = 0xDC00  # of Python's `surrogateescape`, which begins at 0x80
_MARKS: Final = re.compile("[\ue100\ue180-\ue1ff]")
_MARK_OF: Final = {0: _FIRST_MARK} | {_FIRST_ESCAPE + byte: _FIRST_MARK + byte for byte in range(0x80, 0x100)}
_BEHIND_MARK: Final = {mark: code for code, mark in _MARK_OF.items()}


def _as_escapes(mark: re.Match[str]) -> str:
    return mark[0].encode().decode("ascii", "surrogateescape")


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
    """The offset where a text, table or array ends. Its length is at the beginning of `value`."""
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


class _Allowance:
    """How many fields may still be read of one table."""

    def __init__(self) -> None:
        self.left = FIELDS_MAX

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError("too many fields")


def read_table(value: bytes | memoryview) -> tuple[int, dict[str, Any]]:
    """Read the table at the beginning of the given bytes. Returns the number of bytes consumed, and the fields."""
    return _table(value, 0, _Allowance())


def _table(value: bytes | memoryview, depth: int, allowance: _Allowance) -> tuple[int, dict[str, Any]]:
    end = _end(value)
    fields_of = memoryview(value)[:end]
    fields: dict[str, Any] = {}
    offset = LENGTH_BYTES
    try:
        while offset < end:
            consumed, key = _short_string(fields_of[offset:])
            offset += consumed
            consumed, fields[key] = _field(fields_of[offset:], depth, allowance)
            offset += consumed
    except _UNREADABLE_ERRORS:
        fields[UNREADABLE] = True
    return end, fields


def _array(value: bytes | memoryview, depth: int, allowance: _Allowance) -> tuple[int, list[Any]]:
    end = _end(value)
    fields_of = memoryview(value)[:end]
    items: list[Any] = []
    offset = LENGTH_BYTES
    try:
        while offset < end:
            consumed, item = _field(fields_of[offset:], depth, allowance)
            offset += consumed
            items.append(item)
    except _UNREADABLE_ERRORS:
        items.append(UNREADABLE)
    return end, items


def _field(value: memoryview, depth: int, allowance: _Allowance) -> tuple[int, Any]:
    allowance.spend()
    kind = bytes(value[:1])
    if kind in {b"F", b"A"}:
        if depth >= DEPTH_MAX:
            raise ValueError("nested too deep")
        consumed, inner = (_table if kind == b"F" else _array)(value[1:], depth + 1, allowance)
    else:
        try:
            consumed, inner = _FIELDS[kind](value[1:])
        except KeyError:
            raise ValueError("unknown type of field") from None
    return consumed + 1, inner


_FIELDS: dict[bytes, Callable[..., tuple[int, Any]]] = decode.TABLE_MAPPING | {b"S": _long_string, b"T": _timestamp}
