"""Inputs that must be refused: each has a name, and the one reason for which it must be refused.

They are all inputs that shared/README.md, "Input", warns of, and every crasher found since.
The fuzzer starts from these. The normal test suite sends each through the codec, the border and the intake of dead letters.
"""

import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

from shared.messaging.codec import BODY_BYTES_MAX, JSON_DATA, STRUCTURED, MalformedReason

ID = "0190a5c4-0000-7000-8000-000000000001"
PAN = "4242424242424242"
DATA: dict[str, Any] = {"invoice_id": "INV-1", "reason": "issued twice"}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": ID,
    "type": "remit.invoice.VoidInvoice.v1",
    "source": "/billing",
    "data": DATA,
}


@dataclass(frozen=True, slots=True)
class Poison:
    """A message as it would arrive, and why it is refused. `upgradable`: a later version of Remit may be able to read it."""

    reason: MalformedReason
    body: bytes
    content_type: str | None = STRUCTURED
    headers: dict[str, Any] = field(default_factory=dict)
    content_encoding: str | None = None

    @property
    def upgradable(self) -> bool:
        return not self.reason.is_permanent


def event(**changes: Any) -> bytes:
    """A healthy command with changes; None removes a member."""
    return json.dumps({name: value for name, value in (EVENT | changes).items() if value is not None}).encode()


def reason(raw: bytes) -> bytes:
    """The command with these bytes as its reason, quotes included."""
    return event().replace(b'"issued twice"', raw)


def nested(opening: bytes, closing: bytes, depth: int) -> bytes:
    return reason(opening * depth + closing * depth)


HEALTHY = event()
DEEP = 100_000
ROOM = BODY_BYTES_MAX - 1_000
"""Bytes for one member in a body that is as large as allowed."""

CORPUS: dict[str, Poison] = {
    "NUL, escaped": Poison(MalformedReason.NUL_CHARACTER, reason(rb'"a\u0000b"')),
    "NUL, raw": Poison(MalformedReason.NOT_JSON, reason(b'"a\x00b"')),
    "NUL in a name": Poison(MalformedReason.NUL_CHARACTER, reason(rb'{"a\u0000": 1}')),
    "NUL behind an escaped backslash": Poison(MalformedReason.NUL_CHARACTER, reason(rb'"\\\u0000"')),
    "high surrogate alone": Poison(MalformedReason.LONE_SURROGATE, reason(rb'"\ud800"')),
    "low surrogate alone": Poison(MalformedReason.LONE_SURROGATE, reason(rb'"\udc00\ud800"')),
    "surrogate as UTF-8": Poison(MalformedReason.NOT_JSON, reason(b'"\xed\xa0\x80"')),
    "duplicate key": Poison(
        MalformedReason.DUPLICATE_KEY, event().replace(b'"reason"', b'"invoice_id": "INV-2", "reason"')
    ),
    "duplicate key, escaped": Poison(
        MalformedReason.DUPLICATE_KEY, event().replace(b'"reason"', rb'"\u0069nvoice_id": "INV-2", "reason"')
    ),
    "duplicate id": Poison(MalformedReason.DUPLICATE_KEY, event().replace(b'"source"', b'"id": "17", "source"')),
    "duplicate key, deep": Poison(MalformedReason.DUPLICATE_KEY, reason(b'[{"a": {"b": 1, "b": 2}}]')),
    "arrays 100 000 deep": Poison(MalformedReason.TOO_LARGE, nested(b"[", b"]", DEEP)),
    "arrays as deep as the body allows": Poison(MalformedReason.TOO_DEEP, nested(b"[", b"]", ROOM // 2)),
    "arrays never closed": Poison(MalformedReason.TOO_DEEP, b"[" * BODY_BYTES_MAX),
    "objects as deep as the body allows": Poison(MalformedReason.TOO_DEEP, nested(b'{"":', b"}", ROOM // 6)),
    "one level too deep": Poison(MalformedReason.TOO_DEEP, nested(b"[", b"]", 31)),
    "integer of 20 digits": Poison(MalformedReason.NUMBER_TOO_LONG, reason(b"1" + b"0" * 19)),
    "integer of 5 000 digits": Poison(MalformedReason.NUMBER_TOO_LONG, reason(b"9" * 5_000)),
    "integer as long as the body allows": Poison(MalformedReason.NUMBER_TOO_LONG, reason(b"-" + b"9" * ROOM)),
    "float as long as the body allows": Poison(MalformedReason.INVALID_DATA, reason(b"0." + b"9" * ROOM)),
    "float out of range": Poison(MalformedReason.NUMBER_TOO_LONG, reason(b"1e999999999")),
    "Infinity": Poison(MalformedReason.NOT_JSON, reason(b"-Infinity")),
    "NaN": Poison(MalformedReason.NOT_JSON, reason(b"NaN")),
    "64 KiB of text": Poison(MalformedReason.INVALID_DATA, reason(b'"' + b"x" * ROOM + b'"')),
    "64 KiB and a byte": Poison(MalformedReason.TOO_LARGE, HEALTHY + b" " * (BODY_BYTES_MAX + 1 - len(HEALTHY))),
    "64 KiB of spaces": Poison(MalformedReason.NOT_JSON, b" " * BODY_BYTES_MAX),
    "64 KiB of members": Poison(
        MalformedReason.TOO_LARGE, reason(json.dumps({str(n): 0 for n in range(ROOM // 12)}).encode())
    ),
    "empty": Poison(MalformedReason.NOT_JSON, b""),
    "words": Poison(MalformedReason.NOT_JSON, b"PAY ME"),
    "cut off": Poison(MalformedReason.NOT_JSON, HEALTHY[:-1]),
    "byte order mark": Poison(MalformedReason.NOT_JSON, b"\xef\xbb\xbf" + HEALTHY),
    "UTF-16": Poison(MalformedReason.NOT_JSON, HEALTHY.decode().encode("utf-16")),
    "not UTF-8": Poison(MalformedReason.NOT_JSON, reason(b'"\xff"')),
    "an array": Poison(MalformedReason.NOT_A_CLOUD_EVENT, b"[" + HEALTHY + b"]"),
    "old CloudEvents": Poison(MalformedReason.NOT_A_CLOUD_EVENT, event(specversion="0.3")),
    "id that is no UUID": Poison(MalformedReason.NOT_A_CLOUD_EVENT, event(id="17")),
    "unknown type": Poison(MalformedReason.UNKNOWN_TYPE, event(type="remit.invoice.BurnInvoice.v1")),
    "unknown version": Poison(MalformedReason.UNKNOWN_VERSION, event(type="remit.invoice.VoidInvoice.v2")),
    "no content type": Poison(MalformedReason.CONTENT_TYPE, HEALTHY, None),
    "text/plain": Poison(MalformedReason.CONTENT_TYPE, HEALTHY, "text/plain"),
    "content type of 255 strange characters": Poison(MalformedReason.CONTENT_TYPE, HEALTHY, "?" * 255),
    "JSON without ce- headers": Poison(MalformedReason.NOT_A_CLOUD_EVENT, HEALTHY, JSON_DATA),
    "batch of CloudEvents": Poison(MalformedReason.CONTENT_TYPE, HEALTHY, "application/cloudevents-batch+json"),
    "compressed": Poison(MalformedReason.CONTENT_ENCODING, gzip.compress(HEALTHY), content_encoding="gzip"),
    "compressed, one of two encodings": Poison(
        MalformedReason.CONTENT_ENCODING, zlib.compress(HEALTHY), content_encoding="identity, Deflate"
    ),
    "compressed, unsaid": Poison(MalformedReason.NOT_JSON, gzip.compress(HEALTHY)),
    "one huge header": Poison(MalformedReason.HEADERS_TOO_LARGE, HEALTHY, headers={"note": "x" * 100_000}),
    "a hundred headers": Poison(MalformedReason.HEADERS_TOO_LARGE, HEALTHY, headers={f"h{n}": n for n in range(100)}),
    "a header with 100 000 empty fields": Poison(
        MalformedReason.HEADERS_TOO_LARGE, HEALTHY, headers={"a": [None] * 100_000}
    ),
    "card number": Poison(MalformedReason.CARD_NUMBER, reason(f'"{PAN}"'.encode())),
    "card number in a name": Poison(MalformedReason.CARD_NUMBER, reason(f'{{"{PAN}": 1}}'.encode())),
    "card number, escaped": Poison(MalformedReason.CARD_NUMBER, reason(rf'"\u0034\u0032{PAN[2:]}"'.encode())),
    "card number in a header": Poison(MalformedReason.CARD_NUMBER, HEALTHY, headers={"ce-note": PAN}),
    "card number in a header's name": Poison(MalformedReason.CARD_NUMBER, HEALTHY, headers={f"ce-{PAN}": "x"}),
    "card number in a header's table": Poison(
        MalformedReason.CARD_NUMBER, HEALTHY, headers={"note": {"deep": [PAN.encode()]}}
    ),
    "security code": Poison(MalformedReason.CVV, reason(b'{"cvc": "123"}')),
    # -- crashers ------------------------------------------------------------------------------------------------------
    "escaped quotes, never ended": Poison(  # took 15 s: the string was read again from each quote in it
        MalformedReason.NOT_JSON, b"[" * 33 + b'"' + rb"\"" * (ROOM // 2)
    ),
    "id with underscores": Poison(MalformedReason.NOT_A_CLOUD_EVENT, event(id="0190a5c4-0000-7000-8000-0000000_0001")),
    "id with a digit of another alphabet": Poison(
        MalformedReason.NOT_A_CLOUD_EVENT, event(id="0190a5c4-0000-7000-8000-00000000000\uff11")
    ),
}

HEALTHY_AFTER_ALL: dict[str, bytes] = {
    "the six characters of an escape": reason(rb'"\\u0000 is NUL in JSON"'),
    "a pair of surrogates": reason(rb'"\ud83d\ude00"'),
    "thirty-two levels": event(note=json.loads("[" * 31 + "]" * 31)),
    "an integer of 19 digits": event(note=10**18),
}
"""Inputs that look like poison and are healthy."""
