"""Decoders for pamqp that read whatever a sender put into properties and headers.

pamqp raises on a short string that is not UTF-8, a time beyond the year 9999, an unknown field type, or a table nested without end; it
raises in the connection's reader, so one such message would end the connection of every consumer, again at each redelivery (found with
`message_id` = FF FE). AMQP 0-9-1 does not promise UTF-8 in short strings. Here what is readable is read, and the rest is marked, so that
the message reaches the code that sets it aside. pamqp looks its decoders up in two public tables; these entries replace theirs.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from pamqp import decode
from pamqp.common import Struct

DEPTH_MAX: Final = 16
"""Nesting of header tables and arrays that is read; the broker's own `x-death` needs three."""
UNREADABLE: Final = "x-remit-unreadable"
"""A header set where the rest of a table could not be read."""
LENGTH_BYTES: Final = 4

_Decoder = Callable[[bytes], tuple[int, Any]]


def _short_string(value: bytes) -> tuple[int, str]:
    length = value[0]
    return length + 1, value[1 : length + 1].decode("utf-8", "replace")


def _timestamp(value: bytes) -> tuple[int, datetime]:
    try:
        consumed, moment = decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, datetime.fromtimestamp(0, tz=UTC)
    return consumed, moment


def _table_at(depth: int) -> _Decoder:
    def table(value: bytes) -> tuple[int, dict[str, Any]]:
        end = LENGTH_BYTES + int(Struct.integer.unpack(value[:LENGTH_BYTES])[0])
        fields: dict[str, Any] = {}
        offset = LENGTH_BYTES
        try:
            while offset < end:
                consumed, key = _short_string(value[offset:end])
                offset += consumed
                consumed, fields[key] = _field(value[offset:end], depth)
                offset += consumed
        except (ValueError, IndexError, OverflowError, OSError):
            fields[UNREADABLE] = True
        return end, fields

    return table


def _array_at(depth: int) -> _Decoder:
    def array(value: bytes) -> tuple[int, list[Any]]:
        end = LENGTH_BYTES + int(Struct.integer.unpack(value[:LENGTH_BYTES])[0])
        items: list[Any] = []
        offset = LENGTH_BYTES
        try:
            while offset < end:
                consumed, item = _field(value[offset:end], depth)
                offset += consumed
                items.append(item)
        except (ValueError, IndexError, OverflowError, OSError):
            items.append(UNREADABLE)
        return end, items

    return array


def _field(value: bytes, depth: int) -> tuple[int, Any]:
    kind = value[:1]
    if kind in {b"F", b"A"}:
        if depth >= DEPTH_MAX:
            raise ValueError("nested too deep")
        consumed, inner = (_table_at if kind == b"F" else _array_at)(depth + 1)(value[1:])
    elif kind == b"T":
        consumed, inner = _timestamp(value[1:])
    else:
        try:
            consumed, inner = decode.TABLE_MAPPING[kind](value[1:])
        except KeyError:
            raise ValueError("unknown type of field") from None
    return consumed + 1, inner


def install() -> None:
    """Put these decoders into pamqp's tables, for this process."""
    decode.METHODS |= {"shortstr": _short_string, "table": _table_at(0), "array": _array_at(0), "timestamp": _timestamp}
    decode.TABLE_MAPPING |= {b"F": _table_at(0), b"A": _array_at(0), b"T": _timestamp}
