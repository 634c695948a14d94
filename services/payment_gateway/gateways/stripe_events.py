"""Reads the events that Stripe sends to a webhook: who signed them, and which payment they are about.

Nothing else of an event is used. It may be old, repeated, or overtaken by a later one, so what is true now is asked of Stripe. Source:
https://docs.stripe.com/webhooks/signature.
"""

import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import stripe

from shared.records import dataclass

AGE_MAX_S: Final = 300
"""The age of a signature at most. Stripe signs anew when it sends an event again, so an older one was kept by somebody."""
_INTENT: Final = "payment_intent"
_IS_ID: Final = re.compile(r"[!-~]{1,255}").fullmatch
"""Whether a text can be looked up: no database and no URL takes any text."""
_PARTS: Final = frozenset({"charge", "refund", "dispute"})
"""The objects that belong to a PaymentIntent and name it."""


class Shows(StrEnum):
    """What an event says has happened, as far as it matters for whether to look."""

    CAPTURE = "capture"
    NO_CAPTURE = "no_capture"
    SOMETHING_ELSE = "something_else"


_SHOWS: Final = {
    "payment_intent.succeeded": Shows.CAPTURE,
    "charge.succeeded": Shows.CAPTURE,
    "payment_intent.canceled": Shows.NO_CAPTURE,
    "payment_intent.payment_failed": Shows.NO_CAPTURE,
    "charge.failed": Shows.NO_CAPTURE,
}


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something happened to the PaymentIntent `gateway_id`. `payment_id` is our payment of it, or None if the event does not say which."""

    gateway_id: str
    payment_id: UUID | None
    shows: Shows


class ForgedEventError(Exception):
    """Nobody who knows the secret has signed this just now."""


class ForeignEventError(Exception):
    """The event is none of a payment, or of an account or mode that is not ours. Its text says which."""


def read_event(body: bytes, signature: str, secrets: Sequence[str], *, livemode: bool) -> Sighting:
    """What the event is about. `signature` is the header `Stripe-Signature`; one of `secrets` must have signed the body within `AGE_MAX_S`.

    Raises ForgedEventError or ForeignEventError.
    """
    if not any(_is_signed(body, signature, secret) for secret in secrets):
        raise ForgedEventError
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise ForeignEventError("no JSON") from None
    if not isinstance(event, Mapping):
        raise ForeignEventError("no event")
    if event.get("livemode") is not livemode:
        raise ForeignEventError("of the other mode")
    if event.get("account") is not None:
        raise ForeignEventError("of a connected account")
    return _sighting(event)


def _is_signed(body: bytes, signature: str, secret: str) -> bool:
    try:
        return bool(stripe.WebhookSignature.verify_header(body, signature, secret, AGE_MAX_S))
    except (stripe.SignatureVerificationError, ValueError, TypeError):
        return False  # the others are for bytes that are no UTF-8, and for letters that no signature has


def _sighting(event: Mapping[str, Any]) -> Sighting:
    data = event.get("data")
    thing = data.get("object") if isinstance(data, Mapping) else None
    if not isinstance(thing, Mapping):
        raise ForeignEventError("of no object")
    kind = thing.get("object")
    gateway_id = thing.get("id") if kind == _INTENT else thing.get(_INTENT) if kind in _PARTS else None
    if not isinstance(gateway_id, str) or not _IS_ID(gateway_id):
        raise ForeignEventError("of no payment")
    shows = _SHOWS.get(str(event.get("type")), Shows.SOMETHING_ELSE)
    # A refund or a dispute has metadata of its own, which somebody else may have written.
    return Sighting(gateway_id, payment_id_in(thing) if kind == _INTENT else None, shows)


PAYMENT_ID: Final = "payment_id"
"""The member of the metadata that holds our payment id."""


def payment_id_in(intent: Mapping[str, Any]) -> UUID | None:
    """Our payment id in the metadata of a PaymentIntent, or None if we did not make it."""
    return id_in(intent, PAYMENT_ID)


def id_in(thing: Mapping[str, Any], name: str) -> UUID | None:
    """The id of ours in the metadata of an object of Stripe, or None if there is none."""
    metadata = thing.get("metadata")
    try:
        return UUID(metadata.get(name)) if isinstance(metadata, Mapping) else None
    except (TypeError, ValueError, AttributeError):
        return None
