"""The outline of a content says nothing of a number that may be a card's, and all the rest."""

import base64
import json
from collections.abc import Callable
from functools import partial
from random import Random
from urllib.parse import quote

import pytest

from shared.card_data.outline import without_long_numbers
from tests.cards.caught import INVISIBLE, SEPARATORS, numbers
from tests.cards.numbers import any_number

ONE, OTHER = "4242424242424242", "5555555555554444"
BESIDE_DIGITS = {"any encoding beside ids", "any encoding beside hexadecimal", "the data of a chip"}
"""An outline keeps those."""


def in_groups(separator: str, digits: str) -> str:
    return separator.join(digits[at : at + 4] for at in range(0, len(digits), 4))


WRITTEN: dict[str, Callable[[str], str]] = {
    f"separated by {separator!r}": partial(in_groups, separator)
    for separator in (*SEPARATORS.values(), *INVISIBLE.values(), "")
} | {
    "of no brand": lambda digits: f"1{digits[1:]}",
    "twelve digits": lambda digits: digits[:12],
    "among letters": lambda digits: f"INV{digits}x",
    "base64": lambda digits: base64.b64encode(f"card {digits}".encode()).decode(),
    "hexadecimal": lambda digits: digits.encode().hex(),
    "URL": lambda digits: quote(" ".join(digits)).replace("%20", "%2D"),
    "HTML": lambda digits: "".join(f"&#{ord(digit)};" for digit in digits),
    "base64, URL": lambda digits: quote(base64.b64encode(digits.encode()).decode()).replace("N", "%4E"),
    "another script": lambda digits: digits.translate({ord("0") + n: 0x660 + n for n in range(10)}),
}


def content(text: object, **others: object) -> bytes:
    return json.dumps(["T", {"note": text, "amount_minor": 500} | others], ensure_ascii=False).encode()


@pytest.mark.parametrize("form", WRITTEN)
def test_two_numbers_leave_one_outline_however_they_are_written(form: str) -> None:
    one, other = WRITTEN[form](ONE), WRITTEN[form](OTHER)
    assert one != other
    for pair in ((one, other), (f"paid by\n{one} today", f"paid by\n{other} today"), ([one, "x"], [other, "x"])):
        outlines = {without_long_numbers(content(text)) for text in pair}
        assert len(outlines) == 1
        assert None not in outlines


@pytest.mark.parametrize("kind", sorted(numbers().keys() - BESIDE_DIGITS))
def test_whatever_the_border_would_catch_is_in_no_outline(kind: str) -> None:
    """Also what it would catch once its scan is better: an outline is stored for ever."""
    source = Random(kind)
    for _ in range(5):
        text = numbers()[kind](source)
        outline = without_long_numbers(content(text))
        assert outline is not None
        assert ONE.encode() not in outline
        assert sum(chr(byte).isdigit() for byte in outline) < 12


@pytest.mark.parametrize("name", ["pan", "part_", "reference"])
def test_a_number_in_several_members_leaves_no_outline(name: str) -> None:
    """Also where they stand in no text that would have to be looked behind."""
    members = {f"{name}{at // 4}": ONE[at : at + 4] for at in range(0, len(ONE), 4)}
    assert without_long_numbers(content("none", metadata=members)) == b""


def test_what_stands_beside_a_number_is_told_apart() -> None:
    number = any_number(Random(1))
    outline = without_long_numbers(content(number))
    others = [
        content(f"of {number}"),
        content(number, amount_minor=501),
        content(number, currency="USD"),
        content(number, payment_id="6f9619ff-8b86-4d01-b42d-00cf4fc964ff"),
        content(number, payment_id="00000000-0000-0000-0000-000000000001"),
        content(number, payment_id="00000000-0000-0000-0000-000000000002"),
        content("none"),
    ]
    assert len({outline, *map(without_long_numbers, others)}) == len(others) + 1


@pytest.mark.parametrize(
    "text",
    ["", "C-1", "INV-2026-0001", "12345678901", "6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "pm_1NXWPnKuC2eZ", "käse"],
)
def test_most_contents_have_no_long_number(text: str) -> None:
    assert without_long_numbers(content(text)) is None
