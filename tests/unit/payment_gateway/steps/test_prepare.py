"""Prepare: the payment is created at the gateway, unconfirmed. Nothing can be charged until its gateway id is recorded."""

import pytest

from services.payment_gateway import domain
from services.payment_gateway.domain import GatewayStep, PaymentStatus, next_step
from services.payment_gateway.gateways import port
from tests.support.scenarios import each
from tests.unit.payment_gateway.payments import (
    CAPTURED,
    FIRST_S,
    KEY_TAKEN,
    LAST,
    NOT_SENT,
    POLICY,
    PREPARED,
    REFUSED,
    REPLAYED,
    SECOND_S,
    UNKNOWN,
    WAITS,
    StepScenario,
    StepTable,
    becomes,
    follows,
    is_not_charged,
    needs_a_person,
    payment,
    scenarios_of,
    stays,
)

STEP = GatewayStep.PREPARE
PREPARES = becomes(PaymentStatus.PREPARED, then=GatewayStep.EXECUTE, gateway_id="pi_1", key_number=1)

TABLE: StepTable = {
    payment(PaymentStatus.REQUESTED): {
        PREPARED: PREPARES,
        REFUSED: is_not_charged("bad_card", advice="do_not_try_again"),
        NOT_SENT: WAITS,
        UNKNOWN: WAITS,
        REPLAYED: stays(FIRST_S, rung=1, key_number=2),
    },
    payment(PaymentStatus.REQUESTED, rung=1, key_number=2): {
        PREPARED: PREPARES,
        NOT_SENT: stays(SECOND_S, rung=2),
        UNKNOWN: stays(SECOND_S, rung=2),
        REPLAYED: stays(SECOND_S, rung=2, key_number=3),
    },
    payment(PaymentStatus.REQUESTED, rung=LAST): {
        PREPARED: PREPARES,
        REFUSED: is_not_charged("bad_card", advice="do_not_try_again"),
        NOT_SENT: is_not_charged("gateway_unavailable"),
        UNKNOWN: is_not_charged("gateway_unavailable"),
    },
}
SCENARIOS = scenarios_of(TABLE)


@each(SCENARIOS)
def test_prepare(scenario: StepScenario) -> None:
    assert follows(STEP, scenario) == scenario.then


def test_a_payment_with_a_token_begins_with_it() -> None:
    assert next_step(payment(PaymentStatus.REQUESTED)) is STEP


@pytest.mark.parametrize(("asked_s", "wait_s"), [(86_400.0, port.RETRY_AFTER_MAX_S), (None, domain.LIMITED_S)])
def test_the_wait_after_a_429_is_bounded(asked_s: float | None, wait_s: float) -> None:
    waiting = domain.on_answer(payment(PaymentStatus.REQUESTED), STEP, port.Limited("429", asked_s), POLICY)
    assert waiting == stays(wait_s)(payment(PaymentStatus.REQUESTED))


def test_an_answer_to_no_question_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        domain.on_answer(payment(PaymentStatus.REQUESTED), STEP, CAPTURED, POLICY)


def test_a_payment_whose_key_was_taken_is_looked_for_and_never_prepared_under_another() -> None:
    """We forgot a request of it, which an earlier build made in other words: what took the key may have been charged."""
    taken = domain.on_answer(payment(PaymentStatus.REQUESTED), STEP, KEY_TAKEN, POLICY)
    assert taken == needs_a_person("no_readable_answer")(payment(PaymentStatus.REQUESTED))
    assert next_step(taken.payment) is GatewayStep.FIND
