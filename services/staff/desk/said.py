"""Sentences of the pure cores as views: each part is drawn in its own way, and programs get the same parts."""

from datetime import datetime
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel

from services.staff.story import Amount, Named, Theirs, When, Words

_PAGES = {"invoice": "/invoices/{}", "payment": "/payments/{}", "letter": "/dead-letters/{}", "customer": "/find?q={}"}


class SaidPart(BaseModel):
    """A part of a sentence: a text of ours, an amount in minor units, a text of others, an id with its page, or a moment."""

    kind: Literal["text", "amount", "theirs", "named", "when"]
    text: str = ""
    amount_minor: int | None = None
    currency: str | None = None
    what: str | None = None
    place: str | None = None
    at: datetime | None = None


def said(words: Words) -> list[SaidPart]:
    """The parts of a sentence."""
    return [_part(word) for word in words]


def _part(word: str | Amount | Theirs | Named | When) -> SaidPart:
    match word:
        case str():
            return SaidPart(kind="text", text=word)
        case Amount(amount_minor, currency):
            return SaidPart(kind="amount", amount_minor=amount_minor, currency=currency)
        case Theirs(text):
            return SaidPart(kind="theirs", text=text)
        case Named(id_, what):
            page = _PAGES.get(what)
            return SaidPart(kind="named", text=id_, what=what, place=page.format(quote(id_, safe="")) if page else None)
        case When(at):
            return SaidPart(kind="when", at=at)
