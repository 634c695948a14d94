"""Resolve: what a person may decide about a case, on the version that the person sees. The payment gateway has the last word."""

from datetime import UTC, datetime, timedelta
from typing import get_args
from uuid import UUID, uuid5

import pytest

from services.payment_gateway.gateways.port import DISPUTE_OPEN
from services.staff.domain import (
    DECIDE_ANEW_AFTER,
    Case,
    CaseStatus,
    DecisionRefusal,
    DecisionRefused,
    Dispute,
    GatewaySide,
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
DECISION = SentDecision(uuid5(PAYMENT, "decision"), 3, "captured", "ann", NOW - timedelta(minutes=4))
DECIDED = replace(WAITING, decision=DECISION)
UNHEEDED = replace(WAITING, decision=replace(DECISION, at=NOW - DECIDE_ANEW_AFTER))
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
    "anew, when a decision has had no effect for minutes": Scenario(UNHEEDED, Resolve("not_charged", 3, None), SENT),
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
    assert refusal_of(scenario.when, scenario.given, NOW) is scenario.then


def test_a_decision_is_said_again_ever_more_rarely_up_to_hourly() -> None:
    said, waits = replace(DECISION, repeat_at=NOW), list[float]()
    for _ in range(9):
        assert said.repeat_at is not None
        again = said.said_again(said.repeat_at)
        assert again.repeat_at is not None
        waits.append((again.repeat_at - said.repeat_at) / timedelta(minutes=1))
        said = again
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert said.times == 10


def test_after_settlement_no_decision_is_on_its_way() -> None:
    assert replace(DECIDED, status=CaseStatus.CAPTURED).decision_on_its_way is None


@pytest.mark.parametrize("status", CaseStatus)
def test_the_offered_decisions_are_those_that_are_allowed(status: CaseStatus) -> None:
    assert set(decisions_for(case(status))) == FITTING[status]


DISPUTED = replace(WAITING, reason="disputed", gateway=GatewaySide("captured", 1_250, 0, "EUR", True))
OF_ANOTHER_AMOUNT = replace(DISPUTED, reason="capture_differs")


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_what_the_gateway_shows_as_captured_is_not_told_as_not_charged_and_another_amount_not_booked(
    resolution: Resolution,
) -> None:
    wanted = Resolve(resolution, 3, "R-1")
    fits = {"captured", "refunded", "give_back"}
    assert refusal_of(wanted, DISPUTED, NOW) is (SENT if resolution in fits else DecisionRefusal.DOES_NOT_FIT)
    booked = resolution in fits - {"captured"}
    assert refusal_of(wanted, OF_ANOTHER_AMOUNT, NOW) is (SENT if booked else DecisionRefusal.DOES_NOT_FIT)


@pytest.mark.parametrize(
    ("status", "refunded_minor", "lost_minor", "fits"),
    [
        *((status, 0, None, False) for status in sorted(DISPUTE_OPEN)),
        *((status, 0, 1_250, True) for status in ("won", "lost", "warning_closed", "prevented")),
        ("won", 0, 0, True),
        ("needs_response", 400, 0, True),
        ("needs_response", 400, None, True),
        ("under_review", 0, 400, True),
        ("under_review", None, None, False),
    ],
)
def test_nobody_calls_given_back_what_may_still_be_won(
    status: str, refunded_minor: int | None, lost_minor: int | None, fits: bool
) -> None:
    side = GatewaySide("captured", 1_250, refunded_minor, "EUR", True, Dispute(status), lost_minor)
    offered = {"captured", "give_back"} | ({"refunded"} if fits else set())
    assert decisions_for(replace(DISPUTED, gateway=side)) == offered


@pytest.mark.parametrize(
    ("stands", "fits"),
    [
        (replace(case(CaseStatus.REFUND_FAILED), gateway=DISPUTED.gateway), FITTING[CaseStatus.REFUND_FAILED]),
        (replace(case(CaseStatus.REFUND_FAILED), settled_as="captured"), FITTING[CaseStatus.REFUND_FAILED]),
        (replace(WAITING, gateway=GatewaySide("cancelled")), CHARGE),
    ],
    ids=["a refund beside a capture", "a refund of what was captured", "a charge that the gateway cancelled"],
)
def test_what_the_gateway_shows_narrows_only_a_decision_about_a_capture(stands: Case, fits: set[str]) -> None:
    assert set(decisions_for(stands)) == fits


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_what_paid_an_invoice_does_not_become_not_charged(resolution: Resolution) -> None:
    reopened = replace(WAITING, reason="reopened_by_person", settled_as="captured")
    fits = resolution in {"captured", "refunded"}
    refused = refusal_of(Resolve(resolution, 3, "R-1"), reopened, NOW)
    assert refused is (SENT if fits else DecisionRefusal.DOES_NOT_FIT)


@pytest.mark.parametrize("side", [DISPUTED.gateway, GatewaySide("cancelled"), None])
def test_what_was_given_back_can_only_stay_so(side: GatewaySide | None) -> None:
    assert decisions_for(replace(DISPUTED, settled_as="refunded", gateway=side)) == {"refunded"}


SETTLED_BY_ANN = replace(case(CaseStatus.NOT_CHARGED), decided_by="ann")
REOPENING = replace(SETTLED_BY_ANN, decision=replace(DECISION, resolution="reopen"))


@pytest.mark.parametrize(
    ("given", "when", "then"),
    [
        (SETTLED_BY_ANN, Resolve("reopen", 3, None), SENT),
        (SETTLED_BY_ANN, Resolve("reopen", 2, None), DecisionRefusal.VERSION_DIFFERS),
        (SETTLED_BY_ANN, Resolve("captured", 3, "R-1"), DecisionRefusal.NOTHING_TO_DECIDE),
        (case(CaseStatus.CAPTURED), Resolve("reopen", 3, None), DecisionRefusal.NOTHING_TO_DECIDE),
        (REOPENING, Resolve("reopen", 3, None), DecisionRefusal.DECISION_ON_ITS_WAY),
        (replace(REOPENING, version=4), Resolve("reopen", 4, None), SENT),
    ],
)
def test_a_persons_decision_can_be_taken_back(given: Case, when: Resolve, then: DecisionRefusal | None) -> None:
    assert refusal_of(when, given, NOW) is then
