"""What an event of Stripe's webhooks says: who signed it, and which payment it is about. Everything else of it is ignored."""

import json
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from stripe import WebhookSignature

from services.payment_gateway.gateways.stripe_events import (
    AGE_MAX_S,
    ForeignEventError,
    ForgedEventError,
    Shows,
    Sighting,
    read_event,
)

OURS, NEXT, THEIRS = "whsec_ours", "whsec_next", "whsec_theirs"
PAYMENT = UUID(int=7)
INTENT = {"object": "payment_intent", "id": "pi_1", "metadata": {"payment_id": str(PAYMENT)}}


def event(kind: str, thing: object, **more: Any) -> bytes:
    return json.dumps({"type": kind, "livemode": False, "data": {"object": thing}} | more).encode()


def signed(body: bytes, *secrets: str, seconds_ago: int = 0) -> str:
    at = int(time.time()) - seconds_ago
    parts = [WebhookSignature.generate_signature_header(body.decode(), secret, at) for secret in secrets or (OURS,)]
    return ",".join([f"t={at}", *(part.partition(",")[2] for part in parts)])


def read(body: bytes, signature: str | None = None) -> Sighting:
    return read_event(body, signed(body) if signature is None else signature, (OURS, NEXT), livemode=False)


@pytest.mark.parametrize(
    ("kind", "thing", "sighting"),
    [
        ("payment_intent.succeeded", INTENT, Sighting("pi_1", PAYMENT, Shows.CAPTURE)),
        ("payment_intent.canceled", INTENT, Sighting("pi_1", PAYMENT, Shows.NO_CAPTURE)),
        ("payment_intent.processing", INTENT, Sighting("pi_1", PAYMENT, Shows.SOMETHING_ELSE)),
        ("payment_intent.succeeded", INTENT | {"metadata": {}}, Sighting("pi_1", None, Shows.CAPTURE)),
        (
            "payment_intent.succeeded",
            INTENT | {"metadata": {"payment_id": "7"}},
            Sighting("pi_1", None, Shows.CAPTURE),
        ),
        (
            "charge.refunded",
            {"object": "charge", "id": "ch_1", "payment_intent": "pi_1"},
            Sighting("pi_1", None, Shows.SOMETHING_ELSE),
        ),
        (
            "refund.failed",
            {"object": "refund", "id": "re_1", "payment_intent": "pi_1", "metadata": {"payment_id": str(UUID(int=8))}},
            Sighting("pi_1", None, Shows.SOMETHING_ELSE),
        ),
        (
            "charge.dispute.created",
            {"object": "dispute", "id": "dp_1", "payment_intent": "pi_1"},
            Sighting("pi_1", None, Shows.SOMETHING_ELSE),
        ),
    ],
)
def test_an_event_says_which_payment_to_look_at(kind: str, thing: dict[str, Any], sighting: Sighting) -> None:
    assert read(event(kind, thing)) == sighting


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (event("payment_intent.succeeded", INTENT, livemode=True), "of the other mode"),
        (event("payment_intent.succeeded", INTENT, livemode=None), "of the other mode"),
        (event("payment_intent.succeeded", INTENT, account="acct_1"), "of a connected account"),
        (event("invoice.paid", {"object": "invoice", "id": "in_1", "payment_intent": "pi_1"}), "of no payment"),
        (event("charge.succeeded", {"object": "charge", "id": "ch_1", "payment_intent": None}), "of no payment"),
        *(
            (event("payment_intent.succeeded", INTENT | {"id": id_}), "of no payment")
            for id_ in ("", 7, "pi_\0", "pi_\ud800", "pi_\u00e9", "pi 1", "pi_" + "1" * 253)
        ),
        (event("payment_intent.succeeded", "pi_1"), "of no object"),
        (b'{"livemode": false}', "of no object"),
        (b"[]", "no event"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_what_is_signed_and_none_of_ours_is_told(body: bytes, why: str) -> None:
    with pytest.raises(ForeignEventError, match=f"^{why}$"):
        read(body)


BODY = event("payment_intent.succeeded", INTENT)


NOT_SIGNED = {
    "nothing": lambda: "",
    "no time": lambda: "v1=",
    "no signature": lambda: f"t={int(time.time())}",
    "a time in words": lambda: "t=soon,v1=00",
    "by another secret": lambda: signed(BODY, THEIRS),
    "long ago": lambda: signed(BODY, seconds_ago=AGE_MAX_S + 60),
    "by another scheme": lambda: signed(BODY).replace("v1=", "v0="),
    "another body": lambda: signed(event("payment_intent.succeeded", INTENT | {"id": "pi_2"})),
    "other letters": lambda: "\u00fc=1,v1=\u20ac",
    "other letters in the signature": lambda: f"t={int(time.time())},v1=\u20ac",
    "bytes that are no letters": lambda: f"t={int(time.time())},v1=\udcff",
}


@pytest.mark.parametrize("signature", NOT_SIGNED.values(), ids=list(NOT_SIGNED))
def test_what_nobody_with_the_secret_signed_just_now_is_forged(signature: Callable[[], str]) -> None:
    with pytest.raises(ForgedEventError):
        read(BODY, signature())


def test_bytes_that_are_no_text_are_forged() -> None:
    with pytest.raises(ForgedEventError):
        read(b"\xff", signed(b"{}"))


def test_while_secrets_are_exchanged_either_signs() -> None:
    assert read(BODY, signed(BODY, NEXT)) == read(BODY, signed(BODY, THEIRS, OURS)) == read(BODY)
