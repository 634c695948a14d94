"""Refund: what is left of a captured payment goes back, or a part of it, one refund after the other.

If nothing was captured, the current outcome is published again.
"""

from uuid import UUID

import pytest

from services.payment_gateway import afterwards, domain
from services.payment_gateway.commands import NeverSeen, Refund, RefundIdReusedError, Resolve
from services.payment_gateway.domain import CHARGED, GatewayStep, Payment, PaymentStatus, PaymentTransition, Resolution
from services.payment_gateway.refunds import PaymentRefund, PaymentRefundStatus
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.payment_gateway.payments import (
    DISPUTED,
    ID,
    POLICY,
    CommandScenario,
    becomes,
    decided,
    on_known,
    payment,
    stays,
)

PART = UUID("018f3c5e-0000-7000-8000-0000000000a1")
WHOLE = Refund(ID, "INV-1", ID, "void")
OF_A_PART = Refund(ID, "INV-1", PART, "damaged", amount_minor=250, currency="EUR")
CAPTURED = payment(PaymentStatus.CAPTURED)
TOLD_AGAIN = stays(republish=True)
CLOSED = Payment(ID, "INV-1", PaymentStatus.NOT_CHARGED, reason="decided_by_person")
BEGUN = PaymentRefund(PART, "damaged", asked_minor=250, status=PaymentRefundStatus.AT_WORK)
WAITING = replace(BEGUN, status=PaymentRefundStatus.WAITING)


def begins(status: PaymentStatus) -> CommandScenario:
    before = payment(status, decided_by="ann" if status is PaymentStatus.REFUND_FAILED else None)
    after = becomes(PaymentStatus.REFUNDING, delay_s=0.0, refunds=(*before.refunds, BEGUN))
    return Scenario(before, OF_A_PART, after(before))


def waits(status: PaymentStatus) -> CommandScenario:
    before = payment(status)
    return Scenario(before, OF_A_PART, stays(0.0, refunds=(*before.refunds, WAITING))(before))


AT_REST = (PaymentStatus.CAPTURED, PaymentStatus.REFUND_FAILED, PaymentStatus.REFUNDED)
AT_WORK = (PaymentStatus.REFUNDING, PaymentStatus.REFUND_IN_DOUBT, PaymentStatus.REFUND_FAILED)

SCENARIOS: dict[str, CommandScenario] = {
    "a captured payment is refunded at once": Scenario(
        CAPTURED,
        WHOLE,
        becomes(
            PaymentStatus.REFUNDING,
            delay_s=0.0,
            refunds=(PaymentRefund(ID, "void", status=PaymentRefundStatus.AT_WORK),),
        )(CAPTURED),
    ),
    "about a payment never seen nothing is said": Scenario(None, WHOLE, NeverSeen()),
    "of a payment that a person closed before its request, nothing is known, not even the currency": Scenario(
        CLOSED, OF_A_PART, TOLD_AGAIN(CLOSED)
    ),
    **{f"{status}: a part begins": begins(status) for status in AT_REST},
    **{f"{status}: a part waits for the refund at work": waits(status) for status in AT_WORK},
    **{
        f"{status}: told again, nothing changes": Scenario(payment(status), WHOLE, TOLD_AGAIN(payment(status)))
        for status in PaymentStatus
        if status not in CHARGED
    },
    **{
        f"{status}: the refund is known, its outcome is told again": Scenario(
            payment(status),
            WHOLE,
            PaymentTransition(
                payment(status), republish=True, about_version=None if status is PaymentStatus.REFUNDING else 3
            ),
        )
        for status in sorted(CHARGED - {PaymentStatus.CAPTURED})
    },
}


@pytest.mark.parametrize("decided_as", ["captured", "give_back"])
@pytest.mark.parametrize("asked", [WHOLE, OF_A_PART], ids=["by the saga", "by the invoice"])
def test_a_refund_waits_while_a_person_decides_about_a_capture(asked: Refund, decided_as: Resolution) -> None:
    """It is kept at once: whoever asked need not ask again, and it begins with the decision."""
    disputed = afterwards.on_answer(CAPTURED, GatewayStep.INQUIRE, DISPUTED, POLICY).payment
    kept = on_known(disputed, asked)
    assert (kept.payment.status, kept.delay_s, kept.outcome) == (PaymentStatus.NEEDS_DECISION, 0.0, None)
    assert domain.next_step(kept.payment) is GatewayStep.INQUIRE, "the gateway is asked now"
    again = on_known(kept.payment, asked)
    assert (again.payment, again.republish) == (kept.payment, True)
    decided = on_known(
        kept.payment, Resolve(ID, "INV-1", decided_as, kept.payment.version, "ann", receipt_number="R-1")
    )
    begun = domain.on_due(decided.payment) if decided_as == "captured" else decided
    assert begun.payment.status is PaymentStatus.REFUNDING
    assert asked.refund_id in {refund.refund_id for refund in begun.payment.refunds}
    if asked is WHOLE:
        assert len(begun.payment.refunds) == 1, "whoever decides has the very refund made that the saga waits for"


@each(SCENARIOS)
def test_refund(scenario: CommandScenario) -> None:
    assert decided(scenario) == scenario.then


@pytest.mark.parametrize(
    "other",
    [replace(OF_A_PART, amount_minor=251), replace(OF_A_PART, amount_minor=None), replace(OF_A_PART, currency="USD")],
)
def test_the_same_id_with_another_amount_is_refused(other: Refund) -> None:
    begun = on_known(CAPTURED, OF_A_PART).payment
    assert on_known(begun, OF_A_PART).payment is begun
    with pytest.raises(RefundIdReusedError):
        on_known(begun, other)
