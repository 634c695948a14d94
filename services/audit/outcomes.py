"""What is said of a payment: its published outcomes, its row, its saga, its case and its invoice tell one story.

An outcome is stored with the message that announced it. So what a column says can be compared with the bytes that others were told, and
with what each of them kept of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from services.audit import payments
from services.audit.align import Keyed, StoredRow, align
from services.audit.finding import Tally
from services.audit.payments import CHARGED, NOT_CHARGED, SETTLED, nothing, open_here
from services.audit.stores import Stores

_OUTCOMES = """
    SELECT payment_id, version, message_id, exchange, routing_key, type, correlation_id, body, recorded_at FROM outcomes
    ORDER BY payment_id, version"""
_ROWS = """
    SELECT payment_id, invoice_id, amount_minor, currency, status, version, reason, advice, receipt_number, gateway_id, decided_by,
           settled_as, updated_at FROM payments ORDER BY payment_id"""
_SAGAS = """
    SELECT payment_id, invoice_id, status, payment_version, captured_minor, captured_currency, receipt_number, failure_outcome,
           failure_reason, failure_advice, updated_at FROM sagas ORDER BY payment_id"""
_CASES = """
    SELECT payment_id, invoice_id, status, version, amount_minor, currency, gateway_id, decided_by, details, updated_at FROM cases
    ORDER BY payment_id"""

EXCHANGE = "payment.events"
CASE_SUFFIX = ".case"
"""Staff receive what is published under a key that ends so."""
_PURGED = (b"[card", b"card-data-removed")
"""What a purge leaves in place of what it took out. The journal tells of it."""
_TELLS_STATUS = {"PaymentCaptured": "captured", "PaymentDeclined": "declined", "PaymentNotCharged": "not_charged"}
_FAILURE = {"PaymentDeclined": "declined", "PaymentNotCharged": "not_charged"}
"""Outcomes whose reason the customer is told."""
_SAGA_OF = {
    "completed": CHARGED,
    "failed": NOT_CHARGED,
    "refunded": frozenset({"refunded"}),
    "not_refunded": frozenset({"refund_failed"}),
}
"""How a payment ended, by how its saga did."""


@dataclass(frozen=True, slots=True)
class SaidOutcome:
    """An outcome with what its message says; `event` is empty if nobody can read it any more."""

    row: StoredRow
    event: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """The short name of its type."""
        return str(self.row["type"]).partition(".v")[0].rpartition(".")[2]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = self.event.get("data") or {}
        return found


async def outcomes_agree(counted: Tally, stores: Stores) -> None:
    """The columns of an outcome, the payment's row, its saga, its case and its invoice say what the outcome's message says."""
    if not stores.has("payment_gateway"):
        return
    gateway = stores.databases["payment_gateway"]
    sources: tuple[Keyed, ...] = (
        gateway.keyed(_OUTCOMES),
        gateway.keyed(_ROWS),
        stores.databases["saga"].keyed(_SAGAS) if stores.has("saga") else nothing(),
        stores.databases["staff"].keyed(_CASES) if stores.has("staff") else nothing(),
        payments.invoice_events(stores),
    )
    async for payment_id, (stored, rows, sagas, cases, events) in align(*sources):
        outcomes = [SaidOutcome(row, event_of(row["body"])) for row in stored]
        counted.look(len(outcomes))
        for outcome in outcomes:
            for why in _as_published(outcome):
                counted.breach(payment_id, f"outcome {outcome.row['version']}: {why}")
        since = max([one["updated_at"] for one in (*rows, *sagas, *cases)], default=None)
        _compare(counted, payment_id, since, _Said(outcomes, rows, sagas, cases, events))


@dataclass(frozen=True, slots=True)
class _Said:
    """All that is said of one payment."""

    outcomes: list[SaidOutcome]
    rows: list[StoredRow]
    sagas: list[StoredRow]
    cases: list[StoredRow]
    events: list[StoredRow]


def _compare(counted: Tally, payment_id: str, since: datetime | None, said: _Said) -> None:
    for row in said.rows:
        for why in (
            *_row(row, said.outcomes),
            *(why for saga in said.sagas for why in _saga(saga, row, said.outcomes)),
            *(why for case in said.cases for why in _case(case, row)),
        ):
            counted.breach(payment_id, why, since=since)
    for event in said.events:
        for why in _invoice(event, said.outcomes):
            counted.breach(event["invoice_id"], why)


def event_of(body: bytes) -> dict[str, Any]:
    """The message as it was published. Empty if it cannot be read, or if `remit purge` took something out of it."""
    if any(left in body for left in _PURGED):
        return {}
    try:
        event = orjson.loads(body)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _as_published(outcome: SaidOutcome) -> Iterator[str]:
    row, event = outcome.row, outcome.event
    if not event:
        return
    said = {
        "id": str(row["message_id"]),
        "type": row["type"],
        "correlationid": row["correlation_id"],
    }
    yield from (f"its message has another {name}" for name, value in said.items() if event.get(name) != value)
    inside = {"payment_id": str(row["payment_id"]), "version": row["version"]}
    yield from (f"its message says another {name}" for name, value in inside.items() if outcome.data.get(name) != value)
    if row["exchange"] != EXCHANGE or row["routing_key"] not in {row["type"], f"{row['type']}{CASE_SUFFIX}"}:
        yield "it was published to others than its type says"


def _row(row: StoredRow, outcomes: Sequence[SaidOutcome]) -> Iterator[str]:
    """The row is as its last outcome left it. One that moved on since tells so by a higher version, and has not ended again."""
    versions = [outcome.row["version"] for outcome in outcomes]
    if row["status"] in SETTLED and row["version"] not in versions:
        yield f"{row['status']}, and no outcome of version {row['version']} says so"
    for outcome in outcomes:
        if outcome.row["version"] == row["version"] and (status := _TELLS_STATUS.get(outcome.name)) is not None:
            told = outcome.data
            if row["status"] != status:
                yield f"{row['status']}, and its last outcome is {outcome.name}"
            names = ("reason", "advice", "receipt_number", "decided_by", "amount_minor", "currency")
            yield from (
                f"{name} is {row[name]}, and its last outcome says {told.get(name)}"
                for name in names
                if (name in told or name == "decided_by") and row[name] != told.get(name)
            )


def _saga(saga: StoredRow, row: StoredRow, outcomes: Sequence[SaidOutcome]) -> Iterator[str]:
    if saga["invoice_id"] != row["invoice_id"]:
        yield "its saga is about another invoice"
    if saga["payment_version"] and saga["payment_version"] not in {outcome.row["version"] for outcome in outcomes}:
        yield f"its saga heard of version {saga['payment_version']}, which no outcome has"
    captured = (saga["captured_minor"], saga["captured_currency"], saga["receipt_number"])
    if saga["captured_minor"] is not None and captured not in _captures(outcomes):
        yield f"its saga took {captured[0]} {captured[1]} with receipt {captured[2]} for captured, and no outcome says that"
    failure = (saga["failure_outcome"], saga["failure_reason"], saga["failure_advice"])
    own = any(outcome.name.startswith("PaymentRefund") for outcome in outcomes)  # then the reason is the saga's
    if failure[0] is not None and not own and failure not in _failures(outcomes):
        yield f"its saga took it for {failure[0]} ({failure[1]}), and no outcome says that"
    possible = _SAGA_OF.get(saga["status"])
    if possible is not None and not open_here(row) and row["status"] not in possible:
        yield f"{row['status']}, and its saga is {saga['status']}"


def _captures(outcomes: Sequence[SaidOutcome]) -> set[tuple[Any, ...]]:
    said = [outcome.data for outcome in outcomes if outcome.name == "PaymentCaptured"]
    return {(data.get("amount_minor"), data.get("currency"), data.get("receipt_number")) for data in said}


def _failures(outcomes: Sequence[SaidOutcome]) -> set[tuple[Any, ...]]:
    return {
        (_FAILURE[outcome.name], outcome.data.get("reason"), outcome.data.get("advice"))
        for outcome in outcomes
        if outcome.name in _FAILURE
    }


def _case(case: StoredRow, row: StoredRow) -> Iterator[str]:
    names = ("invoice_id", "amount_minor", "currency", "gateway_id")
    yield from (
        f"{name} is {row[name]}, and its case shows {case[name]}"
        for name in names
        if case[name] is not None and case[name] != row[name]
    )
    if case["version"] > row["version"]:
        yield f"version {row['version']}, and its case shows version {case['version']}"
    elif case["version"] == row["version"] and case["status"] not in {row["status"], "unknown", *_settled_as(row)}:
        yield f"{row['status']}, and its case shows {case['status']}"
    elif case["version"] == row["version"] and row["decided_by"] and case["decided_by"] != row["decided_by"]:
        yield f"{row['decided_by']} decided, and its case shows {case['decided_by']}"


def _settled_as(row: StoredRow) -> tuple[str, ...]:
    """What a case is called after a person let the money of a refund stay."""
    return ("not_refunded",) if row["status"] == "refund_failed" and row["decided_by"] else ()


def _invoice(event: StoredRow, outcomes: Sequence[SaidOutcome]) -> Iterator[str]:
    """The customer was told the reason that an outcome gave."""
    data, failures = event["data"], _failures(outcomes)
    if event["event"] == "PaymentFailed" and failures:
        told = (data["outcome"], data["reason"], data.get("advice"))
        if told[0] in {failure[0] for failure in failures} and told not in failures:
            yield f"it was told that its payment was {told[0]} ({told[1]}), and no outcome says that"
