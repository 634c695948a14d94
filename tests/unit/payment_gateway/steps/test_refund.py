"""Refund: the whole amount goes back, at most once: every refund of a payment has the same idempotency key."""

from services.payment_gateway import domain
from services.payment_gateway.domain import GatewayStep, PaymentStatus
from tests.support.scenarios import each
from tests.unit.payment_gateway.payments import (
    ID,
    IS_REFUNDED,
    LAST,
    NO_REFUND,
    NOT_FOUND,
    NOT_SENT,
    REFUND_FAILED,
    REFUND_PENDING,
    REFUNDED,
    REMINDS,
    UNKNOWN,
    WAITS,
    StepScenario,
    StepTable,
    follows,
    payment,
    refund_fails,
    refund_is_in_doubt,
    scenarios_of,
)

STEP = GatewayStep.REFUND

TABLE: StepTable = {
    payment(PaymentStatus.REFUNDING): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: refund_is_in_doubt("refund_pending"),
        REFUND_FAILED: refund_fails("expired_card"),
        NO_REFUND: WAITS,
        NOT_FOUND: refund_is_in_doubt("unknown_to_gateway"),
        NOT_SENT: WAITS,
        UNKNOWN: refund_is_in_doubt("no_readable_answer"),
    },
    payment(PaymentStatus.REFUNDING, rung=LAST): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: refund_is_in_doubt("refund_pending"),
        REFUND_FAILED: refund_fails("expired_card"),
        NO_REFUND: refund_fails("gateway_unavailable"),
        NOT_FOUND: refund_is_in_doubt("unknown_to_gateway"),
        NOT_SENT: refund_fails("gateway_unavailable"),
        UNKNOWN: refund_is_in_doubt("no_readable_answer"),
    },
    payment(PaymentStatus.REFUND_IN_DOUBT): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: WAITS,
        REFUND_FAILED: refund_fails("expired_card"),
        NO_REFUND: WAITS,
        NOT_FOUND: WAITS,
        NOT_SENT: WAITS,
        UNKNOWN: WAITS,
    },
    payment(PaymentStatus.REFUND_IN_DOUBT, rung=LAST): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: REMINDS,
        REFUND_FAILED: refund_fails("expired_card"),
        NO_REFUND: REMINDS,
        NOT_FOUND: REMINDS,
        NOT_SENT: REMINDS,
        UNKNOWN: REMINDS,
    },
}
SCENARIOS = scenarios_of(TABLE)


@each(SCENARIOS)
def test_refund(scenario: StepScenario) -> None:
    assert follows(STEP, scenario) == scenario.then


def test_a_refund_has_one_key_for_ever() -> None:
    later = payment(PaymentStatus.REFUND_IN_DOUBT, key_number=7)
    assert domain.idempotency_key(payment(PaymentStatus.REFUNDING), STEP) == f"{ID}:refund"
    assert domain.idempotency_key(later, STEP) == f"{ID}:refund"
