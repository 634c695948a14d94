"""Deletes rows that are kept for a limited time. It deletes page by page: transactions stay short, and an index finds the rows."""

from collections.abc import Sequence

import structlog

from shared import crash_points
from shared.persistence.database import AWAY_ERRORS, Connection, Database
from shared.records import dataclass

log = structlog.get_logger(__name__)

ROWS_MAX = 5_000
"""Rows of one page. Deleting a page takes tens of milliseconds, far below any timeout of ours."""
PAGES_MAX = 200
"""Pages of one rule in one run: a million rows, half a minute. So a run ends, and a rule with a backlog keeps no other one waiting."""


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Which rows are deleted when: `statement` deletes about `$2` rows that are older than `$1` days.

    Its command tag says how many rows there were. The statement must not pick rows that have to stay: a page full of them would come
    again and again.

    The index on the time of a row is a B-tree, not BRIN. PostgreSQL fills emptied pages again, and the ranges of a BRIN index only grow.
    With time, a run that finds nothing would read the table (measured: half of 600 000 rows, where the B-tree reads three pages). The
    B-tree costs 0.8 microseconds and 65 bytes of WAL a row.
    """

    name: str
    days: int
    statement: str
    rows_max: int = ROWS_MAX


def retention_of_details(
    name: str, days: int, *, details: str, time: str, owners: str, key: str, at_rest: str, note: str
) -> RetentionRule:
    """A rule that deletes old rows of the table `details` whose row in the table `owners` has ended. Every argument is SQL of ours.

    `key` is the column that both tables share, and `time` the column of `details` that counts. `at_rest` is a condition on `owners` and
    may name `$1`, the days. `note` is the assignment that marks the owner as having lost its details.

    All old details of an owner are deleted at once, so a page can be larger than `rows_max`. A detail that came late stays until it is old
    itself, even if its owner is at rest.

    The rule and a service at work do not disturb each other, because every change of an owner also writes the owner's row. If that row is
    locked, the rule skips it. If it changed since the statement began, `at_rest` is tested again on the locked row and no longer holds. A
    change that comes later waits for the lock, and the statement does not see its details.

    The statement is written so that its plan never depends on table statistics: it has a subquery a row instead of a join, arrays instead
    of sets, and in its last condition an age that no index can answer. As a join, its plan depended on the statistics, and a bad plan ran
    into the statement timeout. Measured as it is: 50 to 130 ms for a page of 10 000 rows.
    """
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
    """Deletes what `rules` say, one rule after the other. A rule that fails does not stop the others, and runs again next time."""

    name = "retention_cleaner"
    interval_s = 60.0
    """Retention is counted in days, so a minute late does not matter. A run that finds nothing is one small query a rule."""
    retry_on = AWAY_ERRORS

    def __init__(self, database: Database, rules: Sequence[RetentionRule]) -> None:
        self._database = database
        self._rules = rules

    async def run_once(self) -> float:
        """Delete all rows beyond their retention. If rules failed, raises the last one's error after all rules have run."""
        failure: Exception | None = None
        has_more = False
        for rule in self._rules:
            try:
                rows, is_done = await _delete_pages(self._database, rule)
            except AWAY_ERRORS as error:
                log.warning("forgetting_postponed", what=rule.name, error=type(error).__name__)
                failure = error
            else:
                has_more |= not is_done
                if rows:
                    log.info("forgotten", what=rule.name, rows=rows, older_than_days=rule.days)
        if failure is not None:
            raise failure
        return 0.0 if has_more else self.interval_s


async def _delete_pages(database: Database, rule: RetentionRule) -> tuple[int, bool]:
    """Delete pages until one is not full, since on a busy day rows come faster than one page a minute, or until `PAGES_MAX`.

    Returns the number of rows, and whether the rule is done for now.
    """
    rows = 0
    async with database.connection() as connection:
        for _ in range(PAGES_MAX):
            crash_points.reach("retention.before_forget")
            page = await delete_page(connection, rule)
            crash_points.reach("retention.after_forget")
            rows += page
            if page < rule.rows_max:
                return rows, True
    return rows, False


async def delete_page(connection: Connection, rule: RetentionRule) -> int:
    """Delete one page, and return how many rows it had."""
    status: str = await connection.execute(rule.statement, rule.days, rule.rows_max)
    return int(status.rpartition(" ")[2])
