"""Inquire: a known outcome is published again; about an unsettled payment the gateway is asked now."""

from services.payment_gateway.commands import Inquire, NeverSeen
from services.payment_gateway.domain import PaymentStatus, PaymentTransition
from tests.support.scenarios import Scenario, each
from tests.unit.payment_gateway.payments import ID, CommandScenario, decided, payment

INQUIRE = Inquire(ID, "INV-1")
UNSETTLED = {
    PaymentStatus.REQUESTED,
    PaymentStatus.PREPARED,
    PaymentStatus.CANCELLING,
    PaymentStatus.IN_DOUBT,
    PaymentStatus.NEEDS_DECISION,
    PaymentStatus.REFUNDING,
    PaymentStatus.REFUND_IN_DOUBT,
    PaymentStatus.REFUND_FAILED,
}

SCENARIOS: dict[str, CommandScenario] = {
    "about a payment never seen nothing is said: its request may be on its way": Scenario(None, INQUIRE, NeverSeen()),
    **{
        f"{status}: told again": Scenario(
            payment(status), INQUIRE, PaymentTransition(payment(status), republish=True, hurry=status in UNSETTLED)
        )
        for status in PaymentStatus
    },
    "not charged by a person: the watch is hurried": Scenario(
        payment(PaymentStatus.NOT_CHARGED, decided_by="ann"),
        INQUIRE,
        PaymentTransition(payment(PaymentStatus.NOT_CHARGED, decided_by="ann"), republish=True, hurry=True),
    ),
    "a refund that a person gave up is not asked for": Scenario(
        payment(PaymentStatus.REFUND_FAILED, decided_by="ann"),
        INQUIRE,
        PaymentTransition(payment(PaymentStatus.REFUND_FAILED, decided_by="ann"), republish=True),
    ),
}


@each(SCENARIOS)
def test_inquire(scenario: CommandScenario) -> None:
    assert decided(scenario) == scenario.then
