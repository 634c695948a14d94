"""The state machine of a payment at the card gateway: its next step, and how every answer changes it. Pure: no I/O, clock, randomness.

How commands change it is in `commands`.

Three outcomes differ: declined (the bank said no), not charged (no charge happened), in doubt (nobody knows). These are the rules:

- Only a gateway id that is recorded is ever confirmed. So a row without one is known to be not charged.
- Not charged and declined are recorded only after the gateway confirmed a cancel. If the cancel finds a success, the payment is captured.
- A payment in doubt is asked about on a ladder of due times. At the end of the ladder a person decides.
- A capture is always recorded, no matter which instance learned of it and what was recorded before.
- A late capture, one that contradicts an earlier outcome, is announced again until it is refunded. The saga that waited for the payment has
  ended and does not ask.

Every change of status is a new version, and each version publishes at most one outcome.
"""

import re
from enum import StrEnum
from typing import Literal, assert_never
from uuid import UUID

from services.payment_gateway import refunds
from services.payment_gateway.gateways import port
from services.payment_gateway.refunds import LACK_OF_BALANCE, PaymentRefund, PaymentRefundStatus, Refunds
from shared.card_data.scan import find_card_number
from shared.records import dataclass, field, replace

EXECUTIONS_MAX = 3
"""Confirms that are sent before we cancel instead. A gateway that took none of three will not take a fourth."""
LATE_REMINDERS_MAX = 1_000
"""How often a late capture is announced again: hourly for six weeks. There is a limit because a late capture may also be kept. If it is the
first message that the saga receives about the payment, nobody refunds it."""
CODE_LENGTH_MAX = 64
MASKED_CODE = "masked_card_number"
"""Instead of a code in which a card number stands."""
RECEIPT_LENGTH_MAX = 255


class PaymentStatus(StrEnum):
    REQUESTED = "requested"  # no gateway id is recorded, so it is known to be not charged
    PREPARED = "prepared"  # the gateway id is recorded; the row does not tell whether it was confirmed
    CANCELLING = "cancelling"  # its outcome is pending until the gateway confirms the cancel
    IN_DOUBT = "in_doubt"
    NEEDS_DECISION = "needs_decision"
    CAPTURED = "captured"
    DECLINED = "declined"
    NOT_CHARGED = "not_charged"
    REFUNDING = "refunding"
    REFUND_IN_DOUBT = "refund_in_doubt"
    REFUND_FAILED = "refund_failed"
    REFUNDED = "refunded"


CHARGED = frozenset(
    {
        PaymentStatus.CAPTURED,
        PaymentStatus.REFUNDING,
        PaymentStatus.REFUND_IN_DOUBT,
        PaymentStatus.REFUND_FAILED,
        PaymentStatus.REFUNDED,
    }
)
CASES = frozenset(
    {PaymentStatus.IN_DOUBT, PaymentStatus.NEEDS_DECISION, PaymentStatus.REFUND_IN_DOUBT, PaymentStatus.REFUND_FAILED}
)
"""The statuses in which a payment is a case for staff. Once it was a case, staff also receive its later outcomes."""
KEY_SPENT_BY_ANSWER = frozenset({PaymentStatus.REQUESTED, PaymentStatus.CANCELLING, PaymentStatus.NOT_CHARGED})
"""The statuses in which every answer uses up the idempotency key. Only preparations and cancels are repeated there, and neither charges
anybody when it is sent with a new key."""


class GatewayStep(StrEnum):
    """One call to the gateway."""

    TOKENISE = "tokenise"
    PREPARE = "prepare"
    EXECUTE = "execute"
    INQUIRE = "inquire"
    CANCEL = "cancel"
    REFUND = "refund"
    INQUIRE_REFUND = "inquire_refund"


class Outcome(StrEnum):
    """The kind of outcome that is published. The payment has the details."""

    CAPTURED = "captured"
    CAPTURED_LATE = "captured_late"  # it had another final outcome before
    DECLINED = "declined"
    NOT_CHARGED = "not_charged"
    IN_DOUBT = "in_doubt"
    NEEDS_DECISION = "needs_decision"
    REFUNDED = "refunded"
    REFUND_IN_DOUBT = "refund_in_doubt"
    REFUND_FAILED = "refund_failed"


class OutcomeReason(StrEnum):
    """Our own reason codes. A decline or a refusal carries the gateway's code instead."""

    NEVER_REQUESTED = "never_requested"
    GATEWAY_UNAVAILABLE = "gateway_unavailable"
    NOT_CONFIRMED = "not_confirmed"
    CANCELLED_AT_GATEWAY = "cancelled_at_gateway"
    AUTHENTICATION_REQUIRED = "authentication_required"  # the code that Stripe gives, too
    DECIDED = "decided_by_person"
    CAPTURE_DIFFERS = "capture_differs"
    CANCEL_UNCONFIRMED = "cancel_unconfirmed"
    NO_READABLE_ANSWER = "no_readable_answer"
    PROCESSING = "processing"
    UNCONFIRMED = "unconfirmed"
    UNKNOWN_TO_GATEWAY = "unknown_to_gateway"
    REFUND_PENDING = "refund_pending"
    REFUND_TOO_LARGE = "refund_too_large"  # more than the gateway says is left
    NOTHING_LEFT = "nothing_left"


@dataclass(frozen=True, slots=True)
class PendingOutcome:
    """The outcome that a payment will have once the gateway confirms its cancel."""

    status: Literal[PaymentStatus.DECLINED, PaymentStatus.NOT_CHARGED]
    reason: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment, as it is stored.

    `version` counts changes of status. `params_hash` is None if the payment is closed, which means that a command about it came before any
    request. `rung` is the next rung of the ladder. `key_number` is part of the idempotency keys: a gateway replays the answer that it saved
    for a key, even a failure, so a repeated call needs a new one. `reason` says why the payment has its status, and `decided_by` which
    person decided it. `advice` is the gateway's code for what the sender can do about that reason. `was_case` is true once it was a case
    for staff. `refunds` are all its refunds, in the order in which they were asked for; `refund_id` is the gateway's id of the newest.
    """

    payment_id: UUID
    invoice_id: str
    status: PaymentStatus
    version: int = 1
    amount_minor: int | None = None
    currency: str | None = None
    method_token: str | None = None
    card_jwe: str | None = field(default=None, repr=False)
    params_hash: bytes | None = None
    gateway_id: str | None = None
    pending: PendingOutcome | None = None
    reason: str | None = None
    receipt_number: str | None = None
    refund_id: str | None = None
    decided_by: str | None = None
    was_case: bool = False
    rung: int = 0
    key_number: int = 1
    advice: str | None = None
    details: port.ChargeDetails = port.NO_DETAILS
    refunds: Refunds = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """The waiting times, in seconds.

    `ladder_s` has the wait before each further attempt. `remind_s` is the interval at which a case that waits for a person is asked about
    at the gateway and announced again. A late capture that waits for its refund is announced again at the same interval.
    """

    ladder_s: tuple[float, ...]
    remind_s: float


Resolution = Literal["captured", "not_charged", "refunded", "not_refunded", "refund_again"]
ResolutionRefusal = Literal["version_differs", "nothing_to_decide", "receipt_number_required", "unknown_payment"]


@dataclass(frozen=True, slots=True)
class ResolutionRefused:
    """A person's decision that came too late or does not fit the payment."""

    reason: ResolutionRefusal
    decided_by: str
    resolution: Resolution


@dataclass(frozen=True, slots=True)
class PaymentTransition:
    """A change of a payment, with its effects.

    `payment` is the payment afterwards. `outcome` is published. The step `then` follows at once, or the next step after `delay_s` seconds.
    If both are None, nothing follows by itself. `republish` publishes the outcome of this version again, with the same id. `hurry` makes
    the next attempt due now. `refused` is a decision that has no effect. With `about_version`, the outcome of that version is the one to
    publish again.
    """

    payment: Payment
    outcome: Outcome | None = None
    then: GatewayStep | None = None
    delay_s: float | None = None
    republish: bool = False
    hurry: bool = False
    refused: ResolutionRefused | None = None
    about_version: int | None = None


GatewayAnswer = port.TokeniseAnswer | port.PrepareAnswer | port.ExecuteAnswer | port.RefundAnswer
TELLS_OF_MONEY = (port.Captured, port.Refunded)
"""Answers that say that money moved. A payment is changed by them even if another instance has changed it since (`on_late_answer`)."""


# -- steps -----------------------------------------------------------------------------------------------------------------------------


def next_step(payment: Payment) -> GatewayStep | None:
    """The first step for a payment that was read from its row, or None if there is none.

    A crash may have hidden what was sent. So the gateway is asked before anything that could charge is sent.
    """
    match payment.status:
        case PaymentStatus.REQUESTED:
            return GatewayStep.TOKENISE if payment.method_token is None else GatewayStep.PREPARE
        case PaymentStatus.PREPARED | PaymentStatus.IN_DOUBT | PaymentStatus.NEEDS_DECISION:
            return GatewayStep.INQUIRE
        case PaymentStatus.CANCELLING:
            return GatewayStep.CANCEL
        case PaymentStatus.NOT_CHARGED:
            return GatewayStep.CANCEL if payment.decided_by else None  # a cancel makes a person's decision safe
        case PaymentStatus.REFUNDING | PaymentStatus.REFUND_IN_DOUBT:
            return GatewayStep.INQUIRE_REFUND
        case PaymentStatus.REFUND_FAILED:
            return None if payment.decided_by else GatewayStep.INQUIRE_REFUND
        case PaymentStatus.CAPTURED | PaymentStatus.DECLINED | PaymentStatus.REFUNDED:
            return None
        case _:
            assert_never(payment.status)


def idempotency_key(payment: Payment, step: GatewayStep) -> str | None:
    """Our idempotency key for a call, or None for an inquiry.

    The key of a refund changes only when the gateway has finished with it and the list of refunds shows that none was made.
    """
    match step:
        case GatewayStep.INQUIRE | GatewayStep.INQUIRE_REFUND:
            return None
        case GatewayStep.REFUND:
            refund = refund_at_work(payment)
            return f"{payment.payment_id}:refund:{refund.refund_id}:{refund.key_number}"
        case GatewayStep.TOKENISE | GatewayStep.PREPARE | GatewayStep.EXECUTE | GatewayStep.CANCEL:
            return f"{payment.payment_id}:{step}:{payment.key_number}"
        case _:
            assert_never(step)


def refund_order(payment: Payment) -> port.RefundOrder:
    """The refund at work, as the gateway is asked to make it."""
    refund = refund_at_work(payment)
    assert refund.amount_minor is not None  # noqa: S101 - the inquiry before it has set the amount
    assert payment.currency is not None  # noqa: S101 - every requested payment has a currency
    return port.RefundOrder(refund.refund_id, payment.payment_id, refund.amount_minor, payment.currency)


def refund_asked_about(payment: Payment) -> PaymentRefund:
    """The refund that an inquiry is about: the one at work, else the newest that was made. Raises AssertionError if there is neither."""
    made = [refund for refund in payment.refunds if refund.status is PaymentRefundStatus.REFUNDED]
    refund = refunds.at_work(payment.refunds) or (made[-1] if made else None)
    assert refund is not None, f"no refund to ask about while {payment.status}"  # noqa: S101
    return refund


def refund_at_work(payment: Payment) -> PaymentRefund:
    """The refund that the payment's status is about. Raises AssertionError if there is none."""
    refund = refunds.at_work(payment.refunds)
    assert refund is not None, f"no refund is at work while {payment.status}"  # noqa: S101
    return refund


def on_answer(payment: Payment, step: GatewayStep, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """The effect of the gateway's answer to `step` on the payment. Raises AssertionError if the answer cannot be one to that step.

    A gateway that refuses the service says nothing about the payment: no rung is spent, and the row is due when the gateway is usable.
    """
    if isinstance(answer, port.Misconfigured):
        return PaymentTransition(payment, delay_s=0.0)
    match step:
        case GatewayStep.TOKENISE | GatewayStep.PREPARE:
            return _after_preparing(payment, answer, policy)
        case GatewayStep.EXECUTE | GatewayStep.INQUIRE | GatewayStep.CANCEL:
            return _after_charging(payment, step, answer, policy)
        case GatewayStep.REFUND | GatewayStep.INQUIRE_REFUND:
            return _after_refunding(payment, step, answer, policy)
        case _:
            assert_never(step)


def on_due(payment: Payment, policy: Policy) -> PaymentTransition:
    """The effect of a due time on a payment without a next step: its next refund begins, or a late capture is announced again."""
    following = refunds.waiting(payment.refunds)
    if following is not None and refunds.at_work(payment.refunds) is None:
        return PaymentTransition(begin_refund(payment, following), then=GatewayStep.INQUIRE_REFUND)
    if payment.status is PaymentStatus.CAPTURED and payment.rung < LATE_REMINDERS_MAX:
        return _remind(replace(payment, rung=payment.rung + 1), policy)
    return PaymentTransition(payment)


def on_late_answer(
    payment: Payment, answer: GatewayAnswer | None, policy: Policy, *, asked: Payment
) -> PaymentTransition | None:
    """The effect of an answer that came after another instance changed the payment. Only a capture or a refund has one.

    `asked` is the payment as it was when the gateway was asked. Returns None if the payment shows the answer already, or if the present
    holder of the row has to ask for itself.
    """
    match answer:
        case port.Captured() if payment.status not in CHARGED and _is_of(payment, answer):
            return _captured(payment, answer, policy)
        case port.Refunded() if (now := refunds.at_work(payment.refunds)) is not None:
            before = refunds.at_work(asked.refunds)
            is_same = before is not None and before.refund_id == now.refund_id
            return _refunded(payment, answer.refund_id) if is_same else None
        case _:
            return None


# -- preparing: without a recorded gateway id, nothing can be charged ------------------------------------------------------------------


def _after_preparing(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    match answer:
        case port.Tokenised(method_token=token):
            return PaymentTransition(replace(payment, method_token=token, card_jwe=None), then=GatewayStep.PREPARE)
        case port.Prepared(gateway_id=gateway_id):
            prepared = move(payment, PaymentStatus.PREPARED, gateway_id=gateway_id, key_number=1)
            return PaymentTransition(prepared, then=GatewayStep.EXECUTE)
        case port.Refused(code=code, advice=advice):
            return _not_charged(payment, code_of(code), _advice_of(advice))
        case port.NotSent() | port.Unknown():
            return _later(payment, answer, policy)
        case _:
            raise _unexpected(payment, answer)


# -- charging --------------------------------------------------------------------------------------------------------------------------


def _after_charging(payment: Payment, step: GatewayStep, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    match answer:
        case port.Captured() if _is_of(payment, answer):
            return _captured(payment, answer, policy)
        case port.Captured():
            return _needs_decision(payment, OutcomeReason.CAPTURE_DIFFERS, policy)
        case port.Cancelled():
            return _cancelled(payment)
        case _ if step is GatewayStep.CANCEL:
            return _later(payment, answer, policy)
        case port.Declined(code=code, advice=advice):
            return _cancel(payment, PendingOutcome(PaymentStatus.DECLINED, code_of(code), _advice_of(advice)))
        case port.Refused(code=code, advice=advice):
            # A refusal is no doubt, and the cancel proves that nothing was charged.
            return _cancel(payment, PendingOutcome(PaymentStatus.NOT_CHARGED, code_of(code), _advice_of(advice)))
        case port.ActionRequired():
            return _cancel(payment, PendingOutcome(PaymentStatus.DECLINED, OutcomeReason.AUTHENTICATION_REQUIRED))
        case port.Unconfirmed() if step is GatewayStep.INQUIRE:
            return _execute_again(payment)
        case port.Unconfirmed() | port.Processing() | port.NotFound() | port.NotSent() | port.Unknown():
            return _doubt(payment, answer, policy)
        case _:
            raise _unexpected(payment, answer)


def _is_of(payment: Payment, answer: port.Captured) -> bool:
    """Whether the capture is the one we asked for. Amount and currency must be those of the invoice."""
    captured = (answer.gateway_id, answer.amount_minor, answer.currency.upper())
    return captured == (payment.gateway_id, payment.amount_minor, payment.currency)


def _captured(payment: Payment, answer: port.Captured, policy: Policy) -> PaymentTransition:
    receipt = _printable(answer.receipt_number, RECEIPT_LENGTH_MAX)
    if not receipt or find_card_number(receipt):
        receipt = answer.gateway_id  # every receiver would refuse an event that shows a card number
    captured = move(payment, PaymentStatus.CAPTURED, receipt_number=receipt)
    if payment.status in {PaymentStatus.DECLINED, PaymentStatus.NOT_CHARGED}:
        # The saga has ended and never asks. If the first announcement is lost, only a reminder tells it.
        return PaymentTransition(captured, Outcome.CAPTURED_LATE, delay_s=policy.remind_s)
    return PaymentTransition(captured, Outcome.CAPTURED)


def _cancelled(payment: Payment) -> PaymentTransition:
    """Record the pending outcome. It may be recorded only now, when no confirm can charge the payment any more."""
    if payment.status is PaymentStatus.NOT_CHARGED:
        return PaymentTransition(payment)  # a person decided so before, and the cancel proves the decision right
    pending = payment.pending or PendingOutcome(PaymentStatus.NOT_CHARGED, OutcomeReason.CANCELLED_AT_GATEWAY)
    if pending.status is PaymentStatus.NOT_CHARGED:
        return _not_charged(payment, pending.reason, pending.advice)
    declined = move(payment, PaymentStatus.DECLINED, reason=pending.reason, advice=pending.advice)
    return PaymentTransition(declined, Outcome.DECLINED)


def _cancel(payment: Payment, pending: PendingOutcome) -> PaymentTransition:
    return PaymentTransition(move(payment, PaymentStatus.CANCELLING, pending=pending), then=GatewayStep.CANCEL)


def _execute_again(payment: Payment) -> PaymentTransition:
    """Confirm a payment that the gateway reports as unconfirmed.

    It was never confirmed, or a confirm is still on its way. To confirm the same gateway id again charges only once.
    """
    match payment.status:
        case PaymentStatus.PREPARED:
            return PaymentTransition(payment, then=GatewayStep.EXECUTE)
        case PaymentStatus.IN_DOUBT if payment.key_number < EXECUTIONS_MAX:
            return PaymentTransition(replace(payment, key_number=payment.key_number + 1), then=GatewayStep.EXECUTE)
        case _:  # also after a person was asked to decide, because nobody expects a charge hours later
            return _cancel(payment, PendingOutcome(PaymentStatus.NOT_CHARGED, OutcomeReason.NOT_CONFIRMED))


def _doubt(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    if payment.status is not PaymentStatus.PREPARED or isinstance(answer, port.NotSent):
        return _later(payment, answer, policy)
    in_doubt = move(payment, PaymentStatus.IN_DOUBT, reason=_why_in_doubt(answer))
    return _begin_ladder(in_doubt, Outcome.IN_DOUBT, policy)


def _not_charged(payment: Payment, reason: str, advice: str | None = None) -> PaymentTransition:
    ended = move(payment, PaymentStatus.NOT_CHARGED, reason=reason, advice=advice, card_jwe=None)
    return PaymentTransition(ended, Outcome.NOT_CHARGED)


def _needs_decision(payment: Payment, reason: str, policy: Policy) -> PaymentTransition:
    if payment.status is PaymentStatus.NEEDS_DECISION:
        return _remind(payment, policy)
    waiting = move(payment, PaymentStatus.NEEDS_DECISION, reason=reason)
    return PaymentTransition(waiting, Outcome.NEEDS_DECISION, delay_s=policy.remind_s)


# -- refunding -------------------------------------------------------------------------------------------------------------------------


def _after_refunding(payment: Payment, step: GatewayStep, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    if refunds.at_work(payment.refunds) is None:
        return _after_watching(payment, answer, policy)
    refund = refund_at_work(payment)
    match answer:
        case port.Refunded(refund_id=refund_id):
            return _refunded(payment, refund_id)
        case port.NoRefund() if step is GatewayStep.INQUIRE_REFUND:
            return _not_made(payment, answer, policy)
        case port.RefundFailed() if step is GatewayStep.INQUIRE_REFUND and refund.gateway_id == answer.refund_id:
            return _not_made(payment, answer, policy)  # that try is known, and there was no other
        case port.RefundFailed():
            # The gateway has finished with this key. It would give the same answer under it again.
            tried = replace(refund, gateway_id=answer.refund_id, key_number=refund.key_number + 1)
            return _try_failed(_with_refund(payment, tried), answer, policy)
        case port.Unknown(key_spent=True) if step is GatewayStep.REFUND:
            fresh = replace(refund, key_number=refund.key_number + 1)
            return _refund_in_doubt(_with_refund(payment, fresh), answer, policy)
        case port.RefundPending() | port.NotFound() | port.Unknown():
            return _refund_in_doubt(payment, answer, policy)
        case port.NoRefund() | port.NotSent():
            return _later(payment, answer, policy)
        case _:
            raise _unexpected(payment, answer)


def _after_watching(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """The effect of an answer about a refund that was made. Only that it failed after all has one."""
    if isinstance(answer, port.RefundFailed):
        failed = refund_failed_late(payment, refund_asked_about(payment).refund_id, answer.code, policy)
        return failed or PaymentTransition(payment)
    return PaymentTransition(payment)


def begin_refund(payment: Payment, refund: PaymentRefund) -> Payment:
    """The payment with this refund at work."""
    begun = refunds.changed(payment.refunds, replace(refund, status=PaymentRefundStatus.AT_WORK))
    return move(payment, PaymentStatus.REFUNDING, refunds=begun)


def _not_made(payment: Payment, answer: port.NoRefund | port.RefundFailed, policy: Policy) -> PaymentTransition:
    """The gateway's list shows that the refund was not made: make it, of no more than is left."""
    if payment.status is PaymentStatus.REFUND_FAILED:
        return _remind(payment, policy)
    if payment.status is PaymentStatus.REFUND_IN_DOUBT and payment.rung >= len(policy.ladder_s):
        # There is no doubt any more: nothing that was sent is still on its way. A person can have it made again.
        reason = code_of(answer.code) if isinstance(answer, port.RefundFailed) else OutcomeReason.GATEWAY_UNAVAILABLE
        return _refund_failed(payment, reason, policy)
    if answer.left_minor is None:
        return _refund_failed(payment, OutcomeReason.NOTHING_LEFT, policy)
    before, captured_minor = refund_at_work(payment), payment.amount_minor or 0
    if before.takes_rest and answer.left_minor == 0:
        return _given_back_by_hand(payment, policy)
    refund = refunds.measured(before, payment.refunds, captured_minor, answer.left_minor)
    if refund.amount_minor is None or refund.amount_minor > answer.left_minor:
        return _refund_failed(_with_refund(payment, refund), OutcomeReason.REFUND_TOO_LARGE, policy)
    if before.amount_minor not in {None, refund.amount_minor}:
        refund = replace(refund, key_number=before.key_number + 1)  # a key always comes with the same parameters
    return PaymentTransition(_with_refund(payment, refund), then=GatewayStep.REFUND)


def _given_back_by_hand(payment: Payment, policy: Policy) -> PaymentTransition:
    """The refund of the rest finds nothing left. If somebody gave it back at the gateway, that is this refund."""
    if payment.amount_minor is None or refunds.refunded_minor(payment.refunds) >= payment.amount_minor:
        return _refund_failed(payment, OutcomeReason.NOTHING_LEFT, policy)
    return _refunded(_with_refund(payment, replace(refund_at_work(payment), amount_minor=None)), None)


def _refunded(payment: Payment, gateway_id: str | None) -> PaymentTransition:
    shown = _printable(gateway_id or "", RECEIPT_LENGTH_MAX)
    return refund_made(payment, gateway_id=None if find_card_number(shown) else shown or None)


def refund_made(payment: Payment, *, gateway_id: str | None = None, decided_by: str | None = None) -> PaymentTransition:
    """The refund at work was made. A payment of which something is left is captured again, and its next refund begins."""
    refund, version = refund_at_work(payment), payment.version + 1
    made = replace(
        refund,
        status=PaymentRefundStatus.REFUNDED,
        amount_minor=_amount_of(payment, refund),
        version=version,
        gateway_id=gateway_id or refund.gateway_id,
        decided_by=decided_by,
    )
    after = refunds.changed(payment.refunds, made)
    if refunds.refunded_minor(after) < (payment.amount_minor or 0):
        moved = move(payment, PaymentStatus.CAPTURED, refund_id=gateway_id, refunds=after)
    else:
        moved = move(payment, PaymentStatus.REFUNDED, refund_id=gateway_id, refunds=after, decided_by=decided_by)
    return PaymentTransition(moved, Outcome.REFUNDED, delay_s=_begins_next(moved))


def refund_kept(payment: Payment, *, decided_by: str) -> PaymentTransition:
    """A person decided that the money of the refund at work stays. If the invoice took the money, the payment is captured again."""
    refund, version = refund_at_work(payment), payment.version + 1
    kept = replace(refund, status=PaymentRefundStatus.KEPT, version=version, decided_by=decided_by)
    after = refunds.changed(payment.refunds, kept)
    if refund.refund_id == payment.payment_id:
        moved = move(
            payment,
            PaymentStatus.REFUND_FAILED,
            reason=OutcomeReason.DECIDED,
            decided_by=decided_by,
            refunds=after,
        )
    else:
        moved = move(payment, PaymentStatus.CAPTURED, reason=OutcomeReason.DECIDED, refunds=after)
    return PaymentTransition(moved, Outcome.REFUND_FAILED, delay_s=_begins_next(moved))


def refund_failed_late(payment: Payment, refund_id: UUID, code: str, policy: Policy) -> PaymentTransition | None:
    """A refund that was made turned out to have failed: the bank sent the money back. It is a case, and can be made again.

    Returns None while another refund is at work, and if this one does not stand as made.
    """
    refund = refunds.find(payment.refunds, refund_id)
    if (
        refund is None
        or refund.status is not PaymentRefundStatus.REFUNDED
        or refunds.at_work(payment.refunds) is not None
    ):
        return None
    again = replace(refund, status=PaymentRefundStatus.AT_WORK, key_number=refund.key_number + 1)
    return _refund_failed(_with_refund(payment, again), code_of(code), policy)


def _begins_next(payment: Payment) -> float | None:
    return 0.0 if refunds.waiting(payment.refunds) is not None else None


def _amount_of(payment: Payment, refund: PaymentRefund) -> int | None:
    """The amount of the refund. Where the gateway never said what is left, it is what is left by what we know."""
    known = refund.amount_minor or refund.asked_minor
    if known is None and payment.amount_minor is not None:
        return payment.amount_minor - refunds.refunded_minor(payment.refunds)
    return known


def _with_refund(payment: Payment, refund: PaymentRefund) -> Payment:
    return replace(payment, refunds=refunds.changed(payment.refunds, refund))


def _told(payment: Payment) -> Payment:
    """The payment whose newest outcome is about the refund at work."""
    return _with_refund(payment, replace(refund_at_work(payment), version=payment.version))


def _try_failed(payment: Payment, answer: port.RefundFailed, policy: Policy) -> PaymentTransition:
    """The gateway refused the refund, or it failed there. What our balance cannot pay now is tried again on the ladder."""
    if payment.status is PaymentStatus.REFUND_FAILED:
        return _remind(payment, policy)
    if answer.code in LACK_OF_BALANCE and payment.rung < len(policy.ladder_s):
        return _later(payment, answer, policy)
    return _refund_failed(payment, code_of(answer.code), policy)


def _refund_in_doubt(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    if payment.status is not PaymentStatus.REFUNDING:
        return _later(payment, answer, policy)
    in_doubt = _told(move(payment, PaymentStatus.REFUND_IN_DOUBT, reason=_why_in_doubt(answer)))
    return _begin_ladder(in_doubt, Outcome.REFUND_IN_DOUBT, policy)


def _refund_failed(payment: Payment, reason: str, policy: Policy) -> PaymentTransition:
    failed = _told(move(payment, PaymentStatus.REFUND_FAILED, reason=reason))
    return PaymentTransition(failed, Outcome.REFUND_FAILED, delay_s=policy.remind_s)


# -- the ladder ------------------------------------------------------------------------------------------------------------------------


def _begin_ladder(payment: Payment, outcome: Outcome, policy: Policy) -> PaymentTransition:
    return PaymentTransition(replace(payment, rung=1), outcome, delay_s=policy.ladder_s[0])


def _later(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """Try again on the next rung of the ladder. After the last rung, the ladder is exhausted."""
    payment = _with_fresh_key(payment, answer)
    if payment.status in {PaymentStatus.NEEDS_DECISION, PaymentStatus.REFUND_FAILED} or payment.rung >= len(
        policy.ladder_s
    ):
        return _exhausted(payment, answer, policy)
    delay_s = policy.ladder_s[payment.rung]
    if isinstance(answer, port.NotSent) and answer.retry_after_s is not None:
        delay_s = max(delay_s, min(answer.retry_after_s, port.RETRY_AFTER_MAX_S))
    return PaymentTransition(replace(payment, rung=payment.rung + 1), delay_s=delay_s)


def _with_fresh_key(payment: Payment, answer: GatewayAnswer) -> Payment:
    """Use a new idempotency key after an answer to a preparation or a cancel.

    The gateway may have saved that answer under the old key, and would then replay it for ever: a failure, or a refusal ("it is
    processing") that is no longer true. In other states `key_number` counts the confirms, and stays.
    """
    if isinstance(answer, port.NotSent) or payment.status not in KEY_SPENT_BY_ANSWER:
        return payment
    return replace(payment, key_number=payment.key_number + 1)


def _exhausted(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    match payment.status:
        case PaymentStatus.REQUESTED:
            return _not_charged(payment, OutcomeReason.GATEWAY_UNAVAILABLE)
        case PaymentStatus.PREPARED:
            return _cancel(payment, PendingOutcome(PaymentStatus.NOT_CHARGED, OutcomeReason.GATEWAY_UNAVAILABLE))
        case PaymentStatus.IN_DOUBT:
            return _needs_decision(payment, _why_in_doubt(answer), policy)
        case PaymentStatus.CANCELLING:
            return _needs_decision(payment, OutcomeReason.CANCEL_UNCONFIRMED, policy)
        case PaymentStatus.NOT_CHARGED:
            return PaymentTransition(payment)  # no more cancels are sent after a person's decision
        case PaymentStatus.REFUNDING:
            return _refund_failed(payment, OutcomeReason.GATEWAY_UNAVAILABLE, policy)
        case PaymentStatus.NEEDS_DECISION | PaymentStatus.REFUND_IN_DOUBT | PaymentStatus.REFUND_FAILED:
            return _remind(payment, policy)
        case _:
            raise _unexpected(payment, answer)


def _remind(payment: Payment, policy: Policy) -> PaymentTransition:
    return PaymentTransition(payment, delay_s=policy.remind_s, republish=True)


def _why_in_doubt(answer: GatewayAnswer) -> OutcomeReason:
    match answer:
        case port.Processing():
            return OutcomeReason.PROCESSING
        case port.NotFound():
            return OutcomeReason.UNKNOWN_TO_GATEWAY
        case port.NotSent():
            return OutcomeReason.GATEWAY_UNAVAILABLE
        case port.Unconfirmed():
            return OutcomeReason.UNCONFIRMED
        case port.RefundPending():
            return OutcomeReason.REFUND_PENDING
        case _:
            return OutcomeReason.NO_READABLE_ANSWER


# -- helpers ---------------------------------------------------------------------------------------------------------------------------


def move(
    payment: Payment,
    status: PaymentStatus,
    *,
    reason: str | None = None,
    advice: str | None = None,
    decided_by: str | None = None,
    pending: PendingOutcome | None = None,
    **changes: str | int | Refunds | None,
) -> Payment:
    """The payment with another status and the next version.

    The reason, advice, decision and rung of the version before no longer hold. A pending outcome stays while a person is asked to decide,
    because its cancel may still be confirmed.
    """
    return replace(
        payment,
        status=status,
        version=payment.version + 1,
        rung=0,
        reason=reason,
        advice=advice,
        decided_by=decided_by,
        pending=payment.pending if status is PaymentStatus.NEEDS_DECISION else pending,
        was_case=payment.was_case or status in CASES,
        **changes,  # type: ignore[arg-type] # replace() is not typed field by field for keywords passed on
    )


def answer_code(answer: GatewayAnswer) -> str:
    """The answer as a code for the record, such as `captured` or `declined:insufficient_funds`."""
    word = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(answer).__name__).lower()
    code = getattr(answer, "code", None)
    return code_of(f"{word}:{code}") if code else word


def code_of(text: str) -> str:
    """Any text as a reason code that the contracts allow, so that no text of a gateway can prevent a record.

    A text with a card number in it is replaced whole, before anything is cut off.
    """
    if find_card_number(text):
        return MASKED_CODE
    return re.sub(r"[^A-Za-z0-9_.:-]", "_", text)[:CODE_LENGTH_MAX] or "unspecified"


def _advice_of(text: str | None) -> str | None:
    return code_of(text) if text else None


def _printable(text: str, length_max: int) -> str:
    return re.sub(r"[^\x20-\x7e]", "", text).strip()[:length_max]


def _unexpected(payment: Payment, answer: GatewayAnswer) -> AssertionError:
    return AssertionError(f"{type(answer).__name__} is no answer to any step while {payment.status}")
