"""`python -m tests.mutants [LIST ...]`: how many mutants of each pure core its unit tests notice, and which guards of the I/O code no test
would miss.

The tests of a core are collected once. Then each mutant runs in a forked process of its own: the changed code is put into the module, and
the tests run up to the first that fails. `equivalent.toml` lists the mutants that no test can notice, each with the reason why.
"""

import argparse
import ast
import os
import resource
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from enum import EnumType
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
from hypothesis import Phase, is_hypothesis_test, settings
from rich.console import Console

from tests.mutants import guards
from tests.mutants.mutate import Mutant, mutants

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
SCORE_MIN = 0.90
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
    "announcements", "group_commit", "handlers", "intake", "lease_claimer", "reading", "refused_commands", "settings",
)  # fmt: skip
"""Tests in these folders of what is around the core: `test_<room>.py`."""


def main() -> int:
    """1 if a core or the guards score too low, or if a mutant that is listed as equivalent is noticed or gone."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    every = (*CORES, GUARDS)
    parser.add_argument("lists", nargs="*", metavar="LIST", help=f"{', '.join(every)}; all, if none is named")
    chosen = parser.parse_args().lists or every
    settings.register_profile(
        PROFILE, database=None, derandomize=True, deadline=None, phases=(Phase.explicit, Phase.generate)
    )
    passed = [guards.check() if name == GUARDS else _check(name) for name in chosen]
    return 0 if all(passed) else 1


def _check(core: str) -> bool:
    modules, tests = CORES[core]
    survivors = _survivors(modules, tests)
    lines = {(module, mutant.name): mutant.line for module in modules for mutant in _mutants(module)[1]}
    equivalent = tomllib.loads(EQUIVALENT.read_text())
    listed = {(module, name) for module in modules for name in equivalent.get(module, ())}
    missed = [survivor for survivor in survivors if survivor not in listed]
    wrong = sorted(listed - set(survivors))
    counted = len(lines) - (len(survivors) - len(missed))
    score = (counted - len(missed)) / counted
    CONSOLE.print(f"{core}: {score:.1%} of {counted} mutants noticed; {len(lines) - counted} more are equivalent")
    for module, name in missed:
        CONSOLE.print(f"  {module.replace('.', '/')}.py:{lines[module, name]} {name}")
    for module, name in wrong:
        CONSOLE.print(f"  tests/mutants/{EQUIVALENT.name} lists what is noticed or gone: [{module}] {name}")
    return score >= SCORE_MIN and not wrong


def _mutants(module: str) -> tuple[ast.Module, list[Mutant]]:
    """The tree of the module, and its mutants."""
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    names = vars(import_module(module)).items()
    return tree, mutants(tree, {name: list(kind.__members__) for name, kind in names if isinstance(kind, EnumType)})


# -- in processes of their own ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Process:
    """One mutant to run, or none: the tests must pass as they are. `code` is the exit code of pytest."""

    module: str = ""
    tree: ast.Module = field(default_factory=lambda: ast.Module([], []))
    mutant: Mutant | None = None
    code: int | None = None


class _Forks:
    """A plugin of pytest that comes between collecting and running: one process runs the tests for each mutant."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.processes = [_Process()]
        for module in modules:
            tree, found = _mutants(module)
            self.processes += [_Process(module, tree, mutant) for mutant in found]
        self._running: dict[int, _Process] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """A property takes a hundred times as long as an example, so properties come last."""
        items.sort(key=lambda item: is_hypothesis_test(getattr(item, "obj", None)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool | None:
        """None in the forked processes, where pytest then runs the tests; in this one there is nothing left to run."""
        for process in self.processes:
            if len(self._running) == os.cpu_count():
                self._reap()
            pid = os.fork()
            if pid == 0:
                _silence()
                resource.setrlimit(resource.RLIMIT_CPU, (CPU_MAX_S, CPU_MAX_S))
                if process.mutant is not None:
                    process.mutant.apply()
                    _install(process.tree, sys.modules[process.module])
                return None
            self._running[pid] = process
        while self._running:
            self._reap()
        return True

    def _reap(self) -> None:
        pid, status = os.wait()
        self._running.pop(pid).code = os.waitstatus_to_exitcode(status)


def _survivors(modules: Sequence[str], tests: str) -> list[tuple[str, str]]:
    """(module, name) of the mutants with which every test passes."""
    parent, forks = os.getpid(), _Forks(modules)
    ignored = [f"--ignore-glob=*/test_{room}.py" for room in OTHER_ROOMS]
    options = [
        "-xq",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        f"--hypothesis-profile={PROFILE}",
        "--timeout=0",
    ]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        code = pytest.main([*options, *ignored, tests], plugins=[forks])
    if os.getpid() != parent:
        os._exit(code)
    unchanged, *mutated = forks.processes
    if unchanged.code != pytest.ExitCode.OK:
        raise SystemExit(f"a test fails without any mutant: pytest {tests}")
    return [(one.module, one.mutant.name) for one in mutated if one.mutant and one.code == pytest.ExitCode.OK]


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _install(tree: ast.Module, module: ModuleType) -> None:
    """Put the code of the tree into the functions of the module, which others have imported, and its tables in the place of theirs."""
    changed = ModuleType(module.__name__)
    exec(compile(ast.fix_missing_locations(tree), module.__name__, "exec"), changed.__dict__)  # noqa: S102 - that is what a mutant is for
    for old, new in zip(_functions(module), _functions(changed), strict=True):
        old.__code__ = new.__code__
    tables = ast.Module([node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)], [])
    exec(compile(tables, module.__name__, "exec"), module.__dict__)  # noqa: S102 - as above


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """Those that are written in the module, in its order; of its classes as well."""
    for owner in (module, *(value for value in vars(module).values() if isinstance(value, type))):
        for value in vars(owner).values():
            function = value.fget if isinstance(value, property) else value
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield function


if __name__ == "__main__":
    sys.exit(main())
