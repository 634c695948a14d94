"""Inquire: a known outcome is published again; about an unsettled payment the gateway is asked now."""

from services.payment_gateway.commands import Inquire, NeverSeen
from services.payment_gateway.domain import SETTLED, PaymentStatus, PaymentTransition
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.payment_gateway.payments import ID, CommandScenario, decided, payment

INQUIRE = Inquire(ID, "INV-1")
LOOK = Inquire(ID, "INV-1", look=True)
DOUBTED = payment(PaymentStatus.IN_DOUBT, rung=2)
WAS_CASE = replace(payment(PaymentStatus.CAPTURED), was_case=True)
NEVER_SENT = replace(payment(PaymentStatus.NOT_CHARGED), gateway_id=None)
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
    **{
        f"{status} and settled: looked at, if that is asked for, and staff are told what the gateway says": Scenario(
            before, LOOK, PaymentTransition(replace(before, was_case=True), republish=True, hurry=True)
        )
        for status in sorted(SETTLED)
        for before in [payment(status, rung=2)]
    },
    "a case is looked at like any question, and its row stays as it is": Scenario(
        payment(PaymentStatus.NEEDS_DECISION),
        LOOK,
        PaymentTransition(payment(PaymentStatus.NEEDS_DECISION), republish=True, hurry=True),
    ),
    "what is not settled keeps its place on the ladder": Scenario(
        DOUBTED, LOOK, PaymentTransition(DOUBTED, republish=True, hurry=True)
    ),
    "what staff were told of before stays as it is": Scenario(
        WAS_CASE, LOOK, PaymentTransition(WAS_CASE, republish=True, hurry=True)
    ),
    "a payment that never reached the gateway is not looked at": Scenario(
        NEVER_SENT, LOOK, PaymentTransition(NEVER_SENT, republish=True)
    ),
}


@each(SCENARIOS)
def test_inquire(scenario: CommandScenario) -> None:
    assert decided(scenario) == scenario.then
