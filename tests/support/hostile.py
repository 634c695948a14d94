"""Texts that senders, gateways, people and old rows may hold, and that must neither stop anything nor control a terminal."""

from typing import Final

HOSTILE: Final = {
    "empty": "",
    "blank": " ",
    "NUL": "a\0b",
    "lone surrogate": "a\ud800b",
    "10 000 characters": "x" * 10_000,
    "escape sequences": "\x1b[2J\x1b[31mred\x1b]0;title\x07\x1b]8;;http://evil\x1b\\",
    "C1 controls": "\x9b31mred\x9d0;title\x9c\x90",
    "delete": "abc\x7f\x08\x08",
    "line breaks": "one\ntwo\r\nthree\x0bfour\x0cfive\x85six\u2028seven\u2029eight",
    "a forged line": "fine\n2026-01-01T00:00:00Z [info ] paid\r",
    "direction overrides": "\u202egnp.exe\u202c \u202dabc \u202babc \u200eabc\u200f\u061c",
    "direction isolates": "\u2066abc\u2069 \u2067abc\u2068",
    "zero width": "a\u200bb\u200cc\u200dd\u2060e\ufefff\u00adg\u180eh\u034fi",
    "tags": "a\U000e0041\U000e007f\U000e0001",
    "fillers": "a\u3164b\u115fc\u1160d\uffa0e\u17b4f\u2800g",
    "joiners of signs": "a\U0001107fb\U00013430c\U0001343fd\U00016fe4e\U0001d159f",
    "variation selectors": "a\ufe0fb\U000e0100c",
    "annotations": "a\ufff9b\ufffac\ufffb",
    "private use": "a\ue000b\U0010fffd",
    "not a character": "a\ufffe\uffffb",
    "markup": "[bold red]x[/] [link=http://evil]y[/link] [/nothing]",
    "not ASCII": "\u00e9\u20ac\U0001f4b8 \u05d0\u05d1 \u4e2d",
    "card number": "4242 4242 4242 4242",
    "format": "%s %n {0} ${x} \\x1b \\u202e",
}
"""A text of each kind, by its name."""

CONTROLS: Final = frozenset(
    [chr(code) for code in (*range(0x20), 0x7F, *range(0x80, 0xA0), 0xAD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B)]
    + [chr(code) for code in (0x180C, 0x180D, 0x180E, 0x180F, *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070))]
    + [chr(code) for code in (0x2800, 0x3164, *range(0xD800, 0xE000), *range(0xFE00, 0xFE10), 0xFEFF, 0xFFA0)]
    + [chr(code) for code in (*range(0xFFF0, 0xFFFC), 0xFFFE, 0xFFFF, *range(0xE0000, 0xE1000))]
    + [chr(code) for code in (0x1107F, *range(0x13430, 0x13440), 0x16FE4, 0x1D159)]
)  # fmt: skip
"""Characters that control a terminal, break a line, turn the direction of writing, or cannot be seen."""


def controls_in(text: str, *, lines: bool = True) -> set[str]:
    """Those characters of `text` that a person would not see as they are. With `lines`, line feeds are expected."""
    return (set(text) & CONTROLS) - ({"\n"} if lines else set())
