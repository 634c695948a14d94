"""The migrations of a service, as its folder names them, and whether a database has those that this build needs.

Each migration is a file of its own. A released migration is never changed, because databases have already run it. There are two kinds, and
the name of a file says which it is:

    0001_initial.py, 0002_pre_<what>.py     runs before the new build starts. The build before must still work on the schema it leaves.
    0003_post_<what>.py                     runs when no instance of an earlier build is left. This build must work before and after it.

For example, one release renames a column like this. The pre step adds the new column and keeps both columns equal. The build uses only the
new column. The post step drops the old column. tests/service/test_rolling_migration.py plays that through. The steps run in the order of
their numbers.

A new database gets all steps at once.

At its start a service checks whether the pre steps were applied. It never migrates by itself. This module is separate from `migrate`,
because Alembic and SQLAlchemy cost each process 28 MiB and a quarter of a second (measured).
"""

import re
from pathlib import Path

import asyncpg

from shared.persistence.database import Connection
from shared.records import dataclass

_NAME = re.compile(r"0001_initial|\d{4}_(pre|post)_\w+")


@dataclass(frozen=True, slots=True)
class Step:
    """One migration. `name` is the file's name without `.py`, `revision` the number at its beginning."""

    revision: str
    name: str
    is_post: bool


def steps(folder: Path) -> list[Step]:
    """The migrations in `folder`, oldest first. Raises ValueError for a file whose name says neither pre nor post step."""
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
    """The revision of the newest pre step. This build does not run without it."""
    return [step for step in steps(folder) if not step.is_post][-1].revision


def service_of(folder: Path) -> str | None:
    """The service whose migrations are in `folder`; None for a folder of a test."""
    return folder.parent.name if folder.name == "migrations" else None


BEING_SET_UP = ", being set up"
"""How the comment on the table `alembic_version` ends until the first migration is over. No service starts before that."""


async def another_service(connection: Connection, folder: Path) -> str | None:
    """A sentence if the database is that of another service; None if it is ours, or empty, or of a build that did not note it."""
    said = await connection.fetchval("SELECT obj_description(to_regclass('alembic_version'), 'pg_class')")
    own = service_of(folder)
    if own is None or said is None or (noted := said.removesuffix(BEING_SET_UP)) == note_of(own):
        return None
    return f"this is the database of {noted.removeprefix(note_of(''))}, not of {own}: name the right one"


def note_of(service: str) -> str:
    """The comment on the table `alembic_version` by which a database says whose it is."""
    return f"Remit: {service}"


_CURRENT = """SELECT CASE WHEN obj_description('alembic_version'::regclass, 'pg_class') LIKE '%' || $1 THEN NULL ELSE version_num END
    FROM alembic_version"""


async def pending(connection: Connection, folder: Path) -> str | None:
    """None if this build runs on the database's schema, else one sentence that says what to do.

    Post steps may be missing. A newer schema is fine: the pre steps of the next build leave a schema that this build runs on.
    """
    if (other := await another_service(connection, folder)) is not None:
        return other
    needed = needed_revision(folder)
    try:
        current = await connection.fetchval(_CURRENT, BEING_SET_UP)
    except asyncpg.UndefinedTableError:
        current = None
    if current is None or str(current) < needed:
        return f"the database is at revision {current or 'none'}, this build needs {needed}: run `remit migrate`"
    return None
