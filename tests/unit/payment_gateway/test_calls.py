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
    LIMITED,
    MISCONFIGURED,
    NOT_SENT,
    POLICY,
    REPLAYED,
    UNKNOWN,
    payment,
)

KEYS: dict[GatewayStep, str | None] = {
    GatewayStep.TOKENISE: f"{ID}:tokenise:7",
    GatewayStep.FIND: None,
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


@pytest.mark.parametrize("step", [GatewayStep.TOKENISE, GatewayStep.PREPARE], ids=str)
def test_what_begins_a_payment_keeps_its_key_while_that_can_give_another_answer(step: GatewayStep) -> None:
    """So who has forgotten what was begun finds it again: the gateway replays each answer of the same key."""
    before = payment(PaymentStatus.REQUESTED)
    keys = {
        answer: domain.idempotency_key(domain.on_answer(before, step, answer, POLICY).payment, step)
        for answer in (NOT_SENT, LIMITED, MISCONFIGURED, UNKNOWN, REPLAYED)
    }
    one, two = f"{ID}:{step}:1", f"{ID}:{step}:2"
    assert keys == {NOT_SENT: one, LIMITED: one, MISCONFIGURED: one, UNKNOWN: one, REPLAYED: two}


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
