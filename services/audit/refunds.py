"""What must hold of refunds: made once, of no more than was captured, and the same here, on the invoice and at the gateway."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from services.audit.align import StoredRow

_BY_OTHERS = "the money was given back at the gateway"
"""The reason of a refund that others made there, and that was told here."""
_MADE, _KEPT, _AT_WORK = "refunded", "kept", "at_work"
_RESOLUTION_OF = {_MADE: "refunded", _KEPT: "not_refunded"}


def by_hand(ours: list[StoredRow]) -> int:
    """What people gave back at the gateway themselves, as far as the gateway said."""
    minor: int = max((row["by_hand_minor"] for row in ours), default=0)
    return minor


def elsewhere(ours: list[StoredRow]) -> int:
    """What was given back without the gateway, as people said who knew that it had not done so."""
    return sum(row["amount_minor"] or 0 for row in ours if row["status"] == _MADE and row["made_elsewhere"])


def given_back(ours: list[StoredRow]) -> int:
    """All that our rows say was given back: by us, and by hand as far as the gateway said."""
    return by_hand(ours) + _made(ours)


def given_back_there(ours: list[StoredRow]) -> int:
    """What our rows say was given back at the gateway: by us, and by hand as far as the gateway said."""
    return given_back(ours) - elsewhere(ours)


def _made(ours: list[StoredRow]) -> int:
    return sum(row["amount_minor"] or 0 for row in ours if row["status"] == _MADE)


def miscounted(
    captured: int, amount: int, ours: list[StoredRow], theirs: list[StoredRow], *, known: bool
) -> Iterator[str]:
    """Captures minus refunds are what our rows say is left, and our refunds are of no more than the captures.

    `known`: whether our rows were given.
    """
    if _made(ours) > max(captured, amount):
        yield f"our refunds are {_made(ours)} of {max(captured, amount)}"
    net = captured - sum(refund["amount"] for refund in theirs)
    if net < 0:
        yield f"{-net} more was given back than was captured"
        return
    under_way = {0, *(row["amount_minor"] or 0 for row in ours if row["status"] == _AT_WORK)}
    expected = {0, amount, *(amount - given_back_there(ours) - minor for minor in under_way)}
    if known and net not in expected:
        yield f"captures minus refunds are {net}, neither 0 nor {amount}, nor what our refunds leave"


def made_once(ours: list[StoredRow], theirs: list[StoredRow], *, known: bool) -> Iterator[str]:
    """Each refund id was given back once, with the amount that our row has."""
    times = Counter(refund["refund_id"] for refund in theirs if refund["refund_id"])
    for refund_id, made in times.items():
        if made > 1:
            yield f"the refund {refund_id} was made {made} times"
    rows = {row["refund_id"]: row for row in ours}
    for refund in theirs:
        row = rows.get(refund["refund_id"] or "")
        if known and refund["refund_id"] and row is None:
            yield f"the gateway made the refund {refund['refund_id']}, and nobody asked for it here"
        elif row is not None and row["amount_minor"] not in {None, refund["amount"]}:
            yield f"the refund {refund['refund_id']} is {row['amount_minor']} here and {refund['amount']} there"
        elif row is not None and row["gateway_id"] not in {None, refund["id"]}:
            yield f"the refund {refund['refund_id']} is known here as {row['gateway_id']}, and there it is {refund['id']}"
    if known:
        yield from _not_made(ours, theirs)


def _not_made(ours: list[StoredRow], theirs: list[StoredRow]) -> Iterator[str]:
    """Refunds that were made by our rows, and that the gateway's books lack. Without any books nothing is known.

    What others gave back there has none of our ids, and a row here once it was told: of no more than the books have.
    """
    known_there = {refund["refund_id"] for refund in theirs}
    by_others = sum(refund["amount"] for refund in theirs if not refund["refund_id"])
    whole = {
        row["refund_id"] for row in ours if row["asked_minor"] is None
    }  # somebody may have given the rest back by hand
    for row in ours:
        if row["status"] == _MADE and not row["decided_by"] and theirs and row["refund_id"] not in known_there | whole:
            if row["reason"] == _BY_OTHERS and (by_others := by_others - row["amount_minor"]) >= 0:
                continue
            yield f"the refund {row['refund_id']} was made here and not there"


def on_invoice(events: list[StoredRow]) -> dict[str, tuple[str, int]]:
    """Each refund that the invoice knows: its newest event, and what it gave back."""
    known: dict[str, tuple[str, int]] = {}
    for event in events:
        data: dict[str, Any] = event["data"]
        match event["event"]:
            case "RefundRequested" | "RefundFailed":
                known[data["refund_id"]] = (event["event"], 0)
            case "Refunded":
                known[data["refund_id"]] = (event["event"], data["amount_minor"])
            case _:
                pass
    return known


def _asked(events: list[StoredRow]) -> dict[str, tuple[int | None, str]]:
    """What the invoice asked for: the amount (None: all that is left), and why."""
    data = [event["data"] for event in events if event["event"] == "RefundRequested"]
    return {one["refund_id"]: (one["amount_minor"], one["reason"]) for one in data}


_ON_INVOICE = {_MADE: {"Refunded"}, _KEPT: {"RefundFailed"}, _AT_WORK: {"RefundRequested", "RefundFailed"}}


def disagreeing(
    payment_id: str, events: list[StoredRow], ours: list[StoredRow]
) -> Iterator[tuple[str, datetime | None]]:
    """What the invoice knows of a refund is what the payment gateway service knows. A refund of ours was asked for by the invoice."""
    known, asked = on_invoice(events), _asked(events)
    recorded = max((event["recorded_at"] for event in events), default=None)
    for row in ours:
        if row["refund_id"] == payment_id:
            continue  # the saga asked for it, because the invoice could not take the money
        told, amount = known.pop(row["refund_id"], (None, 0))
        since = max(row["updated_at"], recorded) if recorded else row["updated_at"]
        if (why := _differing(row, told, amount, asked)) is not None:
            yield f"the refund {row['refund_id']} {why}", since
    for refund_id, (told, _) in known.items():
        yield f"the invoice knows {told} of the refund {refund_id}, and there is none here", recorded


def _differing(row: StoredRow, told: str | None, amount: int, asked: dict[str, tuple[int | None, str]]) -> str | None:
    """How a refund of ours differs from what the invoice was `told` of it and asked for, if it does."""
    status, wanted = row["status"], asked.get(row["refund_id"])
    if told is None:  # a person gives back what is not as it should be: the invoice hears of it once it is made
        return None if status == _AT_WORK else "was asked for by no invoice"
    if told not in _ON_INVOICE.get(status, {"RefundRequested"}):
        return f"is {status}, and the invoice knows {told}"
    if told == "Refunded" and amount != row["amount_minor"]:
        return f"is {row['amount_minor']}, and the invoice knows {amount}"
    if row["reason"] != _BY_OTHERS and wanted not in {None, (row["asked_minor"], row["reason"])}:
        return "is another than the invoice asked for"
    return None


def lacks_evidence(row: StoredRow, resolution: str | None, decisions: list[StoredRow]) -> bool:
    """Whether a person decided, and no decision of that person for this, with evidence, is known."""
    return bool(row["decided_by"]) and not any(
        d["resolution"] == resolution and d["decided_by"] == row["decided_by"] and d["evidence"].strip()
        for d in decisions
    )


def decided_without_evidence(ours: list[StoredRow], decisions: list[StoredRow]) -> Iterator[str]:
    """A decision about a refund must have recorded its evidence."""
    for row in ours:
        if lacks_evidence(row, _RESOLUTION_OF.get(row["status"]), decisions):
            yield f"the refund {row['refund_id']} is {row['status']} by decision of {row['decided_by']}, without evidence"
