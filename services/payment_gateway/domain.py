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

from services.payment_gateway.gateways import port
from shared.card_data.scan import find_card_number
from shared.records import dataclass, field, replace

EXECUTIONS_MAX = 3
"""Confirms that are sent before we cancel instead. A gateway that took none of three will not take a fourth."""
LATE_REMINDERS_MAX = 1_000
"""How often a late capture is announced again: hourly for six weeks. There is a limit because a late capture may also be kept. If it is the
first message that the saga receives about the payment, nobody refunds it."""
LIMITED_S = 1.0
"""The wait after a 429 that names none. The pace of all calls has slowed by then."""
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


@dataclass(frozen=True, slots=True)
class PendingOutcome:
    """The outcome that a payment will have once the gateway confirms its cancel."""

    status: Literal[PaymentStatus.DECLINED, PaymentStatus.NOT_CHARGED]
    reason: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment, as it is stored.

    `version` counts changes of status. `params_hash` is None if an earlier build closed the payment, because a command about it came before
    its request. `rung` is the next rung of the ladder. `key_number` is part of the idempotency keys: a gateway replays the answer that it
    saved for a key, even a failure, so a repeated call needs a new one. `reason` says why the payment has its status, and `decided_by`
    which person decided it. `advice` is the gateway's code for what the sender can do about that reason. `was_case` is true once it was a
    case for staff.
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


@dataclass(frozen=True, slots=True)
class Policy:
    """The waiting times, in seconds.

    `ladder_s` has the wait before each further attempt. `remind_s` is the interval at which a case that waits for a person is asked about
    at the gateway and announced again. A late capture that waits for its refund is announced again at the same interval.
    """

    ladder_s: tuple[float, ...]
    remind_s: float


Resolution = Literal["captured", "not_charged", "refunded", "not_refunded"]
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
    the next attempt due now. `refused` is a decision that has no effect.
    """

    payment: Payment
    outcome: Outcome | None = None
    then: GatewayStep | None = None
    delay_s: float | None = None
    republish: bool = False
    hurry: bool = False
    refused: ResolutionRefused | None = None


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
    """Our idempotency key for a call, or None for an inquiry. The key of a refund never changes, so at most one refund is made."""
    match step:
        case GatewayStep.INQUIRE | GatewayStep.INQUIRE_REFUND:
            return None
        case GatewayStep.REFUND:
            return f"{payment.payment_id}:refund"
        case GatewayStep.TOKENISE | GatewayStep.PREPARE | GatewayStep.EXECUTE | GatewayStep.CANCEL:
            return f"{payment.payment_id}:{step}:{payment.key_number}"
        case _:
            assert_never(step)


def on_answer(payment: Payment, step: GatewayStep, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """The effect of the gateway's answer to `step` on the payment. Raises AssertionError if the answer cannot be one to that step.

    A gateway that refuses the service, or takes no more requests at present, says nothing about the payment: no rung is spent. The row is
    due when the gateway is usable, or after the wait that it asked for.
    """
    match answer:
        case port.Misconfigured():
            return PaymentTransition(payment, delay_s=0.0)
        case port.Limited():
            return PaymentTransition(payment, delay_s=min(answer.retry_after_s or LIMITED_S, port.RETRY_AFTER_MAX_S))
        case _:
            pass
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
    """The effect of a due time on a payment without a next step: a late capture is announced again. No other such payment is due."""
    if payment.status is PaymentStatus.CAPTURED and payment.rung < LATE_REMINDERS_MAX:
        return _remind(replace(payment, rung=payment.rung + 1), policy)
    return PaymentTransition(payment)


def on_late_answer(payment: Payment, answer: GatewayAnswer | None, policy: Policy) -> PaymentTransition | None:
    """The effect of an answer that came after another instance changed the payment. Only a capture or a refund has one.

    Returns None if the payment shows that already, or if the present holder of the row has to ask for itself.
    """
    match answer:
        case port.Captured() if payment.status not in CHARGED and _is_of(payment, answer):
            return _captured(payment, answer, policy)
        case port.Refunded() if payment.status in CHARGED - {PaymentStatus.CAPTURED, PaymentStatus.REFUNDED}:
            return _refunded(payment, answer.refund_id)
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
    match answer:
        case port.Refunded(refund_id=refund_id):
            return _refunded(payment, refund_id)
        case port.RefundFailed(code=code) if payment.status is not PaymentStatus.REFUND_FAILED:
            return _refund_failed(payment, code_of(code), policy)
        case port.NoRefund() if step is GatewayStep.INQUIRE_REFUND and _may_send_refund(payment, policy):
            return PaymentTransition(payment, then=GatewayStep.REFUND)
        case port.RefundPending() | port.NotFound() | port.Unknown() if payment.status is PaymentStatus.REFUNDING:
            in_doubt = move(payment, PaymentStatus.REFUND_IN_DOUBT, reason=_why_in_doubt(answer))
            return _begin_ladder(in_doubt, Outcome.REFUND_IN_DOUBT, policy)
        case (
            port.RefundPending()
            | port.RefundFailed()
            | port.NoRefund()
            | port.NotFound()
            | port.NotSent()
            | port.Unknown()
        ):
            return _later(payment, answer, policy)
        case _:
            raise _unexpected(payment, answer)


def _may_send_refund(payment: Payment, policy: Policy) -> bool:
    """Whether a refund may be sent. It may not once a person was asked: the gateway may have deleted our idempotency key by then."""
    on_ladder = payment.status is PaymentStatus.REFUND_IN_DOUBT and payment.rung < len(policy.ladder_s)
    return payment.status is PaymentStatus.REFUNDING or on_ladder


def _refunded(payment: Payment, refund_id: str) -> PaymentTransition:
    shown = _printable(refund_id, RECEIPT_LENGTH_MAX)
    refunded = move(payment, PaymentStatus.REFUNDED, refund_id=None if find_card_number(shown) else shown or None)
    return PaymentTransition(refunded, Outcome.REFUNDED)


def _refund_failed(payment: Payment, reason: str, policy: Policy) -> PaymentTransition:
    failed = move(payment, PaymentStatus.REFUND_FAILED, reason=reason)
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
    return PaymentTransition(replace(payment, rung=payment.rung + 1), delay_s=policy.ladder_s[payment.rung])


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
    **changes: str | int | None,
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
