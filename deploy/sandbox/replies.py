"""Replies in Stripe's shape (https://docs.stripe.com/api/errors), and how each is delivered."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.sandbox.faults import ADVICE, Manner, luhn_holds

QUOTED_CHARS_MAX = 64  # the sandbox's longest id has 27 characters

_CARD_DIGITS = re.compile(r"(?<!\d)\d{13,19}(?!\d)", re.ASCII)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SandboxReply:
    """A reply. `saved`: it is kept under the request's idempotency key.

    Stripe keeps an endpoint's answer once the endpoint began to act, 500s included. It does not keep rejected parameters, conflicts and
    rate limits (https://docs.stripe.com/api/idempotent_requests).
    """

    status: int
    body: Json
    manner: Manner = Manner.ANSWER
    saved: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)


def ok(body: Json, manner: Manner = Manner.ANSWER) -> SandboxReply:
    return SandboxReply(200, body, manner)


def invalid(message: str, *, code: str | None = None, param: str | None = None, status: int = 400) -> SandboxReply:
    """A reply to parameters that were rejected before anything was done."""
    return SandboxReply(status, _error("invalid_request_error", message, code=code, param=param), saved=False)


def missing(kind: str, thing_id: str, *, param: str, status: int = 404) -> SandboxReply:
    """404 if the path names the missing thing, 400 if a parameter names it."""
    return invalid(f"No such {kind}: '{printable(thing_id)}'", code="resource_missing", param=param, status=status)


def excluded(names: str, sentence: str) -> SandboxReply:
    """A reply to parameters that exclude each other, or that need another one."""
    return invalid(sentence, param=names)


def refused_confirm(intent: Json) -> SandboxReply:
    words = "The card network does not take this kind of charge from your account."
    error = _error(
        "invalid_request_error", words, code="charge_not_permitted", param="payment_method", payment_intent=intent
    )
    return SandboxReply(400, error)


def unexpected_state(message: str, intent: Json) -> SandboxReply:
    code = "payment_intent_unexpected_state"
    return SandboxReply(400, _error("invalid_request_error", message, code=code, payment_intent=intent))


def refused_refund(code: str, message: str) -> SandboxReply:
    return SandboxReply(400, _error("invalid_request_error", message, code=code))


def low_balance() -> SandboxReply:
    """As Stripe refuses a refund for lack of balance: with a `message_code` instead of a code (Automattic/woocommerce-payments#10025)."""
    words = "Insufficient funds in your Stripe balance to refund this amount."
    return SandboxReply(400, _error("invalid_request_error", words, message_code="insufficient_balance_for_refund"))


def card_error(status: int, code: str, decline_code: str | None, intent: Json | None = None) -> SandboxReply:
    error = _error(
        "card_error",
        "Your card was declined.",
        code=code,
        decline_code=decline_code,
        advice_code=ADVICE.get(decline_code or ""),
        payment_intent=intent,
    )
    return SandboxReply(status, error, saved=intent is not None)


def idempotency_error(message: str, *, status: int, code: str | None = None) -> SandboxReply:
    return SandboxReply(status, _error("idempotency_error", message, code=code), saved=False)


def rate_limited(*, retry_after_s: int | None) -> SandboxReply:
    """Stripe often gives no time to retry after."""
    error = _error("invalid_request_error", "Too many requests in a period of time.", code="rate_limit")
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return SandboxReply(429, error, saved=False, headers=headers)


def server_error(*, saved: bool) -> SandboxReply:
    return SandboxReply(500, _error("api_error", "An unknown error occurred."), saved=saved)


def silence() -> SandboxReply:
    return SandboxReply(500, {}, Manner.HANG, saved=False)


def unauthorised(message: str, status: int) -> SandboxReply:
    return SandboxReply(status, _error("invalid_request_error", message), saved=False)


def printable(text: str) -> str:
    """A quoted parameter, shortened and never with a card number."""
    return _CARD_DIGITS.sub(lambda run: "****" if luhn_holds(run[0]) else run[0], text[:QUOTED_CHARS_MAX])


def _error(kind: str, message: str, **details: Any) -> Json:
    return {"error": {"type": kind, "message": message} | {name: d for name, d in details.items() if d is not None}}
