"""Refunds of one payment: each has an id of its own, an amount, and a status. Pure: no I/O, clock, randomness.

A payment has at most one refund at work, and others wait for it. It takes no more than the gateway says is left, and no more than our books
leave: they also know what was given back without the gateway. So never more is given back than was captured.
"""

from collections.abc import Sequence
from enum import StrEnum
from uuid import UUID

from services.payment_gateway.gateways.port import StandingRefund
from shared.records import dataclass, replace

LACK_OF_BALANCE = frozenset({"insufficient_balance_for_refund", "balance_insufficient", "insufficient_funds"})
"""The gateway's codes for a refund that our account there cannot pay now. Any day it may be able to."""
FORGOTTEN = "Remit had made it, and lost the record"
"""The reason of a refund that was found at the gateway under an id of ours."""


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
    `decided_by` is the person who decided what became of it, if one did, and `asked_by` the person who had it made. `made_elsewhere`: the
    person called it made, and knew that the gateway had not made it. It went by a bank transfer, say, so nobody looks for it there.
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
    made_elsewhere: bool = False

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


def made_there(refunds: Refunds) -> Refunds:
    """Those that were made, as far as the gateway should know of them."""
    return tuple(refund for refund in made(refunds) if not refund.made_elsewhere)


def changed(refunds: Refunds, after: PaymentRefund) -> Refunds:
    """The refunds with `after` in the place of the one with its id, or at the end."""
    if find(refunds, after.refund_id) is None:
        return (*refunds, after)
    return tuple(after if refund.refund_id == after.refund_id else refund for refund in refunds)


def refunded_minor(refunds: Refunds) -> int:
    """All that was given back: by these refunds, and by hand as far as the gateway said."""
    return _by_hand_minor(refunds) + _sum_minor(made(refunds))


def refunded_there_minor(refunds: Refunds) -> int:
    """What the gateway should show as given back."""
    return _by_hand_minor(refunds) + made_there_minor(refunds)


def made_there_minor(refunds: Refunds) -> int:
    """What these refunds gave back at the gateway."""
    return _sum_minor(made_there(refunds))


def elsewhere_minor(refunds: Refunds) -> int:
    """What was given back, and the gateway does not show."""
    return _sum_minor(made(refunds)) - made_there_minor(refunds)


def _by_hand_minor(refunds: Refunds) -> int:
    return max((refund.by_hand_minor for refund in refunds), default=0)


def _sum_minor(refunds: Refunds) -> int:
    return sum(refund.amount_minor or 0 for refund in refunds)


def capped(amount_minor: int, refunds: Refunds, captured_minor: int) -> int:
    """The amount, or what our books leave of the capture if that is less. Without a refund that was made they leave all of it.

    The gateway alone knows how much that is: it may have captured another amount than `captured_minor`.
    """
    if not made(refunds):
        return amount_minor
    return min(amount_minor, max(captured_minor - refunded_minor(refunds), 0))


Forgotten = dict[UUID, StandingRefund]
"""Refunds that stand at the gateway, by our ids of them."""


def forgotten(refunds: Refunds, standing: Sequence[StandingRefund], payment_id: UUID, captured_minor: int) -> Forgotten:
    """Refunds at the gateway that stand under ids of ours, and that our books lack. A restore or a fail-over took their record from us.

    The texts at the gateway are no proof: anybody who may refund there can write them. So an id counts once, for this payment only, for no
    more than our books leave, and never as the refund of the saga, of which the invoice does not hear. What is left out counts as made by
    hand; and so does everything once the saga has a refund, since then no invoice took the money.
    """
    if find(refunds, payment_id) is not None:
        return {}
    known = {payment_id, *(refund.refund_id for refund in refunds if refund.status in _AT_WORK_OR_MADE)}
    room_minor = captured_minor - refunded_minor(refunds)
    found: Forgotten = {}
    for one in standing:
        id_ = one.refund_id if one.payment_id == payment_id else None
        if id_ is not None and id_ not in known | found.keys() and one.amount_minor <= room_minor:
            found[id_] = one
            room_minor -= one.amount_minor
    return found


_AT_WORK_OR_MADE = frozenset({PaymentRefundStatus.AT_WORK, PaymentRefundStatus.REFUNDED})


def came_back(refunds: Refunds, standing: Sequence[StandingRefund]) -> Refunds:
    """Those that the gateway had made, and that stand there no more."""
    known = {id_ for one in standing for id_ in (one.gateway_id, one.refund_id)}
    return tuple(one for one in made_there(refunds) if one.gateway_id and not known & {one.gateway_id, one.refund_id})


def found_there(refunds: Refunds, unknown_minor: int) -> Refunds:
    """The refunds, of which one that a person called made stands at the gateway after all: just its amount is gone there unexplained.

    The gateway had failed to make it, so it seemed to be made elsewhere. But staff gave it back in the gateway's dashboard.
    """
    found = next((one for one in made(refunds) if one.made_elsewhere and one.amount_minor == unknown_minor), None)
    return changed(refunds, replace(found, made_elsewhere=False, gateway_id=None)) if found else refunds


def told_by_hand(refunds: Refunds, told: PaymentRefund) -> Refunds:
    """The refunds with `told`, which is what others had given back: from now on it counts like one of ours."""
    return (*(replace(refund, by_hand_minor=0) for refund in refunds), told)


def measured(
    refund: PaymentRefund, refunds: Refunds, captured_minor: int, left_minor: int, by_hand_minor: int
) -> tuple[PaymentRefund, int]:
    """The refund at work with its amount, now that the gateway said what is left; and how much it may be at most.

    `refunds` are all of the payment, with this one. `by_hand_minor` is what others gave back, and our books lack.
    """
    known = changed(refunds, replace(refund, by_hand_minor=by_hand_minor))
    room_minor = capped(left_minor, known, captured_minor)
    amount_minor = room_minor if refund.takes_rest else refund.asked_minor
    return replace(refund, by_hand_minor=by_hand_minor, amount_minor=amount_minor), room_minor
