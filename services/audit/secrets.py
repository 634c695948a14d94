"""Finds secrets in a text: card numbers, card security codes, keys; also behind the encodings that systems apply by themselves."""

import base64
import html
import re
from collections.abc import Iterator
from urllib.parse import unquote_plus

from shared.card_data.effort import NO_LIMIT, Effort
from shared.card_data.encodings import LAYERS
from shared.card_data.scan import CardData, find_card_data, spans

_IDS = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"  # UUID
    r"|[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})(?![0-9A-Za-z])"  # W3C traceparent
)
_KEYS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"), "a private key"),
    (re.compile(r"\b[rs]k_(?:live|test)_[0-9A-Za-z]{4}"), "a gateway's secret key"),
    (re.compile(r"\bwhsec_[0-9A-Za-z+/=]{8}"), "a webhook's secret"),
    (re.compile(r"[\"'\\](?:d|p|q|dp|dq|qi|k)[\"'\\]+\s*:\s*[\"'\\]+[\w-]{32}"), "a private JSON Web Key"),
    # except masked passwords, and the example in the message of a service whose URL is not set
    (
        re.compile(r"\b(?:amqps?|postgres(?:ql)?)://[^\s/?#:@\"']+:(?!\*{3}@|password@host\b)[^\s/?#@\"']+@"),
        "a password in a URL",
    ),
)
_KEY_HINTS = ("PRIVATE KEY", "k_live_", "k_test_", "whsec_", "://", '"d"', "'d'", '"d\\', '"k"', "'k'", '"k\\')
"""Texts that are searched for before a pattern is tried, because most texts have none of them."""

_ESCAPE = re.compile(r"\\+(?:u00|x)([0-9A-Fa-f]{2})")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_REFERENCE = re.compile(r"&#(?:x[0-9A-Fa-f]{2}|[0-9]{2,3});")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}")  # enough for twelve digits, or the shortest member with a security code
_HEX = re.compile(r"[0-9A-Fa-f]{24,}")
_READABLE = re.compile(rb"[\x20-\x7e]{8,}")
_STANDARD = str.maketrans("-_", "+/")
_TO_ASCII = bytes(range(128)) + b"?" * 128


def secret_in(text: str) -> str | None:
    """The kind of secret in this text, without the secret itself; None if there is none."""
    found = find_card_data(text, Effort(NO_LIMIT))
    if found is not None:
        kind = "a card number" if found is CardData.NUMBER else "a card security code"
        return kind if spans(text, found, Effort(NO_LIMIT)) else f"{kind}, encoded"
    return _look(text, LAYERS)


def _look(text: str, layers: int) -> str | None:
    """Keys, by their names and beginnings."""
    text = _IDS.sub("#", text)
    if (kind := _plain(text)) is not None or not layers:
        return kind
    for decoded in _decoded(text):
        if (kind := _look(decoded, layers - 1)) is not None:
            return kind if kind.endswith("encoded") else f"{kind}, encoded"
    return None


def _plain(text: str) -> str | None:
    if not any(hint in text for hint in _KEY_HINTS):
        return None
    return next((kind for pattern, kind in _KEYS if pattern.search(text)), None)


def _decoded(text: str) -> Iterator[str]:
    if "\\" in text and _ESCAPE.search(text):
        yield _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    if "%" in text and _PERCENT.search(text):
        yield unquote_plus(text, errors="replace")
    if "&#" in text and _REFERENCE.search(text):
        yield _REFERENCE.sub(lambda found: html.unescape(found[0]), text)
    for token in _BASE64.finditer(text):
        yield from _behind_base64(token[0].translate(_STANDARD))
    for token in _HEX.finditer(text):
        yield from _behind_hex(token[0])


def _behind_base64(token: str) -> Iterator[str]:
    """Decode at each of four alignments: the characters before it may be of the same alphabet."""
    for skip in range(4):
        length = len(token) - skip
        whole = token[skip:-1] if length % 4 == 1 else token[skip:]
        data = base64.b64decode(whole + "=" * (-len(whole) % 4))
        if _READABLE.search(data):
            yield data.translate(_TO_ASCII).decode("ascii")


def _behind_hex(token: str) -> Iterator[str]:
    for skip in range(2):
        data = bytes.fromhex(token[skip : len(token) - (len(token) - skip) % 2])
        if _READABLE.search(data):
            yield data.translate(_TO_ASCII).decode("ascii")
