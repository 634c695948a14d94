"""Inquire refund: an instance that finds a refund asks for it before it sends one. A refund that waits for a person is only asked for."""

import pytest

from services.payment_gateway.domain import GatewayStep, PaymentStatus, on_answer
from services.payment_gateway.gateways import port
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.payment_gateway.payments import (
    CAME_BACK,
    FIRST_S,
    IS_REFUNDED,
    IS_TRIED,
    LAST,
    NO_REFUND,
    NOT_FOUND,
    NOT_REFUNDED_THERE,
    NOT_SENT,
    POLICY,
    REFUND_FAILED,
    REFUND_PENDING,
    REFUNDED,
    REMIND_S,
    REMINDS,
    REPLAYED,
    UNKNOWN,
    WAITS,
    StepScenario,
    StepTable,
    about_refund,
    follows,
    is_refunded,
    payment,
    refund_fails,
    refund_is_in_doubt,
    scenarios_of,
    stays,
)

STEP = GatewayStep.INQUIRE_REFUND
LOOKED = stays(rung=1)
NOTHING_LEFT = port.NoRefund("none", left_minor=0)
WHOLE = payment(PaymentStatus.REFUNDING)
A_PART = replace(WHOLE, refunds=(replace(WHOLE.refunds[0], asked_minor=250),))
IN_DOUBT_LAST = payment(PaymentStatus.REFUND_IN_DOUBT, rung=LAST)
TRIED = replace(IN_DOUBT_LAST, refunds=(replace(IN_DOUBT_LAST.refunds[0], gateway_id="re_1"),))
REMINDS_OF_THE_LAST_ANSWER = stays(REMIND_S, republish=True, gateway_side=NOT_REFUNDED_THERE)
SENDS_IT = about_refund(stays(then=GatewayStep.REFUND), amount_minor=1_250)

TABLE: StepTable = {
    payment(PaymentStatus.REFUNDING): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: refund_is_in_doubt("refund_pending"),
        REFUND_FAILED: refund_fails("expired_card", **IS_TRIED),
        NO_REFUND: SENDS_IT,
        NOT_FOUND: refund_is_in_doubt("unknown_to_gateway"),
        NOT_SENT: WAITS,
        UNKNOWN: refund_is_in_doubt("no_readable_answer"),
        REPLAYED: refund_is_in_doubt("no_readable_answer"),  # a question has no key that could be spent
    },
    payment(PaymentStatus.REFUNDING, rung=LAST): {
        REFUNDED: IS_REFUNDED,
        NO_REFUND: SENDS_IT,
        NOT_SENT: refund_fails("gateway_unavailable", side=None),
    },
    payment(PaymentStatus.REFUND_IN_DOUBT): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: WAITS,
        REFUND_FAILED: refund_fails("expired_card", **IS_TRIED),
        NO_REFUND: SENDS_IT,
        NOT_FOUND: WAITS,
        NOT_SENT: WAITS,
        UNKNOWN: WAITS,
    },
    payment(PaymentStatus.REFUND_IN_DOUBT, rung=LAST): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: REMINDS,
        REFUND_FAILED: refund_fails("expired_card", **IS_TRIED),
        NO_REFUND: refund_fails("gateway_unavailable"),  # there is no doubt any more, and a person can have it made
        NOT_FOUND: REMINDS,
        NOT_SENT: REMINDS,
        UNKNOWN: REMINDS,
    },
    payment(PaymentStatus.REFUND_FAILED): {
        REFUNDED: IS_REFUNDED,
        REFUND_PENDING: REMINDS,
        REFUND_FAILED: about_refund(REMINDS_OF_THE_LAST_ANSWER, **IS_TRIED),
        NO_REFUND: REMINDS_OF_THE_LAST_ANSWER,
        NOT_FOUND: REMINDS,
        NOT_SENT: REMINDS,
        UNKNOWN: REMINDS,
    },
    # A refund that was made is looked at: a bank may send it back days later.
    payment(PaymentStatus.REFUNDED): {
        REFUNDED: LOOKED,
        REFUND_PENDING: LOOKED,
        REFUND_FAILED: refund_fails("expired_card", **CAME_BACK),
        NO_REFUND: refund_fails("not_refunded", **CAME_BACK),
        NOT_FOUND: LOOKED,
        NOT_SENT: LOOKED,
        UNKNOWN: LOOKED,
    },
    # Whether the gateway agrees with a person who kept the money.
    payment(PaymentStatus.REFUND_FAILED, decided_by="ann"): {
        REFUNDED: IS_REFUNDED,
        REFUND_FAILED: stays(rung=0, gateway_side=NOT_REFUNDED_THERE),
        NO_REFUND: stays(rung=0, gateway_side=NOT_REFUNDED_THERE),
        UNKNOWN: stays(FIRST_S, rung=1),
    },
}
SCENARIOS: dict[str, StepScenario] = {
    **scenarios_of(TABLE),
    "refunding: more than is left": Scenario(
        A_PART,
        port.NoRefund("none", left_minor=200),
        refund_fails("refund_too_large", amount_minor=250, by_hand_minor=1_050)(A_PART),
    ),
    **{
        f"nothing is left there, others gave it back: {name}": Scenario(before, NOTHING_LEFT, after(before))
        for name, before, after in (
            ("it was refunded", payment(PaymentStatus.REFUNDED), LOOKED),
            ("a person kept it", payment(PaymentStatus.REFUND_FAILED, decided_by="ann"), is_refunded(None)),
        )
    },
    "in doubt behind the last rung: the try that is known has failed": Scenario(
        TRIED, REFUND_FAILED, refund_fails("expired_card")(TRIED)
    ),
    "refunding: nothing was captured": Scenario(A_PART, port.NoRefund("none"), refund_fails("nothing_left")(A_PART)),
}


@each(SCENARIOS)
def test_inquire_refund(scenario: StepScenario) -> None:
    assert follows(STEP, scenario) == scenario.then


@pytest.mark.parametrize("refund_id", ["\x00 ", "re_4242424242424242"], ids=["unprintable", "a card number"])
def test_a_refund_without_an_id_that_can_be_shown_is_recorded_without_one(refund_id: str) -> None:
    nameless = replace(REFUNDED, refund_id=refund_id)
    assert on_answer(payment(PaymentStatus.REFUNDING), STEP, nameless, POLICY).payment.refund_id is None
