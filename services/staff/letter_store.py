"""The SQL by which the desk and runs look at dead letters: groups, pages by key, what a run would take."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.staff.charges import CHARGING
from services.staff.dead_letters import DeadLetterStatus
from services.staff.runs import Candidate
from services.staff.verdict import FailedSeen
from shared.messaging.topology import WORK_QUEUE_NAMES
from shared.persistence.database import Connection
from shared.persistence.database import Record as Row
from shared.records import dataclass, replace

WORDS_LETTERS_MAX = 10_000
"""Words are looked for in the newest dead letters only: no index knows words, and reading all would become a load."""
HOURS = 24


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters are meant: those that fulfil all conditions. `since` and `until` are compared with `last_seen`."""

    status: DeadLetterStatus | None = DeadLetterStatus.OPEN
    group: str | None = None
    queue: str | None = None
    type: str | None = None
    reason: str | None = None
    invoice: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    words: str | None = None
    ids: tuple[UUID, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """The conditions that are there, for the record of a run. Ids are left out: its items name them."""
        members = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "ids"}
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in members.items()
            if value is not None
        } | ({"ids": len(self.ids)} if self.ids is not None else {})


_MEANT = """($1::text IS NULL OR d.status = $1) AND ($2::text IS NULL OR d.grp = $2) AND ($3::text IS NULL OR d.queue = $3)
    AND ($4::text IS NULL OR d.type = $4 OR split_part(d.type, '.', 3) = $4) AND ($5::text IS NULL OR d.reason = $5)
    AND ($6::text IS NULL OR d.invoice_id = $6) AND ($7::timestamptz IS NULL OR d.last_seen >= $7)
    AND ($8::timestamptz IS NULL OR d.last_seen < $8) AND ($9::uuid[] IS NULL OR d.id = ANY($9))"""
"""A type is meant by its whole name, or by the name of the message in it."""


async def plan_anew(connection: Connection) -> None:
    """Have the next statements of this transaction planned for their values: conditions that are not there then cost nothing.

    A plan for any values would not use the index of a condition, because that might not be there.
    """
    await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")


def _arguments(filter_: LetterFilter) -> list[Any]:
    return [
        filter_.status,
        filter_.group,
        filter_.queue,
        filter_.type,
        filter_.reason,
        filter_.invoice,
        filter_.since,
        filter_.until,
        None if filter_.ids is None else list(filter_.ids),
    ]


# -- groups ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """Dead letters of one queue and type that failed in the same way. `hourly`: arrivals in each of the last 24 hours, the present last.

    `error_text` is that of the latest, and `in_run` a run that is at work on the group.
    """

    group: str
    queue: str
    type: str | None
    reason: str
    error_type: str | None
    open: int
    replayed: int
    discarded: int
    first_seen: datetime
    last_seen: datetime
    hourly: tuple[int, ...]
    error_text: str | None
    sums: dict[str, int]
    charges: int
    in_run: int | None


GroupKey = tuple[datetime, str]
"""Where a page of groups ends: `last_seen` and name of its last one."""


async def groups(
    connection: Connection, now: datetime, *, group: str | None = None, after: GroupKey | None = None, at_most: int
) -> list[LetterGroup]:
    """The groups with open letters behind this key, those that failed last first; or the one group, whatever is open.

    With what a replay would charge.
    """
    await plan_anew(connection)
    rows = await connection.fetch(_GROUPS, group, at_most, sorted(CHARGING), *(after or (None, None)))
    return [_group(row, now) for row in rows]


_GROUPS = """
    SELECT g.grp, g.queue, g.type, g.reason, g.error_type, g.open, g.replayed, g.discarded, g.first_seen, g.last_seen, g.hour, g.hourly,
        newest.error_text, charge.sums, charge.charges, run.no AS in_run
    FROM (
        SELECT grp, queue, type, reason, error_type, open, replayed, discarded, first_seen, last_seen, hour, hourly, example
        FROM dead_letter_groups
        WHERE grp = $1 OR ($1::text IS NULL AND open > 0 AND ($4::timestamptz IS NULL OR (last_seen, grp) < ($4, $5::text)))
        ORDER BY last_seen DESC, grp DESC LIMIT $2
    ) g
    LEFT JOIN LATERAL (SELECT d.error_text FROM dead_letters d WHERE d.id = g.example) newest ON true
    LEFT JOIN LATERAL (
        SELECT coalesce(jsonb_object_agg(s.currency, s.total) FILTER (WHERE s.currency IS NOT NULL), '{}') AS sums,
            coalesce(sum(s.letters), 0)::bigint AS charges
        FROM (SELECT d.currency, sum(d.amount_minor)::bigint AS total, count(*) AS letters FROM dead_letters d
              WHERE d.grp = g.grp AND d.status = 'open' AND d.may_charge AND g.queue = ANY($3::text[])
              GROUP BY d.currency) s
    ) charge ON true
    LEFT JOIN LATERAL (
        SELECT r.no FROM replay_runs r WHERE r.ended_at IS NULL AND r.state <> 'previewed' AND r.filter ->> 'group' = g.grp
        ORDER BY r.no DESC LIMIT 1
    ) run ON true
    ORDER BY g.last_seen DESC, g.grp DESC"""


async def count_groups(connection: Connection) -> int:
    """How many groups have open letters."""
    return int(await connection.fetchval("SELECT count(*) FROM dead_letter_groups WHERE open > 0"))


async def open_ones(connection: Connection) -> FailedSeen | None:
    """All open letters: how many, in how many groups, since when, and what a replay of all would charge. None if there is none."""
    row = await connection.fetchrow(
        """SELECT coalesce(sum(open), 0)::bigint AS number, count(*) AS groups, min(first_seen) AS first_at
           FROM dead_letter_groups WHERE open > 0"""
    )
    if row is None or not row["number"]:
        return None
    charges = await connection.fetch(_CHARGES, sorted(CHARGING))
    sums = tuple((one["currency"], one["total"]) for one in charges if one["currency"] is not None)
    return FailedSeen(**row, charges=sum(one["letters"] for one in charges), sums=sums)


_CHARGES = """
    SELECT currency, coalesce(sum(amount_minor), 0)::bigint AS total, count(*) AS letters FROM dead_letters
    WHERE status = 'open' AND may_charge AND grp IN (SELECT grp FROM dead_letter_groups WHERE open > 0 AND queue = ANY($1::text[]))
    GROUP BY currency"""


async def group_of(connection: Connection, letter_id: UUID) -> tuple[str | None, int]:
    """The group of a dead letter, and how many of it are open. No group until the service has read what an earlier build stored."""
    row = await connection.fetchrow(
        """SELECT d.grp, coalesce(g.open, 0) AS open FROM dead_letters d LEFT JOIN dead_letter_groups g ON g.grp = d.grp
           WHERE d.id = $1""",
        letter_id,
    )
    return (None, 0) if row is None else (row["grp"], row["open"])


def _group(row: Row, now: datetime) -> LetterGroup:
    names = set(LetterGroup.__dataclass_fields__) - {"group", "hourly", "sums"}
    return LetterGroup(
        group=row["grp"],
        hourly=hours_until(row["hourly"], row["hour"], now),
        sums=dict(row["sums"]),
        **{name: row[name] for name in names},
    )


def hours_until(hourly: Sequence[int], hour: int, now: datetime) -> tuple[int, ...]:
    """The counts of the last 24 hours at `now`. `hour` is that of the last count, in hours since 1970."""
    gone = min(max(int(now.astimezone(UTC).timestamp() // 3_600) - hour, 0), HOURS)
    return (*hourly[gone:], *(0 for _ in range(gone)))


async def counts_by_status(connection: Connection) -> dict[DeadLetterStatus, int]:
    """How many dead letters there are, by status."""
    row = await connection.fetchrow(
        "SELECT coalesce(sum(open), 0) AS open, coalesce(sum(replayed), 0) AS replayed, coalesce(sum(discarded), 0) AS discarded "
        "FROM dead_letter_groups"
    )
    return {status: int(row[status.value]) if row is not None else 0 for status in DeadLetterStatus}


# -- pages -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LetterLine:
    """A dead letter as a list shows it."""

    id: UUID
    type: str | None
    queue: str
    reason: str
    error_type: str | None
    error_text: str | None
    invoice_id: str | None
    amount_minor: int | None
    currency: str | None
    tries: int
    replays: int
    status: DeadLetterStatus
    outcome: str | None
    last_seen: datetime


_LINE = ", ".join(f"d.{name}" for name in LetterLine.__dataclass_fields__)
Key = tuple[datetime, UUID]
"""Where a page of dead letters ends: `last_seen` and id of its last line."""


async def page(connection: Connection, filter_: LetterFilter, *, after: Key | None, at_most: int) -> list[LetterLine]:
    """The dead letters behind this key, latest first. With words, only the newest 10 000 are looked at."""
    await plan_anew(connection)
    arguments = [*_arguments(filter_), *(after or (None, None)), at_most]
    if filter_.words:
        rows = await connection.fetch(_PAGE_WITH_WORDS, *arguments, f"%{_literally(filter_.words)}%")
    else:
        rows = await connection.fetch(_PAGE, *arguments)
    return [LetterLine(**{**row, "status": DeadLetterStatus(row["status"])}) for row in rows]


_BEHIND = """($10::timestamptz IS NULL OR (d.last_seen, d.id) < ($10, $11::uuid))
    ORDER BY d.last_seen DESC, d.id DESC LIMIT $12"""
_PAGE = f"SELECT {_LINE} FROM dead_letters d WHERE {_MEANT} AND {_BEHIND}"  # noqa: S608 - constants
_NEWEST = (
    f"""(SELECT {_LINE}, d.grp FROM dead_letters d ORDER BY d.last_seen DESC, d.id DESC LIMIT {WORDS_LETTERS_MAX})"""  # noqa: S608
)
_HAS_WORDS = "(d.error_text ILIKE {0} OR d.error_type ILIKE {0} OR d.type ILIKE {0})"
_PAGE_WITH_WORDS = f"SELECT {_LINE} FROM {_NEWEST} d WHERE {_MEANT} AND {_HAS_WORDS.format('$13')} AND {_BEHIND}"  # noqa: S608


def _literally(words: str) -> str:
    """The words as a pattern of LIKE that matches them alone."""
    return words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


async def came_since(connection: Connection, filter_: LetterFilter, since: datetime, *, at_most: int) -> int:
    """How many came after this moment, counted up to `at_most`."""
    await plan_anew(connection)
    return int(await connection.fetchval(_CAME_SINCE, *_arguments(filter_), since, at_most))


_CAME_SINCE = (
    f"SELECT count(*) FROM (SELECT FROM dead_letters d WHERE {_MEANT} AND d.last_seen > $10 LIMIT $11) counted"  # noqa: S608
)


async def with_words_found(connection: Connection, filter_: LetterFilter) -> LetterFilter:
    """The same selection, with the ids of what has its words in their place. Only the newest 10 000 are looked at, as for a page."""
    if not filter_.words:
        return filter_
    rows = await connection.fetch(_IDS_WITH_WORDS, *_arguments(filter_), f"%{_literally(filter_.words)}%")
    return replace(filter_, words=None, ids=tuple(row["id"] for row in rows))


_IDS_WITH_WORDS = f"SELECT d.id FROM {_NEWEST} d WHERE {_MEANT} AND {_HAS_WORDS.format('$10')}"  # noqa: S608 - constants


# -- what a run would take -------------------------------------------------------------------------------------------------------------


async def candidates(tx: Connection, filter_: LetterFilter, *, at_most: int) -> list[Candidate]:
    """The dead letters that a run of this selection is about, the oldest first."""
    await plan_anew(tx)
    rows = await tx.fetch(_CANDIDATES, *_arguments(filter_), sorted(WORK_QUEUE_NAMES), sorted(CHARGING), at_most)
    return [Candidate(**row) for row in rows]


_CANDIDATES = f"""
    SELECT d.id AS letter_id, d.status = 'open' AS is_open,
        CASE WHEN p.id IS NOT NULL THEN 'proposal_open' WHEN d.body IS NULL THEN coalesce(d.withheld, 'unknown')
            WHEN NOT d.queue = ANY($10::text[]) THEN 'no_such_queue' WHEN d.may_charge IS NULL THEN 'not_read_yet' END AS why,
        coalesce(d.may_charge, d.queue = ANY($11::text[])) AS may_charge,
        coalesce(c.status IN ('captured', 'declined', 'not_charged', 'refunded', 'not_refunded'), false) AS is_settled,
        i.run_no AS in_run, d.currency, d.amount_minor, d.first_seen, least(d.asked_at, d.first_seen) AS since, d.grp
    FROM dead_letters d
    LEFT JOIN replay_items i ON i.letter_id = d.id AND i.state < 2
    LEFT JOIN cases c ON c.payment_id = d.payment_id
    LEFT JOIN proposals p ON p.payment_id = c.payment_id AND p.version = c.version AND p.state = 'open'
    WHERE {_MEANT} ORDER BY d.first_seen, d.id LIMIT $12"""  # noqa: S608 - constants


async def count_of(connection: Connection, filter_: LetterFilter, *, at_most: int) -> int:
    """How many dead letters are meant, counted up to `at_most`."""
    await plan_anew(connection)
    return int(await connection.fetchval(_COUNT, *_arguments(filter_), at_most))


_COUNT = f"SELECT count(*) FROM (SELECT FROM dead_letters d WHERE {_MEANT} LIMIT $10) counted"  # noqa: S608 - constants
