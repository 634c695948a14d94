"""What the published outcomes of a payment say, beside all that is kept of it elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.audit.align import StoredRow

CASE_SUFFIX = ".case"
"""Staff receive what is published under a key that ends so."""
_FAILURE = {"PaymentDeclined": "declined", "PaymentNotCharged": "not_charged"}
"""Outcomes whose reason the customer is told."""


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


@dataclass(frozen=True, slots=True)
class Said:
    """All that is said of one payment."""

    outcomes: list[SaidOutcome]
    rows: list[StoredRow]
    refunds: list[StoredRow]
    sagas: list[StoredRow]
    cases: list[StoredRow]
    events: list[StoredRow]

    def at(self, version: int) -> SaidOutcome | None:
        """The outcome of this version of the payment."""
        return next((outcome for outcome in self.outcomes if outcome.row["version"] == version), None)


def facts_of_refund(outcome: SaidOutcome) -> dict[str, Any]:
    """What an outcome says of the refund that it is about."""
    facts: dict[str, Any] = outcome.data.get("refund") or {}
    return facts


def captures(outcomes: Sequence[SaidOutcome]) -> set[tuple[Any, ...]]:
    said = [outcome.data for outcome in outcomes if outcome.name == "PaymentCaptured"]
    return {(data.get("amount_minor"), data.get("currency"), data.get("receipt_number")) for data in said}


def failures(outcomes: Sequence[SaidOutcome]) -> set[tuple[Any, ...]]:
    return {
        (_FAILURE[outcome.name], outcome.data.get("reason"), outcome.data.get("advice"))
        for outcome in outcomes
        if outcome.name in _FAILURE
    }


def told_to_staff(outcomes: Sequence[SaidOutcome]) -> list[SaidOutcome]:
    return [outcome for outcome in outcomes if outcome.row["routing_key"].endswith(CASE_SUFFIX)]
