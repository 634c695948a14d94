"""A payment's refunds are as the outcomes of their versions say."""

from collections.abc import Iterator
from typing import Final

from services.audit.align import StoredRow
from services.audit.outcomes.said import Said, SaidOutcome, facts_of_refund
from services.audit.payments import open_here
from services.audit.refunds import given_back

_OF_REFUND: Final = ("amount_minor", "decided_by", "asked_by")
_AT_WORK: Final = frozenset({"refunding", "refund_in_doubt", "refund_failed"})


def of_refunds(row: StoredRow, said: Said) -> Iterator[str]:
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
        and facts_of_refund(last).get("refunded_minor", back_minor) != back_minor
    ):
        yield f"{back_minor} was given back, and its last outcome says {facts_of_refund(last)['refunded_minor']}"


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
    if facts_of_refund(told).get("refund_id") not in {None, refund["refund_id"]}:
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
    found_later = refund["gateway_id"] is None and told.data.get("decided_by")  # a person called it made, and so it was
    if refund["gateway_id"] != told.data.get("refund_id") and not found_later:
        yield f"is {refund['gateway_id']} at the gateway, and its last outcome says {told.data.get('refund_id')}"
