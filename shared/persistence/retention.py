"""What is kept for a time only goes page by page, so that nobody notices: short transactions, rows found by an index."""

from collections.abc import Sequence

import structlog

from shared import crash_points
from shared.persistence.database import AWAY_ERRORS, Connection, Database
from shared.records import dataclass

log = structlog.get_logger(__name__)

ROWS_MAX = 5_000
"""Rows of a page: tens of milliseconds, far below any timeout of ours."""


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """`statement` forgets what is older than `$1` days, about `$2` rows at a time; its command tag says how many there were. A row that
    must stay may not count: a page that is full of those would never end.

    The index on the time of a row is a B-tree. Pages that were emptied are written again, and the ranges of a BRIN index only ever grow: in
    time, a look that finds nothing reads the table (measured: half of 600 000 rows, where the B-tree reads three pages. It costs 0.8
    microseconds and 65 bytes of WAL a row)."""

    name: str
    days: int
    statement: str
    rows_max: int = ROWS_MAX


def retention_of_details(
    name: str, days: int, *, details: str, time: str, owners: str, key: str, at_rest: str, note: str
) -> RetentionRule:
    """Forget rows of the table `details`, by the column `time`, of those rows of `owners` with the same `key` that are `at_rest`, a
    condition that may name `$1`, the days. `note` is what is set in such a row to say so. All of them are constants of ours.

    All the old details of an owner go at once, so a page is a little more than its rows. Whoever moves an owner writes its row as well: one
    at work is skipped, one that has moved since the statement began is no longer at rest when its row is locked, and one that comes later
    waits, with details that this statement does not see. A detail that came late, of an owner at rest, stays until it is old itself.

    A subquery a row, arrays, and an age that no index knows: the plan is the same whatever is known of the tables (joined, it depended on
    that, and such a statement ran into its timeout; measured: now 50 to 130 ms a page of 10 000 rows)."""
    statement = f"""
        WITH old AS (
            SELECT {key} FROM {details}
            WHERE {time} < now() - make_interval(days => $1)
                AND (SELECT {at_rest} FROM {owners} WHERE {owners}.{key} = {details}.{key})
            ORDER BY {time} LIMIT $2
        ), ended AS (
            SELECT {key} FROM {owners} WHERE {key} = ANY(ARRAY(SELECT {key} FROM old)) AND {at_rest}
            ORDER BY {key} FOR UPDATE SKIP LOCKED
        ), noted AS (
            UPDATE {owners} SET {note} WHERE {key} = ANY(ARRAY(SELECT {key} FROM ended))
        )
        DELETE FROM {details} WHERE {key} = ANY(ARRAY(SELECT {key} FROM ended)) AND now() - {time} > make_interval(days => $1)"""  # noqa: S608
    return RetentionRule(name, days, statement)


class RetentionCleaner:
    """Forgets what `rules` say, one after the other. A rule that fails keeps no other from its turn, and gets its own again."""

    name = "retention_cleaner"
    interval_s = 60.0
    """A minute late in days is nothing, and a look that finds nothing is one small query."""
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, rules: Sequence[RetentionRule]) -> None:
        self._database = database
        self._rules = rules

    async def run_once(self) -> float:
        """All that is beyond its retention. Raises the error of the last rule that failed, when all have had their turn."""
        failure: Exception | None = None
        for rule in self._rules:
            try:
                rows = await _forget(self._database, rule)
            except AWAY_ERRORS as error:
                log.warning("forgetting_postponed", what=rule.name, error=type(error).__name__)
                failure = error
            else:
                if rows:
                    log.info("forgotten", what=rule.name, rows=rows, older_than_days=rule.days)
        if failure is not None:
            raise failure
        return self.interval_s


async def _forget(database: Database, forget: RetentionRule) -> int:
    """Pages until one is not full: on a busy day rows come faster than one page a minute. How many rows there were."""
    rows = 0
    async with database.connection() as connection:
        while True:
            crash_points.reach("retention.before_forget")
            page = await delete_page(connection, forget)
            crash_points.reach("retention.after_forget")
            rows += page
            if page < forget.rows_max:
                return rows


async def delete_page(connection: Connection, forget: RetentionRule) -> int:
    """One page; how many rows it had."""
    status: str = await connection.execute(forget.statement, forget.days, forget.rows_max)
    return int(status.rpartition(" ")[2])
