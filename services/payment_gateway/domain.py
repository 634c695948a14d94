"""The state machine of a payment at the card gateway: its next step, and how every answer changes it. Pure: no I/O, clock, randomness.

How commands change it is in `commands`, and what happens when the gateway says something about a settled payment is in `afterwards`.

Three outcomes differ: declined (the bank said no), not charged (no charge happened), in doubt (nobody knows). These are the rules:

- Only a gateway id that is recorded is ever confirmed. So a row without one is known to be not charged, unless we forgot something.
- Not charged and declined are recorded only after the gateway confirmed a cancel. If the cancel finds a success, the payment is captured.
- A payment in doubt is asked about on a ladder of due times. At the end of the ladder a person decides.
- A payment that may have been begun before we forgot it is looked for at the gateway, and never prepared anew (`first_step`).
- A capture is always recorded, no matter which instance learned of it and what was recorded before.
- A late capture, one that contradicts an earlier outcome, is announced again until it is refunded. The saga that waited for the payment has
  ended and does not ask.
- Nothing is booked as whole that is not: a capture of another amount, one that was given back or one that is disputed is a case.

Every change of status is a higher version, and each version publishes at most one outcome.
"""

import itertools
import re
from enum import StrEnum
from functools import cache
from typing import Literal, assert_never
from uuid import UUID, uuid5

from services.payment_gateway import refunds
from services.payment_gateway.gateways import port
from services.payment_gateway.refunds import LACK_OF_BALANCE, PaymentRefund, PaymentRefundStatus, Refunds
from shared.card_data.scan import has_card_data
from shared.records import dataclass, field, replace

EXECUTIONS_MAX = 3
"""Confirms that are answered before we cancel instead. A gateway that took none of three will not take a fourth."""
LATE_REMINDERS_MAX = 1_000
"""How often a late capture is announced again: hourly for six weeks. There is a limit because a late capture may also be kept. If it is the
first message that the saga receives about the payment, nobody refunds it."""
LIMITED_S = 1.0
"""The wait after a 429 that names none. The pace of all calls has slowed by then."""
CLOCKS_APART_S = 60.0
"""Clocks of ours that are not wrong differ by less."""
FORGETS_AFTER_S = 30.0
"""From this age on we may have forgotten versions of a payment (`aged`). No fail-over to a database that lacks the last commits is quicker,
and a healthy payment is long over, so that its versions stay small."""
VERSION_MAX = 2_000_000_000
"""The highest version that an age gives: the column has room for changes after it."""
WENT_BACK = "the money was given back at the gateway"
"""The reason of a refund that others made there, by which the invoice hears of it."""
CODE_LENGTH_MAX = 64
MASKED_CODE = "masked_card_number"
"""Instead of a code in which a card number stands."""
RECEIPT_LENGTH_MAX = 255


class PaymentStatus(StrEnum):
    REQUESTED = "requested"  # no gateway id is recorded
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
FAILED = frozenset({PaymentStatus.DECLINED, PaymentStatus.NOT_CHARGED})
SETTLED = FAILED | {PaymentStatus.CAPTURED, PaymentStatus.REFUNDED}
"""The statuses that are outcomes. A refund that failed is settled as well once a person decided that the money stays (`is_settled`)."""
TOLD_AS_CHARGED = frozenset({PaymentStatus.CAPTURED, PaymentStatus.REFUNDED})
"""Outcomes by which others know that the card was charged."""


class GatewayStep(StrEnum):
    """One call to the gateway."""

    TOKENISE = "tokenise"
    FIND = "find"
    PREPARE = "prepare"
    EXECUTE = "execute"
    INQUIRE = "inquire"
    CANCEL = "cancel"
    REFUND = "refund"
    INQUIRE_REFUND = "inquire_refund"


QUESTIONS = frozenset({GatewayStep.INQUIRE, GatewayStep.INQUIRE_REFUND, GatewayStep.CANCEL, GatewayStep.FIND})
"""The steps that only ask: a cancel that is repeated asks, too."""
BEGINS = frozenset({GatewayStep.TOKENISE, GatewayStep.PREPARE})
"""The steps that begin a payment at the gateway."""


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
    REFUNDED_AT_GATEWAY = "refunded_at_gateway"
    DISPUTED = "disputed"
    NOT_CAPTURED = "not_captured"
    UNKNOWN_HERE = "unknown_here"  # the gateway has a capture that no payment of ours has
    NOT_REFUNDED = "not_refunded"
    REOPENED = "reopened_by_person"
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
class GatewaySide:
    """What the gateway says about a payment, beside what we have settled. `answer` is the kind of its answer, such as `captured`.

    The amounts are in the minor unit of `currency`, or None if it says none, or one that cannot be an amount. `lost_minor` was lost in
    disputes. `disputed` is true even after a dispute that we won; `dispute` says how it stands, and is None if nobody can say.
    """

    answer: str
    captured_minor: int | None = None
    refunded_minor: int | None = None
    currency: str | None = None
    disputed: bool = False
    dispute: port.Dispute | None = None
    lost_minor: int = 0


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment, as it is stored.

    `version` grows with each change of status, and is at least `version_floor` then, which is not stored (`aged`). `params_hash` is None
    if the payment was closed before its request was handled: by a person, or by an earlier build, because a command about it came first.
    `rung` is the next rung of the ladder, or the number of looks at a settled payment: one less, at least -1, before a look that does not
    count (`store.hurry`). `key_number` is part of the idempotency keys: a gateway replays the answer that it saved for a key, even a
    failure, so a call that is repeated after that needs a new one. `reason` says why the payment has its status, and `decided_by` which
    person decided it. `advice` is the gateway's code for what the sender can do about that reason. `was_case` is true once it was a case
    for staff, or once a person asked about it. `refunds` are all its refunds, in the order in which they were asked for; `refund_id` is the
    gateway's id of the newest.

    `settled_as` is the outcome that it had before, if it had another one: then two sides contradict each other. `gateway_side` is what the
    gateway said when it last contradicted us, or when it agreed with a person.
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
    settled_as: PaymentStatus | None = None
    gateway_side: GatewaySide | None = None
    refunds: Refunds = ()
    version_floor: int = field(default=0, compare=False)

    @property
    def next_version(self) -> int:
        """The version after the next change of status."""
        return max(self.version + 1, self.version_floor)


@dataclass(frozen=True, slots=True)
class Policy:
    """The waiting times, in seconds.

    `ladder_s` has the wait before each further attempt. `remind_s` is the interval at which a case that waits for a person is asked about
    at the gateway and announced again. A late capture that waits for its refund is announced again at the same interval.

    A payment that was requested at least `find_after_s` ago is looked for at the gateway before it is begun there (`first_step`).

    The others are the waits before each look at a settled payment: `watch_s` at a person's decision, after the ladder, until the gateway
    agrees with it; `refund_looks_s` at a refund; `cancel_looks_s` at one that was cancelled; `capture_looks_s` at a capture.
    """

    ladder_s: tuple[float, ...]
    remind_s: float
    watch_s: float = 86_400.0
    refund_looks_s: tuple[float, ...] = ()
    cancel_looks_s: tuple[float, ...] = ()
    capture_looks_s: tuple[float, ...] = ()
    find_after_s: float = 3_600.0


Resolution = Literal["captured", "not_charged", "refunded", "not_refunded", "refund_again", "give_back", "reopen"]
ResolutionRefusal = Literal[
    "version_differs", "nothing_to_decide", "receipt_number_required", "unknown_payment", "does_not_fit"
]


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


TOLD_FROM_WAIT_S = 60.0
"""The answers about a case are told to staff if the next attempt is at least so far ahead. On the first rungs nobody could read them."""


def is_told_to_staff(transition: PaymentTransition, step: GatewayStep) -> bool:
    """Whether staff hear what the gateway answered to `step`, because the payment is or was a case. If it is an outcome they hear that."""
    waits = transition.republish or transition.delay_s is None or transition.delay_s >= TOLD_FROM_WAIT_S
    is_answer = step in QUESTIONS and transition.then is None and transition.outcome is None
    return transition.payment.was_case and is_answer and waits


GatewayAnswer = port.TokeniseAnswer | port.FindAnswer | port.PrepareAnswer | port.ExecuteAnswer | port.RefundAnswer
TELLS_OF_MONEY = (port.Captured, port.Refunded)
"""Answers that say that money moved. A payment is changed by them even if another instance has changed it since (`on_late_answer`)."""


# -- steps -----------------------------------------------------------------------------------------------------------------------------


def first_step(payment: Payment, age_s: float, policy: Policy) -> GatewayStep | None:
    """The first step for a payment that was requested `age_s` seconds ago and was read from its row, or None if there is none.

    We may have forgotten that an old payment was begun: the database was restored from a backup, or the last commits were lost. A payment
    that the gateway knows is never prepared anew, so it is looked for first. Between them, two things cover all that was ever begun:

    - What was begun less than a day ago comes to light by our idempotency key. The same steps use the same keys, since a key changes only
      when an answer has used it up, and the gateway replays each answer. It may delete keys after 24 hours.
    - What was begun longer ago is found. The index that is searched lags by a minute, and in an outage by an hour: far less than a day.

    So nobody looks for a young payment: it costs nothing. The age is by two clocks of ours, that of the invoice service and this one, which
    may differ by what is left of the day. A request from the future shows that one is wrong, so its payment is looked for.
    """
    step = next_step(payment)
    is_young = -CLOCKS_APART_S <= age_s < policy.find_after_s
    return step if is_young or step not in BEGINS else GatewayStep.FIND


def aged(payment: Payment, age_s: float) -> Payment:
    """The payment, which was requested `age_s` seconds ago, with a floor under its next version: above all that we may have forgotten.

    A fail-over that is quicker and loses commits can make a version be used twice (deploy/README.md says what to do then). A floor under
    the versions of younger payments, too, would be above those of healthy ones.

    Whoever hears of outcomes tells them apart and puts them in order by their version. If a restore or a fail-over took the last versions
    from us, the next outcome would have a version that others know already, and they would drop it. A payment changes less often than once
    a second, so its age in seconds is above every version that it had before. Only a change takes the higher version: what was announced
    stays as it is, and can be said again and decided about.
    """
    return replace(payment, version_floor=min(int(age_s), VERSION_MAX)) if age_s >= FORGETS_AFTER_S else payment


def next_step(payment: Payment) -> GatewayStep | None:
    """The next step for a payment that waits, or None if there is none.

    A crash may have hidden what was sent. So the gateway is asked before anything that could charge is sent.
    """
    if _begins_next(payment):
        return None  # see `on_due`
    match payment.status:
        case PaymentStatus.REQUESTED:
            return GatewayStep.TOKENISE if payment.method_token is None else GatewayStep.PREPARE
        case PaymentStatus.NEEDS_DECISION if payment.gateway_id is None:
            return GatewayStep.FIND
        case PaymentStatus.PREPARED | PaymentStatus.IN_DOUBT | PaymentStatus.NEEDS_DECISION:
            return GatewayStep.INQUIRE
        case PaymentStatus.CANCELLING:
            return GatewayStep.CANCEL
        case PaymentStatus.CAPTURED | PaymentStatus.DECLINED:
            return GatewayStep.INQUIRE
        case PaymentStatus.NOT_CHARGED if payment.gateway_id is None:
            return GatewayStep.FIND if payment.decided_by else None  # else it never reached the gateway
        case PaymentStatus.NOT_CHARGED:
            return GatewayStep.CANCEL if payment.decided_by else GatewayStep.INQUIRE  # a cancel makes a decision safe
        case (
            PaymentStatus.REFUNDING
            | PaymentStatus.REFUND_IN_DOUBT
            | PaymentStatus.REFUND_FAILED
            | PaymentStatus.REFUNDED
        ):
            return GatewayStep.INQUIRE_REFUND
        case _:
            assert_never(payment.status)


def idempotency_key(payment: Payment, step: GatewayStep) -> str | None:
    """Our idempotency key for a call, or None for an inquiry.

    The key of a refund changes only when the gateway has finished with it and the list of refunds shows that none was made.
    """
    match step:
        case GatewayStep.FIND | GatewayStep.INQUIRE | GatewayStep.INQUIRE_REFUND:
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


def refund_at_work(payment: Payment) -> PaymentRefund:
    """The refund that the payment's status is about. Raises AssertionError if there is none."""
    refund = refunds.at_work(payment.refunds)
    assert refund is not None, f"no refund is at work while {payment.status}"  # noqa: S101
    return refund


def on_answer(payment: Payment, step: GatewayStep, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """The effect of the gateway's answer to `step` on a payment that is not settled. Raises AssertionError if it is no answer to the step.

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
        case GatewayStep.FIND:
            return _after_finding(payment, answer, policy)
        case GatewayStep.TOKENISE | GatewayStep.PREPARE:
            return _after_preparing(payment, step, answer, policy)
        case GatewayStep.EXECUTE | GatewayStep.INQUIRE | GatewayStep.CANCEL:
            return _after_charging(payment, step, answer, policy)
        case GatewayStep.REFUND | GatewayStep.INQUIRE_REFUND:
            return _after_refunding(payment, step, answer, policy)
        case _:
            assert_never(step)


def on_due(payment: Payment) -> PaymentTransition:
    """The effect of a due time on a payment without a next step: its next refund begins."""
    following = refunds.waiting(payment.refunds) if _begins_next(payment) else None
    if following is None:
        return PaymentTransition(payment)
    return PaymentTransition(begin_refund(payment, following), then=GatewayStep.INQUIRE_REFUND)


def on_late_answer(
    payment: Payment, answer: GatewayAnswer | None, policy: Policy, *, asked: Payment
) -> PaymentTransition | None:
    """The effect of an answer that came after another instance changed the payment. Only a capture or a refund has one.

    `asked` is the payment as it was when the gateway was asked. Returns None if the payment shows the answer already, or if the present
    holder of the row has to ask for itself.
    """
    match answer:
        case port.Captured() if payment.reason == OutcomeReason.UNKNOWN_HERE:
            return None
        case port.Captured() if payment.status not in CHARGED and difference_of(answer, payment) is None:
            return captured(payment, answer, policy)
        case port.Refunded() if (now := refunds.at_work(payment.refunds)) is not None:
            before = refunds.at_work(asked.refunds)
            is_same = before is not None and before.refund_id == now.refund_id
            return _refunded(payment, answer, policy) if is_same else None
        case _:
            return None


# -- preparing: without a recorded gateway id, nothing is confirmed -------------------------------------------------------------------


def _after_preparing(payment: Payment, step: GatewayStep, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    match answer:
        case port.Tokenised(method_token=token):
            return PaymentTransition(replace(payment, method_token=token, card_jwe=None), then=GatewayStep.PREPARE)
        case port.Prepared(gateway_id=gateway_id):
            prepared = move(payment, PaymentStatus.PREPARED, gateway_id=gateway_id, key_number=1)
            return PaymentTransition(prepared, then=GatewayStep.EXECUTE)
        case port.Refused(code=code, advice=advice):
            return _not_charged(payment, code_of(code), _advice_of(advice))
        case port.Unknown(key_taken=True):
            # What took the key may have been charged since. So it is looked for, once the index that is searched has it. No further key is
            # used: the gateway would not know it, and would begin the payment once more.
            return _needs_decision(replace(payment, card_jwe=None), OutcomeReason.NO_READABLE_ANSWER, policy)
        case port.NotSent() | port.Unknown():
            return _later(_with_fresh_key(payment, step, answer), answer, policy)
        case _:
            raise _unexpected(payment, answer)


# -- finding: what we may have forgotten -----------------------------------------------------------------------------------------------


def sought(payment: Payment) -> port.Sought:
    """What the gateway is asked to find."""
    return port.Sought(payment.payment_id, payment.amount_minor, payment.currency, payment.details.customer)


def _after_finding(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    is_new = payment.status is PaymentStatus.REQUESTED
    match answer:
        case port.Found(gateway_id=gateway_id):
            return PaymentTransition(adopted(payment, gateway_id), then=GatewayStep.INQUIRE)
        case port.NotFound() if is_new:
            return PaymentTransition(payment, then=next_step(payment))
        case port.NotFound():  # nobody expects a charge hours after a person was asked to decide
            return _not_charged(payment, OutcomeReason.GATEWAY_UNAVAILABLE)
        case port.Refused(code=code):
            return _not_charged(payment, code_of(code))
        case port.NotSent() | port.Unknown() if is_new and payment.rung >= len(policy.ladder_s):
            # It may have been charged before we forgot it, so not even the end of the ladder can say that it was not.
            return _needs_decision(replace(payment, card_jwe=None), OutcomeReason.NO_READABLE_ANSWER, policy)
        case port.NotSent() | port.Unknown():
            return _later(payment, answer, policy)
        case _:
            raise _unexpected(payment, answer)


def adopted(payment: Payment, gateway_id: str) -> Payment:
    """The payment with the id under which the gateway has it. What became of it there is asked next."""
    if payment.status is not PaymentStatus.REQUESTED:
        return replace(payment, gateway_id=gateway_id)
    return move(payment, PaymentStatus.PREPARED, gateway_id=gateway_id, key_number=1, card_jwe=None)


# -- charging --------------------------------------------------------------------------------------------------------------------------


def _after_charging(payment: Payment, step: GatewayStep, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    match answer:
        case port.Captured():
            return _after_capture(payment, answer, policy)
        case _ if payment.settled_as in TOLD_AS_CHARGED and isinstance(answer, NOT_PAID):
            return contradicted(
                payment, OutcomeReason.NOT_CAPTURED, answer, policy
            )  # the invoice is paid: a person decides
        case port.Cancelled():
            return _cancelled(payment, policy)
        case _ if step is GatewayStep.CANCEL:
            return _later(_with_fresh_key(payment, step, answer), answer, policy)
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
            return _doubt(_with_fresh_key(payment, step, answer), answer, policy)
        case _:
            raise _unexpected(payment, answer)


def _after_capture(payment: Payment, answer: port.Captured, policy: Policy) -> PaymentTransition:
    if payment.reason == OutcomeReason.UNKNOWN_HERE:
        return contradicted(payment, OutcomeReason.UNKNOWN_HERE, answer, policy)  # what it is, only a person can say
    difference = difference_of(answer, payment)
    is_ours = payment.settled_as is PaymentStatus.CAPTURED and difference is not OutcomeReason.CAPTURE_DIFFERS
    if is_ours and (found := forgotten_refund(payment, answer)) is not None:
        return recovered(payment, answer, found)
    if difference is not None:
        return contradicted(payment, difference, answer, policy)
    if payment.settled_as is PaymentStatus.REFUNDED:
        return PaymentTransition(
            stays_refunded(payment), Outcome.REFUNDED, delay_s=0.0
        )  # the refunds are asked for next
    return captured(payment, answer, policy)


def stays_refunded(payment: Payment, *, decided_by: str | None = None) -> Payment:
    """The payment that was given back, after its charge was disputed all the same, or a part came back. Its newest refund is told again."""
    newest = max(refunds.made(payment.refunds), key=lambda refund: refund.version)
    told_again = replace(newest, version=payment.next_version, decided_by=decided_by or newest.decided_by)
    after = refunds.changed(payment.refunds, told_again)
    return move(payment, PaymentStatus.REFUNDED, refunds=after, decided_by=decided_by)


def difference_of(answer: port.Captured, payment: Payment) -> OutcomeReason | None:
    """Why this capture is not the one we asked for, or not ours but for what we gave back ourselves, or None if it is.

    A payment that was closed before its request came never asked for any.
    """
    if payment.amount_minor is None:
        return OutcomeReason.UNKNOWN_HERE
    captured = (answer.gateway_id, answer.amount_minor, answer.currency.upper())
    if captured != (payment.gateway_id, payment.amount_minor, payment.currency):
        return OutcomeReason.CAPTURE_DIFFERS
    if _unknown_minor(payment, answer) > 0:
        return OutcomeReason.DISPUTED if answer.lost_minor else OutcomeReason.REFUNDED_AT_GATEWAY
    if answer.is_contested:
        return OutcomeReason.DISPUTED
    return OutcomeReason.NOT_REFUNDED if is_short(payment, answer) else None


def is_short(payment: Payment, answer: port.Captured) -> bool:
    """Whether less has gone back at the gateway than all that had to: a part that others gave back came back to us, say."""
    is_over = payment.status is PaymentStatus.REFUNDED
    was_over = payment.status is PaymentStatus.NEEDS_DECISION and payment.settled_as is PaymentStatus.REFUNDED
    left_minor = answer.amount_minor - answer.gone_minor
    return (is_over or was_over) and left_minor > refunds.elsewhere_minor(payment.refunds)


def _unknown_minor(payment: Payment, answer: port.Captured) -> int:
    """How much more is gone at the gateway than by the refunds that we know of there."""
    return answer.gone_minor - refunds.refunded_there_minor(payment.refunds) - _unbooked_minor(payment, answer)


def found_there(payment: Payment, answer: port.Captured) -> Payment | None:
    """The payment, if what else is gone at the gateway is just a refund that a person called made. None if it is not."""
    found = refunds.found_there(payment.refunds, _unknown_minor(payment, answer))
    return None if answer.lost_minor or found is payment.refunds else replace(payment, refunds=found)


def captured(payment: Payment, answer: port.Captured, policy: Policy) -> PaymentTransition:
    """Record a capture. If it had another final outcome before, it is announced again and again until it is given back."""
    receipt = _printable(answer.receipt_number, RECEIPT_LENGTH_MAX)
    if not receipt or has_card_data(receipt):
        receipt = answer.gateway_id  # every receiver would refuse an event that shows a card number
    side = payment.gateway_side and side_of(answer)
    after = replace(move(payment, PaymentStatus.CAPTURED, receipt_number=receipt), gateway_side=side)
    if is_late(after):
        # The saga has ended and never asks. If the first announcement is lost, only a reminder tells it.
        return PaymentTransition(after, Outcome.CAPTURED_LATE, delay_s=policy.remind_s)
    look_s = 0.0 if forgotten_refund(after, answer) else next_look_s(after, policy)
    return PaymentTransition(after, Outcome.CAPTURED, delay_s=look_s)


def contradicted(payment: Payment, reason: str, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """A person decides, because the gateway says something else than we asked for or had settled. What it says anew is a new version."""
    side = side_of(answer)
    if payment.status is PaymentStatus.NEEDS_DECISION and payment.gateway_side == side:
        return _remind(payment, policy)
    if payment.amount_minor is None and side.captured_minor is not None:
        payment = replace(payment, amount_minor=side.captured_minor, currency=side.currency)
    waiting = replace(move(payment, PaymentStatus.NEEDS_DECISION, reason=reason), gateway_side=side)
    return PaymentTransition(waiting, Outcome.NEEDS_DECISION, delay_s=policy.remind_s)


def _cancelled(payment: Payment, policy: Policy) -> PaymentTransition:
    """Record the pending outcome. It may be recorded only now, when no confirm can charge the payment any more."""
    pending = payment.pending or PendingOutcome(PaymentStatus.NOT_CHARGED, OutcomeReason.CANCELLED_AT_GATEWAY)
    ended = move(payment, pending.status, reason=pending.reason, advice=pending.advice)
    outcome = Outcome.DECLINED if ended.status is PaymentStatus.DECLINED else Outcome.NOT_CHARGED
    return PaymentTransition(ended, outcome, delay_s=next_look_s(ended, policy))


def _cancel(payment: Payment, pending: PendingOutcome) -> PaymentTransition:
    return PaymentTransition(move(payment, PaymentStatus.CANCELLING, pending=pending), then=GatewayStep.CANCEL)


def _execute_again(payment: Payment) -> PaymentTransition:
    """Confirm a payment that the gateway reports as unconfirmed.

    It was never confirmed, or a confirm is still on its way. To confirm the same gateway id again charges only once.
    """
    match payment.status:
        case PaymentStatus.PREPARED:
            return PaymentTransition(payment, then=GatewayStep.EXECUTE)
        case PaymentStatus.IN_DOUBT if payment.key_number <= EXECUTIONS_MAX:
            return PaymentTransition(payment, then=GatewayStep.EXECUTE)
        case _:  # also after a person was asked to decide, because nobody expects a charge hours later
            unconfirmed = PendingOutcome(PaymentStatus.NOT_CHARGED, OutcomeReason.NOT_CONFIRMED)
            return _cancel(payment, payment.pending or unconfirmed)


def _doubt(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    if payment.status is not PaymentStatus.PREPARED or isinstance(answer, port.NotSent):
        return _later(payment, answer, policy)
    in_doubt = move(payment, PaymentStatus.IN_DOUBT, reason=_why_in_doubt(answer))
    return _begin_ladder(in_doubt, Outcome.IN_DOUBT, policy)


def _not_charged(payment: Payment, reason: str, advice: str | None = None) -> PaymentTransition:
    ended = move(payment, PaymentStatus.NOT_CHARGED, reason=reason, advice=advice, card_jwe=None)
    return PaymentTransition(ended, Outcome.NOT_CHARGED)


def _needs_decision(payment: Payment, reason: str, policy: Policy) -> PaymentTransition:
    waiting = move(payment, PaymentStatus.NEEDS_DECISION, reason=reason)
    return PaymentTransition(waiting, Outcome.NEEDS_DECISION, delay_s=policy.remind_s)


# -- refunding -------------------------------------------------------------------------------------------------------------------------


def _after_refunding(payment: Payment, step: GatewayStep, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    refund = refund_at_work(payment)
    match answer:
        case port.Refunded():
            return _refunded(payment, answer, policy)
        case port.NoRefund() if step is GatewayStep.INQUIRE_REFUND:
            return _not_made(payment, answer, policy)
        case port.RefundFailed() if step is GatewayStep.INQUIRE_REFUND and refund.gateway_id == answer.refund_id:
            return _not_made(payment, answer, policy)  # that try is known, and there was no other
        case port.RefundFailed():
            # The gateway has finished with this key. It would give the same answer under it again.
            tried = replace(refund, gateway_id=answer.refund_id, key_number=refund.key_number + 1)
            return _try_failed(_with_refund(payment, tried), answer, policy)
        case port.Unknown(key_spent=True) | port.Unknown(key_taken=True) if step is GatewayStep.REFUND:
            fresh = replace(refund, key_number=refund.key_number + 1)
            return _refund_in_doubt(_with_refund(payment, fresh), answer, policy)
        case port.RefundPending() | port.NotFound() | port.Unknown():
            return _refund_in_doubt(payment, answer, policy)
        case port.NoRefund() | port.NotSent():
            return _later(payment, answer, policy)
        case _:
            raise _unexpected(payment, answer)


def begin_refund(payment: Payment, refund: PaymentRefund) -> Payment:
    """The payment with this refund at work."""
    return move(put_to_work(payment, refund), PaymentStatus.REFUNDING)


def put_to_work(payment: Payment, refund: PaymentRefund) -> Payment:
    """The payment, in the status it has, with this refund at work. It may have ended before."""
    begun = replace(refund, status=PaymentRefundStatus.AT_WORK, decided_by=None, made_elsewhere=False)
    return _with_refund(payment, begun)


def _not_made(payment: Payment, answer: port.NoRefund | port.RefundFailed, policy: Policy) -> PaymentTransition:
    """The gateway's list shows that the refund was not made: make it, of no more than is left."""
    if payment.status is PaymentStatus.REFUND_FAILED:
        return _remind(replace(payment, gateway_side=side_of(answer)), policy)
    if (found := forgotten_refund(payment, answer)) is not None:
        return recovered(payment, answer, found)
    if payment.status is PaymentStatus.REFUND_IN_DOUBT and payment.rung >= len(policy.ladder_s):
        # There is no doubt any more: nothing that was sent is still on its way. A person can have it made again.
        reason = code_of(answer.code) if isinstance(answer, port.RefundFailed) else OutcomeReason.GATEWAY_UNAVAILABLE
        return _refund_failed(payment, reason, policy, side_of(answer))
    if answer.left_minor is None:
        return _refund_failed(payment, OutcomeReason.NOTHING_LEFT, policy, side_of(answer))
    return _make(payment, answer, answer.left_minor, policy)


def _make(
    payment: Payment, answer: port.NoRefund | port.RefundFailed, left_minor: int, policy: Policy
) -> PaymentTransition:
    captured = captured_minor(payment)
    gone_minor = captured - left_minor - _unbooked_minor(payment, answer)
    unknown_minor = gone_minor - refunds.made_there_minor(payment.refunds)
    payment = replace(payment, refunds=refunds.found_there(payment.refunds, unknown_minor))
    before = refund_at_work(payment)
    by_hand_minor = max(gone_minor - refunds.made_there_minor(payment.refunds), 0)
    refund, room_minor = refunds.measured(before, payment.refunds, captured, left_minor, by_hand_minor)
    if before.takes_rest and room_minor == 0:
        return _given_back_by_hand(payment, side_of(answer), policy)
    if told_minor := _untold_minor(payment, by_hand_minor):
        return _tell_given_back_by_hand(payment, told_minor)
    if refund.amount_minor is None or refund.amount_minor > room_minor:
        return _refund_failed(_with_refund(payment, refund), OutcomeReason.REFUND_TOO_LARGE, policy, side_of(answer))
    if before.amount_minor not in {None, refund.amount_minor}:
        refund = replace(refund, key_number=before.key_number + 1)  # a key always comes with the same parameters
    return PaymentTransition(_with_refund(payment, refund), then=GatewayStep.REFUND)


def _untold_minor(payment: Payment, by_hand_minor: int) -> int:
    """What others gave back at the gateway, as far as the invoice has to hear of it: not where it never took the money."""
    if refunds.find(payment.refunds, payment.payment_id) is not None:
        return 0
    return refunds.capped(by_hand_minor, payment.refunds, captured_minor(payment))


def _tell_given_back_by_hand(payment: Payment, minor: int) -> PaymentTransition:
    """Others gave a part back at the gateway, and the invoice does not know: it is told like a refund that was made. Then ours goes on.

    The list has shown that ours was not made, so it is not in doubt: if it comes to be again, that is said anew.
    """
    after = replace(move(payment, PaymentStatus.REFUNDING), rung=payment.rung)
    told_as = refunds.PaymentRefund(
        by_hand_id(payment),
        WENT_BACK,
        asked_minor=minor,
        status=PaymentRefundStatus.REFUNDED,
        amount_minor=minor,
        version=after.version,
    )
    after = replace(after, refunds=refunds.told_by_hand(payment.refunds, told_as))
    return PaymentTransition(after, Outcome.REFUNDED, then=GatewayStep.INQUIRE_REFUND)


def by_hand_id(payment: Payment) -> UUID:
    """The id of the next refund that others made. It has their number: if we forget it, it is told under the same id again."""
    number = 1 + sum(refund.reason == WENT_BACK for refund in payment.refunds)
    taken = {refund.refund_id for refund in payment.refunds}  # others can write any id of ours into their texts
    ids = (uuid5(payment.payment_id, f"given back there:{higher}") for higher in itertools.count(number))
    return next(id_ for id_ in ids if id_ not in taken)


TellsOfRefunds = port.Captured | port.NoRefund | port.RefundFailed
"""Answers that tell of all refunds of the payment."""


def _forgotten(payment: Payment, answer: TellsOfRefunds) -> refunds.Forgotten:
    """What we forgot. The refunds of a late capture are the saga's, and the invoice does not hear of them."""
    if not answer.standing or is_late(payment):
        return {}
    return refunds.forgotten(payment.refunds, answer.standing, payment.payment_id, captured_minor(payment))


def came_back(payment: Payment, answer: TellsOfRefunds) -> Refunds:
    """The refunds that were made, and stand at the gateway no more, as far as it tells."""
    return () if answer.standing is None else refunds.came_back(payment.refunds, answer.standing)


def _unbooked_minor(payment: Payment, answer: TellsOfRefunds) -> int:
    """How much more the gateway gave back by refunds of ours than our books say: what we forgot, without what came back."""
    back_minor = refunds.made_there_minor(came_back(payment, answer))
    return sum(refund.amount_minor for refund in _forgotten(payment, answer).values()) - back_minor


def forgotten_refund(payment: Payment, answer: TellsOfRefunds) -> UUID | None:
    """Our id of a refund that the gateway made, and that our books lack, or None. One that is pending is still asked for by its saga."""
    found = _forgotten(payment, answer).items()
    return next((refund_id for refund_id, refund in found if not refund.is_pending), None)


def recovered(payment: Payment, answer: TellsOfRefunds, refund_id: UUID) -> PaymentTransition:
    """The payment with a refund that we had forgotten, under its own id: so whoever knows of it books nothing twice. Then work goes on."""
    known, found = refunds.find(payment.refunds, refund_id), _forgotten(payment, answer)[refund_id]
    lost = known or refunds.PaymentRefund(refund_id, refunds.FORGOTTEN, asked_minor=found.amount_minor)
    made = replace(
        lost,
        status=PaymentRefundStatus.REFUNDED,
        amount_minor=found.amount_minor,
        version=payment.next_version,
        gateway_id=found.gateway_id,
        decided_by=None,
    )
    after = refunds.changed(payment.refunds, made)
    is_busy = refunds.at_work(after) is not None
    status = PaymentStatus.REFUNDING if is_busy else _status_after(payment, after)
    moved = replace(move(payment, status, refunds=after), rung=payment.rung if is_busy else 0)
    return PaymentTransition(moved, Outcome.REFUNDED, delay_s=0.0)


def _given_back_by_hand(payment: Payment, side: GatewaySide, policy: Policy) -> PaymentTransition:
    """The refund of the rest finds nothing left. If somebody gave it back at the gateway, that is this refund."""
    if _status_after(payment, payment.refunds) is PaymentStatus.REFUNDED:
        return _refund_failed(payment, OutcomeReason.NOTHING_LEFT, policy, side)
    rest = replace(refund_at_work(payment), amount_minor=None)
    return _refunded(_with_refund(payment, rest), None, policy)


def _refunded(payment: Payment, answer: port.Refunded | None, policy: Policy) -> PaymentTransition:
    """Record that the refund at work was made: by others, if there is no answer about it. The gateway knows best how much it gave back."""
    shown = _printable(answer.refund_id if answer else "", RECEIPT_LENGTH_MAX)
    gateway_id = None if has_card_data(shown) else shown or None
    made = refund_made(payment, gateway_id=gateway_id, amount_minor=answer.amount_minor if answer else None)
    return PaymentTransition(made, Outcome.REFUNDED, delay_s=next_look_s(made, policy))


def refund_made(
    payment: Payment,
    *,
    gateway_id: str | None = None,
    amount_minor: int | None = None,
    decided_by: str | None = None,
    elsewhere: bool = False,
) -> Payment:
    """The payment after its refund at work was made. If something is left it is captured again, and its next refund begins.

    `amount_minor` is what the gateway says that it gave back. `elsewhere`: the person who decided so knew that the gateway made no refund.
    """
    refund, version = refund_at_work(payment), payment.next_version
    ended = replace(
        refund,
        status=PaymentRefundStatus.REFUNDED,
        amount_minor=amount_minor or amount_of(payment, refund),
        version=version,
        gateway_id=gateway_id or refund.gateway_id,
        decided_by=decided_by,
        made_elsewhere=elsewhere,
    )
    after = refunds.changed(payment.refunds, ended)
    # The rest is all there is, even if `captured_minor` is not what the gateway captured: what it showed of that may be gone by now.
    is_rest = ended.takes_rest and (ended.amount_minor or 0) >= amount_of(payment, refund)
    status = PaymentStatus.REFUNDED if is_rest else _status_after(payment, after)
    return move(payment, status, refund_id=gateway_id, refunds=after, decided_by=decided_by)


def _status_after(payment: Payment, after: Refunds) -> PaymentStatus:
    is_whole = refunds.refunded_minor(after) >= captured_minor(payment)
    return PaymentStatus.REFUNDED if is_whole else PaymentStatus.CAPTURED


def refund_kept(payment: Payment, *, decided_by: str) -> Payment:
    """A person decided that the money of the refund at work stays. If the invoice took the money, the payment is captured again."""
    refund, version = refund_at_work(payment), payment.next_version
    kept = replace(refund, status=PaymentRefundStatus.KEPT, version=version, decided_by=decided_by)
    after, is_of_saga = refunds.changed(payment.refunds, kept), refund.refund_id == payment.payment_id
    status = PaymentStatus.REFUND_FAILED if is_of_saga else _status_after(payment, after)
    return move(payment, status, reason=OutcomeReason.DECIDED, decided_by=decided_by, refunds=after)


def refunds_asked_about(payment: Payment) -> tuple[UUID, ...]:
    """Our ids of the refunds that an inquiry is about: the one at work, else those that were made there; or the one whose money stays.

    If none was made it is the newest: the gateway cannot be asked about nothing.
    """
    if (refund := refunds.at_work(payment.refunds)) is not None:
        return (refund.refund_id,)
    if payment.status is PaymentStatus.REFUND_FAILED:
        return (payment.payment_id,)
    return tuple(one.refund_id for one in refunds.made_there(payment.refunds) or payment.refunds[-1:])


def refund_failed_late(
    payment: Payment, answer: port.RefundFailed | port.NoRefund, policy: Policy
) -> PaymentTransition:
    """A refund that was made turned out to have failed: the bank sent the money back. It is a case, and can be made again."""
    code = code_of(answer.code) if isinstance(answer, port.RefundFailed) else OutcomeReason.NOT_REFUNDED
    return _refund_failed(reopen_refund(payment, answer.about, new_key=True), code, policy, side_of(answer))


def refunded_after_all(
    payment: Payment, answer: port.Refunded | port.RefundFailed | port.NoRefund, policy: Policy
) -> PaymentTransition:
    """A person let the money of a refund stay, and the gateway gave it back."""
    made = answer if isinstance(answer, port.Refunded) else None
    return _refunded(reopen_refund(payment, payment.payment_id, new_key=False), made, policy)


def reopen_refund(payment: Payment, refund_id: UUID | None, *, new_key: bool) -> Payment:
    """The payment with a refund that had ended at work again: that of this id, or the newest. `new_key`: the gateway has made it before."""
    ended = refunds.find(payment.refunds, refund_id or refunds_asked_about(payment)[-1])
    assert ended is not None, f"no refund has ended while {payment.status}"  # noqa: S101
    return put_to_work(payment, replace(ended, key_number=ended.key_number + int(new_key)))


def _begins_next(payment: Payment) -> bool:
    """Whether a refund waits, and none is at work before it."""
    is_free = payment.status in CHARGED and refunds.at_work(payment.refunds) is None
    return is_free and refunds.waiting(payment.refunds) is not None


def amount_of(payment: Payment, refund: PaymentRefund) -> int:
    """The amount of the refund. One of the rest is of no more than our books leave; all of that, if the gateway never said what is left."""
    captured = captured_minor(payment)
    if refund.asked_minor is not None:
        return refund.asked_minor
    if refund.amount_minor is None:
        return captured - refunds.refunded_minor(payment.refunds)
    return refunds.capped(refund.amount_minor, payment.refunds, captured)


def captured_minor(payment: Payment) -> int:
    """What was captured: what the gateway said, if it contradicted us and the currency is ours, else the amount of the payment.

    A payment that was closed before its request came has no amount, and nothing that we could give back.
    """
    side = payment.gateway_side
    if side is not None and side.captured_minor is not None and side.currency == payment.currency:
        return side.captured_minor
    return payment.amount_minor or 0


def given_back_by_hand_minor(payment: Payment) -> int:
    """What others gave back at the gateway, or disputes took, as it showed when it contradicted us. 0 if it showed nothing of that."""
    side = payment.gateway_side
    if side is None or side.refunded_minor is None or side.currency != payment.currency:
        return 0
    return max(side.refunded_minor + side.lost_minor - refunds.refunded_there_minor(payment.refunds), 0)


def _with_refund(payment: Payment, refund: PaymentRefund) -> Payment:
    return replace(payment, refunds=refunds.changed(payment.refunds, refund))


def told(payment: Payment) -> Payment:
    """The payment whose newest outcome is about the refund at work."""
    return _with_refund(payment, replace(refund_at_work(payment), version=payment.version))


def _try_failed(payment: Payment, answer: port.RefundFailed, policy: Policy) -> PaymentTransition:
    """The gateway refused the refund, or it failed there. What our balance cannot pay now is tried again on the ladder."""
    if payment.status is PaymentStatus.REFUND_FAILED:
        return _remind(replace(payment, gateway_side=side_of(answer)), policy)
    may_change = answer.code in LACK_OF_BALANCE or _was_outrun(payment, answer)
    if may_change and payment.rung < len(policy.ladder_s):
        return _later(payment, answer, policy)
    return _refund_failed(payment, code_of(answer.code), policy, side_of(answer))


def _was_outrun(payment: Payment, answer: port.RefundFailed) -> bool:
    """Whether others gave something back between our last look and this request, so that less is left than we asked for.

    The next look measures the refund by what is left then.
    """
    asked_minor, left_minor = refund_at_work(payment).amount_minor, answer.left_minor
    if answer.refund_id is not None or asked_minor is None or left_minor is None:
        return False
    return left_minor < asked_minor


def _refund_in_doubt(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    if payment.status is not PaymentStatus.REFUNDING:
        return _later(payment, answer, policy)
    in_doubt = told(move(payment, PaymentStatus.REFUND_IN_DOUBT, reason=_why_in_doubt(answer)))
    return _begin_ladder(in_doubt, Outcome.REFUND_IN_DOUBT, policy)


def _refund_failed(payment: Payment, reason: str, policy: Policy, side: GatewaySide | None = None) -> PaymentTransition:
    """A person decides about a refund that the gateway did not make. `side` is what it says, if it says anything."""
    failed = replace(told(move(payment, PaymentStatus.REFUND_FAILED, reason=reason)), gateway_side=side)
    return PaymentTransition(failed, Outcome.REFUND_FAILED, delay_s=policy.remind_s)


# -- the ladder ------------------------------------------------------------------------------------------------------------------------


def _begin_ladder(payment: Payment, outcome: Outcome, policy: Policy) -> PaymentTransition:
    return PaymentTransition(replace(payment, rung=1), outcome, delay_s=policy.ladder_s[0])


def _later(payment: Payment, answer: GatewayAnswer, policy: Policy) -> PaymentTransition:
    """Try again on the next rung of the ladder. After the last rung, the ladder is exhausted."""
    if payment.status in {PaymentStatus.NEEDS_DECISION, PaymentStatus.REFUND_FAILED} or payment.rung >= len(
        policy.ladder_s
    ):
        return _exhausted(payment, answer, policy)
    return PaymentTransition(replace(payment, rung=payment.rung + 1), delay_s=policy.ladder_s[payment.rung])


def _with_fresh_key(payment: Payment, step: GatewayStep, answer: GatewayAnswer) -> Payment:
    """The payment with the next idempotency key, if this answer used the key of this step up.

    The gateway saves an answer under the key, and then replays it for ever: a failure, or a refusal ("it is processing") that is no longer
    true. A confirm and a cancel are about a payment that exists, and charge once at most under any key. So they get a new one after every
    answer, and that also counts the confirms. What begins a payment keeps its key as long as it can give another answer (`first_step`).
    """
    match step:
        case GatewayStep.EXECUTE | GatewayStep.CANCEL:
            is_used_up = not isinstance(answer, port.NotSent)
        case GatewayStep.TOKENISE | GatewayStep.PREPARE:
            is_used_up = isinstance(answer, port.Unknown) and answer.key_spent
        case _:
            is_used_up = False
    return replace(payment, key_number=payment.key_number + 1) if is_used_up else payment


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


# -- settled payments ------------------------------------------------------------------------------------------------------------------

NOT_PAID = (port.Cancelled, port.Declined, port.Unconfirmed, port.ActionRequired)
"""Answers that say that nothing is captured."""


def is_settled(payment: Payment) -> bool:
    """Whether nothing is left to do about a payment but to watch whether the gateway goes on agreeing."""
    kept = payment.status is PaymentStatus.REFUND_FAILED and payment.decided_by is not None
    return payment.status in SETTLED or kept


def is_late(payment: Payment) -> bool:
    """Whether a capture came after another final outcome."""
    return payment.status is PaymentStatus.CAPTURED and payment.settled_as in FAILED


def side_of(answer: GatewayAnswer) -> GatewaySide:
    """The gateway's side, as its answer says it. A refund that failed says the same as none: the money was not given back.

    If nothing is left all the same, others gave it back.
    """
    if isinstance(answer, port.RefundFailed | port.NoRefund):
        return GatewaySide(GIVEN_BACK if answer.left_minor == 0 else NO_REFUND)
    if not isinstance(answer, port.Captured):
        return GatewaySide(answer_kind(answer))
    return GatewaySide(
        CAPTURED,
        _shown_amount(answer.amount_minor),
        _shown_amount(answer.refunded_minor),
        code_of(answer.currency.upper()),
        answer.disputed,
        _shown_dispute(answer.dispute),
        answer.lost_minor,
    )


def _shown_dispute(dispute: port.Dispute | None) -> port.Dispute | None:
    if dispute is None:
        return None
    amount_minor = None if dispute.amount_minor is None else _shown_amount(dispute.amount_minor)
    reason = code_of(dispute.reason) if dispute.reason else None
    currency = code_of(dispute.currency) if dispute.currency else None
    return replace(dispute, status=code_of(dispute.status), reason=reason, amount_minor=amount_minor, currency=currency)


def _shown_amount(amount_minor: int) -> int | None:
    return amount_minor if amount_minor <= port.AMOUNT_SHOWN_MAX else None


def next_look_s(payment: Payment, policy: Policy) -> float | None:
    """Seconds until the next look at a settled payment, or None if nobody looks at it by himself. `rung` counts the looks.

    A person's decision is looked at until the gateway agrees. From then on it is looked at like an outcome of the gateway. A refund that
    waits begins at once.
    """
    if _begins_next(payment):
        return 0.0
    if payment.decided_by and not _agreed(payment):
        rung = max(payment.rung - 1, 0)  # the first look is taken at once
        return policy.ladder_s[rung] if rung < len(policy.ladder_s) else policy.watch_s
    match payment.status:
        case PaymentStatus.CAPTURED | PaymentStatus.REFUNDED if refunds.refunded_there_minor(payment.refunds) > 0:
            looks_s = policy.refund_looks_s
        case PaymentStatus.CAPTURED:
            looks_s = policy.capture_looks_s
        case PaymentStatus.DECLINED | PaymentStatus.NOT_CHARGED if payment.gateway_id is not None:
            looks_s = policy.cancel_looks_s
        case _:
            looks_s = ()
    return looks_s[payment.rung] if payment.rung < len(looks_s) else None


CAPTURED, GIVEN_BACK, NO_REFUND, NOT_THERE = "captured", "refunded", "no_refund", "not_found"
"""The kinds of answers that show a capture, whatever is wrong with it, that money was given back, that it was not, and that the gateway has
no payment."""
_AGREEING: dict[PaymentStatus, frozenset[str]] = {
    PaymentStatus.CAPTURED: frozenset({CAPTURED}),
    PaymentStatus.NOT_CHARGED: frozenset({"cancelled", NOT_THERE}),
    PaymentStatus.REFUNDED: frozenset({GIVEN_BACK}),
    PaymentStatus.REFUND_FAILED: frozenset({NO_REFUND}),
}
"""What the gateway says if it agrees with a decision."""


def _agreed(payment: Payment) -> bool:
    side = payment.gateway_side
    if side is None or is_dispute_open(side):
        return False
    return side.answer in _AGREEING.get(payment.status, frozenset())


def is_dispute_open(side: GatewaySide | None) -> bool:
    """Whether the gateway's side shows a dispute that goes on, so that nobody can say yet whose the money will be."""
    return side is not None and side.dispute is not None and side.dispute.status in port.DISPUTE_OPEN


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
    because its cancel may still be confirmed. The outcome before is kept as `settled_as`.
    """
    return replace(
        payment,
        status=status,
        settled_as=payment.status if is_settled(payment) else payment.settled_as,
        version=payment.next_version,
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
    kind, code = answer_kind(answer), getattr(answer, "code", None)
    return code_of(f"{kind}:{code}") if code else kind


def answer_kind(answer: GatewayAnswer) -> str:
    """The kind of the answer, such as `refund_failed`."""
    return _in_small_letters(type(answer).__name__)


@cache
def _in_small_letters(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def code_of(text: str) -> str:
    """Any text as a reason code that the contracts allow, so that no text of a gateway can prevent a record.

    A text with card data in it is replaced whole, before anything is cut off.
    """
    if has_card_data(text):
        return MASKED_CODE
    return re.sub(r"[^A-Za-z0-9_.:-]", "_", text)[:CODE_LENGTH_MAX] or "unspecified"


def _advice_of(text: str | None) -> str | None:
    return code_of(text) if text else None


def _printable(text: str, length_max: int) -> str:
    return re.sub(r"[^\x20-\x7e]", "", text).strip()[:length_max]


def _unexpected(payment: Payment, answer: GatewayAnswer) -> AssertionError:
    return AssertionError(f"{type(answer).__name__} is no answer to any step while {payment.status}")
