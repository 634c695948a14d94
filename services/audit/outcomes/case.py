"""What a case shows to staff is what they were told."""

from collections.abc import Iterator, Sequence
from typing import Final

from services.audit.align import StoredRow
from services.audit.bodies import CASE
from services.audit.outcomes.row import other_side
from services.audit.outcomes.said import Said, SaidOutcome, told_to_staff
from services.audit.payments import CASES

_REOPENED: Final = "reopened_by_person"


def of_case(case: StoredRow, row: StoredRow, said: Said) -> Iterator[str]:
    names = ("invoice_id", "amount_minor", "currency", "gateway_id")
    yield from (
        f"{name} is {row[name]}, and its case shows {case[name]}"
        for name in names
        if case[name] != row[name] and (case[name] is not None or case["status"] in CASES)
    )
    told, shown = told_to_staff(said.outcomes), max(case["version"], case["attempts_version"])
    if shown > row["version"]:
        yield f"version {row['version']}, and its case shows version {shown}"
    elif case["version"] < max((outcome.row["version"] for outcome in told), default=0):
        yield f"its case shows version {case['version']}, and staff were told a higher one"
    elif case["version"] == row["version"] and case["status"] not in {row["status"], "unknown", *_settled_as(row)}:
        yield f"{row['status']}, and its case shows {case['status']}"
    elif case["version"] == row["version"] and case["decided_by"] != row["decided_by"] and case["status"] != "unknown":
        yield f"{row['decided_by']} decided, and its case shows {case['decided_by']}"
    if (last := said.at(case["version"])) is not None and last.event and case["reason"] != last.data.get("reason"):
        yield f"its case shows the reason {case['reason']}, and staff were told {last.data.get('reason')}"
    if case["status"] in CASES and not row["was_case"]:
        yield "it is a case, and staff will not be told how it ends"
    yield from _what_the_gateway_said(case, row)
    yield from _contradicted(case, said.outcomes)


def _what_the_gateway_said(case: StoredRow, row: StoredRow) -> Iterator[str]:
    """While a person is asked, the case shows the gateway's side as the row has it."""
    details = CASE.read(case["details"], None)
    if details is not None and case["status"] in CASES and case["attempts_version"] == row["version"]:
        yield from other_side(row["gateway_side"], details.get("gateway"), "its case shows")
        if details.get("settled_as") != row["settled_as"]:
            yield f"it was settled as {row['settled_as']}, and its case shows {details.get('settled_as')}"


def _contradicted(case: StoredRow, outcomes: Sequence[SaidOutcome]) -> Iterator[str]:
    """A person called it not charged, and it was captured: the case shows that until somebody takes note."""
    by_people = [one for one in outcomes if one.data.get("decided_by") and one.row["version"] <= case["version"]]
    shown = CASE.read(case["details"], {}).get("decided") or {}
    if shown.get("by") and (shown["version"], shown["by"]) not in {
        (o.row["version"], o.data["decided_by"]) for o in by_people
    }:
        yield f"its case shows that {shown['by']} decided it, and no outcome says so"
    if not by_people or by_people[-1].name != "PaymentNotCharged" or not all(one.event for one in outcomes):
        return
    since = by_people[-1].row["version"]
    if any(one.data.get("reason") == _REOPENED and one.row["version"] > since for one in outcomes):
        return  # the decision was taken back
    found = [one for one in outcomes if one.name == "PaymentCaptured" and since < one.row["version"] <= case["version"]]
    if found and (case["contradicted_version"] != found[-1].row["version"] or case["contradicted_at"] is None):
        yield f"the gateway contradicts what {by_people[-1].data['decided_by']} decided, and its case does not show that"


def without_case(outcomes: Sequence[SaidOutcome]) -> Iterator[str]:
    if told_to_staff(outcomes):
        yield "staff were told of it, and there is no case"


def _settled_as(row: StoredRow) -> tuple[str, ...]:
    """What a case is called after a person let the money of a refund stay."""
    return ("not_refunded",) if row["status"] == "refund_failed" and row["decided_by"] else ()
