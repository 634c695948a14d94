"""How a call to the gateway is chosen, made and recorded: the first step, its idempotency key, its answer in one word."""

import pytest

from services.payment_gateway import domain
from services.payment_gateway.domain import GatewayStep, PaymentStatus
from services.payment_gateway.gateways import port
from shared.records import replace
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
    GatewayStep.REFUND: f"{ID}:refund:{ID}:1",
    GatewayStep.INQUIRE_REFUND: None,
}


FIRST_STEPS: dict[PaymentStatus, tuple[GatewayStep, GatewayStep]] = {  # by itself, after a person decided
    PaymentStatus.REQUESTED: (GatewayStep.PREPARE, GatewayStep.PREPARE),
    PaymentStatus.PREPARED: (GatewayStep.INQUIRE, GatewayStep.INQUIRE),
    PaymentStatus.CANCELLING: (GatewayStep.CANCEL, GatewayStep.CANCEL),
    PaymentStatus.IN_DOUBT: (GatewayStep.INQUIRE, GatewayStep.INQUIRE),
    PaymentStatus.NEEDS_DECISION: (GatewayStep.INQUIRE, GatewayStep.INQUIRE),
    PaymentStatus.CAPTURED: (GatewayStep.INQUIRE, GatewayStep.INQUIRE),
    PaymentStatus.DECLINED: (GatewayStep.INQUIRE, GatewayStep.INQUIRE),
    PaymentStatus.NOT_CHARGED: (GatewayStep.INQUIRE, GatewayStep.CANCEL),
    PaymentStatus.REFUNDING: (GatewayStep.INQUIRE_REFUND, GatewayStep.INQUIRE_REFUND),
    PaymentStatus.REFUND_IN_DOUBT: (GatewayStep.INQUIRE_REFUND, GatewayStep.INQUIRE_REFUND),
    PaymentStatus.REFUND_FAILED: (GatewayStep.INQUIRE_REFUND, GatewayStep.INQUIRE_REFUND),
    PaymentStatus.REFUNDED: (GatewayStep.INQUIRE_REFUND, GatewayStep.INQUIRE_REFUND),
}


@pytest.mark.parametrize("status", PaymentStatus)
def test_whoever_finds_a_row_asks_before_sending(status: PaymentStatus) -> None:
    found = tuple(domain.next_step(payment(status, decided_by=decided_by)) for decided_by in (None, "ann"))
    assert found == FIRST_STEPS[status]


def test_an_encrypted_card_becomes_a_token_first() -> None:
    assert domain.next_step(replace(payment(PaymentStatus.REQUESTED), method_token=None)) is GatewayStep.TOKENISE


@pytest.mark.parametrize("step", GatewayStep)
def test_every_call_that_changes_something_has_a_key(step: GatewayStep) -> None:
    before = payment(PaymentStatus.REFUNDING if step is GatewayStep.REFUND else PaymentStatus.PREPARED, key_number=7)
    assert domain.idempotency_key(before, step) == KEYS[step]


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
        (port.Limited("429"), "limited"),
        (port.RefundFailed("x" * 100, ""), "refund_failed:" + "x" * 50),
        (port.Refused("", ""), "refused"),
    ],
)
def test_answers_in_one_word(answer: domain.GatewayAnswer, code: str) -> None:
    assert domain.answer_code(answer) == code


def test_a_code_that_the_gateway_leaves_empty_is_unspecified() -> None:
    assert domain.code_of("") == "unspecified"


def test_a_code_with_a_card_number_is_replaced_whole() -> None:
    assert domain.code_of(f"no such card: 4242 4242 4242 4242 {'x' * 100}") == domain.MASKED_CODE
