"""Judges one payment by both sides. Pure."""

from enum import StrEnum
from uuid import UUID

from services.payment_gateway.domain import CHARGED, SETTLED, PaymentStatus
from services.payment_gateway.gateways.stripe_amounts import to_stripe
from services.payment_gateway.reconcile.books import BookedPayment
from shared.records import dataclass


class Verdict(StrEnum):
    AGREES = "agrees"
    OPEN = "open"  # here it waits for the gateway or a person, so nothing is claimed yet
    DIFFERS = "differs"
    UNKNOWN_HERE = "unknown_here"  # the gateway has it, made for a payment of ours that we do not know
    UNKNOWN_THERE = "unknown_there"
    FOREIGN = "foreign"  # somebody else uses the account


BROKEN = frozenset({Verdict.DIFFERS, Verdict.UNKNOWN_HERE, Verdict.UNKNOWN_THERE})
"""The verdicts that a person has to look at."""


@dataclass(frozen=True, slots=True)
class OurPayment:
    """A row of `payments`. Amounts are in the minor unit of ISO 4217.

    By what we know, `refunded_minor` went back at the gateway, and `elsewhere_minor` without it.
    """

    payment_id: UUID
    invoice_id: str
    status: str
    amount_minor: int | None
    currency: str | None
    gateway_id: str | None
    decided_by: str | None
    refunded_minor: int = 0
    elsewhere_minor: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A verdict with both sides in words. `stray` is a capture of the gateway that no payment of ours has."""

    verdict: Verdict
    payment_id: UUID | None
    gateway_id: str
    here: str
    there: str
    stray: BookedPayment | None = None


def compare(ours: OurPayment | None, theirs: BookedPayment, as_stray: OurPayment | None = None) -> Comparison:
    """The verdict over a payment in the gateway's books. `ours` is the row that its metadata names, `as_stray` one of its `stray_id`."""
    there, stray = _words(theirs), None
    if as_stray is not None and (ours is None or ours.gateway_id != theirs.gateway_id):
        ours = as_stray
    if theirs.payment_id is None:
        return Comparison(Verdict.FOREIGN, None, theirs.gateway_id, "", there)
    here = "unknown" if ours is None else ours.status
    if ours is None:
        verdict, stray = Verdict.UNKNOWN_HERE, theirs if theirs.captured else None
    elif ours.gateway_id != theirs.gateway_id:
        # A crash after the gateway made a payment, and before we recorded its id, leaves one that nobody can confirm any more.
        verdict = Verdict.DIFFERS if theirs.captured else Verdict.AGREES
        stray = theirs if theirs.captured and not _looks_for_itself(ours) else None
        here = f"{here}, as {ours.gateway_id or 'no payment there'}"
    elif _is_open(ours):
        verdict = Verdict.OPEN
    else:
        verdict = Verdict.AGREES if _agree(ours, theirs) else Verdict.DIFFERS
    return Comparison(verdict, theirs.payment_id, theirs.gateway_id, here, there, stray)


def missing(ours: OurPayment) -> Comparison:
    """The verdict over a payment of ours whose gateway id the gateway does not know."""
    return Comparison(Verdict.UNKNOWN_THERE, ours.payment_id, ours.gateway_id or "", ours.status, "unknown")


def _is_open(ours: OurPayment) -> bool:
    kept = ours.status == PaymentStatus.REFUND_FAILED and ours.decided_by is not None
    return ours.status not in SETTLED and not kept


def _looks_for_itself(ours: OurPayment) -> bool:
    """Whether the service finds the capture by itself once the payment is due. A case besides would be about the same money."""
    return ours.gateway_id is None and (_is_open(ours) or ours.decided_by is not None)


def _agree(ours: OurPayment, theirs: BookedPayment) -> bool:
    if ours.status not in CHARGED:
        return theirs.status == "canceled" and not theirs.captured
    if (theirs.captured, theirs.currency) != (_counted(ours.amount_minor, ours), ours.currency) or theirs.disputed:
        return False
    if ours.status == PaymentStatus.REFUNDED:
        return theirs.captured - (_counted(ours.elsewhere_minor, ours) or 0) <= theirs.refunded <= theirs.captured
    return theirs.refunded == _counted(ours.refunded_minor, ours)


def _counted(amount_minor: int | None, ours: OurPayment) -> int | None:
    """An amount of ours, as the gateway counts the currency."""
    return to_stripe(amount_minor, ours.currency) if amount_minor is not None and ours.currency else None


def _words(theirs: BookedPayment) -> str:
    parts = [theirs.status]
    if theirs.captured:
        parts.append(f"captured {theirs.captured} of {theirs.amount} {theirs.currency}")
    if theirs.refunded:
        parts.append(f"refunded {theirs.refunded}")
    if theirs.disputed:
        parts.append("disputed")
    return ", ".join(parts)
