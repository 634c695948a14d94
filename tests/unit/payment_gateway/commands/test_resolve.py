"""Resolve: a person decides about a payment with unknown outcome, on the version that the person saw."""

from typing import get_args

from services.payment_gateway import domain
from services.payment_gateway.commands import Resolve, on_command
from services.payment_gateway.domain import (
    GatewayStep,
    Outcome,
    PaymentStatus,
    PaymentTransition,
    Resolution,
    ResolutionRefused,
)
from services.payment_gateway.refunds import PaymentRefundStatus
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.payment_gateway.payments import (
    CAPTURED,
    CLOSES,
    ID,
    POLICY,
    Becomes,
    CommandScenario,
    about_refund,
    becomes,
    decided,
    is_refunded,
    payment,
)


def resolve(resolution: Resolution, *, version: int = 3, by: str = "ann", receipt: str | None = "R-1") -> Resolve:
    return Resolve(ID, "INV-1", resolution, version, by, receipt)


CAPTURED_BY_ANN = becomes(PaymentStatus.CAPTURED, Outcome.CAPTURED, receipt_number="R-1", decided_by="ann")
NOT_CHARGED_BY_ANN = becomes(
    PaymentStatus.NOT_CHARGED, Outcome.NOT_CHARGED, 0.0, reason="decided_by_person", decided_by="ann"
)
REFUNDED_BY_ANN = is_refunded(None, decided_by="ann")
LEFT_BY_ANN = about_refund(
    becomes(PaymentStatus.REFUND_FAILED, Outcome.REFUND_FAILED, reason="decided_by_person", decided_by="ann"),
    status=PaymentRefundStatus.KEPT,
    version=4,
    decided_by="ann",
)
MADE_AGAIN = becomes(PaymentStatus.REFUNDING, delay_s=0.0)

ACCEPTED: dict[tuple[PaymentStatus, Resolution], Becomes] = {
    (PaymentStatus.IN_DOUBT, "captured"): CAPTURED_BY_ANN,
    (PaymentStatus.IN_DOUBT, "not_charged"): NOT_CHARGED_BY_ANN,
    (PaymentStatus.NEEDS_DECISION, "captured"): CAPTURED_BY_ANN,
    (PaymentStatus.NEEDS_DECISION, "not_charged"): NOT_CHARGED_BY_ANN,
    (PaymentStatus.REFUND_IN_DOUBT, "refunded"): REFUNDED_BY_ANN,
    (PaymentStatus.REFUND_IN_DOUBT, "not_refunded"): LEFT_BY_ANN,
    (PaymentStatus.REFUND_FAILED, "refunded"): REFUNDED_BY_ANN,
    (PaymentStatus.REFUND_FAILED, "not_refunded"): LEFT_BY_ANN,
    (PaymentStatus.REFUND_FAILED, "refund_again"): MADE_AGAIN,
}
"""In every other state every other decision is refused: there is nothing to decide."""


def in_every_state(status: PaymentStatus, resolution: Resolution) -> CommandScenario:
    before, command = payment(status), resolve(resolution)
    if (status, resolution) in ACCEPTED:
        return Scenario(before, command, ACCEPTED[status, resolution](before))
    refused = ResolutionRefused("nothing_to_decide", "ann", resolution)
    return Scenario(before, command, PaymentTransition(before, refused=refused))


CASE = payment(PaymentStatus.NEEDS_DECISION)
GIVEN_UP = payment(PaymentStatus.REFUND_FAILED, decided_by="ann")

SCENARIOS: dict[str, CommandScenario] = {
    **{
        f"{status} as {resolution}: {'accepted' if (status, resolution) in ACCEPTED else 'refused'}": in_every_state(
            status, resolution
        )
        for status in PaymentStatus
        for resolution in get_args(Resolution)
    },
    "refused on another version than stands": Scenario(
        CASE,
        resolve("not_charged", version=2, by="bob"),
        PaymentTransition(CASE, refused=ResolutionRefused("version_differs", "bob", "not_charged")),
    ),
    "refused as captured without its receipt": Scenario(
        CASE,
        resolve("captured", receipt=None),
        PaymentTransition(CASE, refused=ResolutionRefused("receipt_number_required", "ann", "captured")),
    ),
    "a payment never seen is closed, and the decision refused": Scenario(
        None,
        resolve("captured"),
        replace(CLOSES, refused=ResolutionRefused("unknown_payment", "ann", "captured")),
    ),
    **{
        f"a refund that a person gave up is left alone: {resolution}": Scenario(
            GIVEN_UP,
            resolve(resolution, by="bob"),
            PaymentTransition(GIVEN_UP, refused=ResolutionRefused("nothing_to_decide", "bob", resolution)),
        )
        for resolution in get_args(Resolution)
    },
}


@each(SCENARIOS)
def test_resolve(scenario: CommandScenario) -> None:
    assert decided(scenario) == scenario.then


def test_a_payment_not_charged_by_a_person_is_still_cancelled() -> None:
    watched = on_command(CASE, resolve("not_charged")).payment
    assert domain.next_step(watched) is GatewayStep.CANCEL
    late = domain.on_answer(watched, GatewayStep.CANCEL, CAPTURED, POLICY)
    assert (late.outcome, late.payment.decided_by) == (Outcome.CAPTURED_LATE, None)


def test_a_refund_that_a_person_gave_up_is_not_asked_for() -> None:
    given_up = on_command(payment(PaymentStatus.REFUND_FAILED), resolve("not_refunded")).payment
    assert domain.next_step(given_up) is None
