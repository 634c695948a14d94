"""Finds card numbers and card verification values where they must not be.

One definition serves everybody: the border, staff's texts, the command line, a gateway's answers, dead letters, logs and the audit. So what
the border lets in is nothing that the audit complains of. `find_card_data` looks at a text or a body as it came, and behind the encodings
that systems apply by themselves; `mask_card_data` makes a text fit to be shown.

They look at every message, so they begin with a test of a microsecond that nearly every healthy body passes. Everything else is paid out of
an `Effort`: a text that would take more than a few milliseconds, whatever is in it, counts as one that hides something.

**What counts as a card number.** A brand's prefix, a length of that brand, a right check digit (Luhn), and a shape:

- *printed*: three groups or more as they stand on a card (4-4-4-4, 4-6-5, ...), up to three separators of any kind between two of them;
- *typed*: three groups or more of any size, with the same blank, hyphen or full stop between all of them;
- *bare*: digits in one piece, letters beside them or not, or two groups cut where a printed number is cut.

**Where it cannot be told**, the prior decides. Of numbers of 16 digits, three in a hundred have a brand's prefix and pass Luhn by chance,
so bare digits are ambiguous:

- A bare or typed number of a length that the brand really issues is a card number wherever it stands, also where an id is expected: a card
  number that is kept costs more than an order number that is refused.
- It is none if its surroundings say so: directly before it stands a word for orders, shipments or traces (`"order_number": "..."`), or a
  code of capitals and a hyphen (`ORD-...`); or it is part of a float, a UUID, a hash, an IBAN or a telephone number.
- A length that is published but hardly issued (Visa of 13 or 19 digits, Maestro of 12) counts where something speaks for a card: the
  printed shape, a word like `card` or `visa` before it, an expiry date behind it. So amounts, EANs, SSCCs and snowflakes pass.
- A printed number is a card number whatever stands before it.

`make cards` measures both kinds of error, kind by kind, over tests/cards.
"""

import re
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Final

from shared.card_data.effort import Effort, TooMuchEffort
from shared.card_data.encodings import readings
from shared.card_data.glance import is_clean
from shared.card_data.numbers import card_numbers, digits_of
from shared.card_data.plain import IGNORABLE, as_ascii, twins_of
from shared.card_data.verification_values import verification_values

CARD_PLACEHOLDER = "[card number]"
CVV_PLACEHOLDER = "***"
CARD_DATA_ENCODED = "[text removed: it holds encoded card data]"


class CardData(Enum):
    """What was found in a text."""

    NUMBER = auto()
    VERIFICATION_VALUE = auto()
    TOO_MUCH = auto()
    """The effort was at its end before the text was looked through."""


_FINDERS: Final[dict[CardData, Callable[[bytes, Effort], Iterator[tuple[int, int]]]]] = {
    CardData.NUMBER: card_numbers,
    CardData.VERIFICATION_VALUE: verification_values,
}


def find_card_data(text: str | bytes, effort: Effort | None = None) -> CardData | None:
    """What stands in this text, as it is or encoded: see `readings`. Bytes are read as UTF-8."""
    if is_clean(text):
        return None
    effort = effort or Effort()
    try:
        for data in readings(text, effort):
            for kind, find in _FINDERS.items():
                if any(True for _ in find(data, effort)):
                    return kind
    except TooMuchEffort:
        return CardData.TOO_MUCH
    return None


def has_card_data(text: str | bytes, effort: Effort | None = None) -> bool:
    """Whether a card number or a verification value stands in this text, or nobody can say."""
    return find_card_data(text, effort) is not None


# -- texts that are shown ----------------------------------------------------------------------------------------------------------------

_PLACEHOLDERS: Final = {CardData.VERIFICATION_VALUE: CVV_PLACEHOLDER, CardData.NUMBER: CARD_PLACEHOLDER}


def mask_card_data(text: str) -> str | None:
    """The text with a placeholder for each card number and verification value. None if one is encoded in it: then nothing can be shown."""
    if not has_card_data(text):
        return text
    if _is_encoded(text):  # before anything is masked, which may take out a part of what is encoded
        return None
    for kind, placeholder in _PLACEHOLDERS.items():
        for start, end in reversed(spans(text, kind)):
            text = f"{text[:start]}{placeholder}{text[end:]}"
    return None if has_card_data(text) else text


def _is_encoded(text: str) -> bool:
    """Whether there is card data behind an encoding that does not stand there as it is, or nobody can say."""
    effort = Effort()
    try:
        shown = _found(as_ascii(text), effort)
        return any(_found(data, effort) - shown for data in readings(text, effort))
    except TooMuchEffort:
        return True


def _found(data: bytes, effort: Effort) -> set[bytes]:
    """The digits of all card data in it."""
    return {digits_of(data[start:end]) for find in _FINDERS.values() for start, end in find(data, effort)}


def spans(text: str, kind: CardData, effort: Effort | None = None) -> list[tuple[int, int]]:
    """Where such data stands in this text as it is, as (start, end) in characters, in order, never overlapping."""
    data = twins_of(text)
    places = [at for at, byte in enumerate(data) if byte != IGNORABLE[0]] if IGNORABLE in data else range(len(data))
    try:
        found = sorted(_FINDERS[kind](data.replace(IGNORABLE, b""), effort or Effort()))
    except TooMuchEffort:
        return [(0, len(text))]
    merged: list[tuple[int, int]] = []
    for start, end in found:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return [(places[start], places[end - 1] + 1) for start, end in merged]


def beginning(text: str, characters: int) -> str:
    """At most so much of the text, without digits at the cut: a card number cut in two would pass for a short number."""
    return text if len(text) <= characters else _DIGITS_AT_THE_END.sub("", text[:characters])


_DIGITS_AT_THE_END = re.compile(r"\d[\d\W_]{0,80}\Z")
