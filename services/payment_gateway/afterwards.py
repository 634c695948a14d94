"""A payment's life after its outcome: what the gateway may say later, and what happens then. Pure: no I/O, clock, randomness.

A gateway may change its mind, and so may people in its dashboard. So a settled payment can be looked at: the gateway is asked, and its
answer is compared with what we have settled (`meaning_of`). Which are looked at when, and why (`domain.next_look_s`):

- A person's decision: on the ladder, then once a day, until the gateway agrees. Decisions are rare, and a wrong one costs the whole amount.
  One about a capture that is disputed is looked at until the dispute is won or lost.
- A refund, of the whole or of a part: six times in thirty days. The card's bank may send it back for as long. Refunds are rare, too. One
  that a person called made elsewhere is not looked for, and hides none of the others.
- What was cancelled: once, a day later. A cancel is final by the gateway's own word, so this only finds what that word is worth.
- A capture: not by itself. Looking at every capture would cost more requests than charging it. What happens to one later, a dispute or a
  refund in the dashboard, is rare, so somebody else tells which one to look at: the gateway's events, and `remit reconcile --look` every
  night. An operator may choose looks at captures as well.

Whoever knows of news makes the payment due now: a person (`ask`), any sender of `InquirePayment` with `look`, an event of the gateway, or
`remit reconcile --look`. Such a look comes besides the others and counts as none of them, so no number of events ends a watch early.
"""

from enum import StrEnum
from typing import assert_never

from services.payment_gateway import domain
from services.payment_gateway.domain import (
    CHARGED,
    FAILED,
    NOT_PAID,
    GatewayAnswer,
    GatewaySide,
    GatewayStep,
    OutcomeReason,
    Payment,
    PaymentStatus,
    PaymentTransition,
    Policy,
)
from services.payment_gateway.gateways import port
from services.payment_gateway.refunds import elsewhere_minor, made, made_there, refunded_there_minor
from shared.records import replace


class Meaning(StrEnum):
    """What an answer of the gateway means for a payment that is settled."""

    AGREES = "it agrees"
    KNOWN = "a person knew and decided"
    TELLS_NOTHING = "it tells nothing yet"
    CHARGEABLE = "cancel it again"
    FOUND = "cancel it"
    CAPTURED_LATE = "a late capture"
    FORGOTTEN = "a refund of ours that we had forgotten"
    FOUND_THERE = "a refund that a person called made is there"
    LESS_REFUNDED = "ask about each refund"
    CONTRADICTS = "a case: the charge"
    DENIED = "a case, if it goes on"
    NOT_REFUNDED = "a case: the refund"
    REFUNDED = "refunded after all"


def meaning_of(answer: GatewayAnswer, payment: Payment) -> Meaning:
    """What the gateway's answer means for a settled payment: the whole table. Raises AssertionError if the payment is not settled."""
    meaning, shown = _compared(answer, payment), payment.gateway_side
    is_denied = isinstance(answer, port.NotFound) and payment.status in CHARGED
    is_news = is_denied or meaning is Meaning.CONTRADICTS or _is_newest_decision(answer, payment)
    is_decided = is_news and payment.decided_by is not None
    if is_decided and shown is not None and _as_shown(shown, domain.side_of(_charge_in(answer, payment))):
        return Meaning.KNOWN
    return meaning


def _charge_in(answer: GatewayAnswer, payment: Payment) -> GatewayAnswer:
    """The charge, if the answer about its refund shows that it is disputed all the same, or not all back; else the answer."""
    charge = answer.charge if isinstance(answer, port.Refunded | port.NoRefund) else None
    is_open = charge is not None and (charge.is_contested or domain.is_short(payment, charge))
    return charge if charge is not None and is_open else answer


def _is_newest_decision(answer: GatewayAnswer, payment: Payment) -> bool:
    """Whether the answer is about the refund that the newest decision is about. The build before did not mark it as made elsewhere."""
    if not isinstance(answer, port.RefundFailed | port.NoRefund):
        return False
    about = answer.about or payment.payment_id
    return any(one.refund_id == about and one.decided_by and one.version == payment.version for one in payment.refunds)


def _as_shown(shown: GatewaySide, side: GatewaySide) -> bool:
    """Whether the gateway says what it showed before. A dispute that goes on is no news, until somebody has won or lost it."""
    both_open = domain.is_dispute_open(shown) and domain.is_dispute_open(side)
    return replace(shown, dispute=side.dispute) == side if both_open else shown == side


def _compared(answer: GatewayAnswer, payment: Payment) -> Meaning:
    if not domain.is_settled(payment):
        raise AssertionError(f"a payment that is {payment.status} is not settled")
    match answer:
        case port.Captured() if payment.status in FAILED:
            return Meaning.CAPTURED_LATE if domain.difference_of(answer, payment) is None else Meaning.CONTRADICTS
        case port.Captured() if payment.status is PaymentStatus.CAPTURED:
            return _compared_capture(answer, payment)
        case port.Cancelled() if payment.status in FAILED:
            return Meaning.AGREES
        case port.NotFound() if payment.gateway_id is None:
            return Meaning.AGREES
        case port.NotFound() if payment.status is PaymentStatus.CAPTURED:
            return Meaning.DENIED
        case port.Found() if payment.gateway_id is None:
            return Meaning.FOUND
        case port.Declined() | port.Unconfirmed() | port.ActionRequired() if payment.status in FAILED:
            return Meaning.CHARGEABLE
        case _ if payment.status is PaymentStatus.CAPTURED and isinstance(answer, NOT_PAID):
            return Meaning.CONTRADICTS
        case port.Refunded() | port.RefundFailed() | port.NoRefund() if payment.status in CHARGED:
            meaning = _compared_refund(answer, payment)
            is_open = payment.status is PaymentStatus.REFUNDED and _charge_in(answer, payment) is not answer
            return Meaning.CONTRADICTS if is_open and meaning is not Meaning.NOT_REFUNDED else meaning
        case _:
            return Meaning.TELLS_NOTHING


def _compared_capture(answer: port.Captured, payment: Payment) -> Meaning:
    """The capture is ours, and what went back is what we know of. If a refund came back, one of ours or of others, each is asked about."""
    difference = domain.difference_of(answer, payment)
    if difference is OutcomeReason.CAPTURE_DIFFERS:
        return Meaning.CONTRADICTS
    if domain.forgotten_refund(payment, answer) is not None:
        return Meaning.FORGOTTEN
    if domain.came_back(payment, answer):
        return Meaning.LESS_REFUNDED
    if difference is OutcomeReason.REFUNDED_AT_GATEWAY and domain.found_there(payment, answer) is not None:
        return Meaning.FOUND_THERE
    if difference is not None:
        return Meaning.CONTRADICTS
    is_less = answer.gone_minor < refunded_there_minor(payment.refunds)
    return Meaning.LESS_REFUNDED if is_less and made_there(payment.refunds) else Meaning.AGREES


def _compared_refund(answer: port.Refunded | port.RefundFailed | port.NoRefund, payment: Payment) -> Meaning:
    """Where all had to go back, it does not matter who gave it back."""
    is_kept, is_partial = payment.status is PaymentStatus.REFUND_FAILED, payment.status is PaymentStatus.CAPTURED
    if isinstance(answer, port.Refunded):
        return Meaning.REFUNDED if is_kept else Meaning.AGREES
    if is_partial or not _is_all_back(answer, payment):
        return Meaning.AGREES if is_kept else Meaning.NOT_REFUNDED
    if is_kept:
        return Meaning.REFUNDED
    is_all_elsewhere = bool(made(payment.refunds)) and not made_there(payment.refunds)
    return Meaning.KNOWN if is_all_elsewhere or answer.left_minor is None else Meaning.AGREES


def _is_all_back(answer: port.RefundFailed | port.NoRefund, payment: Payment) -> bool:
    """Whether no more is left at the gateway than a person knew to be given back elsewhere."""
    if answer.left_minor is None:
        return isinstance(answer, port.NoRefund) and _never_came(payment)
    return answer.left_minor <= elsewhere_minor(payment.refunds)


def _never_came(payment: Payment) -> bool:
    """Whether a person called given back what the gateway said it never captured."""
    shown = payment.gateway_side
    return payment.decided_by is not None and shown is not None and shown.answer in NEVER_CAPTURED


NEVER_CAPTURED = frozenset({"cancelled", "declined", "unconfirmed", "action_required"})
"""What the gateway answers of a payment that it has, and did not capture: the kinds of `NOT_PAID`."""


def on_answer(payment: Payment, step: GatewayStep, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """The effect of the gateway's answer to `step` on the payment, settled or not. Raises AssertionError if it is no answer to the step."""
    if isinstance(answer, port.Misconfigured | port.Limited) or not domain.is_settled(payment):
        return domain.on_answer(payment, step, answer, policy)
    match meaning_of(answer, payment):
        case Meaning.AGREES:
            return _confirmed(payment, answer, policy)
        case Meaning.KNOWN:
            return _known(payment, answer, policy)
        case Meaning.TELLS_NOTHING:
            return _look_again(payment, step, answer, policy)
        case Meaning.CHARGEABLE if step is GatewayStep.CANCEL:
            return _look_again(payment, step, answer, policy)
        case Meaning.FOUND:
            assert isinstance(answer, port.Found)  # noqa: S101 - the meaning says so
            return PaymentTransition(domain.adopted(payment, answer.gateway_id), then=GatewayStep.CANCEL)
        case Meaning.CHARGEABLE:
            return PaymentTransition(replace(payment, key_number=payment.key_number + 1), then=GatewayStep.CANCEL)
        case Meaning.CAPTURED_LATE:
            assert isinstance(answer, port.Captured)  # noqa: S101 - the meaning says so
            return domain.captured(payment, answer, policy)
        case Meaning.CONTRADICTS:
            charge = _charge_in(answer, payment)
            return domain.contradicted(payment, _why(charge, payment), charge, policy)
        case Meaning.DENIED:
            return _denied(payment, step, answer, policy)
        case Meaning.FORGOTTEN:
            assert isinstance(answer, port.Captured)  # noqa: S101 - the meaning says so
            found = domain.forgotten_refund(payment, answer)
            assert found is not None  # noqa: S101 - as before
            return domain.recovered(payment, answer, found)
        case Meaning.FOUND_THERE:
            assert isinstance(answer, port.Captured)  # noqa: S101 - the meaning says so
            return _confirmed(domain.found_there(payment, answer) or payment, answer, policy)
        case Meaning.LESS_REFUNDED:
            return PaymentTransition(payment, then=GatewayStep.INQUIRE_REFUND)
        case Meaning.NOT_REFUNDED:
            assert isinstance(answer, port.RefundFailed | port.NoRefund)  # noqa: S101 - the meaning says so
            return domain.refund_failed_late(payment, answer, policy)
        case Meaning.REFUNDED:
            assert isinstance(answer, port.Refunded | port.RefundFailed | port.NoRefund)  # noqa: S101 - the meaning says so
            return domain.refunded_after_all(payment, answer, policy)
        case meaning:
            assert_never(meaning)


def _denied(payment: Payment, step: GatewayStep, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """The gateway says that it has no such payment. If it was told as captured, its invoice is paid by nothing: a person decides.

    A person who called it captured knew that, so it waits until the ladder has passed. That the gateway denies this payment, and not all of
    our payments, was found out before (`charging`).
    """
    if payment.decided_by is not None and payment.rung < len(policy.ladder_s):
        return _look_again(payment, step, answer, policy)
    return domain.contradicted(payment, OutcomeReason.NOT_CAPTURED, answer, policy)


def _why(answer: GatewayAnswer, payment: Payment) -> OutcomeReason:
    difference = domain.difference_of(answer, payment) if isinstance(answer, port.Captured) else None
    return difference or OutcomeReason.NOT_CAPTURED


def _confirmed(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """The gateway agrees. If it is the first time that it agrees with a person, its own looks begin now."""
    is_whole = payment.status is PaymentStatus.REFUNDED  # but for what went back elsewhere
    side = GatewaySide(domain.GIVEN_BACK) if is_whole else domain.side_of(answer)
    if payment.decided_by and payment.gateway_side != side:
        payment = replace(payment, gateway_side=side, rung=-1)
    return _next_look(payment, policy)


def _known(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """The gateway says what a person knew. The looks go on where something else may still change."""
    charge = _charge_in(answer, payment)
    is_short = isinstance(charge, port.Captured) and domain.is_short(payment, charge)
    has_refunds = payment.status is PaymentStatus.CAPTURED and bool(made_there(payment.refunds))
    goes_on = has_refunds or is_short or domain.is_late(payment) or domain.is_dispute_open(payment.gateway_side)
    return _next_look(payment, policy) if goes_on else PaymentTransition(payment)


def _look_again(payment: Payment, step: GatewayStep, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """The gateway cannot tell yet. A cancel is repeated under a new key, because its answer may have been saved under the old one."""
    if step is GatewayStep.CANCEL and not isinstance(answer, port.NotSent):
        payment = replace(payment, key_number=payment.key_number + 1)
    return _next_look(payment, policy)


def _next_look(payment: Payment, policy: Policy) -> PaymentTransition:
    """Count the look, and set the time of the next one. A late capture is also announced again, since nobody has given it back yet."""
    looked = replace(payment, rung=payment.rung + 1)
    if not domain.is_late(looked):
        return PaymentTransition(looked, delay_s=domain.next_look_s(looked, policy))
    if looked.rung > domain.LATE_REMINDERS_MAX:
        return PaymentTransition(looked)
    return PaymentTransition(looked, delay_s=policy.remind_s, republish=True)
