"""The payment of the specification: 12.50 EUR, at version 3; every answer of the gateway, and every change of the payment."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from services.payment_gateway import afterwards
from services.payment_gateway.commands import Command, NeverSeen, Request, on_command
from services.payment_gateway.domain import (
    CASES,
    CHARGED,
    GatewayAnswer,
    GatewaySide,
    GatewayStep,
    Outcome,
    Payment,
    PaymentStatus,
    PaymentTransition,
    PendingOutcome,
    Policy,
    is_settled,
)
from services.payment_gateway.gateways import port
from services.payment_gateway.refunds import PaymentRefund, PaymentRefundStatus, Refunds
from shared.records import replace
from tests.support.scenarios import Scenario

ID = UUID("018f3c5e-0000-7000-8000-000000000001")
FIRST_S, SECOND_S = 1.0, 5.0
REMIND_S = 3_600.0
POLICY = Policy(ladder_s=(FIRST_S, SECOND_S), remind_s=REMIND_S)
LAST = len(POLICY.ladder_s)
"""The rung of a payment that has used the whole ladder."""
ASKED_S = 3.0
"""How long the gateway asks us to wait."""

# -- answers of the gateway --------------------------------------------------------------------------------------------------------------

TOKENISED = port.Tokenised("pm_9", "")
PREPARED = port.Prepared("pi_1", "")
REFUSED = port.Refused("bad card", "", "do_not_try_again")
CAPTURED = port.Captured("pi_1", 1_250, "EUR", "ch_1", "succeeded")
DECLINED = port.Declined("insufficient_funds", "no money", "try_again_later")
UNCONFIRMED = port.Unconfirmed("requires_confirmation")
ACTION_REQUIRED = port.ActionRequired("requires_action")
PROCESSING = port.Processing("processing")
CANCELLED = port.Cancelled("canceled")
NOT_FOUND = port.NotFound("404")
NOT_SENT = port.NotSent("connection refused")
LIMITED = port.Limited("429", retry_after_s=ASKED_S)
UNKNOWN = port.Unknown("timeout")
REPLAYED = port.Unknown("HTTP 500 (replayed)", key_spent=True)
KEY_TAKEN = port.Unknown("HTTP 400 idempotency_error", key_taken=True)
FOUND = port.Found("pi_1", "succeeded")
MISCONFIGURED = port.Misconfigured("401", otherwise=NOT_SENT)
PARTLY_REFUNDED = replace(CAPTURED, refunded_minor=300)
ALL_REFUNDED = replace(CAPTURED, refunded_minor=1_250)
DISPUTED = replace(CAPTURED, disputed=True)
REFUNDED = port.Refunded("re_1", "succeeded")
REFUND_PENDING = port.RefundPending("re_1", "pending")
REFUND_FAILED = port.RefundFailed("expired_card", "failed", "re_1", left_minor=1_250)
NO_REFUND = port.NoRefund("none", left_minor=1_250)
OF_SOMETHING_ELSE = {
    "another amount": replace(CAPTURED, amount_minor=1),
    "another currency": replace(CAPTURED, currency="USD"),
    "another payment": replace(CAPTURED, gateway_id="pi_2"),
}
"""Captures that are not the one we ordered."""

# -- the payment -----------------------------------------------------------------------------------------------------------------------

DECLINE = PendingOutcome(PaymentStatus.DECLINED, "insufficient_funds", "try_again_later")
REQUEST = Request(ID, "INV-1", 1_250, "EUR", "pm_card_visa")
_WITHOUT_A_REASON = {PaymentStatus.REQUESTED, PaymentStatus.PREPARED, PaymentStatus.CAPTURED}


def payment(status: PaymentStatus, *, rung: int = 0, decided_by: str | None = None, key_number: int = 1) -> Payment:
    """A payment in this state, at version 3. A cancelling one was declined before."""
    return Payment(
        payment_id=ID,
        invoice_id="INV-1",
        status=status,
        version=3,
        amount_minor=1_250,
        currency="EUR",
        method_token="pm_card_visa",
        params_hash=REQUEST.params_hash,
        gateway_id=None if status is PaymentStatus.REQUESTED else "pi_1",
        pending=DECLINE if status is PaymentStatus.CANCELLING else None,
        reason=None if status in _WITHOUT_A_REASON else "reason",
        receipt_number="ch_1" if status in CHARGED else None,
        decided_by=decided_by,
        was_case=status in CASES,
        rung=rung,
        key_number=key_number,
        refunds=_refunds(status, decided_by),
    )


def _refunds(status: PaymentStatus, decided_by: str | None) -> Refunds:
    """The refund of the whole payment, if its status is about one."""
    whole = PaymentRefund(ID, "reason", status=PaymentRefundStatus.AT_WORK, version=3)
    match status:
        case PaymentStatus.REFUNDING:
            return (replace(whole, version=0),)
        case PaymentStatus.REFUND_FAILED if decided_by:
            return (replace(whole, status=PaymentRefundStatus.KEPT, decided_by=decided_by),)
        case PaymentStatus.REFUND_IN_DOUBT | PaymentStatus.REFUND_FAILED:
            return (whole,)
        case PaymentStatus.REFUNDED:
            return (replace(whole, status=PaymentRefundStatus.REFUNDED, amount_minor=1_250, gateway_id="re_1"),)
        case _:
            return ()


# -- changes of the payment --------------------------------------------------------------------------------------------------------------

Becomes = Callable[[Payment], PaymentTransition]


def stays(
    delay_s: float | None = None, *, then: GatewayStep | None = None, republish: bool = False, **changes: Any
) -> Becomes:
    """The version stays, so nothing new is published. `changes`: everything that differs in the payment."""
    return lambda before: PaymentTransition(_changed(before, changes), then=then, delay_s=delay_s, republish=republish)


def becomes(
    status: PaymentStatus,
    outcome: Outcome | None = None,
    delay_s: float | None = None,
    *,
    then: GatewayStep | None = None,
    **changes: Any,
) -> Becomes:
    """A new status: the next version, on the first rung, without the reason of the old status. `changes`: everything else that differs."""

    def follows(before: Payment) -> PaymentTransition:
        moved = replace(
            before,
            status=status,
            version=before.version + 1,
            rung=0,
            reason=None,
            advice=None,
            decided_by=None,
            pending=None,
            was_case=before.was_case or status in CASES,
            settled_as=before.status if is_settled(before) else before.settled_as,
        )
        return PaymentTransition(_changed(moved, changes), outcome, then, delay_s)

    return follows


def _changed(payment: Payment, changes: Mapping[str, Any]) -> Payment:
    return replace(payment, **changes)


WAITS_FOR_AN_OPERATOR = stays(0.0)
"""No rung and no key is spent: the row is due at once when the gateway takes the service again."""
WAITS = stays(FIRST_S, rung=1)
"""The payment moves to the next rung of the ladder."""
WAITS_AS_ASKED = stays(ASKED_S)
"""No rung and no key is spent: the gateway takes no requests at present, whatever they are about."""
REMINDS = stays(REMIND_S, republish=True)
"""It waits for a person: the last outcome is published again, and the gateway is asked again later."""
IS_CAPTURED = becomes(PaymentStatus.CAPTURED, Outcome.CAPTURED, receipt_number="ch_1")
IS_CAPTURED_LATE = becomes(PaymentStatus.CAPTURED, Outcome.CAPTURED_LATE, REMIND_S, receipt_number="ch_1")
IS_CANCELLED_THERE = becomes(PaymentStatus.NOT_CHARGED, Outcome.NOT_CHARGED, reason="cancelled_at_gateway")


def about_refund(follows: Becomes, **changes: Any) -> Becomes:
    """The change of a payment, with these changes of its first refund."""

    def also(before: Payment) -> PaymentTransition:
        after = follows(before)
        changed = (replace(before.refunds[0], **changes), *before.refunds[1:])
        return replace(after, payment=replace(after.payment, refunds=changed))

    return also


def is_refunded(
    refund_id: str | None = "re_1", delay_s: float | None = None, *, decided_by: str | None = None
) -> Becomes:
    return about_refund(
        becomes(PaymentStatus.REFUNDED, Outcome.REFUNDED, delay_s, refund_id=refund_id, decided_by=decided_by),
        status=PaymentRefundStatus.REFUNDED,
        amount_minor=1_250,
        version=4,
        gateway_id=refund_id,
        decided_by=decided_by,
    )


IS_REFUNDED = is_refunded()


def is_cancelled_as(status: PaymentStatus, reason: str, advice: str | None = None) -> Becomes:
    """The outcome stays pending until the gateway confirms the cancel."""
    verdict = PendingOutcome(status, reason, advice)  # type: ignore[arg-type] # a status narrowed by the one who calls
    return becomes(PaymentStatus.CANCELLING, then=GatewayStep.CANCEL, pending=verdict)


IS_DECLINED_AFTER_A_CANCEL = is_cancelled_as(PaymentStatus.DECLINED, "insufficient_funds", "try_again_later")
IS_DECLINED_FOR_WANT_OF_ACTION = is_cancelled_as(PaymentStatus.DECLINED, "authentication_required")
IS_REFUSED_AFTER_A_CANCEL = is_cancelled_as(PaymentStatus.NOT_CHARGED, "bad_card", "do_not_try_again")


def is_not_charged(reason: str, **changes: Any) -> Becomes:
    return becomes(PaymentStatus.NOT_CHARGED, Outcome.NOT_CHARGED, reason=reason, **changes)


def is_in_doubt(reason: str, **changes: Any) -> Becomes:
    return becomes(PaymentStatus.IN_DOUBT, Outcome.IN_DOUBT, FIRST_S, reason=reason, rung=1, **changes)


def needs_a_person(reason: str, **changes: Any) -> Becomes:
    return becomes(PaymentStatus.NEEDS_DECISION, Outcome.NEEDS_DECISION, REMIND_S, reason=reason, **changes)


def refund_is_in_doubt(reason: str) -> Becomes:
    in_doubt = becomes(PaymentStatus.REFUND_IN_DOUBT, Outcome.REFUND_IN_DOUBT, FIRST_S, reason=reason, rung=1)
    return about_refund(in_doubt, version=4)


NOT_REFUNDED_THERE = GatewaySide("no_refund")


def refund_fails(reason: str, *, side: GatewaySide | None = NOT_REFUNDED_THERE, **changes: Any) -> Becomes:
    """`side`: what the gateway said. `changes`: of the refund, besides the version of its outcome."""
    failed = becomes(PaymentStatus.REFUND_FAILED, Outcome.REFUND_FAILED, REMIND_S, reason=reason, gateway_side=side)
    return about_refund(failed, version=4, **changes)


IS_TRIED: dict[str, Any] = {"gateway_id": "re_1", "key_number": 2}
"""What a try that failed leaves of the refund: it is known by its id, and its key is spent."""
CAME_BACK: dict[str, Any] = {"status": PaymentRefundStatus.AT_WORK, "key_number": 2}
"""What a refund becomes that was made and came back: it can be made again, under another key."""


# -- the specification of one step -----------------------------------------------------------------------------------------------------

StepScenario = Scenario[Payment, GatewayAnswer, PaymentTransition]
StepTable = Mapping[Payment, Mapping[GatewayAnswer, Becomes]]


def scenarios_of(table: StepTable) -> dict[str, StepScenario]:
    """One scenario for each payment and answer, named after both. A gateway that takes no requests changes no payment, at no step."""
    of_every_step = {MISCONFIGURED: WAITS_FOR_AN_OPERATOR, LIMITED: WAITS_AS_ASKED}
    rows = {before: {**row, **of_every_step} for before, row in table.items()}
    named = {
        f"{_name(before)}: {_kind(answer)}": Scenario(before, answer, follows(before))
        for before, row in rows.items()
        for answer, follows in row.items()
    }
    assert len(named) == sum(map(len, rows.values())), "two scenarios have the same name"
    return named


def _kind(answer: GatewayAnswer) -> str:
    return "replayed" if answer == REPLAYED else type(answer).__name__


def _name(payment: Payment) -> str:
    words = [payment.status.replace("_", " ")]
    words += ["behind the last rung"] * (payment.rung == LAST)
    words += [f"under key {payment.key_number}"] * (payment.key_number > 1)
    words += [f"pending {payment.pending.status}"] if payment.pending else []
    words += (
        ["without a gateway id"] if payment.gateway_id is None and payment.status is not PaymentStatus.REQUESTED else []
    )
    words += ["decided by a person"] if payment.decided_by else []
    return ", ".join(words)


def follows(step: GatewayStep, scenario: StepScenario) -> PaymentTransition:
    return afterwards.on_answer(scenario.given, step, scenario.when, POLICY)


# -- the specification of one command --------------------------------------------------------------------------------------------------

CommandScenario = Scenario[Payment | None, Command, PaymentTransition | NeverSeen]


def decided(scenario: CommandScenario) -> PaymentTransition | NeverSeen:
    return on_command(scenario.given, scenario.when)


def on_known(payment: Payment | None, command: Command) -> PaymentTransition:
    """The effect of a command on a payment that is known, or begins with it."""
    transition = on_command(payment, command)
    assert isinstance(transition, PaymentTransition)
    return transition
