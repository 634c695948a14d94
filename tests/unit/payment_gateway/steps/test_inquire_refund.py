"""Inquire refund: an instance that finds a refund asks for it before it sends one. A refund that waits for a person is only asked for."""

from services.payment_gateway.domain import GatewaySide, GatewayStep, Outcome, PaymentStatus, on_answer
from shared.records import replace
from tests.support.scenarios import each
from tests.unit.payment_gateway.payments import (
    FIRST_S,
    IS_REFUNDED,
    LAST,
    NO_REFUND,
    NOT_FOUND,
    NOT_SENT,
    POLICY,
    REFUND_FAILED,
    REFUND_PENDING,
    REFUNDED,
    REMIND_S,
    REMINDS,
    UNKNOWN,
    WAITS,
    StepScenario,
    StepTable,
    becomes,
    follows,
    payment,
    refund_fails,
    refund_is_in_doubt,
    scenarios_of,
    stays,
)

STEP = GatewayStep.INQUIRE_REFUND
LOOKED = stays(rung=1)
IS_NOT_REFUNDED = becomes(
    PaymentStatus.REFUND_FAILED,
    Outcome.REFUND_FAILED,
    REMIND_S,
    reason="not_refunded",
    gateway_side=GatewaySide("no_refund"),
)
SENDS_IT = stays(then=GatewayStep.REFUND)

TABLE: StepTable = {
    payment(PaymentStatus.REFUNDING): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: refund_is_in_doubt("refund_pending"),
        REFUND_FAILED: refund_fails("expired_card"),
        NO_REFUND: SENDS_IT,
        NOT_FOUND: refund_is_in_doubt("unknown_to_gateway"),
        NOT_SENT: WAITS,
        UNKNOWN: refund_is_in_doubt("no_readable_answer"),
    },
    payment(PaymentStatus.REFUNDING, rung=LAST): {
        REFUNDED: IS_REFUNDED,
        NO_REFUND: SENDS_IT,
        NOT_SENT: refund_fails("gateway_unavailable"),
    },
    payment(PaymentStatus.REFUND_IN_DOUBT): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: WAITS,
        REFUND_FAILED: refund_fails("expired_card"),
        NO_REFUND: SENDS_IT,
        NOT_FOUND: WAITS,
        NOT_SENT: WAITS,
        UNKNOWN: WAITS,
    },
    payment(PaymentStatus.REFUND_IN_DOUBT, rung=LAST): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: REMINDS,
        REFUND_FAILED: refund_fails("expired_card"),
        NO_REFUND: REMINDS,  # the gateway may have deleted our key by now, so a second refund could follow
        NOT_FOUND: REMINDS,
        NOT_SENT: REMINDS,
        UNKNOWN: REMINDS,
    },
    payment(PaymentStatus.REFUND_FAILED): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: REMINDS,
        REFUND_FAILED: REMINDS,
        NO_REFUND: REMINDS,
        NOT_FOUND: REMINDS,
        NOT_SENT: REMINDS,
        UNKNOWN: REMINDS,
    },
    # A refund that was made is looked at: a bank may send it back days later.
    payment(PaymentStatus.REFUNDED): {
        REFUNDED: LOOKED,
        REFUND_PENDING: LOOKED,
        REFUND_FAILED: refund_fails("expired_card"),
        NO_REFUND: IS_NOT_REFUNDED,
        NOT_FOUND: LOOKED,
        NOT_SENT: LOOKED,
        UNKNOWN: LOOKED,
    },
    # Whether the gateway agrees with a person who kept the money.
    payment(PaymentStatus.REFUND_FAILED, decided_by="ann"): {
        REFUNDED: IS_REFUNDED,
        REFUND_FAILED: stays(rung=0, gateway_side=GatewaySide("no_refund")),
        NO_REFUND: stays(rung=0, gateway_side=GatewaySide("no_refund")),
        UNKNOWN: stays(FIRST_S, rung=1),
    },
}
SCENARIOS = scenarios_of(TABLE)


@each(SCENARIOS)
def test_inquire_refund(scenario: StepScenario) -> None:
    assert follows(STEP, scenario) == scenario.then


def test_a_refund_without_a_readable_id_is_recorded_without_one() -> None:
    nameless = replace(REFUNDED, refund_id="\x00 ")
    assert on_answer(payment(PaymentStatus.REFUNDING), STEP, nameless, POLICY).payment.refund_id is None
