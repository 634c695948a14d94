"""A payment at the card gateway, a state machine: its next step, and what every answer makes of it. Pure: no I/O, clock, randomness.

What every command makes of it is in `commands`.

Three meanings stay apart: declined (the bank said no), not charged (it never happened), in doubt (nobody knows). The rules:

- only a gateway id that is recorded is ever confirmed; a row without one is known not charged;
- not charged and declined are recorded only after the gateway confirmed a cancel; a cancel that finds a success means captured;
- what nobody knows is asked for on a ladder of due times; at its end a person decides;
- a capture is the truth, whoever learned it and whatever was recorded before;
- a late capture is published again until it is refunded: whoever waited for the payment has stopped asking.

Every change of status is a new version, and a version publishes at most one outcome.
"""

import re
from enum import StrEnum
from typing import Literal, assert_never
from uuid import UUID

from services.payment_gateway.gateways import port
from shared.card_data.scan import find_card_number
from shared.records import dataclass, field, replace

EXECUTIONS_MAX = 3
"""Confirms sent before we cancel instead: a gateway that took none of three will not take the fourth."""
RETRY_AFTER_MAX_S = 3_600.0
"""A gateway may ask us to wait, not park a payment for a day."""
LATE_REMINDERS_MAX = 1_000
"""How often a late capture is published again; hourly, six weeks. It has an end because a late capture may also be kept: nobody refunds
it if it was the first that the saga heard of the payment."""
CODE_LENGTH_MAX = 64
RECEIPT_LENGTH_MAX = 255


class PaymentStatus(StrEnum):
    REQUESTED = "requested"  # no gateway id is recorded: known not charged
    PREPARED = "prepared"  # the gateway id is recorded; whether it was confirmed is not known to who finds the row
    CANCELLING = "cancelling"  # the outcome is pending until the gateway confirms the cancel
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
"""What staff hear of. Whatever happens to such a payment later they hear of as well."""
KEY_SPENT_BY_ANSWER = frozenset({PaymentStatus.REQUESTED, PaymentStatus.CANCELLING, PaymentStatus.NOT_CHARGED})
"""Where only preparations and cancels are repeated: neither charges anybody under a new idempotency key."""


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
    """What is published of a payment. The payment holds the particulars."""

    CAPTURED = "captured"
    CAPTURED_LATE = "captured_late"  # it had been settled otherwise before
    DECLINED = "declined"
    NOT_CHARGED = "not_charged"
    IN_DOUBT = "in_doubt"
    NEEDS_DECISION = "needs_decision"
    REFUNDED = "refunded"
    REFUND_IN_DOUBT = "refund_in_doubt"
    REFUND_FAILED = "refund_failed"


class OutcomeReason(StrEnum):
    """Our own reason codes; a decline or a refusal carries the gateway's."""

    NEVER_REQUESTED = "never_requested"
    GATEWAY_UNAVAILABLE = "gateway_unavailable"
    NOT_CONFIRMED = "not_confirmed"
    CANCELLED_AT_GATEWAY = "cancelled_at_gateway"
    ACTION_REQUIRED = "action_required"
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
    """What a payment will be called once its cancel is confirmed."""

    status: Literal[PaymentStatus.DECLINED, PaymentStatus.NOT_CHARGED]
    reason: str


@dataclass(frozen=True, slots=True)
class Payment:
    """`params_hash` is None in a closed row: one that was asked about before any request came. `rung` is the next rung of the ladder.
    `key_number` numbers the idempotency keys: a gateway replays what it saved under a key, its failures included. `reason` says why it
    stands as it does, `decided_by` which person decided so."""

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


@dataclass(frozen=True, slots=True)
class Policy:
    """`ladder_s`: how long to wait before each further attempt. `remind_s`: how often a case that waits for a person is asked about at
    the gateway and published again; and how often a late capture that waits for its refund is published again."""

    ladder_s: tuple[float, ...]
    remind_s: float


Resolution = Literal["captured", "not_charged", "refunded", "not_refunded"]
ResolutionRefusal = Literal["version_differs", "nothing_to_decide", "receipt_number_required", "unknown_payment"]


@dataclass(frozen=True, slots=True)
class ResolutionRefused:
    """The decision came too late or does not fit."""

    reason: ResolutionRefusal
    decided_by: str
    resolution: Resolution


@dataclass(frozen=True, slots=True)
class PaymentTransition:
    """The payment afterwards, the outcome to publish, and how it goes on: `then` at once, or after `delay_s`, or (neither) not by itself.

    `again`: what this version published is published again, with the same id. `hurry`: the next attempt is due now.
    """

    payment: Payment
    outcome: Outcome | None = None
    then: GatewayStep | None = None
    delay_s: float | None = None
    again: bool = False
    hurry: bool = False
    refused: ResolutionRefused | None = None


GatewayAnswer = port.TokeniseAnswer | port.PrepareAnswer | port.ChargeAnswer | port.RefundAnswer
TELLS_OF_MONEY = (port.Captured, port.Refunded)
"""Answers that a row must learn of even if it has moved on (`on_late_answer`)."""


# -- steps -----------------------------------------------------------------------------------------------------------------------------


def next_step(payment: Payment) -> GatewayStep | None:
    """The step to take first with a row that was found: ask before sending, for a crash may have hidden what was sent. None: no step."""
    match payment.status:
        case PaymentStatus.REQUESTED:
            return GatewayStep.TOKENISE if payment.method_token is None else GatewayStep.PREPARE
        case PaymentStatus.PREPARED | PaymentStatus.IN_DOUBT | PaymentStatus.NEEDS_DECISION:
            return GatewayStep.INQUIRE
        case PaymentStatus.CANCELLING:
            return GatewayStep.CANCEL
        case PaymentStatus.NOT_CHARGED:
            return GatewayStep.CANCEL if payment.decided_by else None  # the watch after a decision
        case PaymentStatus.REFUNDING | PaymentStatus.REFUND_IN_DOUBT:
            return GatewayStep.INQUIRE_REFUND
        case PaymentStatus.REFUND_FAILED:
            return None if payment.decided_by else GatewayStep.INQUIRE_REFUND
        case PaymentStatus.CAPTURED | PaymentStatus.DECLINED | PaymentStatus.REFUNDED:
            return None
        case _:
            assert_never(payment.status)


def idempotency_key(payment: Payment, step: GatewayStep) -> str | None:
    """Our key for the call. That of a refund never changes, so that at most one is ever made under it."""
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
    """What the answer to the step makes of the payment."""
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
    """What becomes of a row that is due although there is no step to take (`next_step` is None). A capture is due only if it came late."""
    if payment.status is PaymentStatus.CAPTURED and payment.rung < LATE_REMINDERS_MAX:
        return _remind(replace(payment, rung=payment.rung + 1), policy)
    return PaymentTransition(payment)


def on_late_answer(payment: Payment, answer: GatewayAnswer | None, policy: Policy) -> PaymentTransition | None:
    """What an answer makes of a row that has moved on since the gateway was asked. It counts only if it says that money was taken or went
    back. None: the row knows already, or its present owner will ask again."""
    match answer:
        case port.Captured() if payment.status not in CHARGED and _is_of(payment, answer):
            return _captured(payment, answer, policy)
        case port.Refunded() if payment.status in CHARGED - {PaymentStatus.CAPTURED, PaymentStatus.REFUNDED}:
            return _refunded(payment, answer.refund_id)
        case _:
            return None


# -- before a gateway id is recorded: nothing can be charged ---------------------------------------------------------------------------


def _after_preparing(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    match answer:
        case port.Tokenised(method_token=token):
            return PaymentTransition(replace(payment, method_token=token, card_jwe=None), then=GatewayStep.PREPARE)
        case port.Prepared(gateway_id=gateway_id):
            prepared = move(payment, PaymentStatus.PREPARED, gateway_id=gateway_id, key_number=1)
            return PaymentTransition(prepared, then=GatewayStep.EXECUTE)
        case port.Refused(code=code):
            return _not_charged(payment, code_of(code))
        case port.NotSent() | port.Unknown():
            return _later(payment, answer, policy)
        case _:
            raise _no_answer_to(payment, answer)


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
        case port.Declined(code=code):
            return _cancel(payment, PendingOutcome(PaymentStatus.DECLINED, code_of(code)))
        case port.ActionRequired():
            return _cancel(payment, PendingOutcome(PaymentStatus.DECLINED, OutcomeReason.ACTION_REQUIRED))
        case port.Unconfirmed() if step is GatewayStep.INQUIRE:
            return _execute_again(payment)
        case port.Unconfirmed() | port.Processing() | port.NotFound() | port.NotSent() | port.Unknown():
            return _doubt(payment, answer, policy)
        case _:
            raise _no_answer_to(payment, answer)


def _is_of(payment: Payment, answer: port.Captured) -> bool:
    """Whether the capture is the one we asked for: what the gateway took must be what the invoice says."""
    captured = (answer.gateway_id, answer.amount_minor, answer.currency.upper())
    return captured == (payment.gateway_id, payment.amount_minor, payment.currency)


def _captured(payment: Payment, answer: port.Captured, policy: Policy) -> PaymentTransition:
    receipt = _printable(answer.receipt_number, RECEIPT_LENGTH_MAX)
    if not receipt or find_card_number(receipt):
        receipt = answer.gateway_id  # an event that shows a card number would be refused by its receivers
    captured = move(payment, PaymentStatus.CAPTURED, receipt_number=receipt)
    if payment.status in {PaymentStatus.DECLINED, PaymentStatus.NOT_CHARGED}:
        # The saga has ended and never asks: if the first message was lost, it hears of this by a reminder only.
        return PaymentTransition(captured, Outcome.CAPTURED_LATE, delay_s=policy.remind_s)
    return PaymentTransition(captured, Outcome.CAPTURED)


def _cancelled(payment: Payment) -> PaymentTransition:
    """No confirm can charge it any more: now, and not before, the pending outcome may be recorded."""
    if payment.status is PaymentStatus.NOT_CHARGED:
        return PaymentTransition(payment)  # the decision was right; the watch ends
    pending = payment.pending or PendingOutcome(PaymentStatus.NOT_CHARGED, OutcomeReason.CANCELLED_AT_GATEWAY)
    if pending.status is PaymentStatus.NOT_CHARGED:
        return _not_charged(payment, pending.reason)
    return PaymentTransition(move(payment, PaymentStatus.DECLINED, reason=pending.reason), Outcome.DECLINED)


def _cancel(payment: Payment, pending: PendingOutcome) -> PaymentTransition:
    return PaymentTransition(move(payment, PaymentStatus.CANCELLING, pending=pending), then=GatewayStep.CANCEL)


def _execute_again(payment: Payment) -> PaymentTransition:
    """It was never confirmed at the gateway, or the confirm is still on its way there: confirming the same id again charges once."""
    match payment.status:
        case PaymentStatus.PREPARED:
            return PaymentTransition(payment, then=GatewayStep.EXECUTE)
        case PaymentStatus.IN_DOUBT if payment.key_number < EXECUTIONS_MAX:
            return PaymentTransition(replace(payment, key_number=payment.key_number + 1), then=GatewayStep.EXECUTE)
        case _:  # also when a person was called: a charge hours later would surprise everybody
            return _cancel(payment, PendingOutcome(PaymentStatus.NOT_CHARGED, OutcomeReason.NOT_CONFIRMED))


def _doubt(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    if payment.status is not PaymentStatus.PREPARED or isinstance(answer, port.NotSent):
        return _later(payment, answer, policy)
    in_doubt = move(payment, PaymentStatus.IN_DOUBT, reason=_why_in_doubt(answer))
    return _begin_ladder(in_doubt, Outcome.IN_DOUBT, policy)


def _not_charged(payment: Payment, reason: str) -> PaymentTransition:
    return PaymentTransition(
        move(payment, PaymentStatus.NOT_CHARGED, reason=reason, card_jwe=None), Outcome.NOT_CHARGED
    )


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
        case port.NotSent() | port.NoRefund() if payment.status is PaymentStatus.REFUNDING:
            return _later(payment, answer, policy)
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
            raise _no_answer_to(payment, answer)


def _may_send_refund(payment: Payment, policy: Policy) -> bool:
    """Not once a person was left with it: the gateway may have forgotten our key by then."""
    on_ladder = payment.status is PaymentStatus.REFUND_IN_DOUBT and payment.rung < len(policy.ladder_s)
    return payment.status is PaymentStatus.REFUNDING or on_ladder


def _refunded(payment: Payment, refund_id: str) -> PaymentTransition:
    refunded = move(payment, PaymentStatus.REFUNDED, refund_id=_printable(refund_id, RECEIPT_LENGTH_MAX) or None)
    return PaymentTransition(refunded, Outcome.REFUNDED)


def _refund_failed(payment: Payment, reason: str, policy: Policy) -> PaymentTransition:
    failed = move(payment, PaymentStatus.REFUND_FAILED, reason=reason)
    return PaymentTransition(failed, Outcome.REFUND_FAILED, delay_s=policy.remind_s)


# -- the ladder ------------------------------------------------------------------------------------------------------------------------


def _begin_ladder(payment: Payment, outcome: Outcome, policy: Policy) -> PaymentTransition:
    return PaymentTransition(replace(payment, rung=1), outcome, delay_s=policy.ladder_s[0])


def _later(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """Try again on the next rung; behind the last one, what this state comes to."""
    payment = _under_fresh_key(payment, answer)
    if payment.status in {PaymentStatus.NEEDS_DECISION, PaymentStatus.REFUND_FAILED} or payment.rung >= len(
        policy.ladder_s
    ):
        return _exhausted(payment, answer, policy)
    delay_s = policy.ladder_s[payment.rung]
    if isinstance(answer, port.NotSent) and answer.retry_after_s is not None:
        delay_s = max(delay_s, min(answer.retry_after_s, RETRY_AFTER_MAX_S))
    return PaymentTransition(replace(payment, rung=payment.rung + 1), delay_s=delay_s)


def _under_fresh_key(payment: Payment, answer: GatewayAnswer) -> Payment:
    """Whatever the gateway answered to a preparation or a cancel it may have saved under the key, to replay it for ever: a failure, and
    also a refusal ("it is processing") that is no longer true. The numbers in other states count the confirms."""
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
            return PaymentTransition(payment)  # the watch after a decision has its end, too
        case PaymentStatus.REFUNDING:
            return _refund_failed(payment, OutcomeReason.GATEWAY_UNAVAILABLE, policy)
        case PaymentStatus.NEEDS_DECISION | PaymentStatus.REFUND_IN_DOUBT | PaymentStatus.REFUND_FAILED:
            return _remind(payment, policy)
        case _:
            raise _no_answer_to(payment, answer)


def _remind(payment: Payment, policy: Policy) -> PaymentTransition:
    return PaymentTransition(payment, delay_s=policy.remind_s, again=True)


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
    decided_by: str | None = None,
    pending: PendingOutcome | None = None,
    **changes: str | int | None,
) -> Payment:
    """The payment in another status, which is another version: reason and decision of the last one no longer hold. A pending outcome waits
    for its cancel through a case, too."""
    return replace(
        payment,
        status=status,
        version=payment.version + 1,
        rung=0,
        reason=reason,
        decided_by=decided_by,
        pending=payment.pending if status is PaymentStatus.NEEDS_DECISION else pending,
        was_case=payment.was_case or status in CASES,
        **changes,  # type: ignore[arg-type] # replace() is not typed field by field for keywords passed on
    )


def answer_code(answer: GatewayAnswer) -> str:
    """The answer in one word for the record: `captured`, `declined:insufficient_funds`."""
    word = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(answer).__name__).lower()
    code = getattr(answer, "code", None)
    return code_of(f"{word}:{code}") if code else word


def code_of(text: str) -> str:
    """Any text as a reason code of the contracts, so that whatever a gateway answers can be recorded."""
    return re.sub(r"[^A-Za-z0-9_.:-]", "_", text)[:CODE_LENGTH_MAX] or "unspecified"


def _printable(text: str, length_max: int) -> str:
    return re.sub(r"[^\x20-\x7e]", "", text).strip()[:length_max]


def _no_answer_to(payment: Payment, answer: GatewayAnswer) -> AssertionError:
    return AssertionError(f"{type(answer).__name__} answers nothing that is asked while {payment.status}")
