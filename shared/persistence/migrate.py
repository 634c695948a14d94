"""Applies schema migrations: Alembic revisions in plain SQL, one folder per service, under an advisory lock.

Several `remit migrate` that run at once wait for each other. The first one applies the steps, and the others find nothing to do.
`shared.persistence.schema` says what pre and post steps are, and when each may run.
"""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
from alembic import op
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from asyncpg.exceptions import LockNotAvailableError
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from shared.persistence.schema import BEING_SET_UP, Step, another_service, note_of, service_of, steps
from shared.persistence.seals import CONTINUE_NUMBERING
from shared.records import dataclass
from shared.urls import check_database_url, database_arguments

LOCK_KEY = 0x52454D4954  # "REMIT"
MIGRATION_TIMEOUT_S = 3_600
"""Far longer than any step needs: nobody waits for an index that is being made, and on a large table that takes minutes."""
CONNECT_TIMEOUT_S = 10.0
LOCK_TIMEOUT_S = 3
"""A change of a table waits no longer for its lock, because whatever comes after it waits as well. Then it is tried again."""
AGAIN_IN_S = 1.0
_LOCK = f"SELECT pg_try_advisory_lock({LOCK_KEY})"
_UNLOCK = f"SELECT pg_advisory_unlock({LOCK_KEY})"


class PostStepFirstError(Exception):
    """A pre step to apply comes after a post step that was not applied yet. Nothing was changed."""


_BEGIN = f"""
DO $$
BEGIN
    IF to_regclass('alembic_version') IS NULL THEN
        CREATE TABLE alembic_version (version_num varchar(32) CONSTRAINT alembic_version_pkc PRIMARY KEY);
        COMMENT ON TABLE alembic_version IS '%s{BEING_SET_UP}';
    END IF;
END $$"""
"""Makes the table of Alembic, as Alembic does, with a note of whose it is, and that its first migration is not over."""
_NOTED = "SELECT obj_description('alembic_version'::regclass, 'pg_class')"


class AnotherServiceError(Exception):
    """The database is that of another service. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """The steps that were applied just now, oldest first, and the post steps that wait for `remit migrate --post`."""

    applied: Sequence[Step]
    waiting: Sequence[Step]


def _scripts(folder: Path) -> ScriptDirectory:
    return ScriptDirectory(str(folder), version_locations=[str(folder)])


async def migrate(url: str, folder: Path, *, post: bool = False) -> Migrated:
    """Apply the steps in `folder` that the database does not have: the pre steps, and with `post` also the post steps.

    A new database gets all of them: no instance of an earlier build can be at work there.

    Raises AnotherServiceError; PostStepFirstError; TimeoutError after `MIGRATION_TIMEOUT_S` seconds; UrlError for a URL that cannot be
    used; and what SQLAlchemy raises.
    """
    async with asyncio.timeout(MIGRATION_TIMEOUT_S):
        arguments = database_arguments(check_database_url(url), name="remit migrate", timeout_s=CONNECT_TIMEOUT_S)
        # The driver reads the URL, as for a service: SQLAlchemy reads it in its own way, and refuses `sslmode`.
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(**arguments), poolclass=NullPool
        )
        try:
            async with engine.connect() as connection:
                await _lock(connection)
                try:
                    await _refuse_another_service(connection, folder)
                    is_new = await _is_new(connection, folder)
                    migrated = await _until_locked(connection, folder, post=post or is_new)
                    await _note_service(connection, folder)
                    await connection.execute(text(CONTINUE_NUMBERING.replace(":", "\\:")))
                    await connection.commit()
                    return migrated
                finally:
                    await connection.execute(text(_UNLOCK))
                    await connection.commit()
        finally:
            await engine.dispose()


async def _lock(connection: AsyncConnection) -> None:
    """Wait for our turn. A statement that waits would hold a snapshot, for which the index of the other one would wait in turn."""
    while not await connection.scalar(text(_LOCK)):
        await connection.commit()
        await asyncio.sleep(AGAIN_IN_S)
    await connection.commit()


async def _is_new(connection: AsyncConnection, folder: Path) -> bool:
    """Whether the database was empty, or the first `remit migrate` was interrupted there. That is noted before the first step."""
    await connection.execute(text(_BEGIN % note_of(service_of(folder) or "")))
    noted = await connection.scalar(text(_NOTED))
    await connection.commit()
    return noted is not None and noted.endswith(BEING_SET_UP)


async def _until_locked(connection: AsyncConnection, folder: Path, *, post: bool) -> Migrated:
    """Apply the steps. One that does not get its lock soon is tried again; those before it are done."""
    planned: list[Migrated] = []
    while True:
        try:
            await connection.run_sync(_upgrade, folder, planned, post=post)
        except DBAPIError as error:
            await connection.rollback()
            if getattr(error.orig, "sqlstate", None) != LockNotAvailableError.sqlstate:
                raise
            await asyncio.sleep(AGAIN_IN_S)
        else:
            return planned[0]  # of the first try: the later ones had less to do


async def _refuse_another_service(connection: AsyncConnection, folder: Path) -> None:
    found: Any = (await connection.get_raw_connection()).driver_connection
    if (other := await another_service(found, folder)) is not None:
        raise AnotherServiceError(other)


async def _note_service(connection: AsyncConnection, folder: Path) -> None:
    """Have the database say whose it is, once."""
    own = service_of(folder)
    noted = await connection.scalar(text(_NOTED))
    if noted is None or noted.endswith(BEING_SET_UP):
        note = "NULL" if own is None else f"'{note_of(own)}'"
        await connection.execute(text(f"COMMENT ON TABLE alembic_version IS {note}"))
        await connection.commit()


def _upgrade(connection: SyncConnection, folder: Path, planned: list[Migrated], *, post: bool) -> None:
    """Apply the steps, and add them to `planned` before."""
    scripts = _scripts(folder)

    def plan(heads: tuple[str, ...], _context: MigrationContext) -> list[object]:
        current = max(heads, default=None)
        new = [step for step in steps(folder) if current is None or step.revision > current]
        todo = new if post else _up_to_needed(new)
        planned.append(Migrated(todo, new[len(todo) :]))
        if not todo:
            return []
        return list(scripts._upgrade_revs(todo[-1].revision, heads))  # type: ignore[arg-type] # noqa: SLF001 - as Alembic's own env.py

    with EnvironmentContext(Config(), scripts, fn=plan) as environment:
        environment.configure(connection=connection, transaction_per_migration=True)
        with environment.begin_transaction():
            environment.run_migrations()
    connection.commit()


def _up_to_needed(new: Sequence[Step]) -> Sequence[Step]:
    """The steps up to the newest pre step, in the order of their numbers. Raises PostStepFirstError if a post step is among them."""
    needed = new[: max((number for number, step in enumerate(new, start=1) if not step.is_post), default=0)]
    first_post = next((step for step in needed if step.is_post), None)
    if first_post is not None:
        raise PostStepFirstError(
            f"{needed[-1].name} comes after {first_post.name}: stop all instances of earlier builds, then run `remit migrate --post`"
        )
    return needed


_STATEMENT = re.compile(r"(?:\$\$.*?\$\$|.)+?(?:;\n|\Z)", re.DOTALL)


def run_sql(script: str) -> None:
    """Inside a revision: run the statements of `script` one by one, since asyncpg prepares each.

    A statement ends with a semicolon at the end of a line. The body of a function stands between `$$` and `$$`.
    """
    _run(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
    for statement in _statements(script):
        _run(statement)


def make_indexes(script: str) -> None:
    """Inside a revision: make the indexes of `script`, outside of a transaction, while services go on writing to their tables.

    Each waits for the transactions that are open. What an earlier try has left of it is dropped first.
    """
    with op.get_context().autocommit_block():
        for statement in _statements(script):
            name = statement.partition("CREATE INDEX ")[2].split()[0]
            _run(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            _run(statement.replace("CREATE INDEX ", "CREATE INDEX CONCURRENTLY ", 1))


def _statements(script: str) -> Sequence[str]:
    return [statement for statement in _STATEMENT.findall(script) if statement.strip()]


def _run(statement: str) -> None:
    op.execute(text(statement.replace(":", "\\:")))
