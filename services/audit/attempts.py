"""Who says how a payment ended: the gateway, in an answer that was recorded, or a person, in a decision."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from services.audit.align import Keyed, StoredRow, align
from services.audit.bodies import CASE, event_of
from services.audit.finding import CLOCKS_APART, Tally
from services.audit.outcomes.said import SaidOutcome
from services.audit.payments import nothing
from services.audit.stores import Stores
from shared.contracts.times import read_time

_OUTCOMES = "SELECT payment_id, version, message_id, type, body FROM outcomes ORDER BY payment_id, version"
_ROWS = """
    SELECT payment_id, gateway_id, fence, params_hash IS NOT NULL AS requested, decided_by, gateway_side->>'answer' AS side,
           attempts_forgotten_at FROM payments ORDER BY payment_id"""
_ATTEMPTS = """
    SELECT payment_id, fence, seq, at, step, split_part(answer, ':', 1) AS kind, answer, evidence, recorded_at,
           greatest(at, recorded_at) > now() + interval '1 day' AS is_to_come FROM attempts
    ORDER BY payment_id, fence, seq"""
_CASES = "SELECT payment_id, attempts_version AS version, details FROM cases ORDER BY payment_id"
_DECISIONS = "SELECT payment_id, resolution, decided_by FROM decisions WHERE refusal IS NULL ORDER BY payment_id"

_SAYS = {
    "PaymentCaptured": frozenset({"captured"}),
    "PaymentDeclined": frozenset({"declined", "action_required"}),
    "PaymentRefunded": frozenset({"refunded", "captured"}),
}
"""The answers of the gateway that can bring about an outcome. Money that others gave back shows in a capture that is asked about."""
_CANCELS: Final = frozenset({"PaymentDeclined", "PaymentNotCharged"})
"""Outcomes that are recorded only once the gateway confirmed the cancel of what it had."""
_TELLS: Final = {
    "captured": frozenset(
        {"PaymentCaptured", "PaymentNeedsDecision", "PaymentRefunded", "PaymentRefundInDoubt", "PaymentRefundFailed"}
    ),
    "refunded": frozenset({"PaymentRefunded"}),
}
"""Answers of the gateway about money that moved, and the outcomes of which one tells of it."""
_NAMING: Final = frozenset({("prepare", "prepared"), ("find", "found")})
"""Steps and answers by which a payment has its id at the gateway."""
_SIDES: Final = {
    "no_refund": frozenset({"no_refund", "refund_failed"}),
    "refunded": frozenset({"refunded", "no_refund", "refund_failed"}),
}
"""What the gateway's side is called, where that is not the kind of an answer alone."""
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
    sources: tuple[Keyed, ...] = (
        *(gateway.keyed(sql) for sql in (_OUTCOMES, _ROWS, _ATTEMPTS, _DECISIONS)),
        stores.databases["staff"].keyed(_CASES) if stores.has("staff") else nothing(),
    )
    async for payment_id, (stored, rows, attempts, decisions, cases) in align(*sources):
        outcomes = [SaidOutcome(row, event_of(row["type"], row["body"])) for row in stored]
        counted.look(len(outcomes) + len(attempts))
        for outcome in outcomes:
            for why in _decided(outcome, decisions):
                counted.breach(payment_id, f"outcome {outcome.row['version']}, {outcome.name}: {why}")
        for why in _of_attempts(rows, attempts):
            counted.breach(payment_id, why)
        for row in (row for row in rows if not row["attempts_forgotten_at"]):  # at most one
            for why, since in (
                *_of_row(row, outcomes, attempts),
                *_of_outcomes(row, outcomes, attempts),
                *_shown(cases, outcomes, attempts),
            ):
                counted.breach(payment_id, why, since=since)


Why = tuple[str, datetime | None]
"""What is wrong, and since when it may be; None if it has always been."""


def _of_attempts(rows: Sequence[StoredRow], attempts: Sequence[StoredRow]) -> Iterator[str]:
    """Each answer is of a payment that is known, and was recorded when it came."""
    if attempts and not rows:
        yield f"the gateway answered {attempts[-1]['answer']}, and there is no such payment"
    for attempt in attempts:
        if attempt["is_to_come"] or abs(attempt["recorded_at"] - attempt["at"]) > CLOCKS_APART:
            yield f"the answer to {attempt['step']} of {attempt['at']:%F} was recorded on {attempt['recorded_at']:%F}"


def _of_row(row: StoredRow, outcomes: Sequence[SaidOutcome], attempts: Sequence[StoredRow]) -> Iterator[Why]:
    """What the row says of the gateway comes from answers, and what these said of money was told."""
    answers = {(attempt["step"], attempt["kind"]) for attempt in attempts}
    kinds = {kind for _, kind in answers}
    if row["requested"] and row["gateway_id"] is not None and not answers & _NAMING:
        yield f"{row['gateway_id']} is its id at the gateway, and no answer says so", None
    if not row["requested"] and ("prepare", "prepared") in answers:
        yield "it was prepared at the gateway, and its row says that nobody requested it", None
    if row["fence"] < max((attempt["fence"] for attempt in attempts), default=0):
        yield f"its fence is {row['fence']}, and an answer came under a later one", None
    if row["side"] is not None and not kinds & _SIDES.get(row["side"], {row["side"]}):
        yield f"its row says that the gateway answered {row['side']}, and no answer says so", None
    names = {outcome.name for outcome in outcomes}
    for kind, tell in _TELLS.items():
        if kind in kinds and not names & tell:
            yield (
                f"the gateway answered {kind}, and no outcome tells of it",
                max(a["at"] for a in attempts if a["kind"] == kind),
            )


def _of_outcomes(row: StoredRow, outcomes: Sequence[SaidOutcome], attempts: Sequence[StoredRow]) -> Iterator[Why]:
    for outcome in outcomes:
        for why in (
            *_brought_about(outcome, row, attempts),
            *_altered(outcome.data.get("attempts") or (), attempts, "published"),
        ):
            yield f"outcome {outcome.row['version']}, {outcome.name}: {why}", None


def _shown(cases: Sequence[StoredRow], outcomes: Sequence[SaidOutcome], attempts: Sequence[StoredRow]) -> Iterator[Why]:
    """The answers that a case shows to people are recorded, and it shows all that were told with its outcome."""
    for case in cases:
        told = next((o.data.get("attempts") or () for o in outcomes if o.row["version"] == case["version"]), ())
        if (details := CASE.read(case["details"], None)) is None:
            continue
        shown = details["attempts"]
        if len(shown) < len(told):
            yield f"its case shows {len(shown)} answers of the gateway, and staff were told {len(told)}", None
        for why in _altered(shown, attempts, "shown to staff"):
            yield f"its case: {why}", None


def _brought_about(outcome: SaidOutcome, row: StoredRow, attempts: Sequence[StoredRow]) -> Iterator[str]:
    """Where no person decided, the gateway said it."""
    if not outcome.data or outcome.data.get("decided_by"):
        return
    kinds = {attempt["kind"] for attempt in attempts}
    if (needed := _SAYS.get(outcome.name)) is not None and not needed & kinds:
        yield "no answer of the gateway says so, and nobody decided it"
    reasons = {attempt["answer"].partition(":")[2] for attempt in attempts if attempt["kind"] == "declined"}
    if outcome.name == "PaymentDeclined" and reasons and not any(map(outcome.data["reason"].startswith, reasons)):
        yield f"it gives the reason {outcome.data['reason']}, and the gateway answered {', '.join(sorted(reasons))}"
    if outcome.name in _CANCELS and row["gateway_id"] is not None and not kinds & {"cancelled", "found"}:
        yield "the gateway has not confirmed that it was cancelled there, and nobody decided it"


def _decided(outcome: SaidOutcome, decisions: Sequence[StoredRow]) -> Iterator[str]:
    """Where it names a person, that person decided just this."""
    who, possible = outcome.data.get("decided_by"), _DECIDED.get(outcome.name)
    if not who or possible is None:
        return
    if not any(one["decided_by"] == who and one["resolution"] in possible for one in decisions):
        yield f"it says that {who} decided, and there is no such decision"


def _altered(told: Sequence[dict[str, Any]], attempts: Sequence[StoredRow], how: str) -> Iterator[str]:
    """The answers that were told are recorded just so. `how`: to whom they were told."""
    recorded = {(attempt["at"].isoformat(), attempt["step"]): attempt for attempt in attempts} if told else {}
    for one in told:
        attempt = recorded.get(_key(one))
        if attempt is None:
            yield f"it was {how} with the answer to {one['step']} of {one['at']}, which is not recorded"
        elif attempt["answer"] != one["answer"]:
            yield f"it was {how} with the answer {one['answer']} to {one['step']}, and recorded is {attempt['answer']}"
        elif _as_told(attempt["evidence"]) != one["evidence"]:
            yield f"it was {how} with other evidence of {one['step']} of {one['at']} than is recorded"


def _as_told(evidence: str) -> str:
    """Evidence as an outcome shows it."""
    return _NOT_PRINTABLE_ASCII.sub("?", evidence)[:_EVIDENCE_TOLD_MAX]


def _key(told: dict[str, Any]) -> tuple[str, str]:
    """When and what was asked, as a row has it."""
    return read_time(told["at"]).astimezone(UTC).isoformat(), told["step"]
