"""A look of a few microseconds that nearly every healthy message passes: only what does not is looked through, out of an `Effort`.

A glance never lets through what the scan behind it would find: it asks for less than the scan does.
"""

from typing import Final

from shared.card_data.effort import Effort, TooMuchEffort
from shared.card_data.encodings import may_be_bytes
from shared.card_data.members import may_hold_groups
from shared.card_data.numbers import DIGITS, DIGITS_IN_A_ROW, card_numbers, may_be_around_colons
from shared.card_data.plain import CONTROLS, as_ascii
from shared.card_data.verification_values import TO_NAMES, may_name_a_value

_BYTES_MAX: Final = 4 * 1024
"""Of a longer text the scan keeps account. Our own commands have half a KiB."""

_EFFORT_MAX_US: Final = 50

_MARK: Final = b"%"
_BEFORE_ESCAPES: Final = b"\\%&=<"
_FOLDED: Final = bytes(
    DIGITS_IN_A_ROW[0] if byte in DIGITS else _MARK[0] if byte in _BEFORE_ESCAPES + CONTROLS else byte
    for byte in range(256)
)
"""What begins an escape is one mark, and so is what nobody sees: one test tells that there is none."""
_LEFT_OUT: Final = bytes(
    byte for byte in range(256) if not bytes((byte,)).isalnum() and byte not in b":" + _BEFORE_ESCAPES + CONTROLS
)
_COLONS_TOO: Final = _LEFT_OUT + b":"


def is_clean(text: str | bytes) -> bool:
    """Whether no card number and no verification value can stand in this text, as it is or encoded. False says nothing."""
    data = _ascii(text)
    if data is None:
        return False
    folded = data.translate(_FOLDED, _LEFT_OUT)
    if _MARK in folded or may_be_bytes(data) or may_name_a_value(data.translate(TO_NAMES)):
        return False
    if may_hold_groups(data):
        return False
    has_row = DIGITS_IN_A_ROW in folded or may_be_around_colons(folded)
    return not has_row or _is_without_card_number(data)


def _is_without_card_number(data: bytes) -> bool:
    """One UUID in thirty has so many digits in a row. Nothing else is left to be looked at."""
    try:
        return not any(True for _ in card_numbers(data, Effort(_EFFORT_MAX_US)))
    except TooMuchEffort:
        return False


def is_without_long_numbers(text: str | bytes) -> bool:
    """Whether no digits as many as in a card number can stand in it, as they are or encoded. False says nothing."""
    data = _ascii(text)
    if data is None:
        return False
    folded = data.translate(_FOLDED, _COLONS_TOO)
    return not (_MARK in folded or DIGITS_IN_A_ROW in folded or may_be_bytes(data) or may_hold_groups(data))


def _ascii(text: str | bytes) -> bytes | None:
    if len(text) > _BYTES_MAX:
        return None
    if text.isascii():
        return text if isinstance(text, bytes) else text.encode()
    return as_ascii(text)
