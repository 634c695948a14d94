"""Plans of statements that depend on nothing which earlier tests, or autovacuum, left to the planner."""

from typing import Any

_OF_TABLES = "(SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
FORGET_STATISTICS = f"""
DELETE FROM pg_statistic WHERE starelid IN {_OF_TABLES};
UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relkind = 'r' AND oid IN {_OF_TABLES};
"""


async def forget_statistics(connection: Any) -> None:
    """Plan as for tables of which nothing is known yet. Takes a connection of a superuser; what it undoes comes back with a rollback."""
    await connection.execute(FORGET_STATISTICS)
