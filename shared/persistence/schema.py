"""The migrations of a service, as its folder names them, and whether a database has those that this build needs.

Each migration is a file of its own and is never changed once released: what a database went through is history. There are two kinds, and
the name of a file says which it is:

    0001_initial.py, 0002_pre_<what>.py     runs before the new build starts. The build before must run on what it leaves.
    0003_post_<what>.py                     runs when no instance of an earlier build is left. This build must run without it, and on it.

So a column is renamed in one release: the pre step adds the new one and keeps both alike, the build uses the new one only, and the post
step drops the old one (tests/service/test_rolling_migration.py plays that through). Numbers are in the order of the steps.

A service asks at its start whether the pre steps were applied; it never migrates by itself. This module is apart from `migrate`, because
Alembic and SQLAlchemy cost each process 28 MiB and a quarter of a second (measured).
"""

import re
from pathlib import Path

import asyncpg

from shared.persistence.database import Connection
from shared.records import dataclass

_NAME = re.compile(r"0001_initial|\d{4}_(pre|post)_\w+")


@dataclass(frozen=True, slots=True)
class Step:
    """One migration. `name` is its file's, without the suffix."""

    revision: str
    name: str
    is_post: bool


def steps(folder: Path) -> list[Step]:
    """The migrations in `folder`, oldest first. Raises ValueError for a file that is named neither as a pre nor as a post step."""
    found = []
    for path in sorted(folder.glob("*.py")):
        named = _NAME.fullmatch(path.stem)
        if named is None:
            raise ValueError(
                f"{path}: name a migration 0002_pre_<what>.py if it runs before the new build starts, or 0002_post_<what>.py if it "
                "runs when no instance of an earlier build is left"
            )
        found.append(Step(path.stem.partition("_")[0], path.stem, named[1] == "post"))
    return found


def needed_revision(folder: Path) -> str:
    """The newest pre step: without it this build does not run."""
    return [step for step in steps(folder) if not step.is_post][-1].revision


async def pending(connection: Connection, folder: Path) -> str | None:
    """None if the schema is one that this build runs on, else one sentence on what to do. Post steps may be missing. A newer schema than
    ours is fine: the pre steps of the next build are made so that this one runs on them."""
    needed = needed_revision(folder)
    try:
        current = await connection.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        current = None
    if current is None or str(current) < needed:
        return f"the database is at revision {current or 'none'}, this build needs {needed}: run `remit migrate`"
    return None
