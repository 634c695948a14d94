"""Checks the states that sagas reached, and the steps by which they reached them."""

from services.audit.align import align
from services.audit.cases import open_cases
from services.audit.finding import Tally
from services.audit.payments import FAR_OFF_DAYS, TRACES_KEPT_DAYS
from services.audit.stores import Snapshot, Stores

_UNTOLD = ("absent", "awaiting_outcome", "in_doubt", "needs_decision")
"""States in which no outcome is known: any state may follow."""
_ENDED = ("completed", "failed", "refunded", "not_refunded")
_LEGAL = {
    "settling": ("completed", "refunding", "refund_in_doubt", "refunded", "not_refunded"),
    "completed": ("refunded",),  # tells what happened to the money; the invoice's own record is final
    "failed": ("completed", "refunding", "refund_in_doubt", "refunded", "not_refunded"),
    "refunding": ("refund_in_doubt", "refunded", "not_refunded"),
    "refund_in_doubt": ("refunded", "not_refunded"),
    "not_refunded": ("refunded", "refund_in_doubt"),
    "refunded": ("refund_in_doubt", "not_refunded"),  # a bank may send a refund back; a person may take a decision back
}
"""The states that may follow each state, written a second time. A step that learns something and keeps its state is always legal."""
_EVERYWHERE = ("in_doubt", "needs_decision", *_LEGAL)

LEGAL: frozenset[str] = frozenset(
    [f"{before}>{after}" for before in _UNTOLD for after in _EVERYWHERE]
    + ["absent>awaiting_outcome"]
    + [f"{before}>{after}" for before, followers in _LEGAL.items() for after in followers]
    + [f"{status}>{status}" for status in ("awaiting_outcome", *_EVERYWHERE)]
)

_COUNT = "SELECT count(*) FROM transitions"
_ILLEGAL = """
    SELECT payment_id, version, from_status, to_status, fact FROM transitions t
    WHERE from_status || '>' || to_status <> ALL($1::text[]) OR (
        from_status = 'completed' AND fact = 'DeadlineFired'  -- it may only remind of a refund that somebody asked for
        AND NOT EXISTS (SELECT FROM sagas s WHERE s.payment_id = t.payment_id AND s.refunds IS NOT NULL))
    ORDER BY payment_id, version"""
_BROKEN_CHAINS = """
    WITH steps AS (
        SELECT payment_id, version, from_status, to_status,
               lag(version, 1, version - 1) OVER journal AS place, lag(to_status, 1, from_status) OVER journal AS before
        FROM transitions WINDOW journal AS (PARTITION BY payment_id ORDER BY version)
    ), journals AS (
        SELECT payment_id, bool_and(version = place + 1 AND from_status = before) AS whole, min(version) AS first, max(version) AS last,
               (array_agg(from_status ORDER BY version))[1] AS begins, (array_agg(to_status ORDER BY version DESC))[1] AS ends
        FROM steps GROUP BY payment_id
    ), both_of_them AS (  -- a journal that is deleted stands where its saga does
        SELECT coalesce(s.payment_id, j.payment_id) AS payment_id, s.payment_id IS NULL AS alone, j.payment_id IS NULL AS gone,
               s.version, s.status, s.journal_from, s.updated_at, coalesce(j.whole, true) AS whole,
               coalesce(j.first, s.journal_from) AS first, coalesce(j.begins, s.status) AS begins,
               coalesce(j.last, s.journal_from - 1) AS last, coalesce(j.ends, s.status) AS ends
        FROM sagas s FULL JOIN journals j ON j.payment_id = s.payment_id
    ), judged AS (
        SELECT payment_id,
               CASE WHEN alone THEN 'has a journal and no saga'
                    WHEN gone AND journal_from = 1 THEN 'has no journal'
                    WHEN NOT whole OR first <> journal_from OR (first = 1 AND begins <> 'absent') THEN 'its journal has a gap'
                    WHEN last <> version OR ends <> status THEN 'its journal ends elsewhere than it stands'
                    WHEN first > 1 AND (begins <> ALL($1::text[]) OR (gone AND updated_at > now() - make_interval(days => $2)))
                        THEN 'its journal was deleted before its time' END AS why
        FROM both_of_them
    )
    SELECT payment_id, why FROM judged WHERE why IS NOT NULL ORDER BY 1"""
_OVERDUE = """
    SELECT d.payment_id, d.due_at, s.status FROM deadlines d LEFT JOIN sagas s ON s.payment_id = d.payment_id
    WHERE d.fired_at IS NULL AND (s.payment_id IS NULL OR s.status = ANY($1::text[])) AND d.due_at < (
        SELECT greatest((SELECT max(fired_at) FROM deadlines), (SELECT max(at) FROM transitions)) - make_interval(secs => $2))
    ORDER BY d.payment_id"""
_NOT_SET = """
    SELECT d.payment_id, d.number FROM deadlines d LEFT JOIN sagas s ON s.payment_id = d.payment_id
    WHERE d.fired_at IS NULL AND (s.payment_id IS NULL OR d.number > s.deadline) ORDER BY d.payment_id, d.number"""
_UNENDED = """
    SELECT payment_id, status, updated_at,
           deadline_s IS NOT NULL AND repeats <= 1000
           AND EXISTS (SELECT FROM deadlines d WHERE d.payment_id = s.payment_id AND d.fired_at IS NULL
                       AND d.number = s.deadline AND d.due_at < now() + make_interval(days => $2)) AS has_deadline
    FROM sagas s WHERE status <> ALL($1::text[]) ORDER BY payment_id"""
"""Without `deadline_s` a saga takes a deadline that fires for one that it does not wait for; after 1000 repeats it sets no other."""
_FOR_A_PERSON = frozenset({"needs_decision", "refund_in_doubt"})

OVERDUE_S = 60.0
"""The saga service looks for due deadlines twice a second. A deadline is overdue if the service did other work this much later and did not
fire it. A service that is stopped, as after a demo, proves nothing."""


async def sagas_step_legally(counted: Tally, stores: Stores) -> None:
    """Each saga has one terminal state, no terminal saga has a due deadline, and no transition is illegal."""
    if not stores.has("saga"):
        return
    sagas = stores.databases["saga"]
    counted.look(await sagas.value(_COUNT))
    async for row in sagas.rows(_ILLEGAL, sorted(LEGAL)):
        counted.breach(
            row["payment_id"], f"step {row['version']}: {row['from_status']} to {row['to_status']} by {row['fact']}"
        )
    async for row in sagas.rows(_BROKEN_CHAINS, list(_ENDED), TRACES_KEPT_DAYS):
        counted.breach(row["payment_id"], row["why"])
    async for row in sagas.rows(_OVERDUE, list(_ENDED), OVERDUE_S):
        counted.breach(
            row["payment_id"], f"{row['status'] or 'without a saga'}, and a deadline is due since {row['due_at']:%F %T}"
        )
    async for row in sagas.rows(_NOT_SET):
        counted.breach(row["payment_id"], f"deadline {row['number']} waits, and no saga has set it")
    await _unended(counted, stores, sagas)


async def _unended(counted: Tally, stores: Stores, sagas: Snapshot) -> None:
    """A saga that has not ended either waits for a person who was asked, or is under way and has a deadline."""
    staff_seen = stores.has("staff")
    async for payment_id, (unended, cases) in align(
        sagas.keyed(_UNENDED, list(_ENDED), FAR_OFF_DAYS), open_cases(stores)
    ):
        for saga in unended:
            if not saga["has_deadline"]:
                counted.breach(
                    payment_id, f"{saga['status']}, and no deadline is set that ever comes", since=saga["updated_at"]
                )
            elif staff_seen and not cases and (stores.drained or saga["status"] in _FOR_A_PERSON):
                counted.breach(payment_id, f"{saga['status']}, and no person is asked", since=saga["updated_at"])
