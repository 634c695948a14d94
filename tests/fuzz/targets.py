"""From the bytes of a fuzzer to an input of each border, and the inputs that it starts from."""

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


class Dough:
    """Bytes, taken piece by piece; an input that ends early is read as zeros."""

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
        """An AMQP short string as it is read; None where there is none."""
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


def _headers(dough: Dough) -> dict[str, Any]:
    headers = dict(dough.one_of(HEADERS))
    for _ in range(dough.number() % 4):
        name = dough.one_of(("ce-", "x-", "")) + (dough.short() or "")
        headers[name] = dough.one_of((dough.short(), 7, [dough.short()], {"a": b"\xff"}, dough.take(4)))
    return headers


def _property(dough: Dough) -> str | None:
    return dough.short() if dough.number() % 2 else dough.one_of(PROPERTIES)


def codec(raw: bytes) -> None:
    dough = Dough(raw)
    holds.codec(content_type=dough.one_of(CONTENT_TYPES), headers=_headers(dough), body=dough.rest())


def border(raw: bytes) -> None:
    holds.border(_delivery(Dough(raw), queue="invoice.commands"))


def letter(raw: bytes) -> None:
    holds.letter(_delivery(Dough(raw), queue="dead-letters"))


def _delivery(dough: Dough, queue: str) -> Any:
    return holds.delivery(
        content_type=dough.one_of(CONTENT_TYPES),
        headers=_headers(dough),
        message_id=_property(dough),
        correlation_id=_property(dough),
        reply_to=_property(dough),
        type_=_property(dough),
        queue=queue,
        body=dough.rest(),
    )


def frame(raw: bytes) -> None:
    """The fuzzer writes the properties; the broker, the frame around them."""
    holds.frame(header_frame(raw), HEALTHY)


def header_frame(properties: bytes) -> bytes:
    payload = struct.pack(">HHQ", 60, 0, len(HEALTHY)) + properties
    return struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce"


def gateway(raw: bytes) -> None:
    dough = Dough(raw)
    step = dough.one_of(tuple(holds.BEFORE))
    replies = [_reply(dough) for _ in range(1 + dough.number() % 2)]
    replies.append(FuzzedReply(dough.one_of(STATUSES), dough.rest(), {}))
    holds.gateway(step, replies)


def _reply(dough: Dough) -> FuzzedReply:
    headers = dough.one_of(
        ({}, {"Idempotent-Replayed": "true"}, {"Retry-After": "nan"}, {"Request-Id": "a\0b"}, {"Retry-After": "-1"})
    )
    return FuzzedReply(dough.one_of(STATUSES), dough.take(int.from_bytes(dough.take(2), "big")), headers)


# -- where to start from ---------------------------------------------------------------------------------------------------------------


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
"""What Stripe says, by what it means."""


TABLE = b"\x03ce-S\x00\x00\x00\x02ab" + b"\x01aA\x00\x00\x00\x03VVV" + b"\x01tT" + b"\xff" * 8


@dataclass(frozen=True, slots=True)
class Target:
    """`check` fails for an input that breaks what must hold. `seeds` are inputs of interest."""

    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


_BODIES = (HEALTHY, *(p.body for p in CORPUS.values()), *EXAMPLES)

TARGETS: dict[str, Target] = {
    "codec": Target(codec, tuple(bytes(3) + body for body in _BODIES)),
    "border": Target(border, tuple(bytes(11) + body for body in _BODIES)),
    "letter": Target(letter, tuple(bytes(11) + body for body in _BODIES)),
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
