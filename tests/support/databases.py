"""A service's tables, looked at from outside."""

from typing import Any

import asyncpg
import orjson


async def _connect(url: str) -> "asyncpg.Connection[asyncpg.Record]":
    connection = await asyncpg.connect(url, timeout=10)
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=lambda v: orjson.dumps(v).decode(), decoder=orjson.loads
    )
    return connection


async def truncate(url: str) -> None:
    """Empty every table except the migrations' own."""
    connection = await _connect(url)
    try:
        tables = await connection.fetch(
            "SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        )
        if tables:
            await connection.execute(f"TRUNCATE {', '.join(t['name'] for t in tables)}")
    finally:
        await connection.close()


async def rows(url: str, query: str, *arguments: Any) -> list[dict[str, Any]]:
    """The rows of a query, as dictionaries."""
    connection = await _connect(url)
    try:
        return [dict(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()


async def execute(url: str, statement: str, *arguments: Any) -> None:
    """One statement."""
    connection = await _connect(url)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()
