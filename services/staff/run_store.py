"""The SQL of runs: their rows, the messages in them, what became of those."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from hashlib import blake2s
from typing import Any
from uuid import UUID

from services.staff.dead_letters import DeadLetterStatus
from services.staff.runs import (
    SILENCE_MAX,
    BadSign,
    Bin,
    BinSummary,
    Candidate,
    Counts,
    Halt,
    ItemState,
    ListedCharge,
    Run,
    RunState,
    RunStep,
)
from shared.persistence.database import Connection
from shared.persistence.database import Record as Row
from shared.persistence.retention import RetentionRule
from shared.records import dataclass

LEASE_S = 10.0
"""How long a run belongs to the instance that sends it. It takes a turn several times a second; another takes over after so long."""
ITEMS_KEPT_DAYS = 90
ITEM_RETENTION = RetentionRule(
    "messages of runs",
    ITEMS_KEPT_DAYS,
    """DELETE FROM replay_items WHERE (run_no, position) IN (
           SELECT i.run_no, i.position FROM replay_items i JOIN replay_runs r ON r.no = i.run_no
           WHERE coalesce(r.ended_at, CASE WHEN r.state = 'previewed' THEN r.made_at END) < now() - make_interval(days => $1) LIMIT $2)""",
)
"""The run itself is kept, and so are the entries of the journal about each of its messages."""
_LOCK_STARTS = "SELECT pg_advisory_xact_lock(hashtextextended('staff.runs', 0))"
"""A letter is in one run at a time. Runs are made and started one after the other, so that none of them fails over that."""


@dataclass(frozen=True, slots=True)
class KeptRun:
    """A run with the other columns of its row. `bins` is what its preview said, `total` how many messages it takes.

    `refusals` counts how often the broker refused messages of it. `second_by` took in what is too old to charge.
    """

    no: int
    id: UUID
    run: Run
    title: str
    filter: Mapping[str, Any]
    bins: Sequence[Mapping[str, Any]]
    made_by: str
    made_at: datetime
    started_by: str | None
    started_via: str | None
    started_at: datetime | None
    reason: str | None
    total: int
    ended_at: datetime | None
    refusals: int = 0
    second_by: str | None = None
    second_at: datetime | None = None

    @property
    def summaries(self) -> list[BinSummary]:
        """The bins of its preview."""
        return [
            BinSummary(
                Bin(one["bin"]),
                one["count"],
                one["sums"],
                datetime.fromisoformat(one["oldest"]),
                datetime.fromisoformat(one["newest"]),
                one["why"],
            )
            for one in self.bins
        ]

    def version(self, counts: Counts) -> str:
        """Another text whenever the run stands otherwise, takes something else, or more has gone wrong than people have seen.

        Who begins it, or lets it go on, says which they saw.
        """
        run = self.run
        seen = (run.state, run.step, run.halted_by, run.halted_how, self.total, list(self.bins), self.second_by)
        return blake2s(repr((*seen, counts.unseen)).encode(), digest_size=8).hexdigest()

    @property
    def name(self) -> str:
        """How people call it."""
        return f"R-{self.no}"


_RUN_COLUMNS = (
    "no, id, state, step, rate, halted_by, halted_how, halted_why, title, filter, bins, made_by, made_at, started_by, started_via, "
    "started_at, reason, total, ended_at, refusals, second_by, second_at"
)


def _kept(row: Row) -> KeptRun:
    charges = sum(bin_["count"] for bin_ in row["bins"] if bin_["bin"] == "charges")
    how = Halt(row["halted_how"]) if row["halted_how"] else None
    state, step = RunState(row["state"]), RunStep(row["step"])
    run = Run(state, step, row["rate"], charges, row["halted_by"], how, row["halted_why"])
    names = set(KeptRun.__dataclass_fields__) - {"run"}
    return KeptRun(run=run, **{name: row[name] for name in names})


async def insert_run(
    tx: Connection,
    id_: UUID,
    *,
    title: str,
    filter_: Mapping[str, Any],
    bins: Sequence[BinSummary],
    rate: int,
    made_by: str,
    made_at: datetime,
    taken: Sequence[Candidate],
    left_out: Sequence[tuple[Candidate, str]],
) -> int:
    """Store a previewed run with its list. Returns its number."""
    await tx.execute(_LOCK_STARTS)
    no: int = await tx.fetchval(
        """INSERT INTO replay_runs (no, id, state, step, title, filter, bins, made_by, made_at, rate, total)
           SELECT coalesce(max(no), 0) + 1, $1, 'previewed', 'one', $2, $3, $4, $5, $6, $7, $8 FROM replay_runs RETURNING no""",
        id_,
        title,
        dict(filter_),
        [_bin(summary) for summary in bins],
        made_by,
        made_at,
        rate,
        len(taken),
    )
    items: list[tuple[Candidate, ItemState, str | None]] = [(one, ItemState.LISTED, None) for one in taken]
    items += [(one, ItemState.LEFT_OUT, why) for one, why in left_out]
    await tx.execute(
        """INSERT INTO replay_items (run_no, position, letter_id, state, why, may_charge, currency, amount_minor, first_seen, grp)
           SELECT $1, u.* FROM unnest($2::int[], $3::uuid[], $4::smallint[], $5::text[], $6::boolean[], $7::text[], $8::bigint[],
                                      $9::timestamptz[], $10::text[]) AS u""",
        no,
        list(range(1, len(items) + 1)),
        [one.letter_id for one, _, _ in items],
        [int(state) for _, state, _ in items],
        [why for _, _, why in items],
        [one.may_charge for one, _, _ in items],
        [one.currency for one, _, _ in items],
        [one.amount_minor for one, _, _ in items],
        [one.first_seen for one, _, _ in items],
        [one.grp for one, _, _ in items],
    )
    return no


def _bin(summary: BinSummary) -> dict[str, Any]:
    plain = asdict(summary)
    return {**plain, "oldest": summary.oldest.isoformat(), "newest": summary.newest.isoformat()}


async def find_run(connection: Connection, no: int, *, lock: bool = False) -> KeptRun | None:
    """The run with this number. With `lock` its row is locked until the transaction ends."""
    row = await connection.fetchrow(_RUN_LOCKED if lock else _RUN, no)
    return None if row is None else _kept(row)


_RUN = f"SELECT {_RUN_COLUMNS} FROM replay_runs WHERE no = $1"  # noqa: S608 - constants
_RUN_LOCKED = f"{_RUN} FOR UPDATE"


async def run_of(connection: Connection, id_: UUID) -> KeptRun | None:
    """The run with this id."""
    row = await connection.fetchrow(f"SELECT {_RUN_COLUMNS} FROM replay_runs WHERE id = $1", id_)  # noqa: S608 - constants
    return None if row is None else _kept(row)


async def page_of_runs(connection: Connection, *, up_to: int, at_most: int) -> list[KeptRun]:
    """Runs, the latest first, with this number or a lower one."""
    rows = await connection.fetch(
        f"SELECT {_RUN_COLUMNS} FROM replay_runs WHERE no <= $1 ORDER BY no DESC LIMIT $2",  # noqa: S608 - constants
        up_to,
        at_most,
    )
    return [_kept(row) for row in rows]


async def latest_run(connection: Connection) -> int:
    """The number of the latest run; 0 if there is none."""
    return int(await connection.fetchval("SELECT coalesce(max(no), 0) FROM replay_runs"))


async def save_run(tx: Connection, kept: KeptRun) -> None:
    """Overwrite what changes of a run. Its speed counts from now on."""
    run = kept.run
    await tx.execute(
        """UPDATE replay_runs SET state = $2, step = $3, rate = $4, halted_by = $5, halted_how = $6, started_by = $7, started_via = $8,
               started_at = $9, reason = $10, total = $11, halted_why = $12, paced_at = now() WHERE no = $1""",
        kept.no,
        run.state,
        run.step,
        run.rate,
        run.halted_by,
        run.halted_how,
        kept.started_by,
        kept.started_via,
        kept.started_at,
        kept.reason,
        kept.total,
        run.halted_why,
    )


# -- the list of a run -----------------------------------------------------------------------------------------------------------------


async def start_items(tx: Connection, no: int, first: UUID | None) -> int:
    """Make the listed messages wait to be sent, `first` as the first one. Those that another run has by now are left out.

    Returns how many wait.
    """
    await tx.execute(_LOCK_STARTS)
    await tx.execute(
        """UPDATE replay_items i SET state = 7, why = 'in_a_run' WHERE run_no = $1 AND state = 8
           AND EXISTS (SELECT FROM replay_items o WHERE o.letter_id = i.letter_id AND o.state < 2)""",
        no,
    )
    await tx.execute(
        "UPDATE replay_items SET position = 0 WHERE run_no = $1 AND state = 8 AND letter_id = $2", no, first
    )
    status = await tx.execute("UPDATE replay_items SET state = 0 WHERE run_no = $1 AND state = 8", no)
    return int(status.rpartition(" ")[2])


async def take_in_old(tx: Connection, kept: KeptRun, bins: Sequence[BinSummary], who: str, now: datetime) -> int:
    """List what a preview left out because it is too old to charge. `bins` are those of the preview then. Returns how many."""
    status = await tx.execute(
        "UPDATE replay_items SET state = 8, why = NULL, taken_in = true WHERE run_no = $1 AND state = 7 AND why = 'too_old'",
        kept.no,
    )
    taken_in = int(status.rpartition(" ")[2])
    await tx.execute(
        "UPDATE replay_runs SET bins = $2, total = total + $3, second_by = $4, second_at = $5 WHERE no = $1",
        kept.no,
        [_bin(summary) for summary in bins],
        taken_in,
        who,
        now,
    )
    return taken_in


async def drop_waiting(tx: Connection, no: int) -> None:
    """What waits is not sent: its letters stay as they are."""
    await tx.execute("UPDATE replay_items SET state = 9, ended_at = now() WHERE run_no = $1 AND state IN (0, 8)", no)


async def note_bad(tx: Connection, no: int) -> None:
    """A person has seen what failed again, or showed no sign, and the run goes on without it. The version that they saw names all of it."""
    await tx.execute("UPDATE replay_items SET noted = true WHERE run_no = $1 AND state IN (5, 6) AND NOT noted", no)


# -- at work ---------------------------------------------------------------------------------------------------------------------------


async def runs_at_work(connection: Connection) -> list[int]:
    """The numbers of the runs that are under way, or of which something still is."""
    rows = await connection.fetch(
        "SELECT no FROM replay_runs WHERE ended_at IS NULL AND state <> 'previewed' ORDER BY no"
    )
    return [row["no"] for row in rows]


async def lease(tx: Connection, no: int, owner: UUID) -> tuple[KeptRun, timedelta] | None:
    """Lock a run for one turn and make it that of this instance; None if it is another's. With how long ago its speed was used up."""
    row = await tx.fetchrow(
        f"""UPDATE replay_runs SET lease_owner = $2, lease_until = now() + make_interval(secs => $3)
            WHERE no = (SELECT no FROM replay_runs WHERE no = $1 AND ended_at IS NULL
                        AND (lease_owner IS NULL OR lease_owner = $2 OR lease_until < now()) FOR UPDATE SKIP LOCKED)
            RETURNING {_RUN_COLUMNS}, now() - coalesce(paced_at, now()) AS since""",  # noqa: S608 - constants
        no,
        owner,
        LEASE_S,
    )
    return None if row is None else (_kept(row), row["since"])


async def settle_items(tx: Connection, no: int) -> None:
    """Note what became of the messages that were sent: told by a service, failed again, or silent for too long."""
    await tx.execute(
        f"""UPDATE replay_items i SET state = n.state, why = n.why, ended_at = now()
            FROM (
                SELECT i.position,
                    CASE WHEN d.replays > i.replays OR (d.status = '{DeadLetterStatus.OPEN}' AND d.replays = i.replays) THEN 5
                        WHEN d.replay_entry = i.entry_id AND d.outcome = 'handled' THEN 2
                        WHEN d.replay_entry = i.entry_id AND d.outcome = 'duplicate' THEN 3
                        WHEN d.replay_entry = i.entry_id AND d.outcome = 'rejected' THEN 4
                        WHEN i.state = 1 AND i.sent_at < now() - make_interval(secs => $2) THEN 6 END AS state,
                    CASE WHEN d.status = '{DeadLetterStatus.OPEN}' THEN d.reason ELSE d.outcome_reason END AS why
                FROM replay_items i JOIN dead_letters d ON d.id = i.letter_id WHERE i.run_no = $1 AND i.state IN (1, 6)
            ) n
            WHERE i.run_no = $1 AND i.position = n.position AND n.state IS NOT NULL AND n.state <> i.state""",  # noqa: S608 - constants
        no,
        SILENCE_MAX.total_seconds(),
    )


async def counts_of(connection: Connection, no: int) -> Counts:
    """How many messages of a run are in which state."""
    rows = await connection.fetch(
        """SELECT state, count(*) AS items, count(*) FILTER (WHERE state = 7 AND ended_at IS NOT NULL) AS set_aside,
               array_agg(position ORDER BY position) FILTER (WHERE state IN (5, 6) AND NOT noted) AS unseen
           FROM replay_items WHERE run_no = $1 GROUP BY state ORDER BY state""",
        no,
    )
    return Counts(
        {ItemState(row["state"]): row["items"] for row in rows},
        sum(row["set_aside"] for row in rows),
        tuple((ItemState(row["state"]), position) for row in rows for position in row["unseen"] or ()),
    )


async def trouble_of(connection: Connection, no: int, *, with_silence: bool) -> BadSign | None:
    """The first message that failed again, or showed no sign, and that no person has seen."""
    row = await connection.fetchrow(
        """SELECT letter_id, state FROM replay_items
           WHERE run_no = $1 AND state = ANY($2::smallint[]) AND NOT noted ORDER BY state, ended_at, position LIMIT 1""",
        no,
        [int(ItemState.FAILED), *([int(ItemState.NO_SIGN)] if with_silence else [])],
    )
    if row is None:
        return None
    return BadSign(row["letter_id"], Halt.FAILED if row["state"] == ItemState.FAILED else Halt.NO_SIGN)


@dataclass(frozen=True, slots=True)
class NextItem:
    """A message that is sent next: its place in the run, its letter, and what the list says that it charges."""

    position: int
    letter_id: UUID
    charge: ListedCharge


async def next_items(tx: Connection, no: int, *, at_most: int) -> list[NextItem]:
    """The messages that are sent next."""
    rows = await tx.fetch(
        """SELECT position, letter_id, may_charge, currency, amount_minor, taken_in FROM replay_items
           WHERE run_no = $1 AND state = 0 ORDER BY position LIMIT $2""",
        no,
        at_most,
    )
    return [
        NextItem(
            row["position"],
            row["letter_id"],
            ListedCharge(row["may_charge"], row["currency"], row["amount_minor"], row["taken_in"]),
        )
        for row in rows
    ]


async def note_sent(
    tx: Connection, no: int, sent: Sequence[tuple[int, UUID]], left_out: Sequence[tuple[int, str]]
) -> None:
    """Note which messages were sent, with the entries of the journal, and which were refused, and why."""
    await tx.execute(
        """UPDATE replay_items i SET state = 1, entry_id = u.entry_id, sent_at = now(), replays = d.replays
           FROM unnest($2::int[], $3::uuid[]) AS u (position, entry_id), dead_letters d
           WHERE i.run_no = $1 AND i.position = u.position AND d.id = i.letter_id""",
        no,
        [position for position, _ in sent],
        [entry_id for _, entry_id in sent],
    )
    await tx.execute(
        """UPDATE replay_items i SET state = 7, why = u.why, ended_at = now()
           FROM unnest($2::int[], $3::text[]) AS u (position, why) WHERE i.run_no = $1 AND i.position = u.position""",
        no,
        [position for position, _ in left_out],
        [why for _, why in left_out],
    )


async def on_their_way(tx: Connection, no: int) -> dict[UUID, UUID]:
    """The letters of which nothing was heard yet since they were sent, by the entries of the journal that sent them."""
    rows = await tx.fetch("SELECT entry_id, letter_id FROM replay_items WHERE run_no = $1 AND state = 1", no)
    return {row["entry_id"]: row["letter_id"] for row in rows}


async def note_still_here(tx: Connection, no: int, letter_ids: Sequence[UUID]) -> None:
    """These messages wait to be published: the time in which something is to be heard of them begins later."""
    await tx.execute(
        "UPDATE replay_items SET sent_at = now() WHERE run_no = $1 AND state = 1 AND letter_id = ANY($2::uuid[])",
        no,
        list(letter_ids),
    )


async def take_back_items(tx: Connection, no: int, letter_ids: Sequence[UUID]) -> None:
    """These messages were not sent after all. They wait again; in a run that was stopped for good, they are not sent."""
    await tx.execute(
        """UPDATE replay_items i SET state = CASE WHEN r.state = 'stopped' THEN 9 ELSE 0 END, entry_id = NULL, sent_at = NULL,
               replays = NULL, ended_at = CASE WHEN r.state = 'stopped' THEN now() END
           FROM replay_runs r WHERE r.no = i.run_no AND i.run_no = $1 AND i.state = 1 AND i.letter_id = ANY($2::uuid[])""",
        no,
        list(letter_ids),
    )
    await tx.execute("UPDATE replay_runs SET refusals = refusals + 1 WHERE no = $1", no)


async def halt(tx: Connection, no: int, why: str) -> None:
    """Stop a run that is under way, because a turn of it fails with an error of ours: `why` is its type."""
    await tx.execute(
        """UPDATE replay_runs SET state = 'halted', halted_by = NULL, halted_how = 'error', halted_why = $2
           WHERE no = $1 AND state = 'running'""",
        no,
        why,
    )


async def save_turn(tx: Connection, no: int, run: Run, *, used: timedelta, is_over: bool) -> None:
    """Note what a turn made of a run. `used` is how much of its time the messages took that were sent now."""
    await tx.execute(
        """UPDATE replay_runs SET state = $2, step = $3, halted_by = $4, halted_how = $5, halted_why = $8,
               paced_at = greatest(coalesce(paced_at, now()), now() - interval '1 second') + $6,
               ended_at = CASE WHEN $7 THEN now() END
           WHERE no = $1""",
        no,
        run.state,
        run.step,
        run.halted_by,
        run.halted_how,
        used,
        is_over,
        run.halted_why,
    )


# -- for pages -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunItem:
    """A message of a run, with what its letter is about."""

    position: int
    letter_id: UUID
    state: ItemState
    queue: str
    type: str | None
    invoice_id: str | None
    currency: str | None
    amount_minor: int | None
    why: str | None
    sent_at: datetime | None
    ended_at: datetime | None
    error_type: str | None
    error_text: str | None
    differs: bool
    """Whether its letter is of another group now: it failed with another mistake."""


@dataclass(frozen=True, slots=True)
class ItemKey:
    """Where a page of the messages of a run ends. Those of one turn have the same `ended_at`; it is None for what is on its way."""

    ended_at: datetime | None
    position: int


async def items_of(connection: Connection, no: int, *, after: ItemKey | None, at_most: int) -> list[RunItem]:
    """The messages that a run came to, behind this key: those whose end came last first, at the end those that are on their way."""
    rows = await connection.fetch(
        f"""{_ITEMS} AND i.state BETWEEN 1 AND 7 AND (i.state <> 7 OR i.ended_at IS NOT NULL)
               AND ($3::int IS NULL OR ({_ENDED}, i.position) < (coalesce($2::timestamptz, '-infinity'), $3::int))
           ORDER BY {_ENDED} DESC, i.position DESC LIMIT $4""",
        no,
        after and after.ended_at,
        after and after.position,
        at_most,
    )
    return [_run_item(row) for row in rows]


_ENDED = "coalesce(i.ended_at, '-infinity')"


_ITEMS = """SELECT i.position, i.letter_id, i.state, d.queue, d.type, d.invoice_id, i.currency, i.amount_minor, i.why, i.sent_at,
        i.ended_at, d.error_type, d.error_text, d.grp IS DISTINCT FROM i.grp AS differs
    FROM replay_items i JOIN dead_letters d ON d.id = i.letter_id WHERE i.run_no = $1"""
"""A whole statement, to which others add conditions and an order."""


def _run_item(row: Row) -> RunItem:
    return RunItem(**{**row, "state": ItemState(row["state"])})


async def item_of(connection: Connection, no: int, letter_id: UUID) -> RunItem | None:
    """The message of a run that this letter is; None if it is none."""
    row = await connection.fetchrow(f"{_ITEMS} AND i.letter_id = $2", no, letter_id)
    return None if row is None else _run_item(row)


async def tried_first(connection: Connection, no: int) -> RunItem | None:
    """The message that a run sent first; None if it has sent none."""
    row = await connection.fetchrow(f"{_ITEMS} AND i.sent_at IS NOT NULL ORDER BY i.position LIMIT 1", no)
    return None if row is None else _run_item(row)


async def smallest_of(connection: Connection, no: int, *, at_most: int) -> list[RunItem]:
    """Messages of a preview of which one may be tried first: the one that is proposed, then the smallest amounts."""
    rows = await connection.fetch(
        f"{_ITEMS} AND i.state = 8 ORDER BY i.position > 1, i.amount_minor, i.position LIMIT $2",
        no,
        at_most,
    )
    return [_run_item(row) for row in rows]


async def charged_by(connection: Connection, no: int) -> dict[str, int]:
    """What the messages of a run that were handled may have charged, by currency, in minor units."""
    rows = await connection.fetch(
        """SELECT currency, sum(amount_minor)::bigint AS total FROM replay_items
           WHERE run_no = $1 AND state = 2 AND may_charge AND currency IS NOT NULL GROUP BY currency ORDER BY currency""",
        no,
    )
    return {row["currency"]: row["total"] for row in rows}
