"""Ids on a terminal: their ends, as long as they have to be."""

from uuid import UUID

import pytest

from deploy.cli import ids
from deploy.cli.output import MISUSED, REFUSED, CliError

ONE = UUID("0197b1c4-0000-7000-8000-0000000000a1")
NEAR = UUID("0197b1c4-0000-7000-8000-0001000000a1")
LAST = UUID("0197b1c4-0000-7000-8001-0000000000a1")
FAR = UUID("0197b1c4-0000-7000-8111-0000000000a1")


@pytest.mark.parametrize(
    ("shown", "length"),
    [([], 8), ([ONE], 8), ([ONE, ONE], 8), ([ONE, NEAR], 9), ([ONE, FAR], 14), ([ONE, LAST], 14)],
    ids=[
        "none",
        "one",
        "the same twice",
        "they differ in the ninth",
        "they differ beyond a hyphen",
        "they differ at a hyphen",
    ],
)
def test_an_id_is_as_short_as_the_others_allow(shown: list[UUID], length: int) -> None:
    assert ids.short_length(shown) == length


@pytest.mark.parametrize("text", [str(ONE), str(ONE).upper(), "0001000000a1"], ids=["whole", "in capitals", "an end"])
def test_an_id_is_named_whole_or_by_its_end(text: str) -> None:
    assert ids.one_among(text, [ONE, NEAR]) == (NEAR if text == "0001000000a1" else ONE)


@pytest.mark.parametrize(
    ("text", "sentence", "code"),
    [
        ("a1", "'a1' is no id: give all of it, or its last characters, at least 4.", MISUSED),
        ("no hex", "'no hex' is no id", MISUSED),
        ("beef", "No id ends with beef.", REFUSED),
        ("00A1", f"More than one id ends with 00A1: {ONE}, {NEAR}.", MISUSED),
    ],
)
def test_what_names_no_id_is_explained_and_candidates_are_listed(text: str, sentence: str, code: int) -> None:
    with pytest.raises(CliError) as refused:
        ids.one_among(text, [NEAR, ONE])
    assert str(refused.value).startswith(sentence)
    assert refused.value.code == code
