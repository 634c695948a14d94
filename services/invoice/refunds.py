"""Refunds of a paid invoice: what was asked for, what came of it, and how much is left. Pure: no I/O, clock, randomness, logging."""

from typing import Literal
from uuid import UUID

from shared.records import dataclass, replace

REFUNDS_MAX = 100
"""Refunds of one invoice. Its state and its saga hold all of them, and the gateway lists them on one page."""

RefundStatus = Literal["pending", "refunded", "failed"]


@dataclass(frozen=True, slots=True)
class InvoiceRefund:
    """A refund of the invoice. `asked_minor` is None for all that is left.

    `version` is that of the payment at the newest outcome that was recorded, or 0. `refunded_minor` is what it gave back.
    """

    refund_id: UUID
    asked_minor: int | None
    status: RefundStatus = "pending"
    refunded_minor: int = 0
    version: int = 0


Refunds = tuple[InvoiceRefund, ...]

# -- commands --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refund:
    """Give back what paid the invoice, or `amount_minor` of it.

    If a person asks, `requested_by` is the person, and `payment_id` the payment that the person named. Then a rejection is an event.
    """

    refund_id: UUID
    amount_minor: int | None
    currency: str
    reason: str
    payment_id: UUID | None = None
    requested_by: str | None = None


@dataclass(frozen=True, slots=True)
class RecordRefund:
    """Note that a refund was made. `version` is that of the payment: an older one than is known changes nothing.

    `decided_by` is the person who decided that it was made, or had it made, if one did.
    """

    payment_id: UUID
    refund_id: UUID
    amount_minor: int
    currency: str
    version: int
    decided_by: str | None = None


@dataclass(frozen=True, slots=True)
class RecordRefundFailure:
    """Note that a refund was not made, or was sent back by the bank. `version` is as for `RecordRefund`."""

    payment_id: UUID
    refund_id: UUID
    reason: str
    version: int


# -- events ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RefundRequested:
    payment_id: UUID
    refund_id: UUID
    amount_minor: int | None
    currency: str
    reason: str
    requested_by: str | None


@dataclass(frozen=True, slots=True)
class Refunded:
    """`refunded_minor` is the sum of all refunds that stand, this one included."""

    payment_id: UUID
    refund_id: UUID
    amount_minor: int
    currency: str
    refunded_minor: int
    version: int


@dataclass(frozen=True, slots=True)
class RefundFailed:
    """`amount_minor` is what was asked for, or what had been given back before the bank sent it back."""

    payment_id: UUID
    refund_id: UUID
    amount_minor: int | None
    currency: str
    refunded_minor: int
    reason: str
    version: int


@dataclass(frozen=True, slots=True)
class RefundRejected:
    """A refund that a person asked for does not fit the invoice. It changes nothing."""

    payment_id: UUID
    refund_id: UUID
    reason: str
    requested_by: str


RefundEvent = RefundRequested | Refunded | RefundFailed | RefundRejected

# -- what follows from them ------------------------------------------------------------------------------------------------------------


def find(refunds: Refunds, refund_id: UUID) -> InvoiceRefund | None:
    """The refund of this id, or None."""
    return next((refund for refund in refunds if refund.refund_id == refund_id), None)


def given_back_minor(refunds: Refunds) -> int:
    """The sum of the refunds that stand."""
    return sum(refund.refunded_minor for refund in refunds)


def left_minor(refunds: Refunds, paid_minor: int) -> int:
    """What may still be asked for. A pending refund has its amount reserved, and one of the rest all that is left."""
    pending = [refund.asked_minor for refund in refunds if refund.status == "pending"]
    if None in pending:
        return 0
    return paid_minor - given_back_minor(refunds) - sum(amount or 0 for amount in pending)


def _news(refunds: Refunds, refund_id: UUID, version: int) -> tuple[InvoiceRefund, int] | None:
    """The refund that an outcome is about, and the sum of the others that stand. None if it is unknown, or the outcome no news."""
    known = find(refunds, refund_id)
    if known is None or version <= known.version:
        return None
    return known, given_back_minor(refunds) - known.refunded_minor


GIVEN_BACK_THERE = "the money was given back at the gateway"
"""The reason of a refund that the invoice did not ask for."""
STAFF = "staff"
"""Who asked for such a refund, if no person is named."""


def record_unasked(command: RecordRefund) -> RefundRequested:
    """The event before the refund of money that people gave back at the gateway, so that it is told like any other."""
    who = command.decided_by or STAFF
    about = (command.payment_id, command.refund_id, command.amount_minor, command.currency)
    return RefundRequested(*about, GIVEN_BACK_THERE, who)


def record(command: RecordRefund, refunds: Refunds) -> tuple[Refunded, ...]:
    """The event of a refund that was made. One that is unknown, or older than what is known, changes nothing."""
    if (news := _news(refunds, command.refund_id, command.version)) is None:
        return ()
    known, others_minor = news
    total_minor = others_minor + command.amount_minor
    return (
        Refunded(
            command.payment_id, known.refund_id, command.amount_minor, command.currency, total_minor, command.version
        ),
    )


def record_failure(command: RecordRefundFailure, refunds: Refunds, currency: str) -> tuple[RefundFailed, ...]:
    """The event of a refund that was not made, or came back. One that is unknown, or older than what is known, changes nothing."""
    if (news := _news(refunds, command.refund_id, command.version)) is None:
        return ()
    known, total_minor = news
    return (
        RefundFailed(
            command.payment_id,
            known.refund_id,
            known.asked_minor or known.refunded_minor or None,
            currency,
            total_minor,
            command.reason,
            command.version,
        ),
    )


def fold(refunds: Refunds, event: RefundEvent) -> Refunds:
    """The refunds after one more event."""
    match event:
        case RefundRequested():
            return (*refunds, InvoiceRefund(event.refund_id, event.amount_minor))
        case Refunded():
            return _changed(refunds, event.refund_id, "refunded", event.amount_minor, event.version)
        case RefundFailed():
            return _changed(refunds, event.refund_id, "failed", 0, event.version)
        case RefundRejected():
            return refunds


def _changed(refunds: Refunds, refund_id: UUID, status: RefundStatus, refunded_minor: int, version: int) -> Refunds:
    return tuple(
        replace(refund, status=status, refunded_minor=refunded_minor, version=version)
        if refund.refund_id == refund_id
        else refund
        for refund in refunds
    )
