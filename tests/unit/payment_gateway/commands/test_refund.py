"""Refund: the whole captured amount goes back. If nothing was captured, the current outcome is published again."""

from services.payment_gateway.commands import NeverSeen, Refund
from services.payment_gateway.domain import PaymentStatus
from tests.support.scenarios import Scenario, each
from tests.unit.payment_gateway.payments import ID, CommandScenario, becomes, decided, payment, stays

REFUND = Refund(ID, "INV-1")
CAPTURED = payment(PaymentStatus.CAPTURED)
TOLD_AGAIN = stays(republish=True)

SCENARIOS: dict[str, CommandScenario] = {
    "a captured payment is refunded at once": Scenario(
        CAPTURED, REFUND, becomes(PaymentStatus.REFUNDING, delay_s=0.0)(CAPTURED)
    ),
    "about a payment never seen nothing is said": Scenario(None, REFUND, NeverSeen()),
    **{
        f"{status}: told again, nothing changes": Scenario(payment(status), REFUND, TOLD_AGAIN(payment(status)))
        for status in PaymentStatus
        if status is not PaymentStatus.CAPTURED
    },
}


@each(SCENARIOS)
def test_refund(scenario: CommandScenario) -> None:
    assert decided(scenario) == scenario.then
