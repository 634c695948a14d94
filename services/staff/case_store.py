"""The lists of cases: what is open, what waits for somebody, what needs a second person, what is contradicted, what is settled."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from services.staff.domain import CaseStatus
from services.staff.store import CASE_IS_OPEN, KEPT_CASE_NAMES, SELECT_KEPT_CASE, KeptCase, kept_case
from shared.persistence.database import Connection
from shared.records import dataclass

CaseList = Literal["open", "mine", "second", "contradicted", "settled"]


@dataclass(frozen=True, slots=True)
class ListedCase:
    """A case in a list. It waits, or has been settled, since `since`."""

    kept: KeptCase
    since: datetime


@dataclass(frozen=True, slots=True)
class CaseKey:
    """Where a page of a list begins: after the case with this moment and id."""

    since: datetime
    payment_id: UUID


@dataclass(frozen=True, slots=True)
class SumOfCases:
    """Open cases in one currency. `unknown`: those of which no amount is known, which are not in the sum."""

    currency: str | None
    cases: int
    amount_minor: int
    unknown: int


_CONTRADICTED = "contradicted_at IS NOT NULL AND noted_at IS NULL"
_PROPOSED = "EXISTS (SELECT FROM proposals o WHERE o.payment_id = cases.payment_id AND o.state = 'open')"
_PROPOSED_BY_ANOTHER = (
    "EXISTS (SELECT FROM proposals o WHERE o.payment_id = cases.payment_id AND o.state = 'open'"
    " AND lower(o.proposed_by) <> lower($4))"
)
_FOR_A_PERSON = (
    f"status IN ('{CaseStatus.NEEDS_DECISION}', '{CaseStatus.REFUND_FAILED}') AND coalesce(lower(claimed_by), lower($4)) = lower($4)"
    f" AND NOT {_PROPOSED}"
)
_MINE = f"({_PROPOSED_BY_ANOTHER} OR ({CASE_IS_OPEN} AND lower(claimed_by) = lower($4)) OR ({_FOR_A_PERSON}))"
_IS_PROPOSED = "payment_id = ANY(ARRAY(SELECT payment_id FROM proposals WHERE state = 'open'))"
_OPEN_OR_PROPOSED = f"""payment_id = ANY(ARRAY(
    SELECT payment_id FROM cases WHERE {CASE_IS_OPEN} UNION SELECT payment_id FROM proposals WHERE state = 'open'))"""  # noqa: S608 - constants
"""By their indexes: with OR all cases would be read."""
_IS_SETTLED = f"NOT {CASE_IS_OPEN} AND status <> '{CaseStatus.UNKNOWN}'"
_AFTER = "($2::timestamptz IS NULL OR ({since}, payment_id) > ($2::timestamptz, $3::uuid)) ORDER BY {since}, payment_id LIMIT $1"
_AFTER_OPENED, _AFTER_CONTRADICTED = _AFTER.format(since="opened_at"), _AFTER.format(since="contradicted_at")
_FOR_SOMEBODY = "$4::text IS NOT NULL"
"""Gives the parameter its type also where a list is the same for everybody."""
_OPEN = f"""SELECT {KEPT_CASE_NAMES}, since FROM (
        (SELECT {KEPT_CASE_NAMES}, opened_at AS since FROM ({SELECT_KEPT_CASE} WHERE {CASE_IS_OPEN} AND {_AFTER_OPENED}) kept)
        UNION ALL (SELECT {KEPT_CASE_NAMES}, contradicted_at AS since
            FROM ({SELECT_KEPT_CASE} WHERE {_CONTRADICTED} AND NOT {CASE_IS_OPEN} AND {_AFTER_CONTRADICTED}) kept)) cases
    WHERE {_FOR_SOMEBODY} ORDER BY since, payment_id LIMIT $1"""  # noqa: S608 - constants
_WAITING = f"""SELECT {KEPT_CASE_NAMES}, opened_at AS since
    FROM ({SELECT_KEPT_CASE} WHERE {_OPEN_OR_PROPOSED} AND {_MINE} AND {_AFTER_OPENED}) kept"""  # noqa: S608 - constants
_SECOND = f"""SELECT {KEPT_CASE_NAMES}, opened_at AS since
    FROM ({SELECT_KEPT_CASE} WHERE {_IS_PROPOSED} AND {_FOR_SOMEBODY} AND {_AFTER_OPENED}) kept"""  # noqa: S608 - constants
_IN_CONTRADICTION = f"""SELECT {KEPT_CASE_NAMES}, contradicted_at AS since
    FROM ({SELECT_KEPT_CASE} WHERE {_CONTRADICTED} AND {_FOR_SOMEBODY} AND {_AFTER_CONTRADICTED}) kept"""  # noqa: S608 - constants
_SETTLED = f"""SELECT {KEPT_CASE_NAMES}, updated_at AS since
    FROM ({SELECT_KEPT_CASE} WHERE {_IS_SETTLED} AND {_FOR_SOMEBODY}
        AND ($2::timestamptz IS NULL OR (updated_at, payment_id) < ($2::timestamptz, $3::uuid))
        ORDER BY updated_at DESC, payment_id DESC LIMIT $1) kept"""  # noqa: S608 - constants
_PAGES: Final[Mapping[CaseList, str]] = {
    "open": _OPEN,
    "mine": _WAITING,
    "second": _SECOND,
    "contradicted": _IN_CONTRADICTION,
    "settled": _SETTLED,
}


async def cases_of(
    connection: Connection, show: CaseList, *, after: CaseKey | None, who: str, at_most: int
) -> list[ListedCase]:
    """A page of a list, the longest wait first; of the settled ones the latest first. `who` looks."""
    rows = await connection.fetch(_PAGES[show], at_most, after and after.since, after and after.payment_id, who)
    return [ListedCase(kept_case(row), row["since"]) for row in rows]


_PROPOSED_SINCE = (
    "EXISTS (SELECT FROM proposals o WHERE o.payment_id = cases.payment_id AND o.state = 'open' AND o.proposed_at > $2)"
)
_MINE_CAME = _MINE.replace("$4", "$3")
_UP_TO = "came WHERE $3::text IS NOT NULL LIMIT $1) counted"
_COUNT_CAME: Final[Mapping[CaseList, str]] = {
    "open": f"""SELECT count(*) FROM (SELECT FROM (SELECT FROM cases WHERE {CASE_IS_OPEN} AND opened_at > $2
        UNION ALL SELECT FROM cases WHERE {_CONTRADICTED} AND NOT {CASE_IS_OPEN} AND contradicted_at > $2) {_UP_TO}""",  # noqa: S608
    "mine": f"""SELECT count(*) FROM (SELECT FROM (SELECT FROM cases
        WHERE {_OPEN_OR_PROPOSED} AND {_MINE_CAME} AND (updated_at > $2 OR claimed_at > $2 OR {_PROPOSED_SINCE})) {_UP_TO}""",  # noqa: S608
    "second": f"SELECT count(*) FROM (SELECT FROM (SELECT FROM cases WHERE {_IS_PROPOSED} AND {_PROPOSED_SINCE}) {_UP_TO}",  # noqa: S608
    "contradicted": f"SELECT count(*) FROM (SELECT FROM (SELECT FROM cases WHERE {_CONTRADICTED} AND contradicted_at > $2) {_UP_TO}",  # noqa: S608
    "settled": f"SELECT count(*) FROM (SELECT FROM (SELECT FROM cases WHERE {_IS_SETTLED} AND updated_at > $2) {_UP_TO}",  # noqa: S608
}


async def came_to(connection: Connection, show: CaseList, *, since: datetime, who: str, at_most: int) -> int:
    """How many cases came to a list after this moment, counted up to `at_most`. `who` looks.

    Of `mine` and `settled` those count as well that were there and have changed: nothing says since when a case has its status.
    """
    return int(await connection.fetchval(_COUNT_CAME[show], at_most, since, who))


async def latest_change(connection: Connection) -> datetime | None:
    """When a case last changed or was claimed, or something was last proposed about one; None if there are no cases."""
    at: datetime | None = await connection.fetchval(_LATEST_CHANGE)
    return at


_LATEST_CHANGE = f"""SELECT greatest(max(updated_at), max(claimed_at), (SELECT max(updated_at) FROM cases WHERE {_IS_SETTLED}),
        (SELECT max(proposed_at) FROM proposals WHERE state = 'open')) FROM cases WHERE {CASE_IS_OPEN}"""  # noqa: S608 - constants
_MINE_OF = _MINE.replace("$4", "$1")
_COUNTS = f"""
    SELECT count(*) FILTER (WHERE {CASE_IS_OPEN}) AS open_ones,
           count(*) FILTER (WHERE {_MINE_OF}) AS mine,
           (SELECT count(*) FROM proposals WHERE state = 'open') AS second,
           (SELECT count(*) FROM cases WHERE {_CONTRADICTED}) AS contradicted,
           (SELECT count(*) FROM cases WHERE {_CONTRADICTED} AND NOT {CASE_IS_OPEN}) AS contradicted_alone,
           (SELECT count(*) FROM cases WHERE {_IS_SETTLED}) AS settled
    FROM cases WHERE {_OPEN_OR_PROPOSED}"""  # noqa: S608 - constants


async def counts_of_cases(connection: Connection, who: str) -> dict[CaseList, int]:
    """How many cases each list has, for whoever looks."""
    (row,) = await connection.fetch(_COUNTS, who)
    return {
        "open": row["open_ones"] + row["contradicted_alone"],
        "mine": row["mine"],
        "second": row["second"],
        "contradicted": row["contradicted"],
        "settled": row["settled"],
    }


async def open_sums(connection: Connection) -> list[SumOfCases]:
    """The money of all open cases, a sum a currency."""
    rows = await connection.fetch(
        f"""SELECT currency, count(*) AS cases, coalesce(sum(amount_minor), 0)::bigint AS amount_minor,
                   count(*) FILTER (WHERE amount_minor IS NULL OR currency IS NULL) AS unknown
            FROM cases WHERE {CASE_IS_OPEN} GROUP BY currency ORDER BY 3 DESC, 1"""  # noqa: S608 - constants
    )
    return [SumOfCases(**row) for row in rows]


async def count_open(connection: Connection) -> tuple[int, bool]:
    """How many cases are open, and whether one of them waits for a person."""
    (row,) = await connection.fetch(
        f"""SELECT count(*) AS number, coalesce(bool_or(status IN ('needs_decision', 'refund_failed')), false) AS waits
            FROM cases WHERE {CASE_IS_OPEN}"""  # noqa: S608 - constants
    )
    return row["number"], row["waits"]
