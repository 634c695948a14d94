"""The order of tests: drawn by a seed, a file in one piece."""

from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.scheduling import shuffle


def _tests() -> list[Any]:
    return [
        SimpleNamespace(path=Path(f"test_{file}.py"), name=f"{file}-{number}") for file in "abcd" for number in range(9)
    ]


def test_a_seed_draws_an_order_that_keeps_files_together() -> None:
    drawn = [_tests() for _ in range(3)]
    for items, seed in zip(drawn, (1, 1, 2), strict=True):
        shuffle(items, seed)
    orders = [[item.name for item in items] for items in drawn]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(item.name for item in _tests())
    for items in drawn:
        assert len([path for path, _ in groupby(items, key=lambda item: item.path)]) == 4
        assert [item.name for item in items if item.path.name == "test_a.py"] != [f"a-{number}" for number in range(9)]
