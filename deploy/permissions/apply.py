"""Runs the SQL of `deploy.permissions.databases`."""

import asyncpg

from shared.urls import database_arguments

TIMEOUT_S = 30.0
"""Changing the owner of a table waits for statements at work, which take 10 s at most."""


async def execute(url: str, script: str) -> None:
    """Run a script of SQL statements. Raises what asyncpg raises, OSError and TimeoutError."""
    connection = await asyncpg.connect(**database_arguments(url, name="remit permissions", timeout_s=TIMEOUT_S))
    try:
        await connection.execute(script, timeout=TIMEOUT_S)
    finally:
        await connection.close()
