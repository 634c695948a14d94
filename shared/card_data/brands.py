"""The brands' ranges and lengths, and the check digit of a card number."""

import re
from typing import Final

DIGITS_MIN, DIGITS_MAX = 12, 19  # ISO/IEC 7812-1: Maestro's shortest to the longest

# Brand, prefixes, lengths that are issued, lengths that are published besides. Sources: the brands' own pages and the list of issuer
# ranges in Wikipedia, "Payment card number". Maestro keeps to the ranges in use: all of 50 and 56-69 would take in everything.
BRANDS: Final[tuple[tuple[str, str, set[int], set[int]], ...]] = (
    ("Visa", "4", {16}, {13, 18, 19}),
    ("Mastercard", "5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", {16}, set()),
    ("American Express", "3[47]", {15}, set()),
    ("Discover", "6011|64[4-9]|65", {16}, {17, 18, 19}),
    ("JCB", "352[89]|35[3-8]", {16}, {17, 18, 19}),
    ("Diners Club", "30[0-5]|3095|36|3[89]", {14, 16}, {15, 17, 18, 19}),
    ("UnionPay", "62", {16, 19}, {17, 18}),
    ("UnionPay, second range", "81[0-6]|817[01]", {16}, {17, 18, 19}),
    ("Maestro", "5018|5020|5038|5612|5893|6304|6390|6759|676[1-3]|67677[04]", {16, 18, 19}, {12, 13, 14, 15, 17}),
    ("Mir", "220[0-4]", {16}, {17, 18, 19}),
    ("RuPay", "508|60|65|81|82|353|356", {16}, set()),
    ("Elo", "504175|506699|5067[0-6]|50677[0-8]|509|627780|636297|636368", {16}, set()),
    ("Troy", "9792|65", {16}, set()),
    ("Verve", "506099|5061[0-8]|50619[0-8]|50786[5-9]|5078[7-9]|5079[0-5]|50796[0-4]|6500[0-2]", {16, 18, 19}, set()),
    ("Hipercard", "606282|3841[046]0|637095|637568|637599|637609|637612", {16}, {13, 19}),
)


def _numbers(*, published: bool) -> bytes:
    """Card numbers as a pattern: of the lengths that are issued, or also of those that are only published."""
    prefixes: dict[int, list[str]] = {}
    for _, pattern, issued, besides in BRANDS:
        for length in issued | (besides if published else set()):
            prefixes.setdefault(length, []).append(pattern)
    return "|".join(rf"(?=\d{{{n}}}(?!\d))(?:{'|'.join(prefixes[n])})\d+" for n in sorted(prefixes)).encode()


IS_ISSUED = re.compile(_numbers(published=False))
IS_PUBLISHED = re.compile(_numbers(published=True))
_DOUBLED = bytes.maketrans(b"0123456789", b"0246813579")


def passes_luhn(digits: bytes) -> bool:
    """Whether the last of these ASCII digits is the check digit of the others (ISO/IEC 7812-1 annex B)."""
    return (sum(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED)) - len(digits) * ord("0")) % 10 == 0
