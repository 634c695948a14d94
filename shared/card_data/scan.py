"""Finds card numbers and card verification values where they must not be.

One definition serves everybody: the border, staff's texts, the command line, a gateway's answers, dead letters, logs and the audit. So what
the border lets in is nothing that the audit complains of. `find_card_number` and `find_cvv` look at a text or a body as it came, and behind
the encodings that systems apply by themselves; `mask_card_numbers` and `mask_cvv` make a text fit to be shown.

They look at every message, so each begins with a test of a microsecond that nearly every healthy body passes; and no text of 64 KiB takes
more than a few milliseconds, whatever is in it.

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
from collections.abc import Iterator
from typing import Final, NamedTuple

from shared.card_data.brands import DIGITS_MAX, DIGITS_MIN, IS_PUBLISHED, passes_luhn
from shared.card_data.encodings import BASE64_IN_FOLDED, HEX, REFERENCES_MAX, decodings, without_escapes
from shared.card_data.plain import IGNORABLE, as_ascii, twins_of
from shared.card_data.surroundings import is_meant

CARD_PLACEHOLDER = "[card number]"

_SEPARATOR = rb"[^0-9A-Za-z]{1,3}"
_DIGITS = b"0123456789"
_FIRST_DIGITS = b"2345689"
_TO_SHAPE = bytes(
    ord("0") if byte in _DIGITS else ord("A") if bytes((byte,)).isalpha() else ord("-") for byte in range(256)
)
"""Each digit as 0, each letter as A, all else as a hyphen: a look at what is there at all, before patterns are tried."""
_BARE_IN_ZEROS = b"0" * DIGITS_MIN
_OTHERS_IN_SHAPE = (b"0000-000", b"0000--000", b"0000---000")
_FOURS_IN_SHAPE = (
    *(groups + b"0" for groups in _OTHERS_IN_SHAPE),
    *(_BARE_IN_ZEROS + b"-" * n + b"0" for n in (1, 2, 3)),
)
"""One of these is in each number that is printed: two groups, or what is cut only before its last digits."""

# JSON is full of floats. What stands behind the point of one is left out here; `is_meant` knows the other floats.
_NO_FRACTION = b"".join(rb"(?<![^0-9.][0-9]{%d}[.])" % digits for digits in (1, 2, 3))
_OR_SKIPPED = rb"|[0-9]{5,}+)"
"""No match begins within a run of digits: a run that begins none is passed at once, with the first group unset."""
_BARE_OF_A_BRAND = re.compile(
    rb"[0-9](?:(?<=[2-689])(?<![0-9][0-9])(?:%b|(?=[0-9]+[.][0-9]))(?=[0-9]{11,18}(?![0-9]))(?<=(?=(?:%b)).)[0-9]+()%b"
    % (_NO_FRACTION.replace(b"[.])", b"[.].)"), IS_PUBLISHED.pattern, _OR_SKIPPED)
)
# The first two digits of a brand, behind no other digit. The first one is consumed, and is a digit of any kind: so the search takes a
# nanosecond a byte.
_FIRST = rb"[0-9](?:(?<=[2-689])(?<![0-9][0-9])(?:(?<=[46])|(?<=2)(?=[2-7])|(?<=3)(?=[04-9])|(?<=5)(?=[0-8])|(?<=8)(?=[12])|(?<=9)(?=7))"
_BARE = rb"[0-9]{12,}+(?!%b[0-9]{1,3}(?![0-9]))" % _SEPARATOR
# Groups of four, the last one shorter perhaps; several in one piece perhaps.
_FOURS = re.compile(
    (_FIRST + rb"(?!B)(?=([0-9]{3}(?:S?[0-9]{4}){2,3}(?:S?[0-9]{1,3}(?![0-9]))?))" + _OR_SKIPPED)
    .replace(b"S?", rb"(?:%b)?" % _SEPARATOR)
    .replace(b"B", _BARE)
)
# As some brands print them besides: American Express and Diners Club, Visa's 13 digits, UnionPay and Maestro.
_OTHERS = re.compile(
    (
        _FIRST
        + rb"(?=([0-9]{3}S(?:[0-9]{6}S[0-9]{4,5}|[0-9]{3}S[0-9]{3}S[0-9]{3})|[0-9]{5}S[0-9]{10}(?:[0-9]{3})?)(?![0-9]))"
        + _OR_SKIPPED
    ).replace(b"S", _SEPARATOR)
)
_GROUP = re.compile(rb"[0-9]+")
_TYPED = re.compile(rb"[0-9](?<![0-9][0-9])[0-9]*+([ .\-+])[0-9]++(?:\1[0-9]++)++")
_GROUPS_MIN = 3

_EFFORT_MAX = 4_100
"""A text that takes more effort than this, of one to two microseconds each, counts as one that holds a card number. It counts over all
scans of a text, as it is and behind its encodings. 64 KiB of UUIDs, times, floats or order numbers stay below it. With escapes they are
scanned twice, and then 64 KiB of nothing but digits do not."""
BODY_EFFORT_MAX = 2_700
"""The same for the body of a message, on which others wait. Our own largest one, with times or floats wherever a gateway may write,
takes 1 500."""
_EFFORT_OF_A_MATCH = 1
_EFFORT_OF_GROUPS = 5
_EFFORT_OF_SURROUNDINGS = 12
_DIGITS_AN_EFFORT = 120
_BYTES_AN_EFFORT = 800
"""For each pattern that is tried on a text: it looks closer at digits than at anything else."""
_TIMES_DECODED_MAX = 4
"""A text whose decodings are together more often as long counts as one that hides a number."""


class _TooMuchEffort(Exception):
    """There is more of a card's shape in a text than chance explains."""


class _Effort:
    """What may still be spent on one text: units of effort, and bytes to decode."""

    def __init__(self, data: bytes, units: int = _EFFORT_MAX) -> None:
        self._units_left = units
        self._bytes_left = _TIMES_DECODED_MAX * len(data)

    def spend(self, units: int) -> None:
        self._units_left -= units
        if self._units_left < 0:
            raise _TooMuchEffort

    def spend_on_decoded(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise _TooMuchEffort


class _Candidate(NamedTuple):
    """What has the shape of a card number, and as many digits."""

    start: int
    end: int
    digits: bytes
    is_printed: bool = False


def _card_numbers(data: bytes, effort: _Effort) -> Iterator[tuple[int, int]]:
    """Where card numbers stand in this ASCII text, as (start, end); they may overlap. Raises `_TooMuchEffort`."""
    for start, end, digits, is_printed in _candidates(data, effort):
        if IS_PUBLISHED.match(digits) is not None and passes_luhn(digits):
            effort.spend(_EFFORT_OF_SURROUNDINGS)
            if is_meant(data, start, end, digits, is_printed=is_printed):
                yield start, end


def _candidates(data: bytes, effort: _Effort) -> Iterator[_Candidate]:
    shape = data.translate(_TO_SHAPE)
    of_a_pattern = len(data) // _BYTES_AN_EFFORT + shape.count(b"0") // _DIGITS_AN_EFFORT
    if _BARE_IN_ZEROS in shape:
        effort.spend(of_a_pattern)
        yield from _bare(data, effort)
    if any(groups in shape for groups in _FOURS_IN_SHAPE):
        effort.spend(of_a_pattern)
        yield from _printed(_FOURS, data, effort)
    if any(groups in shape for groups in _OTHERS_IN_SHAPE):
        effort.spend(of_a_pattern)
        yield from _printed(_OTHERS, data, effort)
    effort.spend(of_a_pattern)
    yield from _typed(data, effort)


def _bare(data: bytes, effort: _Effort) -> Iterator[_Candidate]:
    for found in _BARE_OF_A_BRAND.finditer(data):
        if found[1] is None:
            continue
        effort.spend(_EFFORT_OF_A_MATCH)
        yield _Candidate(*found.span(), found[0])


def _printed(pattern: re.Pattern[bytes], data: bytes, effort: _Effort) -> Iterator[_Candidate]:
    """Numbers that end with one of the groups: a date may follow a card. Those that are cut only once are hardly more than bare."""
    for found in pattern.finditer(data):
        if found[1] is None:
            continue
        effort.spend(_EFFORT_OF_A_MATCH)
        first, digits = found.start(), b""
        for groups, group in enumerate(_GROUP.finditer(data, first, found.end(1)), start=1):
            digits += group[0]
            if groups == 1 or len(digits) < DIGITS_MIN:
                continue
            last = group.end()
            is_cut_once = groups == _GROUPS_MIN - 1
            is_before_a_single_digit = is_cut_once and len(group[0]) == 1
            is_within_a_group = data[last : last + 1].isdigit()
            if not is_before_a_single_digit and not is_within_a_group:
                effort.spend(_EFFORT_OF_GROUPS)
                yield _Candidate(first, last, digits, is_printed=not is_cut_once)


def _typed(data: bytes, effort: _Effort) -> Iterator[_Candidate]:
    for run in _TYPED.finditer(data):
        text, separator, at = run[0], run[1], run.start()
        left = len(text) - text.count(separator)  # digits from here to the end of the run
        if left < DIGITS_MIN:
            continue
        effort.spend(_EFFORT_OF_A_MATCH)
        groups = text.rstrip(separator).split(separator)  # Python 3.11 leaves one behind a possessive group
        for number, group in enumerate(groups):
            if left < DIGITS_MIN:
                break
            if group[0] in _FIRST_DIGITS:
                yield from _typed_from(at, groups[number : number + DIGITS_MAX], effort)
            left -= len(group)
            at += len(group) + 1


def _typed_from(start: int, groups: list[bytes], effort: _Effort) -> Iterator[_Candidate]:
    effort.spend(_EFFORT_OF_A_MATCH)
    digits = b""
    for count, group in enumerate(groups, start=1):
        digits += group
        if len(digits) > DIGITS_MAX:
            return
        if count >= _GROUPS_MIN and len(digits) >= DIGITS_MIN:
            effort.spend(_EFFORT_OF_GROUPS)
            yield _Candidate(start, start + len(digits) + count - 1, digits)


# -- texts ------------------------------------------------------------------------------------------------------------------------------

LAYERS: Final = 2
"""Of encodings. Base64 of a URL-encoded body happens by itself; a third layer is somebody who hides."""

# Digits become 0, the letters I to P become I (see `BASE64_IN_FOLDED`), what begins an escape becomes %; letters and colons stay, and all
# else is left out.
_FOLDED = bytes.maketrans(b"123456789JKLMNOP\\&", b"000000000IIIIIII%%")
_LEFT_OUT = bytes(byte for byte in range(256) if not (bytes((byte,)).isalnum() or byte in b":%\\&"))
_ESCAPE = b"%"
_AT_COLON = b"0000:0000"
"""Colons are not left out, or the times of day in our bodies would seem to have twelve digits in a row."""


def find_card_number(text: str | bytes, effort_max: int = _EFFORT_MAX) -> bool:
    """Whether a card number stands in this text, as it is or encoded, up to `LAYERS` deep. Bytes are read as UTF-8. What takes more than
    `effort_max` counts as one.

    Encodings: backslash escapes, URL encoding, HTML references, hexadecimal, base64 (both alphabets, at any offset).
    """
    data = as_ascii(text)
    folded = data.translate(_FOLDED, _LEFT_OUT)
    effort = _Effort(data, effort_max)
    try:
        return _stands_in(data, folded, effort) or _is_behind(data, folded, LAYERS, effort)
    except _TooMuchEffort:
        return True


def hides_card_number(text: str | bytes) -> bool:
    """Whether one stands in it encoded, where `mask_card_numbers` sees none."""
    data = as_ascii(text)
    try:
        return _is_behind(data, data.translate(_FOLDED, _LEFT_OUT), LAYERS, _Effort(data))
    except _TooMuchEffort:
        return True


def may_hold_long_number(data: bytes) -> bool:
    """Whether as many digits as a card number has stand in this ASCII text, whatever they are, or may stand behind an encoding."""
    folded = data.translate(_FOLDED, _LEFT_OUT)
    return (
        _BARE_IN_ZEROS in folded.replace(b":", b"")
        or _ESCAPE in folded
        or BASE64_IN_FOLDED.search(folded) is not None
        or HEX.search(data) is not None
    )


def _is_behind(data: bytes, folded: bytes, layers: int, effort: _Effort) -> bool:
    escapes = _ESCAPE in folded
    if not (escapes or BASE64_IN_FOLDED.search(folded) or HEX.search(data)):
        return False
    if data.count(b"&#") > REFERENCES_MAX:
        return True
    if (b"\\x" in data or not escapes) and _is_in_decodings(data, layers, effort):
        return True  # PostgreSQL writes `\x` before hexadecimal, which is no escape of a byte
    for _ in range(layers if escapes else 0):
        data = without_escapes(data)
        folded = data.translate(_FOLDED, _LEFT_OUT)
        effort.spend_on_decoded(data)
        if _stands_in(data, folded, effort):
            return True
        if _ESCAPE not in folded:
            break
    return escapes and _is_in_decodings(data, layers, effort)


def _is_in_decodings(data: bytes, layers: int, effort: _Effort) -> bool:
    for decoded in decodings(data):
        folded = decoded.translate(_FOLDED, _LEFT_OUT)
        effort.spend_on_decoded(decoded)
        if _stands_in(decoded, folded, effort):
            return True
        if layers > 1 and _is_behind(decoded, folded, layers - 1, effort):
            return True
    return False


def _stands_in(data: bytes, folded: bytes, effort: _Effort) -> bool:
    if _ESCAPE in folded:
        folded = folded.replace(_ESCAPE, b"")
    return (_BARE_IN_ZEROS in folded or _AT_COLON in folded) and any(True for _ in _card_numbers(data, effort))


def card_number_spans(text: str) -> list[tuple[int, int]]:
    """Where card numbers stand in this text as they are, as (start, end) in characters, in order, never overlapping."""
    data = twins_of(text)
    places: list[int] | None = None
    if IGNORABLE in data:
        places = [at for at, byte in enumerate(data) if byte != IGNORABLE[0]]
        data = data.replace(IGNORABLE, b"")
    try:
        found = sorted(_card_numbers(data, _Effort(data)))
    except _TooMuchEffort:
        found = [(0, len(data))]
    spans: list[tuple[int, int]] = []
    for start, end in found:
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans if places is None else [(places[start], places[end - 1] + 1) for start, end in spans]


def mask_card_numbers(text: str) -> str:
    """The text with a placeholder for each card number that stands in it as it is (whether one is encoded: see `find_card_number`)."""
    for start, end in reversed(card_number_spans(text)):
        text = f"{text[:start]}{CARD_PLACEHOLDER}{text[end:]}"
    return text


def beginning(text: str, characters: int) -> str:
    """At most so much of the text, without digits at the cut: a card number cut in two would pass for a short number."""
    return text if len(text) <= characters else _DIGITS_AT_THE_END.sub("", text[:characters])


_DIGITS_AT_THE_END = re.compile(r"\d[\d\W_]{0,80}\Z")
