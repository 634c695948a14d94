"""Reads facts from the source code without running it."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from deploy.local.stack import SERVICES
from tests.unit.books.documents import ROOT

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
DATABASE_URLS: Final = frozenset(f"{service.upper()}_DATABASE_URL" for service in SERVICES)


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(), str(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Everything in that tree."""
    return tuple(ast.walk(tree(path)))


def attributes_of(module: str, paths: list[Path]) -> set[str]:
    """The names that these files take from `module.<name>`."""
    return {
        node.attr
        for path in paths
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module
    }


# -- environment variables -----------------------------------------------------------------------------------------------------------------


def variables_read(paths: list[Path]) -> set[str]:
    """The environment variables that these files read: by a declaration (`variable`), by `os.environ`, or as an option of `remit`."""
    constants = {name: value for path in paths for name, value in _constants(path)}
    found: set[str] = set()
    for path in paths:
        for node in nodes(path):
            for name in _named(node):
                found |= _variables(name, constants)
    return found


def _constants(path: Path) -> Iterator[tuple[str, str]]:
    for node in tree(path).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(value))):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(value))):
                yield name, value
            case _:
                continue


def _named(node: ast.AST) -> list[ast.expr]:
    """The expressions that name an environment variable in this node."""
    match node:
        case ast.Call(func=ast.Name(id="variable"), args=[name, *_]):
            return [name]
        case ast.Call(func=ast.Attribute(attr="get", value=where), args=[name, *_]) if _is_environment(where):
            return [name]
        case ast.Subscript(value=where, slice=name, ctx=ast.Load()) if _is_environment(where):
            return [name]
        case ast.keyword(arg="envvar", value=names):
            return names.elts if isinstance(names, ast.List) else [names]
        case _:
            return []


def _is_environment(node: ast.expr) -> bool:
    return ast.unparse(node) in {"os.environ", "environment"}


def _variables(name: ast.expr, constants: dict[str, str]) -> set[str]:
    match name:
        case ast.Constant(value=str(text)) if _NAME.fullmatch(text):
            return {text}
        case ast.Name(id=constant) if constant in constants:
            return {constants[constant]}
        case ast.Call(func=ast.Name(id="database_variable")):
            return set(DATABASE_URLS)
        case _:
            return set()


# -- the rest ------------------------------------------------------------------------------------------------------------------------------


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
