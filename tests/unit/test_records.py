"""Records behave as frozen dataclasses do, but for the lock."""

import dataclasses

import pytest

from shared.records import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 0
    tags: tuple[str, ...] = field(default_factory=tuple)


def test_a_changed_copy_leaves_the_original() -> None:
    before = Point(1, 2, ("a",))
    after = replace(before, y=3)
    assert (before, after) == (Point(1, 2, ("a",)), Point(1, 3, ("a",)))
    assert isinstance(after, Point)


def test_equal_records_are_one_key() -> None:
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_a_field_that_there_is_not_is_an_error() -> None:
    with pytest.raises(AttributeError):
        replace(Point(1), z=3)  # type: ignore[call-arg]


def test_dataclasses_know_them() -> None:
    assert [found.name for found in dataclasses.fields(Point)] == ["x", "y", "tags"]
    assert dataclasses.asdict(Point(1)) == {"x": 1, "y": 0, "tags": ()}
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)


@dataclasses.dataclass(frozen=True)
class Foreign:
    x: int


def test_any_other_dataclass_is_copied_as_well() -> None:
    assert replace(Foreign(1), x=2) == Foreign(2)
