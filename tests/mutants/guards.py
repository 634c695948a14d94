"""The guards: what I/O code does for the rare moment, removed one at a time. The tests that `guards.toml` names have to fail.

    [[guard]]
    kind = "two at once"                        # a family of the list, for reading it
    gone = "two sweepers take the same rows"    # what could happen without the guard
    file = "shared/persistence/outbox.py"
    was = " SKIP LOCKED"                        # stands in the file once
    becomes = ""
    tests = ["tests/service/test_outbox.py::test_rows_that_another_sweeper_holds_are_left_to_it"]

A guard that nothing can notice has `survives` in place of `tests`: the reason why it stays, or why no test can be had.

Each guard is taken out in a forked process of its own, before any code of ours is imported there. Broker and databases are started once.
"""

import asyncio
import importlib
import os
import re
import resource
import sys
import threading
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType

import pytest
from _pytest.fixtures import SubRequest
from rich.console import Console

from deploy.local.stack import Stack, open_stack
from deploy.local.system import prepare

ROOT = Path(__file__).parents[2]
LISTED = Path(__file__).with_name("guards.toml")
SCORE_MIN = 0.95
CPU_MAX_S = 60
"""The tests of one guard take a second or two of CPU. With the guard gone they may never end, which counts as noticed."""
STUCK_AFTER_S = 180.0
"""So long after it began a trial is ended, and its guard was noticed. pytest ends a test sooner, unless the code
waits on without its guard."""
OURS = ("services", "shared", "deploy", "tests")
LIBRARIES = """aio_pika aiohttp.web alembic.command argon2 asyncpg fastapi hypothesis jinja2 joserfc.jwe orjson prometheus_client
    pydantic.type_adapter rich.console sqlalchemy.ext.asyncio stripe structlog tenacity typer.rich_utils uuid_utils.compat uvloop"""
"""Imported once, before anything is forked."""
LOUD = "REMIT_GUARDS_LOUD"
"""A variable with which what pytest prints is seen."""
CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Guard:
    """One entry of the list."""

    kind: str
    gone: str
    file: str
    was: str
    becomes: str
    tests: tuple[str, ...] = ()
    survives: str = ""

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".")

    def source(self) -> str:
        """The file without the guard. Raises ValueError if the list is not up to date with the code."""
        text = (ROOT / self.file).read_text()
        if text.count(self.was) != 1:
            raise ValueError(f"{self.file} has {text.count(self.was)} times, and not once: {self.was!r}")
        return text.replace(self.was, self.becomes)


def listed() -> list[Guard]:
    """The guards of the committed list."""
    entries = tomllib.loads(LISTED.read_text())["guard"]
    return [Guard(**(entry | {"tests": tuple(entry.get("tests", ()))})) for entry in entries]


@dataclass(slots=True)
class _Trial:
    """One guard to take out, or none: then the tests must pass. `code` is pytest's exit code, or minus the signal that ended it."""

    tests: tuple[str, ...]
    guard: Guard | None = None
    code: int = 0

    @property
    def is_noticed(self) -> bool:
        """Whether a test failed. Tests that could not be collected have noticed nothing."""
        return self.code == pytest.ExitCode.TESTS_FAILED or self.code < 0


def check(only: str = "") -> bool:
    """Take out, one at a time, every guard in whose name the regular expression is found. Print those that no test missed.

    False if there are too many.
    """
    guards = [guard for guard in listed() if re.search(only, f"{guard.kind}: {guard.gone}")]
    if not guards:
        CONSOLE.print(f"guards: none is called {only}")
        return True
    trials = [_Trial(guard.tests, guard) for guard in guards if guard.tests]
    untouched = _Trial(tuple(sorted({test for guard in guards for test in guard.tests})))
    _Trials([untouched, *trials]).run()
    if untouched.code != pytest.ExitCode.OK:
        raise SystemExit(f"a test fails with all guards in place: pytest {' '.join(untouched.tests)}")
    noticed = sum(trial.is_noticed for trial in trials)
    CONSOLE.print(f"guards: {noticed / len(guards):.1%} of {len(guards)} noticed when they are gone")
    for trial in trials:
        if trial.guard and not trial.is_noticed:
            CONSOLE.print(
                f"  {trial.guard.file}: {trial.guard.kind}: {trial.guard.gone}: {' '.join(trial.tests)} ends with {trial.code}"
            )
    for guard in guards:
        if not guard.tests:
            CONSOLE.print(f"  {guard.file}: {guard.kind}: {guard.gone}: not tried, {guard.survives}")
    return noticed >= SCORE_MIN * len(guards)


# -- in processes of their own ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Trials:
    """Runs trials on as many stacks as there are CPUs, each in a process of its own."""

    trials: Sequence[_Trial]
    _running: dict[int, tuple[_Trial, Stack]] = field(default_factory=dict)
    _free: list[Stack] = field(default_factory=list)

    def run(self) -> None:
        for name in LIBRARIES.split():
            importlib.import_module(name)
        with ExitStack() as to_close:
            for _ in range(os.cpu_count() or 1):
                stack = to_close.enter_context(open_stack(say=lambda _: None))
                asyncio.run(prepare(stack))
                self._free.append(stack)
            for trial in self.trials:
                if not self._free:
                    self._reap()
                stack = self._free.pop()
                pid = os.fork()
                if pid == 0:
                    _become(trial, stack)
                self._running[pid] = trial, stack
            while self._running:
                self._reap()

    def _reap(self) -> None:
        pid, status = os.wait()
        trial, stack = self._running.pop(pid)
        trial.code = os.waitstatus_to_exitcode(status)
        self._free.append(stack)


def _become(trial: _Trial, stack: Stack) -> None:
    """Run the tests of the trial in this process, and end it."""
    code = 70
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if not os.environ.get(LOUD):
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_MAX_S, CPU_MAX_S))
        for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
            del sys.modules[name]
        if trial.guard is not None:
            stuck = threading.Timer(STUCK_AFTER_S, os._exit, (pytest.ExitCode.TESTS_FAILED,))
            stuck.daemon = True
            stuck.start()
            sys.meta_path.insert(0, _Without(trial.guard))
        options = ["-xq", "--assert=plain", "-n", "0", "-p", "no:cacheprovider", "--timeout=30"]
        code = pytest.main([*options, *trial.tests], plugins=[_Prepared(stack)])
    finally:
        os._exit(code)


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """A plugin of pytest that gives the tests a stack which runs already."""

    stack: Stack

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object], request: SubRequest) -> object:
        """None for every other fixture: pytest sets it up."""
        if fixturedef.argname == "stack":
            given: object = self.stack
        elif fixturedef.argname == "environment_urls":
            given = importlib.import_module("tests.support.environment").Environment.of(self.stack)
        else:
            return None
        fixturedef.cached_result = (given, fixturedef.cache_key(request), None)
        return given


class _Without(MetaPathFinder):
    """Imports one module without its guard, and every other one as it is."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._source = guard.source()

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self._guard.module:
            return None
        file = str(ROOT / self._guard.file)
        return spec_from_loader(fullname, _Changed(fullname, file, self._source), origin=file)


class _Changed(SourceFileLoader):
    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.get_filename(fullname), "exec")
