"""Cancel: only a payment that the gateway has cancelled is declined or not charged. A cancel that finds a success means captured."""

import pytest

from services.payment_gateway import afterwards, domain
from services.payment_gateway.domain import GatewaySide, GatewayStep, Outcome, PaymentStatus, PendingOutcome
from services.payment_gateway.gateways import port
from shared.records import replace
from tests.support.scenarios import each
from tests.unit.payment_gateway.payments import (
    ACTION_REQUIRED,
    CANCELLED,
    CAPTURED,
    DECLINE,
    DECLINED,
    FIRST_S,
    ID,
    IS_CAPTURED,
    IS_CAPTURED_LATE,
    LAST,
    NOT_FOUND,
    NOT_SENT,
    POLICY,
    PROCESSING,
    UNCONFIRMED,
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

STEP = GatewayStep.CANCEL
WAITS_UNDER_ANOTHER_KEY = stays(FIRST_S, rung=1, key_number=2)
NEEDS_A_PERSON = needs_a_person("cancel_unconfirmed", pending=DECLINE, key_number=2)
IS_DECLINED = becomes(PaymentStatus.DECLINED, Outcome.DECLINED, reason="insufficient_funds", advice="try_again_later")
AGREES = stays(rung=0, gateway_side=GatewaySide("cancelled"))
WATCHED_DAILY = stays(POLICY.watch_s, rung=LAST + 1, key_number=2)
LOOKED_UNDER_ANOTHER_KEY = stays(rung=1, key_number=2)
UNAVAILABLE = PendingOutcome(PaymentStatus.NOT_CHARGED, "gateway_unavailable")

TABLE: StepTable = {
    payment(PaymentStatus.CANCELLING): {
        CAPTURED: IS_CAPTURED,
        DECLINED: WAITS_UNDER_ANOTHER_KEY,
        UNCONFIRMED: WAITS_UNDER_ANOTHER_KEY,
        ACTION_REQUIRED: WAITS_UNDER_ANOTHER_KEY,
        PROCESSING: WAITS_UNDER_ANOTHER_KEY,
        CANCELLED: IS_DECLINED,
        NOT_FOUND: WAITS_UNDER_ANOTHER_KEY,
        NOT_SENT: WAITS,
        UNKNOWN: WAITS_UNDER_ANOTHER_KEY,
    },
    replace(payment(PaymentStatus.CANCELLING), pending=UNAVAILABLE): {
        CANCELLED: is_not_charged("gateway_unavailable"),
        CAPTURED: IS_CAPTURED,
    },
    payment(PaymentStatus.CANCELLING, rung=LAST): {
        CAPTURED: IS_CAPTURED,
        DECLINED: NEEDS_A_PERSON,
        UNCONFIRMED: NEEDS_A_PERSON,
        ACTION_REQUIRED: NEEDS_A_PERSON,
        PROCESSING: NEEDS_A_PERSON,
        CANCELLED: IS_DECLINED,
        NOT_FOUND: NEEDS_A_PERSON,
        NOT_SENT: needs_a_person("cancel_unconfirmed", pending=DECLINE),
        UNKNOWN: NEEDS_A_PERSON,
    },
    # A payment that a person decided as not charged is still cancelled, if it can be, and is asked about until the gateway agrees.
    payment(PaymentStatus.NOT_CHARGED, decided_by="ann"): {
        CAPTURED: IS_CAPTURED_LATE,
        DECLINED: WAITS_UNDER_ANOTHER_KEY,
        UNCONFIRMED: WAITS_UNDER_ANOTHER_KEY,
        ACTION_REQUIRED: WAITS_UNDER_ANOTHER_KEY,
        PROCESSING: WAITS_UNDER_ANOTHER_KEY,
        CANCELLED: AGREES,
        NOT_FOUND: WAITS_UNDER_ANOTHER_KEY,
        NOT_SENT: WAITS,
        UNKNOWN: WAITS_UNDER_ANOTHER_KEY,
    },
    payment(PaymentStatus.NOT_CHARGED, rung=LAST, decided_by="ann"): {
        CAPTURED: IS_CAPTURED_LATE,
        DECLINED: WATCHED_DAILY,
        UNCONFIRMED: WATCHED_DAILY,
        ACTION_REQUIRED: WATCHED_DAILY,
        PROCESSING: WATCHED_DAILY,
        CANCELLED: AGREES,
        NOT_FOUND: WATCHED_DAILY,
        NOT_SENT: stays(POLICY.watch_s, rung=LAST + 1),
        UNKNOWN: WATCHED_DAILY,
    },
    # A declined payment that a look finds chargeable is cancelled again.
    payment(PaymentStatus.DECLINED): {
        CAPTURED: IS_CAPTURED_LATE,
        DECLINED: LOOKED_UNDER_ANOTHER_KEY,
        UNCONFIRMED: LOOKED_UNDER_ANOTHER_KEY,
        ACTION_REQUIRED: LOOKED_UNDER_ANOTHER_KEY,
        PROCESSING: LOOKED_UNDER_ANOTHER_KEY,
        CANCELLED: stays(rung=1),
        NOT_FOUND: LOOKED_UNDER_ANOTHER_KEY,
        NOT_SENT: stays(rung=1),
        UNKNOWN: LOOKED_UNDER_ANOTHER_KEY,
    },
}
SCENARIOS = scenarios_of(TABLE)


@each(SCENARIOS)
def test_cancel(scenario: StepScenario) -> None:
    assert follows(STEP, scenario) == scenario.then


@pytest.mark.parametrize("rung", [0, LAST])
@pytest.mark.parametrize("answer", [DECLINED, UNCONFIRMED, ACTION_REQUIRED, PROCESSING, NOT_FOUND, UNKNOWN])
@pytest.mark.parametrize(("status", "by"), [(PaymentStatus.CANCELLING, None), (PaymentStatus.NOT_CHARGED, "ann")])
def test_an_answered_cancel_is_repeated_under_another_key(
    status: PaymentStatus, by: str | None, answer: port.ChargeAnswer, rung: int
) -> None:
    """Under the old key the gateway would replay its saved refusal, even after nothing prevents the cancel any more."""
    before = payment(status, rung=rung, decided_by=by)
    answered = afterwards.on_answer(before, STEP, answer, POLICY).payment
    unsent = afterwards.on_answer(before, STEP, NOT_SENT, POLICY).payment
    assert domain.idempotency_key(answered, STEP) == f"{ID}:cancel:2"
    assert domain.idempotency_key(unsent, STEP) == f"{ID}:cancel:1"
