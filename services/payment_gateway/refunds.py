"""Refunds of one payment: each has an id of its own, an amount, and a status. Pure: no I/O, clock, randomness.

A payment has at most one refund at work. So what the gateway says is left is what the next refund may take, and no two refunds can give
back more than was captured. Those that wait begin one after the other.
"""

from enum import StrEnum
from uuid import UUID

from shared.records import dataclass, replace

LACK_OF_BALANCE = frozenset({"insufficient_balance_for_refund", "balance_insufficient", "insufficient_funds"})
"""The gateway's codes for a refund that our account there cannot pay now. Any day it may be able to."""


class PaymentRefundStatus(StrEnum):
    WAITING = "waiting"  # another refund of the payment is at work
    AT_WORK = "at_work"  # the status of the payment says how far it got
    REFUNDED = "refunded"
    KEPT = "kept"  # a person decided that the money stays


@dataclass(frozen=True, slots=True)
class PaymentRefund:
    """A refund, as it is stored.

    `asked_minor` is None for all that is left. `amount_minor` is known once the gateway said what is left. `by_hand_minor` is what others
    had given back of the payment by then. `version` is the payment's version at the newest outcome of this refund, or 0. `key_number` is
    part of the idempotency key. `gateway_id` is the gateway's id of its newest try, once we know of it.
    `decided_by` is the person who decided what became of it, if one did, and `asked_by` the person who had it made.
    """

    refund_id: UUID
    reason: str
    asked_minor: int | None = None
    status: PaymentRefundStatus = PaymentRefundStatus.WAITING
    amount_minor: int | None = None
    by_hand_minor: int = 0
    version: int = 0
    key_number: int = 1
    gateway_id: str | None = None
    decided_by: str | None = None
    asked_by: str | None = None

    @property
    def takes_rest(self) -> bool:
        """Whether it gives back all that is left."""
        return self.asked_minor is None


Refunds = tuple[PaymentRefund, ...]


def whole(payment_id: UUID, reason: str) -> PaymentRefund:
    """The refund of all that is left, which the saga asks for. It has the id of the payment, so there is one of them."""
    return PaymentRefund(payment_id, reason)


def find(refunds: Refunds, refund_id: UUID) -> PaymentRefund | None:
    """The refund of this id, or None."""
    return next((refund for refund in refunds if refund.refund_id == refund_id), None)


def at_work(refunds: Refunds) -> PaymentRefund | None:
    """The one refund at work, or None."""
    return next((refund for refund in refunds if refund.status is PaymentRefundStatus.AT_WORK), None)


def waiting(refunds: Refunds) -> PaymentRefund | None:
    """The refund that begins next, or None."""
    return next((refund for refund in refunds if refund.status is PaymentRefundStatus.WAITING), None)


def made(refunds: Refunds) -> Refunds:
    """Those that were made."""
    return tuple(refund for refund in refunds if refund.status is PaymentRefundStatus.REFUNDED)


def changed(refunds: Refunds, after: PaymentRefund) -> Refunds:
    """The refunds with `after` in the place of the one with its id, or at the end."""
    if find(refunds, after.refund_id) is None:
        return (*refunds, after)
    return tuple(after if refund.refund_id == after.refund_id else refund for refund in refunds)


def refunded_minor(refunds: Refunds) -> int:
    """All that was given back: by these refunds, and by hand as far as the gateway said."""
    return max((refund.by_hand_minor for refund in refunds), default=0) + _ours_minor(refunds)


def _ours_minor(refunds: Refunds) -> int:
    return sum(refund.amount_minor or 0 for refund in made(refunds))


def told_by_hand(refunds: Refunds, told: PaymentRefund) -> Refunds:
    """The refunds with `told`, which is what others had given back: from now on it counts like one of ours."""
    return (*(replace(refund, by_hand_minor=0) for refund in refunds), told)


def measured(refund: PaymentRefund, refunds: Refunds, captured_minor: int, left_minor: int) -> PaymentRefund:
    """The refund at work with its amount, now that the gateway said what is left. `refunds` are all of the payment, with this one."""
    by_hand_minor = max(captured_minor - left_minor - _ours_minor(refunds), 0)
    amount_minor = left_minor if refund.takes_rest else refund.asked_minor
    return replace(refund, by_hand_minor=by_hand_minor, amount_minor=amount_minor)
