"""Finds card numbers and card security codes where they must not be.

Three depths, by price:

- `find_card_number` and `find_cvv` look at every message body before it is parsed, so they are built around
  one pass that costs about a microsecond: a body without twelve digits in a row, separators set aside, is healthy.
- `mask_card_numbers` and `mask_cvv` make a text fit for a log line.
- `find_card_number_deep` undoes encodings first; it is for the redactor's last look, the auditor and the tests that
  hunt for leaks. Give it a line or a value at a time.

A card number is 12 to 19 digits with at most one space, hyphen or full stop between two of them, of a known brand and
length, and with a right Luhn digit. Identifiers are told apart by their shape: over digits alone 0.7 % of healthy UUIDs
pass a Luhn check. What remains is chance: of a million numbers of 16 digits, about 28 000 look like cards; and a card
number glued to letters a-f so that they have the length of a trace id or a hash together passes for one.
"""

import base64
import html
import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from urllib.parse import unquote_plus

CARD_PLACEHOLDER = "[card number]"
CVV_PLACEHOLDER = "***"

_MIN_DIGITS, _MAX_DIGITS = 12, 19  # ISO/IEC 7812-1: Maestro's shortest to the longest

# -- what a card number is ---------------------------------------------------------------------------------------------

# Issuer ranges and lengths as the brands publish them. Maestro keeps to the ranges in use: all of 50 and 56-69 would
# take in the telephone numbers of several countries.
_BRAND = re.compile(
    rb"""
      4(?:\d{12}|\d{15}|\d{18})                                                    # Visa
    | (?:5[1-5]\d\d | 222[1-9] | 22[3-9]\d | 2[3-6]\d\d | 27[01]\d | 2720)\d{12}   # Mastercard
    | 3[47]\d{13}                                                                  # American Express
    | (?:6011 | 64[4-9]\d | 65\d\d)\d{12,15}                                       # Discover
    | (?:352[89] | 35[3-8]\d)\d{12,15}                                             # JCB
    | (?:30[0-5]\d | 3095 | 36\d\d | 3[89]\d\d)\d{10,15}                           # Diners Club
    | (?:62\d\d | 81[0-6]\d | 817[01])\d{12,15}                                    # UnionPay
    | (?:0604 | 5018 | 5020 | 5038 | 5612 | 5893 | 6304 | 6390 | 6759 | 676[1-3])\d{8,15}  # Maestro
    """,
    re.VERBOSE,
)
_FIRST_DIGITS = b"0234568"  # of the brands above
_DOUBLED = tuple(sum(divmod(2 * digit, 10)) for digit in range(10))
_ZERO = ord("0")


def passes_luhn(digits: bytes) -> bool:
    """Whether the last of these ASCII digits is the check digit of the others (ISO/IEC 7812-1 annex B)."""
    plain = sum(digits[-1::-2]) - _ZERO * ((len(digits) + 1) // 2)
    doubled = sum(_DOUBLED[digit - _ZERO] for digit in digits[-2::-2])
    return (plain + doubled) % 10 == 0


def is_card_number(digits: bytes) -> bool:
    """Whether these ASCII digits, without separators, are a card number of a known brand."""
    return _BRAND.fullmatch(digits) is not None and passes_luhn(digits)


# -- the look at every body --------------------------------------------------------------------------------------------

_ANY_DIGIT_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
_SEPARATORS = b" .-"
_SHORTEST = b"0" * _MIN_DIGITS

_RUN = re.compile(rb"\d(?:[ .\-]?\d){11,}")
_GROUP = re.compile(rb"\d+")
_LEAST_GROUP = 3  # groups of a printed card have three digits or more, but for the last
_GROUPS_MAX = (
    1_000  # 10 ms of the loop; a body with more groups of digits side by side counts as a card number: none is
)

_UUID = re.compile(rb"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z])")

# Other shapes that hold digits and are no card numbers. Each covers whole groups of digits (nothing alphanumeric beside it),
# so taking them out can only remove candidates.
_IDENTIFIER = re.compile(
    rb"""
    (?<![0-9A-Za-z])
    (?:
        [0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}           # W3C traceparent
      | (?=[0-9]*[A-Fa-f])                                          # span and trace ids, hashes: a letter is in it
        (?:[0-9A-Fa-f]{16}|[0-9A-Fa-f]{24}|[0-9A-Fa-f]{32}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})
      | (?<![0-9][ .\-])(?:                                         # not in the middle of a longer run:
            (?:19|20)\d\d-[01]\d-[0-3]\d                            # ISO 8601, a date and perhaps a time
            (?:[T ][0-2]\d:[0-5]\d(?::[0-6]\d(?:\.\d{1,9}(?![ .\-]\d))?)?(?:[+-][01]\d:?[0-5]\d(?![ .\-]\d)|Z)?)?
          | 0\.\d+                                                  # a fraction, as floats are written
        )
    )
    (?![0-9A-Za-z])
    """,
    re.VERBOSE,
)


def find_card_number(text: str | bytes) -> bool:
    r"""Whether a card number stands in this text as it is or behind JSON's `\uXXXX`. Bytes are read as UTF-8."""
    data = _as_ascii(text)
    if _spans(data):
        return True
    return b"\\" in data and bool(_spans(_as_ascii(_unescape_json(data.decode("ascii")))))


def card_number_spans(text: str) -> list[tuple[int, int]]:
    """Where card numbers stand in this text, as (start, end) in characters, in order, never overlapping."""
    spans: list[tuple[int, int]] = []
    for start, end in _spans(_as_ascii(text)):
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def beginning(text: str, characters: int) -> str:
    """At most so much of the text, without digits at the cut: a card number cut in two would pass for a short number."""
    return text if len(text) <= characters else text[:characters].rstrip("0123456789 .-")


def mask_card_numbers(text: str) -> str:
    """The text with a placeholder for each card number that stands in it as it is (encoded ones: see the deep look)."""
    for start, end in reversed(card_number_spans(text)):
        text = f"{text[:start]}{CARD_PLACEHOLDER}{text[end:]}"
    return text


def scan_value(value: object) -> bool:
    """Whether parsed JSON holds a card number: in a string, a member's name or a number. Depth costs no recursion."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
        elif find_card_number(_scalar_text(item)):
            return True
    return False


def _scalar_text(item: object) -> str:
    match item:
        case str():
            return item
        case int() | float() if abs(item) < 10**_MAX_DIGITS:  # beyond, no card; a huge integer refuses to become text
            return f"{item:.0f}" if isinstance(item, float) else str(item)
        case _:
            return ""


def _spans(data: bytes) -> list[tuple[int, int]]:
    """Identifiers are masked only once something looks like a card: UUIDs first, since of our bodies one in ten has twelve digits in a row
    in one of its own, and few bodies get any further."""
    if not _has_enough_digits(data):
        return []
    data = _UUID.sub(b"#" * 36, data)
    if not _has_enough_digits(data) or not any(True for _ in _candidates(data)):
        return []
    return list(_candidates(_IDENTIFIER.sub(lambda found: b"#" * len(found[0]), data)))


def _has_enough_digits(data: bytes) -> bool:
    return _SHORTEST in data.translate(_ANY_DIGIT_TO_ZERO, _SEPARATORS)


def _candidates(data: bytes) -> Iterator[tuple[int, int]]:
    left = _GROUPS_MAX
    for run in _RUN.finditer(data):
        groups = [group.span() for group in islice(_GROUP.finditer(data, *run.span()), left + 1)]
        left -= len(groups)
        if left < 0:
            yield run.start(), len(data)
            return
        for first, (start, _) in enumerate(groups):
            if data[start] in _FIRST_DIGITS:
                yield from _cards_from(data, groups[first : first + _MAX_DIGITS])


def _cards_from(data: bytes, groups: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Card numbers that begin with the first of these groups and end with one of them: a date may follow a card."""
    digits = b""
    for count, (start, end) in enumerate(groups, start=1):
        digits += data[start:end]
        if len(digits) > _MAX_DIGITS:
            return
        if len(digits) >= _MIN_DIGITS and is_card_number(digits) and _reads_as_one(data, groups[:count]):
            yield groups[0][0], end


def _reads_as_one(data: bytes, groups: list[tuple[int, int]]) -> bool:
    """Groups of any size with one kind of separator, or of printed size with any: a list of IP addresses is neither."""
    inner = groups[:-1]
    return len({data[end] for _, end in inner}) <= 1 or all(end - start >= _LEAST_GROUP for start, end in inner)


# -- to ASCII, character for character ---------------------------------------------------------------------------------

_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_JSON_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})")


def _as_ascii(text: str | bytes) -> bytes:
    """Other alphabets' digits, spaces and dashes as ASCII ones, all else as `?`; offsets in characters stay."""
    if text.isascii():
        return text if isinstance(text, bytes) else text.encode("ascii")
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return _NON_ASCII.sub(_ascii_twin, text).encode("ascii")


def _ascii_twin(found: re.Match[str]) -> str:
    digit = unicodedata.decimal(found[0], None)
    if digit is not None:
        return str(digit)
    match unicodedata.category(found[0]):
        case "Zs" | "Cf":  # no-break and thin spaces; soft hyphens and zero-width ones, as copied from web pages
            return " "
        case "Pd":
            return "-"
        case _:
            return "?"


def _unescape_json(text: str) -> str:
    return _JSON_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


# -- behind encodings --------------------------------------------------------------------------------------------------

_LAYERS_MAX = 2  # base64 of a URL-encoded body happens by itself; a third layer is somebody who hides
_BACKSLASH_ESCAPE = re.compile(
    r"(?<!\\)\\+(?:u00|x)([0-9A-Fa-f]{2})"
)  # looking back: else n backslashes take n*n/2 steps
_DECIMAL_REFERENCE = re.compile(r"&#0*([0-9]{1,8})[0-9]*")  # no character has more digits
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}")  # 12 digits make 16 characters
_HEX = re.compile(r"[0-9A-Fa-f]{24,}")  # 12 digits make 24; PostgreSQL shows `bytea` so
_READABLE = re.compile(rb"[\x20-\x7e]{12,}")  # what base64 of no text does not decode to
_URL_SAFE_TO_STANDARD = str.maketrans("-_", "+/")
_NON_ASCII_TO_QUESTION = bytes(range(128)) + b"?" * 128


def find_card_number_deep(text: str | bytes) -> bool:
    """Whether a card number stands in this text, as it is or encoded, up to two layers deep.

    Encodings: backslash escapes, URL encoding, HTML entities, hexadecimal, base64 (both alphabets, at any offset).
    """
    return _find_behind(text if isinstance(text, str) else text.decode("utf-8", "replace"), _LAYERS_MAX)


def _find_behind(text: str, layers: int) -> bool:
    if find_card_number(text):
        return True
    return layers > 0 and any(_find_behind(decoded, layers - 1) for decoded in _decodings(text))


def _decodings(text: str) -> Iterator[str]:
    if "\\" in text:
        yield _BACKSLASH_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    if "%" in text or "+" in text:
        yield unquote_plus(text, errors="replace")
    if "&#" in text:
        yield html.unescape(_DECIMAL_REFERENCE.sub(r"&#\1", text))  # more than 4 300 digits would raise ValueError
    for token in _BASE64.finditer(text):
        yield from _base64_decodings(token[0].translate(_URL_SAFE_TO_STANDARD))
    for token in _HEX.finditer(text):
        yield from _hex_decodings(token[0])


def _base64_decodings(token: str) -> Iterator[str]:
    """Read at each of the four alignments: what stands before it may be of the same alphabet."""
    for skip in range(4):
        length = len(token) - skip
        whole = token[skip:-1] if length % 4 == 1 else token[skip:]
        data = base64.b64decode(whole + "=" * (-len(whole) % 4))
        if _READABLE.search(data):
            yield _printable(data)


def _hex_decodings(token: str) -> Iterator[str]:
    for skip in range(2):
        data = bytes.fromhex(token[skip : len(token) - (len(token) - skip) % 2])
        if _READABLE.search(data):
            yield _printable(data)


def _printable(data: bytes) -> str:
    return data.translate(_NON_ASCII_TO_QUESTION).decode("ascii")


# -- card security codes -----------------------------------------------------------------------------------------------

_CVV_NAME = (
    r"(?:card[_\- ]?)?"
    r"(?:(?:cvv|cvc|cvn|cav)2?(?:[_\- ]?(?:code|value|number))?|csc|cid|security[_\- ]?code"
    r"|verification[_\- ]?(?:code|value|number))|card[_\- ]?verification\w*"
)
_IS_CVV_NAME = re.compile(_CVV_NAME, re.IGNORECASE)
_CVV_VALUE = re.compile(rb':\s*(?:"\s*)?\d{3,4}\s*["},\s]')
_CVV_MEMBER = re.compile(rb'(?i:"(?:%b)")\s*%b' % (_CVV_NAME.encode(), _CVV_VALUE.pattern))
_CVV_HINTS = ("cv", "csc", "cid", "cav", "code", "verif")  # one of them is in every name
_CVV_IN_TEXT = re.compile(rf"(\b(?:{_CVV_NAME})\b[\"'\\]*\s*[:=]\s*[\"'\\]*)\d{{3,4}}\b", re.IGNORECASE)


def is_cvv_name(name: str) -> bool:
    """Whether a member or setting of this name holds a card security code."""
    return _IS_CVV_NAME.fullmatch(name) is not None


def find_cvv(body: bytes) -> bool:
    """Whether a JSON text has a member named as a card security code, with three or four digits (PCI DSS 3.3.1.2)."""
    if b"\\" in body:
        body = _as_ascii(_unescape_json(body.decode("utf-8", "replace")))
    return _may_name_a_cvv(body.lower()) and _CVV_MEMBER.search(body) is not None


def _may_name_a_cvv(lowered: bytes) -> bool:
    """`_CVV_HINTS`, spelled out, since this looks at every body and a loop takes five times as long; without the `cv` of `specversion` and
    the `cid` of `decided`."""
    return (
        b"cvv" in lowered
        or b"cvc" in lowered
        or b"cvn" in lowered
        or b'csc"' in lowered
        or b'cid"' in lowered
        or b"cav" in lowered
        or b"code" in lowered
        or b"verif" in lowered
    )


def mask_cvv(text: str) -> str:
    """The text with a placeholder for each security code after its name, as in JSON, a `repr` or a query string."""
    lowered = text.lower()
    if not any(hint in lowered for hint in _CVV_HINTS):
        return text
    return _CVV_IN_TEXT.sub(rf"\1{CVV_PLACEHOLDER}", text)
