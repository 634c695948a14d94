"""CloudEvents 1.0 JSON (https://cloudevents.io): structured mode out; structured and binary mode in.

`decode` refuses whatever a later stage would choke on: shared/README.md, "Input", lists why. Card data is refused before JSON is parsed.
A refusal is a value (`Malformed`); nothing here raises for what a sender did.
"""

import json
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError

from shared.card_data.effort import Effort
from shared.card_data.outline import without_long_numbers
from shared.card_data.plain import is_text
from shared.card_data.scan import CardData, find_card_data
from shared.card_data.values import as_text, place_of
from shared.contracts.base import CORRELATION_LENGTH_MAX, Contract
from shared.contracts.catalogue import BY_WIRE_NAME, is_later_version
from shared.contracts.mistakes import mistakes
from shared.contracts.times import read_time
from shared.ids import read_uuid
from shared.messaging.dead_letter_headers import ADDED_BY_REPLAY
from shared.messaging.envelope import NO_TIME, Cause, Draft, Inbound, Outgoing
from shared.messaging.topology import routing_key
from shared.records import dataclass

STRUCTURED = "application/cloudevents+json"
JSON_DATA = "application/json"

BODY_BYTES_MAX = 64 * 1024
"""Our largest message, a case with fifty attempts, stays below 40 KiB; the limit keeps a batch of 500 below the memory of one service."""
DEPTH_MAX = 32
"""The contracts nest three levels deep."""
VALUES_MAX = 1_000
"""Our largest message has 500 members and elements; a call for each of them is what JSON costs."""
DIGITS_MAX = 19
"""A bigint has at most 19 digits; Python refuses above 4 300 with an error of its own."""
HEADERS_MAX = 64
HEADER_BYTES_MAX = 8 * 1024
_UNREAD = b"unread:"
"""Before the body in its hash: never the hash of a message that could be read, whatever it says."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context
_STRING_OR_INTEGER = re.compile(rb'"(?:[^"\\]++|\\.)*+"|(?<![0-9.eE+-])(-?[0-9]{19,}+)(?![.eE])', re.DOTALL)
INTEGER_MIN, INTEGER_END = -(2**63), 10**DIGITS_MAX


class MalformedReason(StrEnum):
    """Why a message cannot be read. The value is the reason code that people and programs see."""

    TOO_LARGE = "too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    CONTENT_TYPE = "unsupported_content_type"
    CONTENT_ENCODING = "unsupported_content_encoding"
    CARD_NUMBER = "clear_card_number"
    CVV = "cvv_not_accepted"
    NOT_JSON = "not_json"
    DUPLICATE_KEY = "duplicate_key"
    TOO_DEEP = "too_deep"
    NUMBER_TOO_LONG = "number_too_long"
    NUL_CHARACTER = "nul_character"
    LONE_SURROGATE = "lone_surrogate"
    NOT_A_CLOUD_EVENT = "not_a_cloud_event"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_VERSION = "unknown_version"
    INVALID_DATA = "invalid_data"

    @classmethod
    def of(cls, found: CardData) -> "MalformedReason":
        """What cannot be looked through counts as what it may hide."""
        return cls.CVV if found is CardData.VERIFICATION_VALUE else cls.CARD_NUMBER

    @property
    def is_card_data(self) -> bool:
        return self in {MalformedReason.CARD_NUMBER, MalformedReason.CVV}

    @property
    def is_permanent(self) -> bool:
        """Whether it cannot be meant for a later version of ours: sent again as it is, it would be refused again."""
        return self is not MalformedReason.UNKNOWN_VERSION


@dataclass(frozen=True, slots=True)
class Malformed:
    """A body that cannot become a message. `detail` never shows the input. Id and type are set as far as they could be read, and the
    hashes are those of the bytes where no data could be."""

    reason: MalformedReason
    detail: str
    id: UUID | None = None
    type: str | None = None
    content_hash: bytes | None = None
    outline_hash: bytes | None = None
    correlation_id: str | None = None


class _MalformedError(Exception):
    def __init__(self, reason: MalformedReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


# -- out -----------------------------------------------------------------------------------------------------------------------------


def encode(
    draft: Draft, cause: Cause, position: int | str, *, source: str, causation_id: UUID | None = None
) -> Outgoing:
    """The draft as a message caused by `cause`: the same input gives the same bytes, today and after a crash."""
    data = draft.data
    message_id = draft.message_id or cause.message_id(position)
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(message_id),
        "type": data.wire_name,
        "source": f"/remit/{source}",
        "subject": data.subject(),
        "time": cause.time,
        "datacontenttype": JSON_DATA,
        "correlationid": cause.correlation_id,
        "causationid": str(causation_id or cause.id),
        "data": orjson.Fragment(data.__pydantic_serializer__.to_json(data)),
    }
    if cause.traceparent is not None:
        attributes["traceparent"] = cause.traceparent
    to_sender = draft.reply_to is not None
    return Outgoing(
        id=message_id,
        exchange="" if to_sender else data.exchange,
        routing_key=draft.reply_to or routing_key(data.wire_name, draft.routing_suffix),
        type=data.wire_name,
        correlation_id=draft.reply_correlation_id or cause.correlation_id,
        body=orjson.dumps(attributes, option=orjson.OPT_UTC_Z),
        droppable=to_sender,
        data=data,
        thread=cause.correlation_id,
    )


# -- in ------------------------------------------------------------------------------------------------------------------------------


def decode(
    body: bytes,
    *,
    content_type: str | None,
    content_encoding: str | None = None,
    headers: Mapping[str, Any] | None = None,
    dropped_bytes: int = 0,
    is_ours: bool = False,
) -> Inbound | Malformed:
    """Read a message of either mode. `headers` are the AMQP application headers. `dropped_bytes` is the length of a body that was dropped
    for its size; then `body` is empty. One that `is_ours` is not looked through for card data, and has no hashes: its id is enough to know
    it by."""
    headers = headers or {}
    attributes: dict[str, Any] = {}
    try:
        _refuse_large(dropped_bytes or len(body), headers)
        _refuse_unreadable(body, headers, content_encoding, is_ours=is_ours)
        attributes = _attributes(body, content_type, headers)
        return _typed(attributes, is_ours=is_ours)
    except _MalformedError as refused:
        return Malformed(refused.reason, refused.detail, *_whatever_is_readable(body, attributes, refused.reason))


_UNSEEN = frozenset(
    {
        MalformedReason.CARD_NUMBER,
        MalformedReason.CVV,
        MalformedReason.TOO_LARGE,
        MalformedReason.HEADERS_TOO_LARGE,
        MalformedReason.CONTENT_ENCODING,
    }
)


def _whatever_is_readable(
    body: bytes, attributes: dict[str, Any], reason: MalformedReason
) -> tuple[UUID | None, str | None, bytes | None, bytes | None, str | None]:
    type_ = attributes.get("type")
    correlation = attributes.get("correlationid")
    hashes: tuple[bytes | None, bytes | None] = (None, None)
    # Of what carried card data, or may have, unseen, not even a hash is kept: a card number can be found from it by trying all of them.
    if reason not in _UNSEEN and is_text(body):
        content = _canonical(str(type_), attributes["data"]) if "data" in attributes else _UNREAD + body
        hashes = _hashes(str(type_), content)
    return (
        read_uuid(attributes.get("id")),
        type_ if isinstance(type_, str) and _is_short_text(type_) else None,
        *hashes,
        correlation if isinstance(correlation, str) and _is_short_text(correlation) else None,
    )


def attributes_of(body: bytes, content_type: str | None, headers: Mapping[str, Any]) -> dict[str, Any] | None:
    """The CloudEvents attributes of a message, `data` among them, as they stand there; None if it cannot be read as an event."""
    try:
        return _attributes(body, content_type, headers)
    except _MalformedError:
        return None


def headers_too_large(headers: Mapping[str, Any]) -> bool:
    """Whether a message has more than `HEADERS_MAX` headers, or together more than `HEADER_BYTES_MAX`. Those that a replay adds do not
    count: what was taken once is taken again."""
    of_sender = {name: value for name, value in headers.items() if name not in ADDED_BY_REPLAY}
    return (
        len(of_sender) > HEADERS_MAX or sum(len(str(k)) + len(str(v)) for k, v in of_sender.items()) > HEADER_BYTES_MAX
    )


def _refuse_large(body_bytes: int, headers: Mapping[str, Any]) -> None:
    if body_bytes > BODY_BYTES_MAX:
        raise _MalformedError(
            MalformedReason.TOO_LARGE, f"the body has {body_bytes} bytes; at most {BODY_BYTES_MAX} are taken"
        )
    if headers and headers_too_large(headers):
        raise _MalformedError(
            MalformedReason.HEADERS_TOO_LARGE,
            f"at most {HEADERS_MAX} headers of {HEADER_BYTES_MAX} bytes together are taken",
        )


def _refuse_unreadable(body: bytes, headers: Mapping[str, Any], content_encoding: str | None, *, is_ours: bool) -> None:
    effort = _look_through_headers(headers) if headers and not is_ours else None
    if content_encoding and not _COMPRESSIONS.isdisjoint(re.split(r"[\s,;]+", content_encoding.lower())):
        raise _MalformedError(MalformedReason.CONTENT_ENCODING, "a compressed body is not taken: send it as it is")
    if not body.isascii():
        _refuse_what_is_not_utf8(body)
    if not is_ours and (found := find_card_data(body, effort)) is not None:
        raise _card_data(found, _place_in(body, found))


def _look_through_headers(headers: Mapping[str, Any]) -> Effort:
    """Refuse card data in what the sender wrote into headers. Returns what is left to be spent on the body: they share one account."""
    effort = Effort()
    senders = {key: value for key, value in headers.items() if key not in _BROKERS_HEADERS}
    if senders and (found := find_card_data(as_text(senders), effort)) is not None:
        raise _card_data(found, place_of(found, {"headers": senders}))
    return effort


_COMPRESSIONS = frozenset(
    {"gzip", "x-gzip", "pack200-gzip", "deflate", "zlib", "compress", "x-compress", "br", "dcb", "dcz", "zstd", "bzip2"}
    | {"xz", "lzma", "lz4", "snappy", "exi", "aes128gcm"}
)
"""Other values of content-encoding name none: some clients write `utf-8` there."""


def _refuse_what_is_not_utf8(body: bytes) -> None:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        raise _MalformedError(MalformedReason.NOT_JSON, "the body is not UTF-8") from None


_BROKERS_HEADERS = frozenset({"x-death", "x-delivery-count"})


def _card_data(found: CardData, place: str | None) -> _MalformedError:
    where = f" in {place}" if place else ""
    details = {
        CardData.NUMBER: f"a card number in the clear{where}: send a gateway token or an encrypted card",
        CardData.VERIFICATION_VALUE: (
            f"a card verification value{where} is never accepted, not even encrypted (PCI DSS 3.3.1.2)"
        ),
        CardData.TOO_MUCH: f"too much{where} looks like card data or is encoded, so nobody can say: send less of it",
    }
    return _MalformedError(MalformedReason.of(found), details[found])


def _place_in(body: bytes, found: CardData) -> str | None:
    """The path of the member, where the body can be read so far."""
    try:
        return place_of(found, parse(body))
    except _MalformedError:
        return None


def _attributes(body: bytes, content_type: str | None, headers: Mapping[str, Any]) -> dict[str, Any]:
    media_type = content_type if content_type == STRUCTURED else (content_type or "").partition(";")[0].strip().lower()
    if media_type == STRUCTURED:
        attributes = parse(body)
        if not isinstance(attributes, dict):
            raise _MalformedError(MalformedReason.NOT_A_CLOUD_EVENT, "the body is not a JSON object")
        return _data_of(attributes)
    if media_type == JSON_DATA or (not media_type and any(map(attribute_of, headers))):
        attributes = _binary_mode(headers)
        attributes["data"] = parse(body)
        return attributes
    raise _MalformedError(
        MalformedReason.CONTENT_TYPE, f"content type must be {STRUCTURED}, or {JSON_DATA} with ce- headers"
    )


def attribute_of(header: str) -> str | None:
    """The CloudEvents attribute that an AMQP header holds, or None.

    The binding for AMQP (3.1.3.1) writes `cloudEvents:` or `cloudEvents_` before its name, that for HTTP `ce-`, in letters of any case.
    """
    found = _CLOUD_EVENT_HEADER.match(header)
    return header[found.end() :].lower() if found else None


_CLOUD_EVENT_HEADER = re.compile(r"(?:ce[-_]|cloudevents[:_])(?=.)", re.IGNORECASE)


def _binary_mode(headers: Mapping[str, Any]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for header, value in headers.items():
        if (name := attribute_of(header)) is None:
            continue
        said = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if attributes.setdefault(name, said) != said:
            raise _MalformedError(MalformedReason.NOT_A_CLOUD_EVENT, "an attribute is in two headers, with two values")
    if type(time := attributes.get("time")) is int:
        attributes["time"] = _milliseconds(time)
    if not attributes:
        raise _MalformedError(MalformedReason.NOT_A_CLOUD_EVENT, f"content type {JSON_DATA} needs ce- headers")
    return attributes


def _data_of(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a structured event, with the data that it holds in base64 in its place."""
    if "data_base64" not in attributes:
        return attributes
    if "data" in attributes:
        raise _MalformedError(MalformedReason.NOT_A_CLOUD_EVENT, "it has both data and data_base64")
    try:
        data = b64decode(attributes["data_base64"], validate=True)
    except (TypeError, ValueError):
        raise _MalformedError(MalformedReason.NOT_A_CLOUD_EVENT, "data_base64 is not base64") from None
    if not is_text(data):
        raise _MalformedError(MalformedReason.NOT_JSON, "data_base64 does not hold JSON in UTF-8")
    return attributes | {"data": parse(data)}


def parse(body: bytes) -> Any:
    """JSON without what shared/README.md, "Input", warns of. Raises only `_MalformedError`."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _not_json(error) from None
    extent = _Extent()
    extent.add((value,), DEPTH_MAX)
    quotes = body.count(b'"')
    if b"\\" in body:
        unescaped = body.replace(rb"\\", b"")  # of the backslashes only those that begin an escape are left
        if b"\\u0000" in unescaped:
            raise _MalformedError(
                MalformedReason.NUL_CHARACTER, "a string holds the character NUL, which no database takes"
            )
        quotes -= unescaped.count(rb"\"")
    if 2 * extent.strings != quotes:
        raise _MalformedError(MalformedReason.DUPLICATE_KEY, "an object has the same key twice")
    if extent.has_floats and any(map(_is_too_long, _STRING_OR_INTEGER.findall(body))):
        raise _too_long()  # orjson makes a float of it
    return value


def _not_json(error: orjson.JSONDecodeError) -> _MalformedError:
    if "depth" in error.msg:
        return _too_deep()
    if "infinity" in error.msg:
        return _too_long()
    if "surrogate in string" in error.msg:
        return _MalformedError(MalformedReason.LONE_SURROGATE, "a string holds half of a surrogate pair")
    return _MalformedError(MalformedReason.NOT_JSON, f"the body is not JSON: line {error.lineno}, column {error.colno}")


class _Extent:
    """How much there is in a parsed value. Refuses more than `VALUES_MAX` members and elements, and too long integers."""

    def __init__(self) -> None:
        self.values = 0
        self.strings = 0  # names of members included
        self.has_floats = False

    def add(self, values: Iterable[Any], depth: int) -> None:
        """Refuses what holds more than `depth` levels."""
        strings = 0
        for value in values:
            kind = type(value)
            if kind is str:
                strings += 1
            elif kind is dict:
                self._enter(len(value), depth)
                strings += len(value)
                self.add(value.values(), depth - 1)
            elif kind is list:
                self._enter(len(value), depth)
                self.add(value, depth - 1)
            elif kind is float:
                self.has_floats = True
            elif kind is int and value >= INTEGER_END:
                raise _too_long()
        self.strings += strings

    def _enter(self, values: int, depth: int) -> None:
        if not depth:
            raise _too_deep()
        self.values += values or 1
        if self.values > VALUES_MAX:
            raise _MalformedError(
                MalformedReason.TOO_LARGE, f"the body has more than {VALUES_MAX} members and elements"
            )


def _is_too_long(integer: bytes) -> bool:
    return len(integer) > DIGITS_MAX + 1 or not INTEGER_MIN <= int(integer or b"0") < INTEGER_END


def _too_deep() -> _MalformedError:
    return _MalformedError(MalformedReason.TOO_DEEP, f"nested more than {DEPTH_MAX} levels deep")


def _too_long() -> _MalformedError:
    return _MalformedError(
        MalformedReason.NUMBER_TOO_LONG, f"a number is too large: an integer has {DIGITS_MAX} digits at most"
    )


def _typed(attributes: dict[str, Any], *, is_ours: bool) -> Inbound:
    if attributes.get("specversion") != "1.0":
        raise _MalformedError(MalformedReason.NOT_A_CLOUD_EVENT, "specversion must be 1.0")
    message_id = read_uuid(attributes.get("id"))
    if message_id is None:
        raise _MalformedError(MalformedReason.NOT_A_CLOUD_EVENT, "id must be a UUID")
    type_ = attributes.get("type")
    if not isinstance(type_, str):
        raise _MalformedError(MalformedReason.NOT_A_CLOUD_EVENT, "type is missing")
    contract = BY_WIRE_NAME.get(type_)
    if contract is None:
        raise _unknown(type_)
    source = attributes.get("source")
    if not isinstance(source, str) or not source:
        raise _MalformedError(MalformedReason.NOT_A_CLOUD_EVENT, "source is missing")
    data = attributes.get("data")
    if not isinstance(data, dict):
        raise _MalformedError(MalformedReason.INVALID_DATA, "data is missing or not a JSON object")
    message = _validated(contract, data)
    is_hashed = contract.kind == "command" and not is_ours
    content_hash, outline_hash = _hashes_of_command(message, data) if is_hashed else (b"", None)
    return Inbound(
        id=message_id,
        data=message,
        time=_time(attributes.get("time")),
        correlation_id=_correlation(attributes, message_id),
        causation_id=read_uuid(attributes.get("causationid")),
        traceparent=_traceparent(attributes.get("traceparent")),
        content_hash=content_hash,
        outline_hash=outline_hash,
    )


def _unknown(type_: str) -> _MalformedError:
    if is_later_version(type_):
        return _MalformedError(MalformedReason.UNKNOWN_VERSION, "this version of the type is not known here")
    return _MalformedError(MalformedReason.UNKNOWN_TYPE, "no message of this type is known here")


def _validated(contract: type[Contract], data: dict[str, Any]) -> Contract:
    try:
        return contract.model_validate(data)
    except ValidationError as error:
        raise _MalformedError(MalformedReason.INVALID_DATA, mistakes(error, within="data")) from None


def _hashes_of_command(message: Contract, data: Any) -> tuple[bytes | None, bytes | None]:
    """The content hash of a command, and that of its outline if it has long numbers.

    What no contract knows is stored nowhere, so nobody could find a card number there and take its hash away. Such a command with long
    numbers has no content hash.
    """
    canonical = _canonical(message.wire_name, data)
    whole, outline = _hashes(message.wire_name, canonical)
    if outline is None:
        return whole, None
    known = _canonical(message.wire_name, message.model_dump(mode="json", exclude_unset=True))
    return whole if known == canonical else None, outline


def _hashes(type_: str, content: bytes) -> tuple[bytes, bytes | None]:
    """SHA-256 of the content, and of its outline if there are long numbers in it. 32 bytes each."""
    outline = without_long_numbers(content)
    if outline is not None:
        outline = sha256(b"outline of %b:%b" % (type_.encode("utf-8", "surrogatepass"), outline)).digest()
    return sha256(content).digest(), outline


def _canonical(type_: str, data: Any) -> bytes:
    """The canonical (type, data): keys sorted, no white space."""
    try:
        return orjson.dumps([type_, data], option=orjson.OPT_SORT_KEYS)
    except TypeError:  # integers beyond 64 bits
        return json.dumps([type_, data], sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _time(value: Any) -> datetime:
    """When the sender says that it was, in UTC. Optional in CloudEvents; nothing of ours depends on a sender's clock."""
    if value is None:
        return NO_TIME
    try:
        moment = value if isinstance(value, datetime) else read_time(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        raise _MalformedError(
            MalformedReason.NOT_A_CLOUD_EVENT, "time must be one of RFC 3339 such as 2026-11-28T12:00:00Z"
        ) from None


def _milliseconds(count: int) -> datetime:
    """A time as AMQP 1.0 counts it, and the CloudEvents SDK for Python with it: in milliseconds since 1970."""
    try:
        return datetime.fromtimestamp(count / 1_000, UTC)
    except (ValueError, OverflowError, OSError):
        raise _MalformedError(MalformedReason.NOT_A_CLOUD_EVENT, "time is out of range") from None


def _is_short_text(value: str) -> bool:
    return 0 < len(value) <= CORRELATION_LENGTH_MAX and value.isascii() and value.isprintable()


def _correlation(attributes: dict[str, Any], message_id: UUID) -> str:
    value = attributes.get("correlationid")
    if value is None:
        return str(message_id)
    if not isinstance(value, str) or not _is_short_text(value):
        raise _MalformedError(
            MalformedReason.NOT_A_CLOUD_EVENT,
            f"correlationid must be printable ASCII of at most {CORRELATION_LENGTH_MAX} characters",
        )
    return value


def _traceparent(value: Any) -> str | None:
    """A broken trace context is ignored, as W3C Trace Context 3.2 asks: tracing must not refuse a payment."""
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None
