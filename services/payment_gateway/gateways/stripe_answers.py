"""Reads Stripe's JSON: pure functions from parsed JSON to the port's answers.

No field is trusted. A 200 with a missing amount, with a status that does not exist, or with the object of another payment is `Unknown`, and
never a guess. Sources: https://docs.stripe.com/payments/paymentintents/lifecycle, /api/errors, /api/idempotent_requests.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeGuard
from uuid import UUID

from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.evidence import evidence
from services.payment_gateway.gateways.stripe_amounts import from_stripe, to_stripe
from services.payment_gateway.gateways.stripe_events import id_in, payment_id_in
from shared.card_data.scan import has_card_data
from shared.contracts.currencies import ISO_4217
from shared.records import replace

_IS_ID = re.compile(r"[A-Za-z0-9_-]{1,255}").fullmatch

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A 2xx with a JSON object. `replayed` means that it is the saved answer to an earlier request with this key, and may be outdated."""

    body: Json
    replayed: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A 400, 402 or 404 with an error object of Stripe. Stripe understood the request and did not do it."""

    status: int
    code: str
    payment_intent: Json | None
    replayed: bool
    evidence: str
    advice: str | None = None


Reply = Accepted | Rejected | port.NoAnswer

NOT_FOUND = 404
FORBIDDEN = 403
UNEXPECTED_STATE = "payment_intent_unexpected_state"
"""The code of a request that came too late: the payment has gone on, and may have been captured."""
_LOCKED = "lock_timeout"
"""The code of a 429 that is about one payment: another request works on it (https://docs.stripe.com/rate-limits#object-lock-timeouts)."""
_UNKNOWN_URL = "Unrecognized request URL"
_OTHER_MODE = re.compile(r"a similar object exists in (live|test) mode")
"""Stripe's words for an id of ours under a key of the other mode."""


def read_success(body: object, headers: Mapping[str, str]) -> Reply:
    """Read a 2xx. Only a JSON object counts as an answer."""
    words = evidence("HTTP 200", headers.get("Request-Id"))
    if not isinstance(body, Mapping):
        return port.Unknown(evidence(words, "the answer is not a JSON object"))
    return Accepted(body, _replayed(headers), evidence(words, body.get("status")))


def read_error(status: int | None, body: object, headers: Mapping[str, str]) -> Reply:
    """Read any other status. Only an error that says that Stripe refused the request is `Rejected`.

    After a conflict, a parameter mismatch or a 5xx it is open whether the request was done.
    """
    error = body.get("error") if isinstance(body, Mapping) else None
    error = error if isinstance(error, Mapping) else {}
    named = (_text(error.get(name)) for name in ("decline_code", "code", "message_code", "type"))
    code = next((name for name in named if name), "unspecified")
    advice, param, replayed = _text(error.get("advice_code")), _text(error.get("param")), _replayed(headers)
    words = evidence(
        f"HTTP {status}",
        _request_id(headers, body),
        "(replayed)" if replayed else "",
        code,
        f"advice {advice}" if advice else "",
        f"param {param}" if param else "",
        error.get("message"),
    )
    match status, error.get("type"):
        case 429, _ if error.get("code") == _LOCKED:
            return port.NotSent(words)
        case 429, _:
            return port.Limited(words, _retry_after_s(headers))
        case ((401 | 403), _):
            return port.Misconfigured(words, otherwise=port.NotSent(words), lacks_permission=status == FORBIDDEN)
        case 404, kind if kind != "invalid_request_error" or _is_of_another_place(error):
            return port.Misconfigured(words, otherwise=port.Unknown(words))
        case (int(refused), "invalid_request_error" | "card_error") if refused in {400, 402, 404}:
            intent = error.get("payment_intent")
            return Rejected(refused, code, intent if isinstance(intent, Mapping) else None, replayed, words, advice)
        case 400, "idempotency_error":
            return port.Unknown(words, key_taken=True)
        case _:
            return port.Unknown(words, key_spent=replayed)


def _is_of_another_place(error: Json) -> bool:
    """Whether a 404 is about the URL or the mode of the key, not about the object that was named."""
    message = _text(error.get("message")) or ""
    return message.startswith(_UNKNOWN_URL) or _OTHER_MODE.search(message) is not None


def read_mode(thing: Json, *, livemode: bool, words: str) -> port.Misconfigured | None:
    """The refusal of an answer from the other mode, or None. No money moved: a test and a live account share nothing."""
    if thing.get("livemode") is not (not livemode):
        return None
    mode, wanted = ("test", "live") if livemode else ("live", "test")
    words = evidence(words, f"the gateway answers in {mode} mode, and GATEWAY_MODE is {wanted}")
    return port.Misconfigured(words, otherwise=port.NotSent(words))


def read_token(reply: Accepted) -> port.TokeniseAnswer:
    """Read the token of a new payment method."""
    token = _id(reply.body, "pm_")
    if token is None:
        return port.Unknown(evidence(reply.evidence, "no payment method in the answer"))
    return port.Tokenised(token, reply.evidence)


def read_prepared(reply: Accepted, order: port.Order) -> port.PrepareAnswer:
    """Read the id of a new PaymentIntent. It counts only together with our amount and currency.

    Otherwise the id could be of another payment, and confirming it would charge something else.
    """
    gateway_id = _id(reply.body, "pi_")
    amount = to_stripe(order.amount_minor, order.currency)
    same = reply.body.get("amount") == amount and _currency(reply.body) == order.currency
    if gateway_id is None or not same:
        return port.Unknown(evidence(reply.evidence, "the answer is not the payment we asked for"))
    return port.Prepared(gateway_id, reply.evidence)


_MONEY_FIRST = (
    "succeeded",
    "requires_capture",
    "processing",
    "requires_action",
    "requires_payment_method",
    "canceled",
    "requires_confirmation",
)
"""The order in which one of several payments with one id of ours is taken. What was cancelled had an outcome, so it comes before what was
never confirmed: an id that we asked for and never recorded."""
_UNCONFIRMED = _MONEY_FIRST[-1]


def read_found(intents: list[Json], sought: port.Sought, *, has_more: bool) -> port.FindAnswer:
    """Read the payments that have our payment id. One that we would confirm must be of our amount and currency.

    What has no amount here was closed before its request came, and is never confirmed.
    """
    words = evidence("HTTP 200", f"{len(intents)} payments with our id")
    if not intents:
        return port.Unknown(evidence(words, "the list goes on")) if has_more else port.NotFound(words)
    first = min(intents, key=_rank)
    gateway_id, status = _id(first, "pi_"), first.get("status")
    if gateway_id is None:
        return port.Unknown(evidence(words, "none has a readable id"))
    if status == _UNCONFIRMED and sought.amount_minor is not None:
        amount, currency = sought.amount_minor, sought.currency
        counted = to_stripe(amount, currency) if currency else None
        if (first.get("amount"), _currency(first)) != (counted, currency):
            return port.Refused("payment_differs_at_gateway", evidence(words, "of another amount"))
    return port.Found(gateway_id, evidence(words, status))


def _rank(intent: Json) -> int:
    """Its place in `_MONEY_FIRST`. What nobody knows comes right after a capture."""
    status = intent.get("status")
    return _MONEY_FIRST.index(status) if status in _MONEY_FIRST else 1


def read_charge(intent: Json, gateway_id: str, words: str) -> port.ChargeAnswer:
    """Read the state of a PaymentIntent. `words` is the evidence so far."""
    if intent.get("id") != gateway_id:
        return port.Unknown(evidence(words, "the answer is about another payment"))
    status = intent.get("status")
    match status:
        case "succeeded":
            return _captured(intent, gateway_id, words)
        case "requires_payment_method" | "requires_confirmation":
            return _unpaid(intent, words)
        case "requires_action":
            return port.ActionRequired(words)
        case "processing":
            return port.Processing(words)
        case "canceled":
            return port.Cancelled(words)
        case _:
            return port.Unknown(evidence(words, "unexpected status", status))


def _captured(intent: Json, gateway_id: str, words: str) -> port.Captured | port.Unknown:
    amount = intent.get("amount_received", intent.get("amount"))
    currency = _currency(intent)
    amount_minor = from_stripe(amount, currency) if _is_amount(amount) and currency else None
    if amount_minor is None or currency is None:
        return port.Unknown(evidence(words, "succeeded, but the amount or currency is unreadable"))
    charge = intent.get("latest_charge")
    charge = charge if isinstance(charge, Mapping) else {}
    refunded, disputed = charge.get("amount_refunded", 0), charge.get("disputed", False)
    refunded_minor = from_stripe(refunded, currency) if _is_amount(refunded, least=0) else None
    if refunded_minor is None or not isinstance(disputed, bool):
        return port.Unknown(evidence(words, "succeeded, but its refunds or disputes are unreadable"))
    strange = (
        f"received {amount} of {intent.get('amount')}" if amount != intent.get("amount") else "",
        f"refunded {refunded}" if refunded else "",
        "disputed" if disputed else "",
    )
    words = evidence(words, *strange) if any(strange) else words
    receipt = _receipt(intent) or gateway_id
    return port.Captured(gateway_id, amount_minor, currency, receipt, words, refunded_minor, disputed)


def read_disputes(disputes: list[Json], charge: port.Captured) -> port.Captured:
    """The capture with what its disputes say: the one that matters most, and what was lost. None is known if the list is empty."""
    read = [dispute for dispute in map(_dispute, disputes) if dispute is not None]
    if not read:
        return charge
    dispute = min(read, key=_rank_of_dispute)
    lost = (one for one in read if one.status == port.DISPUTE_LOST and one.currency == charge.currency)
    lost_minor = min(sum(one.amount_minor or 0 for one in lost), max(charge.amount_minor - charge.refunded_minor, 0))
    words = evidence(charge.evidence, dispute.status, dispute.reason)
    return replace(charge, dispute=dispute, lost_minor=lost_minor, evidence=words)


def _dispute(thing: Json) -> port.Dispute | None:
    status, currency, amount = _text(thing.get("status")), _currency(thing), thing.get("amount")
    if status is None:
        return None
    details = thing.get("evidence_details")
    due_by = details.get("due_by") if isinstance(details, Mapping) else None
    return port.Dispute(
        status,
        _text(thing.get("reason")),
        from_stripe(amount, currency) if currency and _is_amount(amount) else None,
        currency,
        due_by if _is_amount(due_by) and due_by <= _TIME_MAX else None,
    )


def _rank_of_dispute(dispute: port.Dispute) -> int:
    """Its place among several. What is open comes first, and what is over comes last."""
    ranks = (port.DISPUTE_OPEN, None, frozenset({port.DISPUTE_LOST}), port.DISPUTE_OVER)
    return next((rank for rank, statuses in enumerate(ranks) if statuses and dispute.status in statuses), 1)


_TIME_MAX = 2**32
"""The latest time that is read as one, in Unix seconds: the year 2106."""


def _receipt(intent: Json) -> str | None:
    """The receipt number of a capture: the id of the charge.

    The charge's own `receipt_number` is null until Stripe has mailed a receipt. So two answers about one capture would name two receipts.
    """
    charge = intent.get("latest_charge")
    return _text(charge.get("id")) if isinstance(charge, Mapping) else _text(charge)


def _unpaid(intent: Json, words: str) -> port.Declined | port.Unconfirmed:
    """Tell a declined payment from one that was never confirmed.

    After a decline, Stripe sets the status back to `requires_payment_method` and gives the reason. Without a confirm there is no reason.
    """
    error = intent.get("last_payment_error")
    if intent.get("status") != "requires_payment_method" or not isinstance(error, Mapping):
        return port.Unconfirmed(words)
    named = (_text(error.get(name)) for name in ("decline_code", "code", "type"))
    code = next((name for name in named if name), "card_declined")
    return port.Declined(code, words if code in words else evidence(words, code), _text(error.get("advice_code")))


REFUND_ID = "refund_id"
"""The member of a refund's metadata that holds our id of it."""


def read_refund(refund: Json, amount: int, currency: str, words: str) -> port.RefundAnswer:
    """Read the refund that we asked for. `amount` is what we asked for, as Stripe counts the `currency`. Another amount is not ours."""
    if _id(refund, "re_") is None or refund.get("amount") != amount:
        return port.Unknown(evidence(words, "the answer is not the refund we asked for"))
    return _refund_state(refund, words, currency)


def _refund_state(refund: Json, words: str, currency: str) -> port.RefundAnswer:
    refund_id = _id(refund, "re_")
    if refund_id is None:
        return port.Unknown(evidence(words, "no refund in the answer"))
    status = refund.get("status")
    match status:
        case "succeeded":
            return port.Refunded(refund_id, words, _refund_minor(refund, currency))
        case "pending" | "requires_action":
            acts = "the customer has to act on the refund" if status == "requires_action" else None
            return port.RefundPending(refund_id, evidence(words, _text(refund.get("pending_reason")), acts))
        case "failed" | "canceled":
            return port.RefundFailed(_text(refund.get("failure_reason")) or status, words, refund_id)
        case _:
            return port.Unknown(evidence(words, "unexpected refund status", status))


def read_refunds(refunds: list[Json], charge: port.Captured, refund_id: UUID) -> port.RefundAnswer:
    """Read all refunds of one captured payment, newest first: what became of ours, and what is left to give back.

    A refund of ours may have been tried several times. One that succeeded or is pending counts before those that failed.
    """
    amounts = [refund.get("amount") for refund in refunds if refund.get("status") not in _NOT_GIVEN_BACK]
    captured = to_stripe(charge.amount_minor, charge.currency)
    if captured is None or not all(_is_amount(amount) for amount in amounts):
        return port.Unknown(evidence(charge.evidence, "a refund without a readable amount"))
    given_back = sum(amount for amount in amounts if amount is not None)
    left = from_stripe(max(captured - given_back, 0), charge.currency)
    left_minor = None if left is None else max(left - charge.lost_minor, 0)  # what a dispute took cannot be given back
    words = evidence(charge.evidence, f"{len(refunds)} refunds, {given_back} of {captured} given back")
    ours = [
        _refund_state(refund, words, charge.currency) for refund in refunds if id_in(refund, REFUND_ID) == refund_id
    ]
    for kind in (port.Refunded, port.RefundPending, port.Unknown):
        found = next((answer for answer in ours if isinstance(answer, kind)), None)
        if found is not None:
            return found
    if left_minor == 0 and (other := next((refund for refund in refunds if refund.get("status") in _UNDER_WAY), None)):
        words = evidence(words, "another refund is under way, and nothing would be left")
        return _refund_state(other, words, charge.currency)
    standing = standing_refunds(refunds, charge.currency)
    failed = next((answer for answer in ours if isinstance(answer, port.RefundFailed)), None)
    if failed is None:
        return port.NoRefund(words, left_minor, refund_id, standing)
    return replace(failed, left_minor=left_minor, about=refund_id, standing=standing)


def standing_refunds(refunds: list[Json], currency: str) -> tuple[port.StandingRefund, ...]:
    """Of all refunds of one payment, newest first, those that were made or are pending, oldest first."""
    found = (_standing(refund, currency) for refund in reversed(refunds))
    return tuple(refund for refund in found if refund is not None)


def _standing(refund: Json, currency: str) -> port.StandingRefund | None:
    status, gateway_id, amount_minor = refund.get("status"), _id(refund, "re_"), _refund_minor(refund, currency)
    if status not in _UNDER_WAY | {"succeeded"} or gateway_id is None or amount_minor is None:
        return None
    ours = payment_id_in(refund), id_in(refund, REFUND_ID)
    return port.StandingRefund(gateway_id, amount_minor, *ours, is_pending=status in _UNDER_WAY)


def _refund_minor(refund: Json, currency: str) -> int | None:
    amount = refund.get("amount")
    return from_stripe(amount, currency) if _is_amount(amount) else None


_NOT_GIVEN_BACK = frozenset({"failed", "canceled"})
_UNDER_WAY = frozenset({"pending", "requires_action"})


def _replayed(headers: Mapping[str, str]) -> bool:
    return headers.get("Idempotent-Replayed", "").lower() == "true"


def _request_id(headers: Mapping[str, str], body: object) -> str | None:
    return headers.get("Request-Id") or (None if isinstance(body, Mapping) else "(no readable body)")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The wait in seconds that the gateway asks for, or None. A date, as proxies send it, counts from the `Date` of the same answer."""
    asked = headers.get("Retry-After", "")
    try:
        seconds = float(asked)
    except ValueError:
        seconds = _seconds_between(headers.get("Date", ""), asked)
    return min(seconds, port.RETRY_AFTER_MAX_S) if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_between(earlier: str, later: str) -> float:
    """The seconds between two dates of HTTP (RFC 9110, 5.6.7). NaN if one of them cannot be read."""
    try:
        begins, ends = parsedate_to_datetime(earlier), parsedate_to_datetime(later)
        return (ends - begins).total_seconds()
    except (ValueError, TypeError, OverflowError):  # TypeError: only one of them has a zone
        return math.nan


def _currency(intent: Json) -> str | None:
    currency = intent.get("currency")
    shown = currency.upper() if isinstance(currency, str) else ""
    return shown if shown in ISO_4217 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _is_amount(value: object, *, least: int = 1) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _id(thing: Json, prefix: str) -> str | None:
    """The id of a Stripe object; None if it has none that others could take.

    It is stored, sent and shown, so nothing may be charged under a text of other characters, or of any length. Receivers refuse messages
    that contain a card number, so nothing may be charged under such an id either. Stripe's ids mix letters and digits. Ids of a stand-in
    may not: of a benchmark's ids, one in twenty thousand looked like a card number.
    """
    value = _text(thing.get("id")) or ""
    return value if value.startswith(prefix) and _IS_ID(value) and not has_card_data(value) else None
