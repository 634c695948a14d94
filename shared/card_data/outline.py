"""A content without anything that could be a card number: so little that none can be found from a hash of it."""

import re
from typing import Final

from shared.card_data.brands import DIGITS_MIN
from shared.card_data.effort import Effort, TooMuchEffort
from shared.card_data.encodings import readings
from shared.card_data.glance import is_without_long_numbers
from shared.card_data.numbers import digits_of, may_hold_long_number, rows

_EFFORT_MAX_US: Final = 800
"""An account of its own: the outline of a content must be the same wherever it stands."""
_BYTE_US: Final = 0.002
_MATCH_US: Final = 0.6
_MARK: Final = b"#"
_CHAIN = re.compile(rb"[0-9]++(?:[^0-9A-Za-z]{1,12}+[0-9]++)*+")
"""Digits with up to twelve signs between two of them. If they are as many as in the shortest card number they count as a long number,
whatever their brand and check digit."""
_UUID = re.compile(rb"-(?<=(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-)(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z])")
"""All but its first eight characters: so a search for it is one for hyphens."""
_UUID_LENGTH, _BEFORE_HYPHEN = 36, 8


def without_long_numbers(content: bytes) -> bytes | None:
    """The content with a mark for each long number that is no UUID. None if there is none; nothing if one stands in it encoded, or if it
    would take too much effort to know.

    Two contents that differ in nothing but long numbers have one outline. It cannot be otherwise: whoever can tell one number from another
    by what is stored finds the number by trying all of them.
    """
    if is_without_long_numbers(content):
        return None
    effort = Effort(_EFFORT_MAX_US)
    try:
        plain, *behind = readings(content, effort)
        if any(_masked(reading, effort) is not None for reading in behind):
            return b""
        return _masked(plain, effort)
    except TooMuchEffort:
        return b""


def _masked(data: bytes, effort: Effort) -> bytes | None:
    """None if there is nothing to mask."""
    effort.spend(len(data) * _BYTE_US)
    if not may_hold_long_number(data):
        return None
    hidden = _without_uuids(data, effort)
    kept, at = [], 0
    for start, end in rows(hidden, effort):
        for chain in _CHAIN.finditer(hidden, start, end):
            effort.spend(_MATCH_US)
            if len(digits_of(chain[0])) >= DIGITS_MIN:
                kept.append(data[at : chain.start()])
                at = chain.end()
    return _MARK.join((*kept, data[at:])) if kept else None


def _without_uuids(data: bytes, effort: Effort) -> bytes:
    """With letters in place of each UUID."""
    hidden = bytearray(data)
    for found in _UUID.finditer(data):
        effort.spend(_MATCH_US)
        hidden[found.start() - _BEFORE_HYPHEN : found.end()] = b"u" * _UUID_LENGTH
    return bytes(hidden)
