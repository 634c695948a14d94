"""Schema migrations: Alembic revisions in plain SQL, one folder per service, run under an advisory lock.

Instances that start at once, or an operator's `remit migrate` beside them, wait for each other; whoever comes second finds nothing to do.
"""

import asyncio
from pathlib import Path

from alembic import op
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

LOCK_KEY = 0x52454D4954  # "REMIT"
MIGRATION_TIMEOUT_S = 300


def _scripts(folder: Path) -> ScriptDirectory:
    return ScriptDirectory(str(folder), version_locations=[str(folder)])


def _sqlalchemy_url(url: str) -> str:
    scheme, rest = url.split("://", 1)
    if scheme not in {"postgresql", "postgres"}:
        raise ValueError("a database URL must start with postgresql://")
    return f"postgresql+asyncpg://{rest}"


async def migrate(url: str, folder: Path) -> list[str]:
    """Bring the database to the newest revision in `folder`; the revisions applied now, oldest first."""
    async with asyncio.timeout(MIGRATION_TIMEOUT_S):
        engine = create_async_engine(_sqlalchemy_url(url), poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK_KEY})
                await connection.commit()
                try:
                    return await connection.run_sync(_upgrade, _scripts(folder))
                finally:
                    await connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK_KEY})
                    await connection.commit()
        finally:
            await engine.dispose()


def _upgrade(connection: SyncConnection, scripts: ScriptDirectory) -> list[str]:
    applied: list[str] = []

    def steps(revision: object, _context: MigrationContext) -> list[object]:
        todo = scripts._upgrade_revs("head", revision)  # type: ignore[arg-type] # noqa: SLF001 - as Alembic's own generated env.py
        applied.extend(step.revision.revision for step in todo)
        return list(todo)

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection, transaction_per_migration=True)
        with environment.begin_transaction():
            environment.run_migrations()
    connection.commit()
    return applied


def run_sql(script: str) -> None:
    """Inside a revision: run statements that end with a semicolon at the end of a line, one by one (asyncpg prepares each)."""
    for statement in script.split(";\n"):
        if statement.strip():
            op.execute(text(statement.replace(":", "\\:")))
