"""A payment's row is as its last outcome left it."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from services.audit.align import StoredRow
from services.audit.bodies import SIDE
from services.audit.finding import CLOCKS_APART
from services.audit.outcomes.said import Said, SaidOutcome, facts_of_refund, told_to_staff
from services.audit.payments import CASES, NOT_CHARGED, SETTLED

_STATUSES: Final = {
    "PaymentCaptured": frozenset({"captured"}),
    "PaymentDeclined": frozenset({"declined"}),
    "PaymentNotCharged": frozenset({"not_charged"}),
    "PaymentInDoubt": frozenset({"in_doubt"}),
    "PaymentNeedsDecision": frozenset({"needs_decision"}),
    "PaymentRefundInDoubt": frozenset({"refund_in_doubt"}),
    "PaymentRefundFailed": frozenset(
        {"refund_failed", "captured", "refunded"}
    ),  # captured: a person let the money stay
    "PaymentRefunded": frozenset({"captured", "refunded", "refunding"}),
}
"""The statuses that a payment may have at the version of an outcome: each change of status is a higher version."""
_OF_ROW: Final = ("receipt_number", "gateway_id", "settled_as", "amount_minor", "currency")
"""What outcomes tell of the payment's row, beside why it is so. One about a refund tells the amount and the currency of that."""
_SETTLES: Final = frozenset({"PaymentCaptured", "PaymentDeclined", "PaymentNotCharged"})
"""Outcomes with which a payment was settled. After one about a refund it may have been, by what was left."""
_OF_SIDE: Final = ("answer", "captured_minor", "refunded_minor", "currency")
_UNKNOWN_HERE: Final = "unknown_here"
"""The reason of a payment that was found at the gateway: staff are told once the gateway was asked about it."""


def of_row(row: StoredRow, said: Said) -> Iterator[str]:
    """The row is as its last outcome left it. One that moved on since tells so by a higher version, and by another status."""
    last = said.at(row["version"])
    if any(outcome.row["version"] > row["version"] for outcome in said.outcomes):
        yield f"its version is {row['version']}, and an outcome has a higher one"
    if last is None:
        if row["status"] in SETTLED | CASES and not (row["reason"] == _UNKNOWN_HERE and not said.outcomes):
            yield f"{row['status']}, and no outcome of version {row['version']} says so"
    else:
        yield from _as_told(row, last)
    yield from _settled_before(row, said.outcomes)
    if told_to_staff(said.outcomes) and not row["was_case"]:
        yield "staff were told of it as of a case, and will not be told how it ends"
    for name in ("refund_id", "receipt_number") if all(outcome.event for outcome in said.outcomes) else ():
        if row[name] is not None and row[name] not in {outcome.data.get(name) for outcome in said.outcomes}:
            yield f"its {name} is {row[name]}, and no outcome names that"
    asked = next((e["recorded_at"] for e in said.events if e["event"] == "PaymentRequested"), row["created_at"])
    told = said.outcomes[0].row["recorded_at"] if said.outcomes else row["created_at"]
    if not asked - CLOCKS_APART <= row["created_at"] <= told + CLOCKS_APART:
        yield f"its row says that it is known since {row['created_at']:%F}, and it was requested at {asked:%F}"


def _settled_before(row: StoredRow, outcomes: Sequence[SaidOutcome]) -> Iterator[str]:
    """The row says as what it was settled before, if it was."""
    was, earlier = row["settled_as"], [one.name for one in outcomes if one.row["version"] < row["version"]]
    if was is None and not _SETTLES.isdisjoint(earlier):
        yield "it was settled before, and its row does not say as what"
    if was is not None and not any(was in _STATUSES.get(name, ()) for name in earlier):
        yield f"its row says that it was settled as {was}, and no outcome told that"


def _as_told(row: StoredRow, last: SaidOutcome) -> Iterator[str]:
    """The row says what the outcome of its version says."""
    told, is_of_refund = last.data, last.name.startswith("PaymentRefund")
    if row["status"] not in _STATUSES.get(last.name, {row["status"]}):
        yield f"{row['status']}, and its last outcome is {last.name}"
    if row["updated_at"] < last.row["recorded_at"] - CLOCKS_APART:
        yield f"its row says that it last changed at {row['updated_at']:%F}, before its last outcome"
    if told.get("late") and row["settled_as"] not in NOT_CHARGED:
        yield "captured late, and its row does not say as what it had been settled"
    if told and row["decided_by"] != told.get("decided_by"):
        yield f"{row['decided_by']} decided it, and its last outcome names {told.get('decided_by')}"
    left_minor = facts_of_refund(last).get("left_minor") if last.name == "PaymentRefunded" else None
    if left_minor is not None and row["status"] == ("refunded" if left_minor else "captured"):
        yield f"{row['status']}, and its last outcome says that {left_minor} is left"
    names = () if last.name == "PaymentRefunded" else _OF_ROW[:-2] if is_of_refund else _OF_ROW
    says = {name: row[name] for name in names if name in told}
    if told:  # a reason or an advice that it does not give is none; a case without a reason was told with its status
        says |= {"reason": row["reason"] or (row["status"] if "reason" in told else None), "advice": row["advice"]}
    yield from (
        f"{name} is {value}, and its last outcome says {told.get(name)}"
        for name, value in says.items()
        if told.get(name) != value
    )
    if last.name == "PaymentNeedsDecision" and told:
        yield from other_side(row["gateway_side"], told.get("gateway"), "its last outcome says")


def other_side(one: dict[str, Any] | None, other: dict[str, Any] | None, whose: str) -> Iterator[str]:
    """In what two tell otherwise what the gateway said of a payment."""
    ours, theirs = SIDE.read(one, None) or {}, other or {}
    yield from (
        f"the gateway's {name} is {ours.get(name)}, and {whose} {theirs.get(name)}"
        for name in _OF_SIDE
        if ours.get(name) != theirs.get(name)
    )
