"""What is shown is safe: every text that reaches a terminal, a log or a page goes through `visible`.

Others choose what stands in it: a sender, the gateway, the broker, a person. Unchanged, an escape sequence could clear the screen or write
a line of its own, a direction override could show an amount backwards, and what nobody sees could make two ids look alike.
"""

import re
from typing import Final

# Controls, line and paragraph separators, marks and overrides of direction, what has no width or no ink, tags, private use, no characters.
_UNSEEN: Final = (
    r"\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    r"\ud800-\uf8ff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U0001107f\U00013430-\U0001343f\U00016fe4"
    r"\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
)
_IN_A_LINE: Final = re.compile(rf"[\x00-\x1f{_UNSEEN}]")
_IN_LINES: Final = re.compile(rf"[\x00-\x08\x0b-\x1f{_UNSEEN}]")
_SHORT: Final = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}
_BYTE_END, _PLANE_END = 0x100, 0x10000


def visible(text: str, *, lines: bool = False) -> str:
    r"""The text with everything made visible that would act or not be seen: `\x1b`, `\u202e`. It can be encoded in UTF-8.

    With `lines`, line feeds and tabs stay. Without, they are made visible as well, so that no text can pretend to be a further line.
    """
    if text.isascii() and text.isprintable():
        return text
    return (_IN_LINES if lines else _IN_A_LINE).sub(_escaped, text)


def visible_json(text: str) -> str:
    """JSON that is safe on a terminal, and still the same JSON: such characters stand in strings only, where they may be escaped."""
    if text.isascii() and "\x7f" not in text:
        return text
    return _IN_LINES.sub(_escaped_in_json, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < _BYTE_END else f"\\u{code:04x}" if code < _PLANE_END else f"\\U{code:08x}"


def _escaped_in_json(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
