"""Resolve: what a person may decide about a case, on the version that the person sees. The payment gateway has the last word."""

from datetime import UTC, datetime
from typing import get_args
from uuid import UUID, uuid5

import pytest

from services.staff.domain import (
    Case,
    CaseStatus,
    DecisionRefusal,
    DecisionRefused,
    Resolution,
    Resolve,
    SentDecision,
    decisions_for,
    refusal_of,
)
from shared.records import replace
from tests.support.scenarios import Scenario, each

PAYMENT = UUID("0190a000-0000-7000-8000-000000000001")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RESOLUTIONS: tuple[Resolution, ...] = get_args(Resolution)
CHARGE, REFUND = {"captured", "not_charged"}, {"refunded", "not_refunded"}

ResolveScenario = Scenario[Case, Resolve, DecisionRefusal | None]
SENT = None
"""The decision may be sent."""


def case(status: CaseStatus) -> Case:
    return Case(PAYMENT, "INV-1", status=status, version=3)


FITTING: dict[CaseStatus, set[str]] = {
    CaseStatus.UNKNOWN: set(),
    CaseStatus.IN_DOUBT: CHARGE,
    CaseStatus.NEEDS_DECISION: CHARGE,
    CaseStatus.REFUND_IN_DOUBT: REFUND,
    CaseStatus.REFUND_FAILED: REFUND | {"refund_again"},
    CaseStatus.CAPTURED: set(),
    CaseStatus.DECLINED: set(),
    CaseStatus.NOT_CHARGED: set(),
    CaseStatus.REFUNDED: set(),
    CaseStatus.NOT_REFUNDED: set(),
}
"""The decisions that each state allows; a state without any is closed."""


def expected(status: CaseStatus, resolution: Resolution) -> DecisionRefusal | None:
    if not FITTING[status]:
        return DecisionRefusal.NOTHING_TO_DECIDE
    return SENT if resolution in FITTING[status] else DecisionRefusal.DOES_NOT_FIT


WAITING = case(CaseStatus.NEEDS_DECISION)
DECISION = SentDecision(uuid5(PAYMENT, "decision"), 3, "captured", "ann", NOW)
DECIDED = replace(WAITING, decision=DECISION)
REFUSED = DecisionRefused(
    uuid5(PAYMENT, "refused"), 3, "captured", "version_differs", "ann", "not_charged", DECISION.id
)

SCENARIOS: dict[str, ResolveScenario] = {
    **{
        f"{status} as {resolution}: {expected(status, resolution) or 'sent'}": Scenario(
            case(status), Resolve(resolution, 3, "R-1"), expected(status, resolution)
        )
        for status in CaseStatus
        for resolution in RESOLUTIONS
    },
    "on an older version than the current one": Scenario(
        WAITING, Resolve("not_charged", 2, None), DecisionRefusal.VERSION_DIFFERS
    ),
    "on a version that is not known yet": Scenario(
        WAITING, Resolve("not_charged", 4, None), DecisionRefusal.VERSION_DIFFERS
    ),
    "captured without a receipt": Scenario(
        WAITING, Resolve("captured", 3, None), DecisionRefusal.RECEIPT_NUMBER_REQUIRED
    ),
    "captured with a blank receipt": Scenario(
        WAITING, Resolve("captured", 3, "  "), DecisionRefusal.RECEIPT_NUMBER_REQUIRED
    ),
    "not charged needs no receipt": Scenario(WAITING, Resolve("not_charged", 3, None), SENT),
    "while another decision is on its way": Scenario(
        DECIDED, Resolve("not_charged", 3, None), DecisionRefusal.DECISION_ON_ITS_WAY
    ),
    "repeated while it is on its way": Scenario(
        DECIDED, Resolve("captured", 3, "R-1"), DecisionRefusal.DECISION_ON_ITS_WAY
    ),
    "after the decision before it was refused": Scenario(
        replace(DECIDED, refusals=(REFUSED,)), Resolve("not_charged", 3, None), SENT
    ),
    "after some other decision was refused": Scenario(
        replace(DECIDED, refusals=(replace(REFUSED, decision_id=None),)),
        Resolve("not_charged", 3, None),
        DecisionRefusal.DECISION_ON_ITS_WAY,
    ),
    "after the payment moved on": Scenario(replace(DECIDED, version=4), Resolve("not_charged", 4, None), SENT),
    "after the payment was settled": Scenario(
        replace(DECIDED, version=5, status=CaseStatus.CAPTURED),
        Resolve("not_charged", 5, None),
        DecisionRefusal.NOTHING_TO_DECIDE,
    ),
}


@each(SCENARIOS)
def test_resolve(scenario: ResolveScenario) -> None:
    assert refusal_of(scenario.when, scenario.given) is scenario.then


def test_after_settlement_no_decision_is_on_its_way() -> None:
    assert replace(DECIDED, status=CaseStatus.CAPTURED).decision_on_its_way is None


@pytest.mark.parametrize("status", CaseStatus)
def test_the_offered_decisions_are_those_that_are_allowed(status: CaseStatus) -> None:
    assert set(decisions_for(status)) == FITTING[status]
