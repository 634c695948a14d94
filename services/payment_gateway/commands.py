"""Commands about a payment, and how each changes it. Pure: no I/O, clock, randomness.

A command that comes again changes nothing. The known outcome is published again.
"""

from hashlib import sha256
from typing import assert_never
from uuid import UUID

from services.payment_gateway import refunds
from services.payment_gateway.domain import (
    CHARGED,
    Outcome,
    OutcomeReason,
    Payment,
    PaymentStatus,
    PaymentTransition,
    Resolution,
    ResolutionRefusal,
    ResolutionRefused,
    begin_refund,
    move,
    next_step,
    refund_kept,
    refund_made,
)
from services.payment_gateway.gateways.port import NO_DETAILS, ChargeDetails
from shared.records import dataclass, field, replace


class PaymentIdReusedError(Exception):
    """payment_id_reused: an earlier request has this payment id and other parameters.

    It is an error and never an outcome of the payment, because the outcome would be that of the first request.
    """


class RefundIdReusedError(Exception):
    """refund_id_reused: an earlier refund of this payment has this id and another amount, or the currency is not the payment's."""


@dataclass(frozen=True, slots=True)
class Request:
    """Charge this amount. The payment method is `method_token`, or `card_jwe`, a card that was encrypted for this service."""

    payment_id: UUID
    invoice_id: str
    amount_minor: int
    currency: str
    method_token: str | None = None
    card_jwe: str | None = field(default=None, repr=False)
    details: ChargeDetails = NO_DETAILS

    @property
    def params_hash(self) -> bytes:
        """SHA-256 over all parameters of the charge, one a line. The contracts allow no line break in any of them.

        Without details it is the hash of earlier builds, which knew none.
        """
        params = [self.invoice_id, str(self.amount_minor), self.currency, self.method_token or "", self.card_jwe or ""]
        if self.details != NO_DETAILS:
            given = self.details
            params += [
                given.customer or "",
                given.mandate or "",
                given.description or "",
                given.statement_descriptor or "",
            ]
            params += [f"{name}={value}" for name, value in given.metadata]
        return sha256("\n".join(params).encode()).digest()


@dataclass(frozen=True, slots=True)
class Inquire:
    """Ask what is known about this payment."""

    payment_id: UUID
    invoice_id: str


@dataclass(frozen=True, slots=True)
class Refund:
    """Make a refund, at most once for each `refund_id`. `amount_minor` is None for all that is left."""

    payment_id: UUID
    invoice_id: str
    refund_id: UUID
    reason: str
    amount_minor: int | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class Resolve:
    """A person's decision. `expected_version` is the version of the payment that the person saw."""

    payment_id: UUID
    invoice_id: str
    resolution: Resolution
    expected_version: int
    decided_by: str
    receipt_number: str | None = None


Command = Request | Inquire | Refund | Resolve


def on_command(payment: Payment | None, command: Command) -> PaymentTransition:
    """The effect of `command` on the payment. `payment` is None if it was never seen. Raises `PaymentIdReusedError`."""
    match command:
        case Request():
            return _request(command, payment)
        case Inquire():
            return _inquire(command, payment)
        case Refund():
            return _refund(command, payment)
        case Resolve():
            return _resolve(command, payment)
        case _:
            assert_never(command)


def _request(command: Request, payment: Payment | None) -> PaymentTransition:
    if payment is None:
        requested = Payment(
            payment_id=command.payment_id,
            invoice_id=command.invoice_id,
            status=PaymentStatus.REQUESTED,
            amount_minor=command.amount_minor,
            currency=command.currency,
            method_token=command.method_token,
            card_jwe=command.card_jwe,
            params_hash=command.params_hash,
            details=command.details,
        )
        return PaymentTransition(requested, delay_s=0.0)
    if payment.params_hash not in {None, command.params_hash}:
        raise PaymentIdReusedError("payment_id_reused: an earlier request has this payment id and other parameters")
    return PaymentTransition(payment, republish=True)


def _close(command: Inquire | Refund | Resolve) -> PaymentTransition:
    """Close a payment that was never seen. A request that arrives later with its id is never sent to the gateway."""
    closed = Payment(
        command.payment_id,
        command.invoice_id,
        PaymentStatus.NOT_CHARGED,
        reason=OutcomeReason.NEVER_REQUESTED,
    )
    return PaymentTransition(closed, Outcome.NOT_CHARGED)


def _inquire(command: Inquire, payment: Payment | None) -> PaymentTransition:
    if payment is None:
        return _close(command)
    return PaymentTransition(payment, republish=True, hurry=next_step(payment) is not None)


def _refund(command: Refund, payment: Payment | None) -> PaymentTransition:
    """Begin a refund of a charged payment, after the one at work. If nothing is captured, the known outcome is published again."""
    if payment is None:
        return _close(command)
    known = refunds.find(payment.refunds, command.refund_id)
    wrong_currency = command.currency is not None and payment.currency not in {None, command.currency}
    if wrong_currency or (known is not None and known.asked_minor != command.amount_minor):
        raise RefundIdReusedError("refund_id_reused: a refund has this id and another amount, or the currency differs")
    if known is not None:
        return PaymentTransition(payment, republish=True, about_version=known.version or None)
    if payment.status not in CHARGED:
        return PaymentTransition(payment, republish=True)
    refund = refunds.PaymentRefund(command.refund_id, command.reason, asked_minor=command.amount_minor)
    if refunds.at_work(payment.refunds) is None:
        return PaymentTransition(begin_refund(payment, refund), delay_s=0.0)
    return PaymentTransition(replace(payment, refunds=(*payment.refunds, refund)), delay_s=0.0)


def _resolve(command: Resolve, payment: Payment | None) -> PaymentTransition:
    if payment is None:
        refused = ResolutionRefused("unknown_payment", command.decided_by, command.resolution)
        return replace(_close(command), refused=refused)
    resolved = _resolved(command, payment)
    if isinstance(resolved, PaymentTransition):
        return resolved
    return PaymentTransition(payment, refused=ResolutionRefused(resolved, command.decided_by, command.resolution))


def _resolved(command: Resolve, payment: Payment) -> PaymentTransition | ResolutionRefusal:
    by = command.decided_by
    if command.expected_version != payment.version:
        return "version_differs"
    match payment.status, command.resolution:
        case ((PaymentStatus.IN_DOUBT | PaymentStatus.NEEDS_DECISION), "captured"):
            if command.receipt_number is None:
                return "receipt_number_required"
            captured = move(payment, PaymentStatus.CAPTURED, receipt_number=command.receipt_number, decided_by=by)
            return PaymentTransition(captured, Outcome.CAPTURED)
        case ((PaymentStatus.IN_DOUBT | PaymentStatus.NEEDS_DECISION), "not_charged"):
            decided = move(payment, PaymentStatus.NOT_CHARGED, reason=OutcomeReason.DECIDED, decided_by=by)
            # It is due at once, so that it is also cancelled at the gateway for good, if that is possible.
            return PaymentTransition(decided, Outcome.NOT_CHARGED, delay_s=0.0)
        case ((PaymentStatus.REFUND_IN_DOUBT | PaymentStatus.REFUND_FAILED), "refunded") if not payment.decided_by:
            return refund_made(payment, decided_by=by)
        case ((PaymentStatus.REFUND_IN_DOUBT | PaymentStatus.REFUND_FAILED), "not_refunded") if not payment.decided_by:
            return refund_kept(payment, decided_by=by)
        case (PaymentStatus.REFUND_FAILED, "refund_again") if not payment.decided_by:
            return PaymentTransition(move(payment, PaymentStatus.REFUNDING), delay_s=0.0)
        case _:
            return "nothing_to_decide"
