"""Card numbers that belong to nobody: made with Luhn inside the ranges that the brands publish, from a seeded source.

The ranges are written anew from the brands' pages, and not read from the scanner.
"""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Range:
    """A brand's prefix with its usual lengths, and how those are printed on the card."""

    brand: str
    prefix: str
    lengths: tuple[int, ...] = (16,)
    groups: tuple[int, ...] = (4, 4, 4, 4, 3)


USUAL = (
    Range("Visa", "4"),
    *(Range("Mastercard, 51 to 55", str(prefix)) for prefix in range(51, 56)),
    *(Range("Mastercard, 2221 to 2720", str(prefix)) for prefix in (2221, 2229, 2230, 2300, 2699, 2700, 2719, 2720)),
    Range("American Express", "34", (15,), (4, 6, 5)),
    Range("American Express", "37", (15,), (4, 6, 5)),
    *(Range("Discover", prefix) for prefix in ("6011", "644", "649", "65")),
    *(Range("JCB", prefix) for prefix in ("3528", "3530", "3589")),
    *(Range("Diners Club", prefix, (14,), (4, 6, 4)) for prefix in ("300", "305", "3095", "36", "38", "39")),
    Range("UnionPay", "62", (16, 19)),
    *(Range("UnionPay, 8100 to 8171", prefix) for prefix in ("8100", "8171")),
    *(
        Range("Maestro", prefix, (16, 18, 19))
        for prefix in ("5018", "5020", "5038", "5893", "6304", "6759", "6761", "6762", "6763", "676770")
    ),
    *(Range("Mir", prefix) for prefix in ("2200", "2202", "2204")),
    *(Range("RuPay", prefix) for prefix in ("60", "65", "81", "82", "508", "353", "356")),
    *(
        Range("Elo", prefix)
        for prefix in ("401178", "504175", "506699", "506778", "509000", "636297", "636368", "650031", "655000")
    ),
    *(Range("Troy", prefix) for prefix in ("9792", "65")),
    *(Range("Verve", prefix, (16, 18, 19)) for prefix in ("506099", "506198", "507865", "507964", "650002")),
    *(Range("Hipercard", prefix) for prefix in ("606282", "637095", "637568", "637612")),
)
RARE = (
    Range("Visa of 13 digits", "4", (13,), (4, 3, 3, 3)),
    Range("Visa of 19 digits", "4", (19,)),
    Range("Maestro of 12 to 17 digits", "6759", (12, 13, 14, 15, 17)),
    Range("Discover of 17 to 19 digits", "6011", (17, 18, 19)),
    Range("JCB of 17 to 19 digits", "3530", (17, 18, 19)),
    Range("Diners Club of 15 to 19 digits", "36", (15, 17, 18, 19)),
    Range("UnionPay of 17 and 18 digits", "62", (17, 18)),
    Range("Mir of 17 to 19 digits", "2200", (17, 18, 19)),
    Range("Hipercard of 13 and 19 digits", "384100", (13, 19)),
)
"""Published, hardly issued: caught where something speaks for a card."""


def luhn_digit(digits: str) -> str:
    """The check digit to be written behind these (ISO/IEC 7812-1 annex B)."""
    total = 0
    for at, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 - at % 2)
        total += value - 9 * (value > 9)
    return str(-total % 10)


def number(source: Random, kind: Range) -> str:
    """Without separators."""
    length = source.choice(kind.lengths)
    body = kind.prefix + "".join(source.choice("0123456789") for _ in range(length - len(kind.prefix) - 1))
    return body + luhn_digit(body)


def any_number(source: Random) -> str:
    return number(source, source.choice(USUAL))


def printed(digits: str, separator: str, groups: tuple[int, ...] = ()) -> str:
    """In groups as on the card."""
    groups = groups or {15: (4, 6, 5), 14: (4, 6, 4)}.get(len(digits), (4, 4, 4, 4, 3))
    parts, at = [], 0
    for size in groups:
        parts.append(digits[at : at + size])
        at += size
    return separator.join(filter(None, parts))
