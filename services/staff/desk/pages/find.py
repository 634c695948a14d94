"""Find: whatever a customer or a colleague has, a code, a number, the end of one, or an amount and a day, leads to the story."""

from datetime import date, datetime
from http import HTTPStatus
from urllib.parse import quote, urlencode
from uuid import UUID

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from services.staff import told_store
from services.staff.desk.desk import Desk
from services.staff.desk.frame import zone_of
from services.staff.desk.pages.story import STATUSES, Kind
from services.staff.desk.problems import Mistaken
from services.staff.desk.routing import Room
from services.staff.desk.sessions import Visitor
from services.staff.find import AmountSearch, By, amount_and_day, amount_lookup, read
from services.staff.told_store import FOUND_MAX, FoundThing
from shared.contracts.currencies import ISO_4217

room = Room(__name__)

INVOICES: dict[str, tuple[Kind, str]] = {
    "open": ("quiet", "Open"),
    "payment_pending": ("work", "Being paid"),
    "in_doubt": ("look", "In doubt"),
    "paid": ("done", "Paid"),
    "void": ("quiet", "Void"),
}
SHOWN_MAX = FOUND_MAX - 1


class FoundView(BaseModel):
    """Something that was found, by what, and the page about it."""

    by: str
    invoice_id: str | None
    payment_id: UUID | None
    customer_id: str | None
    amount_minor: int | None
    currency: str | None
    kind: Kind
    badge: str
    at: datetime | None
    place: str
    letter_id: UUID | None = None


class FindView(BaseModel):
    """What was found for what was typed. `looked_for`: as what it was looked for, if nothing was found."""

    q: str
    title: str
    looked_for: str
    found: list[FoundView]
    more: bool
    misheard: str | None
    amount: str
    currency: str
    day: str
    currencies: list[str]
    hears_messages: bool


@room.page("/find", "find.html")
async def find(
    desk: Desk,
    visitor: Visitor,
    request: Request,
    q: str = "",
    amount: str = "",
    currency: str = "",
    day: str = "",
) -> FindView | Response:
    """Look for something. A single thing that fits opens at once, in a browser."""
    zone, _ = zone_of(request, visitor.preferences.zone)
    today = desk.clock().astimezone(zone).date()
    typed, by_amount = read(q), None
    if q and (named := amount_and_day(q, today)) is not None:
        by_amount = named
        amount, currency, day = named[0], named[1] or "", named[2].isoformat()
    elif amount:
        by_amount = (amount, _currency(currency), _day(day))
    async with desk.read() as connection:
        known = await told_store.currencies(connection)
        lookups = [] if by_amount is None else _amount_lookups(by_amount, known, zone)
        if by_amount is not None:
            found = [one for lookup in lookups for one in await told_store.find_amount(connection, lookup)]
        else:
            found = await told_store.find(connection, typed.lookups)
    views = _distinct([_view(one) for one in found])
    if len({view.place for view in views}) == 1 and not request.url.path.startswith("/api/"):
        return RedirectResponse(_with_by(views[0], typed.text or views[0].by), HTTPStatus.SEE_OTHER)
    return FindView(
        q=typed.text,
        title=_title(typed.text, views, lookups),
        looked_for=_looked_for(typed.lookups, lookups),
        found=views[:SHOWN_MAX],
        more=len(views) > SHOWN_MAX,
        misheard=typed.misheard,
        amount=amount,
        currency=currency or (known[0] if known else "EUR"),
        day=day or today.isoformat(),
        currencies=known or ["EUR"],
        hears_messages=desk.settings.staff_journal == "on",
    )


def _currency(text: str) -> str:
    if text.upper() not in ISO_4217:
        raise Mistaken({"currency": "Currency: EUR or another ISO 4217 code."})
    return text.upper()


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Mistaken({"day": "Day: such as 2026-11-26."}) from None


def _amount_lookups(named: tuple[str, str | None, date], known: list[str], zone: object) -> list[AmountSearch]:
    """Without a currency: in each in which there are payments."""
    amount, currency, day = named
    tried = [amount_lookup(amount, one, day, zone) for one in ([currency] if currency else known)]  # type: ignore[arg-type]
    lookups = [one for one in tried if one is not None]
    if not lookups and (currency or known):
        raise Mistaken({"amount": "Amount: such as 310.00, with the decimals of its currency."})
    return lookups


def _view(found: FoundThing) -> FoundView:
    if found.payment_status is not None:
        kind, badge = STATUSES.get(found.payment_status, ("look", found.payment_status))
    elif found.invoice_status is not None:
        kind, badge = INVOICES.get(found.invoice_status, ("look", found.invoice_status))
    elif found.letter_id is not None:
        kind, badge = "look", "Failed message"
    else:
        kind, badge = "quiet", "Not known"
    return FoundView(
        by=found.by,
        invoice_id=found.invoice_id,
        payment_id=found.payment_id,
        customer_id=found.customer_id,
        amount_minor=found.amount_minor,
        currency=found.currency,
        kind=kind,
        badge=badge,
        at=found.at,
        place=_place(found),
        letter_id=found.letter_id,
    )


def _place(found: FoundThing) -> str:
    if found.letter_id is not None:
        return f"/dead-letters/{found.letter_id}"
    if found.invoice_id is not None:
        return f"/invoices/{quote(found.invoice_id, safe='')}"
    return f"/commands/{found.command_id}" if found.command_id is not None else f"/payments/{found.payment_id}"


def _distinct(views: list[FoundView]) -> list[FoundView]:
    """Each thing once, by the first way that found it."""
    seen: dict[tuple[str, UUID | None], FoundView] = {}
    for view in views:
        if view.payment_id is None and any(place == view.place for place, _ in seen):
            continue
        seen.setdefault((view.place, view.payment_id), view)
    return list(seen.values())


def _with_by(view: FoundView, text: str) -> str:
    return f"{view.place}?{urlencode({'by': text})}" if view.letter_id is None else view.place


def _title(text: str, views: list[FoundView], lookups: list[AmountSearch]) -> str:
    number = f"{min(len(views), SHOWN_MAX)}{' or more' if len(views) > SHOWN_MAX else ''}"
    if lookups:
        return f"{number} found by amount and day" if views else "Nothing found by amount and day"
    if not text:
        return "Find an invoice"
    return f"{number} found" if views else f"Nothing found for {text}"


def _looked_for(lookups: object, amounts: list[AmountSearch]) -> str:
    if amounts:
        return "Looked for as an amount and a day; a day before and after as well."
    names: list[str] = list(dict.fromkeys(one.by.value for one in lookups))  # type: ignore[attr-defined]
    return (
        f"Looked for as {', '.join(names[:-1])} and {names[-1]}."
        if len(names) > 1
        else f"Looked for as {''.join(names) or By.INVOICE}."
    )
