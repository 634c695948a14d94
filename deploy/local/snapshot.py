"""`python -m deploy.local.snapshot` (`make schema`): writes the schema that each service's migrations give, read from a real PostgreSQL.

The text is for people and for a test: the author of a migration sees in the diff what it does to a database. PostgreSQL 15 to 18 give the
same text. It is made from the catalogue, and from only those of PostgreSQL's own descriptions that did not change between the versions.
(Since 18, for example, NOT NULL is a constraint with a name.)
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import asyncpg

from deploy.local.errors import StackError
from deploy.local.fleet import ROOT
from deploy.local.stack import SERVICES, Stack, open_stack
from shared.persistence.database import Connection
from shared.persistence.migrate import migrate

_RELATIONS: Final = """
    SELECT c.oid, c.relname AS name, c.relkind::text AS kind, c.relpersistence = 'u' AS is_unlogged,
        c.reloptions AS options, t.reloptions AS toast_options
    FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind NOT IN ('i', 'I')
        AND c.relname <> 'alembic_version' ORDER BY c.relname COLLATE "C"
"""
_COLUMNS: Final = """
    SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS is_not_null,
        CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid, true) END AS default,
        CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid, true) END AS generated, a.attgenerated = 's' AS is_stored,
        nullif(a.attidentity::text, '') AS identity, nullif(a.attcompression::text, '') AS compression,
        CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END AS collation,
        CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::text END AS storage
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_CONSTRAINTS: Final = """
    SELECT format('CONSTRAINT %s %s', conname, pg_get_constraintdef(oid, true)) FROM pg_constraint
    WHERE conrelid = $1 AND contype <> 'n' ORDER BY conname COLLATE "C"
"""
_INDEXES: Final = """
    SELECT pg_get_indexdef(i.indexrelid, 0, true) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = $1 AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid) ORDER BY c.relname COLLATE "C"
"""
_TRIGGERS: Final = """
    SELECT pg_get_triggerdef(oid, true) FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal ORDER BY tgname COLLATE "C"
"""
_VIEW: Final = "SELECT pg_get_viewdef($1::oid, true)"
_FUNCTIONS: Final = """
    SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    ORDER BY proname COLLATE "C", pg_get_function_identity_arguments(oid) COLLATE "C"
"""
_OTHER_TYPES: Final = """
    SELECT typname FROM pg_type
    WHERE typnamespace = 'public'::regnamespace AND typtype <> 'c' AND NOT (typtype = 'b' AND typcategory = 'A') ORDER BY typname
"""
_PARTITIONS: Final = """
    SELECT 'PARTITION BY ' || pg_get_partkeydef(c.oid) FROM pg_class c WHERE c.oid = $1 AND c.relkind = 'p'
    UNION ALL SELECT 'PARTITION OF ' || i.inhparent::regclass || ' ' || pg_get_expr(c.relpartbound, c.oid)
    FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.oid = $1 AND c.relispartition
"""
_KINDS: Final = {"r": "TABLE", "p": "TABLE", "v": "VIEW", "c": "TYPE"}
_STORAGES: Final = {"p": "PLAIN", "e": "EXTERNAL", "x": "EXTENDED", "m": "MAIN"}
_COMPRESSIONS: Final = {"p": "pglz", "l": "lz4"}
_IDENTITIES: Final = {"a": "ALWAYS", "d": "BY DEFAULT"}


def path_of(service: str) -> Path:
    """The file with the snapshot of a service."""
    return ROOT / "services" / service / "migrations" / "schema.txt"


async def snapshot(url: str, service: str) -> str:
    """Describes the tables, types, views and functions of a database. Raises ValueError for a kind that this module cannot describe yet."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        relations = [await _relation(connection, row) for row in await connection.fetch(_RELATIONS)]
        functions = [row[0].rstrip() for row in await connection.fetch(_FUNCTIONS)]
        others = [row[0] for row in await connection.fetch(_OTHER_TYPES)]
    finally:
        await connection.close()
    if others:
        raise ValueError(f"{__file__} cannot describe types such as {others}: add them, or nobody sees them change")
    head = f"What the migrations of {service} give, read from PostgreSQL. Written by `make schema`, never by hand."
    return "\n\n".join((head, *relations, *functions)) + "\n"


async def _relation(connection: Connection, relation: asyncpg.Record) -> str:
    oid, kind = relation["oid"], relation["kind"]
    if kind not in _KINDS:
        raise ValueError(
            f"{__file__} cannot describe {relation['name']} of kind {kind!r}: add the kind, or nobody sees it change"
        )
    lines = [f"{'UNLOGGED ' * relation['is_unlogged']}{_KINDS[kind]} {relation['name']}"]
    lines += [_column(column) for column in await connection.fetch(_COLUMNS, oid)]
    for query in (_CONSTRAINTS, _INDEXES, _TRIGGERS):
        lines += [row[0] for row in await connection.fetch(query, oid)]
    lines += [row[0] for row in await connection.fetch(_PARTITIONS, oid)]
    lines += [f"WITH {option}" for option in relation["options"] or ()]
    lines += [f"WITH toast.{option}" for option in relation["toast_options"] or ()]
    if kind == "v":
        lines.append(f"AS {' '.join((await connection.fetchval(_VIEW, oid)).split())}")
    return "\n    ".join(lines)


def _column(column: asyncpg.Record) -> str:
    words = [column["name"], column["type"]]
    if column["collation"]:
        words.append(f"COLLATE {column['collation']}")
    if column["is_not_null"]:
        words.append("NOT NULL")
    if column["default"]:
        words.append(f"DEFAULT {column['default']}")
    if column["generated"]:
        words.append(f"GENERATED ALWAYS AS ({column['generated']}) {'STORED' if column['is_stored'] else 'VIRTUAL'}")
    if column["identity"]:
        words.append(f"GENERATED {_IDENTITIES[column['identity']]} AS IDENTITY")
    if column["storage"]:
        words.append(f"STORAGE {_STORAGES[column['storage']]}")
    if column["compression"]:
        words.append(f"COMPRESSION {_COMPRESSIONS[column['compression']]}")
    return " ".join(words)


async def migrated_snapshot(stack: Stack, service: str) -> str:
    """The snapshot of a new database on which all migrations of a service were run."""
    name = f"snapshot_{service}_{os.getpid()}"
    url = stack.create_database(name)
    try:
        await migrate(url, path_of(service).parent, post=True)
        return await snapshot(url, service)
    finally:
        stack.drop_database(name)


def main() -> int:
    """Write the snapshot of every service; returns the exit status."""
    try:
        with open_stack(say=_say) as stack:
            for service in SERVICES:
                path_of(service).write_text(asyncio.run(migrated_snapshot(stack, service)))
                _say(f"Wrote {path_of(service).relative_to(ROOT)}")
    except StackError as error:
        _say(str(error))
        return 1
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
