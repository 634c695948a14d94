"""Refunds of one payment, as people see them beside its case. Pure: no I/O, clock, randomness, logging."""

from enum import StrEnum
from uuid import UUID

from shared.records import dataclass, replace


class CaseRefundStatus(StrEnum):
    ASKED = "asked"
    IN_DOUBT = "in_doubt"
    REFUNDED = "refunded"
    FAILED = "failed"
    REJECTED = "rejected"  # it did not fit the invoice


@dataclass(frozen=True, slots=True)
class RefundTold:
    """What a message says of a refund. `version` is that of the payment, 0 before any outcome. What it does not say is None."""

    refund_id: UUID
    status: CaseRefundStatus
    version: int = 0
    amount_minor: int | None = None
    currency: str | None = None
    reason: str | None = None
    code: str | None = None
    requested_by: str | None = None


Refunds = tuple[RefundTold, ...]
"""Of each refund what all messages together say."""


def told(refunds: Refunds, fact: RefundTold) -> Refunds:
    """The refunds after one more message. The order of messages does not matter: the highest version gives status, amount and code."""
    known = next((refund for refund in refunds if refund.refund_id == fact.refund_id), None)
    if known is None:
        return (*refunds, fact)
    is_newer = (fact.version, fact.status is not CaseRefundStatus.REJECTED) > (
        known.version,
        known.status is not CaseRefundStatus.REJECTED,
    )
    newest, other = (fact, known) if is_newer else (known, fact)
    merged = replace(
        newest,
        amount_minor=newest.amount_minor or other.amount_minor,
        currency=newest.currency or other.currency,
        reason=newest.reason or other.reason,
        requested_by=newest.requested_by or other.requested_by,
    )
    return tuple(merged if refund is known else refund for refund in refunds)
