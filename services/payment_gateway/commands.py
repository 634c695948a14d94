"""Commands about a payment, and how each changes it. Pure: no I/O, clock, randomness.

A command that comes again changes nothing. The known outcome is published again.

A command about a payment that was never seen changes nothing either. Only a request begins a payment, and it may still be on its way: it
goes by another queue, and the invoice service says it again until the payment has an outcome. Only a person can say that it never will be
charged.
"""

from hashlib import sha256
from typing import assert_never
from uuid import UUID, uuid5

from services.payment_gateway import refunds
from services.payment_gateway.domain import (
    CAPTURED,
    CHARGED,
    NO_REFUND,
    WENT_BACK,
    Outcome,
    OutcomeReason,
    Payment,
    PaymentStatus,
    PaymentTransition,
    Resolution,
    ResolutionRefusal,
    ResolutionRefused,
    begin_refund,
    by_hand_id,
    captured_minor,
    given_back_by_hand_minor,
    is_dispute_open,
    is_late,
    is_settled,
    move,
    next_step,
    put_to_work,
    refund_at_work,
    refund_kept,
    refund_made,
    reopen_refund,
    stays_refunded,
    told,
)
from services.payment_gateway.gateways.port import NO_DETAILS, ChargeDetails
from shared.records import dataclass, field, replace

PURGED_HASH = b""
"""The hash of a payment whose parameters held card data until `remit purge` took it out. A hash over them would give it away."""


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
    """Ask what is known about this payment. With `look`, the gateway is asked now even if the payment is settled."""

    payment_id: UUID
    invoice_id: str
    look: bool = False


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

GIVE_BACK = "staff gave back what is left"
"""The reason of a refund that a decision about a capture makes."""
WATCHED_AT_ONCE_S = 0.0
"""When the gateway is first asked whether it agrees with a decision."""


@dataclass(frozen=True, slots=True)
class NeverSeen:
    """The effect of a command about a payment that was never seen: nothing is stored. A decision about it is refused."""

    refused: ResolutionRefused | None = None


def on_command(payment: Payment | None, command: Command) -> PaymentTransition | NeverSeen:
    """The effect of `command` on the payment. `payment` is None if it was never seen. Raises `PaymentIdReusedError`."""
    if isinstance(command, Request):
        return _request(command, payment)
    if payment is None:
        return _close(command) if isinstance(command, Resolve) else NeverSeen()
    match command:
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
    if not _is_known(command, payment):
        raise PaymentIdReusedError("payment_id_reused: an earlier request has this payment id and other parameters")
    return PaymentTransition(payment, republish=True)


def _is_known(command: Request, payment: Payment) -> bool:
    """Whether the payment was begun by this request, or was closed before any. After a purge only what is left can be compared."""
    if payment.params_hash == PURGED_HASH:
        charged = (payment.invoice_id, payment.amount_minor, payment.currency)
        return charged == (command.invoice_id, command.amount_minor, command.currency)
    return payment.params_hash in {None, command.params_hash}


def _close(command: Resolve) -> PaymentTransition | NeverSeen:
    """Close a payment that was never seen, since a person decided so: a request that arrives later with its id is never sent.

    No other decision can be made about it, because nothing is known here that it could be about. This one is watched and can be taken back
    like any other: a database that was restored may have forgotten that the payment was charged.
    """
    if command.resolution != "not_charged":
        return NeverSeen(ResolutionRefused("unknown_payment", command.decided_by, command.resolution))
    closed = Payment(
        command.payment_id,
        command.invoice_id,
        PaymentStatus.NOT_CHARGED,
        reason=OutcomeReason.DECIDED,
        decided_by=command.decided_by,
        was_case=True,
    )
    return PaymentTransition(closed, Outcome.NOT_CHARGED, delay_s=WATCHED_AT_ONCE_S)


def _inquire(command: Inquire, payment: Payment) -> PaymentTransition:
    if next_step(payment) is None:
        return PaymentTransition(payment, republish=True)
    if not command.look:
        return PaymentTransition(payment, republish=True, hurry=not is_settled(payment))
    return _look(payment)


def _look(payment: Payment) -> PaymentTransition:
    """Have the gateway asked now, and staff told what it says."""
    asked = payment if payment.was_case else replace(payment, was_case=True)
    return PaymentTransition(asked, republish=True, hurry=True)


def _refund(command: Refund, payment: Payment) -> PaymentTransition:
    """Begin a refund of a charged payment, after the one at work. If nothing is captured, the known outcome is published again.

    If a person has to decide whether what was told as captured is, the refund waits for the decision, and the gateway is asked now.
    """
    known = refunds.find(payment.refunds, command.refund_id)
    wrong_currency = command.currency is not None and payment.currency not in {None, command.currency}
    if wrong_currency or (known is not None and not _is_same(known, command)):
        raise RefundIdReusedError("refund_id_reused: a refund has this id and another amount, or the currency differs")
    if known is not None:
        return PaymentTransition(payment, republish=True, about_version=known.version or None)
    if payment.status not in CHARGED and not _was_told_as_captured(payment):
        return PaymentTransition(payment, republish=True)
    refund = refunds.PaymentRefund(command.refund_id, command.reason, asked_minor=command.amount_minor)
    if payment.status in CHARGED and refunds.at_work(payment.refunds) is None:
        return PaymentTransition(begin_refund(payment, refund), delay_s=0.0)
    return PaymentTransition(replace(payment, refunds=(*payment.refunds, refund)), delay_s=0.0)


def _is_same(known: refunds.PaymentRefund, command: Refund) -> bool:
    """Whether the refund was asked for with this amount. Of one that we had forgotten only the amount is known that it came to."""
    return known.reason == refunds.FORGOTTEN or known.asked_minor == command.amount_minor


def _resolve(command: Resolve, payment: Payment) -> PaymentTransition:
    resolved = _resolved(command, payment)
    if isinstance(resolved, PaymentTransition):
        return resolved
    return PaymentTransition(payment, refused=ResolutionRefused(resolved, command.decided_by, command.resolution))


def _resolved(command: Resolve, payment: Payment) -> PaymentTransition | ResolutionRefusal:
    by = command.decided_by
    if command.expected_version != payment.version:
        return "version_differs"
    match payment.status, command.resolution:
        case (_, "reopen"):
            return _reopened(payment)
        case ((PaymentStatus.IN_DOUBT | PaymentStatus.NEEDS_DECISION), ("captured" | "not_charged")):
            return _charge_decided(command, payment)
        case (PaymentStatus.NEEDS_DECISION, ("refunded" | "give_back")):
            return _decided_about_a_difference(command, payment)
        case ((PaymentStatus.REFUND_IN_DOUBT | PaymentStatus.REFUND_FAILED), "refunded") if not payment.decided_by:
            return _called_made(payment, by)
        case ((PaymentStatus.REFUND_IN_DOUBT | PaymentStatus.REFUND_FAILED), "not_refunded") if not payment.decided_by:
            return _refund_decided(refund_kept(payment, decided_by=by), Outcome.REFUND_FAILED)
        case (PaymentStatus.REFUND_FAILED, "refund_again") if not payment.decided_by:
            return PaymentTransition(move(payment, PaymentStatus.REFUNDING), delay_s=0.0)
        case _:
            return "nothing_to_decide"


def _charge_decided(command: Resolve, payment: Payment) -> PaymentTransition | ResolutionRefusal:
    """A person says whether the card was charged. If the gateway shows a capture it was; one of another amount cannot be booked as ours.

    What was told as captured has paid an invoice. No word undoes that but a refund, so it never becomes not charged. And the receipt that
    was told stands: the invoice has it. What the person typed is kept with the decision.
    """
    by = command.decided_by
    if payment.settled_as is PaymentStatus.REFUNDED:
        return "does_not_fit"  # it was given back, and only whether that stands is asked
    if command.resolution == "not_charged":
        if _shows_capture(payment) or _was_told_as_captured(payment):
            return "does_not_fit"
        decided = move(payment, PaymentStatus.NOT_CHARGED, reason=OutcomeReason.DECIDED, decided_by=by)
        # It is due at once, so that it is also cancelled at the gateway for good, if that is possible.
        return PaymentTransition(decided, Outcome.NOT_CHARGED, delay_s=WATCHED_AT_ONCE_S)
    if command.receipt_number is None:
        return "receipt_number_required"
    if payment.reason == OutcomeReason.CAPTURE_DIFFERS or payment.gateway_id is None:
        return "does_not_fit"  # another amount cannot be booked, and what nobody has found at the gateway cannot be watched
    receipt = payment.receipt_number or command.receipt_number
    captured = move(payment, PaymentStatus.CAPTURED, receipt_number=receipt, decided_by=by)
    outcome = Outcome.CAPTURED_LATE if is_late(captured) else Outcome.CAPTURED
    return PaymentTransition(captured, outcome, delay_s=WATCHED_AT_ONCE_S)


def _called_made(payment: Payment, by: str) -> PaymentTransition | ResolutionRefusal:
    """A person says that the refund at work was made. No more can have been given back than our books leave.

    If the gateway had said by then that it was not, it was made elsewhere.
    """
    refund, left_minor = refund_at_work(payment), _left_minor(payment)
    is_too_much = refund.asked_minor is not None and refund.asked_minor > left_minor
    if is_too_much or left_minor <= 0:
        return "does_not_fit"
    side = payment.gateway_side
    knew = payment.status is PaymentStatus.REFUND_FAILED and side is not None and side.answer == NO_REFUND
    return _refund_decided(refund_made(payment, decided_by=by, elsewhere=knew), Outcome.REFUNDED)


def _decided_about_a_difference(command: Resolve, payment: Payment) -> PaymentTransition | ResolutionRefusal:
    """A capture is not as it should be: it was given back already, or it is given back now.

    What was told as captured, and never came, is called given back as well: then the invoice's sum is right.
    """
    is_made = command.resolution == "refunded"
    if is_made and payment.settled_as is PaymentStatus.REFUNDED:
        return _refund_decided(stays_refunded(payment, decided_by=command.decided_by), Outcome.REFUNDED)
    if is_made and is_dispute_open(payment.gateway_side) and given_back_by_hand_minor(payment) == 0:
        return "does_not_fit"  # the money is ours again if the dispute is won
    if _left_minor(payment) <= 0 or not (_shows_capture(payment) or (is_made and _was_told_as_captured(payment))):
        return "does_not_fit"
    refund = _refund_of_difference(payment, is_made=is_made)
    if is_made:
        elsewhere = _shows_capture(payment) and given_back_by_hand_minor(payment) == 0
        made = refund_made(put_to_work(payment, refund), decided_by=command.decided_by, elsewhere=elsewhere)
        return _refund_decided(made, Outcome.REFUNDED)
    return PaymentTransition(begin_refund(payment, replace(refund, asked_by=command.decided_by)), delay_s=0.0)


def _refund_of_difference(payment: Payment, *, is_made: bool) -> refunds.PaymentRefund:
    """The refund that a person found made, or has made.

    If the payment was told as captured, the refund has an id of its own, like one that the invoice asked for: so the invoice hears of it.
    Else it is that of the saga, since no invoice took the money.
    """
    known = refunds.find(payment.refunds, payment.payment_id)
    if known is None and _was_told_as_captured(payment):
        if not is_made:
            return refunds.PaymentRefund(uuid5(payment.payment_id, f"decided:{payment.version}"), GIVE_BACK)
        minor = given_back_by_hand_minor(payment)
        is_part = 0 < minor < _left_minor(payment)
        return refunds.PaymentRefund(by_hand_id(payment), WENT_BACK, asked_minor=minor if is_part else None)
    return replace(known or refunds.whole(payment.payment_id, GIVE_BACK), amount_minor=None)


def _left_minor(payment: Payment) -> int:
    """What is left of the capture by what we know of."""
    return captured_minor(payment) - refunds.refunded_minor(payment.refunds)


def _refund_decided(payment: Payment, outcome: Outcome) -> PaymentTransition:
    """The next refund begins at once, or else the gateway is asked whether it agrees."""
    return PaymentTransition(payment, outcome, delay_s=WATCHED_AT_ONCE_S)


def _was_told_as_captured(payment: Payment) -> bool:
    return payment.settled_as is PaymentStatus.CAPTURED


def _shows_capture(payment: Payment) -> bool:
    return payment.gateway_side is not None and payment.gateway_side.answer == CAPTURED


def _reopened(payment: Payment) -> PaymentTransition | ResolutionRefusal:
    """Take a person's decision back. The payment is a case again, and the gateway is asked at once."""
    if not payment.decided_by:
        return "nothing_to_decide"
    decided = next((refund for refund in payment.refunds if refund.version == payment.version), None)
    is_about_dispute = payment.status is payment.settled_as is PaymentStatus.REFUNDED and _shows_capture(payment)
    if decided is None or is_about_dispute:
        case = move(payment, PaymentStatus.NEEDS_DECISION, reason=OutcomeReason.REOPENED)
        return PaymentTransition(case, Outcome.NEEDS_DECISION, delay_s=0.0)
    reopened = reopen_refund(payment, decided.refund_id, new_key=False)
    case = told(move(reopened, PaymentStatus.REFUND_FAILED, reason=OutcomeReason.REOPENED))
    case = replace(case, gateway_side=None)  # it is asked anew
    return PaymentTransition(case, Outcome.REFUND_FAILED, delay_s=0.0)
