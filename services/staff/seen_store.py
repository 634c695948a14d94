"""The SQL of the overview and of what is stuck: money in doubt, proposals, runs, payments without an outcome. Reads only."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from services.staff.domain import ASKING, DECIDE_ANEW_AFTER
from services.staff.letter_store import plan_anew
from services.staff.runs import Halt
from services.staff.store import CASE_IS_OPEN
from services.staff.story_store import read_instances, read_queues
from services.staff.stuck import PendingPayments, ProposalSeen, RunSeen, WatchedWork
from services.staff.verdict import ACT_AFTER, LINES_OF_A_KIND_MAX, CaseSeen, DoubtSeen, StoppedRun
from shared.persistence.database import Connection
from shared.records import dataclass

PROPOSALS_MAX: Final = 1_000
RUNS_MAX: Final = 1_000
COUNTED_MAX: Final = 20_000
"""Rows that are counted for a figure. At 100 payments a second an hour has more: then it is said that there are more."""


@dataclass(frozen=True, slots=True)
class LastHour:
    """What became of payments in the last hour; `more` if there were more than are counted."""

    paid: int
    declined: int
    not_charged: int
    given_back: int
    more: bool


_IS_CONTRADICTED: Final = f"contradicted_at IS NOT NULL AND noted_at IS NULL AND NOT {CASE_IS_OPEN}"
_IS_DECIDED: Final = f"""{CASE_IS_OPEN} AND (details #>> '{{decision,version}}')::int = version
    AND NOT jsonb_path_exists(details, '$.refusals[*] ? (@.decision_id == $.decision.id)')"""
"""Whether a decision about this version is on its way, and was not refused: the condition of the index `cases_decided`."""
_IS_YOUNG: Final = (
    f"(details #>> '{{decision,at}}')::timestamptz > $1::timestamptz - interval '{DECIDE_ANEW_AFTER.total_seconds()} s'"
)
"""Whether it keeps others from deciding, as `domain.is_decided` has it. $1 is now."""
_DECIDED: Final = f"""(SELECT payment_id AS decided_id FROM cases WHERE {_IS_DECIDED} AND {_IS_YOUNG}) decided
    ON decided_id = payment_id"""  # noqa: S608
_PROPOSED: Final = (
    "(SELECT payment_id AS proposed_id FROM proposals WHERE state = 'open') proposed ON proposed_id = payment_id"
)
DOUBTS: Final = f"""
    SELECT status, currency, count(*) AS number, coalesce(sum(amount_minor), 0)::bigint AS amount_minor,
        count(*) FILTER (WHERE amount_minor IS NULL OR currency IS NULL) AS unknown, min(opened_at) AS oldest_at,
        count(decided_id) AS decided, count(proposed_id) FILTER (WHERE decided_id IS NULL) AS proposed,
        count(*) FILTER (WHERE opened_at < $1::timestamptz - interval '{ACT_AFTER.total_seconds()} s'
            AND proposed_id IS NULL AND decided_id IS NULL) AS old
    FROM cases LEFT JOIN {_DECIDED} LEFT JOIN {_PROPOSED} WHERE {CASE_IS_OPEN} GROUP BY status, currency"""  # noqa: S608 - constants
"""From indexes alone: the details of a case are long, and nobody reads those of all."""


async def doubts(connection: Connection, now: datetime) -> tuple[DoubtSeen, ...]:
    """All open cases, counted and added up by status and currency."""
    return tuple(DoubtSeen(**row) for row in await connection.fetch(DOUBTS, now))


async def contradicted(connection: Connection) -> int:
    """How many settled cases the gateway contradicts, and nobody took note of it."""
    return int(await connection.fetchval(f"SELECT count(*) FROM cases WHERE {_IS_CONTRADICTED}"))  # noqa: S608 - constants


_CASES: Final = f"""SELECT payment_id, invoice_id, status, reason, amount_minor, currency, opened_at, contradicted_at, claimed_by,
        (SELECT count(*) FROM jsonb_array_elements(details -> 'attempts') AS made
            WHERE made ->> 'step' IN {ASKING})::int AS asked
    FROM cases"""  # noqa: S608 - constants
_LEFT: Final = f"""{_CASES} LEFT JOIN {_DECIDED} LEFT JOIN {_PROPOSED}
    WHERE {CASE_IS_OPEN} AND status = $2 AND decided_id IS NULL AND proposed_id IS NULL ORDER BY opened_at, payment_id LIMIT $3"""
_CONTRADICTED: Final = f"{_CASES} WHERE {_IS_CONTRADICTED} ORDER BY contradicted_at, payment_id LIMIT $1"


async def first_cases(connection: Connection, found: Iterable[DoubtSeen], now: datetime) -> tuple[CaseSeen, ...]:
    """Of each kind of case those that wait longest, and about which nobody said anything yet; then those that the gateway contradicts."""
    await plan_anew(connection)
    rows = []
    for status in sorted({doubt.status for doubt in found if doubt.left}):
        rows += await connection.fetch(_LEFT, now, status, LINES_OF_A_KIND_MAX)
    open_ones = [CaseSeen(**{**row, "contradicted_at": None}) for row in rows]
    return (*open_ones, *(CaseSeen(**row) for row in await connection.fetch(_CONTRADICTED, LINES_OF_A_KIND_MAX)))


async def open_proposals(connection: Connection) -> tuple[ProposalSeen, ...]:
    """The decisions that wait for a second person, the longest wait first."""
    rows = await connection.fetch(
        """SELECT p.payment_id, c.invoice_id, p.proposed_by, p.proposed_at, p.act, p.asks ->> 'resolution' AS resolution, c.amount_minor,
               c.currency
           FROM proposals p JOIN cases c ON c.payment_id = p.payment_id WHERE p.state = 'open' ORDER BY p.proposed_at, p.id LIMIT $1""",
        PROPOSALS_MAX,
    )
    return tuple(
        ProposalSeen(
            row["payment_id"],
            row["invoice_id"],
            row["proposed_by"],
            row["proposed_at"],
            "not_charged" if row["act"] == "discard" else row["resolution"] or row["act"],
            row["amount_minor"],
            row["currency"],
        )
        for row in rows
    )


async def proposers(connection: Connection) -> Mapping[str, int]:
    """How many decisions of each person wait for a second one."""
    rows = await connection.fetch(
        "SELECT proposed_by, count(*) AS number FROM proposals WHERE state = 'open' GROUP BY proposed_by"
    )
    return {row["proposed_by"]: row["number"] for row in rows}


async def running(connection: Connection) -> tuple[RunSeen, ...]:
    """The replays of many messages that run, and when each sent something last, or heard of what it had sent."""
    rows = await connection.fetch(
        """SELECT r.no, greatest(r.started_at,
               (SELECT max(i.sent_at) FROM replay_items i WHERE i.run_no = r.no AND i.state = 1),
               (SELECT max(i.ended_at) FROM replay_items i WHERE i.run_no = r.no AND i.ended_at IS NOT NULL)) AS moved_at
           FROM replay_runs r WHERE r.ended_at IS NULL AND r.state = 'running' AND r.started_at IS NOT NULL ORDER BY r.no LIMIT $1""",
        RUNS_MAX,
    )
    return tuple(RunSeen(row["no"], row["moved_at"]) for row in rows)


async def stopped_runs(connection: Connection) -> tuple[StoppedRun, ...]:
    """The replays of many messages that stopped by themselves and wait for a person."""
    rows = await connection.fetch(
        """SELECT no, coalesce(started_at, made_at) AS at, halted_how AS how FROM replay_runs
           WHERE ended_at IS NULL AND state <> 'previewed' AND state = 'halted' ORDER BY no LIMIT $1""",
        RUNS_MAX,
    )
    return tuple(StoppedRun(row["no"], row["at"], Halt(row["how"]) if row["how"] else None) for row in rows)


async def watched(
    connection: Connection, now: datetime, *, pending_after_s: float, hears_instances: bool
) -> WatchedWork:
    """What is looked at to see whether something is stuck. A payment without an outcome counts after `pending_after_s` seconds."""
    return WatchedWork(
        now,
        tuple(await read_instances(connection)),
        tuple(await read_queues(connection)),
        await _pending(connection, pending_after_s),
        await _own_outbox_s(connection),
        runs=await running(connection),
        proposals=await open_proposals(connection),
        hears_instances=hears_instances,
    )


async def _pending(connection: Connection, after_s: float) -> PendingPayments:
    row = await connection.fetchrow(
        """SELECT count(*) AS number, min(requested_at) AS oldest_at, (array_agg(payment_id ORDER BY requested_at))[1] AS example
           FROM (SELECT payment_id, requested_at FROM payments
                 WHERE settled_at IS NULL AND status = 'pending' AND requested_at < now() - make_interval(secs => $1)
                 ORDER BY requested_at LIMIT $2) p""",
        after_s,
        COUNTED_MAX,
    )
    if row is None:
        return PendingPayments()
    return PendingPayments(row["number"], row["oldest_at"], row["example"], more=row["number"] >= COUNTED_MAX)


async def _own_outbox_s(connection: Connection) -> float:
    """Age of the oldest message of staff that was not sent, in seconds; without what waits for others."""
    age = await connection.fetchval(
        "SELECT extract(epoch FROM now() - min(created_at))::float8 FROM outbox WHERE lane = 'inside' AND sweep_after < 'infinity'"
    )
    return float(age or 0.0)


async def last_hour(connection: Connection) -> LastHour:
    """What became of the payments that ended in the last hour."""
    rows = await connection.fetch(
        """SELECT status, count(*) AS number FROM (
               SELECT status FROM payments WHERE settled_at > now() - interval '1 hour' ORDER BY settled_at DESC LIMIT $1) p
           GROUP BY status""",
        COUNTED_MAX,
    )
    found = {row["status"]: row["number"] for row in rows}
    return LastHour(
        found.get("captured", 0),
        found.get("declined", 0),
        found.get("not_charged", 0),
        found.get("refunded", 0),
        more=sum(found.values()) >= COUNTED_MAX,
    )


async def last_settled(connection: Connection) -> datetime | None:
    """When the last case was settled; None if there never was one."""
    at: datetime | None = await connection.fetchval(LAST_SETTLED)
    return at


LAST_SETTLED: Final = """SELECT max(updated_at) FROM cases
    WHERE status NOT IN ('in_doubt', 'needs_decision', 'refund_in_doubt', 'refund_failed', 'unknown')"""
"""With the condition of the index `cases_settled`, or all cases would be read."""


async def letters_replayed(connection: Connection) -> int:
    """How many failed messages were replayed within a week."""
    return int(await connection.fetchval(LETTERS_REPLAYED))


LETTERS_REPLAYED: Final = """SELECT count(*) FROM dead_letters
    WHERE status = 'replayed' AND settled_at > now() - interval '7 days' AND body IS NOT NULL"""
"""What was replayed within a week has its body still. So the index `dead_letters_erasable` has it, and nobody reads all that ever were."""
