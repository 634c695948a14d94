"""Ids: one spelling is accepted, and the same cause gives the same id."""

import re
import uuid
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import derived_id, new_id, read_uuid

TEXT = "0199b2f0-1234-7abc-8def-0123456789ab"
ONE_SPELLING = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


@pytest.mark.parametrize(
    "text", [TEXT, TEXT.upper(), "00000000-0000-0000-0000-000000000000", "f" * 8 + "-ffff" * 3 + "-" + "f" * 12]
)
def test_the_one_spelling_is_read(text: str) -> None:
    assert read_uuid(text) == UUID(text)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        UUID(TEXT),
        TEXT.encode(),
        "",
        TEXT.replace("-", ""),
        f"{{{TEXT}}}",
        f"urn:uuid:{TEXT}",
        f" {TEXT}",
        f"{TEXT}\n",
        TEXT[:-1],
        TEXT + "0",
        "0199b2f-01234-7abc-8def-0123456789ab",
        TEXT.replace("0", "g"),
        TEXT.replace("0", "\u0660"),  # a digit of another alphabet
        TEXT.replace("0", "_", 1),
        "\ud800" + TEXT[1:],
        TEXT[:-1] + "\0",
    ],
)
def test_no_other_spelling_is_read(value: object) -> None:
    assert read_uuid(value) is None


@given(st.text(alphabet="0123456789abcdefABCDEF-g ", min_size=30, max_size=40) | st.uuids().map(str) | st.text())
def test_it_reads_exactly_the_pattern(text: str) -> None:
    assert read_uuid(text) == (UUID(text) if ONE_SPELLING.fullmatch(text) else None)


@given(st.uuids(), st.integers() | st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_derived_ids_are_version_5_of_rfc_9562(cause: UUID, position: int | str) -> None:
    derived = derived_id(cause, position)
    assert derived == uuid.uuid5(cause, str(position))
    assert (derived.version, derived.variant, str(derived)) == (5, uuid.RFC_4122, str(UUID(int=derived.int)))
    assert derived_id(derived, position) == uuid.uuid5(UUID(int=derived.int), str(position)), "a cause of either class"


def test_both_classes_are_the_same_key() -> None:
    assert {read_uuid(TEXT): 1}[UUID(TEXT)] == 1
    assert new_id().version == 7
