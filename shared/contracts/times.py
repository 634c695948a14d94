"""Times as RFC 3339 writes them, in all its forms: letters of either case, a space for the T, a fraction of any length, a leap second."""

import re
from datetime import datetime
from typing import Final

RFC_3339: Final = "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
_FORM = re.compile(RFC_3339.removesuffix("$") + r"\Z")
_LEAP_SECOND = re.compile(r"(?<=T[0-9]{2}:[0-9]{2}):60(?=[.Z+-])")


def read_time(text: str) -> datetime:
    """The moment. A leap second counts as the second before it. What is finer than a microsecond is cut off. Raises ValueError.

    A time without a zone is refused: nobody could say which one is meant.
    """
    if not _FORM.match(text):
        raise ValueError("must be a time of RFC 3339 such as 2026-11-28T12:00:00Z")
    text = text.replace(" ", "T").upper()
    try:
        return datetime.fromisoformat(_LEAP_SECOND.sub(":59", text) if ":60" in text else text)
    except ValueError:
        raise ValueError("is a time that no calendar has") from None
