"""A content without anything that could be a card number: so little that none can be found from a hash of it."""

import re

from shared.card_data.brands import DIGITS_MIN
from shared.card_data.encodings import readings, without_escapes
from shared.card_data.plain import UUID_IN_TEXT, as_ascii
from shared.card_data.scan import LAYERS, may_hold_long_number

_MARK = b"#"
_UUID_OR_LONG_NUMBER = re.compile(rb"(%b)|[0-9](?:[^0-9A-Za-z]{0,3}[0-9]){%d,}" % (UUID_IN_TEXT, DIGITS_MIN - 1))
"""As many digits as the shortest card number has, or more, however they are printed, whatever their brand and check digit."""


def without_long_numbers(content: bytes) -> bytes | None:
    """The content with a mark for each long number that is no UUID. None if there is none; nothing if one stands in it encoded.

    Two contents that differ in nothing but long numbers have one outline. It cannot be otherwise: whoever can tell one number from another
    by what is stored finds the number by trying all of them.
    """
    plain = as_ascii(content)
    if not may_hold_long_number(plain):
        return None
    plain = without_escapes(plain)
    if _hides_long_number(plain, LAYERS):
        return b""
    masked = _masked(plain)
    return masked if masked != plain else None


def _masked(text: bytes) -> bytes:
    return _UUID_OR_LONG_NUMBER.sub(lambda found: found[1] or _MARK, text)


def _hides_long_number(data: bytes, layers: int) -> bool:
    return any(
        _masked(reading) != reading or (layers > 1 and _hides_long_number(reading, layers - 1))
        for reading in readings(data)
        if may_hold_long_number(reading)
    )
