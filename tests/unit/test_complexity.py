"""No function has too many decisions. A `match` is one decision, however many cases it has: a dispatcher may be as long as its union.

Ruff counts every `case` (C901, PLR0911, PLR0912). That would forbid the shape of our own cores, so these rules are turned off. Everything
else is counted as McCabe does: https://doi.org/10.1109/TSE.1976.233837.
"""

import ast
from collections.abc import Iterable, Iterator

import pytest

from tests.support.environment import ROOT
from tests.unit.books.source import nodes, python_files

COMPLEXITY_MAX = 8
DECISIONS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Match)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def complexity(function: ast.AST) -> int:
    """One, and one more for each branch, loop, error handler and `match`. A guard belongs to its case. Code inside a case counts."""
    return 1 + sum(isinstance(node, DECISIONS) for node in ast.walk(function))


def functions(found: Iterable[ast.AST]) -> Iterator[Function]:
    return (node for node in found if isinstance(node, Function))


def test_no_function_has_too_many_decisions() -> None:
    too_complex = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {complexity(function)}, at most {COMPLEXITY_MAX}"
        for path in python_files("deploy", "services", "shared", "tests")
        for function in functions(nodes(path))
        if complexity(function) > COMPLEXITY_MAX
    ]
    assert too_complex == [], "divide them, or dispatch with one flat `match`"


# -- the measure itself ----------------------------------------------------------------------------------------------------------------


def nested(statement: str, depth: int) -> str:
    lines = [f"{'  ' * (level + 1)}{statement}" for level in range(depth)]
    return "\n".join(["def f(x):", *lines, f"{'  ' * (depth + 1)}return x"])


def flat_match(body: str, cases: int = 20) -> str:
    return "def f(x):\n  match x:\n" + "".join(f"    case {case}:\n      {body}\n" for case in range(cases))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(x):\n  return x", 1),
        (nested("if x:", 12), 13),
        (nested("for x in x:", 12), 13),
        (nested("while x:", 12), 13),
        ("def f(x):\n  if x:\n    return 1\n  elif x > 1:\n    return 2\n  else:\n    return 3", 3),
        ("def f(x):\n  try:\n    x()\n  except ValueError:\n    x()\n  except OSError:\n    x()", 3),
        ("async def f(x):\n  async for y in x:\n    x()", 2),
        (flat_match("return g(x)"), 2),
        (flat_match("y = g(x)\n      return y"), 2),
        (flat_match("return g(x)").replace("case 3:", "case 3 if x:"), 2),
        (flat_match("if x:\n        return g(x)"), 22),
        (flat_match("match x:\n        case 1:\n          return g(x)"), 22),
    ],
)
def test_complexity_counts_decisions_and_a_match_as_one(source: str, expected: int) -> None:
    (function,) = functions(ast.walk(ast.parse(source)))
    assert complexity(function) == expected


def test_a_flat_match_of_twenty_cases_passes_and_twelve_nested_ifs_fail() -> None:
    (dispatcher,) = functions(ast.walk(ast.parse(flat_match("return g(x)"))))
    (labyrinth,) = functions(ast.walk(ast.parse(nested("if x:", 12))))
    assert complexity(dispatcher) <= COMPLEXITY_MAX < complexity(labyrinth)
