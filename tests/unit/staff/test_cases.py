"""The case: its messages give the same case in any order, and a person decides on its current version."""

from datetime import UTC, datetime
from functools import reduce
from itertools import permutations
from random import Random
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.payment_gateway.domain import OutcomeReason
from services.staff import domain
from services.staff.desk.case_words import known_words
from services.staff.domain import (
    OPEN,
    REFUSALS_KEPT_MAX,
    Case,
    CaseAttempt,
    CaseStatus,
    DecisionRefusal,
    DecisionRefused,
    Doubted,
    Fact,
    GatewaySide,
    Inquired,
    LastDecision,
    Resolve,
    SentDecision,
    Settled,
    evolve,
    refusal_of,
)
from services.staff.refunds import CaseRefundStatus, RefundTold
from shared.records import replace
from tests.support.scenarios import Scenario, each

PAYMENT = UUID("0190a000-0000-7000-8000-000000000001")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BLANK = Case(PAYMENT, "INV-1")


def doubted(version: int, status: CaseStatus = CaseStatus.NEEDS_DECISION, decided_by: str | None = None) -> Doubted:
    attempts = (CaseAttempt(NOW, "inquire", "unknown", f"evidence {version}"),)
    return Doubted(version, status, 1_250, "EUR", f"reason_{version}", "pi_1", attempts, decided_by)


def inquired(version: int, number: int) -> Inquired:
    attempts = (CaseAttempt(NOW, "inquire", "captured", f"evidence {version}, {number}"),)
    side = GatewaySide("captured", 900, number, "EUR")
    return Inquired(version, number, 1_250, "EUR", "pi_1", attempts, settled_as="captured", gateway=side)


def settled(version: int, status: CaseStatus = CaseStatus.CAPTURED, decided_by: str | None = None) -> Settled:
    return Settled(version, status, decided_by=decided_by)


def refused(version: int, decision_id: UUID | None = None) -> DecisionRefused:
    id_ = uuid5(PAYMENT, f"refused {version} {decision_id}")
    return DecisionRefused(id_, version, "captured", "version_differs", "bea", "not_charged", decision_id)


def case_of(*facts: Fact) -> Case:
    return reduce(evolve, facts, BLANK)


ASKED = RefundTold(UUID(int=7), CaseRefundStatus.ASKED, 0, 250, "EUR", "damaged", requested_by="ann")
CaseScenario = Scenario[tuple[Fact, ...], Fact, Case]
LOOKED_AT = Case(
    PAYMENT,
    "INV-1",
    CaseStatus.NEEDS_DECISION,
    version=3,
    reason="reason_3",
    amount_minor=1_250,
    currency="EUR",
    gateway_id="pi_1",
    attempts=doubted(3).attempts,
    attempts_version=3,
)
CAPTURED = replace(LOOKED_AT, status=CaseStatus.CAPTURED, version=5, reason=None, found_captured=5)


def told(case: Case, answer: Inquired) -> Case:
    """The case with the gateway's newest answer."""
    return replace(
        case,
        attempts=answer.attempts,
        attempts_version=answer.version,
        inquiry=answer.number,
        settled_as=answer.settled_as,
        gateway=answer.gateway,
    )


SCENARIOS: dict[str, CaseScenario] = {
    "doubt opens a case": Scenario((), doubted(3), LOOKED_AT),
    "newer doubt replaces older doubt": Scenario(
        (doubted(2, CaseStatus.IN_DOUBT),), doubted(3), replace(LOOKED_AT, attempts=doubted(3).attempts)
    ),
    "a refund that failed is a case": Scenario(
        (), doubted(3, CaseStatus.REFUND_FAILED), replace(LOOKED_AT, status=CaseStatus.REFUND_FAILED)
    ),
    "a refund that was asked for shows beside the case": Scenario(
        (doubted(3),), ASKED, replace(LOOKED_AT, refunds=(ASKED,))
    ),
    "a decision leaves a refund in doubt an open case": Scenario(
        (),
        doubted(3, CaseStatus.REFUND_IN_DOUBT, "ann"),
        replace(LOOKED_AT, status=CaseStatus.REFUND_IN_DOUBT, decided_by="ann"),
    ),
    "a failed refund that a person closed is no open case": Scenario(
        (doubted(2, CaseStatus.REFUND_FAILED),),
        doubted(3, CaseStatus.REFUND_FAILED, "ann"),
        replace(
            LOOKED_AT,
            status=CaseStatus.NOT_REFUNDED,
            decided_by="ann",
            decided=LastDecision(3, CaseStatus.NOT_REFUNDED, "ann"),
        ),
    ),
    "what the gateway says anew shows on the case": Scenario(
        (doubted(3),), inquired(3, 17), told(LOOKED_AT, inquired(3, 17))
    ),
    "a newer answer replaces an older one": Scenario(
        (doubted(3), inquired(3, 17)), inquired(3, 18), told(LOOKED_AT, inquired(3, 18))
    ),
    "an older answer changes nothing": Scenario(
        (doubted(3), inquired(3, 17)), inquired(3, 16), told(LOOKED_AT, inquired(3, 17))
    ),
    "what the gateway says of a settled case shows on it, and settles nothing": Scenario(
        (doubted(3), settled(5)), inquired(5, 17), told(CAPTURED, inquired(5, 17))
    ),
    "an outcome settles the case": Scenario((doubted(3),), settled(5), CAPTURED),
    "doubt repeated under a known version changes nothing": Scenario(
        (doubted(3),), replace(doubted(3), reason="another", attempts=()), LOOKED_AT
    ),
    "an outcome repeated under a known version changes nothing": Scenario(
        (doubted(3), settled(5)), settled(5, CaseStatus.DECLINED), CAPTURED
    ),
    "an outcome names the person who decided it": Scenario(
        (doubted(3),),
        settled(5, decided_by="ann"),
        replace(CAPTURED, decided_by="ann", found_captured=0, decided=LastDecision(5, CaseStatus.CAPTURED, "ann")),
    ),
    "a payment without doubt has only its outcome": Scenario(
        (), settled(5), Case(PAYMENT, "INV-1", CaseStatus.CAPTURED, version=5, found_captured=5)
    ),
    "older doubt fills the gaps of a settled case": Scenario((settled(5),), doubted(3), CAPTURED),
    "doubt after an outcome opens the case again": Scenario(
        (settled(2),),
        doubted(3, CaseStatus.REFUND_IN_DOUBT),
        replace(LOOKED_AT, status=CaseStatus.REFUND_IN_DOUBT, found_captured=2),
    ),
    "a refused decision is kept beside the state": Scenario(
        (doubted(3),), refused(3), replace(LOOKED_AT, refusals=(refused(3),))
    ),
    "a repeated refused decision is kept once": Scenario(
        (doubted(3), refused(3)), refused(3), replace(LOOKED_AT, refusals=(refused(3),))
    ),
    "a refused decision about an unknown payment": Scenario(
        (), refused(3), Case(PAYMENT, "INV-1", refusals=(refused(3),))
    ),
}


@each(SCENARIOS)
def test_case(scenario: CaseScenario) -> None:
    assert evolve(case_of(*scenario.given), scenario.when) == scenario.then


def test_nothing_is_known_of_a_case_at_first() -> None:
    assert (BLANK.status, BLANK.version, BLANK.attempts_version, BLANK.is_open) == (CaseStatus.UNKNOWN, 0, 0, False)


def test_the_latest_refused_decisions_are_kept_in_the_order_of_their_versions() -> None:
    refusals = [refused(version) for version in range(1, REFUSALS_KEPT_MAX + 3)]
    assert case_of(*reversed(refusals)).refusals == tuple(refusals[2:])


def test_refused_decisions_of_one_version_are_kept_in_one_order() -> None:
    refusals = [refused(3, uuid5(PAYMENT, name)) for name in ("one", "two", "three")]
    assert case_of(*refusals).refusals == case_of(*reversed(refusals)).refusals


def fact_of(version: int, kind: int) -> Fact:
    """One fact for each version, because one version has at most one message."""
    match kind % 4:
        case 0:
            return doubted(version, sorted(OPEN)[kind // 4 % 4], "ann" if kind % 3 == 0 else None)
        case 1:
            return settled(
                version,
                [CaseStatus.CAPTURED, CaseStatus.DECLINED, CaseStatus.NOT_CHARGED, CaseStatus.REFUNDED][kind // 4 % 4],
                "ann" if kind % 3 == 0 else None,
            )
        case 2:
            return refused(version)
        case _:
            return replace(doubted(version), reason=sorted(DOUBTS)[kind // 4 % len(DOUBTS)])


DOUBTS = ("not_captured", "not_refunded", "reopened_by_person", "no_readable_answer")
histories = st.lists(st.integers(0, 63), min_size=1, max_size=30).map(
    lambda kinds: [fact_of(version, kind) for version, kind in enumerate(kinds, start=1)]
)


@given(histories, st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_make_the_same_case(history: list[Fact], random: Random) -> None:
    arrived = history + random.sample(history, k=random.randint(0, len(history)))
    random.shuffle(arrived)
    assert case_of(*arrived) == case_of(*history)


@given(histories)
def test_the_highest_version_counts(history: list[Fact]) -> None:
    standing = [fact for fact in history if not isinstance(fact, DecisionRefused)]
    case = case_of(*history)
    assert case.version == (standing[-1].version if standing else 0)
    assert len(case.refusals) <= REFUSALS_KEPT_MAX


def test_an_older_message_fills_the_gaps() -> None:
    case = case_of(settled(5, CaseStatus.DECLINED), doubted(3, CaseStatus.IN_DOUBT))
    assert (case.status, case.version, case.amount_minor, case.gateway_id) == (CaseStatus.DECLINED, 5, 1_250, "pi_1")
    assert [attempt.evidence for attempt in case.attempts] == ["evidence 3"]


def test_money_that_a_person_kept_is_settled() -> None:
    case = case_of(doubted(3, CaseStatus.REFUND_FAILED), doubted(4, CaseStatus.REFUND_FAILED, "ann"))
    assert (case.status, case.decided_by, case.is_open) == (CaseStatus.NOT_REFUNDED, "ann", False)


def test_a_payment_can_become_a_case_again() -> None:
    assert case_of(doubted(2), settled(3), doubted(5, CaseStatus.REFUND_IN_DOUBT)).is_open


def test_one_decision_at_a_time_until_it_is_refused_or_the_version_changes() -> None:
    sent = SentDecision(uuid5(PAYMENT, "decision"), 3, "captured", "ann", NOW)
    waiting = Case(PAYMENT, "INV-1", status=CaseStatus.NEEDS_DECISION, version=3, decision=sent)
    three, four = Resolve("not_charged", 3, None), Resolve("not_charged", 4, None)
    assert refusal_of(three, waiting, NOW) is DecisionRefusal.DECISION_ON_ITS_WAY
    assert refusal_of(three, evolve(waiting, refused(3, sent.id)), NOW) is None
    moved_on = evolve(waiting, doubted(4))
    assert refusal_of(four, moved_on, NOW) is None
    assert refusal_of(four, evolve(moved_on, settled(5)), NOW) is DecisionRefusal.NOTHING_TO_DECIDE


def test_what_messages_say_of_a_refund_does_not_depend_on_their_order() -> None:
    refund, came_back = UUID(int=7), "lost_or_stolen_card"
    facts: list[Fact] = [
        ASKED,
        RefundTold(refund, CaseRefundStatus.REFUNDED, 6, 250, "EUR"),
        RefundTold(refund, CaseRefundStatus.FAILED, 8, 250, "EUR", code=came_back),
        RefundTold(refund, CaseRefundStatus.REJECTED, code="refund_id_used", requested_by="ann"),
    ]
    for order in permutations(facts):
        (told,) = case_of(*order).refunds
        assert told == replace(ASKED, status=CaseRefundStatus.FAILED, version=8, code=came_back)


OTHER = RefundTold(UUID(int=8), CaseRefundStatus.REFUNDED, 5, 100, "EUR")
DOUBTED_REFUND = RefundTold(UUID(int=7), CaseRefundStatus.IN_DOUBT, 6)
REJECTED_REFUND = RefundTold(UUID(int=7), CaseRefundStatus.REJECTED, code="refund_id_used")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ([ASKED, DOUBTED_REFUND], replace(ASKED, status=CaseRefundStatus.IN_DOUBT, version=6)),
        ([ASKED, REJECTED_REFUND], ASKED),
        ([REJECTED_REFUND], REJECTED_REFUND),
        ([DOUBTED_REFUND, REJECTED_REFUND], DOUBTED_REFUND),
    ],
    ids=[
        "an outcome that says little takes the rest from the request",
        "a request that fits stands, though the same again did not",
        "a request that did not fit",
        "one that was made is not undone by a request that did not fit",
    ],
)
def test_a_refund_shows_what_all_its_messages_say_together(facts: list[Fact], expected: RefundTold) -> None:
    for order in permutations(facts):
        assert case_of(*order).refunds == (expected,)


def test_each_refund_of_a_payment_stands_for_itself() -> None:
    assert case_of(ASKED, OTHER).refunds == (ASKED, OTHER)
    told_more = case_of(ASKED, OTHER, DOUBTED_REFUND).refunds
    assert told_more == (replace(ASKED, status=CaseRefundStatus.IN_DOUBT, version=6), OTHER)


# -- words and numbers for people ------------------------------------------------------------------------------------------------------


def test_a_case_can_have_every_reason_that_the_gateway_service_gives_of_its_own() -> None:
    assert set(OutcomeReason) == domain.CASE_REASONS, "cases are counted by reason"


def test_people_read_how_often_the_gateway_was_asked_and_not_what_else_was_done() -> None:
    steps = ("execute", "inquire", "inquire_refund", "cancel", "refund")
    attempts = tuple(CaseAttempt(NOW, step, "unknown", "") for step in steps)
    case = case_of(replace(doubted(3), reason="processing", attempts=attempts))
    assert known_words(case).endswith("Remit has asked the gateway 2 times.")


# -- what contradicts a decision -------------------------------------------------------------------------------------------------------

NOT_CHARGED = settled(5, CaseStatus.NOT_CHARGED, "ann")
MISSING = replace(doubted(7), reason="not_captured")
CONTRADICTED: dict[str, tuple[tuple[Fact, ...], int | None]] = {
    "decided not charged, and found captured": ((doubted(3), NOT_CHARGED, settled(6)), 6),
    "the money has gone back meanwhile": ((NOT_CHARGED, settled(6), settled(7, CaseStatus.REFUNDED)), 6),
    "decided captured, and not there": ((settled(5, CaseStatus.CAPTURED, "ann"), MISSING), 7),
    "decided given back, and it was not": (
        (settled(5, CaseStatus.REFUNDED, "ann"), replace(doubted(7, CaseStatus.REFUND_FAILED), reason="not_refunded")),
        7,
    ),
    "decided that the money stays, and it is not there": ((doubted(5, CaseStatus.REFUND_FAILED, "ann"), MISSING), 7),
    "nobody decided": ((settled(5, CaseStatus.NOT_CHARGED), settled(6)), None),
    "decided captured, and found so": ((settled(5, CaseStatus.CAPTURED, "ann"), settled(6)), None),
    "a person decided anew": ((NOT_CHARGED, settled(6, decided_by="bea")), None),
    "a person took the decision back first": (
        (NOT_CHARGED, replace(doubted(6), reason="reopened_by_person"), settled(7)),
        None,
    ),
    "captured before it was decided": ((settled(2), doubted(3), NOT_CHARGED), None),
}


@pytest.mark.parametrize(("facts", "at_version"), CONTRADICTED.values(), ids=CONTRADICTED)
def test_a_fact_of_no_person_contradicts_the_last_decision(facts: tuple[Fact, ...], at_version: int | None) -> None:
    for order in permutations(facts):
        case = case_of(*order)
        assert (case.contradicted_version, case.is_contradicted) == (at_version, at_version is not None)


def test_a_contradiction_of_which_somebody_took_note_is_over_until_the_next_one() -> None:
    noted = replace(case_of(NOT_CHARGED, settled(6)), noted_version=6)
    assert not noted.is_contradicted
    again = evolve(evolve(noted, settled(8, CaseStatus.NOT_CHARGED, "bea")), settled(9))
    assert again.is_contradicted
