"""A glance lets nearly every healthy message pass, and nothing that the scan behind it would find."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.card_data import outline, scan
from shared.card_data.glance import is_clean, is_without_long_numbers
from tests.cards import caught
from tests.cards.places import ID, body_with

CAUGHT = caught.kinds()
SAMPLES = 20
PIECES = ("4", "12", "424242424242", "5000", "0000:0000", "NDI0", "3432", "cvv", "pin", "shipping", "track 1", "a", "Z")
SIGNS = (" ", "-", ":", '"', ",", "=", "%", "&", "\\", "\x01", "\n", "ü", "\u200b", "\uff14")


@pytest.mark.parametrize("kind", CAUGHT)
def test_no_card_data_passes_at_a_glance(kind: str) -> None:
    source = Random(kind)
    assert not any(is_clean(CAUGHT[kind](source)) for _ in range(SAMPLES))


@given(st.lists(st.sampled_from((*PIECES, *SIGNS)), max_size=12).map("".join))
def test_what_passes_at_a_glance_passes_the_scan(text: str) -> None:
    with pytest.MonkeyPatch.context() as blind:
        blind.setattr(scan, "is_clean", lambda _: False)
        blind.setattr(outline, "is_without_long_numbers", lambda _: False)
        if is_clean(text):
            assert scan.find_card_data(text) is None
        if is_without_long_numbers(text):
            assert outline.without_long_numbers(text.encode()) is None


@pytest.mark.parametrize(
    "note",
    [
        "",
        "for shipping and tracking",
        "2026-11-22T12:31:05.123456Z",
        "0190a5c4-0000-7000-8000-00000000000a",
        "geändert",
    ],
)
def test_an_ordinary_message_passes_at_a_glance(note: str) -> None:
    body = body_with(note).replace(ID.encode(), b"0190a5c4-4711-7c2a-8f3e-7d42a9b1c0de")
    assert is_clean(body)
    assert is_without_long_numbers(body) == (not any(map(str.isdigit, note)))
