"""Cuts the bytes of a connection into protocol frames, however the network splits or joins them, and names the frames that trials drop.

Sources: AMQP 0-9-1 specification, 2.3 (frames); PostgreSQL documentation, "Frontend/Backend Protocol" (message flow and formats).
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol


class Flow(Enum):
    """A direction of a connection."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"

    @property
    def opposite(self) -> "Flow":
        return Flow.TO_CLIENT if self is Flow.TO_SERVER else Flow.TO_SERVER


class FrameEvent(Enum):
    """A kind of frame that can be dropped alone."""

    CONFIRM = "the broker's confirm of a publish"
    ACK = "the client's acknowledgement of deliveries"
    COMMIT = (
        "the reply that makes writes durable: to a COMMIT, or to a writing statement that is a transaction of its own"
    )
    ANSWER = "the first bytes of an HTTP answer"
    BODY = "a body that the broker delivers or returns, or a part of one"
    PUBLISHED = "a part of a message that a client publishes: where it goes, its properties, or of its body"


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes that pass or vanish together. `about`: for a COMMIT, the statements that it made durable; for a part of a
    message, its text."""

    raw: bytes
    event: FrameEvent | None = None
    about: str = ""


class Session(Protocol):
    """The two streams of one connection."""

    def cut(self, flow: Flow, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes."""
        ...


Speaks = Callable[[], Session]


class Plain:
    """Bytes without any protocol."""

    def cut(self, _flow: Flow, data: bytes) -> Iterator[Frame]:
        yield Frame(data)


class Http:
    """Requests and answers alternate on a connection: an answer begins when the server sends after the client did."""

    def __init__(self) -> None:
        self._asked = False

    def cut(self, flow: Flow, data: bytes) -> Iterator[Frame]:
        begins = self._asked and flow is Flow.TO_CLIENT
        self._asked = flow is Flow.TO_SERVER
        yield Frame(data, FrameEvent.ANSWER if begins else None)


_AMQP_HEADER: Final = b"AMQP"
_AMQP_HEADER_BYTES: Final = 8
_AMQP_PAYLOAD_AT: Final = 7
_AMQP_ENVELOPE_BYTES: Final = 8  # type, channel and size before the payload, the end mark after it
_METHOD_FRAME: Final = 1
_HEADER_FRAME: Final = 2
_BODY_FRAME: Final = 3
_BASIC_ACK: Final = b"\x00\x3c\x00\x50"  # class 60, method 80
_BASIC_PUBLISH: Final = b"\x00\x3c\x00\x28"  # class 60, method 40


class Amqp:
    """AMQP 0-9-1. A server sends `Basic.Ack` only on a channel with publisher confirms; a client sends it only for deliveries."""

    def __init__(self) -> None:
        self._rest = dict.fromkeys(Flow, b"")

    def cut(self, flow: Flow, data: bytes) -> Iterator[Frame]:
        rest = self._rest[flow] + data
        at = 0
        while size := _amqp_frame_bytes(rest, at):
            yield _amqp_frame(flow, rest[at : at + size])
            at += size
        self._rest[flow] = rest[at:]


def _amqp_frame_bytes(data: bytes, at: int) -> int:
    """The length of the frame at `at`; 0 if it is not complete."""
    if data.startswith(_AMQP_HEADER, at):  # no frame begins with its first letter
        size = _AMQP_HEADER_BYTES
    elif len(data) - at < _AMQP_ENVELOPE_BYTES:
        return 0
    else:
        size = _AMQP_ENVELOPE_BYTES + int.from_bytes(data[at + 3 : at + 7], "big")
    return size if len(data) - at >= size else 0


def _amqp_frame(flow: Flow, raw: bytes) -> Frame:
    if raw[0] == _METHOD_FRAME and raw[7:11] == _BASIC_ACK:
        return Frame(raw, FrameEvent.CONFIRM if flow is Flow.TO_CLIENT else FrameEvent.ACK)
    if flow is Flow.TO_CLIENT:
        return _with_text(raw, FrameEvent.BODY) if raw[0] == _BODY_FRAME else Frame(raw)
    is_published = raw[0] in {_HEADER_FRAME, _BODY_FRAME} or raw[7:11] == _BASIC_PUBLISH
    return _with_text(raw, FrameEvent.PUBLISHED) if is_published else Frame(raw)


def _with_text(raw: bytes, event: FrameEvent) -> Frame:
    return Frame(raw, event, raw[_AMQP_PAYLOAD_AT:-1].decode("latin-1"))


_WRITES: Final = re.compile(r"\b(INSERT|UPDATE|DELETE|TRUNCATE|CREATE|DROP|ALTER)\b", re.IGNORECASE)
_START_CODES_WITHOUT_SESSION: Final = {80877103, 80877104}  # requests for TLS and for GSSAPI; one byte answers each
_IDLE: Final = b"I"


@dataclass(slots=True)
class _Reply:
    """What the server has sent since it was last ready."""

    held: bytes = b""
    failed: bool = False
    committed: bool = False


@dataclass(slots=True)
class Postgres:
    """PostgreSQL 3.0 without TLS. The end of a reply (CommandComplete to ReadyForQuery) is one frame. A statement that is a transaction of
    its own is committed between the two, and only a reply to durable writes may be called a lost reply."""

    _rest: dict[Flow, bytes] = field(default_factory=lambda: dict.fromkeys(Flow, b""))
    _started: bool = False
    _one_byte_answers: int = 0
    _opaque: bool = False
    _prepared: dict[str, str] = field(default_factory=dict)
    _portals: dict[str, str] = field(default_factory=dict)
    _executed: list[str] = field(default_factory=list)
    _requests: deque[list[str]] = field(default_factory=deque)
    _transaction: list[str] = field(default_factory=list)
    _status: bytes = _IDLE
    _reply: _Reply = field(default_factory=_Reply)

    def cut(self, flow: Flow, data: bytes) -> Iterator[Frame]:
        if self._opaque:
            yield Frame(data)
            return
        self._rest[flow] += data
        while raw := self._next(flow):
            self._rest[flow] = self._rest[flow][len(raw) :]
            if flow is Flow.TO_SERVER:
                self._read_client(raw)
                yield Frame(raw)
            else:
                yield from self._read_server(raw)

    def _next(self, flow: Flow) -> bytes:
        """The next complete message; empty if there is none."""
        rest = self._rest[flow]
        if flow is Flow.TO_CLIENT and self._one_byte_answers:
            return rest[:1]
        typed = int(flow is Flow.TO_CLIENT or self._started)
        if len(rest) < typed + 4:
            return b""
        size = typed + int.from_bytes(rest[typed : typed + 4], "big")
        return rest[:size] if len(rest) >= size else b""

    # -- the client --------------------------------------------------------------------------------------------------------------------

    def _read_client(self, raw: bytes) -> None:
        if not self._started:
            if int.from_bytes(raw[4:8], "big") in _START_CODES_WITHOUT_SESSION:
                self._one_byte_answers += 1
            else:
                self._started = True
            return
        match raw[:1]:
            case b"P":  # Parse: name, query
                name, query = _texts(raw, 2)
                self._prepared[name] = query
            case b"B":  # Bind: portal, prepared statement
                portal, name = _texts(raw, 2)
                self._portals[portal] = self._prepared.get(name, "")
            case b"E":  # Execute: portal
                self._executed.append(self._portals.get(_texts(raw, 1)[0], ""))
            case b"Q":
                self._requests.append([_texts(raw, 1)[0]])
            case b"S":
                self._requests.append(self._executed)
                self._executed = []
            case _:
                pass

    # -- the server --------------------------------------------------------------------------------------------------------------------

    def _read_server(self, raw: bytes) -> Iterator[Frame]:
        if self._one_byte_answers:
            self._one_byte_answers -= 1
            self._opaque = raw == b"S"  # the server agreed: from here on everything is encrypted
            yield Frame(raw)
            return
        reply = self._reply
        match raw[:1]:
            case b"C":
                reply.committed |= raw[5:-1] == b"COMMIT"
                reply.held += raw
                return
            case b"Z":
                self._reply = _Reply()
                yield self._ready(reply.held + raw, reply, raw[5:6])
                return
            case b"E":
                reply.failed = True
            case _:
                pass
        reply.held, held = b"", reply.held
        yield Frame(held + raw)

    def _ready(self, raw: bytes, reply: _Reply, status: bytes) -> Frame:
        before, self._status = self._status, status
        statements = self._requests.popleft() if self._requests else []
        if status != _IDLE:
            self._transaction += statements
            return Frame(raw)
        whole, self._transaction = [*self._transaction, *statements], []
        about = "\n".join(whole)
        alone = before == _IDLE and not reply.failed and _WRITES.search(about) is not None
        return Frame(raw, FrameEvent.COMMIT, about) if reply.committed or alone else Frame(raw)


def _texts(raw: bytes, count: int) -> list[str]:
    """The first `count` zero-terminated strings of a message."""
    return [part.decode("utf-8", "replace") for part in raw[5:].split(b"\0", count)[:count]]
