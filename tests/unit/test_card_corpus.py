"""The corpus in short: each kind that must be caught, everywhere; each kind that must pass, 1 000 times. `make cards` tries more."""

from random import Random

import pytest

from shared.card_data.scan import has_card_data
from shared.card_data.values import as_text
from tests.cards import caught, passing
from tests.cards.numbers import any_number
from tests.cards.places import AROUND, PLACES, at_the_border, body_with, in_a_header

CAUGHT, PASSING = caught.kinds(), passing.kinds()
SAMPLES = 1_000
SAMPLES_EVERYWHERE = 3
SAMPLES_OF_NOT_FOUND = 50


@pytest.mark.parametrize("kind", CAUGHT)
def test_is_caught_everywhere(kind: str) -> None:
    source = Random(kind)
    for text in (CAUGHT[kind](source) for _ in range(SAMPLES_EVERYWHERE)):
        assert [place for place, looks in PLACES.items() if not looks(text)] == [], text
        assert [place for place, looks in AROUND.items() if not looks(text)] == [], text


@pytest.mark.parametrize("kind", caught.NOT_FOUND)
def test_senders_are_told_truly_what_is_not_found(kind: str) -> None:
    """If this fails because more is found than was: correct shared/contracts/README.md, and move the kind to those that are caught."""
    source = Random(kind)
    texts = [caught.NOT_FOUND[kind](any_number(source)) for _ in range(SAMPLES_OF_NOT_FOUND)]
    assert sum(map(at_the_border, texts)) < SAMPLES_OF_NOT_FOUND / 2, "chance explains a part, not most of it"


@pytest.mark.parametrize("kind", PASSING)
def test_passes(kind: str) -> None:
    one, source = PASSING[kind], Random(kind)
    refused = 0
    for _ in range(SAMPLES):
        value = one.make(source)
        text = as_text({one.name: value}) if one.is_header else body_with(value, one.name)
        refused += has_card_data(text)
    assert refused <= SAMPLES * one.refused_max


@pytest.mark.parametrize("kind", [kind for kind, one in PASSING.items() if one.gives_way is None])
def test_passes_everywhere(kind: str) -> None:
    one, source = PASSING[kind], Random(kind)
    values = [one.make(source) for _ in range(SAMPLES_EVERYWHERE)]
    places = {"header": in_a_header} if one.is_header else PLACES
    assert [place for place, looks in places.items() if any(looks(value, one.name) for value in values)] == []
