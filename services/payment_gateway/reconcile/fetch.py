"""Copies the gateway's books of a window into a file, page by page."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import structlog

from services.payment_gateway.gateways import port
from services.payment_gateway.gateways import stripe_answers as answers
from services.payment_gateway.gateways.stripe import Listed, Page, StripeGateway
from services.payment_gateway.gateways.stripe_amounts import to_stripe
from services.payment_gateway.gateways.stripe_events import payment_id_in
from services.payment_gateway.reconcile.books import (
    BookedCharge,
    BookedIntent,
    BookedPayment,
    BookedRefund,
    Books,
    Window,
)
from shared.records import dataclass
from shared.retry_policy import OUTAGE, Sleep

log = structlog.get_logger(__name__)

TRIES_MAX: Final = 8
"""Tries of one page. Together they wait about half a minute, or as long as the gateway asks for."""

Json = Mapping[str, Any]


class ReconcileError(Exception):
    """The gateway's books cannot be had. Its text is one sentence."""


class _NotPermittedError(ReconcileError):
    """The key may not read this part of them."""


async def fetch(
    gateway: StripeGateway, window: Window, books: Books, *, livemode: bool, sleep: Sleep = asyncio.sleep
) -> bool:
    """Copy all payments that were created in the window, and all refunds since its beginning. Note what else was touched in the window.

    Returns False if the key may not list disputes: then nothing tells of those of older payments. Raises ReconcileError.
    """
    async for page in _pages(gateway, "payment_intents", window.since, window.until, sleep):
        disputes = [await _disputes(gateway, thing, sleep) for thing in page.things]
        books.add(
            intents=[
                _intent(thing, is_contested=of.is_contested) for thing, of in zip(page.things, disputes, strict=True)
            ],
            charges=[charge for thing in page.things if (charge := _charge(thing)) is not None],
            refunds=[_lost(thing, of.lost) for thing, of in zip(page.things, disputes, strict=True) if of.lost],
        )
    async for page in _pages(gateway, "refunds", window.since, None, sleep):
        books.add(refunds=[refund for thing in page.things if (refund := _refund(thing)) is not None])
        books.touch(_touched(page, window))
    lists_disputes = True
    try:
        async for page in _pages(gateway, "disputes", window.since, window.until, sleep):
            books.touch(_touched(page, window))
    except _NotPermittedError:
        lists_disputes = False
    books.cover(window, livemode=livemode)
    return lists_disputes


def _touched(page: Page, window: Window) -> set[str]:
    """Our payments whose refunds or disputes these are, as far as they were created in the window."""
    created = [thing.get("payment_intent") for thing in page.things if _number(thing, "created") < window.until]
    return {
        _text(intent, "id") for intent in created if isinstance(intent, Mapping) and payment_id_in(intent) is not None
    }


async def _pages(
    gateway: StripeGateway, kind: Listed, since: int, until: int | None, sleep: Sleep
) -> AsyncIterator[Page]:
    after: str | None = None
    ends: set[str] = set()
    while True:
        page = await _page(gateway, kind, since, until, after, sleep)
        yield page
        if not page.has_more or not page.things:
            return
        after = str(page.things[-1].get("id"))
        if after in ends:  # a cache on the way, say; it would go on for ever
            raise ReconcileError(f"the gateway's books are unreadable: a page of {kind} comes again and again.")
        ends.add(after)


async def _page(
    gateway: StripeGateway, kind: Listed, since: int, until: int | None, after: str | None, sleep: Sleep
) -> Page:
    failures = 0
    while not isinstance(answer := await gateway.page(kind, since, until, after), Page):
        failures += 1
        await _wait(answer, failures, sleep)
    return answer


async def fetch_one(gateway: StripeGateway, gateway_id: str, *, sleep: Sleep = asyncio.sleep) -> BookedPayment | None:
    """One payment as the gateway shows it now, or None if the gateway does not know it. Raises ReconcileError."""
    failures = 0
    while not isinstance(shown := await gateway.show(gateway_id), Mapping):
        if isinstance(shown, port.NotFound):
            return None
        failures += 1
        await _wait(shown, failures, sleep)
    disputes, shown_charge = await _disputes(gateway, shown, sleep), shown.get("latest_charge")
    intent = _intent(shown, is_contested=disputes.is_contested)
    charge = shown_charge if isinstance(shown_charge, Mapping) and shown.get("status") == "succeeded" else None
    return BookedPayment(
        gateway_id=intent.id,
        payment_id=payment_id_in(shown),
        invoice_id=intent.metadata.get("invoice_id"),
        status=intent.status,
        amount=intent.amount,
        captured=_number(charge, "amount_captured") if charge else 0,
        refunded=_number(charge, "amount_refunded") + disputes.lost if charge else 0,
        currency=intent.currency.upper(),
        disputed=intent.disputed,
        created=intent.created,
    )


async def _wait(answer: port.NoAnswer, failures: int, sleep: Sleep) -> None:
    """Wait before the gateway is asked again. Raises ReconcileError if that is no use."""
    if isinstance(answer, port.Misconfigured) or failures == TRIES_MAX:
        is_forbidden = isinstance(answer, port.Misconfigured) and answer.lacks_permission
        kind = _NotPermittedError if is_forbidden else ReconcileError
        raise kind(f"the gateway does not show its books: {answer.evidence}.")
    asked_s = answer.retry_after_s if isinstance(answer, port.Limited) else None
    await sleep(asked_s if asked_s is not None else OUTAGE.delay_s(failures))


@dataclass(frozen=True, slots=True)
class _Disputes:
    """What the disputes of a payment mean: whether one may still take the money, and what went back by them, as the gateway counts it."""

    is_contested: bool = False
    lost: int = 0


async def _disputes(gateway: StripeGateway, thing: Json, sleep: Sleep) -> _Disputes:
    """Ask how the disputes of a payment stand, if it has any. Without the permission to ask each counts as open."""
    charge = thing.get("latest_charge")
    if not isinstance(charge, Mapping) or charge.get("disputed") is not True:
        return _Disputes()
    captured = answers.read_charge(thing, _text(thing, "id"), "")
    if not isinstance(captured, port.Captured):
        return _Disputes(is_contested=True)
    failures = 0
    while not isinstance(disputes := await gateway.disputes(captured.gateway_id), list):
        failures += 1
        await _wait(disputes, failures, sleep)
    captured = answers.read_disputes(disputes, captured)
    return _Disputes(captured.is_contested, to_stripe(captured.lost_minor, captured.currency) or 0)


def _lost(thing: Json, amount: int) -> BookedRefund:
    """Money that a lost dispute took: it went back to the customer as if it had been refunded."""
    id_, currency, created = _text(thing, "id"), _text(thing, "currency"), _number(thing, "created")
    return BookedRefund(f"lost_{id_}", id_, amount, currency, "succeeded", created, {})


def _intent(thing: Json, *, is_contested: bool) -> BookedIntent:
    return BookedIntent(
        id=_text(thing, "id"),
        amount=_number(thing, "amount"),
        currency=_text(thing, "currency"),
        metadata=_metadata(thing),
        status=_text(thing, "status"),
        created=_number(thing, "created"),
        disputed=is_contested,
    )


def _charge(thing: Json) -> BookedCharge | None:
    """The capture of a payment of ours, or None. Its charge is shown whole, or only by its id."""
    received, charge = thing.get("amount_received"), thing.get("latest_charge")
    if thing.get("status") != "succeeded" or not charge or payment_id_in(thing) is None:
        return None
    whole = charge if isinstance(charge, Mapping) else {"id": charge}
    return BookedCharge(
        id=_text(whole, "id"),
        payment_intent=_text(thing, "id"),
        amount=_number(whole if "amount_captured" in whole else {"amount_captured": received}, "amount_captured"),
        currency=_text(thing, "currency"),
        payment_method=whole.get("payment_method") or thing.get("payment_method"),
        created=_number(whole if "created" in whole else thing, "created"),
    )


def _refund(thing: Json) -> BookedRefund | None:
    """A refund of a payment, or None if it is of something else."""
    intent = thing.get("payment_intent")
    if intent is None:
        return None
    return BookedRefund(
        id=_text(thing, "id"),
        payment_intent=_text(intent, "id") if isinstance(intent, Mapping) else _text(thing, "payment_intent"),
        amount=_number(thing, "amount"),
        currency=_text(thing, "currency"),
        status=_text(thing, "status"),
        created=_number(thing, "created"),
        metadata=_metadata(thing),
    )


def _metadata(thing: Json) -> dict[str, str]:
    metadata = thing.get("metadata")
    return {str(name): str(value) for name, value in metadata.items()} if isinstance(metadata, Mapping) else {}


def _text(thing: Json, name: str) -> str:
    value = thing.get(name)
    if not isinstance(value, str) or not value:
        raise ReconcileError(f"the gateway's books are unreadable: {name} of an object is no text.")
    return value


def _number(thing: Json, name: str) -> int:
    value = thing.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ReconcileError(f"the gateway's books are unreadable: {name} of an object is no whole number.")
    return value
