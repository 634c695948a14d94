"""What a case shows to staff is what they were told."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

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
    yield from _as_heard(case, told)
    if (details := CASE.read(case["details"], None)) is not None:
        yield from _what_the_gateway_said(case, details, row)
        yield from _contradicted(case, details, said.outcomes)


def _as_heard(case: StoredRow, told: Sequence[SaidOutcome]) -> Iterator[str]:
    """A case of which staff were told nothing yet shows nothing. Else it shows what no message takes back.

    A doubt that is over and that staff missed is not said again. So of such a case only those count whose answers it shows.
    """
    if (case["version"] == 0) != (case["status"] == "unknown"):
        yield f"its case shows {case['status']} as of version {case['version']}"
    if case["version"] == 0 and (case["reason"] or case["decided_by"]):
        yield f"its case shows the reason {case['reason']} and {case['decided_by']}, and staff were told nothing"
    known = case["version"] if case["status"] in CASES else case["attempts_version"]
    doubts = [one for one in told if one.row["version"] <= known and "attempts" in one.data]
    if case["attempts_version"] < max((one.row["version"] for one in doubts), default=0):
        yield f"its case shows the answers of version {case['attempts_version']}, and staff were told newer ones"
    for name in ("amount_minor", "currency", "gateway_id"):
        if case[name] is None and any(one.data.get(name) is not None for one in doubts):
            yield f"its case shows no {name}, and staff were told it"


def _what_the_gateway_said(case: StoredRow, details: Mapping[str, Any], row: StoredRow) -> Iterator[str]:
    """While a person is asked, the case shows the gateway's side as the row has it."""
    if case["status"] in CASES and case["attempts_version"] == row["version"]:
        yield from other_side(row["gateway_side"], details.get("gateway"), "its case shows")
        if details.get("settled_as") != row["settled_as"]:
            yield f"it was settled as {row['settled_as']}, and its case shows {details.get('settled_as')}"


def _contradicted(case: StoredRow, details: Mapping[str, Any], outcomes: Sequence[SaidOutcome]) -> Iterator[str]:
    """A person called it not charged, and it was captured: the case shows that until somebody takes note."""
    by_people = [one for one in outcomes if one.data.get("decided_by") and one.row["version"] <= case["version"]]
    shown = details.get("decided") or {}
    if shown.get("by") and (shown["version"], shown["by"]) not in {
        (o.row["version"], o.data["decided_by"]) for o in by_people
    }:
        yield f"its case shows that {shown['by']} decided it, and no outcome says so"
    if (case["contradicted_version"] is None) != (case["contradicted_at"] is None) or (
        case["contradicted_version"] is not None
        and case["contradicted_version"] <= shown.get("version", case["version"])
    ):
        yield "its case shows that the gateway contradicts a decision, and there is none that it could"
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
