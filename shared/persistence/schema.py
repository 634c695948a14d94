"""Whether a database has the schema that this build expects. A service asks at its start; it never migrates by itself.

Apart from `migrate`, because Alembic and SQLAlchemy cost each process 28 MiB and a quarter of a second (measured).
"""

from pathlib import Path

import asyncpg

from shared.persistence.database import Connection


def newest_revision(folder: Path) -> str:
    """Revision files are named `<revision>_<what>.py`, numbered in order (a test compares this with Alembic's head)."""
    return max(path.name.partition("_")[0] for path in folder.glob("[0-9]*_*.py"))


async def pending(connection: Connection, folder: Path) -> str | None:
    """None if the schema is what this build expects, else one sentence on what to do. A newer schema than ours is fine: migrations
    are made so that the previous build runs on them."""
    newest = newest_revision(folder)
    try:
        current = await connection.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        current = None
    if current is None or str(current) < newest:
        return f"the database is at revision {current or 'none'}, this build needs {newest}: run `remit migrate`"
    return None
