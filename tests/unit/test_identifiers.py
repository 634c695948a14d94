"""Identifiers that others chose: what people write on invoices is taken as it is; what hides on a screen is refused."""

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.contracts.base import NAME_LENGTH_MAX, Name

NAMES = TypeAdapter(Name)

AS_PEOPLE_HAVE_THEM = [
    "INV-1",
    "2026/0001",
    "INV/2026/00001",
    "#1001",
    "SINV-24/25-001",
    "RE 2026 17",
    "Rechnung Nr. 7 (Kopie)",
    "ann@example.com",
    "-1",
    "..",
    "50%",
    "a'b\"c<d>&e;f`g$h",
    "ŽÜÇ-1042",
    "発注-77",
    "x" * NAME_LENGTH_MAX,
]
REFUSED = ["", "x" * (NAME_LENGTH_MAX + 1)] + [
    f"INV{hidden}1" for hidden in "\x00\t\n\r\x1b\x7f\x85\x9b\u2028\u2029\u202a\u202e\u2066\u2069"
]


@pytest.mark.parametrize("text", AS_PEOPLE_HAVE_THEM)
def test_identifiers_as_people_have_them_are_taken_as_they_are(text: str) -> None:
    assert NAMES.validate_python(text) == text


@pytest.mark.parametrize("text", REFUSED, ids=ascii)
def test_what_cannot_be_seen_is_no_part_of_an_identifier(text: str) -> None:
    with pytest.raises(ValidationError):
        NAMES.validate_python(text)
