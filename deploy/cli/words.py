"""Formats values as text for a terminal."""

import re
from datetime import UTC, datetime
from uuid import UUID

from shared.contracts.currencies import ISO_4217, in_major_units

SECONDS_IN = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
"""Seconds in each unit of a duration."""


def money(amount_minor: int | None, currency: str | None) -> str:
    """`1250, "EUR"` -> `12.50 EUR`; an empty text if amount or currency is not known."""
    if amount_minor is None or currency is None:
        return ""
    return in_major_units(amount_minor, currency) if currency in ISO_4217 else f"{amount_minor} {currency}"


def short_type(type_: str | None) -> str:
    """`remit.invoice.PayInvoice.v1` -> `PayInvoice`; `?` if there is none."""
    found = re.fullmatch(r"remit\.\w+\.(\w+)\.v\d+", type_ or "")
    return found[1] if found else type_ or "?"


def id_text(id_: UUID, *, wide: bool, length: int) -> str:
    """The whole id on a `wide` terminal, else its last `length` characters."""
    return str(id_) if wide else str(id_)[-length:]


def time(moment: datetime) -> str:
    """The moment in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def age(moment: datetime, now: datetime) -> str:
    """The time since `moment`, in the largest unit that gives at least 2: `90m`, `3d`."""
    seconds = max(0, int((now - moment).total_seconds()))
    for unit in ("d", "h", "m"):
        if seconds >= 2 * SECONDS_IN[unit]:
            return f"{seconds // SECONDS_IN[unit]}{unit}"
    return f"{seconds}s"
