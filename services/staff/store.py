"""This service's SQL, set-based: dead letters, cases, and the append-only journal."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import structlog

from services.staff.dead_letters import DeadLetter, DeadLetterRecord, DeadLetterStatus, Disposition, Withheld
from services.staff.domain import (
    CASE_REASONS,
    OPEN,
    Case,
    CaseAttempt,
    CaseStatus,
    DecisionRefused,
    Dispute,
    GatewaySide,
    LastDecision,
    SentDecision,
)
from services.staff.people import Actor, Via
from services.staff.proposals import Proposal, ProposalState, ProposedAct
from services.staff.refunds import CaseRefundStatus, RefundTold
from shared.messaging.failures import FAILURE_REASONS
from shared.observability import metrics
from shared.persistence.database import Connection, Tx
from shared.persistence.database import Record as Row
from shared.persistence.retention import RetentionRule
from shared.persistence.store_sampler import Gauged, Reading
from shared.persistence.unreadable import read_rows, readable_rows
from shared.persistence.writes import WriteBatch

log = structlog.get_logger(__name__)

SELECTED_MAX = 10_000
"""Dead letters in one action. The selection is made before the first one is handled, so a message that fails again is not sent again."""
BODY_RETENTION_DAYS = 30
"""How long the body of a settled dead letter is kept, in case somebody asks what it was. The inbox knows its message as long. A body may
have texts of people, so it is not kept for ever. An open dead letter waits for a person, however long."""
BODY_RETENTION = RetentionRule(
    "bodies of settled dead letters",
    BODY_RETENTION_DAYS,
    f"""UPDATE dead_letters SET body = NULL, headers = '{{}}', withheld = '{Withheld.ERASED}' WHERE id IN (
            SELECT id FROM dead_letters WHERE settled_at < now() - make_interval(days => $1) AND body IS NOT NULL
            ORDER BY settled_at LIMIT $2 FOR UPDATE SKIP LOCKED)""",  # noqa: S608 - a constant
    rows_max=500,
)
"""Only bodies and headers are deleted, and the records stay. A page has at most 32 MiB of bodies, which takes far less than the statement
timeout."""

# -- dead letters ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of dead letters that fulfil all conditions. Without conditions it selects all.

    `older_than` and `newer_than` are compared with `last_seen`.
    """

    ids: tuple[UUID, ...] | None = None
    queue: str | None = None
    reason: str | None = None
    type: str | None = None
    status: DeadLetterStatus | None = None
    older_than: datetime | None = None
    newer_than: datetime | None = None


async def select_ids(connection: Connection, selection: Selection) -> list[UUID]:
    """The ids of the selected dead letters, in the order in which they first arrived, at most `SELECTED_MAX`."""
    rows = await connection.fetch(
        f"SELECT id FROM dead_letters WHERE {_SELECTED} ORDER BY first_seen, id LIMIT $8",  # noqa: S608 - a constant
        *_arguments(selection),
        SELECTED_MAX,
    )
    return [row["id"] for row in rows]


async def select(connection: Connection, selection: Selection, *, at_most: int) -> list[DeadLetterRecord]:
    """The selected dead letters, latest first, at most `at_most`."""
    rows = await connection.fetch(
        f"SELECT {_LETTER_NAMES} FROM dead_letters WHERE {_SELECTED} ORDER BY last_seen DESC, id LIMIT $8",  # noqa: S608 - a constant
        *_arguments(selection),
        at_most,
    )
    return [_record(row) for row in rows]


async def find_letter(connection: Connection, letter_id: UUID) -> DeadLetterRecord | None:
    """The dead letter with this id; None if there is none."""
    row = await connection.fetchrow(f"SELECT {_LETTER_NAMES} FROM dead_letters WHERE id = $1", letter_id)  # noqa: S608 - a constant
    return None if row is None else _record(row)


async def count(connection: Connection, selection: Selection) -> int:
    """The number of selected dead letters."""
    return int(
        await connection.fetchval(
            f"SELECT count(*) FROM dead_letters WHERE {_SELECTED}",  # noqa: S608 - a constant
            *_arguments(selection),
        )
    )


async def ids_ending(connection: Connection, table: str, end: str, *, at_most: int) -> list[UUID]:
    """The ids in `dead_letters` or `cases` that end with `end`, in lower case; at most `at_most`. Two mean that the end is ambiguous."""
    return [row["id"] for row in await connection.fetch(_IDS_ENDING[table], end[::-1], at_most)]


# A range, and not LIKE: its pattern would be an argument, so the plan could not use the index. `g` comes after all that is in an id.
_IDS_ENDING = {
    "dead_letters": """SELECT id FROM dead_letters WHERE reverse(id::text) COLLATE "C" >= $1 AND reverse(id::text) COLLATE "C" < $1 || 'g'
                       ORDER BY reverse(id::text) COLLATE "C" LIMIT $2""",
    "cases": """SELECT payment_id AS id FROM cases
                WHERE reverse(payment_id::text) COLLATE "C" >= $1 AND reverse(payment_id::text) COLLATE "C" < $1 || 'g'
                ORDER BY reverse(payment_id::text) COLLATE "C" LIMIT $2""",
}


async def values_of(connection: Connection, column: Literal["queue", "reason", "type"]) -> list[str]:
    """Every value that dead letters have in this column. It reads all of them: only for a person who asked for one that is not there."""
    return [row["value"] for row in await connection.fetch(_VALUES_OF[column])]


_VALUES_OF = {
    "queue": "SELECT DISTINCT queue AS value FROM dead_letters ORDER BY 1",
    "reason": "SELECT DISTINCT reason AS value FROM dead_letters ORDER BY 1",
    "type": "SELECT DISTINCT type AS value FROM dead_letters WHERE type IS NOT NULL ORDER BY 1",
}


async def lock_letters(tx: Tx, ids: Collection[UUID]) -> dict[UUID, DeadLetterRecord]:
    """The records of `ids` that exist, locked in the order of their ids until the transaction ends."""
    rows = await tx.fetch(
        f"SELECT {_LETTER_NAMES} FROM dead_letters WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE",  # noqa: S608 - a constant
        list(ids),
    )
    return {row["id"]: _record(row) for row in rows}


async def save_letters(tx: Tx, records: Sequence[DeadLetterRecord], *, locked: Collection[UUID]) -> None:
    """Overwrite the records that `lock_letters` locked, and insert the others.

    A record that another process inserted meanwhile is a unique violation: load again.

    A trigger counts the groups of all of them. Their counts are locked before, in the order of their keys, because an INSERT and an UPDATE
    follow each other here.
    """
    await tx.execute(
        _LOCK_GROUPS,
        [record.id for record in records],
        *([getattr(record.letter, name) for record in records] for name in ("queue", "type", "reason", "error_type")),
    )
    for statement, some in (
        (_INSERT_LETTERS, [record for record in records if record.id not in locked]),
        (_UPDATE_LETTERS, [record for record in records if record.id in locked]),
    ):
        if some:
            rows = [_letter_row(record) for record in some]
            await tx.execute(statement, *([row[name] for row in rows] for name in _LETTER_COLUMNS))


async def lock_unread(tx: Tx, *, at_most: int) -> list[DeadLetter]:
    """Dead letters whose bodies nobody has read for what they say, latest first, locked until the transaction ends."""
    rows = await tx.fetch(
        f"""SELECT {_LETTER_NAMES} FROM dead_letters WHERE may_charge IS NULL
            ORDER BY last_seen DESC LIMIT $1 FOR UPDATE SKIP LOCKED""",  # noqa: S608 - a constant
        at_most,
    )
    return [_record(row).letter for row in rows]


async def note_facts(tx: Tx, letters: Sequence[DeadLetter]) -> None:
    """Store what the bodies of these dead letters say. Their rows are locked."""
    if letters:
        facts = ("id", "invoice_id", "payment_id", "amount_minor", "currency", "may_charge", "asked_at")
        await tx.execute(
            """UPDATE dead_letters d SET invoice_id = u.invoice_id, payment_id = u.payment_id, amount_minor = u.amount_minor,
                   currency = u.currency, may_charge = u.may_charge, asked_at = u.asked_at
               FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::text[], $6::boolean[], $7::timestamptz[])
                   AS u (id, invoice_id, payment_id, amount_minor, currency, may_charge, asked_at)
               WHERE d.id = u.id""",
            *([getattr(letter, name) for letter in letters] for name in facts),
        )


async def lock_replayed(tx: Connection, entry_ids: Collection[UUID]) -> None:
    """Lock the dead letters with these last replays, in the order of their ids, until the transaction ends."""
    await tx.fetch(
        "SELECT id FROM dead_letters WHERE replay_entry = ANY($1::uuid[]) ORDER BY id FOR UPDATE", list(entry_ids)
    )


async def note_outcomes(writes: WriteBatch, outcomes: Sequence[tuple[UUID, str, str | None, datetime]]) -> None:
    """Note what became of replays: the entry in the journal, the outcome, its reason, and when it was told. The first outcome stands,
    but for that of a duplicate."""
    if outcomes:
        await writes.execute(
            """UPDATE dead_letters d SET outcome = u.outcome, outcome_reason = u.reason, outcome_at = u.at
               FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) AS u (entry_id, outcome, reason, at)
               WHERE d.replay_entry = u.entry_id AND (d.outcome IS NULL OR d.outcome = 'duplicate')""",
            *(list(column) for column in zip(*outcomes, strict=True)),
        )


_SELECTED = """($1::uuid[] IS NULL OR id = ANY($1)) AND ($2::text IS NULL OR queue = $2) AND ($3::text IS NULL OR reason = $3)
    AND ($4::text IS NULL OR type = $4 OR type LIKE '%.' || $4 || '.v%') AND ($5::text IS NULL OR status = $5)
    AND ($6::timestamptz IS NULL OR last_seen < $6) AND ($7::timestamptz IS NULL OR last_seen > $7)"""
"""A type matches by its whole wire name, or by its name alone, such as `PayInvoice`."""


def _arguments(selection: Selection) -> list[object]:
    return [
        list(selection.ids) if selection.ids is not None else None,
        selection.queue,
        selection.reason,
        selection.type,
        selection.status,
        selection.older_than,
        selection.newer_than,
    ]


_LETTER_COLUMNS: dict[str, str] = {
    "id": "uuid",
    "queue": "text",
    "origin": "text",
    "reason": "text",
    "error_type": "text",
    "error_text": "text",
    "tries": "int",
    "generation": "int",
    "failed_at": "timestamptz",
    "exchange": "text",
    "routing_key": "text",
    "message_id": "text",
    "event_id": "uuid",
    "type": "text",
    "content_type": "text",
    "correlation_id": "text",
    "reply_to": "text",
    "headers": "jsonb",
    "body": "bytea",
    "body_bytes": "int",
    "withheld": "text",
    "replays": "int",
    "seen": "int",
    "status": "text",
    "first_seen": "timestamptz",
    "last_seen": "timestamptz",
    "settled_by": "text",
    "settled_at": "timestamptz",
    "settled_reason": "text",
    "sender": "text",
    "invoice_id": "text",
    "payment_id": "uuid",
    "amount_minor": "bigint",
    "currency": "text",
    "may_charge": "boolean",
    "asked_at": "timestamptz",
    "replay_entry": "uuid",
    "outcome": "text",
    "outcome_reason": "text",
    "outcome_at": "timestamptz",
}
_LETTER_NAMES = ", ".join(_LETTER_COLUMNS)
"""Columns are always named, and never `*`. So this build also runs when a newer build has added a column."""
_UNNESTED = ", ".join(f"${number}::{type_}[]" for number, type_ in enumerate(_LETTER_COLUMNS.values(), start=1))
_INSERT_LETTERS = f"INSERT INTO dead_letters ({_LETTER_NAMES}) SELECT * FROM unnest({_UNNESTED})"  # noqa: S608 - constants
_UPDATE_LETTERS = f"""UPDATE dead_letters d SET {", ".join(f"{name} = u.{name}" for name in _LETTER_COLUMNS if name != "id")}
    FROM unnest({_UNNESTED}) AS u ({_LETTER_NAMES}) WHERE d.id = u.id"""  # noqa: S608 - constants


_LOCK_GROUPS = """
    SELECT 1 FROM dead_letter_groups WHERE grp = ANY(ARRAY(
        SELECT grp FROM dead_letters WHERE id = ANY($1::uuid[])
        UNION SELECT letter_group(queue, type, reason, error_type)
            FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) AS u (queue, type, reason, error_type)
    )) ORDER BY grp FOR UPDATE"""


def _letter_row(record: DeadLetterRecord) -> dict[str, Any]:
    letter, settlement = record.letter, record.settlement
    row = {name: getattr(letter if hasattr(letter, name) else record, name, None) for name in _LETTER_COLUMNS}
    if settlement is not None:
        row |= {"settled_by": settlement.by, "settled_at": settlement.at, "settled_reason": settlement.reason}
    return row


def _record(row: Row) -> DeadLetterRecord:
    withheld = row["withheld"]
    letter = DeadLetter(
        **{name: row[name] for name in DeadLetter.__dataclass_fields__ if name not in {"withheld", "replay_of"}},
        withheld=Withheld(withheld) if withheld else None,
    )
    settled = row["settled_by"]
    return DeadLetterRecord(
        letter,
        replays=row["replays"],
        seen=row["seen"],
        status=DeadLetterStatus(row["status"]),
        first_seen=row["first_seen"],
        last_seen=row["last_seen"],
        settlement=Disposition(settled, row["settled_at"], row["settled_reason"]) if settled else None,
        **{name: row[name] for name in ("replay_entry", "outcome", "outcome_reason", "outcome_at")},
    )


# -- cases -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeptCase:
    """A case with the other columns of its row.

    `decision_waits` says that its decision was not sent yet: it is in the outbox, and the staff service is down or cannot reach the broker.
    `proposal` is the open one.
    """

    case: Case
    correlation_id: str
    opened_at: datetime
    updated_at: datetime
    decision_waits: bool
    claimed_by: str | None = None
    claimed_at: datetime | None = None
    contradicted_at: datetime | None = None
    noted_at: datetime | None = None
    proposal: Proposal | None = None

    @property
    def stands(self) -> Mapping[str, object]:
        """How the case stands, as the journal tells it before and after an act."""
        case, proposal, coming = self.case, self.proposal, self.case.decision_on_its_way
        members = {
            "status": case.status.value,
            "version": case.version,
            "proposed": proposal and proposal.resolution,
            "proposed_by": proposal and proposal.by,
            "decided": coming and coming.resolution,
            "decided_by": coming and coming.by,
            "contradicted": case.is_contradicted or None,
            "claimed_by": self.claimed_by,
        }
        return {name: value for name, value in members.items() if value is not None}


async def lock_cases(tx: Tx, payment_ids: Iterable[UUID]) -> dict[UUID, Case]:
    """The cases of these payments that exist, locked in the order of their ids until the transaction ends. Raises UnreadableRowsError."""
    rows = await tx.fetch(
        f"SELECT {_CASE_COLUMNS} FROM cases WHERE payment_id = ANY($1::uuid[]) ORDER BY payment_id FOR UPDATE",  # noqa: S608 - a constant
        list(payment_ids),
    )
    return read_rows(rows, "payment_id", _case)


async def save_cases(tx: Tx, cases: Sequence[tuple[Case, str]], now: datetime, *, locked: Collection[UUID]) -> None:
    """Overwrite the cases that were locked, and insert the others, each with its correlation id.

    A case that another process inserted meanwhile is a unique violation, which is a conflict: load again.
    """
    for statement, its_cases in (
        (_INSERT_CASES, [pair for pair in cases if pair[0].payment_id not in locked]),
        (_UPDATE_CASES, [pair for pair in cases if pair[0].payment_id in locked]),
    ):
        if its_cases:
            await tx.execute(statement, *_case_columns(its_cases), now)


async def select_cases(connection: Connection, *, open_only: bool, at_most: int) -> list[KeptCase]:
    """Cases, oldest first, because their money has waited longest. At most `at_most`."""
    rows = await connection.fetch(
        f"{SELECT_KEPT_CASE} WHERE NOT $1 OR {CASE_IS_OPEN} ORDER BY opened_at, payment_id LIMIT $2",
        open_only,
        at_most,
    )
    return [kept_case(row) for row in rows]


async def find_case(connection: Connection, payment_id: UUID, *, lock: bool = False) -> KeptCase | None:
    """The case of a payment, or None. With `lock`, its row is locked until the transaction ends."""
    if lock:  # in a statement of its own: the next one sees what was committed while this one waited, in all tables
        # It selects a column, because asyncpg 0.32 writes beyond an empty record when it frees one.
        await connection.fetchrow("SELECT 1 FROM cases WHERE payment_id = $1 FOR UPDATE", payment_id)
    row = await connection.fetchrow(_SELECT_CASE, payment_id)
    return kept_case(row) if row is not None else None


_CASE_COLUMNS = """payment_id, invoice_id, correlation_id, status, version, reason, decided_by, amount_minor, currency, gateway_id,
    attempts_version, details"""
_INSERTED_COLUMNS = f"{_CASE_COLUMNS}, contradicted_version, opened_at, updated_at"
_KEPT_COLUMNS = f"{_CASE_COLUMNS}, opened_at, updated_at, claimed_by, claimed_at, contradicted_at, noted_at"
_OPEN_PROPOSAL = "(SELECT to_jsonb(p) FROM proposals p WHERE p.payment_id = cases.payment_id AND p.state = 'open')"
_DECISION_WAITS = "EXISTS (SELECT FROM outbox WHERE (details #>> '{decision,id}')::uuid = ANY(ids))"
CASE_IS_OPEN = "status IN ('in_doubt', 'needs_decision', 'refund_in_doubt', 'refund_failed')"
KEPT_CASE_NAMES = f"{_KEPT_COLUMNS}, decision_waits, proposal"
"""The columns of `SELECT_KEPT_CASE`, for a statement around it."""
SELECT_KEPT_CASE = f"""SELECT {_KEPT_COLUMNS}, {_DECISION_WAITS} AS decision_waits, {_OPEN_PROPOSAL} AS proposal
    FROM cases"""  # noqa: S608 - constants
_SELECT_CASE = f"{SELECT_KEPT_CASE} WHERE payment_id = $1"
_STAYS_CLAIMED = f"NOT (c.{CASE_IS_OPEN} AND NOT u.{CASE_IS_OPEN})"
"""Nobody is on a case that has just been settled."""
_IS_OPENED_AGAIN = f"u.{CASE_IS_OPEN} AND NOT c.{CASE_IS_OPEN}"
"""The wait that counts is the one since then."""
_CASE_UNNESTED = """unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::text[], $8::bigint[], $9::text[],
    $10::text[], $11::int[], $12::jsonb[], $13::int[])"""
_INSERT_CASES = f"""INSERT INTO cases ({_INSERTED_COLUMNS}, contradicted_at)
    SELECT u.*, $14::timestamptz, $14::timestamptz, CASE WHEN u.contradicted_version IS NOT NULL THEN $14::timestamptz END
    FROM {_CASE_UNNESTED} AS u ({_CASE_COLUMNS}, contradicted_version)"""  # noqa: S608 - constants
_UPDATE_CASES = f"""UPDATE cases c SET status = u.status, version = u.version, reason = u.reason, decided_by = u.decided_by,
    amount_minor = u.amount_minor, currency = u.currency, gateway_id = u.gateway_id, attempts_version = u.attempts_version,
    details = u.details, updated_at = $14::timestamptz, contradicted_version = u.contradicted_version,
    opened_at = CASE WHEN {_IS_OPENED_AGAIN} THEN $14::timestamptz ELSE c.opened_at END,
    contradicted_at = CASE WHEN u.contradicted_version IS NULL THEN NULL
        WHEN u.contradicted_version IS DISTINCT FROM c.contradicted_version THEN $14::timestamptz ELSE c.contradicted_at END,
    noted_at = CASE WHEN u.contradicted_version IS NOT DISTINCT FROM c.contradicted_version THEN c.noted_at END,
    claimed_by = CASE WHEN {_STAYS_CLAIMED} THEN c.claimed_by END, claimed_at = CASE WHEN {_STAYS_CLAIMED} THEN c.claimed_at END
    FROM {_CASE_UNNESTED} AS u ({_CASE_COLUMNS}, contradicted_version) WHERE c.payment_id = u.payment_id"""  # noqa: S608 - constants


def _case_columns(cases: Sequence[tuple[Case, str]]) -> list[list[Any]]:
    return [
        [case.payment_id for case, _ in cases],
        [case.invoice_id for case, _ in cases],
        [correlation_id for _, correlation_id in cases],
        [case.status.value for case, _ in cases],
        [case.version for case, _ in cases],
        [case.reason for case, _ in cases],
        [case.decided_by for case, _ in cases],
        [case.amount_minor for case, _ in cases],
        [case.currency for case, _ in cases],
        [case.gateway_id for case, _ in cases],
        [case.attempts_version for case, _ in cases],
        [_details(case) for case, _ in cases],
        [case.contradicted_version for case, _ in cases],
    ]


def _details(case: Case) -> dict[str, Any]:
    return {
        "attempts": [asdict(attempt) for attempt in case.attempts],
        "refusals": [asdict(refused) for refused in case.refusals],
        "decision": asdict(case.decision) if case.decision else None,
        "inquiry": case.inquiry,
        "settled_as": case.settled_as,
        "gateway": asdict(case.gateway) if case.gateway else None,
        "refunds": [asdict(refund) for refund in case.refunds],
        "decided": asdict(case.decided) if case.decided else None,
        "found_captured": case.found_captured,
        "found_missing": case.found_missing,
        "noted_version": case.noted_version,
    }


def kept_case(row: Row) -> KeptCase:
    more = ("correlation_id", "opened_at", "updated_at", "decision_waits")
    marks = ("claimed_by", "claimed_at", "contradicted_at", "noted_at")
    proposal = row["proposal"]
    return KeptCase(
        _case(row),
        **{name: row[name] for name in (*more, *marks)},
        proposal=_proposal(proposal) if proposal is not None else None,
    )


def _case(row: Row) -> Case:
    plain = {
        "invoice_id",
        "version",
        "reason",
        "decided_by",
        "amount_minor",
        "currency",
        "gateway_id",
        "attempts_version",
    }
    details = row["details"]
    decision = details["decision"]
    return Case(
        payment_id=row["payment_id"],
        status=CaseStatus(row["status"]),
        attempts=tuple(
            CaseAttempt(**_known(CaseAttempt, attempt) | {"at": _moment(attempt["at"])})
            for attempt in details["attempts"]
        ),
        refusals=tuple(
            DecisionRefused(
                **_known(DecisionRefused, r) | {"id": UUID(r["id"]), "decision_id": _uuid_or_none(r["decision_id"])}
            )
            for r in details["refusals"]
        ),
        decision=SentDecision(
            **_known(SentDecision, decision)
            | {
                "id": UUID(decision["id"]),
                "at": _moment(decision["at"]),
                "repeat_at": _moment(repeat_at) if (repeat_at := decision.get("repeat_at")) else None,
            }
        )
        if decision
        else None,
        inquiry=details.get("inquiry", 0),
        settled_as=details.get("settled_as"),
        gateway=_side(details.get("gateway")),
        refunds=tuple(
            RefundTold(
                **_known(RefundTold, r) | {"refund_id": UUID(r["refund_id"]), "status": CaseRefundStatus(r["status"])}
            )
            for r in details.get("refunds", ())
        ),
        decided=LastDecision(**decided | {"status": CaseStatus(decided["status"])})
        if (decided := details.get("decided"))
        else None,
        **{name: details.get(name, 0) for name in ("found_captured", "found_missing", "noted_version")},
        **{name: row[name] for name in plain},
    )


def _side(told: Mapping[str, Any] | None) -> GatewaySide | None:
    if not told:
        return None
    known, dispute = _known(GatewaySide, told), told.get("dispute")
    if dispute:
        due_at = dispute.get("evidence_due_at")
        known["dispute"] = Dispute(
            **_known(Dispute, dispute) | {"evidence_due_at": _moment(due_at) if due_at else None}
        )
    return GatewaySide(**known)


def _known(
    kind: type[CaseAttempt | DecisionRefused | SentDecision | Dispute | GatewaySide | RefundTold],
    members: Mapping[str, Any],
) -> dict[str, Any]:
    """The members that this build knows. A newer build may have written more."""
    return {name: members[name] for name in kind.__dataclass_fields__ if name in members}


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _uuid_or_none(text: str | None) -> UUID | None:
    return UUID(text) if text else None


async def lock_unheeded(tx: Tx, now: datetime, *, at_most: int) -> list[Case]:
    """Cases whose decision was sent, shows neither effect nor refusal, and is to be said again by `now`. They are locked.

    They are open, or a person takes back the decision that settled them.

    Those that another instance has locked are left out.
    """
    rows = await tx.fetch(
        f"""SELECT {_CASE_COLUMNS} FROM cases
            WHERE ({CASE_IS_OPEN} OR details #>> '{{decision,resolution}}' = 'reopen')
              AND (details #>> '{{decision,version}}')::int = version AND NOT {_DECISION_WAITS}
              AND coalesce((details #>> '{{decision,repeat_at}}')::timestamptz <= $1, true)
              AND NOT EXISTS (SELECT FROM jsonb_array_elements(details->'refusals') AS refused
                              WHERE refused->>'decision_id' = details #>> '{{decision,id}}')
            ORDER BY details #>> '{{decision,repeat_at}}' LIMIT $2 FOR UPDATE SKIP LOCKED""",  # noqa: S608 - constants
        now,
        at_most,
    )
    return list(readable_rows(rows, "payment_id", _case, log=log, event="case_unreadable").values())


async def note_repeated(tx: Tx, cases: Sequence[Case]) -> None:
    """Overwrite what is known of the decisions about these cases. It is no news about the payments."""
    await tx.execute(
        """UPDATE cases c SET details = u.details FROM unnest($1::uuid[], $2::jsonb[]) AS u (payment_id, details)
           WHERE c.payment_id = u.payment_id""",
        [case.payment_id for case in cases],
        [_details(case) for case in cases],
    )


async def note_contradiction(tx: Tx, case: Case, now: datetime) -> None:
    """Keep that somebody took note of what contradicts the last decision about this case."""
    await tx.execute(
        "UPDATE cases SET details = $2, noted_at = $3 WHERE payment_id = $1", case.payment_id, _details(case), now
    )


async def claim_case(tx: Tx, payment_id: UUID, who: str | None, now: datetime) -> None:
    """Keep who is on a case. None: nobody is."""
    await tx.execute(
        "UPDATE cases SET claimed_by = $2, claimed_at = CASE WHEN $2::text IS NOT NULL THEN $3::timestamptz END WHERE payment_id = $1",
        payment_id,
        who,
        now,
    )


async def lock_or_open_case(tx: Connection, case: Case, correlation_id: str, now: datetime) -> KeptCase:
    """The case of a payment, locked until the transaction ends. If there is none, this blank one is kept first.

    What people ask for one after the other is counted under this lock.
    """
    blank = _case_columns([(case, correlation_id)])
    await tx.execute(f"{_INSERT_CASES} ON CONFLICT (payment_id) DO NOTHING", *blank, now)
    kept = await find_case(tx, case.payment_id, lock=True)
    if kept is None:
        raise LookupError("a case that was there under its lock is gone")
    return kept


# -- the second person -----------------------------------------------------------------------------------------------------------------


async def second_person_limits(connection: Connection) -> dict[str, int]:
    """Amounts in minor units by currency, above which a second person must agree, as the staff service last set them."""
    rows = await connection.fetch("SELECT currency, above_minor FROM second_person_limits")
    return {row["currency"]: row["above_minor"] for row in rows}


async def set_second_person_limits(tx: Tx, above_minor: Mapping[str, int]) -> None:
    """Replace the limits."""
    await tx.execute("DELETE FROM second_person_limits WHERE currency <> ALL($1::text[])", list(above_minor))
    await tx.execute(
        """INSERT INTO second_person_limits (currency, above_minor) SELECT * FROM unnest($1::text[], $2::bigint[])
           ON CONFLICT (currency) DO UPDATE SET above_minor = excluded.above_minor""",
        list(above_minor),
        list(above_minor.values()),
    )


async def keep_proposal(tx: Tx, proposal: Proposal) -> None:
    """Insert an open proposal. Another open one of the same payment is a unique violation: whoever calls has locked the case."""
    await tx.execute(
        """INSERT INTO proposals (id, payment_id, version, act, asks, proposed_by, via, proposed_at, state)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)""",
        proposal.id,
        proposal.payment_id,
        proposal.version,
        proposal.act.value,
        dict(proposal.asks),
        proposal.by,
        proposal.via.value,
        proposal.at,
        proposal.state.value,
    )


async def end_proposal(tx: Tx, proposal: Proposal) -> None:
    """Keep how an open proposal ended."""
    await tx.execute(
        """UPDATE proposals SET state = $2, answered_by = $3, answered_at = $4, answer = $5 WHERE id = $1 AND state = 'open'""",
        proposal.id,
        proposal.state.value,
        proposal.answered_by,
        proposal.answered_at,
        proposal.answer,
    )


async def outdate_proposals(tx: Tx, versions: Mapping[UUID, int], now: datetime) -> None:
    """End the open proposals about payments that stand at another version now."""
    await tx.execute(
        """UPDATE proposals p SET state = 'outdated', answered_at = $3
           FROM unnest($1::uuid[], $2::int[]) AS u (payment_id, version)
           WHERE p.payment_id = u.payment_id AND p.state = 'open' AND p.version <> u.version""",
        list(versions),
        list(versions.values()),
        now,
    )


async def open_proposals(connection: Connection, payment_ids: Collection[UUID]) -> list[Proposal]:
    """The open proposals about these payments that still count: the payment stands where their proposers saw it."""
    rows = await connection.fetch(
        """SELECT to_jsonb(p) AS proposal FROM proposals p JOIN cases c ON c.payment_id = p.payment_id AND c.version = p.version
           WHERE p.payment_id = ANY($1::uuid[]) AND p.state = 'open'""",
        list(payment_ids),
    )
    return [_proposal(row["proposal"]) for row in rows]


async def proposals_about(connection: Connection, payment_id: UUID) -> list[Proposal]:
    """All proposals about a payment, in order."""
    rows = await connection.fetch(
        "SELECT to_jsonb(p) AS proposal FROM proposals p WHERE payment_id = $1 ORDER BY proposed_at, id", payment_id
    )
    return [_proposal(row["proposal"]) for row in rows]


def _proposal(row: Mapping[str, Any]) -> Proposal:
    answered_at = row["answered_at"]
    return Proposal(
        UUID(row["id"]),
        UUID(row["payment_id"]),
        row["version"],
        ProposedAct(row["act"]),
        row["asks"],
        row["proposed_by"],
        Via(row["via"]),
        _moment(row["proposed_at"]),
        ProposalState(row["state"]),
        row["answered_by"],
        _moment(answered_at) if answered_at else None,
        row["answer"],
    )


# -- the journal -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One action of a person. Its id is the cause of the messages that it sends. `subject` is the id of a dead letter or a payment."""

    id: UUID
    at: datetime
    who: str
    action: str
    subject: UUID
    details: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(
        cls, who: Actor, at: datetime, action: str, subject: UUID, details: Mapping[str, object] | None = None
    ) -> "JournalEntry":
        """What `who` did to `subject`. The details say by which door and in which request, so the chain of the journal covers that, too."""
        how = {"via": who.via.value} | ({"request": str(who.request)} if who.request is not None else {})
        return cls(who.entry_id(action, subject), at, who.name, action, subject, {**(details or {}), **how})

    def changing(self, before: Mapping[str, object], after: Mapping[str, object]) -> "JournalEntry":
        """The entry with how its subject stood before the act and stands after it, if that differs."""
        return self if before == after else replace(self, details={**self.details, "before": before, "after": after})


async def append_entries(tx: Tx, entries: Sequence[JournalEntry]) -> None:
    """Store what was done, in the same transaction that does it. The database chains the entries (migration 0003)."""
    if entries:
        await tx.execute(
            """INSERT INTO journal (id, at, who, action, subject, details)
               SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::uuid[], $6::jsonb[])""",
            [entry.id for entry in entries],
            [entry.at for entry in entries],
            [entry.who for entry in entries],
            [entry.action for entry in entries],
            [entry.subject for entry in entries],
            [entry.details for entry in entries],
        )


async def has_entry(tx: Tx, entry_id: UUID) -> bool:
    """Whether the journal has this entry: what it tells of was done."""
    return bool(await tx.fetch("SELECT 1 FROM journal WHERE id = $1", entry_id))


async def journal_head(tx: Tx) -> str | None:
    """Where the chain of the journal ends: `POSITION:HASH` of its last entry. None if the journal is empty.

    Whoever knows a head can tell later whether an entry up to it was changed, put in or taken out.
    """
    rows = await tx.fetch(
        "SELECT position || ':' || encode(hash, 'hex') AS head FROM journal ORDER BY position DESC LIMIT 1"
    )
    return rows[0]["head"] if rows else None


async def has_journal_head(tx: Tx, head: str) -> bool:
    """Whether the entry that was the last one once still has its position and hash."""
    position, _, hash_ = head.partition(":")
    return bool(
        await tx.fetch("SELECT 1 FROM journal WHERE position = $1 AND hash = decode($2, 'hex')", int(position), hash_)
    )


async def entries_about(connection: Connection, subject: UUID) -> list[JournalEntry]:
    """The actions of people on a dead letter or a payment, in order."""
    rows = await connection.fetch(
        "SELECT id, at, who, action, subject, details FROM journal WHERE subject = $1 ORDER BY at, id", subject
    )
    return [JournalEntry(**row) for row in rows]


async def sent_decisions(tx: Tx, payment_ids: Sequence[UUID]) -> list[tuple[JournalEntry, str, str]]:
    """The decisions in the journal about these payments. With each: the head of the journal there, and the case's correlation id."""
    rows = await tx.fetch(
        """SELECT j.id, j.at, j.who, j.action, j.subject, j.details, j.position || ':' || encode(j.hash, 'hex') AS head, c.correlation_id
           FROM journal j JOIN cases c ON c.payment_id = j.subject WHERE j.action = 'resolve' AND j.subject = ANY($1::uuid[])""",
        list(payment_ids),
    )
    return [(JournalEntry(**{name: row[name] for name in _ENTRY}), row["head"], row["correlation_id"]) for row in rows]


async def refunds_asked(tx: Tx, payment_id: UUID) -> list[dict[str, Any]]:
    """The details of all entries with which people asked for refunds of this payment."""
    rows = await tx.fetch(
        "SELECT details FROM journal WHERE subject = $1 AND action = 'refund' ORDER BY at, id", payment_id
    )
    return [row["details"] for row in rows]


_ENTRY = tuple(JournalEntry.__dataclass_fields__)


# -- for the operator ------------------------------------------------------------------------------------------------------------------

COUNTED_MAX = 100_000
"""Open dead letters that are counted for the gauges, those that came last. Counting them must not become a load."""
OPEN_LETTERS = Reading(
    """SELECT reason, count(*) AS letters, max(extract(epoch FROM now() - first_seen)) AS oldest_s
       FROM (SELECT reason, first_seen FROM dead_letters WHERE status = 'open' ORDER BY last_seen DESC LIMIT $1) d GROUP BY reason""",
    [Gauged(metrics.DEAD_LETTERS_OPEN, "letters"), Gauged(metrics.DEAD_LETTERS_OLDEST, "oldest_s", max)],
    labels={"reason": sorted({*FAILURE_REASONS, Withheld.UNREADABLE, Withheld.UNSTORABLE})},
    arguments=(COUNTED_MAX,),
)
OPEN_CASES = Reading(
    f"""SELECT status AS state, coalesce(reason, '') AS reason, count(*) AS cases,
            max(extract(epoch FROM now() - opened_at)) AS oldest_s
        FROM cases WHERE {CASE_IS_OPEN} GROUP BY 1, 2""",  # noqa: S608 - a constant
    [Gauged(metrics.CASES_OPEN, "cases"), Gauged(metrics.CASES_OLDEST, "oldest_s", max)],
    labels={"state": sorted(OPEN), "reason": sorted(CASE_REASONS)},
)
"""Cases that are open. One that was settled and is open again has been known since it was opened first."""
