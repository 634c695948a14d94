"""Behind the encodings that systems apply by themselves, in whole texts at once, so that the price is bounded."""

import binascii
import re
from collections.abc import Iterator

from shared.card_data.plain import as_ascii

# Digits and their usual separators are the bytes 0x20 to 0x3f. In base64, three of them are a letter from I to P, and three of these sets.
BASE64_IN_FOLDED = re.compile(rb"I[CDSTijyz][AEIQUYcgkosw0][g-z0]" * 3)
_BASE64_PLAIN = re.compile(
    rb"[I-P](?=[CDSTijyz][AEIMQUYcgkosw048][g-z0-9+/][I-P][CDSTijyz][AEIMQUYcgkosw048][g-z0-9+/])"
)
HEX = re.compile(rb"3[0-9](?:[23][0-9A-Fa-f]){11}")

REFERENCES_MAX = 2_000
"""A text with more HTML references counts as one that hides a number: to undo one takes half a microsecond."""
_REFERENCE = re.compile(rb"&#(?:[xX]0*([0-9A-Fa-f]{1,6})[0-9A-Fa-f]*|0*([0-9]{1,7})[0-9]*);?")
_NAMED_REFERENCE = re.compile(
    rb"&(?=[nethmdspcvlTN])(?:nbsp|ensp|emsp|thinsp|numsp|hairsp|middot|hyphen|dash|ndash|mdash|sol|period|comma|vert|lowbar|Tab|NewLine);?"
)
_NAMED_NOTHING = re.compile(rb"&(?=[szlrZN])(?:shy|zwj|zwnj|lrm|rlm|ZeroWidthSpace|NoBreak);?")
_BASE64_TWINS = {ord("-"): ord("+"), ord("_"): ord("/")}
_TO_BASE64 = bytes(
    byte if bytes((byte,)).isalnum() or byte in b"+/" else _BASE64_TWINS.get(byte, ord("A")) for byte in range(256)
)
_TO_HEX = bytes(byte if byte in b"0123456789abcdefABCDEF" else ord("0") for byte in range(256))
_TO_READABLE = bytes(byte if byte in range(0x20, 0x7F) else ord("?") for byte in range(256))


def readings(data: bytes) -> Iterator[bytes]:
    """What it says behind one encoding, for each that it may be."""
    yield from decodings(data)
    plain = without_escapes(data)
    if plain != data:
        yield plain


def without_escapes(data: bytes) -> bytes:
    """Behind the escapes of JSON and of a `repr`, once or several times escaped, of URLs and of HTML."""
    if b"\\" in data:
        data = without_backslashes(data)
    if b"%" in data:  # as quoted-printable, but for the sign
        data = as_ascii(binascii.a2b_qp(data.replace(b"=", b"?").replace(b"%", b"=")))
    return _without_references(data) if b"&" in data else data


def decodings(data: bytes) -> Iterator[bytes]:
    """What it says as base64 and in hexadecimal: all of it at once, wherever the tokens stand, so that the price is bounded."""
    plain = data.translate(_TO_BASE64)
    for skip in sorted(
        {found.start() % 4 for found in _BASE64_PLAIN.finditer(plain)}
    ):  # what stands before a token shifts it
        whole = plain[skip:] + b"AAA"
        yield binascii.a2b_base64(whole[: len(whole) // 4 * 4]).translate(_TO_READABLE)
    for skip in sorted({found.start() % 2 for found in HEX.finditer(data)}):
        whole = data[skip:].translate(_TO_HEX) + b"0"
        yield binascii.unhexlify(whole[: len(whole) // 2 * 2]).translate(_TO_READABLE)


def without_backslashes(data: bytes) -> bytes:
    while b"\\\\" in data:
        data = data.replace(b"\\\\", b"\\")
    for letter in b"nrtbf/":
        data = data.replace(b"\\%c" % letter, b" ")
    data = data.replace(b"\\x", b"\\u00")
    if b"\\u" not in data and b"\\U" not in data:
        return data
    text = data.decode("raw_unicode_escape", "replace")
    if _HALF.search(text):  # pairs of surrogates are one character
        text = _ALONE.sub("?", text).encode("utf-16", "surrogatepass").decode("utf-16")
    return as_ascii(text)


_HALF = re.compile("[\ud800-\udfff]")
_ALONE = re.compile("[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")


def _without_references(data: bytes) -> bytes:
    data = _NAMED_REFERENCE.sub(b" ", _NAMED_NOTHING.sub(b"", data))
    return as_ascii(_REFERENCE.sub(_character, data)) if b"&#" in data else data


def _character(found: re.Match[bytes]) -> bytes:
    code = int(found[1], 16) if found[1] else int(found[2])
    return b"?" if 0xD800 <= code < 0xE000 or code > 0x10FFFF else chr(code).encode()  # noqa: PLR2004 - surrogates; the end of Unicode
