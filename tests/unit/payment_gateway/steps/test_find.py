"""Find: an old payment is looked for at the gateway before it is begun there, because we may have forgotten that it was."""

import pytest

from services.payment_gateway import domain
from services.payment_gateway.domain import CLOCKS_APART_S, GatewaySide, GatewayStep, Payment, PaymentStatus, first_step
from shared.records import replace
from tests.support.scenarios import each
from tests.unit.payment_gateway.payments import (
    FIRST_S,
    FOUND,
    LAST,
    NOT_FOUND,
    NOT_SENT,
    POLICY,
    REFUSED,
    REMINDS,
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

STEP = GatewayStep.FIND
WITH_CARD = replace(payment(PaymentStatus.REQUESTED), method_token=None, card_jwe="eyJ...")
CASE = replace(payment(PaymentStatus.NEEDS_DECISION), gateway_id=None)
DECIDED = replace(payment(PaymentStatus.NOT_CHARGED, decided_by="ann"), gateway_id=None)
IS_ADOPTED = becomes(PaymentStatus.PREPARED, then=GatewayStep.INQUIRE, gateway_id="pi_1", key_number=1, card_jwe=None)
LOOKED = stays(FIRST_S, rung=1)

TABLE: StepTable = {
    payment(PaymentStatus.REQUESTED, key_number=2): {
        FOUND: IS_ADOPTED,
        NOT_FOUND: stays(then=GatewayStep.PREPARE),
        REFUSED: is_not_charged("bad_card"),
        NOT_SENT: WAITS,
        UNKNOWN: WAITS,
    },
    payment(PaymentStatus.REQUESTED, rung=LAST): {
        FOUND: IS_ADOPTED,
        NOT_FOUND: stays(then=GatewayStep.PREPARE),
        # It may have been charged before we forgot it: the end of the ladder is no proof that it was not.
        NOT_SENT: needs_a_person("no_readable_answer"),
        UNKNOWN: needs_a_person("no_readable_answer"),
    },
    CASE: {
        FOUND: stays(then=GatewayStep.INQUIRE, gateway_id="pi_1"),
        NOT_FOUND: is_not_charged("gateway_unavailable"),  # nobody expects a charge hours later
        REFUSED: is_not_charged("bad_card"),
        NOT_SENT: REMINDS,
        UNKNOWN: REMINDS,
    },
    replace(CASE, rung=LAST): {NOT_SENT: REMINDS, UNKNOWN: REMINDS},  # it is a case already
    DECIDED: {
        FOUND: stays(then=GatewayStep.CANCEL, gateway_id="pi_1"),
        NOT_FOUND: stays(gateway_side=GatewaySide("not_found")),
        REFUSED: LOOKED,
        NOT_SENT: LOOKED,
        UNKNOWN: LOOKED,
    },
}
SCENARIOS = scenarios_of(TABLE)


@each(SCENARIOS)
def test_find(scenario: StepScenario) -> None:
    assert follows(STEP, scenario) == scenario.then


@pytest.mark.parametrize(
    ("before", "age_s", "step"),
    [
        pytest.param(payment(PaymentStatus.REQUESTED), POLICY.find_after_s, STEP, id="old"),
        pytest.param(WITH_CARD, POLICY.find_after_s, STEP, id="old, with an encrypted card"),
        pytest.param(payment(PaymentStatus.REQUESTED), POLICY.find_after_s - 1, GatewayStep.PREPARE, id="young"),
        pytest.param(WITH_CARD, POLICY.find_after_s - 1, GatewayStep.TOKENISE, id="young, with an encrypted card"),
        pytest.param(
            payment(PaymentStatus.REQUESTED), -CLOCKS_APART_S, GatewayStep.PREPARE, id="by a clock that is ahead"
        ),
        pytest.param(payment(PaymentStatus.REQUESTED), -CLOCKS_APART_S - 1, STEP, id="by a clock that is wrong"),
        pytest.param(payment(PaymentStatus.PREPARED), 1e9, GatewayStep.INQUIRE, id="old, and its id is known"),
        pytest.param(CASE, 0.0, STEP, id="a case without a gateway id"),
        pytest.param(DECIDED, 0.0, STEP, id="decided without a gateway id"),
    ],
)
def test_only_what_we_may_have_forgotten_is_looked_for(before: Payment, age_s: float, step: GatewayStep) -> None:
    assert first_step(before, age_s, POLICY) is step


@pytest.mark.parametrize(
    "before", [payment(status) for status in PaymentStatus if status is not PaymentStatus.REFUNDED], ids=str
)
@pytest.mark.parametrize(
    ("age_s", "version"),
    [
        pytest.param(domain.FORGETS_AFTER_S - 1, 4, id="young"),
        pytest.param(domain.FORGETS_AFTER_S, int(domain.FORGETS_AFTER_S), id="just old"),
        pytest.param(7_200.9, 7_200, id="old"),
        pytest.param(1e12, domain.VERSION_MAX, id="by a clock that is wrong"),
    ],
)
def test_an_old_payment_changes_to_a_version_above_those_that_were_forgotten(
    before: Payment, age_s: float, version: int
) -> None:
    aged = domain.aged(before, age_s)
    assert aged == before, "what was announced stays as it is"
    assert domain.move(aged, PaymentStatus.NEEDS_DECISION).version == version


def test_a_refund_of_an_old_payment_is_told_at_the_version_of_the_payment() -> None:
    aged = domain.aged(payment(PaymentStatus.REFUNDING), 7_200.0)
    for after in (domain.refund_made(aged), domain.refund_kept(aged, decided_by="ann")):
        assert (after.version, after.refunds[-1].version) == (7_200, 7_200)


def test_a_version_that_is_higher_already_goes_on() -> None:
    aged = domain.aged(replace(payment(PaymentStatus.PREPARED), version=9_000), 7_200.0)
    assert domain.move(aged, PaymentStatus.IN_DOUBT).version == 9_001


def test_an_encrypted_card_with_its_old_payment_is_exchanged_once_none_was_found() -> None:
    assert domain.on_answer(WITH_CARD, STEP, NOT_FOUND, POLICY).then is GatewayStep.TOKENISE


def test_no_card_is_kept_with_a_payment_that_was_begun() -> None:
    assert domain.on_answer(WITH_CARD, STEP, FOUND, POLICY).payment.card_jwe is None


def test_no_card_is_kept_with_a_case_that_is_never_begun() -> None:
    asked = domain.on_answer(replace(WITH_CARD, rung=LAST), STEP, UNKNOWN, POLICY).payment
    assert (asked.status, asked.card_jwe) == (PaymentStatus.NEEDS_DECISION, None)
