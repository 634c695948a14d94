"""Mutants of a module: its source with one small change each, which a test of that very rule has to notice.

Beside what general tools change (https://mutmut.readthedocs.io), one alternative of a pattern or one entry of a table is dropped, and
another member of an enumeration put: tables and matches are what our cores consist of. Texts for people stay as they are, and so do
constants of the module: how large a limit is was somebody's choice, and tests take it by its name.
"""

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial

SWAPPED: dict[type[ast.AST], Callable[[], ast.AST]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.And: ast.Or, ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add,
}  # fmt: skip
SWAPPED_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
PARTS = {ast.MatchOr: "patterns", ast.BoolOp: "values", ast.Tuple: "elts", ast.Set: "elts", ast.Call: "keywords"}
TEXT_MAX = 60
TYPES = {"Literal", "dict", "frozenset", "list", "tuple", "type"}
UNTOUCHED = (ast.Raise, ast.Assert, ast.JoinedStr)
UNTOUCHED_FIELDS = {"annotation", "returns", "decorator_list"}

Change = tuple[str, ast.AST]
"""What is changed, in a few words, and the node to put in place."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`name` stays as it is while its function does. `apply` changes the tree, which is then good for this mutant only.

    `scope` is the function that is changed, with the classes and functions around it, or "module"."""

    name: str
    scope: str
    line: int
    apply: Callable[[], None]


Enums = Mapping[str, Sequence[str]]
"""The members of each enumeration that the module has by a name."""


def mutants(tree: ast.Module, enums: Enums) -> list[Mutant]:
    """All mutants of a module."""
    return list(_Finder(enums).find(tree, ""))


class _Finder:
    def __init__(self, enums: Enums) -> None:
        self._names: Counter[str] = Counter()
        self._enums = enums

    def find(self, node: ast.AST, scope: str) -> Iterator[Mutant]:
        """Of everything below `node`; `scope` is the function or class around it, empty for the module."""
        for field, value in ast.iter_fields(node):
            if field in UNTOUCHED_FIELDS or (field == "slice" and _is_type(node)):
                continue
            for at, child in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(child, ast.AST) or _is_untouched(child, node):
                    continue
                inner = (
                    f"{scope}.{child.name}".lstrip(".") if isinstance(child, ast.FunctionDef | ast.ClassDef) else scope
                )
                for what, new in self._changes(child, node, inner):
                    apply = partial(_put, node, field, at, ast.copy_location(new, child))
                    scoped = inner or "module"
                    yield Mutant(self._name(scoped, what), scoped, _line(child), apply)
                yield from self.find(child, inner)

    def _name(self, scope: str, what: str) -> str:
        name = f"{scope}: {what}"
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name} (no. {self._names[name]})"

    def _changes(self, node: ast.AST, parent: ast.AST, scope: str) -> Iterator[Change]:
        match node:
            case ast.Compare(ops=[op]) if type(op) in SWAPPED:
                yield _changed(node, ops=[SWAPPED[type(op)]()])
            case ast.BoolOp(op=op) | ast.BinOp(op=op) if type(op) in SWAPPED:
                yield _changed(node, op=SWAPPED[type(op)]())
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield f"{ast.unparse(node)} -> {ast.unparse(operand)}", operand
            case ast.Constant(value=bool() as value):
                yield _changed(node, value=not value)
            case ast.Constant(value=int() | float() as value) if scope:
                yield _changed(node, value=value + 1)
            case ast.Constant(value=str() as value) if scope:
                yield _changed(node, value=f"{value}!")
            case ast.Attribute(value=ast.Name(id=enum), attr=member) if member in self._enums.get(enum, ()):
                members = self._enums[enum]
                yield _changed(node, attr=members[(members.index(member) + 1) % len(members)])
            case ast.Name(id=name) if name in SWAPPED_NAMES:
                yield _changed(node, id=SWAPPED_NAMES[name])
            case ast.IfExp(test=test) | ast.If(test=test):
                for constant in (True, False):
                    yield f"if {ast.unparse(test)} -> if {constant}", _copy(node, test=ast.Constant(constant))
            case ast.match_case(guard=ast.expr() as guard):
                yield f"guard {ast.unparse(guard)} dropped", _copy(node, guard=None)
            case ast.Match(cases=cases):
                for at, case in enumerate(cases[:-1]):
                    yield f"case {ast.unparse(case.pattern)} dropped", _copy(node, cases=cases[:at] + cases[at + 1 :])
            case ast.Dict(keys=keys, values=values):
                for at, key in enumerate(keys):
                    fewer = _copy(node, keys=keys[:at] + keys[at + 1 :], values=values[:at] + values[at + 1 :])
                    yield f"{ast.unparse(key) if key else '**'} dropped from a table", fewer
            case _:
                pass
        if not _is_whole(node, parent):
            yield from _without_one(node)


def _without_one(node: ast.AST) -> Iterator[Change]:
    """The node without each of its parts, where it has several of a kind."""
    field = PARTS.get(type(node))
    if field is None or not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        return
    parts = getattr(node, field)
    for at, part in enumerate(parts):
        rest = parts[:at] + parts[at + 1 :]
        alone = len(rest) == 1 and isinstance(node, ast.MatchOr | ast.BoolOp)
        yield f"{_short(part)} dropped from {_short(node)}", rest[0] if alone else _copy(node, **{field: rest})


def _line(node: ast.AST) -> int:
    """A case and its like have no line of their own."""
    return next(inner.lineno for inner in ast.walk(node) if isinstance(inner, ast.stmt | ast.expr | ast.pattern))


def _is_whole(node: ast.AST, parent: ast.AST) -> bool:
    """A pair that is returned or matched has two parts, whatever the rule is: a mutant with one proves nothing."""
    if not isinstance(node, ast.Tuple) or not isinstance(parent, ast.Return | ast.Match):
        return False
    return len(node.elts) > 1 and not any(isinstance(part, ast.Starred) for part in node.elts)


def _short(node: ast.AST) -> str:
    text = ast.unparse(node)
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}..."


def _copy(node: ast.AST, **changes: object) -> ast.AST:
    new = copy(node)
    for field, value in changes.items():
        setattr(new, field, value)
    return new


def _changed(node: ast.AST, **changes: object) -> Change:
    new = _copy(node, **changes)
    return f"{ast.unparse(node)} -> {ast.unparse(new)}", new


def _put(parent: ast.AST, field: str, at: int, new: ast.AST) -> None:
    value = getattr(parent, field)
    if isinstance(value, list):
        value[at] = new
    else:
        setattr(parent, field, new)


def _is_type(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in TYPES


def _is_untouched(node: ast.AST, parent: ast.AST) -> bool:
    """Fields and members are data, which tests build and contracts hold. Docstrings and reports of bugs are for people."""
    is_data = isinstance(parent, ast.ClassDef) and not isinstance(node, ast.FunctionDef)
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_data or is_text or isinstance(node, UNTOUCHED)
