"""The saga as a table: every state against every fact, each cell written out."""

from dataclasses import dataclass, replace
from typing import get_args
from uuid import UUID

import pytest

from services.saga import domain
from services.saga.domain import (
    Capture,
    Captured,
    Command,
    DeadlineFired,
    Declined,
    Fact,
    Failure,
    FlagPaymentInDoubt,
    InDoubt,
    InquirePayment,
    NeedsDecision,
    NotCharged,
    Paid,
    PaymentFailed,
    PaymentRequested,
    RecordPayment,
    RecordPaymentFailure,
    Refunded,
    RefundFailed,
    RefundInDoubt,
    RefundPayment,
    ReminderSchedule,
    Saga,
    SagaStatus,
    SagaStep,
    SettlementRejected,
    transition,
)

PATIENCE = ReminderSchedule((10.0, 20.0, 60.0))
FIRST_S, SECOND_S, LAST_S = PATIENCE.ladder_s
VERSION = 5
"""Of the payment gateway's row, as heard so far; the facts below are newer."""
NEWER = 6

ABSENT = Saga(UUID("6d0c3d1e-0d2f-4a0e-9a35-8a0f4a2b7d11"), "INV-1")
CAPTURE = Capture(1_000, "EUR", "R-1")
DECLINE = Failure("declined", "do_not_honor")
REJECTION = Failure("not_charged", "settlement_rejected")
REFUND = Failure("not_charged", "refunded")
REJECTED = "the invoice cannot take the money: payment_not_awaited"
LATE = "captured after the payment had failed"

AWAITING = replace(
    ABSENT,
    status=SagaStatus.AWAITING_OUTCOME,
    version=1,
    deadline=1,
    deadline_s=FIRST_S,
)
KNOWN = replace(AWAITING, version=3, payment_version=VERSION)
CAPTURED = replace(KNOWN, capture=CAPTURE)
DECLINED = replace(KNOWN, status=SagaStatus.FAILED, failure=DECLINE)
REFUNDING = replace(CAPTURED, status=SagaStatus.REFUNDING, failure=DECLINE, failure_recorded=True, refund_reason=LATE)

STATES: dict[str, Saga] = {
    "absent": ABSENT,
    "awaiting_outcome": AWAITING,
    "in_doubt": replace(KNOWN, status=SagaStatus.IN_DOUBT, flagged=True),
    "needs_decision": replace(KNOWN, status=SagaStatus.NEEDS_DECISION, flagged=True),
    "settling": replace(CAPTURED, status=SagaStatus.SETTLING),
    "completed": replace(CAPTURED, status=SagaStatus.COMPLETED),
    "failed, invoice told": DECLINED,
    "failed": replace(DECLINED, failure_recorded=True),
    "refunding": REFUNDING,
    "refund_in_doubt": replace(REFUNDING, status=SagaStatus.REFUND_IN_DOUBT),
    "refunded": replace(REFUNDING, status=SagaStatus.REFUNDED),
    "not_refunded": replace(REFUNDING, status=SagaStatus.NOT_REFUNDED),
}

FACTS: dict[str, Fact] = {
    "requested": PaymentRequested(),
    "captured": Captured(NEWER, 1_000, "EUR", "R-1"),
    "declined": Declined(NEWER, "do_not_honor"),
    "not charged": NotCharged(NEWER, "never_sent"),
    "in doubt": InDoubt(NEWER),
    "needs decision": NeedsDecision(NEWER),
    "paid": Paid(),
    "payment failed": PaymentFailed("declined", "do_not_honor"),
    "settlement rejected": SettlementRejected("payment_not_awaited"),
    "refunded": Refunded(NEWER),
    "refund in doubt": RefundInDoubt(NEWER),
    "refund failed": RefundFailed(NEWER, closed=False),
    "refund closed": RefundFailed(NEWER, closed=True),
    "deadline": DeadlineFired(1),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """Status after the fact, what is said, and the seconds to a new deadline."""

    status: SagaStatus
    says: tuple[Command, ...] = ()
    deadline_s: float | None = None


def to(status: SagaStatus, *says: Command, deadline_s: float | None = None) -> Cell:
    return Cell(status, says, deadline_s)


ASK, FLAG, RECORD = InquirePayment(), FlagPaymentInDoubt(), RecordPayment(CAPTURE)
TELL_DECLINE, TELL_NOT_CHARGED = (
    RecordPaymentFailure(DECLINE),
    RecordPaymentFailure(Failure("not_charged", "never_sent")),
)
TELL_REJECTION, TELL_REFUND = RecordPaymentFailure(REJECTION), RecordPaymentFailure(REFUND)
REFUND_REJECTED, REFUND_LATE = RefundPayment(REJECTED), RefundPayment(LATE)

TABLE: dict[str, dict[str, Cell]] = {
    "absent": {
        "requested": to(SagaStatus.AWAITING_OUTCOME, deadline_s=FIRST_S),
        "captured": to(SagaStatus.SETTLING, RECORD, deadline_s=FIRST_S),
        "declined": to(SagaStatus.FAILED, TELL_DECLINE, deadline_s=FIRST_S),
        "not charged": to(SagaStatus.FAILED, TELL_NOT_CHARGED, deadline_s=FIRST_S),
        "in doubt": to(SagaStatus.IN_DOUBT, FLAG, deadline_s=FIRST_S),
        "needs decision": to(SagaStatus.NEEDS_DECISION, FLAG, deadline_s=LAST_S),
        "paid": to(SagaStatus.COMPLETED),
        "payment failed": to(SagaStatus.FAILED),
        "settlement rejected": to(SagaStatus.REFUNDING, REFUND_REJECTED, TELL_REJECTION, deadline_s=FIRST_S),
        "refunded": to(SagaStatus.REFUNDED, TELL_REFUND, deadline_s=FIRST_S),
        "refund in doubt": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND, deadline_s=FIRST_S),
        "refund failed": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND, deadline_s=FIRST_S),
        "refund closed": to(SagaStatus.NOT_REFUNDED, TELL_REFUND, deadline_s=FIRST_S),
        "deadline": to(SagaStatus.ABSENT),
    },
    "awaiting_outcome": {
        "requested": to(SagaStatus.AWAITING_OUTCOME),
        "captured": to(SagaStatus.SETTLING, RECORD),
        "declined": to(SagaStatus.FAILED, TELL_DECLINE),
        "not charged": to(SagaStatus.FAILED, TELL_NOT_CHARGED),
        "in doubt": to(SagaStatus.IN_DOUBT, FLAG),
        "needs decision": to(SagaStatus.NEEDS_DECISION, FLAG),
        "paid": to(SagaStatus.COMPLETED),
        "payment failed": to(SagaStatus.FAILED),
        "settlement rejected": to(SagaStatus.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "refunded": to(SagaStatus.REFUNDED, TELL_REFUND),
        "refund in doubt": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "refund failed": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "refund closed": to(SagaStatus.NOT_REFUNDED, TELL_REFUND),
        "deadline": to(SagaStatus.AWAITING_OUTCOME, ASK, deadline_s=SECOND_S),
    },
    "in_doubt": {
        "requested": to(SagaStatus.IN_DOUBT),
        "captured": to(SagaStatus.SETTLING, RECORD),
        "declined": to(SagaStatus.FAILED, TELL_DECLINE),
        "not charged": to(SagaStatus.FAILED, TELL_NOT_CHARGED),
        "in doubt": to(SagaStatus.IN_DOUBT),
        "needs decision": to(SagaStatus.NEEDS_DECISION),
        "paid": to(SagaStatus.COMPLETED),
        "payment failed": to(SagaStatus.FAILED),
        "settlement rejected": to(SagaStatus.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "refunded": to(SagaStatus.REFUNDED, TELL_REFUND),
        "refund in doubt": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "refund failed": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "refund closed": to(SagaStatus.NOT_REFUNDED, TELL_REFUND),
        "deadline": to(SagaStatus.IN_DOUBT, ASK, deadline_s=SECOND_S),
    },
    "needs_decision": {
        "requested": to(SagaStatus.NEEDS_DECISION),
        "captured": to(SagaStatus.SETTLING, RECORD),
        "declined": to(SagaStatus.FAILED, TELL_DECLINE),
        "not charged": to(SagaStatus.FAILED, TELL_NOT_CHARGED),
        "in doubt": to(SagaStatus.IN_DOUBT),
        "needs decision": to(SagaStatus.NEEDS_DECISION),
        "paid": to(SagaStatus.COMPLETED),
        "payment failed": to(SagaStatus.FAILED),
        "settlement rejected": to(SagaStatus.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "refunded": to(SagaStatus.REFUNDED, TELL_REFUND),
        "refund in doubt": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "refund failed": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "refund closed": to(SagaStatus.NOT_REFUNDED, TELL_REFUND),
        "deadline": to(SagaStatus.NEEDS_DECISION, ASK, deadline_s=LAST_S),
    },
    "settling": {
        "requested": to(SagaStatus.SETTLING),
        "captured": to(SagaStatus.SETTLING),
        "declined": to(SagaStatus.SETTLING),
        "not charged": to(SagaStatus.SETTLING),
        "in doubt": to(SagaStatus.SETTLING),
        "needs decision": to(SagaStatus.SETTLING),
        "paid": to(SagaStatus.COMPLETED),
        "payment failed": to(SagaStatus.SETTLING),
        "settlement rejected": to(SagaStatus.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "refunded": to(SagaStatus.REFUNDED, TELL_REFUND),
        "refund in doubt": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "refund failed": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "refund closed": to(SagaStatus.NOT_REFUNDED, TELL_REFUND),
        "deadline": to(SagaStatus.SETTLING, RECORD, deadline_s=SECOND_S),
    },
    "completed": {
        "requested": to(SagaStatus.COMPLETED),
        "captured": to(SagaStatus.COMPLETED),
        "declined": to(SagaStatus.COMPLETED),
        "not charged": to(SagaStatus.COMPLETED),
        "in doubt": to(SagaStatus.COMPLETED),
        "needs decision": to(SagaStatus.COMPLETED),
        "paid": to(SagaStatus.COMPLETED),
        "payment failed": to(SagaStatus.COMPLETED),
        "settlement rejected": to(SagaStatus.COMPLETED),
        "refunded": to(SagaStatus.REFUNDED),
        "refund in doubt": to(SagaStatus.COMPLETED),
        "refund failed": to(SagaStatus.COMPLETED),
        "refund closed": to(SagaStatus.COMPLETED),
        "deadline": to(SagaStatus.COMPLETED),
    },
    "failed, invoice told": {
        "requested": to(SagaStatus.FAILED),
        "captured": to(SagaStatus.REFUNDING, REFUND_LATE),
        "declined": to(SagaStatus.FAILED),
        "not charged": to(SagaStatus.FAILED),
        "in doubt": to(SagaStatus.FAILED),
        "needs decision": to(SagaStatus.FAILED),
        "paid": to(SagaStatus.COMPLETED),
        "payment failed": to(SagaStatus.FAILED),
        "settlement rejected": to(SagaStatus.REFUNDING, REFUND_REJECTED),
        "refunded": to(SagaStatus.REFUNDED),
        "refund in doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refund failed": to(SagaStatus.REFUND_IN_DOUBT),
        "refund closed": to(SagaStatus.NOT_REFUNDED),
        "deadline": to(SagaStatus.FAILED, TELL_DECLINE, deadline_s=SECOND_S),
    },
    "failed": {
        "requested": to(SagaStatus.FAILED),
        "captured": to(SagaStatus.REFUNDING, REFUND_LATE, deadline_s=FIRST_S),
        "declined": to(SagaStatus.FAILED),
        "not charged": to(SagaStatus.FAILED),
        "in doubt": to(SagaStatus.FAILED),
        "needs decision": to(SagaStatus.FAILED),
        "paid": to(SagaStatus.COMPLETED),
        "payment failed": to(SagaStatus.FAILED),
        "settlement rejected": to(SagaStatus.REFUNDING, REFUND_REJECTED, deadline_s=FIRST_S),
        "refunded": to(SagaStatus.REFUNDED),
        "refund in doubt": to(SagaStatus.REFUND_IN_DOUBT, deadline_s=FIRST_S),
        "refund failed": to(SagaStatus.REFUND_IN_DOUBT, deadline_s=FIRST_S),
        "refund closed": to(SagaStatus.NOT_REFUNDED),
        "deadline": to(SagaStatus.FAILED),
    },
    "refunding": {
        "requested": to(SagaStatus.REFUNDING),
        "captured": to(SagaStatus.REFUNDING),
        "declined": to(SagaStatus.REFUNDING),
        "not charged": to(SagaStatus.REFUNDING),
        "in doubt": to(SagaStatus.REFUNDING),
        "needs decision": to(SagaStatus.REFUNDING),
        "paid": to(SagaStatus.REFUNDING),
        "payment failed": to(SagaStatus.REFUNDING),
        "settlement rejected": to(SagaStatus.REFUNDING),
        "refunded": to(SagaStatus.REFUNDED),
        "refund in doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refund failed": to(SagaStatus.REFUND_IN_DOUBT),
        "refund closed": to(SagaStatus.NOT_REFUNDED),
        "deadline": to(SagaStatus.REFUNDING, REFUND_LATE, deadline_s=SECOND_S),
    },
    "refund_in_doubt": {
        "requested": to(SagaStatus.REFUND_IN_DOUBT),
        "captured": to(SagaStatus.REFUND_IN_DOUBT),
        "declined": to(SagaStatus.REFUND_IN_DOUBT),
        "not charged": to(SagaStatus.REFUND_IN_DOUBT),
        "in doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "needs decision": to(SagaStatus.REFUND_IN_DOUBT),
        "paid": to(SagaStatus.REFUND_IN_DOUBT),
        "payment failed": to(SagaStatus.REFUND_IN_DOUBT),
        "settlement rejected": to(SagaStatus.REFUND_IN_DOUBT),
        "refunded": to(SagaStatus.REFUNDED),
        "refund in doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refund failed": to(SagaStatus.REFUND_IN_DOUBT),
        "refund closed": to(SagaStatus.NOT_REFUNDED),
        "deadline": to(SagaStatus.REFUND_IN_DOUBT, REFUND_LATE, deadline_s=SECOND_S),
    },
    "refunded": {
        "requested": to(SagaStatus.REFUNDED),
        "captured": to(SagaStatus.REFUNDED),
        "declined": to(SagaStatus.REFUNDED),
        "not charged": to(SagaStatus.REFUNDED),
        "in doubt": to(SagaStatus.REFUNDED),
        "needs decision": to(SagaStatus.REFUNDED),
        "paid": to(SagaStatus.REFUNDED),
        "payment failed": to(SagaStatus.REFUNDED),
        "settlement rejected": to(SagaStatus.REFUNDED),
        "refunded": to(SagaStatus.REFUNDED),
        "refund in doubt": to(SagaStatus.REFUNDED),
        "refund failed": to(SagaStatus.REFUNDED),
        "refund closed": to(SagaStatus.REFUNDED),
        "deadline": to(SagaStatus.REFUNDED),
    },
    "not_refunded": {
        "requested": to(SagaStatus.NOT_REFUNDED),
        "captured": to(SagaStatus.NOT_REFUNDED),
        "declined": to(SagaStatus.NOT_REFUNDED),
        "not charged": to(SagaStatus.NOT_REFUNDED),
        "in doubt": to(SagaStatus.NOT_REFUNDED),
        "needs decision": to(SagaStatus.NOT_REFUNDED),
        "paid": to(SagaStatus.NOT_REFUNDED),
        "payment failed": to(SagaStatus.NOT_REFUNDED),
        "settlement rejected": to(SagaStatus.NOT_REFUNDED),
        "refunded": to(SagaStatus.REFUNDED),
        "refund in doubt": to(SagaStatus.NOT_REFUNDED),
        "refund failed": to(SagaStatus.NOT_REFUNDED),
        "refund closed": to(SagaStatus.NOT_REFUNDED),
        "deadline": to(SagaStatus.NOT_REFUNDED),
    },
}

CELLS = [(state, fact) for state in STATES for fact in FACTS]


def test_the_table_has_every_status_every_fact_and_every_cell() -> None:
    assert {saga.status for saga in STATES.values()} == set(SagaStatus)
    assert {type(fact) for fact in FACTS.values()} == set(get_args(domain.Fact))
    assert [(state, fact) for state, row in TABLE.items() for fact in row] == CELLS


@pytest.mark.parametrize(("state", "fact"), CELLS)
def test_cell(state: str, fact: str) -> None:
    step = transition(STATES[state], FACTS[fact], PATIENCE)
    assert Cell(step.saga.status, step.says, step.deadline_s) == TABLE[state][fact]


@pytest.mark.parametrize(("state", "fact"), CELLS)
def test_the_same_fact_again_changes_nothing_and_says_nothing(state: str, fact: str) -> None:
    once = transition(STATES[state], FACTS[fact], PATIENCE).saga
    assert transition(once, FACTS[fact], PATIENCE) == SagaStep(once)


@pytest.mark.parametrize(("state", "fact"), CELLS)
def test_a_change_is_exactly_one_version_and_nothing_is_said_without_one(state: str, fact: str) -> None:
    before = STATES[state]
    step = transition(before, FACTS[fact], PATIENCE)
    assert step.saga.version == before.version + (step.saga != before)
    assert step.saga != before or (step.says, step.deadline_s) == ((), None)


@pytest.mark.parametrize(("state", "fact"), CELLS)
def test_whoever_waits_for_something_has_a_deadline_under_way(state: str, fact: str) -> None:
    after = transition(STATES[state], FACTS[fact], PATIENCE).saga
    assert not domain.reminders(after) or after.deadline_s is not None


# -- what the table cannot show -----------------------------------------------------------------------------------------------------------


def test_whole_states_along_a_healthy_payment() -> None:
    requested = transition(ABSENT, PaymentRequested(), PATIENCE)
    assert requested == SagaStep(AWAITING, (), FIRST_S)
    settling = replace(AWAITING, status=SagaStatus.SETTLING, version=2, payment_version=4, capture=CAPTURE)
    assert transition(AWAITING, Captured(4, 1_000, "EUR", "R-1"), PATIENCE) == SagaStep(settling, (RECORD,))
    assert transition(settling, Paid(), PATIENCE) == SagaStep(replace(settling, status=SagaStatus.COMPLETED, version=3))


@pytest.mark.parametrize(
    "stale",
    [
        Declined(VERSION - 1, "old"),
        NotCharged(VERSION - 1, "old"),
        InDoubt(VERSION - 1),
        NeedsDecision(VERSION - 1),
        RefundInDoubt(VERSION - 1),
        RefundFailed(VERSION - 1, closed=False),
        RefundFailed(VERSION - 1, closed=True),
    ],
    ids=lambda fact: type(fact).__name__,
)
@pytest.mark.parametrize("state", [name for name, saga in STATES.items() if saga.payment_version])
def test_what_the_gateway_said_before_something_newer_is_ignored(state: str, stale: Fact) -> None:
    assert transition(STATES[state], stale, PATIENCE) == SagaStep(STATES[state])


@pytest.mark.parametrize("state", [name for name, saga in STATES.items() if saga.payment_version])
@pytest.mark.parametrize("money", ["captured", "refunded"])
def test_money_that_moved_is_never_stale(state: str, money: str) -> None:
    fresh = FACTS[money]
    assert isinstance(fresh, Captured | Refunded)
    after = transition(STATES[state], replace(fresh, version=1), PATIENCE)
    assert Cell(after.saga.status, after.says, after.deadline_s) == TABLE[state][money]


def test_the_version_heard_of_never_goes_back() -> None:
    settling = transition(STATES["in_doubt"], Captured(1, 1_000, "EUR", "R-1"), PATIENCE).saga
    assert (settling.status, settling.payment_version) == (SagaStatus.SETTLING, VERSION)


def test_a_failure_that_the_invoice_never_noted_is_owed_beside_the_refund() -> None:
    refunding = transition(DECLINED, FACTS["captured"], PATIENCE).saga
    reminded = transition(refunding, DeadlineFired(1), PATIENCE)
    assert reminded.says == (REFUND_LATE, TELL_DECLINE)
    refunded = transition(reminded.saga, Refunded(7), PATIENCE).saga
    assert transition(refunded, DeadlineFired(refunded.deadline), PATIENCE).says == (TELL_DECLINE,)
    noted = transition(refunded, FACTS["payment failed"], PATIENCE).saga
    assert transition(noted, DeadlineFired(noted.deadline), PATIENCE) == SagaStep(noted)


def test_a_failure_noted_while_settling_is_not_told_again_once_the_settlement_is_rejected() -> None:
    noted = transition(STATES["settling"], FACTS["payment failed"], PATIENCE).saga
    assert transition(noted, FACTS["settlement rejected"], PATIENCE).says == (REFUND_REJECTED,)


def test_a_person_who_closes_the_refund_ends_it_whatever_came_before() -> None:
    closed = RefundFailed(NEWER, closed=True)
    for state in ("refunding", "refund_in_doubt"):
        assert transition(STATES[state], closed, PATIENCE).saga.status is SagaStatus.NOT_REFUNDED


def test_reminders_come_ever_more_slowly_up_to_the_last_step() -> None:
    saga, delays = AWAITING, []
    for _ in range(4):
        step = transition(saga, DeadlineFired(saga.deadline), PATIENCE)
        assert step.says == (ASK,)
        saga = step.saga
        delays.append(step.deadline_s)
    assert delays == [SECOND_S, LAST_S, LAST_S, LAST_S]
    assert (saga.repeats, saga.deadline) == (4, 5)


def test_doubt_that_changes_its_name_does_not_begin_the_ladder_anew() -> None:
    saga = STATES["needs_decision"]
    for version in range(NEWER, NEWER + 6, 2):
        saga = transition(saga, DeadlineFired(saga.deadline), PATIENCE).saga
        saga = transition(saga, InDoubt(version), PATIENCE).saga
        saga = transition(saga, NeedsDecision(version + 1), PATIENCE).saga
    assert (saga.status, saga.repeats, saga.deadline_s) == (SagaStatus.NEEDS_DECISION, 3, LAST_S)


def test_an_outcome_does_not_wait_for_the_long_deadline_of_a_doubt() -> None:
    doubtful = transition(STATES["needs_decision"], DeadlineFired(1), PATIENCE).saga
    assert doubtful.deadline_s == LAST_S
    settling = transition(doubtful, FACTS["captured"], PATIENCE)
    assert (settling.deadline_s, settling.saga.deadline, settling.saga.repeats) == (FIRST_S, 3, 0)
    assert transition(settling.saga, DeadlineFired(2), PATIENCE) == SagaStep(settling.saga)  # a newer one is under way
    assert transition(settling.saga, DeadlineFired(3), PATIENCE).says == (RECORD,)


def test_a_saga_that_nobody_answers_falls_silent() -> None:
    patient = replace(AWAITING, repeats=domain.REPEATS_MAX - 1)
    last = transition(patient, DeadlineFired(1), PATIENCE)
    assert (last.says, last.deadline_s) == ((ASK,), None)
    assert transition(last.saga, DeadlineFired(1), PATIENCE) == SagaStep(last.saga)
    awake = transition(last.saga, FACTS["captured"], PATIENCE)
    assert (awake.says, awake.deadline_s) == ((RECORD,), FIRST_S)
