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
    Patience,
    PaymentFailed,
    PaymentRequested,
    RecordPayment,
    RecordPaymentFailure,
    Refunded,
    RefundFailed,
    RefundInDoubt,
    RefundPayment,
    Saga,
    SettlementRejected,
    Status,
    Step,
    transition,
)

PATIENCE = Patience((10.0, 20.0, 60.0))
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
    status=Status.AWAITING_OUTCOME,
    version=1,
    deadline=1,
    deadline_s=FIRST_S,
)
KNOWN = replace(AWAITING, version=3, payment_version=VERSION)
CAPTURED = replace(KNOWN, capture=CAPTURE)
DECLINED = replace(KNOWN, status=Status.FAILED, failure=DECLINE)
REFUNDING = replace(CAPTURED, status=Status.REFUNDING, failure=DECLINE, failure_recorded=True, refund_reason=LATE)

STATES: dict[str, Saga] = {
    "absent": ABSENT,
    "awaiting_outcome": AWAITING,
    "in_doubt": replace(KNOWN, status=Status.IN_DOUBT, flagged=True),
    "needs_decision": replace(KNOWN, status=Status.NEEDS_DECISION, flagged=True),
    "settling": replace(CAPTURED, status=Status.SETTLING),
    "completed": replace(CAPTURED, status=Status.COMPLETED),
    "failed, invoice told": DECLINED,
    "failed": replace(DECLINED, failure_recorded=True),
    "refunding": REFUNDING,
    "refund_in_doubt": replace(REFUNDING, status=Status.REFUND_IN_DOUBT),
    "refunded": replace(REFUNDING, status=Status.REFUNDED),
    "not_refunded": replace(REFUNDING, status=Status.NOT_REFUNDED),
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

    status: Status
    says: tuple[Command, ...] = ()
    deadline_s: float | None = None


def to(status: Status, *says: Command, deadline_s: float | None = None) -> Cell:
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
        "requested": to(Status.AWAITING_OUTCOME, deadline_s=FIRST_S),
        "captured": to(Status.SETTLING, RECORD, deadline_s=FIRST_S),
        "declined": to(Status.FAILED, TELL_DECLINE, deadline_s=FIRST_S),
        "not charged": to(Status.FAILED, TELL_NOT_CHARGED, deadline_s=FIRST_S),
        "in doubt": to(Status.IN_DOUBT, FLAG, deadline_s=FIRST_S),
        "needs decision": to(Status.NEEDS_DECISION, FLAG, deadline_s=LAST_S),
        "paid": to(Status.COMPLETED),
        "payment failed": to(Status.FAILED),
        "settlement rejected": to(Status.REFUNDING, REFUND_REJECTED, TELL_REJECTION, deadline_s=FIRST_S),
        "refunded": to(Status.REFUNDED, TELL_REFUND, deadline_s=FIRST_S),
        "refund in doubt": to(Status.REFUND_IN_DOUBT, TELL_REFUND, deadline_s=FIRST_S),
        "refund failed": to(Status.REFUND_IN_DOUBT, TELL_REFUND, deadline_s=FIRST_S),
        "refund closed": to(Status.NOT_REFUNDED, TELL_REFUND, deadline_s=FIRST_S),
        "deadline": to(Status.ABSENT),
    },
    "awaiting_outcome": {
        "requested": to(Status.AWAITING_OUTCOME),
        "captured": to(Status.SETTLING, RECORD),
        "declined": to(Status.FAILED, TELL_DECLINE),
        "not charged": to(Status.FAILED, TELL_NOT_CHARGED),
        "in doubt": to(Status.IN_DOUBT, FLAG),
        "needs decision": to(Status.NEEDS_DECISION, FLAG),
        "paid": to(Status.COMPLETED),
        "payment failed": to(Status.FAILED),
        "settlement rejected": to(Status.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "refunded": to(Status.REFUNDED, TELL_REFUND),
        "refund in doubt": to(Status.REFUND_IN_DOUBT, TELL_REFUND),
        "refund failed": to(Status.REFUND_IN_DOUBT, TELL_REFUND),
        "refund closed": to(Status.NOT_REFUNDED, TELL_REFUND),
        "deadline": to(Status.AWAITING_OUTCOME, ASK, deadline_s=SECOND_S),
    },
    "in_doubt": {
        "requested": to(Status.IN_DOUBT),
        "captured": to(Status.SETTLING, RECORD),
        "declined": to(Status.FAILED, TELL_DECLINE),
        "not charged": to(Status.FAILED, TELL_NOT_CHARGED),
        "in doubt": to(Status.IN_DOUBT),
        "needs decision": to(Status.NEEDS_DECISION),
        "paid": to(Status.COMPLETED),
        "payment failed": to(Status.FAILED),
        "settlement rejected": to(Status.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "refunded": to(Status.REFUNDED, TELL_REFUND),
        "refund in doubt": to(Status.REFUND_IN_DOUBT, TELL_REFUND),
        "refund failed": to(Status.REFUND_IN_DOUBT, TELL_REFUND),
        "refund closed": to(Status.NOT_REFUNDED, TELL_REFUND),
        "deadline": to(Status.IN_DOUBT, ASK, deadline_s=SECOND_S),
    },
    "needs_decision": {
        "requested": to(Status.NEEDS_DECISION),
        "captured": to(Status.SETTLING, RECORD),
        "declined": to(Status.FAILED, TELL_DECLINE),
        "not charged": to(Status.FAILED, TELL_NOT_CHARGED),
        "in doubt": to(Status.IN_DOUBT),
        "needs decision": to(Status.NEEDS_DECISION),
        "paid": to(Status.COMPLETED),
        "payment failed": to(Status.FAILED),
        "settlement rejected": to(Status.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "refunded": to(Status.REFUNDED, TELL_REFUND),
        "refund in doubt": to(Status.REFUND_IN_DOUBT, TELL_REFUND),
        "refund failed": to(Status.REFUND_IN_DOUBT, TELL_REFUND),
        "refund closed": to(Status.NOT_REFUNDED, TELL_REFUND),
        "deadline": to(Status.NEEDS_DECISION, ASK, deadline_s=LAST_S),
    },
    "settling": {
        "requested": to(Status.SETTLING),
        "captured": to(Status.SETTLING),
        "declined": to(Status.SETTLING),
        "not charged": to(Status.SETTLING),
        "in doubt": to(Status.SETTLING),
        "needs decision": to(Status.SETTLING),
        "paid": to(Status.COMPLETED),
        "payment failed": to(Status.SETTLING),
        "settlement rejected": to(Status.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "refunded": to(Status.REFUNDED, TELL_REFUND),
        "refund in doubt": to(Status.REFUND_IN_DOUBT, TELL_REFUND),
        "refund failed": to(Status.REFUND_IN_DOUBT, TELL_REFUND),
        "refund closed": to(Status.NOT_REFUNDED, TELL_REFUND),
        "deadline": to(Status.SETTLING, RECORD, deadline_s=SECOND_S),
    },
    "completed": {
        "requested": to(Status.COMPLETED),
        "captured": to(Status.COMPLETED),
        "declined": to(Status.COMPLETED),
        "not charged": to(Status.COMPLETED),
        "in doubt": to(Status.COMPLETED),
        "needs decision": to(Status.COMPLETED),
        "paid": to(Status.COMPLETED),
        "payment failed": to(Status.COMPLETED),
        "settlement rejected": to(Status.COMPLETED),
        "refunded": to(Status.REFUNDED),
        "refund in doubt": to(Status.COMPLETED),
        "refund failed": to(Status.COMPLETED),
        "refund closed": to(Status.COMPLETED),
        "deadline": to(Status.COMPLETED),
    },
    "failed, invoice told": {
        "requested": to(Status.FAILED),
        "captured": to(Status.REFUNDING, REFUND_LATE),
        "declined": to(Status.FAILED),
        "not charged": to(Status.FAILED),
        "in doubt": to(Status.FAILED),
        "needs decision": to(Status.FAILED),
        "paid": to(Status.COMPLETED),
        "payment failed": to(Status.FAILED),
        "settlement rejected": to(Status.REFUNDING, REFUND_REJECTED),
        "refunded": to(Status.REFUNDED),
        "refund in doubt": to(Status.REFUND_IN_DOUBT),
        "refund failed": to(Status.REFUND_IN_DOUBT),
        "refund closed": to(Status.NOT_REFUNDED),
        "deadline": to(Status.FAILED, TELL_DECLINE, deadline_s=SECOND_S),
    },
    "failed": {
        "requested": to(Status.FAILED),
        "captured": to(Status.REFUNDING, REFUND_LATE, deadline_s=FIRST_S),
        "declined": to(Status.FAILED),
        "not charged": to(Status.FAILED),
        "in doubt": to(Status.FAILED),
        "needs decision": to(Status.FAILED),
        "paid": to(Status.COMPLETED),
        "payment failed": to(Status.FAILED),
        "settlement rejected": to(Status.REFUNDING, REFUND_REJECTED, deadline_s=FIRST_S),
        "refunded": to(Status.REFUNDED),
        "refund in doubt": to(Status.REFUND_IN_DOUBT, deadline_s=FIRST_S),
        "refund failed": to(Status.REFUND_IN_DOUBT, deadline_s=FIRST_S),
        "refund closed": to(Status.NOT_REFUNDED),
        "deadline": to(Status.FAILED),
    },
    "refunding": {
        "requested": to(Status.REFUNDING),
        "captured": to(Status.REFUNDING),
        "declined": to(Status.REFUNDING),
        "not charged": to(Status.REFUNDING),
        "in doubt": to(Status.REFUNDING),
        "needs decision": to(Status.REFUNDING),
        "paid": to(Status.REFUNDING),
        "payment failed": to(Status.REFUNDING),
        "settlement rejected": to(Status.REFUNDING),
        "refunded": to(Status.REFUNDED),
        "refund in doubt": to(Status.REFUND_IN_DOUBT),
        "refund failed": to(Status.REFUND_IN_DOUBT),
        "refund closed": to(Status.NOT_REFUNDED),
        "deadline": to(Status.REFUNDING, REFUND_LATE, deadline_s=SECOND_S),
    },
    "refund_in_doubt": {
        "requested": to(Status.REFUND_IN_DOUBT),
        "captured": to(Status.REFUND_IN_DOUBT),
        "declined": to(Status.REFUND_IN_DOUBT),
        "not charged": to(Status.REFUND_IN_DOUBT),
        "in doubt": to(Status.REFUND_IN_DOUBT),
        "needs decision": to(Status.REFUND_IN_DOUBT),
        "paid": to(Status.REFUND_IN_DOUBT),
        "payment failed": to(Status.REFUND_IN_DOUBT),
        "settlement rejected": to(Status.REFUND_IN_DOUBT),
        "refunded": to(Status.REFUNDED),
        "refund in doubt": to(Status.REFUND_IN_DOUBT),
        "refund failed": to(Status.REFUND_IN_DOUBT),
        "refund closed": to(Status.NOT_REFUNDED),
        "deadline": to(Status.REFUND_IN_DOUBT, REFUND_LATE, deadline_s=SECOND_S),
    },
    "refunded": {
        "requested": to(Status.REFUNDED),
        "captured": to(Status.REFUNDED),
        "declined": to(Status.REFUNDED),
        "not charged": to(Status.REFUNDED),
        "in doubt": to(Status.REFUNDED),
        "needs decision": to(Status.REFUNDED),
        "paid": to(Status.REFUNDED),
        "payment failed": to(Status.REFUNDED),
        "settlement rejected": to(Status.REFUNDED),
        "refunded": to(Status.REFUNDED),
        "refund in doubt": to(Status.REFUNDED),
        "refund failed": to(Status.REFUNDED),
        "refund closed": to(Status.REFUNDED),
        "deadline": to(Status.REFUNDED),
    },
    "not_refunded": {
        "requested": to(Status.NOT_REFUNDED),
        "captured": to(Status.NOT_REFUNDED),
        "declined": to(Status.NOT_REFUNDED),
        "not charged": to(Status.NOT_REFUNDED),
        "in doubt": to(Status.NOT_REFUNDED),
        "needs decision": to(Status.NOT_REFUNDED),
        "paid": to(Status.NOT_REFUNDED),
        "payment failed": to(Status.NOT_REFUNDED),
        "settlement rejected": to(Status.NOT_REFUNDED),
        "refunded": to(Status.REFUNDED),
        "refund in doubt": to(Status.NOT_REFUNDED),
        "refund failed": to(Status.NOT_REFUNDED),
        "refund closed": to(Status.NOT_REFUNDED),
        "deadline": to(Status.NOT_REFUNDED),
    },
}

CELLS = [(state, fact) for state in STATES for fact in FACTS]


def test_the_table_has_every_status_every_fact_and_every_cell() -> None:
    assert {saga.status for saga in STATES.values()} == set(Status)
    assert {type(fact) for fact in FACTS.values()} == set(get_args(domain.Fact))
    assert [(state, fact) for state, row in TABLE.items() for fact in row] == CELLS


@pytest.mark.parametrize(("state", "fact"), CELLS)
def test_cell(state: str, fact: str) -> None:
    step = transition(STATES[state], FACTS[fact], PATIENCE)
    assert Cell(step.saga.status, step.says, step.deadline_s) == TABLE[state][fact]


@pytest.mark.parametrize(("state", "fact"), CELLS)
def test_the_same_fact_again_changes_nothing_and_says_nothing(state: str, fact: str) -> None:
    once = transition(STATES[state], FACTS[fact], PATIENCE).saga
    assert transition(once, FACTS[fact], PATIENCE) == Step(once)


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
    assert requested == Step(AWAITING, (), FIRST_S)
    settling = replace(AWAITING, status=Status.SETTLING, version=2, payment_version=4, capture=CAPTURE)
    assert transition(AWAITING, Captured(4, 1_000, "EUR", "R-1"), PATIENCE) == Step(settling, (RECORD,))
    assert transition(settling, Paid(), PATIENCE) == Step(replace(settling, status=Status.COMPLETED, version=3))


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
    assert transition(STATES[state], stale, PATIENCE) == Step(STATES[state])


@pytest.mark.parametrize("state", [name for name, saga in STATES.items() if saga.payment_version])
@pytest.mark.parametrize("money", ["captured", "refunded"])
def test_money_that_moved_is_never_stale(state: str, money: str) -> None:
    fresh = FACTS[money]
    assert isinstance(fresh, Captured | Refunded)
    after = transition(STATES[state], replace(fresh, version=1), PATIENCE)
    assert Cell(after.saga.status, after.says, after.deadline_s) == TABLE[state][money]


def test_the_version_heard_of_never_goes_back() -> None:
    settling = transition(STATES["in_doubt"], Captured(1, 1_000, "EUR", "R-1"), PATIENCE).saga
    assert (settling.status, settling.payment_version) == (Status.SETTLING, VERSION)


def test_a_failure_that_the_invoice_never_noted_is_owed_beside_the_refund() -> None:
    refunding = transition(DECLINED, FACTS["captured"], PATIENCE).saga
    reminded = transition(refunding, DeadlineFired(1), PATIENCE)
    assert reminded.says == (REFUND_LATE, TELL_DECLINE)
    refunded = transition(reminded.saga, Refunded(7), PATIENCE).saga
    assert transition(refunded, DeadlineFired(refunded.deadline), PATIENCE).says == (TELL_DECLINE,)
    noted = transition(refunded, FACTS["payment failed"], PATIENCE).saga
    assert transition(noted, DeadlineFired(noted.deadline), PATIENCE) == Step(noted)


def test_a_failure_noted_while_settling_is_not_told_again_once_the_settlement_is_rejected() -> None:
    noted = transition(STATES["settling"], FACTS["payment failed"], PATIENCE).saga
    assert transition(noted, FACTS["settlement rejected"], PATIENCE).says == (REFUND_REJECTED,)


def test_a_person_who_closes_the_refund_ends_it_whatever_came_before() -> None:
    closed = RefundFailed(NEWER, closed=True)
    for state in ("refunding", "refund_in_doubt"):
        assert transition(STATES[state], closed, PATIENCE).saga.status is Status.NOT_REFUNDED


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
    assert (saga.status, saga.repeats, saga.deadline_s) == (Status.NEEDS_DECISION, 3, LAST_S)


def test_an_outcome_does_not_wait_for_the_long_deadline_of_a_doubt() -> None:
    doubtful = transition(STATES["needs_decision"], DeadlineFired(1), PATIENCE).saga
    assert doubtful.deadline_s == LAST_S
    settling = transition(doubtful, FACTS["captured"], PATIENCE)
    assert (settling.deadline_s, settling.saga.deadline, settling.saga.repeats) == (FIRST_S, 3, 0)
    assert transition(settling.saga, DeadlineFired(2), PATIENCE) == Step(settling.saga)  # a newer one is under way
    assert transition(settling.saga, DeadlineFired(3), PATIENCE).says == (RECORD,)


def test_a_saga_that_nobody_answers_falls_silent() -> None:
    patient = replace(AWAITING, repeats=domain.REPEATS_MAX - 1)
    last = transition(patient, DeadlineFired(1), PATIENCE)
    assert (last.says, last.deadline_s) == ((ASK,), None)
    assert transition(last.saga, DeadlineFired(1), PATIENCE) == Step(last.saga)
    awake = transition(last.saga, FACTS["captured"], PATIENCE)
    assert (awake.says, awake.deadline_s) == ((RECORD,), FIRST_S)
