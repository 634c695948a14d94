"""The ledger of payments: the gateway's answers, the published outcomes, the decisions of people. It is append only.

Records are added no matter which instance holds the payment's row. A record that is stored already stays as it is. The rows of the payments
themselves are in `store`.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from operator import attrgetter
from uuid import UUID

from shared.contracts.payment_gateway import ATTEMPTS_SHOWN_MAX
from shared.messaging.envelope import Outgoing
from shared.persistence.database import Record, Tx
from shared.persistence.retention import retention_of_details
from shared.persistence.writes import WriteBatch
from shared.records import dataclass, replace

AT_REST = """due_at IS NULL
        AND (status IN ('captured', 'declined', 'not_charged', 'refunded') OR (status = 'refund_failed' AND decided_by IS NOT NULL))"""
"""A condition on a row of `payments`, in SQL: nothing is to be done about it any more."""
ATTEMPTS_RETENTION_DAYS = 400
"""How long attempts are kept after their payment has ended for good: until the books of that year are closed. That is far longer than a
cardholder can dispute a charge (120 days with most schemes). The attempts of an open case are kept until it is closed."""
ATTEMPTS_RETENTION = retention_of_details(
    "attempts of payments at rest",
    ATTEMPTS_RETENTION_DAYS,
    details="attempts",
    time="recorded_at",
    owners="payments",
    key="payment_id",
    at_rest=f"{AT_REST} AND updated_at < now() - make_interval(days => $1)",
    note="attempts_forgotten_at = now()",
)


@dataclass(frozen=True, slots=True)
class GatewayAttempt:
    """One call to the gateway, and its answer. `evidence` is redacted."""

    payment_id: UUID
    fence: int
    seq: int
    at: datetime
    step: str
    answer: str
    evidence: str
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class PublishedOutcome:
    """An outcome with the message that announced it, so that it can be announced again byte for byte."""

    payment_id: UUID
    version: int
    message: Outgoing


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A person's decision. `refusal` is None if it took effect."""

    message_id: UUID
    payment_id: UUID
    resolution: str
    expected_version: int
    receipt_number: str | None
    evidence: str
    decided_by: str
    reason: str
    refusal: str | None
    journal_head: str | None = None


# -- attempts --------------------------------------------------------------------------------------------------------------------------

_ATTEMPT = "payment_id, fence, seq, at, step, answer, evidence, idempotency_key"
_ATTEMPT_ROW = attrgetter(*_ATTEMPT.split(", "))
_INSERT_ATTEMPTS = f"INSERT INTO attempts ({_ATTEMPT}) SELECT * FROM unnest($1::attempt_row[])"  # noqa: S608 - our names


async def save_attempts(tx: Tx, attempts: Sequence[GatewayAttempt]) -> None:
    """Store attempts, no matter which instance holds the row by now. An attempt that is stored already stays as it is."""
    if attempts:
        await tx.execute(f"{_INSERT_ATTEMPTS} ON CONFLICT DO NOTHING", list(map(_ATTEMPT_ROW, attempts)))


async def insert_attempts(writes: WriteBatch, attempts: Sequence[GatewayAttempt]) -> None:
    """Store new attempts. An attempt that is stored already is a unique violation."""
    if attempts:
        await writes.execute(_INSERT_ATTEMPTS, list(map(_ATTEMPT_ROW, attempts)))


async def last_attempts(tx: Tx, payment_ids: Collection[UUID]) -> dict[UUID, tuple[GatewayAttempt, ...]]:
    """The last attempts of each payment, oldest first, at most as many as a message shows. A payment without attempts is absent."""
    if not payment_ids:
        return {}
    rows = await tx.fetch(
        f"""SELECT a.payment_id, a.fence, a.seq, a.at, a.step, a.answer, a.evidence, a.idempotency_key
            FROM unnest($1::uuid[]) AS u (payment_id) CROSS JOIN LATERAL (
                SELECT {_ATTEMPT} FROM attempts WHERE attempts.payment_id = u.payment_id ORDER BY fence DESC, seq DESC LIMIT $2) a
            ORDER BY a.payment_id, a.fence, a.seq""",  # noqa: S608 - our names
        list(payment_ids),
        ATTEMPTS_SHOWN_MAX,
    )
    attempts: dict[UUID, tuple[GatewayAttempt, ...]] = {}
    for row in rows:
        attempts[row["payment_id"]] = (*attempts.get(row["payment_id"], ()), GatewayAttempt(**row))
    return attempts


# -- outcomes --------------------------------------------------------------------------------------------------------------------------

_OUTCOME = "payment_id, version, message_id, exchange, routing_key, type, correlation_id, body"
_OUTCOME_ROW = attrgetter(
    "payment_id",
    "version",
    "message.id",
    "message.exchange",
    "message.routing_key",
    "message.type",
    "message.correlation_id",
    "message.body",
)
_INSERT_OUTCOMES = f"INSERT INTO outcomes ({_OUTCOME}) SELECT * FROM unnest($1::outcome_row[])"  # noqa: S608 - our names


async def save_outcomes(tx: Tx, outcomes: Sequence[PublishedOutcome]) -> list[Outgoing]:
    """Store outcomes, one a version, and return the messages to publish.

    A version that has an outcome already keeps it. So a commit that is repeated after a lost reply publishes the bytes of the first time.
    """
    if not outcomes:
        return []
    rows = await tx.fetch(
        f"""{_INSERT_OUTCOMES} ON CONFLICT (payment_id, version) DO UPDATE SET version = excluded.version
            RETURNING message_id, exchange, routing_key, type, correlation_id, body""",
        list(map(_OUTCOME_ROW, outcomes)),
    )
    new = {outcome.message.id: outcome.message for outcome in outcomes}
    return [
        replace(_outgoing(row), data=message.data, thread=message.thread)
        if (message := new.get(row["message_id"])) is not None
        else _outgoing(row)
        for row in rows
    ]


async def insert_outcomes(writes: WriteBatch, outcomes: Sequence[PublishedOutcome]) -> None:
    """Store new outcomes. A version that has an outcome already is a unique violation."""
    if outcomes:
        await writes.execute(_INSERT_OUTCOMES, list(map(_OUTCOME_ROW, outcomes)))


async def outcomes_of(tx: Tx, versions: Sequence[tuple[UUID, int]]) -> list[Outgoing]:
    """The messages that announced these versions (payment id, version). A version without an outcome is absent."""
    if not versions:
        return []
    rows = await tx.fetch(
        """SELECT o.message_id, o.exchange, o.routing_key, o.type, o.correlation_id, o.body
           FROM outcomes o JOIN unnest($1::uuid[], $2::int[]) AS u (payment_id, version)
               ON o.payment_id = u.payment_id AND o.version = u.version""",
        [payment_id for payment_id, _ in versions],
        [version for _, version in versions],
    )
    return [_outgoing(row) for row in rows]


def _outgoing(row: Record) -> Outgoing:
    return Outgoing(
        id=row["message_id"],
        exchange=row["exchange"],
        routing_key=row["routing_key"],
        type=row["type"],
        correlation_id=row["correlation_id"],
        body=row["body"],
    )


# -- decisions -------------------------------------------------------------------------------------------------------------------------

_DECISION = (
    "message_id, payment_id, resolution, expected_version, receipt_number, evidence, decided_by, reason, refusal"
)
_DECISION_ROW = attrgetter(*_DECISION.split(", "))
_INSERT_DECISIONS = f"""INSERT INTO decisions ({_DECISION}, journal_head)
    SELECT {_DECISION}, head FROM unnest($1::decision_row[]) JOIN unnest($2::uuid[], $3::text[]) AS h (message_id, head)
        USING (message_id)"""  # noqa: S608 - our names


async def known_decisions(tx: Tx, message_ids: Sequence[UUID]) -> frozenset[UUID]:
    """The ids of those messages whose decision is stored."""
    if not message_ids:
        return frozenset()
    found = await tx.fetch("SELECT message_id FROM decisions WHERE message_id = ANY($1::uuid[])", list(message_ids))
    return frozenset(row["message_id"] for row in found)


async def insert_decisions(tx: Tx, decisions: Sequence[DecisionRecord]) -> None:
    """Store who decided what on which evidence."""
    if not decisions:
        return
    heads = {decision.message_id: decision.journal_head for decision in decisions}
    await tx.execute(_INSERT_DECISIONS, list(map(_DECISION_ROW, decisions)), list(heads), list(heads.values()))
