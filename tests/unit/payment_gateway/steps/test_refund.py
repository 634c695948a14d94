"""Refund: the amount goes back, at most once: the key stays the same until the gateway has finished with it."""

import pytest

from services.payment_gateway import domain
from services.payment_gateway.domain import GatewayStep, PaymentStatus, on_answer
from services.payment_gateway.gateways import port
from tests.support.scenarios import each
from tests.unit.payment_gateway.payments import (
    ID,
    IS_REFUNDED,
    IS_TRIED,
    KEY_TAKEN,
    LAST,
    NO_REFUND,
    NOT_FOUND,
    NOT_SENT,
    POLICY,
    REFUND_FAILED,
    REFUND_PENDING,
    REFUNDED,
    REMINDS,
    REPLAYED,
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
        REFUND_FAILED: refund_fails("expired_card", **IS_TRIED),
        NO_REFUND: WAITS,
        NOT_FOUND: refund_is_in_doubt("unknown_to_gateway"),
        NOT_SENT: WAITS,
        UNKNOWN: refund_is_in_doubt("no_readable_answer"),
    },
    payment(PaymentStatus.REFUNDING, rung=LAST): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: refund_is_in_doubt("refund_pending"),
        REFUND_FAILED: refund_fails("expired_card", **IS_TRIED),
        NO_REFUND: refund_fails("gateway_unavailable", side=None),
        NOT_FOUND: refund_is_in_doubt("unknown_to_gateway"),
        NOT_SENT: refund_fails("gateway_unavailable", side=None),
        UNKNOWN: refund_is_in_doubt("no_readable_answer"),
    },
    payment(PaymentStatus.REFUND_IN_DOUBT): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: WAITS,
        REFUND_FAILED: refund_fails("expired_card", **IS_TRIED),
        NO_REFUND: WAITS,
        NOT_FOUND: WAITS,
        NOT_SENT: WAITS,
        UNKNOWN: WAITS,
    },
    payment(PaymentStatus.REFUND_IN_DOUBT, rung=LAST): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: REMINDS,
        REFUND_FAILED: refund_fails("expired_card", **IS_TRIED),
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


def test_a_refund_keeps_its_key_while_its_answer_may_still_come() -> None:
    lost = on_answer(payment(PaymentStatus.REFUNDING), STEP, UNKNOWN, POLICY).payment
    assert domain.idempotency_key(payment(PaymentStatus.REFUNDING), STEP) == f"{ID}:refund:{ID}:1"
    assert domain.idempotency_key(lost, STEP) == f"{ID}:refund:{ID}:1"


@pytest.mark.parametrize("answer", [REPLAYED, KEY_TAKEN])
def test_a_key_that_the_gateway_has_finished_with_is_not_used_again(answer: port.Unknown) -> None:
    spent = on_answer(payment(PaymentStatus.REFUNDING), STEP, answer, POLICY).payment
    assert domain.idempotency_key(spent, STEP) == f"{ID}:refund:{ID}:2"
    assert domain.next_step(spent) is GatewayStep.INQUIRE_REFUND, "the list is asked before anything is sent again"
