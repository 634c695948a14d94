"""`python -m tests.mutants [CORE ...]`: how many mutants of each pure core its unit tests notice, and which they do not.

Each mutant runs in a process of its own, forked from one that has imported everything but our services. Only the unit tests of the core
run, up to the first that fails. `equivalent.toml` lists the mutants that no test can notice, each with the reason why.
"""

import argparse
import ast
import importlib
import importlib.util
import os
import signal
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from rich.console import Console

from tests.mutants.mutate import Mutant, mutants

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
SCORE_MIN = 0.90
TIMEOUT_S = 120
"""A mutant with which the tests run for longer counts as noticed: it makes one of them wait for ever."""
CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)
OURS = {"services", "tests", "deploy", "__main__"}
PROFILE = "mutants"

CORES = {
    "invoice": (("services.invoice.domain",), "tests/unit/invoice"),
    "payment_gateway": (
        ("services.payment_gateway.domain", "services.payment_gateway.commands"),
        "tests/unit/payment_gateway",
    ),
    "saga": (("services.saga.domain",), "tests/unit/saga"),
    "staff": (("services.staff.domain", "services.staff.dead_letters"), "tests/unit/staff"),
}
"""The pure modules of each core, and the folder of the tests that hold them."""
OTHER_ROOMS = (
    "announcements", "group_commit", "handlers", "intake", "lease_claimer", "reading", "refused_commands", "settings",
)  # fmt: skip
"""Tests in these folders of what is around the core: `test_<room>.py`."""


def main() -> int:
    """1 if a core scores too low, or if a mutant that is listed as equivalent is noticed or gone."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("cores", nargs="*", metavar="CORE", help=f"{', '.join(CORES)}; all, if none is named")
    chosen = parser.parse_args().cores or list(CORES)
    settings.register_profile(
        PROFILE, database=None, derandomize=True, deadline=None, phases=(Phase.explicit, Phase.generate)
    )
    passed = [_check(core) for core in chosen]
    return 0 if all(passed) else 1


def _check(core: str) -> bool:
    modules, tests = CORES[core]
    _warm_up(tests)
    lines = {(module, mutant.name): mutant.line for module in modules for mutant in mutants(_tree(module))}
    survivors = [(module, name) for module in modules for name in _survivors(module, tests)]
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


def _survivors(module: str, tests: str) -> list[str]:
    """The mutants of the module with which every test passes."""
    tree = _tree(module)
    found = mutants(tree)
    codes = _run_apart([partial(_run_mutant, module, tree, mutant, tests) for mutant in found])
    return [mutant.name for mutant, code in zip(found, codes, strict=True) if code == pytest.ExitCode.OK]


def _tree(module: str) -> ast.Module:
    return ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())


# -- in processes of their own ---------------------------------------------------------------------------------------------------------


def _run_apart(jobs: Sequence[Callable[[], int]]) -> list[int]:
    """The exit code of each job, or minus the signal that ended it. As many run at a time as there are cores."""
    running: dict[int, int] = {}
    codes = [0] * len(jobs)
    for at, job in enumerate(jobs):
        if len(running) == os.cpu_count():
            _reap(running, codes)
        running[_fork(job)] = at
    while running:
        _reap(running, codes)
    return codes


def _reap(running: dict[int, int], codes: list[int]) -> None:
    process, status = os.wait()
    codes[running.pop(process)] = os.waitstatus_to_exitcode(status)


def _fork(job: Callable[[], int]) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        with suppress(BaseException):
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            code = job()
        os._exit(code)
    return process


def _warm_up(tests: str) -> None:
    """Import what the tests import, but for our services and tests: a mutant must find none of them imported."""
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "names"
        if _run_apart([partial(_run_unchanged, tests, names)]) != [pytest.ExitCode.OK]:
            raise SystemExit(f"a test fails without any mutant: pytest {tests}")
        for name in names.read_text().split():
            with suppress(ImportError):
                importlib.import_module(name)


def _run_unchanged(tests: str, names: Path) -> int:
    code = _run(tests)
    names.write_text("\n".join(name for name in sys.modules if name.partition(".")[0] not in OURS))
    return code


def _run_mutant(module: str, tree: ast.Module, mutant: Mutant, tests: str) -> int:
    """The tests with the mutant in place of the module."""
    mutant.apply()
    signal.alarm(TIMEOUT_S)
    spec = importlib.util.find_spec(module)
    assert spec is not None
    mutated = sys.modules[module] = importlib.util.module_from_spec(spec)
    exec(compile(ast.fix_missing_locations(tree), module, "exec"), mutated.__dict__)  # noqa: S102 - that is what a mutant is for
    package, _, name = module.rpartition(".")
    setattr(sys.modules[package], name, mutated)
    return _run(tests)


def _run(tests: str) -> int:
    ignored = [f"--ignore-glob=*/test_{room}.py" for room in OTHER_ROOMS]
    return pytest.main(
        ["-xq", "--assert=plain", "-p", "no:cacheprovider", f"--hypothesis-profile={PROFILE}", *ignored, tests]
    )


if __name__ == "__main__":
    sys.exit(main())
