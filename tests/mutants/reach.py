"""Which tests run which functions: a mutant can only be noticed by a test that runs the function it changes.

So a mutant is tried with those tests alone, the quickest first. A table of a module is read by anybody, so its mutants are tried with all.
"""

import json
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from time import perf_counter
from types import CodeType, FrameType

import pytest

WHOLE_MODULE = "module"
"""The scope of what is in no function."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The functions of the cores that one test runs, as `module:function`, and the seconds that it takes."""

    functions: frozenset[str]
    seconds: float


def tried_with(module: str, scope: str, items: Sequence[pytest.Item], reaches: dict[str, Reach]) -> list[pytest.Item]:
    """The tests that could notice a change in this scope of the module, the quickest first."""
    # A function in a function runs with the outer one, which may stand in a class.
    names = scope.split(".")
    around = {f"{module}:{'.'.join(names[:length])}" for length in range(1, len(names) + 1)}
    found = [item for item in items if scope == WHOLE_MODULE or around & reaches[item.nodeid].functions]
    return sorted(found, key=lambda item: reaches[item.nodeid].seconds)


@dataclass(slots=True)
class Watch:
    """A plugin of pytest that writes down, for each test that it runs, which functions of the modules were called."""

    modules: Sequence[str]
    to: TextIOWrapper
    _reaches: dict[str, tuple[list[str], float]] = field(default_factory=dict)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        called: set[CodeType] = set()

        def note(frame: FrameType, event: str, _: object) -> None:
            if event == "call":
                called.add(frame.f_code)

        began_s = perf_counter()
        sys.setprofile(note)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            self._reaches[item.nodeid] = self._functions(called), perf_counter() - began_s

    def _functions(self, called: set[CodeType]) -> list[str]:
        files = {sys.modules[module].__file__: module for module in self.modules}
        ours = [code for code in called if code.co_filename in files]
        return sorted({f"{files[code.co_filename]}:{code.co_qualname.split('.<locals>')[0]}" for code in ours})

    def pytest_sessionfinish(self) -> None:
        json.dump(self._reaches, self.to)
        self.to.flush()


def read(written: TextIOWrapper) -> dict[str, Reach]:
    """What a watch wrote, by the id of the test."""
    written.seek(0)
    return {test: Reach(frozenset(functions), seconds) for test, (functions, seconds) in json.load(written).items()}
