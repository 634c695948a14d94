"""The mutator finds everything that can be changed in a rule. Each mutant is the same source with one change."""

import ast
from collections import Counter
from types import SimpleNamespace
from typing import cast

import pytest

from tests.mutants.__main__ import CORES, EQUIVALENT, ROOT
from tests.mutants.guards import Guard, listed
from tests.mutants.mutate import mutants
from tests.mutants.reach import WHOLE_MODULE, Reach, tried_with

STATUSES = {"Status": ("OPEN", "PAID", "VOID")}


def mutated(source: str) -> dict[str, str]:
    """The source of every mutant, by its name."""
    return {mutant.name: _mutated(source, at) for at, mutant in enumerate(mutants(ast.parse(source), STATUSES))}


def _mutated(source: str, at: int) -> str:
    tree = ast.parse(source)
    mutants(tree, STATUSES)[at].apply()
    return ast.unparse(ast.fix_missing_locations(tree))


def rules(source: str) -> set[str]:
    """The rule of `f` in every mutant."""
    return {text.split("\n", 1)[1].strip() for text in mutated(f"def f(x, y):\n    {source}").values()}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("return x < y", {"return x <= y"}),
        ("return x is None", {"return x is not None"}),
        ("return x not in y", {"return x in y"}),
        ("return x and y", {"return x or y", "return x", "return y"}),
        ("return not x", {"return x"}),
        ("return x + 1", {"return x - 1", "return x + 2"}),
        ("return True", {"return False"}),
        ("return 'paid'", {"return 'paid!'"}),
        ("return min(x, y)", {"return max(x, y)"}),
        ("return x if y else 0", {"return x if True else 0", "return x if False else 0", "return x if y else 1"}),
        ("return {x, y}", {"return {x}", "return {y}"}),
        ("return {x: y}", {"return {}"}),
        ("return (x,)", {"return ()"}),
        ("return g(x, paid=y)", {"return g(x)"}),
    ],
)
def test_a_rule_is_changed_in_every_way_but_one_at_a_time(rule: str, expected: set[str]) -> None:
    assert rules(rule) == expected


@pytest.mark.parametrize(
    "rule", ["return (x, y)", "raise ValueError('no')", "assert x is None", "return f'{x} is 1'", "'Says 1.'"]
)
def test_code_that_a_mutant_could_not_test_stays_unchanged(rule: str) -> None:
    assert rules(rule) == set()


def test_conditions_are_held_at_both_ends() -> None:
    assert set(mutated("if x:\n    y()")) == {"module: if x -> if True", "module: if x -> if False"}


def test_a_match_loses_a_case_an_alternative_and_a_guard() -> None:
    source = "def f(x):\n  match x:\n    case A() | B() if y:\n      return a\n    case _:\n      return b"
    assert set(mutated(source)) == {
        "f: case A() | B() dropped",
        "f: A() dropped from A() | B()",
        "f: B() dropped from A() | B()",
        "f: guard y dropped",
    }


def test_another_member_of_the_enumeration_is_put_and_the_members_stay() -> None:
    source = 'class Status(StrEnum):\n    OPEN = "open"\n\ndef f():\n    return Status.VOID'
    assert set(mutated(source)) == {"f: Status.VOID -> Status.OPEN"}


def test_two_mutants_of_one_kind_have_two_names() -> None:
    assert list(mutated("def f(x):\n    return x + 1 + 1")) == [
        "f: x + 1 + 1 -> x + 1 - 1",
        "f: x + 1 -> x - 1",
        "f: 1 -> 2",
        "f: 1 -> 2 (no. 2)",
    ]


@pytest.mark.parametrize(
    "source",
    [
        'KINDS = Literal["a", "b"]',
        "LINES_MAX = 20",
        "class Row:\n    version: int = 0",
        'def f(x: Literal["a"]) -> dict[str, int]:\n    """Says 1."""\n    return x',
    ],
)
def test_types_limits_fields_and_docstrings_are_no_rules(source: str) -> None:
    assert mutated(source) == {}


REACHES = {
    "slow": Reach(frozenset({"core:pay", "core:Order.total"}), 0.2),
    "quick": Reach(frozenset({"core:pay"}), 0.1),
    "elsewhere": Reach(frozenset({"core:other", "another:pay"}), 0.3),
}


@pytest.mark.parametrize(
    ("scope", "tried"),
    [
        ("pay", ["quick", "slow"]),
        ("Order.total", ["slow"]),
        ("pay.inner", ["quick", "slow"]),
        ("never_called", []),
        ("module", ["quick", "slow", "elsewhere"]),
    ],
)
def test_a_mutant_is_tried_with_the_tests_that_run_its_function_and_the_quickest_first(
    scope: str, tried: list[str]
) -> None:
    items = [cast(pytest.Item, SimpleNamespace(nodeid=test)) for test in REACHES]
    assert [item.nodeid for item in tried_with("core", scope, items, REACHES)] == tried


def test_a_mutant_knows_the_function_that_it_changes() -> None:
    source = "LIMITS = {1}\n\nclass Order:\n    def total(self):\n        return lambda: self.a + self.b"
    assert {mutant.scope for mutant in mutants(ast.parse(source), {})} == {WHOLE_MODULE, "Order.total"}


def test_every_core_is_there() -> None:
    assert EQUIVALENT.exists()
    for modules, tests in CORES.values():
        assert (ROOT / tests).is_dir()
        assert all((ROOT / f"{module.replace('.', '/')}.py").exists() for module in modules)


@pytest.mark.parametrize("guard", listed(), ids=lambda guard: guard.gone)
def test_a_listed_guard_can_be_taken_out_and_its_tests_exist(guard: Guard) -> None:
    compile(guard.source(), guard.file, "exec")
    assert bool(guard.tests) != bool(guard.survives), "either tests that miss it, or the reason why none does"
    for test in guard.tests:
        path, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text(), test


def test_each_guard_is_listed_once() -> None:
    assert [what for what, times in Counter(guard.gone for guard in listed()).items() if times > 1] == []
