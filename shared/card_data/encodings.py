"""Behind the encodings that systems apply by themselves, in whole texts at once, so that the price is bounded."""

import binascii
import re
from collections.abc import Iterator
from html.entities import html5
from typing import Final

from shared.card_data.brands import DIGITS_MIN
from shared.card_data.effort import Effort
from shared.card_data.members import groups_together, holds_groups
from shared.card_data.plain import APART, as_ascii, as_latin_1

READABLE_MIN: Final = len("cvv=987")
"""The shortest text that holds card data."""
LAYERS: Final = 2
"""Of encodings. Base64 of a URL-encoded body happens by itself; a third layer is somebody who hides."""

_I_TO_P = bytes.maketrans(b"JKLMNOP", b"IIIIIII")
_BASE64 = re.compile(
    rb"I(?:[CDSTijyz][AEIMQUYcgkosw048](?:[g-z0-9+/_-]|(?![0-9A-Za-z]))|[AQgw](?:A[Aw-z0-5]|(?![0-9A-Za-z+/_-])))"
)
"""Digits and their usual separators are the bytes 0x20 to 0x3f. In base64, three of them are a letter from I to P, and three of these
sets. A verification value and the sign before it have three, or one or two at the end. A digit in UTF-16 or UTF-32 has zeros behind it."""
_S_TO_U = bytes.maketrans(b"SU", b"TT")
_BASE64_TWICE = re.compile(rb"T[E-HTVWXk-n0-3][MNQRklop][BFJNRVZjnrvzw034][Za-eMNO]")
"""What three digits in base64, and the next one, are in base64; with T for S and U as well."""
_BASE64_TWINS = {ord("-"): ord("+"), ord("="): ord("A")}
_TO_BASE64 = bytes(
    byte if bytes((byte,)).isalnum() or byte in b"+/" else _BASE64_TWINS.get(byte, ord("/")) for byte in range(256)
)
"""What belongs to no token is read as `/`: whatever stands beside it, no byte of which it is a part is a digit or a zero."""
_IN_A_TOKEN = re.compile(rb"\n(?<=[0-9A-Za-z+/_-]{60}\n)(?!\n)")
"""The end of a line of 60 characters or more: base64 that is broken into lines has such ones. The next line may go on with it."""
_HEX_DIGITS = b"0123456789abcdefABCDEF"
_TO_HEX = bytes(byte if byte in _HEX_DIGITS else ord("f") for byte in range(256))
"""What belongs to no token is read as `f`: whatever stands beside it, the byte of which it is a part is no digit and no zero."""
_IS_HEX = bytes(ord("0") if byte in _HEX_DIGITS else ord("-") for byte in range(256))
_HEX_OF_CARD_DATA = b"0" * 2 * READABLE_MIN
_HEX = re.compile(rb"3[0-9](?:3[0-9](?=3[0-9])|(?:00){1,3}3[0-9]|[2357][0-9A-Fa-f](?:[2357][0-9A-Fa-f]){10})")
"""The digits of a verification value; two digits in UTF-16 or UTF-32; or a digit, and what may stand within a number: digits, signs, `_`
and `|`."""
_LONG_HEX = b"0" * 2 * 16
_HEX_OF_TEXT = re.compile(rb"[^0-9A-Fa-f][2-7][0-9A-Fa-f](?:[2-7][0-9A-Fa-f]){15}")
"""Begins with as much ASCII as twelve digits have in base64. It looks for what is before a row of such digits, not at each of them."""
_IS_READABLE = bytes(ord("0") if byte in range(0x20, 0x7F) or byte in b"\t\r\n" else ord("-") for byte in range(256))
_DIGITS_APART = re.compile(rb"\0[0-9]\0{1,3}[0-9]\0{1,3}[0-9]")
"""Digits in UTF-16 or UTF-32."""
_PIECE = re.compile(b"0" * READABLE_MIN + b"+")

# Bytes one by one, as programs show them and as some write them into JSON: `34 32 34 32`, `0x34, 0x32`, `[52, 50, 52, 50]`.
_PAIRS: Final = b"00-" * (DIGITS_MIN - 1)
"""Of two digits each. Of fewer than a card number needs there are many in healthy texts, such as times of day. It ends with the sign
between two, which is rarer than digits: so the search for it is fast."""
_COMMA: Final = b","
_BETWEEN_PAIRS: Final = b" :;.|-\t\n" + _COMMA
_LAYOUT: Final = b" \t\r\n\"'"
"""Of a list: `["34", "32"]`, or one that is laid out on lines."""
_IS_PAIR = bytes(
    ord("0") if byte in _HEX_DIGITS else ord("-") if byte in _BETWEEN_PAIRS else ord("!") for byte in range(256)
)
_FURTHER_PAIRS = re.compile(rb"(?:00-)*+(?:00)?")
_APART_IN_HEX: Final = APART.encode().hex().encode()
_FROM_DECIMAL = bytes(int(f"{byte:x}") if f"{byte:x}".isdecimal() else 0 for byte in range(256))
"""What two digits mean in decimal, by what they mean in hexadecimal."""

_REFERENCE = re.compile(rb"&#(?:[xX]0*([0-9A-Fa-f]{1,6})[0-9A-Fa-f]*|0*([0-9]{1,7})[0-9]*);?")
_NAMED_REFERENCE = re.compile(rb"&([A-Za-z][0-9A-Za-z]{1,30}+;|(?:nbsp|shy|middot|quot|sup[123]))")
_NAMED_CHARACTERS: Final = {name.encode(): as_ascii(character) for name, character in html5.items()}
"""By the name with its semicolon; some have none, as HTML 4 allowed."""
_QUOTED = re.compile(rb"=(?:3(?:[ADad]|[0-9](?:=3[0-9]){3})|(?<=[0-9]=)(?:\r?\n|2[0-9A-Fa-f]|[CcEe][0-9A-Fa-f]=))")
_TAG: Final = rb"<[^<>]{1,80}+>"
_TAGS = re.compile(
    rb"(?=<(?:(?<=[0-9]<)|(?<=[0-9]\s<)|(?<=[0-9]\s\s<)))%b(?:\s{0,3}+%b){0,3}+\s{0,2}+(?=[0-9])" % (_TAG, _TAG)
)
"""Tags of HTML or XML between digits: on a page these stand side by side. Those before a number may say what it is: `<order>`."""
_SHORT_ESCAPES: Final = tuple(
    (b"\\" + letter, sign)
    for letter, sign in (
        (b"n", b"\n"),
        (b"r", b"\r"),
        (b"t", b" "),
        (b"b", b" "),
        (b"f", b" "),
        (b"/", b"/"),
        (b'"', b'"'),
        (b"'", b"'"),
    )
)
_BROKEN = re.compile(rb"\\(?:u(?![0-9A-Fa-f]{4})|U(?!00(?:0[0-9A-Fa-f]|10)[0-9A-Fa-f]{4}))")
_CODES = re.compile(rb"\\(?:[ux]\{0*+([1-9A-Fa-f][0-9A-Fa-f]{0,5})\}|([01][0-7]{2}))")
"""`\\u{34}` of JavaScript, Rust and Ruby, `\\x{34}` of Perl, and three octal digits, as C, shells and PostgreSQL write a byte."""
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")

# What the steps cost, in microseconds: of a byte, unless they are named.
_PASS_US, _NON_ASCII_US = 0.001, 0.03
(
    _BACKSLASH_US,
    _BROKEN_US,
    _EQUALS_SIGN_US,
    _AMPERSAND_US,
    _REFERENCE_US,
    _TAG_US,
    _I_US,
    _THREE_US,
    _ZERO_US,
    _RUN_US,
    _LONG_HEX_US,
) = (
    0.02,
    0.3,
    0.04,
    0.12,
    0.6,
    0.34,
    0.04,
    0.06,
    0.02,
    1.0,
    0.004,
)


def readings(text: str | bytes, effort: Effort) -> Iterator[bytes]:
    """The text as it reads in ASCII, and what it says behind encodings, up to `LAYERS` deep. Bytes are read as UTF-8.

    Encodings: backslash escapes, which do not count as a layer, since all JSON has them; URL encoding, quoted-printable, HTML references
    and tags, hexadecimal, base64 (both alphabets, at any offset), bytes one by one. Raises `TooMuchEffort`.
    """
    data = _as_ascii(text, effort)
    if not _may_be_encoded(data, effort):
        yield data  # nearly every healthy message
        return
    plain = _without_backslashes(data, effort)
    yield plain
    layer = [*_behind(plain, effort)]
    if b"\\x" in data:  # PostgreSQL writes it before hexadecimal, which is no escape of a byte
        layer += _decodings(data, effort)
    yield from layer
    for _ in range(LAYERS - 1):
        layer = [inner for outer in layer for inner in _behind(outer, effort)]
        yield from layer


def may_be_bytes(data: bytes) -> bool:
    """Whether digits may stand in this ASCII text as bytes: in base64, in hexadecimal, or one by one."""
    return _looks_like_hex(data) or _looks_like_base64(data, data.translate(_I_TO_P)) or _looks_like_pairs(data)


def _looks_like_base64(data: bytes, folded: bytes) -> bool:
    return _BASE64.search(folded) is not None or _BASE64_TWICE.search(data.translate(_S_TO_U)) is not None


def _looks_like_hex(data: bytes) -> bool:
    return _HEX.search(data) is not None or (
        _LONG_HEX in data.translate(_IS_HEX) and _HEX_OF_TEXT.search(b"\n" + data) is not None
    )


def _holds_pairs(data: bytes, effort: Effort) -> bool:
    effort.spend(len(data) * _PASS_US)
    return _looks_like_pairs(data)


def _looks_like_pairs(data: bytes) -> bool:
    data = _without_marks(data)
    return _PAIRS in data.translate(_IS_PAIR) or (_COMMA in data and _PAIRS in data.translate(_IS_PAIR, _LAYOUT))


def _as_pairs(data: bytes) -> tuple[bytes, ...]:
    """The text in which pairs of digits stand with one sign between two of them, if there are any; of a list also without its lay-out."""
    data = _without_marks(data)
    return (data, data.translate(None, _LAYOUT)) if _COMMA in data else (data,)


def _without_marks(data: bytes) -> bytes:
    """Without what begins a byte, and without the second blank in the middle of a line of `hexdump -C`."""
    return data.replace(b"0x", b"").replace(b"  ", b" ")


def _may_be_encoded(data: bytes, effort: Effort) -> bool:
    return (
        b"\\" in data
        or b"%" in data
        or b"&" in data
        or b"<" in data
        or b"=" in data
        or _holds_hex(data, effort)
        or _looks_like_base64(data, data.translate(_I_TO_P))
        or _holds_pairs(data, effort)
        or holds_groups(data, effort)
    )


def _as_ascii(text: str | bytes, effort: Effort) -> bytes:
    if isinstance(text, bytes) and not text.isascii():
        text = text.decode("utf-8", "replace")
    is_fast = text.isascii() or (isinstance(text, str) and as_latin_1(text) is not None)
    effort.spend(len(text) * (_PASS_US if is_fast else _NON_ASCII_US))
    return as_ascii(text)


def _behind(data: bytes, effort: Effort) -> Iterator[bytes]:
    for undone in (_without_escapes(data, effort), _without_quotes(data, effort)):
        if undone != data:
            yield undone
    if groups := groups_together(data, effort):
        yield groups
    yield from _decodings(data, effort)


def _without_escapes(data: bytes, effort: Effort) -> bytes:
    """Behind the escapes of JSON, URLs (also as `escape` of JavaScript writes them: `%uFF14`) and HTML, and without tags between
    digits."""
    data = _without_backslashes(data.replace(b"%u", b"\\u"), effort)
    if b"%" in data:  # it is quoted-printable, but for the sign
        effort.spend(len(data) * 2 * _PASS_US)
        data = _as_ascii(binascii.a2b_qp(data.replace(b"=", b"?").replace(b"%", b"=")), effort)
    data = _without_references(data, effort) if b"&" in data else data
    if b"<" not in data:
        return data
    effort.spend(len(data) * _PASS_US + data.count(b"<") * _TAG_US)
    return _TAGS.sub(b" ", data)


def _without_quotes(data: bytes, effort: Effort) -> bytes:
    """Behind quoted-printable."""
    effort.spend(len(data) * _PASS_US + data.count(b"=") * _EQUALS_SIGN_US)
    if b"=" not in data or _QUOTED.search(data) is None:
        return data
    effort.spend(len(data) * 2 * _PASS_US)
    return _as_ascii(binascii.a2b_qp(data), effort)


def _without_backslashes(data: bytes, effort: Effort) -> bytes:
    """Behind the escapes of JSON and of a `repr`, once or several times escaped."""
    if b"\\" not in data:
        return data
    effort.spend(len(data) * 5 * _PASS_US + data.count(b"\\") * _BACKSLASH_US)
    while b"\\\\" in data:
        data = data.replace(b"\\\\", b"\\")
    for letter, sign in _SHORT_ESCAPES:
        data = data.replace(letter, sign)
    if codes := data.count(b"u{") + data.count(b"x{") + data.count(b"\\0") + data.count(b"\\1"):
        effort.spend(codes * _REFERENCE_US)
        data = _as_ascii(_CODES.sub(_character_of_code, data), effort)
    data = data.replace(b"\\x", b"\\u00")
    if b"\\u" not in data and b"\\U" not in data:
        return data
    effort.spend(len(_BROKEN.findall(data)) * _BROKEN_US)
    text = data.decode("raw_unicode_escape", "replace")
    if halves := len(_HALF.findall(data)):
        effort.spend(halves * _BROKEN_US)
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # a pair is one character
    return _as_ascii(text, effort)


def _without_references(data: bytes, effort: Effort) -> bytes:
    data = data.replace(b"&amp;", b"&")
    effort.spend(len(data) * 2 * _PASS_US + data.count(b"&") * _AMPERSAND_US + data.count(b"&#") * _REFERENCE_US)
    effort.spend(min(data.count(b"&"), data.count(b";")) * _REFERENCE_US)
    data = _NAMED_REFERENCE.sub(_named_character, data)
    return _as_ascii(_REFERENCE.sub(_character, data), effort) if b"&#" in data else data


def _named_character(found: re.Match[bytes]) -> bytes:
    return _NAMED_CHARACTERS.get(found[1], found[0])


def _character(found: re.Match[bytes]) -> bytes:
    return _utf8(int(found[1], 16) if found[1] else int(found[2]))


def _character_of_code(found: re.Match[bytes]) -> bytes:
    return _utf8(int(found[1], 16) if found[1] else int(found[2], 8))


def _utf8(code: int) -> bytes:
    return b"?" if 0xD800 <= code < 0xE000 or code > 0x10FFFF else chr(code).encode()  # noqa: PLR2004 - surrogates; the end of Unicode


def _decodings(data: bytes, effort: Effort) -> Iterator[bytes]:
    """What it says as base64 and in hexadecimal: all of it at once, wherever the tokens stand; what stands before a token shifts it."""
    effort.spend(len(data) * 2 * _PASS_US)
    folded = data.translate(_I_TO_P)
    effort.spend(folded.count(b"I") * _I_US)
    if _looks_like_base64(data, folded):
        yield from _in_base64(data, effort)
        yield from _in_base64_lines(data, effort)
    if _holds_hex(data, effort):
        tokens = data.translate(_TO_HEX) + b"ff"
        for skip in range(2):
            yield from _readable(binascii.unhexlify(tokens[skip : (len(tokens) - skip) // 2 * 2 + skip]), effort)

    for text in _as_pairs(data):
        effort.spend(len(text) * _PASS_US)
        yield from _pair_by_pair(text, effort)


def _in_base64(data: bytes, effort: Effort) -> Iterator[bytes]:
    tokens = data.translate(_TO_BASE64) + b"//////"
    for skip in range(4):
        yield from _readable(binascii.a2b_base64(tokens[skip : (len(tokens) - skip) // 4 * 4 + skip]), effort)


def _in_base64_lines(data: bytes, effort: Effort) -> Iterator[bytes]:
    effort.spend(len(data) * _PASS_US)
    if _IN_A_TOKEN.search(lines := data.replace(b"\r\n", b"\n")):
        effort.spend(len(data) * _PASS_US)
        yield from _in_base64(_IN_A_TOKEN.sub(b"", lines), effort)


def _pair_by_pair(text: bytes, effort: Effort) -> Iterator[bytes]:
    """What it says where bytes are written one by one, in hexadecimal and in decimal."""
    pairs = text.translate(_IS_PAIR)
    runs, start = [], pairs.find(_PAIRS)
    while start != -1:
        effort.spend(_RUN_US)
        further = _FURTHER_PAIRS.match(pairs, start + len(_PAIRS))
        end = further.end() if further else start
        runs.append(text[start:end].translate(None, _BETWEEN_PAIRS))
        start = pairs.find(_PAIRS, end)
    if runs:
        said = binascii.unhexlify(_APART_IN_HEX.join(runs))
        yield from _readable(said, effort)
        yield from _readable(said.translate(_FROM_DECIMAL), effort)


def _holds_hex(data: bytes, effort: Effort) -> bool:
    digits = data.translate(_IS_HEX)
    if _HEX_OF_CARD_DATA not in digits:
        return False
    effort.spend(data.count(b"3") * _THREE_US + (len(data) * _LONG_HEX_US if _LONG_HEX in digits else 0))
    return _looks_like_hex(data)


def _readable(data: bytes, effort: Effort) -> Iterator[bytes]:
    """The pieces that are long enough for card data, as one text. The others are noise, and there is much of it."""
    effort.spend(data.count(b"\0") * _ZERO_US)
    texts = (data, data.replace(b"\0", b"")) if _DIGITS_APART.search(data) else (data,)
    for text in texts:
        effort.spend(len(text) * 2 * _PASS_US)
        places = [found.span() for found in _PIECE.finditer(text.translate(_IS_READABLE))]
        if places:
            yield APART.encode().join(text[start:end] for start, end in places)
