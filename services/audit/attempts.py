"""Who says how a payment ended: the gateway, in an answer that was recorded, or a person, in a decision."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from services.audit.align import Keyed, StoredRow, align
from services.audit.finding import Tally
from services.audit.outcomes import SaidOutcome, event_of
from services.audit.stores import Stores

_OUTCOMES = "SELECT payment_id, version, message_id, type, body FROM outcomes ORDER BY payment_id, version"
_ROWS = "SELECT payment_id, gateway_id, attempts_forgotten_at FROM payments ORDER BY payment_id"
_ATTEMPTS = """
    SELECT payment_id, fence, seq, at, step, split_part(answer, ':', 1) AS kind, answer, evidence FROM attempts
    ORDER BY payment_id, fence, seq"""
_DECISIONS = "SELECT payment_id, resolution, decided_by FROM decisions WHERE refusal IS NULL ORDER BY payment_id"

_SAYS = {
    "PaymentCaptured": frozenset({"captured"}),
    "PaymentDeclined": frozenset({"declined", "action_required"}),
    "PaymentRefunded": frozenset({"refunded", "captured"}),
}
"""The answers of the gateway that can bring about an outcome. Money that others gave back shows in a capture that is asked about."""
_DECIDED = {
    "PaymentCaptured": frozenset({"captured"}),
    "PaymentNotCharged": frozenset({"not_charged"}),
    "PaymentRefunded": frozenset({"refunded"}),
    "PaymentRefundFailed": frozenset({"not_refunded"}),
}
"""The decisions of people that can."""
_NOT_PRINTABLE_ASCII = re.compile(r"[^\x20-\x7e]")
_EVIDENCE_TOLD_MAX = 300
"""Outcomes tell evidence in ASCII, and so much of it (`services.payment_gateway.handlers`)."""


async def settled_with_evidence(counted: Tally, stores: Stores) -> None:
    """Each outcome has an answer of the gateway, or a person's decision, that says so; answers are as they were when published."""
    if not stores.has("payment_gateway"):
        return
    gateway = stores.databases["payment_gateway"]
    sources: tuple[Keyed, ...] = tuple(gateway.keyed(sql) for sql in (_OUTCOMES, _ROWS, _ATTEMPTS, _DECISIONS))
    async for payment_id, (stored, rows, attempts, decisions) in align(*sources):
        outcomes = [SaidOutcome(row, event_of(row["body"])) for row in stored]
        counted.look(len(outcomes) + len(attempts))
        are_kept = not any(row["attempts_forgotten_at"] for row in rows)
        for outcome in outcomes:
            for why in (
                *_brought_about(outcome, attempts, are_kept=are_kept),
                *_decided(outcome, decisions),
                *(_altered(outcome, attempts) if are_kept else ()),
            ):
                counted.breach(payment_id, f"outcome {outcome.row['version']}, {outcome.name}: {why}")


def _brought_about(outcome: SaidOutcome, attempts: Sequence[StoredRow], *, are_kept: bool) -> Iterator[str]:
    """Where no person decided, the gateway said it."""
    needed = _SAYS.get(outcome.name)
    if not are_kept or needed is None or not outcome.data or outcome.data.get("decided_by"):
        return
    if not needed & {attempt["kind"] for attempt in attempts}:
        yield "no answer of the gateway says so, and nobody decided it"


def _decided(outcome: SaidOutcome, decisions: Sequence[StoredRow]) -> Iterator[str]:
    """Where it names a person, that person decided just this."""
    who, possible = outcome.data.get("decided_by"), _DECIDED.get(outcome.name)
    if not who or possible is None:
        return
    if not any(one["decided_by"] == who and one["resolution"] in possible for one in decisions):
        yield f"it says that {who} decided, and there is no such decision"


def _altered(outcome: SaidOutcome, attempts: Sequence[StoredRow]) -> Iterator[str]:
    """The answers that it was published with are recorded."""
    recorded = {(attempt["at"].isoformat(), attempt["step"]): attempt for attempt in attempts}
    for told in outcome.data.get("attempts") or ():
        attempt = recorded.get(_key(told))
        if attempt is None:
            yield f"it was published with the answer to {told['step']} of {told['at']}, which is not recorded"
        elif attempt["answer"] != told["answer"]:
            yield f"it was published with the answer {told['answer']} to {told['step']}, and recorded is {attempt['answer']}"
        elif _as_told(attempt["evidence"]) != told["evidence"]:
            yield f"it was published with other evidence of {told['step']} of {told['at']} than is recorded"


def _as_told(evidence: str) -> str:
    """Evidence as an outcome shows it."""
    return _NOT_PRINTABLE_ASCII.sub("?", evidence)[:_EVIDENCE_TOLD_MAX]


def _key(told: dict[str, Any]) -> tuple[str, str]:
    """When and what was asked, as a row has it."""
    return datetime.fromisoformat(told["at"]).astimezone(UTC).isoformat(), told["step"]
