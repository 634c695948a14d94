"""Reminders: a deadline sends the last command again, at growing intervals, until its effect was seen."""

from dataclasses import replace

from services.saga import domain
from services.saga.domain import (
    DeadlineFired,
    InDoubt,
    NeedsDecision,
    Refunded,
    RefundInDoubt,
    RefundPayment,
    SagaStatus,
    SagaStep,
    transition,
)
from tests.unit.saga.sagas import (
    ABSENT,
    ASK,
    AWAITING,
    DECLINED,
    FACTS,
    FIRST_S,
    LAST_S,
    NEWER,
    PATIENCE,
    RECORD,
    REFUND_LATE,
    SECOND_S,
    STATES,
    TELL_DECLINE,
    TELL_REFUND,
)


def test_a_failure_the_invoice_never_recorded_is_sent_again_beside_the_refund() -> None:
    refunding = transition(DECLINED, FACTS["captured"], PATIENCE).saga
    reminded = transition(refunding, DeadlineFired(1), PATIENCE)
    assert reminded.says == (REFUND_LATE, TELL_DECLINE)
    refunded = transition(reminded.saga, Refunded(7), PATIENCE).saga
    assert transition(refunded, DeadlineFired(refunded.deadline), PATIENCE).says == (TELL_DECLINE,)
    noted = transition(refunded, FACTS["payment failed"], PATIENCE).saga
    assert transition(noted, DeadlineFired(noted.deadline), PATIENCE) == SagaStep(noted)


def test_a_refund_that_began_before_the_memory_of_the_saga_is_asked_for_again() -> None:
    refunding = transition(ABSENT, RefundInDoubt(NEWER), PATIENCE).saga
    assert domain.reminders(refunding) == (RefundPayment("the payment is being refunded"), TELL_REFUND)


def test_a_saga_that_settles_and_has_lost_the_capture_asks_for_it() -> None:
    assert domain.reminders(replace(STATES["settling"], capture=None)) == (ASK,)


def test_reminders_come_at_growing_intervals_up_to_the_last_one() -> None:
    saga, delays = AWAITING, []
    for _ in range(4):
        step = transition(saga, DeadlineFired(saga.deadline), PATIENCE)
        assert step.says == (ASK,)
        saga = step.saga
        delays.append(step.deadline_s)
    assert delays == [SECOND_S, LAST_S, LAST_S, LAST_S]
    assert (saga.repeats, saga.deadline) == (4, 5)


def test_a_doubt_that_changes_its_name_does_not_restart_the_ladder() -> None:
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
    assert transition(settling.saga, DeadlineFired(2), PATIENCE) == SagaStep(settling.saga)  # a newer deadline is set
    assert transition(settling.saga, DeadlineFired(3), PATIENCE).says == (RECORD,)


def test_a_saga_without_any_answer_ends_its_reminders() -> None:
    patient = replace(AWAITING, repeats=domain.REPEATS_MAX - 1)
    last = transition(patient, DeadlineFired(1), PATIENCE)
    assert (last.says, last.deadline_s) == ((ASK,), None)
    assert transition(last.saga, DeadlineFired(1), PATIENCE) == SagaStep(last.saga)
    awake = transition(last.saga, FACTS["captured"], PATIENCE)
    assert (awake.says, awake.deadline_s) == ((RECORD,), FIRST_S)
