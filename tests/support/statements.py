"""Finds every SQL statement in a source file by reading it, and checks whether it fits the tables of a database.

So a statement is checked even if no test runs it.
"""

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import asyncpg

from shared.persistence.database import Connection
from shared.persistence.retention import RetentionRule
from shared.persistence.seals import Book
from tests.support.environment import ROOT

MADE_OF_PARAMETERS = {
    "shared/persistence/writes.py": {"_joined"},  # joins statements that are checked elsewhere
    # Rules and books are found by their values.
    "shared/persistence/retention.py": {"retention_of_details"},
    "shared/persistence/seals.py": {"digest", "seal", "count_before", "sealed_by", "seal_again"},
    # What these build stands in tables of statements.
    "services/staff/case_store.py": {"_page_of"},
    "services/staff/journal_store.py": {"_reading", "_names"},
}
"""The functions that may build a statement from their arguments."""

_BEGINS = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|MERGE INTO|TRUNCATE|LOCK TABLE|COPY)\s")
_LOOKS_LIKE_SQL = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|WHERE|FOR UPDATE|RETURNING|ON CONFLICT|ORDER BY)\b"
)


SOME_SERVICES_ONLY = {
    "shared/persistence/event_store.py": ("invoice",),
    "shared/persistence/seals.py": ("invoice", "payment_gateway"),
}
"""Modules of `shared` whose tables only some services have. All other modules are checked with the database of every service."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement; `where` is its file and line."""

    where: str
    text: str


OF_SQLITE = {"services/payment_gateway/reconcile/books.py"}
"""Files whose statements are for SQLite. Their tables stand beside them."""
KIT = ROOT / "shared" / "kit"
"""What senders take with them. It knows no database."""


def statements_of(service: str) -> list[Statement]:
    """All statements of a service, those that it shares with others included."""
    files = [*(ROOT / "shared").rglob("*.py"), *(ROOT / "services" / service).rglob("*.py")]
    return [
        statement
        for path in sorted(files)
        if path.parent.name != "migrations"
        and KIT not in path.parents
        and path.relative_to(ROOT).as_posix() not in OF_SQLITE
        and service in SOME_SERVICES_ONLY.get(path.relative_to(ROOT).as_posix(), (service,))
        for statement in statements(path)
    ]


def statements(path: Path) -> Iterator[Statement]:
    """Yields all statements. Raises AssertionError for a text that looks like SQL and depends on the call: it could not be checked."""
    name = path.relative_to(ROOT).as_posix()
    known = vars(import_module(name.removesuffix(".py").replace("/", ".")))
    for node in _texts(ast.parse(path.read_text()), skipped=MADE_OF_PARAMETERS.get(name, frozenset())):
        where = f"{name}:{node.lineno}"
        text = _value(node, known)
        assert text is not None or not _looks_like_sql(node, known), (
            f"{where}: a statement must not depend on the call. Make it of constants of the module, one constant a variant, so that "
            "tests/service/test_migrations.py can check it against the tables"
        )
        if text is not None and _BEGINS.match(text):
            yield Statement(where, text)
    for variable, value in known.items():
        for what, text in _made(variable, value):
            yield Statement(f"{name}: {what}", text)


def _made(variable: str, value: object) -> Iterator[tuple[str, str]]:
    """The statements that a value of a module holds, each with its place."""
    match value:
        case RetentionRule():
            yield variable, value.statement
        case tuple():
            books = (one for one in value if isinstance(one, Book))
            yield from ((f"{variable}, {book.table}", text) for book in books for text in book.statements)
        case dict():
            texts = ((key, text) for key, text in value.items() if isinstance(text, str) and _BEGINS.match(text))
            yield from ((f"{variable}[{key}]", text) for key, text in texts)
        case _:
            pass


def _texts(node: ast.AST, *, skipped: Collection[str]) -> Iterator[ast.expr]:
    """Strings and whole f-strings, without docstrings."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) and child.name in skipped:
            continue
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.JoinedStr) or (isinstance(child, ast.Constant) and isinstance(child.value, str)):
            yield child
        else:
            yield from _texts(child, skipped=skipped)


def _value(node: ast.expr, known: dict[str, Any]) -> str | None:
    """The text of the expression, or None if the module alone does not tell."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    try:
        return str(eval(compile(ast.Expression(node), "statement", "eval"), known))  # noqa: S307 - our own source
    except (NameError, AttributeError, LookupError, TypeError, ValueError):  # a part of it is known only at the call
        return None


def _looks_like_sql(node: ast.expr, known: dict[str, Any]) -> bool:
    parts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    parts += [known.get(part.id) for part in ast.walk(node) if isinstance(part, ast.Name)]
    return any(isinstance(part, str) and _LOOKS_LIKE_SQL.search(part) for part in parts)


# -- checks against a database -----------------------------------------------------------------------------------------------------------

_TABLES = """
    SELECT c.relname AS table, a.attname AS name, format_type(a.atttypid, NULL) AS type,
        a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS is_required
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'c') AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY c.relname, a.attnum"""
_INSERT = re.compile(
    r"INSERT INTO (?P<table>\w+)(?: AS \w+)?(?: \((?P<columns>[^()]*)\)"
    r"(?:\s+SELECT (?:\w+\.)?\*[^()]* FROM unnest\((?P<rows>[^()]*)\))?)?"
)
_ROW_TYPE = re.compile(r"\$\d+::(\w+)\[\]")
_EVERY_COLUMN = re.compile(r"RETURNING \*|SELECT (?:\w+\.)?\*(?!.*?FROM\s+unnest\()", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    is_required: bool = False
    """An INSERT must give it a value."""


Tables = dict[str, list[Column]]
"""The columns of every table and composite type, in order."""


async def tables_of(connection: Connection) -> Tables:
    tables: Tables = {}
    for row in await connection.fetch(_TABLES):
        tables.setdefault(row["table"], []).append(Column(row["name"], row["type"], row["is_required"]))
    return tables


async def misfits(connection: Connection, tables: Tables, text: str) -> list[str]:
    """The reasons why a statement does not fit these tables; empty if it fits."""
    try:
        async with connection.transaction():  # so that a refusal ends no transaction of the caller
            await connection.prepare(text)
    except asyncpg.PostgresError as error:
        return [f"PostgreSQL refuses it: {error}"]
    found = []
    if _EVERY_COLUMN.search(text):
        found.append("it reads `*`: name the columns, or those of the next build disturb this one")
    for insert in _INSERT.finditer(text):
        found += await _insert_misfits(connection, tables, insert)
    return found


async def _insert_misfits(connection: Connection, tables: Tables, insert: re.Match[str]) -> list[str]:
    table = insert["table"]
    if insert["columns"] is None:
        return [f"it does not name the columns of {table}"]
    names = [name.strip() for name in insert["columns"].split(",")]
    missing = [column.name for column in tables[table] if column.is_required and column.name not in names]
    found = [f"it gives {table} no {', '.join(missing)}"] if missing else []
    if insert["rows"] is not None:
        types = {column.name: column.type for column in tables[table]}
        given = await _given(connection, tables, insert["rows"])
        taken = [(name, types[name]) for name in names[: len(given)]]
        found += [
            f"the rows give {name or 'a column'} ({given_type}) where {table} takes {column} ({type_})"
            for (name, given_type), (column, type_) in zip(given, taken, strict=True)
            if (name or column, given_type) != (column, type_)
        ]
    return found


async def _given(connection: Connection, tables: Tables, rows: str) -> list[tuple[str | None, str]]:
    """Name and type of each column that `unnest` gives: the attributes of a composite type, or the arrays, which have no names."""
    types = _ROW_TYPE.findall(rows)
    if len(types) == 1 and types[0] in tables:
        return [(column.name, column.type) for column in tables[types[0]]]
    return [(None, await connection.fetchval("SELECT to_regtype($1)::text", type_)) for type_ in types]
