"""Which process runs which tests: a file stays in one, so that what its tests share is made once; the longest begin first."""

from random import Random
from typing import Final

import pytest
from xdist.scheduler import LoadScopeScheduling

ONE_SYSTEM: Final = tuple(
    f"tests/system/test_{name}.py" for name in ("survival", "doctor", "facts", "permissions", "traces")
)
"""These share the running services."""
THE_SOURCE: Final = (
    *(f"tests/unit/books/test_{name}.py" for name in ("links", "tables")),
    *(f"tests/unit/test_{name}.py" for name in ("background", "complexity", "crash_points", "names")),
)
"""These read all of the source, which is parsed once a process (`tests/unit/books/source.py`)."""
TOGETHER: Final = {
    **dict.fromkeys(ONE_SYSTEM, "the system"),
    "tests/browser/": "the browser",
    **dict.fromkeys(THE_SOURCE, "the source"),
}
FIRST: Final = (
    *ONE_SYSTEM,
    "tests/browser/",
    "tests/service/audit/test_falsifications.py",
    "tests/system/",
    "tests/service/cli/",
    "tests/service/test_",
    "tests/service/",
    "tests/contracts/",
    *THE_SOURCE,
)
"""Measured, the longest first. The rest is short, so that no process has much to do when the others are done."""


class FileByFile(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist tells no types
    """Gives each process a file at a time, in the order of `longest_first`."""

    def _split_scope(self, nodeid: str) -> str:
        whole = (name for beginning, name in TOGETHER.items() if nodeid.startswith(beginning))
        return next(whole, nodeid.partition("::")[0])


def longest_first(items: list[pytest.Item]) -> None:
    """Sort the tests in place; within a folder their order stays."""
    items.sort(key=_rank)


def shuffle(items: list[pytest.Item], seed: int) -> None:
    """Draw an order of the files, and of the tests in each file; a file stays together."""
    Random(seed).shuffle(items)
    files = {path: place for place, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: files[item.path])


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, beginning in enumerate(FIRST) if item.nodeid.startswith(beginning)), len(FIRST))
