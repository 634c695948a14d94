"""Where card numbers stand in a text of ASCII characters. What counts as one: see `shared.card_data.scan`."""

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from shared.card_data.brands import DIGITS_MAX, DIGITS_MIN, is_issued, passes_luhn, published_lengths
from shared.card_data.effort import Effort
from shared.card_data.surroundings import is_meant

DIGITS: Final = b"0123456789"
_NO_DIGITS = bytes(byte for byte in range(256) if byte not in DIGITS)
_SEPARATOR = rb'(?:[^0-9A-Za-z]{1,3}(?:\s*")?)'
"""Between two groups: up to three signs. White space before a quote does not count: in a JSON list of texts it is lay-out."""

# -- a quick look ------------------------------------------------------------------------------------------------------------------------

_TO_ZEROS = bytes(ord("0") if byte in DIGITS else byte for byte in range(256))
_NO_LETTERS_DIGITS = bytes(byte for byte in _NO_DIGITS if not bytes((byte,)).isalpha())
_NO_LETTERS_DIGITS_COLON = _NO_LETTERS_DIGITS.replace(b":", b"")
DIGITS_IN_A_ROW: Final = b"0" * DIGITS_MIN
_ZEROS_BEFORE_COLON: Final = b"0000:"
_ZEROS_AROUND_COLONS: Final = (b"0000:0000", b"0000::")
"""Colons are not left out, or the times of day in our bodies would seem to have twelve digits in a row."""
_AROUND_COLON = re.compile(b"0000[^0A-Za-z]{0,2}:[^0A-Za-z]{0,2}0000")

# -- rows, and where a number may begin in them ------------------------------------------------------------------------------------------

_TO_ROWS = bytes(ord("A") if bytes((byte,)).isalpha() else ord("0") for byte in range(256))
_TO_ROWS_WITHOUT_COLONS = _TO_ROWS[: ord(":")] + b"A" + _TO_ROWS[ord(":") + 1 :]
_ROW = re.compile(DIGITS_IN_A_ROW + b"+")
"""Of a text in which letters are A, and all else is 0."""
_TO_GROUPS = bytes(byte if byte in DIGITS else ord(" ") for byte in range(256))

_BRANDS_BEGIN = rb"(?=[46]|[23589](?![0-9])|2[2-7]|3[04-9]|5[0-8]|8[12]|97)"
_LONG_ROW: Final = 200
_NO_BRAND_BEGINS: Final = (b" 0", b" 1", b" 7", b" 20")
"""Some of the others, at the beginning of a group: those of which dates and amounts are full."""
# JSON is full of floats. What stands behind the point of one is left out here; `is_meant` knows the other floats.
_NO_FRACTION = b"".join(rb"(?<![^0-9.][0-9]{%d}[.])" % digits for digits in (1, 2, 3))
_BARE = rb"(?=[0-9]{12,19}(?![0-9]))" + _NO_FRACTION
_PRINTED = rb"(?=F(?:S(?:FS?F|[0-9]{6}S|(?:[0-9]{3}S){3})|F(?:SF|FF?S[0-9]{2}))|[0-9]{6}S[0-9]{10})"
_TYPED = rb"(?=[0-9]++(?P<sign>[ .\-+])[0-9]++(?P=sign)[0-9])(?=(?:[0-9](?P=sign)?+){12})"
_BEGINNING = re.compile(
    rb"[^0-9]%b(?![0-9]{20})(?:(?=([0-9]{12,19})(?![0-9]|%b[0-9]))%b|%b|%b|%b)"
    % (
        _BRANDS_BEGIN,
        _SEPARATOR,
        _NO_FRACTION,
        _BARE,
        _PRINTED.replace(b"F", rb"[0-9]{4}").replace(b"S", _SEPARATOR),
        _TYPED,
    )
)
"""The sign before a group with a brand's first digits, if the group seems to begin one of the forms."""
_LENGTH_MAX: Final = 56
"""Of a number with its separators: 19 digits in five groups, in a list of texts on lines of their own."""

_BEFORE_OTHER_NOTATIONS: Final = {b"a", b"A"}
_BEHIND_OTHER_NOTATIONS: Final = {b"e", b"E", b"d", b"D"}
"""The letter beside a row, if it is not a list."""
_EXPONENT = re.compile(rb"[eE][+]?(1[1-8])(?![0-9])")
_E: Final = b"eE"
_D: Final = b"dD"
_MANTISSA = re.compile(rb"(?<![0-9.])[1-9][.][0-9]{1,18}\Z")
_MANTISSA_LENGTH_MAX: Final = 21  # with the sign before it
"""How Java and Go write a large number: `4.242424242424242E15`."""
_DIGIT_BY_DIGIT = re.compile(rb"\[\s*+\"?[0-9]\"?\s*+(?:,\s*+\"?[0-9]\"?\s*+){11,18}\]")
"""A list with a digit in each element: what a form has that asks for them one by one."""
# Data of a chip in hexadecimal (EMV book 3): track 2 with its letter before the expiry date, and the number behind tag and length.
_EXPIRY_ON_CHIP = re.compile(rb"[dD][2-4][0-9](?:0[1-9]|1[0-2])[0-9]{3}")
_NUMBER_ON_CHIP = re.compile(
    rb"(?<=5[aA])(?:07([0-9]{14})|08([0-9]{16}|[0-9]{15}(?=[fF]))|09([0-9]{18}))|(?<=5[aA]0[aA])([0-9]{19})(?=[fF])"
)

# -- forms -------------------------------------------------------------------------------------------------------------------------------

_GROUP = re.compile(rb"[0-9]+")
_IS_SEPARATOR = re.compile(_SEPARATOR).fullmatch
_BESIDES_FOURS: Final = ([4, 6, 5], [4, 6, 4], [4, 3, 3, 3], [6, 10], [6, 13])
"""As some brands print them: American Express and Diners Club, Visa's 13 digits, UnionPay and Maestro."""
_BETWEEN_TYPED: Final = {b" ", b".", b"-", b"+"}
_GROUPS_MIN = 3
_WIDE = re.compile(
    rb"(?<![0-9])[0-9]{4,6}(?P<wide>[^0-9A-Za-z]{4,12}+)[0-9]{2,6}(?:(?P=wide)[0-9]{1,6}(?![0-9]))+(?![0-9A-Za-z])"
)
"""Groups that are further apart, with the same signs between all of them: columns, or elements of nested lists."""
_IN_A_TABLE = re.compile(rb"[0-9][^0-9A-Za-z\n]{4,12}\Z")
"""Before the first group: another number, as far apart."""
_FURTHER_APART: Final = b" " * 4
_LOOK_BACK: Final = 13
_WIDE_LENGTH_MIN: Final = 14 + 2 * len(_FURTHER_APART)
_BEHIND_WIDE_MAX: Final = 2
"""Columns behind a number: an expiry date, a verification value. With more it is a table of numbers."""

# What the steps cost, in microseconds.
_BYTE_US: Final = 0.0015
_ROW_US: Final = 0.5
_IN_ROW_US: Final = 0.03
_GROUP_US: Final = 0.25
_OTHER_GROUP_US: Final = 0.06
_ALONE_US: Final = 1.6
_BEGINNING_US: Final = 3.5
_HIT_US: Final = 20
_LIST_US: Final = 2
_NOTATION_US: Final = 0.6
_WIDE_US: Final = 0.02
_CHIP_US: Final = 2


def digits_of(data: bytes) -> bytes:
    """The ASCII digits in it."""
    return data.translate(None, _NO_DIGITS)


def may_hold_long_number(data: bytes) -> bool:
    """Whether as many digits as a card number has stand in this ASCII text with no letter between them."""
    return DIGITS_IN_A_ROW in data.translate(_TO_ZEROS, _NO_LETTERS_DIGITS)


def may_be_around_colons(zeros: bytes) -> bool:
    """Whether digits may stand around colons as in a card number. Of the text only letters and colons are left, and zeros for digits."""
    return _ZEROS_BEFORE_COLON in zeros and any(form in zeros for form in _ZEROS_AROUND_COLONS)


def card_numbers(data: bytes, effort: Effort) -> Iterator[tuple[int, int]]:
    """Where card numbers stand in this ASCII text, as (start, end); they may overlap. Raises `TooMuchEffort`."""
    effort.spend(len(data) * _BYTE_US)
    zeros = data.translate(_TO_ZEROS, _NO_LETTERS_DIGITS_COLON)
    has_colons = may_be_around_colons(zeros) and _AROUND_COLON.search(data.translate(_TO_ZEROS)) is not None
    if not has_colons and DIGITS_IN_A_ROW not in zeros:
        return  # nearly every healthy message
    effort.spend(len(data) * _BYTE_US)
    data = b"\n" + data
    has_lists = b"[" in data
    for start, end in rows(data, effort, _TO_ROWS if has_colons else _TO_ROWS_WITHOUT_COLONS):
        for found in _BEGINNING.finditer(data, max(start - 1, 0), end):
            yield from _at(found, data, end, effort)
        if end - start >= _WIDE_LENGTH_MIN and _FURTHER_APART in data[start:end].translate(_TO_GROUPS).strip():
            yield from _further_apart(data, start, end, effort)
        if (
            has_lists
            or data[end : end + 1] in _BEHIND_OTHER_NOTATIONS
            or data[start - 1 : start] in _BEFORE_OTHER_NOTATIONS
        ):
            effort.spend(_NOTATION_US)
            yield from _in_other_notations(data, start, end, effort)


def rows(data: bytes, effort: Effort, table: bytes = _TO_ROWS) -> Iterator[tuple[int, int]]:
    """Where as many digits as a card number has stand with no letter between them, as (start, end). Raises `TooMuchEffort`."""
    for found in _ROW.finditer(data.translate(table)):
        start, end = found.span()
        effort.spend(_ROW_US)
        row = data[start:end]
        if len(digits_of(row)) >= DIGITS_MIN:
            groups = row.translate(_TO_GROUPS)
            saved_us = _saved_us(groups) if len(row) > _LONG_ROW else 0  # in a short one it is not worth the count
            effort.spend(len(row) * _IN_ROW_US + len(groups.split()) * _GROUP_US - saved_us)
            yield start, end


def _saved_us(groups: bytes) -> float:
    """What looking through groups costs less, because no brand begins with some of them: each is left at its first digit or two."""
    return sum(map(groups.count, _NO_BRAND_BEGINS)) * (_GROUP_US - _OTHER_GROUP_US)


def _at(found: re.Match[bytes], data: bytes, row_end: int, effort: Effort) -> Iterator[tuple[int, int]]:
    start = found.end()
    if digits := found[1]:
        effort.spend(_ALONE_US)
        ends = {len(digits)}
    else:
        effort.spend(_BEGINNING_US)
        groups = data[start : min(row_end, start + _LENGTH_MAX)].translate(_TO_GROUPS).split()
        digits, ends = b"".join(groups), set(accumulate(map(len, groups)))
    for length in ends.intersection(published_lengths(digits)):
        if passes_luhn(digits[:length]):
            effort.spend(_HIT_US)
            end, is_printed = _form(data, start, length)
            if end and is_meant(data, start, end, digits[:length], is_printed=is_printed):
                yield start - 1, end - 1


def _further_apart(data: bytes, start: int, end: int, effort: Effort) -> Iterator[tuple[int, int]]:
    effort.spend((end - start) * _WIDE_US)
    for found in _WIDE.finditer(data, start, end):
        effort.spend(_BEGINNING_US)
        if _IN_A_TABLE.search(data, max(0, found.start() - _LOOK_BACK), found.start()):
            continue
        groups = found[0].split(found["wide"])
        for count in range(_GROUPS_MIN, len(groups) + 1):
            digits = b"".join(groups[:count])
            if (
                len(groups) - count <= _BEHIND_WIDE_MAX
                and _is_printed([*map(len, groups[:count])])
                and len(digits) in published_lengths(digits)
                and passes_luhn(digits)
            ):
                length = len(digits) + (count - 1) * len(found["wide"])
                yield found.start() - 1, found.start() - 1 + length


def _in_other_notations(data: bytes, start: int, end: int, effort: Effort) -> Iterator[tuple[int, int]]:
    """In this row: in floating point, as a list of single digits, or in the data of a chip."""
    yield from _on_chip(data, start, end, effort)
    if data[end : end + 1] in _E and (exponent := _EXPONENT.match(data, end)):
        effort.spend(_BEGINNING_US)
        if mantissa := _MANTISSA.search(data, max(start, end - _MANTISSA_LENGTH_MAX), end):
            length = int(exponent[1]) + 1
            digits = digits_of(mantissa[0]).ljust(length, b"0")
            if len(digits) == length and is_issued(digits) and passes_luhn(digits):  # a longer one is no whole number
                yield mantissa.start() - 1, exponent.end() - 1
    lists = data.count(b"[", start, end)
    if not lists:
        return
    effort.spend(lists * _LIST_US)
    for found in _DIGIT_BY_DIGIT.finditer(data, start, end):
        digits = digits_of(found[0])
        if len(digits) in published_lengths(digits) and passes_luhn(digits):
            effort.spend(_HIT_US)
            if is_meant(data, *found.span(), digits, is_printed=False):
                yield found.start() - 1, found.end() - 1


def _on_chip(data: bytes, start: int, end: int, effort: Effort) -> Iterator[tuple[int, int]]:
    ends: list[tuple[int, int]] = []  # with the length of the number
    if found := _NUMBER_ON_CHIP.match(data, start):
        ends.append((found.end(), len(found[found.lastindex or 0])))
    if data[end : end + 1] in _D and _EXPIRY_ON_CHIP.match(data, end):
        ends += [(end, length) for length in range(DIGITS_MIN, min(DIGITS_MAX, end - start) + 1)]
    effort.spend(len(ends) * _CHIP_US)
    for last, length in ends:
        digits = data[last - length : last]
        if digits.isdigit() and is_issued(digits) and passes_luhn(digits):
            yield last - length - 1, last - 1


def _form(data: bytes, start: int, length: int) -> tuple[int, bool]:
    """Where so many digits end, and whether they are printed; (0, False) if no card number is written like this."""
    sizes: list[int] = []
    separators: set[bytes] = set()
    end = start
    for group in _GROUP.finditer(data, start):
        if sizes:
            separators.add(data[end : group.start()])
        end = group.end()
        sizes.append(end - group.start())
        if sum(sizes) == length:
            break
    if not all(map(_IS_SEPARATOR, separators)):
        return 0, False
    if _is_printed(sizes):
        return end, len(sizes) >= _GROUPS_MIN  # one that is cut only once is hardly more than bare
    is_typed = len(sizes) >= _GROUPS_MIN and len(separators) == 1 and separators <= _BETWEEN_TYPED
    return (end, False) if is_typed or len(sizes) == 1 else (0, False)


def _is_printed(sizes: list[int]) -> bool:
    """In groups of four, several in one piece perhaps, and what is left; or in the groups of another brand."""
    *fours, last = sizes
    is_in_fours = fours != [] and not any(size % 4 for size in fours)
    is_before_a_single_digit = len(sizes) < _GROUPS_MIN and last == 1
    return (is_in_fours and not is_before_a_single_digit) or sizes in _BESIDES_FOURS
