"""What somebody who looks for an invoice may have typed: a code, a number, the end of one, a customer, an amount and a day. Pure."""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import Final

from shared.contracts.currencies import ISO_4217
from shared.ids import read_uuid
from shared.records import dataclass

TYPED_MAX: Final = 300
END_LEAST: Final = 4
"""Characters of an end: of fewer there are too many."""
ALPHABET: Final = frozenset("23456789ABCDEFGHJKLMNPQRSTUVWXYZ")
"""The characters of reference codes. None looks or sounds like another."""
CODE_LENGTH: Final = 8
MISHEARD: Final = "01IO"
DAYS_AROUND: Final = 1
"""Days before and after the day that was named: a payment may be of the evening before, and a zone another one."""


class By(StrEnum):
    """By what something was found."""

    REFERENCE = "reference code"
    INVOICE = "invoice"
    INVOICE_END = "end of an invoice number"
    RECEIPT = "receipt"
    GATEWAY = "payment at the gateway"
    REFUND = "refund at the gateway"
    CUSTOMER = "customer"
    PAYMENT = "payment"
    PAYMENT_END = "end of a payment id"
    COMMAND = "command"
    COMMAND_END = "end of a command id"
    LETTER = "failed message"
    LETTER_END = "end of the id of a failed message"
    MESSAGE = "message"
    CORRELATION = "correlation id"
    AMOUNT = "amount and day"


@dataclass(frozen=True, slots=True)
class SearchTerm:
    """One way to look. `text` is what to look for in the form in which it is stored."""

    by: By
    text: str


@dataclass(frozen=True, slots=True)
class AmountSearch:
    """An amount in minor units, in one currency, between two moments."""

    amount_minor: int
    currency: str
    day: date
    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class TypedSearch:
    """What was typed, read: the ways to look, in their order, and a sentence if a code was misheard."""

    text: str
    lookups: tuple[SearchTerm, ...] = ()
    misheard: str | None = None


def read(typed: str) -> TypedSearch:
    """The ways to look for what somebody typed. None for nothing but blanks."""
    text = " ".join(typed.split())[:TYPED_MAX]
    if not text:
        return TypedSearch("")
    code = _reference(text)
    if code is not None:
        wrong = [character for character in code if character not in ALPHABET]
        if not wrong:
            return TypedSearch(text, (SearchTerm(By.REFERENCE, f"PF-{code}"),))
        return TypedSearch(text, tuple(_lookups(text)), _misheard(code))
    return TypedSearch(text, tuple(_lookups(text)))


def _reference(text: str) -> str | None:
    """The eight characters of a reference code, however it was written: blanks, dashes and case do not matter. None if it is none."""
    plain = re.sub(r"[\s\-\u2010-\u2015_.]", "", text).upper()
    found = re.fullmatch(rf"PF([0-9A-Z]{{{CODE_LENGTH}}})", plain)
    return found[1] if found else None


def _misheard(code: str) -> str:
    heard = [character for character in MISHEARD if character in code]
    return (
        f"PF-{code} has {' and '.join(heard)}. No code has 0, 1, I or O: it was misheard. "
        "Ask for it again, letter by letter."
    )


def _lookups(text: str) -> Iterable[SearchTerm]:
    id_ = read_uuid(text.lower())
    if id_ is not None:
        for by in (By.PAYMENT, By.COMMAND, By.LETTER, By.MESSAGE, By.CORRELATION):
            yield SearchTerm(by, str(id_))
        return
    for number in _numbers(text):
        yield SearchTerm(By.INVOICE, number)
    yield SearchTerm(By.RECEIPT, text[:255])
    yield SearchTerm(By.GATEWAY, text[:255])
    yield SearchTerm(By.REFUND, text[:255])
    yield SearchTerm(By.CUSTOMER, text)
    yield SearchTerm(By.CORRELATION, text[:255])
    end = text.removeprefix("…")
    if (end_of_id := _end_of_id(end)) is not None:
        for by in (By.PAYMENT_END, By.COMMAND_END, By.LETTER_END):
            yield SearchTerm(by, end_of_id)
    if len(end) >= END_LEAST:
        yield SearchTerm(By.INVOICE_END, end)


def _numbers(text: str) -> Iterable[str]:
    """A number of an invoice as it may be stored. On the telephone nobody says dashes and capitals."""
    dashed = text.replace(" ", "-")
    return dict.fromkeys((text, dashed, text.upper(), dashed.upper()))


_GROUPS_OF_ID: Final = (12, 4, 4, 4)
"""The characters of a UUID between its dashes, from the end on."""


def _end_of_id(text: str) -> str | None:
    """The end of an id in the form in which it is stored, whatever blanks and dashes it was read out with. None if it is none."""
    plain = re.sub(r"[\s\-\u2010-\u2015]", "", text).lower()
    if not re.fullmatch(rf"[0-9a-f]{{{END_LEAST},31}}", plain):
        return None
    parts: list[str] = []
    for length in _GROUPS_OF_ID:
        parts.insert(0, plain[-length:])
        plain = plain[:-length]
    return "-".join([plain, *parts]).lstrip("-")


# -- an amount and a day -------------------------------------------------------------------------------------------------------------------

_AMOUNT: Final = r"(?P<amount>\d{1,3}(?:[ ']\d{3})+(?:[.,]\d{1,3})?|\d{1,12}(?:[.,]\d{1,3})?)"
_DAY: Final = r"(?P<day>\d{1,2})\.\s?(?P<month>\d{1,2})\.(?:\s?(?P<year>\d{4}))?|(?P<iso>\d{4}-\d{2}-\d{2})"
_AMOUNT_AND_DAY: Final = re.compile(rf"{_AMOUNT}\s*(?P<currency>[A-Za-z]{{3}})?\s+(?:{_DAY})")


def amount_and_day(typed: str, today: date) -> tuple[str, str | None, date] | None:
    """The amount as it was written, the currency if one was named, and the day; None if it is not that. Without a year it is the last."""
    found = _AMOUNT_AND_DAY.fullmatch(" ".join(typed.split()))
    if found is None:
        return None
    try:
        day = date.fromisoformat(found["iso"]) if found["iso"] else _day(found, today)
    except ValueError:
        return None
    currency = found["currency"].upper() if found["currency"] else None
    return None if currency is not None and currency not in ISO_4217 else (found["amount"], currency, day)


def _day(found: "re.Match[str]", today: date) -> date:
    if found["year"]:
        return date(int(found["year"]), int(found["month"]), int(found["day"]))
    day = date(today.year, int(found["month"]), int(found["day"]))
    return day if day <= today + timedelta(days=DAYS_AROUND) else day.replace(year=today.year - 1)


def minor_units(amount: str, currency: str) -> int | None:
    """The amount in minor units of the currency: `310`, `310.00` and `1 240,5` are read. None if it has more decimals, or is no amount."""
    decimals = ISO_4217.get(currency)
    found = re.fullmatch(r"(\d{1,12})(?:[.,](\d{1,3}))?", re.sub(r"(?<=\d)[ '](?=\d{3})", "", amount.strip()))
    if decimals is None or found is None:
        return None
    part = found[2] or ""
    if len(part) > decimals:
        return None
    whole: int = int(found[1]) * 10**decimals
    return whole + int(part.ljust(decimals, "0") or "0")


def amount_lookup(amount: str, currency: str, day: date, zone: tzinfo) -> AmountSearch | None:
    """Look for this amount on the day, in the zone of whoever looks, and a day around it. None if the currency has no such amount."""
    minor = minor_units(amount, currency)
    if minor is None:
        return None
    around = timedelta(days=DAYS_AROUND)
    try:
        begin, end = _midnight(day - around, zone), _midnight(day + around * 2, zone)
    except OverflowError:  # the first or last day that there is
        return None
    return AmountSearch(minor, currency, day, begin, end)


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
