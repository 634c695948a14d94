"""The SQL of the overview and of what is stuck: open cases, groups of failed messages, payments without an outcome. Reads only."""

from datetime import datetime
from typing import Final

from services.staff import letter_store
from services.staff.domain import ASKING
from services.staff.story_store import read_instances, read_queues
from services.staff.stuck import PENDING_AFTER, PendingPayments, ProposalSeen, RunSeen, WatchedWork
from services.staff.verdict import CaseSeen, GroupSeen, StoppedRun
from shared.persistence.database import Connection
from shared.records import dataclass

CASES_MAX: Final = 1_000
GROUPS_MAX: Final = 20
RUNS_MAX: Final = 20
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


_IS_OPEN: Final = "status IN ('in_doubt', 'needs_decision', 'refund_in_doubt', 'refund_failed')"
_IS_CONTRADICTED: Final = "contradicted_at IS NOT NULL AND noted_at IS NULL"
_CASES: Final = f"""SELECT payment_id, invoice_id, status, reason, amount_minor, currency, opened_at, version,
        CASE WHEN {_IS_CONTRADICTED} AND NOT {_IS_OPEN} THEN contradicted_at END AS contradicted_at, claimed_by,
        (SELECT count(*) FROM jsonb_array_elements(details -> 'attempts') AS made
            WHERE made ->> 'step' IN {ASKING})::int AS asked, details -> 'decision' AS decision, details -> 'refusals' AS refusals
    FROM cases"""  # noqa: S608 - constants
_OPEN: Final = f"{_CASES} WHERE {_IS_OPEN} ORDER BY opened_at, payment_id LIMIT $1"
_CONTRADICTED: Final = (
    f"{_CASES} WHERE {_IS_CONTRADICTED} AND NOT {_IS_OPEN} ORDER BY contradicted_at, payment_id LIMIT $1"
)


async def open_cases(connection: Connection) -> tuple[CaseSeen, ...]:
    """The open cases, the longest wait first, and those that the gateway contradicts and nobody took note of."""
    rows = [*await connection.fetch(_OPEN, CASES_MAX), *await connection.fetch(_CONTRADICTED, CASES_MAX)]
    return tuple(
        CaseSeen(
            row["payment_id"],
            row["invoice_id"],
            row["status"],
            row["reason"],
            row["amount_minor"],
            row["currency"],
            row["opened_at"],
            row["asked"] or 0,
            _is_on_its_way(row["decision"], row["refusals"], row["version"]),
            row["contradicted_at"],
            row["claimed_by"],
        )
        for row in rows
    )


async def open_proposals(connection: Connection) -> tuple[ProposalSeen, ...]:
    """The decisions that wait for a second person, the longest wait first."""
    rows = await connection.fetch(
        """SELECT p.payment_id, c.invoice_id, p.proposed_by, p.proposed_at, p.act, p.asks ->> 'resolution' AS resolution
           FROM proposals p JOIN cases c ON c.payment_id = p.payment_id WHERE p.state = 'open' ORDER BY p.proposed_at, p.id LIMIT $1""",
        CASES_MAX,
    )
    return tuple(
        ProposalSeen(
            row["payment_id"],
            row["invoice_id"],
            row["proposed_by"],
            row["proposed_at"],
            "not_charged" if row["act"] == "discard" else row["resolution"] or row["act"],
        )
        for row in rows
    )


def _is_on_its_way(decision: dict[str, object] | None, refusals: list[dict[str, object]] | None, version: int) -> bool:
    if not decision or decision.get("version") != version:
        return False
    return not any(refused.get("decision_id") == decision.get("id") for refused in refusals or ())


async def open_groups(connection: Connection, now: datetime) -> tuple[GroupSeen, ...]:
    """The groups of failed messages that wait, those that failed last first."""
    return tuple(
        GroupSeen(
            group.group,
            group.type,
            group.queue,
            group.reason,
            group.error_type,
            group.open,
            group.first_seen,
            group.hourly,
            group.charges,
            tuple(sorted(group.sums.items())),
        )
        for group in await letter_store.groups(connection, now, at_most=GROUPS_MAX)
    )


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
        """SELECT no, coalesce(started_at, made_at) AS at FROM replay_runs
           WHERE ended_at IS NULL AND state <> 'previewed' AND state = 'halted' ORDER BY no LIMIT $1""",
        RUNS_MAX,
    )
    return tuple(StoppedRun(row["no"], row["at"]) for row in rows)


async def watched(connection: Connection, now: datetime, *, hears_instances: bool) -> WatchedWork:
    """What is looked at to see whether something is stuck."""
    return WatchedWork(
        now,
        tuple(await read_instances(connection)),
        tuple(await read_queues(connection)),
        await _pending(connection),
        await _own_outbox_s(connection),
        runs=await running(connection),
        proposals=await open_proposals(connection),
        hears_instances=hears_instances,
    )


async def _pending(connection: Connection) -> PendingPayments:
    row = await connection.fetchrow(
        """SELECT count(*) AS number, min(requested_at) AS oldest_at, (array_agg(payment_id ORDER BY requested_at))[1] AS example
           FROM (SELECT payment_id, requested_at FROM payments
                 WHERE settled_at IS NULL AND status = 'pending' AND requested_at < now() - $1::interval
                 ORDER BY requested_at LIMIT $2) p""",
        PENDING_AFTER,
        COUNTED_MAX,
    )
    return PendingPayments() if row is None else PendingPayments(row["number"], row["oldest_at"], row["example"])


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
