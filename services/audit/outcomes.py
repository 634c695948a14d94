"""What is said of a payment: its published outcomes, its row, its refunds, its saga, its case and its invoice tell one story.

An outcome is stored with the message that announced it. So what a column says can be compared with the bytes that others were told, and
with what each of them kept of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from services.audit import payments
from services.audit.align import Keyed, StoredRow, align
from services.audit.bodies import CASE, REFUNDS_OF_SAGA, SIDE, event_of
from services.audit.finding import CLOCKS_APART, Tally
from services.audit.payments import CASES, CHARGED, NOT_CHARGED, SETTLED, nothing, open_here
from services.audit.refunds import given_back
from services.audit.stores import Stores

_OUTCOMES = """
    SELECT payment_id, version, message_id, exchange, routing_key, type, correlation_id, body, recorded_at FROM outcomes
    ORDER BY payment_id, version"""
_ROWS = """
    SELECT payment_id, invoice_id, amount_minor, currency, status, version, reason, advice, receipt_number, gateway_id, refund_id,
           decided_by, was_case, settled_as, gateway_side, created_at, updated_at FROM payments ORDER BY payment_id"""
_REFUNDS = """
    SELECT payment_id, refund_id::text AS refund_id, refund_id = payment_id AS is_of_saga, status, asked_minor, amount_minor,
           by_hand_minor, version, gateway_id, decided_by, asked_by, made_elsewhere FROM refunds ORDER BY payment_id, position"""
_SAGAS = """
    SELECT payment_id, invoice_id, status, payment_version, captured_minor, captured_currency, receipt_number, failure_outcome,
           failure_reason, failure_advice, refunds, updated_at FROM sagas ORDER BY payment_id"""
_CASES = """
    SELECT payment_id, invoice_id, status, version, reason, amount_minor, currency, gateway_id, decided_by, attempts_version, details,
           contradicted_version, contradicted_at, updated_at FROM cases ORDER BY payment_id"""

EXCHANGE = "payment.events"
CASE_SUFFIX = ".case"
"""Staff receive what is published under a key that ends so."""
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
_OF_ROW: Final = ("reason", "advice", "receipt_number", "gateway_id", "settled_as", "amount_minor", "currency")
"""What outcomes tell of the payment's row. One about a refund tells the amount and the currency of that."""
_OF_REFUND: Final = ("amount_minor", "decided_by", "asked_by")
_OF_SIDE: Final = ("answer", "captured_minor", "refunded_minor", "currency")
_OF_SAGA: Final = frozenset({("not_charged", "settlement_rejected", None), ("not_charged", "refunded", None)})
"""The failures that a saga decides itself: the money goes back."""
_BY_SAGA: Final = {
    "made": "PaymentRefunded",
    "in_doubt": "PaymentRefundInDoubt",
    "failed": "PaymentRefundFailed",
    "unmade": "PaymentRefundFailed",
}
"""The outcomes from which a saga learned how a refund stands."""
_AT_WORK: Final = frozenset({"refunding", "refund_in_doubt", "refund_failed"})
_REOPENED: Final = "reopened_by_person"
_UNKNOWN_HERE: Final = "unknown_here"
"""The reason of a payment that was found at the gateway: staff are told once the gateway was asked about it."""
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
    """The columns of an outcome, the payment's row, its refunds, saga, case and invoice say what the outcome's message says."""
    if not stores.has("payment_gateway"):
        return
    gateway = stores.databases["payment_gateway"]
    sources: tuple[Keyed, ...] = (
        gateway.keyed(_OUTCOMES),
        gateway.keyed(_ROWS),
        gateway.keyed(_REFUNDS),
        stores.databases["saga"].keyed(_SAGAS) if stores.has("saga") else nothing(),
        stores.databases["staff"].keyed(_CASES) if stores.has("staff") else nothing(),
        payments.invoice_events(stores),
    )
    async for payment_id, (stored, rows, ours, sagas, cases, events) in align(*sources):
        outcomes = [SaidOutcome(row, event_of(row["type"], row["body"])) for row in stored]
        counted.look(len(outcomes))
        for outcome in outcomes:
            for why in _as_published(outcome):
                counted.breach(payment_id, f"outcome {outcome.row['version']}: {why}")
        since = max([one["updated_at"] for one in (*rows, *sagas, *cases)], default=None)
        said = _Said(outcomes, rows, ours, sagas, cases, events)
        _compare(counted, payment_id, since, said, staff_seen=stores.has("staff"))


@dataclass(frozen=True, slots=True)
class _Said:
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


def _compare(counted: Tally, payment_id: str, since: datetime | None, said: _Said, *, staff_seen: bool) -> None:
    for row in said.rows:
        for why in (
            *_row(row, said),
            *_refunds(row, said),
            *(why for saga in said.sagas for why in _saga(saga, row, said)),
            *(why for case in said.cases for why in _case(case, row, said)),
            *(_without_case(said.outcomes) if staff_seen and not said.cases else ()),
        ):
            counted.breach(payment_id, why, since=since)
    for event in said.events:
        for why in _invoice(event, said.outcomes):
            counted.breach(event["invoice_id"], why)


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


def _row(row: StoredRow, said: _Said) -> Iterator[str]:
    """The row is as its last outcome left it. One that moved on since tells so by a higher version, and by another status."""
    last = said.at(row["version"])
    if any(outcome.row["version"] > row["version"] for outcome in said.outcomes):
        yield f"its version is {row['version']}, and an outcome has a higher one"
    if last is None:
        if row["status"] in SETTLED | CASES and not (row["reason"] == _UNKNOWN_HERE and not said.outcomes):
            yield f"{row['status']}, and no outcome of version {row['version']} says so"
    else:
        yield from _as_told(row, last)
    was = row["settled_as"]
    if was is not None and not any(was in _STATUSES.get(o.name, ()) for o in said.outcomes if o is not last):
        yield f"its row says that it was settled as {was}, and no outcome told that"
    for name in ("refund_id", "receipt_number") if all(outcome.event for outcome in said.outcomes) else ():
        if row[name] is not None and row[name] not in {outcome.data.get(name) for outcome in said.outcomes}:
            yield f"its {name} is {row[name]}, and no outcome names that"
    asked = next((e["recorded_at"] for e in said.events if e["event"] == "PaymentRequested"), row["created_at"])
    told = said.outcomes[0].row["recorded_at"] if said.outcomes else row["created_at"]
    if not asked - CLOCKS_APART <= row["created_at"] <= told + CLOCKS_APART:
        yield f"its row says that it is known since {row['created_at']:%F}, and it was requested at {asked:%F}"


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
    left_minor = _facts(last).get("left_minor") if last.name == "PaymentRefunded" else None
    if left_minor is not None and row["status"] == ("refunded" if left_minor else "captured"):
        yield f"{row['status']}, and its last outcome says that {left_minor} is left"
    names = () if last.name == "PaymentRefunded" else _OF_ROW[:-2] if is_of_refund else _OF_ROW
    yield from (
        f"{name} is {row[name]}, and its last outcome says {told.get(name)}"
        for name in names
        if name in told and told[name] != (row[name] or (row["status"] if name == "reason" else None))
    )
    if last.name == "PaymentNeedsDecision" and told:
        yield from _other_side(row["gateway_side"], told.get("gateway"), "its last outcome says")


def _other_side(one: dict[str, Any] | None, other: dict[str, Any] | None, whose: str) -> Iterator[str]:
    """In what two tell otherwise what the gateway said of a payment."""
    ours, theirs = SIDE.read(one, None) or {}, other or {}
    yield from (
        f"the gateway's {name} is {ours.get(name)}, and {whose} {theirs.get(name)}"
        for name in _OF_SIDE
        if ours.get(name) != theirs.get(name)
    )


def _refunds(row: StoredRow, said: _Said) -> Iterator[str]:
    """A refund is as the outcome of its version says. One is at work if the payment's status says so, and no other."""
    for refund in said.refunds:
        told = said.at(refund["version"])
        for why in (*_refund(refund, told), *(_refund_as_told(refund, told) if told is not None else ())):
            yield f"the refund {refund['refund_id']} {why}"
    at_work = sum(refund["status"] == "at_work" for refund in said.refunds)
    if at_work != int(row["status"] in _AT_WORK and open_here(row)):
        yield f"{row['status']}, and {at_work} refunds are at work"
    last, back_minor = said.at(row["version"]), given_back(said.refunds)
    if (
        last is not None
        and last.name == "PaymentRefunded"
        and _facts(last).get("refunded_minor", back_minor) != back_minor
    ):
        yield f"{back_minor} was given back, and its last outcome says {_facts(last)['refunded_minor']}"


def _facts(outcome: SaidOutcome) -> dict[str, Any]:
    """What an outcome says of the refund that it is about."""
    facts: dict[str, Any] = outcome.data.get("refund") or {}
    return facts


def _refund(refund: StoredRow, told: SaidOutcome | None) -> Iterator[str]:
    if refund["is_of_saga"] and refund["asked_minor"] is not None:
        yield "was asked for by the saga, and is not of all that is left"
    if told is None and (refund["version"] or refund["status"] in {"refunded", "kept"}):
        yield f"is {refund['status']} as of version {refund['version']}, which no outcome has"
    elif told is not None and not told.name.startswith("PaymentRefund"):
        yield f"is {refund['status']} as of version {refund['version']}, whose outcome is {told.name}"
    if refund["made_elsewhere"] and not refund["decided_by"]:
        yield "was made elsewhere, and nobody said so"
    if refund["by_hand_minor"] < 0 or (refund["amount_minor"] or 0) < 0:
        yield "is of less than nothing"


def _refund_as_told(refund: StoredRow, told: SaidOutcome) -> Iterator[str]:
    if not told.data:
        return
    if _facts(told).get("refund_id") not in {None, refund["refund_id"]}:
        yield f"is not the one that outcome {told.row['version']} tells of"
    if refund["status"] == "kept" and told.name != "PaymentRefundFailed":
        yield f"is kept, and its last outcome is {told.name}"
    if refund["status"] != "refunded":
        return
    if told.name != "PaymentRefunded":
        yield f"was made, and its last outcome is {told.name}"
        return
    yield from (
        f"has {name} {refund[name]}, and its last outcome says {told.data.get(name)}"
        for name in _OF_REFUND
        if (name in told.data or name != "amount_minor") and refund[name] != told.data.get(name)
    )
    if refund["gateway_id"] not in {None, told.data.get("refund_id")}:
        yield f"is {refund['gateway_id']} at the gateway, and its last outcome says {told.data.get('refund_id')}"


def _saga(saga: StoredRow, row: StoredRow, said: _Said) -> Iterator[str]:
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
    if saga["captured_minor"] is not None and captured not in _captures(outcomes):
        yield f"its saga took {captured[0]} {captured[1]} with receipt {captured[2]} for captured, and no outcome says that"
    failure = (saga["failure_outcome"], saga["failure_reason"], saga["failure_advice"])
    if failure[0] is not None and failure not in _failures(outcomes) | _OF_SAGA | _recorded(events):
        yield f"its saga took it for {failure[0]} ({failure[1]}), and no outcome says that"


def _saga_refund(refund: dict[str, Any], said: _Said) -> str | None:
    """How what a saga keeps of a refund that was asked for differs from what it was told, if it does."""
    asked = next((e["data"] for e in said.events if e["event"] == "RefundRequested" and _is_of(e, refund)), None)
    if asked is not None and refund["asked_minor"] not in {None, asked["amount_minor"]}:
        return f"asked for {refund['asked_minor']}, and the invoice asked for {asked['amount_minor']}"
    newest = [
        o for o in said.outcomes if o.name in _BY_SAGA.values() and _facts(o).get("refund_id") == refund["refund_id"]
    ]
    if newest and newest[-1].row["version"] > refund["version"]:
        return f"as of version {refund['version']}, and outcome {newest[-1].row['version']} is newer"
    if (wanted := _BY_SAGA.get(refund["status"])) is None:
        return "and an outcome tells more" if newest else None
    told = said.at(refund["version"])
    if told is None or (told.event and (told.name, _facts(told).get("refund_id")) != (wanted, refund["refund_id"])):
        return f"as of version {refund['version']}, and no outcome says so"
    if wanted != "PaymentRefunded" or not told.event:
        return None
    who = told.data.get("decided_by") or told.data.get("asked_by")  # an earlier build kept nobody
    made, says = (refund["amount_minor"], refund["currency"]), (told.data["amount_minor"], told.data["currency"])
    return None if made == says and refund.get("decided_by") in {None, who} else f"and the outcome says {says}, {who}"


def _is_of(event: StoredRow, refund: dict[str, Any]) -> bool:
    return bool(event["data"]["refund_id"] == refund["refund_id"])


def _captures(outcomes: Sequence[SaidOutcome]) -> set[tuple[Any, ...]]:
    said = [outcome.data for outcome in outcomes if outcome.name == "PaymentCaptured"]
    return {(data.get("amount_minor"), data.get("currency"), data.get("receipt_number")) for data in said}


def _failures(outcomes: Sequence[SaidOutcome]) -> set[tuple[Any, ...]]:
    return {
        (_FAILURE[outcome.name], outcome.data.get("reason"), outcome.data.get("advice"))
        for outcome in outcomes
        if outcome.name in _FAILURE
    }


def _recorded(events: Sequence[StoredRow]) -> set[tuple[Any, ...]]:
    """The failures that the invoice recorded: a saga may hear of one from there first."""
    failed = [event["data"] for event in events if event["event"] == "PaymentFailed"]
    return {(data["outcome"], data["reason"], data.get("advice")) for data in failed}


def _case(case: StoredRow, row: StoredRow, said: _Said) -> Iterator[str]:
    names = ("invoice_id", "amount_minor", "currency", "gateway_id")
    yield from (
        f"{name} is {row[name]}, and its case shows {case[name]}"
        for name in names
        if case[name] != row[name] and (case[name] is not None or case["status"] in CASES)
    )
    told, shown = _told_to_staff(said.outcomes), max(case["version"], case["attempts_version"])
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
        yield from _other_side(row["gateway_side"], details.get("gateway"), "its case shows")
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


def _told_to_staff(outcomes: Sequence[SaidOutcome]) -> list[SaidOutcome]:
    return [outcome for outcome in outcomes if outcome.row["routing_key"].endswith(CASE_SUFFIX)]


def _without_case(outcomes: Sequence[SaidOutcome]) -> Iterator[str]:
    if _told_to_staff(outcomes):
        yield "staff were told of it, and there is no case"


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
