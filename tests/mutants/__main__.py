"""`python -m tests.mutants [LIST ...]`: how many mutants of each pure core its unit tests notice, and which guards of the I/O code no test
would miss.

The tests of a core are collected once, and run once as they are, which shows what each of them reaches. Then each mutant runs in a forked
process of its own: the changed code is put into the module, and the tests that reach it run up to the first that fails. `equivalent.toml`
lists the mutants that no test can notice, each with the reason why.
"""

import argparse
import ast
import gc
import os
import re
import resource
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from enum import EnumType
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryFile
from types import FunctionType, ModuleType

import pytest
from hypothesis import Phase, settings
from rich.console import Console

from tests.mutants import guards, reach
from tests.mutants.mutate import Mutant, mutants

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
SCORE_MIN = 0.95
CPU_MAX_S = 20
"""All tests of a core take a few seconds of CPU. A mutant with which they take this long never ends, which counts as noticed."""
PROFILE = "mutants"
CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)

CORES = {
    "invoice": (("services.invoice.domain", "services.invoice.refunds"), "tests/unit/invoice"),
    "payment_gateway": (
        (
            "services.payment_gateway.domain",
            "services.payment_gateway.afterwards",
            "services.payment_gateway.commands",
            "services.payment_gateway.refunds",
        ),
        "tests/unit/payment_gateway",
    ),
    "saga": (("services.saga.domain", "services.saga.refunds"), "tests/unit/saga"),
    "staff": (("services.staff.domain", "services.staff.dead_letters", "services.staff.refunds"), "tests/unit/staff"),
}
"""The pure modules of each core, and the folder of the tests that hold them."""
GUARDS = "guards"
OTHER_ROOMS = (
    "announcements", "group_commit", "handlers", "intake", "lease_claimer", "pace", "reading", "refused_commands", "settings",
)  # fmt: skip
"""Tests in these folders of what is around the core: `test_<room>.py`."""


def main() -> int:
    """1 if a core or the guards score too low, or if a mutant that is listed as equivalent is noticed or gone."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    every = (*CORES, GUARDS)
    parser.add_argument("lists", nargs="*", metavar="LIST", help=f"{', '.join(every)}; all, if none is named")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="those in whose name this regular expression is found"
    )
    given = parser.parse_args()
    chosen = given.lists or every
    settings.register_profile(
        PROFILE, database=None, derandomize=True, deadline=None, phases=(Phase.explicit, Phase.generate)
    )
    passed = [guards.check(given.only) if name == GUARDS else _check(name, given.only) for name in chosen]
    return 0 if all(passed) else 1


def _check(core: str, only: str) -> bool:
    modules, tests = CORES[core]
    lines = {(module, mutant.name): mutant.line for module in modules for mutant in _mutants(module, only)[1]}
    if not lines:
        CONSOLE.print(f"{core}: no mutant is called {only}")
        return True
    survivors = _survivors(modules, tests, only)
    equivalent = tomllib.loads(EQUIVALENT.read_text())
    listed = {(module, name) for module in modules for name in equivalent.get(module, ()) if re.search(only, name)}
    missed = [survivor for survivor in survivors if survivor not in listed]
    wrong = sorted(listed - set(survivors))
    counted = len(lines) - (len(survivors) - len(missed))
    score = (counted - len(missed)) / counted if counted else 1.0
    CONSOLE.print(f"{core}: {score:.1%} of {counted} mutants noticed; {len(lines) - counted} more are equivalent")
    for module, name in missed:
        CONSOLE.print(f"  {module.replace('.', '/')}.py:{lines[module, name]} {name}")
    for module, name in wrong:
        CONSOLE.print(f"  tests/mutants/{EQUIVALENT.name} lists what is noticed or gone: [{module}] {name}")
    return score >= SCORE_MIN and not wrong


def _mutants(module: str, only: str = "") -> tuple[ast.Module, list[Mutant]]:
    """The tree of the module, and its mutants in whose name the regular expression is found."""
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    names = vars(import_module(module)).items()
    found = mutants(tree, {name: list(kind.__members__) for name, kind in names if isinstance(kind, EnumType)})
    return tree, [mutant for mutant in found if re.search(only, mutant.name)]


# -- in processes of their own ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Process:
    """One mutant to run, or none: the tests must pass as they are. `code` is the exit code of pytest."""

    module: str = ""
    tree: ast.Module = field(default_factory=lambda: ast.Module([], []))
    mutant: Mutant | None = None
    code: int | None = None


class _Forks:
    """A plugin of pytest that comes between collecting and running: one process runs the tests for each mutant.

    The first process runs them as they are, under a watch that writes to `watched` what each of them reaches.
    """

    def __init__(self, modules: Sequence[str], only: str, watched: TextIOWrapper) -> None:
        self.unchanged = _Process()
        self.mutated: list[_Process] = []
        for module in modules:
            tree, found = _mutants(module, only)
            self.mutated += [_Process(module, tree, mutant) for mutant in found]
        self._modules, self._watched = modules, watched
        self._running: dict[int, _Process] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """None in the forked processes, where pytest then runs the tests; in this one there is nothing left to run."""
        gc.freeze()  # what is here by now is shared by all processes, and never collected
        if self._is_forked(self.unchanged):
            session.config.pluginmanager.register(reach.Watch(self._modules, self._watched))
            return None
        self._reap()
        if self.unchanged.code != pytest.ExitCode.OK:
            return True
        reaches = reach.read(self._watched)
        for process in self.mutated:
            if len(self._running) == os.cpu_count():
                self._reap()
            if self._is_forked(process):
                assert process.mutant is not None
                session.items = reach.tried_with(process.module, process.mutant.scope, session.items, reaches)
                process.mutant.apply()
                _install(process.tree, sys.modules[process.module])
                return None
        while self._running:
            self._reap()
        return True

    def _is_forked(self, process: _Process) -> bool:
        """True in the new process for this mutant, False in the one that began it."""
        pid = os.fork()
        if pid == 0:
            _silence()
            if process is not self.unchanged:  # which is watched, and takes its time
                resource.setrlimit(resource.RLIMIT_CPU, (CPU_MAX_S, CPU_MAX_S))
            return True
        self._running[pid] = process
        return False

    def _reap(self) -> None:
        pid, status = os.wait()
        self._running.pop(pid).code = os.waitstatus_to_exitcode(status)


def _survivors(modules: Sequence[str], tests: str, only: str) -> list[tuple[str, str]]:
    """(module, name) of the mutants with which every test passes."""
    parent = os.getpid()
    ignored = [f"--ignore-glob=*/test_{room}.py" for room in OTHER_ROOMS]
    options = [
        "-xq",
        "--tb=no",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        f"--hypothesis-profile={PROFILE}",
        "--timeout=0",
    ]
    with TemporaryFile("w+") as watched, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        forks = _Forks(modules, only, watched)
        code = pytest.main([*options, *ignored, tests], plugins=[forks])
        if os.getpid() != parent:
            os._exit(code)
    if forks.unchanged.code != pytest.ExitCode.OK:
        raise SystemExit(f"a test fails without any mutant: pytest {tests}")
    return [(one.module, one.mutant.name) for one in forks.mutated if one.mutant and one.code == pytest.ExitCode.OK]


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _install(tree: ast.Module, module: ModuleType) -> None:
    """Put the code of the tree into the functions of the module, which others have imported, and its tables in the place of theirs.

    A test that has imported a table keeps the one that is right.
    """
    changed = ModuleType(module.__name__)
    exec(compile(ast.fix_missing_locations(tree), module.__name__, "exec"), changed.__dict__)  # noqa: S102 - that is what a mutant is for
    for old, new in zip(_functions(module), _functions(changed), strict=True):
        old.__code__ = new.__code__
    before = dict(vars(module))
    tables = ast.Module([node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)], [])
    exec(compile(tables, module.__name__, "exec"), module.__dict__)  # noqa: S102 - as above
    others = [vars(other) for name, other in sys.modules.items() if name.startswith("services.")]
    for name, table in before.items():
        for other in others:
            if other.get(name) is table:
                other[name] = vars(module)[name]


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """Those that are written in the module, in its order; of its classes as well."""
    for owner in (module, *(value for value in vars(module).values() if isinstance(value, type))):
        for value in vars(owner).values():
            function = value.fget if isinstance(value, property) else value
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield function


if __name__ == "__main__":
    sys.exit(main())
