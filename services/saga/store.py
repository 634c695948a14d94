"""This service's SQL, set-based: sagas, the journal of their transitions, deadlines."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from services.saga.domain import Capture, Failure, Saga, SagaStatus
from services.saga.refunds import AskedRefund, AskedRefunds, AskedRefundStatus
from shared.ids import derived_id
from shared.messaging.envelope import Cause
from shared.observability import metrics
from shared.persistence.database import Connection, Record, Tx
from shared.persistence.due_rows import WHENEVER, DueRows, DueWindow
from shared.persistence.retention import RetentionRule, retention_of_details
from shared.persistence.store_sampler import Gauged, Reading
from shared.persistence.unreadable import read_rows, readable_rows
from shared.persistence.writes import WriteBatch
from shared.records import dataclass

log = structlog.get_logger(__name__)

_COLUMNS = (
    "payment_id, invoice_id, status, version, payment_version, captured_minor, captured_currency, receipt_number, failure_outcome, "
    "failure_reason, failure_advice, failure_recorded, flagged, refund_reason, repeats, deadline, deadline_s, refunds"
)
_SELECT = f"SELECT {_COLUMNS} FROM sagas WHERE payment_id = ANY($1::uuid[]) ORDER BY payment_id"  # noqa: S608 - our names
_SELECT_AND_LOCK = f"{_SELECT} FOR UPDATE"

FIRED_RETENTION_DAYS = 7
"""How long fired deadlines are kept, for people who look into a case. The journal has their effects."""
FIRED_RETENTION = RetentionRule(
    "fired deadlines",
    FIRED_RETENTION_DAYS,
    """DELETE FROM deadlines WHERE id = ANY(ARRAY(
           SELECT id FROM deadlines WHERE fired_at < now() - make_interval(days => $1) ORDER BY fired_at LIMIT $2))""",
)


ENDED_STATUSES = (SagaStatus.COMPLETED, SagaStatus.FAILED, SagaStatus.REFUNDED, SagaStatus.NOT_REFUNDED)
ENDED = "status IN ('completed', 'failed', 'refunded', 'not_refunded')"
"""A condition on a row of `sagas`, in SQL."""
JOURNAL_RETENTION_DAYS = 400
"""How long the journal of an ended saga is kept: until the books of the year in which it ended are closed. That is far longer than a
cardholder can dispute a charge (120 days with most schemes). If a dispute comes even later, events and outcomes say what happened: they are
kept for ever. Only the journal says why."""
JOURNAL_RETENTION = retention_of_details(
    "journals of sagas that ended",
    JOURNAL_RETENTION_DAYS,
    details="transitions",
    time="at",
    owners="sagas",
    key="payment_id",
    at_rest=f"{ENDED} AND updated_at < now() - make_interval(days => $1)",
    note="journal_from = version + 1",
)
"""A journal is deleted as a whole, because its saga has not changed since the last entry."""


AT_WORK = Reading(
    f"""SELECT s.status AS state, count(*) AS sagas,
            max(extract(epoch FROM now() - coalesce((SELECT t.at FROM transitions t
                                                     WHERE t.payment_id = s.payment_id AND t.from_status <> t.to_status
                                                     ORDER BY t.version DESC LIMIT 1), s.updated_at))) AS oldest_s
        FROM sagas s WHERE NOT {ENDED} GROUP BY s.status""",  # noqa: S608 - a constant
    [Gauged(metrics.SAGAS, "sagas"), Gauged(metrics.SAGAS_OLDEST, "oldest_s", max)],
    labels={"state": sorted(set(SagaStatus) - {SagaStatus.ABSENT, *ENDED_STATUSES})},
)
"""Sagas that have not ended. The journal tells since when one has been in its state: reminders leave the state as it is."""


@dataclass(frozen=True, slots=True)
class SagaTransition:
    """The saga after a fact. If a new deadline was set, it is due in `deadline_s` seconds. `fact` is the name of the fact's class."""

    saga: Saga
    from_status: SagaStatus
    fact: str
    deadline_s: float | None


@dataclass(frozen=True, slots=True)
class DueDeadline:
    """A deadline that fires."""

    id: UUID
    payment_id: UUID
    number: int
    correlation_id: str


def deadline_id(payment_id: UUID, number: int) -> UUID:
    """The id of a deadline. The messages that the deadline causes derive their ids from it."""
    return derived_id(payment_id, f"deadline:{number}")


async def count_overdue(connection: Connection, for_s: int, at_most: int) -> int:
    """How many deadlines have been due for longer than `for_s` seconds and have not fired; counted up to `at_most`."""
    return int(
        await connection.fetchval(
            """SELECT count(*) FROM (SELECT FROM deadlines WHERE fired_at IS NULL AND due_at < now() - make_interval(secs => $1)
               ORDER BY due_at LIMIT $2) d""",
            for_s,
            at_most,
        )
    )


async def load(tx: Tx, payment_ids: Collection[UUID], *, lock: bool = True) -> dict[UUID, Saga]:
    """The sagas of these payments. A saga that does not exist is absent. With `lock`, rows are locked in the order of their ids.

    Raises UnreadableRowsError.
    """
    rows = await tx.fetch(_SELECT_AND_LOCK if lock else _SELECT, list(payment_ids))
    return read_rows(rows, "payment_id", _saga)


async def load_readable(tx: Tx, payment_ids: Collection[UUID]) -> dict[UUID, Saga]:
    """Like `load`, with locks, but rows that this build cannot read are left out, so that they delay no others.

    A newer build may have written such a row.
    """
    rows = await tx.fetch(_SELECT_AND_LOCK, list(payment_ids))
    return readable_rows(rows, "payment_id", _saga, log=log, event="saga_unreadable")


async def save(writes: WriteBatch, transitions: Sequence[tuple[Cause, SagaTransition]]) -> None:
    """Collect the writes of transitions: journal, sagas, deadlines.

    If a saga has changed since it was read, `flush` stores nothing and raises. It raises MovedOnError, or a unique violation if another
    instance stored the same version of the journal, the same saga or the same deadline. Then the caller must load and decide again.
    """
    if not transitions:
        return
    await _insert_journal(writes, transitions)
    await _write_sagas(writes, transitions)
    with_deadline = [(cause, transition) for cause, transition in transitions if transition.deadline_s is not None]
    await _insert_deadlines(writes, with_deadline)


async def _insert_journal(writes: WriteBatch, transitions: Sequence[tuple[Cause, SagaTransition]]) -> None:
    await writes.execute(
        """INSERT INTO transitions (payment_id, version, from_status, to_status, fact, cause_id, correlation_id)
           SELECT * FROM unnest($1::transition_row[])""",
        [
            (m.saga.payment_id, m.saga.version, m.from_status, m.saga.status, m.fact, cause.id, cause.correlation_id)
            for cause, m in transitions
        ],
    )


_INSERT = f"INSERT INTO sagas ({_COLUMNS}, updated_at) SELECT {_COLUMNS}, now() FROM unnest($1::saga_row_3[])"  # noqa: S608 - our names
_UPDATE = f"""UPDATE sagas s SET {", ".join(f"{name} = u.{name}" for name in _COLUMNS.split(", ")[2:])}, updated_at = now()
       FROM unnest($1::saga_row_3[]) u
       WHERE s.payment_id = u.payment_id AND s.payment_id = ANY($2::uuid[]) AND s.version = u.journal_from - 1
       RETURNING s.payment_id"""  # noqa: S608 - our names
"""The keys are given beside the rows, so that a database of several shards knows where these are (deploy/OUTGROWING.md)."""


async def _write_sagas(writes: WriteBatch, transitions: Sequence[tuple[Cause, SagaTransition]]) -> None:
    """Insert sagas whose first transition is among these, and update the others if their version is still the one before.

    There is no upsert, because it would lock each row first and then confirm or undo its insert. With it, a payment took 1.1 times as much
    CPU of PostgreSQL (measured).
    """
    sagas = {transition.saga.payment_id: transition.saga for _, transition in transitions}
    first: dict[UUID, int] = {}
    for _, transition in transitions:
        first.setdefault(transition.saga.payment_id, transition.saga.version)
    new = [_saga_row(saga, journal_from=1) for key, saga in sagas.items() if first[key] == 1]
    changed = [key for key in sagas if first[key] > 1]
    if new:
        await writes.execute(_INSERT, new)
    if changed:
        rows = [_saga_row(sagas[key], journal_from=first[key]) for key in changed]
        await writes.execute(_UPDATE, rows, changed, rows=len(changed), apart=True)


def _saga_row(saga: Saga, *, journal_from: int) -> tuple[object, ...]:
    capture, failure = saga.capture, saga.failure
    return (
        saga.payment_id,
        saga.invoice_id,
        saga.status,
        saga.version,
        saga.payment_version,
        capture.amount_minor if capture else None,
        capture.currency if capture else None,
        capture.receipt_number if capture else None,
        failure.outcome if failure else None,
        failure.reason if failure else None,
        failure.advice if failure else None,
        saga.failure_recorded,
        saga.flagged,
        saga.refund_reason,
        saga.repeats,
        saga.deadline,
        saga.deadline_s,
        _stored_refunds(saga.refunds),
        journal_from,
    )


async def _insert_deadlines(writes: WriteBatch, transitions: Sequence[tuple[Cause, SagaTransition]]) -> None:
    """Insert deadlines. They are due by the database's clock, which all instances share."""
    if not transitions:
        return
    await writes.execute(
        """INSERT INTO deadlines (id, payment_id, number, correlation_id, due_at)
           SELECT u.id, u.payment_id, u.number, u.correlation_id, now() + make_interval(secs => u.delay_s)
           FROM unnest($1::deadline_row[]) u""",
        [
            (
                deadline_id(transition.saga.payment_id, transition.saga.deadline),
                transition.saga.payment_id,
                transition.saga.deadline,
                cause.correlation_id,
                transition.deadline_s,
            )
            for cause, transition in transitions
        ],
    )


_FIRST_DUE = """
    SELECT now() AS now, (
        SELECT due_at FROM deadlines
        WHERE fired_at IS NULL AND due_at >= coalesce($1::timestamptz, '-infinity') AND due_at <= least($2::timestamptz, now())
        ORDER BY fired_at, due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS first"""


def due_rows() -> DueRows:
    """Finds deadlines to fire."""
    return DueRows(_FIRST_DUE)


async def fire_due(
    tx: Tx, *, at_most: int, window: DueWindow = WHENEVER, now: datetime | None = None
) -> list[DueDeadline]:
    """Mark due deadlines of `window` as fired, and return them, earliest first, at most `at_most`.

    They are due at `now`, by default the database's time. Deadlines that another instance is firing are skipped.
    """
    rows = await tx.fetch(
        """UPDATE deadlines SET fired_at = now() WHERE id IN (
               SELECT id FROM deadlines
               WHERE fired_at IS NULL AND due_at >= coalesce($3::timestamptz, '-infinity')
                 AND due_at <= least($4::timestamptz, coalesce($1::timestamptz, now()))
               ORDER BY fired_at, due_at LIMIT $2 FOR UPDATE SKIP LOCKED)
           RETURNING id, payment_id, number, correlation_id, due_at""",
        now,
        at_most,
        window.since,
        window.until,
    )
    in_order = sorted(rows, key=lambda row: (row["due_at"], row["number"]))
    return [DueDeadline(row["id"], row["payment_id"], row["number"], row["correlation_id"]) for row in in_order]


async def put_off(tx: Tx, deadline_ids: Sequence[UUID], *, seconds: float) -> None:
    """Make deadlines that have just fired fire again in `seconds`."""
    if deadline_ids:
        await tx.execute(
            "UPDATE deadlines SET fired_at = NULL, due_at = now() + make_interval(secs => $2) WHERE id = ANY($1::uuid[])",
            list(deadline_ids),
            seconds,
        )


def _saga(row: Record) -> Saga:
    return Saga(
        payment_id=row["payment_id"],
        invoice_id=row["invoice_id"],
        status=SagaStatus(row["status"]),
        version=row["version"],
        payment_version=row["payment_version"],
        capture=_capture(row),
        failure=_failure(row),
        failure_recorded=row["failure_recorded"],
        flagged=row["flagged"],
        refund_reason=row["refund_reason"],
        repeats=row["repeats"],
        deadline=row["deadline"],
        deadline_s=row["deadline_s"],
        refunds=tuple(_refund(stored) for stored in row["refunds"] or ()),
    )


def _stored_refunds(refunds: AskedRefunds) -> list[dict[str, Any]] | None:
    """The refunds as the row stores them. None if there are none, as in rows of the build before."""
    return [_stored_refund(asdict(refund)) for refund in refunds] or None


def _stored_refund(refund: dict[str, Any]) -> dict[str, Any]:
    """The refund without a person who decided, if none did: the build before cannot read a row that names one."""
    return {name: value for name, value in refund.items() if name != "decided_by" or value is not None}


def _refund(stored: dict[str, Any]) -> AskedRefund:
    """A refund as stored. A member that a newer build added is left out."""
    known = {name: stored[name] for name in _REFUND if name in stored}
    return AskedRefund(
        **known | {"refund_id": UUID(stored["refund_id"]), "status": AskedRefundStatus(stored["status"])}
    )


_REFUND = tuple(field.name for field in fields(AskedRefund))


def _capture(row: Record) -> Capture | None:
    if row["receipt_number"] is None:
        return None
    return Capture(row["captured_minor"], row["captured_currency"], row["receipt_number"])


def _failure(row: Record) -> Failure | None:
    if row["failure_outcome"] is None:
        return None
    return Failure(row["failure_outcome"], row["failure_reason"], row["failure_advice"])
