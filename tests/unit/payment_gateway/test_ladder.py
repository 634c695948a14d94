"""The ladder has an end, however often the saga asks. Both have their default settings, for thirty days of simulated time."""

from itertools import accumulate, chain, repeat, takewhile
from uuid import UUID

import pytest

from services.payment_gateway import domain
from services.payment_gateway.commands import Inquire
from services.payment_gateway.domain import (
    GatewayAnswer,
    GatewayStep,
    Outcome,
    Payment,
    PaymentStatus,
    PendingOutcome,
    Policy,
)
from services.payment_gateway.gateways import port
from services.payment_gateway.settings import LADDER_S, REMIND_S
from services.saga.settings import LADDER_S as REMINDERS_S
from tests.unit.payment_gateway.payments import on_known

ID = UUID("018f3c5e-0000-7000-8000-000000000001")
POLICY = Policy(LADDER_S, REMIND_S)
THIRTY_DAYS_S = 30 * 86_400.0
LADDER_LENGTH_S = sum(LADDER_S)

SILENT = port.Unknown("no answer")
PROCESSING = port.Processing("processing")
NOT_SENT = port.NotSent("503")


def inquiries_s() -> list[float]:
    """The times at which the saga asks: each default deadline once, then the last one for ever."""
    instants_s = accumulate(repeat(REMINDERS_S[-1]), initial=REMINDERS_S[-1])
    return list(takewhile(lambda at_s: at_s < THIRTY_DAYS_S, chain(REMINDERS_S[:-1], instants_s)))


def unsettled(status: PaymentStatus) -> Payment:
    return Payment(
        payment_id=ID,
        invoice_id="INV-1",
        status=status,
        amount_minor=1_250,
        currency="EUR",
        method_token="pm_card_visa",
        gateway_id=None if status is PaymentStatus.REQUESTED else "pi_1",
        pending=PendingOutcome(PaymentStatus.DECLINED, "insufficient_funds")
        if status is PaymentStatus.CANCELLING
        else None,
    )


def lived_through(payment: Payment, answer: GatewayAnswer) -> list[tuple[Outcome, float]]:
    """The outcomes and the times at which they are published, if every call gets this answer."""
    told: list[tuple[Outcome, float]] = []
    now_s, due_s, asked = 0.0, 0.0, inquiries_s()
    step: GatewayStep | None = None
    while now_s < THIRTY_DAYS_S:
        if step is None and asked and asked[0] < due_s:
            now_s = asked.pop(0)
            asking = on_known(payment, Inquire(ID, "INV-1"))
            payment, due_s = asking.payment, now_s if asking.hurry else due_s
            continue
        now_s = max(now_s, due_s)
        step = step or domain.next_step(payment)
        assert step is not None
        went = domain.on_answer(payment, step, answer, POLICY)
        payment, step = went.payment, went.then
        if went.outcome is not None:
            told.append((went.outcome, now_s))
        if step is None and went.delay_s is None:
            break
        due_s = now_s + (went.delay_s or 0.0)
    return told


@pytest.mark.parametrize(
    ("status", "answer", "outcome"),
    [
        (PaymentStatus.IN_DOUBT, SILENT, Outcome.NEEDS_DECISION),
        (PaymentStatus.IN_DOUBT, PROCESSING, Outcome.NEEDS_DECISION),
        (PaymentStatus.CANCELLING, SILENT, Outcome.NEEDS_DECISION),
        (PaymentStatus.CANCELLING, PROCESSING, Outcome.NEEDS_DECISION),
        (PaymentStatus.REQUESTED, NOT_SENT, Outcome.NOT_CHARGED),
        (PaymentStatus.REQUESTED, SILENT, Outcome.NOT_CHARGED),
    ],
)
def test_the_ladder_ends_even_if_the_saga_asks_every_hour(
    status: PaymentStatus, answer: GatewayAnswer, outcome: Outcome
) -> None:
    ((told, at_s),) = lived_through(unsettled(status), answer)
    assert told is outcome
    assert 3_600.0 < at_s <= LADDER_LENGTH_S, (
        "asking shortens the ladder, but neither ends it at once nor makes it longer"
    )
