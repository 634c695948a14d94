"""How a call to the gateway is made and recorded: its idempotency key, and its answer in one word."""

import pytest

from services.payment_gateway import domain
from services.payment_gateway.domain import GatewayStep, PaymentStatus
from services.payment_gateway.gateways import port
from tests.unit.payment_gateway.payments import (
    ACTION_REQUIRED,
    CAPTURED,
    ID,
    NOT_SENT,
    POLICY,
    UNKNOWN,
    payment,
)

KEYS: dict[GatewayStep, str | None] = {
    GatewayStep.TOKENISE: f"{ID}:tokenise:7",
    GatewayStep.PREPARE: f"{ID}:prepare:7",
    GatewayStep.EXECUTE: f"{ID}:execute:7",
    GatewayStep.INQUIRE: None,
    GatewayStep.CANCEL: f"{ID}:cancel:7",
    GatewayStep.REFUND: f"{ID}:refund",
    GatewayStep.INQUIRE_REFUND: None,
}


@pytest.mark.parametrize("step", GatewayStep)
def test_every_call_that_changes_something_has_a_key(step: GatewayStep) -> None:
    assert domain.idempotency_key(payment(PaymentStatus.PREPARED, key_number=7), step) == KEYS[step]


def test_an_unanswered_call_is_repeated_under_another_key_and_an_unsent_one_under_the_same() -> None:
    before = payment(PaymentStatus.REQUESTED)
    unanswered = domain.on_answer(before, GatewayStep.PREPARE, UNKNOWN, POLICY).payment
    unsent = domain.on_answer(before, GatewayStep.PREPARE, NOT_SENT, POLICY).payment
    assert domain.idempotency_key(before, GatewayStep.PREPARE) == f"{ID}:prepare:1"
    assert domain.idempotency_key(unanswered, GatewayStep.PREPARE) == f"{ID}:prepare:2"
    assert domain.idempotency_key(unsent, GatewayStep.PREPARE) == f"{ID}:prepare:1"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (CAPTURED, "captured"),
        (port.Declined("insufficient funds!", ""), "declined:insufficient_funds_"),
        (ACTION_REQUIRED, "action_required"),
        (NOT_SENT, "not_sent"),
        (port.RefundFailed("x" * 100, ""), "refund_failed:" + "x" * 50),
    ],
)
def test_answers_in_one_word(answer: domain.GatewayAnswer, code: str) -> None:
    assert domain.answer_code(answer) == code
