"""What a saga took for captured, failed or given back was told."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from services.audit.align import StoredRow
from services.audit.bodies import REFUNDS_OF_SAGA
from services.audit.finding import CLOCKS_APART
from services.audit.outcomes.said import Said, SaidOutcome, captures, facts_of_refund, failures
from services.audit.payments import CHARGED, NOT_CHARGED, open_here

_OF_SAGA: Final = frozenset({("not_charged", "settlement_rejected", None), ("not_charged", "refunded", None)})
"""The failures that a saga decides itself: the money goes back."""
_NOTHING: Final = (None, None, None)
_BY_SAGA: Final = {
    "made": "PaymentRefunded",
    "in_doubt": "PaymentRefundInDoubt",
    "failed": "PaymentRefundFailed",
    "unmade": "PaymentRefundFailed",
}
"""The outcomes from which a saga learned how a refund stands."""
_SAGA_OF = {
    "completed": CHARGED,
    "failed": NOT_CHARGED,
    "refunded": frozenset({"refunded"}),
    "not_refunded": frozenset({"refund_failed"}),
}
"""How a payment ended, by how its saga did."""


def of_saga(saga: StoredRow, row: StoredRow, said: Said) -> Iterator[str]:
    outcomes = said.outcomes
    if saga["invoice_id"] != row["invoice_id"]:
        yield "its saga is about another invoice"
    heard = said.at(saga["payment_version"])
    if saga["payment_version"] and heard is None:
        yield f"its saga heard of version {saga['payment_version']}, which no outcome has"
    if heard is not None and saga["updated_at"] < heard.row["recorded_at"] - CLOCKS_APART:
        yield f"its saga says that it last changed at {saga['updated_at']:%F}, before what it heard last"
    yield from _learned(saga, outcomes, said.events)
    possible = _SAGA_OF.get(saga["status"])
    if possible is not None and not open_here(row) and row["status"] not in possible:
        yield f"{row['status']}, and its saga is {saga['status']}"
    for refund in REFUNDS_OF_SAGA.read(saga["refunds"], None) or ():
        if (why := _saga_refund(refund, said)) is not None:
            yield f"its saga takes the refund {refund['refund_id']} for {refund['status']}, {why}"


def _learned(saga: StoredRow, outcomes: Sequence[SaidOutcome], events: Sequence[StoredRow]) -> Iterator[str]:
    """What the saga took for captured, or for failed, was told. Of an outcome from which `remit purge` took something nobody can tell."""
    if not all(outcome.event for outcome in outcomes):
        return
    captured = (saga["captured_minor"], saga["captured_currency"], saga["receipt_number"])
    if captured != _NOTHING and captured not in captures(outcomes):
        yield f"its saga took {captured[0]} {captured[1]} with receipt {captured[2]} for captured, and no outcome says that"
    failure = (saga["failure_outcome"], saga["failure_reason"], saga["failure_advice"])
    if failure != _NOTHING and failure not in failures(outcomes) | _OF_SAGA | _recorded(events):
        yield f"its saga took it for {failure[0]} ({failure[1]}), and no outcome says that"


def _saga_refund(refund: dict[str, Any], said: Said) -> str | None:
    """How what a saga keeps of a refund that was asked for differs from what it was told, if it does."""
    asked = next((e["data"] for e in said.events if e["event"] == "RefundRequested" and _is_of(e, refund)), None)
    if asked is not None and refund["asked_minor"] not in {None, asked["amount_minor"]}:
        return f"asked for {refund['asked_minor']}, and the invoice asked for {asked['amount_minor']}"
    if asked is not None and refund.get("reason") not in {None, "", asked["reason"]}:
        return f"for the reason {refund['reason']}, and the invoice asked for {asked['reason']}"
    if asked is None and refund["status"] == "asked" and said.events:
        return "and its invoice never asked for it"
    newest = [
        o
        for o in said.outcomes
        if o.name in _BY_SAGA.values() and facts_of_refund(o).get("refund_id") == refund["refund_id"]
    ]
    if newest and newest[-1].row["version"] > refund["version"]:
        return f"as of version {refund['version']}, and outcome {newest[-1].row['version']} is newer"
    if (wanted := _BY_SAGA.get(refund["status"])) is None:
        return "and an outcome tells more" if newest else None
    told = said.at(refund["version"])
    if told is None or (
        told.event and (told.name, facts_of_refund(told).get("refund_id")) != (wanted, refund["refund_id"])
    ):
        return f"as of version {refund['version']}, and no outcome says so"
    if wanted != "PaymentRefunded" or not told.event:
        return None
    who = told.data.get("decided_by") or told.data.get("asked_by")  # an earlier build kept nobody
    made, says = (refund["amount_minor"], refund["currency"]), (told.data["amount_minor"], told.data["currency"])
    return None if made == says and refund.get("decided_by") in {None, who} else f"and the outcome says {says}, {who}"


def _is_of(event: StoredRow, refund: dict[str, Any]) -> bool:
    return bool(event["data"]["refund_id"] == refund["refund_id"])


def _recorded(events: Sequence[StoredRow]) -> set[tuple[Any, ...]]:
    """The failures that the invoice recorded: a saga may hear of one from there first."""
    failed = [event["data"] for event in events if event["event"] == "PaymentFailed"]
    return {(data["outcome"], data["reason"], data.get("advice")) for data in failed}
