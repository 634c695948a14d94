"""Turns a fuzzer's bytes into an input of each border, and holds the seeds from which it starts."""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.amqp.lenient_decoding import readable
from shared.contracts import schemas
from shared.contracts.catalogue import MESSAGES
from shared.messaging.codec import JSON_DATA, STRUCTURED
from tests.fuzz import holds
from tests.fuzz.corpus import CORPUS, EVENT, HEALTHY, ID, PAN
from tests.fuzz.holds import GATEWAY_ID, FuzzedReply

T = TypeVar("T")
EXAMPLES = [json.dumps(example).encode() for message in MESSAGES for example in schemas.examples_of(message)]


class FuzzedBytes:
    """A fuzzer's bytes, taken piece by piece. An input that ends early is read as zeros."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def take(self, count: int) -> bytes:
        taken, self._raw = self._raw[:count], self._raw[count:]
        return taken

    def rest(self) -> bytes:
        return self.take(len(self._raw))

    def number(self) -> int:
        return int.from_bytes(self.take(1), "big")

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.number() % len(choices)]

    def short(self) -> str | None:
        """A text as an AMQP short string is read; None: there is none."""
        return readable(self.take(self.number())) or None


CONTENT_TYPES = (STRUCTURED, JSON_DATA, None, "text/plain")
PROPERTIES = (None, ID, "17", "a?b", "invoice.settlement", PAN, "?" * 255)
HEADERS: tuple[dict[str, Any], ...] = (
    {},
    {f"ce-{name}": value for name, value in EVENT.items() if name != "data"},
    {"x-death": [{"queue": "invoice.commands", "reason": "delivery_limit", "count": 21, "routing-keys": ["a"]}]},
    {"x-remit-queue": "invoice.commands", "x-remit-message-id": ID, "x-remit-reason": "not_json", "x-remit-replays": 1},
)
STATUSES = (200, 201, 202, 400, 401, 402, 403, 404, 409, 418, 429, 500, 503)


def _headers(fuzzed: FuzzedBytes) -> dict[str, Any]:
    headers = dict(fuzzed.one_of(HEADERS))
    for _ in range(fuzzed.number() % 4):
        name = fuzzed.one_of(("ce-", "x-", "")) + (fuzzed.short() or "")
        headers[name] = fuzzed.one_of((fuzzed.short(), 7, [fuzzed.short()], {"a": b"\xff"}, fuzzed.take(4)))
    return headers


def _property(fuzzed: FuzzedBytes) -> str | None:
    return fuzzed.short() if fuzzed.number() % 2 else fuzzed.one_of(PROPERTIES)


def codec(raw: bytes) -> None:
    fuzzed = FuzzedBytes(raw)
    holds.codec(content_type=fuzzed.one_of(CONTENT_TYPES), headers=_headers(fuzzed), body=fuzzed.rest())


def border(raw: bytes) -> None:
    holds.border(_delivery(FuzzedBytes(raw), queue="invoice.commands"))


def dead_letter(raw: bytes) -> None:
    holds.dead_letter(_delivery(FuzzedBytes(raw), queue="dead-letters"))


def _delivery(fuzzed: FuzzedBytes, queue: str) -> Any:
    return holds.delivery(
        content_type=fuzzed.one_of(CONTENT_TYPES),
        headers=_headers(fuzzed),
        message_id=_property(fuzzed),
        correlation_id=_property(fuzzed),
        reply_to=_property(fuzzed),
        type_=_property(fuzzed),
        queue=queue,
        body=fuzzed.rest(),
    )


def frame(raw: bytes) -> None:
    """The fuzzer writes the properties; we write the frame around them, as the broker does."""
    holds.frame(header_frame(raw), HEALTHY)


def header_frame(properties: bytes) -> bytes:
    payload = struct.pack(">HHQ", 60, 0, len(HEALTHY)) + properties
    return struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce"


def gateway(raw: bytes) -> None:
    fuzzed = FuzzedBytes(raw)
    step = fuzzed.one_of(tuple(holds.BEFORE))
    replies = [_reply(fuzzed) for _ in range(1 + fuzzed.number() % 2)]
    replies.append(FuzzedReply(fuzzed.one_of(STATUSES), fuzzed.rest(), {}))
    holds.gateway(step, replies)


def _reply(fuzzed: FuzzedBytes) -> FuzzedReply:
    headers = fuzzed.one_of(
        ({}, {"Idempotent-Replayed": "true"}, {"Retry-After": "nan"}, {"Request-Id": "a\0b"}, {"Retry-After": "-1"})
    )
    return FuzzedReply(fuzzed.one_of(STATUSES), fuzzed.take(int.from_bytes(fuzzed.take(2), "big")), headers)


# -- seeds -----------------------------------------------------------------------------------------------------------------------------


def intent(status: str, **more: Any) -> dict[str, Any]:
    return {"id": GATEWAY_ID, "object": "payment_intent", "status": status, "amount": 1250, "currency": "eur"} | more


DECLINE = {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds", "message": "No."}
SPOKEN: dict[str, Any] = {
    "succeeded": intent("succeeded", amount_received=1250, latest_charge="ch_1"),
    "of another amount": intent("succeeded", amount_received=1251),
    "declined": {"error": DECLINE | {"payment_intent": intent("requires_payment_method", last_payment_error=DECLINE)}},
    "after a decline": intent("requires_payment_method", last_payment_error=DECLINE),
    "unconfirmed": intent("requires_confirmation"),
    "processing": intent("processing"),
    "cancelled": intent("canceled"),
    "refunded": {"id": "re_1", "object": "refund", "status": "succeeded", "amount": 1250},
    "refunds": {"object": "list", "data": [{"id": "re_1", "status": "succeeded", "amount": 1250}], "has_more": False},
    "refused": {"error": {"type": "invalid_request_error", "code": "resource_missing", "message": f"No token {PAN}"}},
    "down": {"error": {"type": "api_error"}},
}
"""Replies of Stripe, by their meaning."""


TABLE = b"\x03ce-S\x00\x00\x00\x02ab" + b"\x01aA\x00\x00\x00\x03VVV" + b"\x01tT" + b"\xff" * 8


@dataclass(frozen=True, slots=True)
class Target:
    """A border. `check` fails for an input that breaks a promise. `seeds`: the inputs from which the fuzzer starts."""

    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


_BODIES = (HEALTHY, *(p.body for p in CORPUS.values()), *EXAMPLES)

TARGETS: dict[str, Target] = {
    "codec": Target(codec, tuple(bytes(3) + body for body in _BODIES)),
    "border": Target(border, tuple(bytes(11) + body for body in _BODIES)),
    "letter": Target(dead_letter, tuple(bytes(11) + body for body in _BODIES)),
    "frame": Target(
        frame,
        (
            b"\x00\x00",
            struct.pack(">HI", 1 << 13, len(TABLE)) + TABLE,
            struct.pack(">H", 1 << 7) + b"\x02\xff\xfe",
            struct.pack(">H", 1 << 6) + b"\xff" * 8,
        ),
    ),
    "gateway": Target(
        gateway,
        tuple(
            bytes([step, 0, 0, status]) + struct.pack(">H", len(body)) + body + bytes([again]) + body
            for step in range(len(holds.BEFORE))
            for status, again in ((0, 0), (5, 0), (11, 11))
            for body in (json.dumps(said).encode() for said in SPOKEN.values())
        ),
    ),
}
