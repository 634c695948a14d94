"""Tokenise: an encrypted card is exchanged for the gateway's token. Nothing can be charged yet."""

from services.payment_gateway.domain import GatewayStep, PaymentStatus, next_step, on_answer
from shared.records import replace
from tests.support.scenarios import each
from tests.unit.payment_gateway.payments import (
    FIRST_S,
    KEY_TAKEN,
    LAST,
    NOT_SENT,
    POLICY,
    REFUSED,
    REPLAYED,
    TOKENISED,
    UNKNOWN,
    WAITS,
    StepScenario,
    StepTable,
    follows,
    is_not_charged,
    needs_a_person,
    payment,
    scenarios_of,
    stays,
)

STEP = GatewayStep.TOKENISE
WITH_CARD = replace(payment(PaymentStatus.REQUESTED), method_token=None, card_jwe="eyJ...")

TABLE: StepTable = {
    WITH_CARD: {
        TOKENISED: stays(then=GatewayStep.PREPARE, method_token="pm_9", card_jwe=None),
        REFUSED: is_not_charged("bad_card", advice="do_not_try_again", card_jwe=None),
        NOT_SENT: WAITS,
        UNKNOWN: WAITS,
        REPLAYED: stays(FIRST_S, rung=1, key_number=2),
    },
    replace(WITH_CARD, rung=LAST): {
        NOT_SENT: is_not_charged("gateway_unavailable", card_jwe=None),
        UNKNOWN: is_not_charged("gateway_unavailable", card_jwe=None),
    },
}
SCENARIOS = scenarios_of(TABLE)


@each(SCENARIOS)
def test_tokenise(scenario: StepScenario) -> None:
    assert follows(STEP, scenario) == scenario.then


def test_a_payment_with_an_encrypted_card_begins_with_it() -> None:
    assert next_step(WITH_CARD) is STEP


def test_a_payment_whose_key_another_card_has_taken_is_looked_for_and_never_begun_anew() -> None:
    """What took the key may have been prepared and charged since, under keys that only a payment without a new one would meet again."""
    taken = on_answer(WITH_CARD, STEP, KEY_TAKEN, POLICY)
    assert taken == needs_a_person("no_readable_answer", card_jwe=None)(WITH_CARD)
    assert next_step(taken.payment) is GatewayStep.FIND
