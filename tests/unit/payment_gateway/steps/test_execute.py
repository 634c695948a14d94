"""Execute: the prepared payment is confirmed, and charged at most once. Without a readable answer it is in doubt."""

import pytest

from services.payment_gateway import domain
from services.payment_gateway.domain import GatewayStep, PaymentStatus
from services.payment_gateway.gateways import port
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.payment_gateway.payments import (
    ACTION_REQUIRED,
    CANCELLED,
    CAPTURED,
    DECLINED,
    FIRST_S,
    IS_CANCELLED_THERE,
    IS_CAPTURED,
    IS_DECLINED_AFTER_A_CANCEL,
    IS_DECLINED_FOR_WANT_OF_ACTION,
    IS_REFUSED_AFTER_A_CANCEL,
    LAST,
    NOT_FOUND,
    NOT_SENT,
    OF_SOMETHING_ELSE,
    POLICY,
    PROCESSING,
    REFUSED,
    UNCONFIRMED,
    UNKNOWN,
    WAITS,
    StepScenario,
    StepTable,
    follows,
    is_cancelled_as,
    is_in_doubt,
    needs_a_person,
    payment,
    scenarios_of,
    stays,
)

STEP = GatewayStep.EXECUTE
WAITS_UNDER_ANOTHER_KEY = stays(FIRST_S, rung=1, key_number=2)
"""Only an answer counts as a confirm: a 429 or a refused connection uses no key up."""

TABLE: StepTable = {
    payment(PaymentStatus.PREPARED): {
        CAPTURED: IS_CAPTURED,
        DECLINED: IS_DECLINED_AFTER_A_CANCEL,
        REFUSED: IS_REFUSED_AFTER_A_CANCEL,
        UNCONFIRMED: is_in_doubt("unconfirmed", key_number=2),
        ACTION_REQUIRED: IS_DECLINED_FOR_WANT_OF_ACTION,
        PROCESSING: is_in_doubt("processing", key_number=2),
        CANCELLED: IS_CANCELLED_THERE,
        NOT_FOUND: is_in_doubt("unknown_to_gateway", key_number=2),
        NOT_SENT: WAITS,
        UNKNOWN: is_in_doubt("no_readable_answer", key_number=2),
    },
    payment(PaymentStatus.PREPARED, rung=LAST): {
        CAPTURED: IS_CAPTURED,
        DECLINED: IS_DECLINED_AFTER_A_CANCEL,
        REFUSED: IS_REFUSED_AFTER_A_CANCEL,
        UNKNOWN: is_in_doubt("no_readable_answer", key_number=2),
        NOT_SENT: is_cancelled_as(PaymentStatus.NOT_CHARGED, "gateway_unavailable"),
    },
    payment(PaymentStatus.IN_DOUBT): {
        CAPTURED: IS_CAPTURED,
        DECLINED: IS_DECLINED_AFTER_A_CANCEL,
        REFUSED: IS_REFUSED_AFTER_A_CANCEL,
        UNCONFIRMED: WAITS_UNDER_ANOTHER_KEY,
        ACTION_REQUIRED: IS_DECLINED_FOR_WANT_OF_ACTION,
        PROCESSING: WAITS_UNDER_ANOTHER_KEY,
        CANCELLED: IS_CANCELLED_THERE,
        NOT_FOUND: WAITS_UNDER_ANOTHER_KEY,
        NOT_SENT: WAITS,
        UNKNOWN: WAITS_UNDER_ANOTHER_KEY,
    },
    payment(PaymentStatus.IN_DOUBT, rung=LAST): {
        CAPTURED: IS_CAPTURED,
        DECLINED: IS_DECLINED_AFTER_A_CANCEL,
        REFUSED: IS_REFUSED_AFTER_A_CANCEL,
        UNCONFIRMED: needs_a_person("unconfirmed", key_number=2),
        ACTION_REQUIRED: IS_DECLINED_FOR_WANT_OF_ACTION,
        PROCESSING: needs_a_person("processing", key_number=2),
        CANCELLED: IS_CANCELLED_THERE,
        NOT_FOUND: needs_a_person("unknown_to_gateway", key_number=2),
        NOT_SENT: needs_a_person("gateway_unavailable"),
        UNKNOWN: needs_a_person("no_readable_answer", key_number=2),
    },
}
_AT_WORK = payment(PaymentStatus.PREPARED)
SCENARIOS = scenarios_of(TABLE) | {
    f"prepared: a capture of {what} is for a person": Scenario(
        _AT_WORK, capture, needs_a_person("capture_differs", gateway_side=domain.side_of(capture))(_AT_WORK)
    )
    for what, capture in OF_SOMETHING_ELSE.items()
}


@pytest.mark.parametrize("advice", [None, ""])
def test_a_decline_without_advice_gives_none(advice: str | None) -> None:
    answer: port.Declined = replace(DECLINED, advice=advice)
    declined = domain.on_answer(_AT_WORK, STEP, answer, POLICY).payment
    assert declined.pending == domain.PendingOutcome(PaymentStatus.DECLINED, "insufficient_funds", None)


@each(SCENARIOS)
def test_execute(scenario: StepScenario) -> None:
    assert follows(STEP, scenario) == scenario.then


@pytest.mark.parametrize(
    ("told", "stored"),
    [
        (" \x00\ud800ch_\n1 ", "ch_1"),
        ("\x00", "pi_1"),
        ("ch_4242424242424242", "pi_1"),  # readers would refuse an event with a card number
    ],
    ids=["unprintable", "empty", "a card number"],
)
def test_any_receipt_can_be_stored(told: str, stored: str) -> None:
    answer: port.Captured = replace(CAPTURED, receipt_number=told)
    assert domain.on_answer(payment(PaymentStatus.PREPARED), STEP, answer, POLICY).payment.receipt_number == stored
