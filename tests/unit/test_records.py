"""Records behave as frozen dataclasses do, except that they are not locked."""

import dataclasses

import pytest

from shared.records import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class PlanePoint:
    x: int
    y: int = 0
    tags: tuple[str, ...] = field(default_factory=tuple)


def test_a_changed_copy_leaves_the_original() -> None:
    before = PlanePoint(1, 2, ("a",))
    after = replace(before, y=3)
    assert (before, after) == (PlanePoint(1, 2, ("a",)), PlanePoint(1, 3, ("a",)))
    assert isinstance(after, PlanePoint)


def test_equal_records_are_one_key() -> None:
    assert len({PlanePoint(1), PlanePoint(1), PlanePoint(2)}) == 2


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(AttributeError):
        replace(PlanePoint(1), z=3)  # type: ignore[call-arg]


def test_dataclasses_know_them() -> None:
    assert [found.name for found in dataclasses.fields(PlanePoint)] == ["x", "y", "tags"]
    assert dataclasses.asdict(PlanePoint(1)) == {"x": 1, "y": 0, "tags": ()}
    match PlanePoint(1, 2):
        case PlanePoint(x, y):
            assert (x, y) == (1, 2)


@dataclasses.dataclass(frozen=True)
class ForeignRecord:
    x: int


def test_any_other_dataclass_is_copied_as_well() -> None:
    assert replace(ForeignRecord(1), x=2) == ForeignRecord(2)
