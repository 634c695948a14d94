"""Texts as they read, in ASCII: digits of every script, and what nobody sees between them."""

import re
from typing import Final

UUID_IN_TEXT: Final = rb"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
"""A pattern: the digits of a UUID are no number, wherever long numbers are looked for."""
IGNORABLE: Final = b"\x01"
# Zero-width and direction marks, soft hyphens, variation selectors, combining and enclosing marks: nothing a reader takes for a separator.
_IGNORED_RANGES: Final = (
    (0xAD, 0xAD), (0x300, 0x36F), (0x483, 0x489), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x1AB0, 0x1AFF),
    (0x1DC0, 0x1DFF), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x20D0, 0x20FF), (0x3164, 0x3164), (0xFE00, 0xFE0F),
    (0xFE20, 0xFE2F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A),
)  # fmt: skip
_ZEROS: Final = """
660 6F0 7C0 966 9E6 A66 AE6 B66 BE6 C66 CE6 D66 DE6 E50 ED0 F20 1040 1090 17E0 1810 1946 19D0 1A80 1A90 1B50 1BB0 1C40
1C50 A620 A8D0 A900 A9D0 A9F0 AA50 ABF0 FF10 104A0 10D30 11066 110F0 11136 111D0 112F0 11450 114D0 11650 116C0 11730
118E0 11950 11C50 11D50 11DA0 16A60 16AC0 16B50 1D7CE 1D7D8 1D7E2 1D7EC 1D7F6 1E140 1E2F0 1E950 1FBF0
"""
"""The zero of each script; its other digits follow it (Unicode, general category Nd)."""
_OTHER_DIGITS: Final = (
    (0xB2, "23"), (0xB9, "1"), (0x1369, "123456789"), (0x19DA, "1"), (0x2070, "0"), (0x2074, "456789"),
    (0x2080, "0123456789"), (0x2460, "123456789"), (0x2474, "123456789"), (0x2488, "123456789"), (0x24EA, "0"),
    (0x24F5, "123456789"), (0x24FF, "0"), (0x2776, "123456789"), (0x2780, "123456789"), (0x278A, "123456789"),
    (0x10A40, "1234"), (0x10E60, "123456789"), (0x11052, "123456789"), (0x1F100, "0012345678900"), (0x3007, "0"),
    (0x4E00, "1"), (0x4E8C, "2"), (0x4E09, "3"), (0x56DB, "4"), (0x4E94, "5"), (0x516D, "6"), (0x4E03, "7"), (0x516B, "8"),
    (0x4E5D, "9"),
)  # fmt: skip
"""Superscript, subscript, circled and bracketed digits, and those of Han script: the first code point, and what is printed from it on."""
_TWINS_END: Final = 0x20000
_TAGS = re.compile("[\U000e0000-\U000e0fff]")
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_PIECES_MAX = 200


def _make_twins() -> str:
    """By code point: the ASCII character that reads the same to us, `IGNORABLE`, or `?` for any other letter or sign."""
    twins = bytearray(range(128)) + b"?" * (_TWINS_END - 128)
    for first, last in _IGNORED_RANGES:
        twins[first : last + 1] = IGNORABLE * (last + 1 - first)
    for zero in _ZEROS.split():
        twins[int(zero, 16) : int(zero, 16) + 10] = b"0123456789"
    for first, digits in _OTHER_DIGITS:
        twins[first : first + len(digits)] = digits.encode()
    for space in (0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000):
        twins[space] = ord(" ")
    for dash in (*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63, 0xFF0D):
        twins[dash] = ord("-")
    return twins.decode()


_TWINS: Final = _make_twins()


def twins_of(text: str) -> bytes:
    """The text in ASCII, character for character."""
    if text.isascii():
        return text.encode()
    if len(text) < len(text.encode("utf-8", "replace")) - _PIECES_MAX:
        text = _TAGS.sub("\x01", text).translate(_TWINS)
    else:  # mostly ASCII
        text = _NON_ASCII.sub(lambda piece: _TAGS.sub("\x01", piece[0]).translate(_TWINS), text)
    return text.encode("ascii", "replace")


def as_ascii(text: str | bytes) -> bytes:
    """The text as it reads: digits of any script as ASCII ones, without what nobody sees. Bytes are read as UTF-8."""
    if text.isascii():
        return text if isinstance(text, bytes) else text.encode()
    return twins_of(text if isinstance(text, str) else text.decode("utf-8", "replace")).replace(IGNORABLE, b"")


_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})


def is_text(body: bytes) -> bool:
    """Whether it can be looked at: UTF-8 without control characters. UTF-16, EBCDIC and what is compressed hide what they hold."""
    if len(body.translate(None, _CONTROLS)) < len(body):
        return False
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
