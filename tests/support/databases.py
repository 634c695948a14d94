"""A service's tables, read from outside."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson

EMPTY_EVERY_TABLE = """
DO $$
DECLARE
    name text;
    is_filled boolean;
    filled text[] := '{}';
BEGIN
    FOR name IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', name) INTO is_filled;
        IF is_filled THEN
            filled := filled || name;
        END IF;
    END LOOP;
    IF filled <> '{}' THEN
        EXECUTE 'TRUNCATE ' || array_to_string(filled, ', ');
    END IF;
END $$
"""
"""TRUNCATE makes new files for each table and its indexes, and syncs them. So it is used only for tables with rows."""


@asynccontextmanager
async def _connected(url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=lambda v: orjson.dumps(v).decode(), decoder=orjson.loads
        )
        yield connection
    finally:
        await connection.close()


async def truncate(url: str) -> None:
    """Empty every table except the migrations' own."""
    async with _connected(url) as connection:
        await connection.execute(EMPTY_EVERY_TABLE)


async def rows(url: str, query: str, *arguments: Any) -> list[dict[str, Any]]:
    """The rows of a query, as dictionaries. It must select a column: asyncpg 0.32 writes beyond an empty record when it frees one."""
    async with _connected(url) as connection:
        return [dict(row) for row in await connection.fetch(query, *arguments)]


async def execute(url: str, statement: str, *arguments: Any) -> None:
    """Run one statement."""
    async with _connected(url) as connection:
        await connection.execute(statement, *arguments)
