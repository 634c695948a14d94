"""This service's own SQL, set-based.

A row is worked on by one holder: whoever claims it raises its `fence`, and a state is stored only under the fence it was decided on.
What the gateway answered is kept without looking at any fence (`attempts`). `due_at` is when the row may be claimed: the end of the
holder's lease (`leased_by`), else the time of the next attempt; NULL, nothing is to be done. Only PostgreSQL's clock is asked.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from operator import attrgetter
from uuid import UUID

import structlog

from services.payment_gateway.domain import Payment, PaymentStatus, PendingOutcome
from shared.messaging.envelope import Cause, Outgoing
from shared.persistence.database import Connection, Record, Tx
from shared.persistence.retention import retention_of_details
from shared.persistence.writes import WriteBatch
from shared.records import dataclass

log = structlog.get_logger(__name__)

ATTEMPTS_TOLD_MAX = 50
"""As many as a case carries (`shared.contracts.payment_gateway.ATTEMPTS_SHOWN_MAX`)."""

ATTEMPTS_RETENTION_DAYS = 400
"""How long what the gateway answered is kept after its payment came to rest for good: until the books of that year are closed, and far
longer than a card's holder has to dispute a charge (120 days with most schemes). The evidence of an open case is kept for as long as
that takes."""
ATTEMPTS_RETENTION = retention_of_details(
    "attempts of payments at rest",
    ATTEMPTS_RETENTION_DAYS,
    details="attempts",
    time="recorded_at",
    owners="payments",
    key="payment_id",
    at_rest="""due_at IS NULL AND updated_at < now() - make_interval(days => $1)
        AND (status IN ('captured', 'declined', 'not_charged', 'refunded') OR (status = 'refund_failed' AND decided_by IS NOT NULL))""",
    note="attempts_forgotten_at = now()",
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The message that the payment's present doings go back to: the request, or the command that moved it since."""

    message_id: UUID
    correlation_id: str
    traceparent: str | None

    @classmethod
    def of(cls, cause: Cause) -> "Origin":
        return cls(cause.id, cause.correlation_id, cause.traceparent)

    def at(self, time: datetime) -> Cause:
        return Cause(self.message_id, self.correlation_id, time, self.traceparent)


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """A payment as stored, under the fence it was read with."""

    payment: Payment
    fence: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class Lease:
    """`seconds` is how long a row stays claimed; a holder that goes on renews once less than `renew_below_s` is left."""

    holder: UUID
    seconds: float
    renew_below_s: float


@dataclass(frozen=True, slots=True)
class PaymentUpdate:
    """`row` as it is to be, `held_fence` as it must still be. `delay_s`: due again after that; None: at rest. `kept`: the holder goes on
    with it instead."""

    row: PaymentRow
    held_fence: int
    delay_s: float | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True)
class GatewayAttempt:
    """One call to the gateway and what came back; `evidence` is redacted."""

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
    """An outcome as it was announced, bytes and all: announced again it is the same message."""

    payment_id: UUID
    version: int
    message: Outgoing


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A person's decision, whether it took effect or not."""

    message_id: UUID
    payment_id: UUID
    resolution: str
    expected_version: int
    receipt_number: str | None
    evidence: str
    decided_by: str
    reason: str
    refusal: str | None


@dataclass(frozen=True, slots=True)
class PaymentCounts:
    due: int
    in_doubt: int
    needs_decision: int


# -- payments --------------------------------------------------------------------------------------------------------------------------

_ROW = """payment_id, invoice_id, status, version, amount_minor, currency, method_token, card_jwe, params_hash, gateway_id,
    pending_status, pending_reason, reason, receipt_number, refund_id, decided_by, was_case, rung, key_number,
    cause_id, correlation_id, traceparent, fence"""
"""What `_row` reads, by name: a column that the next build adds does not disturb this one."""


async def load(tx: Tx, payment_ids: Collection[UUID]) -> dict[UUID, PaymentRow]:
    """Rows locked in the order of their ids; a payment never seen is absent."""
    rows = await tx.fetch(
        f"SELECT {_ROW} FROM payments WHERE payment_id = ANY($1::uuid[]) ORDER BY payment_id FOR UPDATE",  # noqa: S608 - a constant
        list(payment_ids),
    )
    return {row["payment_id"]: _row(row) for row in rows}


async def insert(tx: Tx, rows: Sequence[PaymentRow], *, held: Collection[UUID], lease: Lease) -> None:
    """New payments. Those in `held` are leased at once to whom took them in; other unsettled ones are due now. An id that is taken is a
    unique violation: somebody else was faster, load again."""
    if not rows:
        return
    await tx.execute(
        """INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, params_hash, status, version, method_token, card_jwe,
               reason, was_case, rung, key_number, cause_id, correlation_id, traceparent, fence, leased_by, due_at)
           SELECT u.payment_id, u.invoice_id, u.amount_minor, u.currency, u.params_hash, u.status, u.version, u.method_token, u.card_jwe,
               u.reason, false, 0, 1, u.cause_id, u.correlation_id, u.traceparent, u.fence,
               CASE WHEN u.held THEN $2::uuid END,
               CASE WHEN u.held THEN now() + make_interval(secs => $3) WHEN u.status = 'requested' THEN now() END
           FROM unnest($1::payment_row[]) u""",
        [_new_row(row, held=row.payment.payment_id in held) for row in rows],
        lease.holder,
        lease.seconds,
    )


def _new_row(row: PaymentRow, *, held: bool) -> tuple[object, ...]:
    payment, origin = row.payment, row.origin
    return (
        payment.payment_id,
        payment.invoice_id,
        payment.amount_minor,
        payment.currency,
        payment.params_hash,
        payment.status,
        payment.version,
        payment.method_token,
        payment.card_jwe,
        payment.reason,
        origin.message_id,
        origin.correlation_id,
        origin.traceparent,
        row.fence,
        held,
    )


_UPDATE = """UPDATE payments p SET
           status = u.status, version = u.version, method_token = u.method_token, card_jwe = u.card_jwe, gateway_id = u.gateway_id,
           pending_status = u.pending_status, pending_reason = u.pending_reason, reason = u.reason,
           receipt_number = u.receipt_number, refund_id = u.refund_id, decided_by = u.decided_by, was_case = u.was_case,
           rung = u.rung, key_number = u.key_number, cause_id = u.cause_id, correlation_id = u.correlation_id,
           traceparent = u.traceparent, fence = u.fence, updated_at = now(),
           leased_by = CASE WHEN u.kept THEN $2::uuid END,
           due_at = CASE WHEN NOT u.kept THEN now() + make_interval(secs => u.delay_s)
                         WHEN p.due_at > now() + make_interval(secs => $4) THEN p.due_at
                         ELSE now() + make_interval(secs => $3) END
       FROM unnest($1::payment_update[]) u
       WHERE p.payment_id = u.payment_id AND p.fence = u.held_fence
       RETURNING p.payment_id, u.held_fence"""


async def update(tx: Tx, updates: Sequence[PaymentUpdate], lease: Lease) -> set[tuple[UUID, int]]:
    """Store the new states of those rows whose fence still is the one they were decided on; their ids and that fence."""
    if not updates:
        return set()
    rows = await tx.fetch(_UPDATE, *_updated(updates, lease))
    return {(row["payment_id"], row["held_fence"]) for row in rows}


async def update_all(writes: WriteBatch, updates: Sequence[PaymentUpdate], lease: Lease) -> None:
    """The same for all or none, with everything else that is written: see `WriteBatch.execute`."""
    await writes.execute(_UPDATE, *_updated(updates, lease), rows=len(updates))


def _updated(updates: Sequence[PaymentUpdate], lease: Lease) -> tuple[list[tuple[object, ...]], UUID, float, float]:
    return [_updated_row(update) for update in updates], lease.holder, lease.seconds, lease.renew_below_s


def _updated_row(update: PaymentUpdate) -> tuple[object, ...]:
    row, payment, origin = update.row, update.row.payment, update.row.origin
    pending = payment.pending
    return (
        payment.payment_id,
        update.held_fence,
        payment.status,
        payment.version,
        payment.method_token,
        payment.card_jwe,
        payment.gateway_id,
        pending.status if pending else None,
        pending.reason if pending else None,
        payment.reason,
        payment.receipt_number,
        payment.refund_id,
        payment.decided_by,
        payment.was_case,
        payment.rung,
        payment.key_number,
        origin.message_id,
        origin.correlation_id,
        origin.traceparent,
        row.fence,
        update.kept,
        update.delay_s,
    )


async def claim(connection: Connection, lease: Lease, *, at_most: int) -> list[PaymentRow]:
    """Rows that are due, now leased to the holder under a new fence: nobody else's results count any more. A crashed holder's rows are
    due when its lease ends."""
    rows = await connection.fetch(
        f"""WITH due AS (
               SELECT payment_id AS due_id FROM payments WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
           UPDATE payments SET fence = fence + 1, leased_by = $2, due_at = now() + make_interval(secs => $3)
           FROM due WHERE payment_id = due_id RETURNING {_ROW}""",  # noqa: S608 - a constant
        at_most,
        lease.holder,
        lease.seconds,
    )
    return [row for row in map(_readable, rows) if row is not None]


def _readable(record: Record) -> PaymentRow | None:
    """None for a row that this build cannot read (a newer one may have written it): its lease runs out, and the others are worked on."""
    try:
        return _row(record)
    except Exception:  # whatever is wrong with one row, it is no reason to leave the others alone
        log.exception("payment_unreadable", payment_id=str(record["payment_id"]))
        return None


async def release(connection: Connection, held: Sequence[tuple[UUID, int]]) -> None:
    """Give up leases (payment id, fence) before their end: whoever is free takes the rows now."""
    await connection.execute(
        """UPDATE payments p SET leased_by = NULL, due_at = now()
           FROM unnest($1::uuid[], $2::bigint[]) AS u (payment_id, fence)
           WHERE p.payment_id = u.payment_id AND p.fence = u.fence AND p.leased_by IS NOT NULL""",
        [payment_id for payment_id, _ in held],
        [fence for _, fence in held],
    )


async def hurry(tx: Tx, payment_ids: Sequence[UUID]) -> None:
    """Make the next attempt due now, unless someone is at it. It takes a rung of the ladder as any other: whoever asks for ever must not
    keep the ladder from its end."""
    if payment_ids:
        await tx.execute(
            """UPDATE payments SET due_at = now()
               WHERE payment_id = ANY($1::uuid[]) AND leased_by IS NULL AND (due_at IS NULL OR due_at > now())""",
            list(payment_ids),
        )


async def counts(connection: Connection) -> PaymentCounts:
    """What waits, for the metrics. A case is asked about now and then, so it is due some time like all that is not at rest."""
    row = await connection.fetchrow(
        """SELECT count(*) FILTER (WHERE due_at <= now()) AS due, count(*) FILTER (WHERE status = 'in_doubt') AS in_doubt,
                  count(*) FILTER (WHERE status = 'needs_decision') AS needs_decision
           FROM payments WHERE due_at IS NOT NULL"""
    )
    return PaymentCounts(**row) if row is not None else PaymentCounts(0, 0, 0)


def _row(row: Record) -> PaymentRow:
    pending_status = row["pending_status"]
    payment = Payment(
        payment_id=row["payment_id"],
        invoice_id=row["invoice_id"],
        status=PaymentStatus(row["status"]),
        version=row["version"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        method_token=row["method_token"],
        card_jwe=row["card_jwe"],
        params_hash=row["params_hash"],
        gateway_id=row["gateway_id"],
        pending=_verdict(pending_status, row["pending_reason"]) if pending_status else None,
        reason=row["reason"],
        receipt_number=row["receipt_number"],
        refund_id=row["refund_id"],
        decided_by=row["decided_by"],
        was_case=row["was_case"],
        rung=row["rung"],
        key_number=row["key_number"],
    )
    return PaymentRow(payment, row["fence"], Origin(row["cause_id"], row["correlation_id"], row["traceparent"]))


def _verdict(status: str, reason: str) -> PendingOutcome:
    return PendingOutcome(
        PaymentStatus.DECLINED if status == PaymentStatus.DECLINED else PaymentStatus.NOT_CHARGED, reason
    )


# -- attempts, outcomes, decisions: append only ----------------------------------------------------------------------------------------


_ATTEMPT = "payment_id, fence, seq, at, step, answer, evidence, idempotency_key"
_ATTEMPT_ROW = attrgetter(*_ATTEMPT.split(", "))


_INSERT_ATTEMPTS = f"INSERT INTO attempts ({_ATTEMPT}) SELECT * FROM unnest($1::attempt_row[])"  # noqa: S608 - our names


async def save_attempts(tx: Tx, attempts: Sequence[GatewayAttempt]) -> None:
    """Keep what the gateway said, whoever holds the row by now. One that is kept already stays as it is."""
    if attempts:
        await tx.execute(f"{_INSERT_ATTEMPTS} ON CONFLICT DO NOTHING", list(map(_ATTEMPT_ROW, attempts)))


async def insert_attempts(writes: WriteBatch, attempts: Sequence[GatewayAttempt]) -> None:
    """Keep what the gateway said for the first time; one that is kept already is a unique violation."""
    if attempts:
        await writes.execute(_INSERT_ATTEMPTS, list(map(_ATTEMPT_ROW, attempts)))


async def last_attempts(tx: Tx, payment_ids: Collection[UUID]) -> dict[UUID, tuple[GatewayAttempt, ...]]:
    """The last attempts of each payment, oldest first."""
    if not payment_ids:
        return {}
    rows = await tx.fetch(
        f"""SELECT a.payment_id, a.fence, a.seq, a.at, a.step, a.answer, a.evidence, a.idempotency_key
            FROM unnest($1::uuid[]) AS u (payment_id) CROSS JOIN LATERAL (
                SELECT {_ATTEMPT} FROM attempts WHERE attempts.payment_id = u.payment_id ORDER BY fence DESC, seq DESC LIMIT $2) a
            ORDER BY a.payment_id, a.fence, a.seq""",  # noqa: S608 - our names
        list(payment_ids),
        ATTEMPTS_TOLD_MAX,
    )
    attempts: dict[UUID, tuple[GatewayAttempt, ...]] = {}
    for row in rows:
        attempts[row["payment_id"]] = (*attempts.get(row["payment_id"], ()), GatewayAttempt(**row))
    return attempts


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


async def save_outcomes(tx: Tx, said: Sequence[PublishedOutcome]) -> list[Outgoing]:
    """Keep what is announced, one a version; what is to be sent. A version that has its outcome already keeps it: a commit whose reply was
    lost is repeated with the bytes of the first time."""
    if not said:
        return []
    rows = await tx.fetch(
        f"""{_INSERT_OUTCOMES} ON CONFLICT (payment_id, version) DO UPDATE SET version = excluded.version
            RETURNING message_id, exchange, routing_key, type, correlation_id, body""",
        list(map(_OUTCOME_ROW, said)),
    )
    return [_outgoing(row) for row in rows]


async def insert_outcomes(writes: WriteBatch, said: Sequence[PublishedOutcome]) -> None:
    """Keep what is announced for the first time; a version that has its outcome already is a unique violation."""
    if said:
        await writes.execute(_INSERT_OUTCOMES, list(map(_OUTCOME_ROW, said)))


async def outcomes_of(tx: Tx, versions: Sequence[tuple[UUID, int]]) -> list[Outgoing]:
    """What these (payment id, version) announced; a version that announced nothing is absent."""
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


async def known_decisions(tx: Tx, message_ids: Sequence[UUID]) -> frozenset[UUID]:
    """Those of these messages whose decision is kept."""
    if not message_ids:
        return frozenset()
    found = await tx.fetch("SELECT message_id FROM decisions WHERE message_id = ANY($1::uuid[])", list(message_ids))
    return frozenset(row["message_id"] for row in found)


_DECISION = (
    "message_id, payment_id, resolution, expected_version, receipt_number, evidence, decided_by, reason, refusal"
)
_DECISION_ROW = attrgetter(*_DECISION.split(", "))


async def insert_decisions(tx: Tx, decisions: Sequence[DecisionRecord]) -> None:
    """Keep who decided what on which evidence."""
    if not decisions:
        return
    await tx.execute(
        f"INSERT INTO decisions ({_DECISION}) SELECT * FROM unnest($1::decision_row[])",  # noqa: S608 - our names
        list(map(_DECISION_ROW, decisions)),
    )
