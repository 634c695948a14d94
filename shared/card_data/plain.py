"""Texts as they read, in ASCII: digits of every script, and what nobody sees between them."""

import re
import unicodedata
from itertools import repeat
from typing import Final

from shared.card_data import other_scripts

APART: Final = "\nx\n"
"""Nothing that may stand within a card number: between texts that are looked at together."""
IGNORABLE: Final = b"\x01"
CONTROLS: Final = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})
_BY_CATEGORY: Final = {
    **dict.fromkeys(("Cc", "Cf", "Mn", "Me", "Co", "Cs"), IGNORABLE),
    **dict.fromkeys(("Lu", "Ll", "Lt", "Lo"), b"x"),
    "Zs": b" ",
    "Pd": b"-",
}
"""Unicode's general categories: controls, formats (zero-width and direction marks), marks on or around a character, private use (also what
stands for bytes that could not be read, `shared.amqp.lenient_decoding`), halves of pairs; letters; blanks; dashes. Of letters that modify
others (Lm) some serve as dashes."""
_UNSEEN_LETTERS: Final = (
    "\u115f\u1160\u2065\u3164\uffa0\U0001d159"  # fillers of Hangul, one without a category, an empty note head
)
_NEW_JOINERS: Final = "".join(map(chr, range(0x13439, 0x13440)))
"""Those of hieroglyphs that came with Unicode 15: Python 3.11 does not know them."""
_NO_CHARACTERS: Final = "".join(map(chr, (*range(0xFFF0, 0xFFF9), 0xFFFE, 0xFFFF)))
_NEW_DIGITS: Final = (0x10D40, 0x116D0, 0x116DA, 0x11BF0, 0x11DE0, 0x11F50, 0x16130, 0x1CCF0, 0x1E4F0, 0x1E5F1)
"""Digits 0 of scripts, and the outlined ones, that came with Unicode 15 to 17: Python 3.11 does not know them."""
_TAGS: Final = range(0xE0000, 0xE1000)
_PRIVATE_PLANES = re.compile("[\U000f0000-\U0010ffff]")
_SCRIPTS_END: Final = 0x20000
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_PIECES_MAX = 200
_CVV: Final = b"cvv"
"""How its names in other scripts read."""
_DIGITS: Final = {float(value): ord(str(value)) for value in range(10)}
_RAISED: Final = "\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u2460-\u2468"
_NOTE_MARK = re.compile(rf"[{_RAISED}](?<=[0-9]{{4}}.)[{_RAISED}]?(?![0-9{_RAISED}])")
"""The number of a footnote behind ordinary digits, raised or in a circle. Raised digits alone are digits."""


def _base_of(character: str) -> str:
    """The ASCII character that a full-width letter or sign stands for, or a letter with an accent; else nothing."""
    if not unicodedata.category(character).startswith(("L", "P", "S")):
        return ""
    base = unicodedata.normalize("NFKD", character)
    return base[0] if base[0].isascii() and (len(base) == 1 or unicodedata.combining(base[1])) else ""


def _make_twins() -> str:
    """By code point: the ASCII character that reads the same to us, `IGNORABLE`, `x` for any other letter, or `?` for any other sign.

    Each process makes it at its start. So what concerns few of the characters is asked of no others.
    """
    characters = [*map(chr, range(128, _SCRIPTS_END))]
    kinds = b"".join([_BY_CATEGORY.get(category, b"?") for category in map(unicodedata.category, characters)])
    twins = bytearray(range(128)) + kinds + b"?" * (_TAGS.stop - _SCRIPTS_END)
    for code, parts in enumerate(map(unicodedata.decomposition, characters), 128):
        if parts and (base := _base_of(chr(code))):
            twins[code] = ord(base)
    for code, value in enumerate(map(unicodedata.numeric, characters, repeat(-1.0)), 128):
        if value in _DIGITS:  # also those that count as letters: Han, Suzhou, Roman; and counting rods
            twins[code] = _DIGITS[value]
    for code in (*_TAGS, *map(ord, _UNSEEN_LETTERS + _NEW_JOINERS + _NO_CHARACTERS)):
        twins[code : code + 1] = IGNORABLE
    for zero in _NEW_DIGITS:
        twins[zero : zero + 10] = b"0123456789"
    twins[ord("\u2800")] = ord(" ")  # Braille without a dot
    twins[ord("\x85")] = ord("\n")
    twins[ord("\u2212")] = ord("-")  # the minus sign
    return twins.decode()


_TWINS: Final = _make_twins()
_LATIN_TWINS: Final = _TWINS[:256].encode()
_CONTROLS_IGNORED: Final = bytes(IGNORABLE[0] if byte in CONTROLS else byte for byte in range(256))


def as_latin_1(text: str) -> bytes | None:
    """A byte for each character, which is thirty times as fast to look at as text; None if other scripts or signs stand in it."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return None


def twins_of(text: str) -> bytes:
    """The text in ASCII, character for character. What nobody sees is `IGNORABLE`."""
    if not text.isascii():
        text = _NOTE_MARK.sub(lambda mark: "*" * len(mark[0]), text)
        if (latin := as_latin_1(text)) is not None:
            return latin.translate(_LATIN_TWINS).translate(_CONTROLS_IGNORED)
        names = [*other_scripts.names(text)]
        if len(text) < len(text.encode("utf-8", "replace")) - _PIECES_MAX:
            text = text.translate(_TWINS)
        else:  # mostly ASCII
            text = _NON_ASCII.sub(lambda piece: piece[0].translate(_TWINS), text)
        if not text.isascii():
            text = _PRIVATE_PLANES.sub(IGNORABLE.decode(), text)
        if names:
            return _with_cvv(text.encode("ascii", "replace").translate(_CONTROLS_IGNORED), names)
    return text.encode("ascii", "replace").translate(_CONTROLS_IGNORED)


def _with_cvv(data: bytes, names: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for start, end in names:
        changed[start:end] = _CVV.ljust(end - start, IGNORABLE)
    return bytes(changed)


def as_ascii(text: str | bytes) -> bytes:
    """The text as it reads: digits of any script as ASCII ones, without what nobody sees. Bytes are read as UTF-8."""
    if not text.isascii():
        text = twins_of(text if isinstance(text, str) else text.decode("utf-8", "replace"))
    return (text if isinstance(text, bytes) else text.encode()).translate(None, CONTROLS)


def is_text(body: bytes) -> bool:
    """Whether it can be looked at: UTF-8 without control characters. UTF-16, EBCDIC and what is compressed hide what they hold."""
    if len(body.translate(None, CONTROLS)) < len(body):
        return False
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
