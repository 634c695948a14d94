"""The saga, fact by fact: the effect of each fact in every state, with every cell written out."""

from dataclasses import dataclass, replace
from typing import get_args

import pytest

from services.saga import domain
from services.saga.domain import (
    REPEATS_MAX,
    Captured,
    Command,
    Declined,
    Fact,
    InDoubt,
    NeedsDecision,
    NotCharged,
    Paid,
    PaymentFailed,
    PaymentRequested,
    Refunded,
    RefundFailed,
    RefundInDoubt,
    SagaStatus,
    SagaStep,
    transition,
)
from tests.unit.saga.sagas import (
    ABSENT,
    ASK,
    AWAITING,
    CAPTURE,
    DECLINE,
    DECLINED,
    FACTS,
    FIRST_S,
    FLAG,
    LAST_S,
    MAKE_REFUND,
    NEWER,
    PATIENCE,
    RECORD,
    RECORD_ONCE_MORE,
    RECORD_REFUND,
    RECORD_UNMADE,
    REFUND_LATE,
    REFUND_REJECTED,
    SECOND_S,
    STATES,
    TELL_DECLINE,
    TELL_NOT_CHARGED,
    TELL_REFUND,
    TELL_REJECTION,
    VERSION,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """Status after the fact, the commands that are sent, and the seconds to a new deadline."""

    status: SagaStatus
    says: tuple[Command, ...] = ()
    deadline_s: float | None = None


def to(status: SagaStatus, *says: Command, deadline_s: float | None = None) -> Cell:
    return Cell(status, says, deadline_s)


def of_a_paid_invoice(*says: Command) -> dict[str, Cell]:
    """A refund was asked for, so the invoice is paid. A saga that gives the money back because the invoice could not take it goes on."""
    first = FIRST_S if says else None
    return {
        "absent": to(SagaStatus.COMPLETED, *says, deadline_s=first),
        "awaiting_outcome": to(SagaStatus.COMPLETED, *says),
        "in_doubt": to(SagaStatus.COMPLETED, *says),
        "needs_decision": to(SagaStatus.COMPLETED, *says),
        "settling": to(SagaStatus.COMPLETED, *says),
        "completed": to(SagaStatus.COMPLETED, *says, deadline_s=first),
        "failed, invoice told": to(SagaStatus.COMPLETED, *says),
        "failed": to(SagaStatus.COMPLETED, *says, deadline_s=first),
        "refunding": to(SagaStatus.REFUNDING, *says),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT, *says),
        "refunded": to(SagaStatus.REFUNDED, *says, deadline_s=first),
        "not_refunded": to(SagaStatus.NOT_REFUNDED, *says, deadline_s=first),
    }


TABLE: dict[str, dict[str, Cell]] = {
    # The payment is pending for too long: a saga that is new begins to wait. Other sagas know more already. If the invoice had recorded the
    # outcome, it has lost it, and is told again.
    "requested": {
        "absent": to(SagaStatus.AWAITING_OUTCOME, deadline_s=FIRST_S),
        "awaiting_outcome": to(SagaStatus.AWAITING_OUTCOME),
        "in_doubt": to(SagaStatus.IN_DOUBT),
        "needs_decision": to(SagaStatus.NEEDS_DECISION),
        "settling": to(SagaStatus.SETTLING),
        "completed": to(SagaStatus.COMPLETED, RECORD),
        "failed, invoice told": to(SagaStatus.FAILED),
        "failed": to(SagaStatus.FAILED, TELL_DECLINE),
        "refunding": to(SagaStatus.REFUNDING, TELL_DECLINE),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT, TELL_DECLINE),
        "refunded": to(SagaStatus.REFUNDED, TELL_DECLINE),
        "not_refunded": to(SagaStatus.NOT_REFUNDED, TELL_DECLINE),
    },
    # The card was charged: the invoice is asked to record the payment. After a failure was sent, the money goes back. A capture is final.
    "captured": {
        "absent": to(SagaStatus.SETTLING, RECORD, deadline_s=FIRST_S),
        "awaiting_outcome": to(SagaStatus.SETTLING, RECORD),
        "in_doubt": to(SagaStatus.SETTLING, RECORD),
        "needs_decision": to(SagaStatus.SETTLING, RECORD),
        "settling": to(SagaStatus.SETTLING),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.REFUNDING, REFUND_LATE),
        "failed": to(SagaStatus.REFUNDING, REFUND_LATE, deadline_s=FIRST_S),
        "refunding": to(SagaStatus.REFUNDING),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refunded": to(SagaStatus.REFUNDED),
        "not_refunded": to(SagaStatus.NOT_REFUNDED),
    },
    # The bank declined: the invoice is told once. A capture or refund stands.
    "declined": {
        "absent": to(SagaStatus.FAILED, TELL_DECLINE, deadline_s=FIRST_S),
        "awaiting_outcome": to(SagaStatus.FAILED, TELL_DECLINE),
        "in_doubt": to(SagaStatus.FAILED, TELL_DECLINE),
        "needs_decision": to(SagaStatus.FAILED, TELL_DECLINE),
        "settling": to(SagaStatus.SETTLING),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.FAILED),
        "failed": to(SagaStatus.FAILED),
        "refunding": to(SagaStatus.REFUNDING),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refunded": to(SagaStatus.REFUNDED),
        "not_refunded": to(SagaStatus.NOT_REFUNDED),
    },
    # The payment was never charged: the invoice is told, as for a decline.
    "not charged": {
        "absent": to(SagaStatus.FAILED, TELL_NOT_CHARGED, deadline_s=FIRST_S),
        "awaiting_outcome": to(SagaStatus.FAILED, TELL_NOT_CHARGED),
        "in_doubt": to(SagaStatus.FAILED, TELL_NOT_CHARGED),
        "needs_decision": to(SagaStatus.FAILED, TELL_NOT_CHARGED),
        "settling": to(SagaStatus.SETTLING),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.FAILED),
        "failed": to(SagaStatus.FAILED),
        "refunding": to(SagaStatus.REFUNDING),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refunded": to(SagaStatus.REFUNDED),
        "not_refunded": to(SagaStatus.NOT_REFUNDED),
    },
    # The outcome is unknown: the invoice is told once, whatever the doubt is called later. A known outcome stands.
    "in doubt": {
        "absent": to(SagaStatus.IN_DOUBT, FLAG, deadline_s=FIRST_S),
        "awaiting_outcome": to(SagaStatus.IN_DOUBT, FLAG),
        "in_doubt": to(SagaStatus.IN_DOUBT),
        "needs_decision": to(SagaStatus.IN_DOUBT),
        "settling": to(SagaStatus.SETTLING),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.FAILED),
        "failed": to(SagaStatus.FAILED),
        "refunding": to(SagaStatus.REFUNDING),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refunded": to(SagaStatus.REFUNDED),
        "not_refunded": to(SagaStatus.NOT_REFUNDED),
    },
    # A person has to decide: this is doubt with another name, watched at the longest intervals.
    "needs decision": {
        "absent": to(SagaStatus.NEEDS_DECISION, FLAG, deadline_s=LAST_S),
        "awaiting_outcome": to(SagaStatus.NEEDS_DECISION, FLAG),
        "in_doubt": to(SagaStatus.NEEDS_DECISION),
        "needs_decision": to(SagaStatus.NEEDS_DECISION),
        "settling": to(SagaStatus.SETTLING),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.FAILED),
        "failed": to(SagaStatus.FAILED),
        "refunding": to(SagaStatus.REFUNDING),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refunded": to(SagaStatus.REFUNDED),
        "not_refunded": to(SagaStatus.NOT_REFUNDED),
    },
    # The invoice is paid: the saga has ended, whatever it missed. A refund that was ordered cannot be recalled.
    "paid": {
        "absent": to(SagaStatus.COMPLETED),
        "awaiting_outcome": to(SagaStatus.COMPLETED),
        "in_doubt": to(SagaStatus.COMPLETED),
        "needs_decision": to(SagaStatus.COMPLETED),
        "settling": to(SagaStatus.COMPLETED),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.COMPLETED),
        "failed": to(SagaStatus.COMPLETED),
        "refunding": to(SagaStatus.REFUNDING),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refunded": to(SagaStatus.REFUNDED),
        "not_refunded": to(SagaStatus.NOT_REFUNDED),
    },
    # The invoice has recorded the failure, so it need not be told again. While settling, its answer to the settlement decides.
    "payment failed": {
        "absent": to(SagaStatus.FAILED),
        "awaiting_outcome": to(SagaStatus.FAILED),
        "in_doubt": to(SagaStatus.FAILED),
        "needs_decision": to(SagaStatus.FAILED),
        "settling": to(SagaStatus.SETTLING),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.FAILED),
        "failed": to(SagaStatus.FAILED),
        "refunding": to(SagaStatus.REFUNDING),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refunded": to(SagaStatus.REFUNDED),
        "not_refunded": to(SagaStatus.NOT_REFUNDED),
    },
    # The invoice cannot take the money: it goes back. The invoice is told that the payment failed, unless it knows.
    "settlement rejected": {
        "absent": to(SagaStatus.REFUNDING, REFUND_REJECTED, TELL_REJECTION, deadline_s=FIRST_S),
        "awaiting_outcome": to(SagaStatus.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "in_doubt": to(SagaStatus.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "needs_decision": to(SagaStatus.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "settling": to(SagaStatus.REFUNDING, REFUND_REJECTED, TELL_REJECTION),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.REFUNDING, REFUND_REJECTED),
        "failed": to(SagaStatus.REFUNDING, REFUND_REJECTED, deadline_s=FIRST_S),
        "refunding": to(SagaStatus.REFUNDING),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refunded": to(SagaStatus.REFUNDED),
        "not_refunded": to(SagaStatus.NOT_REFUNDED),
    },
    # The money went back, even after the invoice was paid. It ends the saga, unless the refund fails later.
    "refunded": {
        "absent": to(SagaStatus.REFUNDED, TELL_REFUND, deadline_s=FIRST_S),
        "awaiting_outcome": to(SagaStatus.REFUNDED, TELL_REFUND),
        "in_doubt": to(SagaStatus.REFUNDED, TELL_REFUND),
        "needs_decision": to(SagaStatus.REFUNDED, TELL_REFUND),
        "settling": to(SagaStatus.REFUNDED, TELL_REFUND),
        "completed": to(SagaStatus.REFUNDED),
        "failed, invoice told": to(SagaStatus.REFUNDED),
        "failed": to(SagaStatus.REFUNDED),
        "refunding": to(SagaStatus.REFUNDED),
        "refund_in_doubt": to(SagaStatus.REFUNDED),
        "refunded": to(SagaStatus.REFUNDED),
        "not_refunded": to(SagaStatus.REFUNDED),
    },
    # It is unknown whether the money went back. For a paid invoice no refund is ordered.
    "refund in doubt": {
        "absent": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND, deadline_s=FIRST_S),
        "awaiting_outcome": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "in_doubt": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "needs_decision": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "settling": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.REFUND_IN_DOUBT),
        "failed": to(SagaStatus.REFUND_IN_DOUBT, deadline_s=FIRST_S),
        "refunding": to(SagaStatus.REFUND_IN_DOUBT),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refunded": to(SagaStatus.REFUND_IN_DOUBT, deadline_s=FIRST_S),  # a bank sends it back days later
        "not_refunded": to(SagaStatus.REFUND_IN_DOUBT, deadline_s=FIRST_S),  # a person takes a decision back
    },
    # The gateway refused the refund: a case for a person, like a refund in doubt.
    "refund failed": {
        "absent": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND, deadline_s=FIRST_S),
        "awaiting_outcome": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "in_doubt": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "needs_decision": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "settling": to(SagaStatus.REFUND_IN_DOUBT, TELL_REFUND),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.REFUND_IN_DOUBT),
        "failed": to(SagaStatus.REFUND_IN_DOUBT, deadline_s=FIRST_S),
        "refunding": to(SagaStatus.REFUND_IN_DOUBT),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT),
        "refunded": to(SagaStatus.REFUND_IN_DOUBT, deadline_s=FIRST_S),  # a bank sends it back days later
        "not_refunded": to(SagaStatus.REFUND_IN_DOUBT, deadline_s=FIRST_S),  # a person takes a decision back
    },
    # A person decided that the money stays: the refund has ended, whatever came before.
    "refund closed": {
        "absent": to(SagaStatus.NOT_REFUNDED, TELL_REFUND, deadline_s=FIRST_S),
        "awaiting_outcome": to(SagaStatus.NOT_REFUNDED, TELL_REFUND),
        "in_doubt": to(SagaStatus.NOT_REFUNDED, TELL_REFUND),
        "needs_decision": to(SagaStatus.NOT_REFUNDED, TELL_REFUND),
        "settling": to(SagaStatus.NOT_REFUNDED, TELL_REFUND),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.NOT_REFUNDED),
        "failed": to(SagaStatus.NOT_REFUNDED),
        "refunding": to(SagaStatus.NOT_REFUNDED),
        "refund_in_doubt": to(SagaStatus.NOT_REFUNDED),
        "refunded": to(SagaStatus.NOT_REFUNDED),
        "not_refunded": to(SagaStatus.NOT_REFUNDED),
    },
    # Upstream or a person asked for a refund: it is made, and recorded on the invoice. Of one that is unknown the request comes again.
    "refund asked": of_a_paid_invoice(MAKE_REFUND),
    "refund made": of_a_paid_invoice(RECORD_REFUND),
    "refund doubted": of_a_paid_invoice(),
    "refund unmade": of_a_paid_invoice(),
    "refund recorded": of_a_paid_invoice(),
    # A deadline fired: the last command is sent again, with a longer deadline. A saga that has ended sends nothing.
    "deadline": {
        "absent": to(SagaStatus.ABSENT),
        "awaiting_outcome": to(SagaStatus.AWAITING_OUTCOME, ASK, deadline_s=SECOND_S),
        "in_doubt": to(SagaStatus.IN_DOUBT, ASK, deadline_s=SECOND_S),
        "needs_decision": to(SagaStatus.NEEDS_DECISION, ASK, deadline_s=LAST_S),
        "settling": to(SagaStatus.SETTLING, RECORD, deadline_s=SECOND_S),
        "completed": to(SagaStatus.COMPLETED),
        "failed, invoice told": to(SagaStatus.FAILED, TELL_DECLINE, deadline_s=SECOND_S),
        "failed": to(SagaStatus.FAILED),
        "refunding": to(SagaStatus.REFUNDING, REFUND_LATE, deadline_s=SECOND_S),
        "refund_in_doubt": to(SagaStatus.REFUND_IN_DOUBT, REFUND_LATE, deadline_s=SECOND_S),
        "refunded": to(SagaStatus.REFUNDED),
        "not_refunded": to(SagaStatus.NOT_REFUNDED),
    },
}

PART_REFUNDED = "completed, a part refunded"
TABLE = {fact: {**row, PART_REFUNDED: to(row["completed"].status)} for fact, row in TABLE.items()}
TABLE["requested"][PART_REFUNDED] = TABLE["requested"]["completed"]
TABLE["refund asked"][PART_REFUNDED] = to(SagaStatus.COMPLETED, RECORD_ONCE_MORE)
TABLE["refund doubted"][PART_REFUNDED] = to(SagaStatus.COMPLETED, deadline_s=FIRST_S)
TABLE["refund unmade"][PART_REFUNDED] = to(SagaStatus.COMPLETED, RECORD_UNMADE, deadline_s=FIRST_S)
"""A refund that was made, and that the invoice has recorded, is still heard of: it may come back days later. That it was made is no news.
If the invoice asks for it again, it has lost its last commit, and is told again."""

CELLS = [(fact, state) for fact in FACTS for state in STATES]
ANSWERED = [("requested", state) for state, cell in TABLE["requested"].items() if cell.says] + [
    ("refund asked", PART_REFUNDED)
]
"""In these states the invoice gets an answer each time that it says that it still waits."""


def test_the_table_has_every_status_every_fact_and_every_cell() -> None:
    assert {saga.status for saga in STATES.values()} == set(SagaStatus)
    assert {type(fact) for fact in FACTS.values()} == set(get_args(domain.Fact))
    assert [(fact, state) for fact, row in TABLE.items() for state in row] == CELLS


@pytest.mark.parametrize(("fact", "state"), CELLS)
def test_a_fact_in_a_state(fact: str, state: str) -> None:
    step = transition(STATES[state], FACTS[fact], PATIENCE)
    assert Cell(step.saga.status, step.says, step.deadline_s) == TABLE[fact][state]


@pytest.mark.parametrize(("fact", "state"), [cell for cell in CELLS if cell not in ANSWERED])
def test_a_repeated_fact_changes_nothing_and_sends_nothing(fact: str, state: str) -> None:
    once = transition(STATES[state], FACTS[fact], PATIENCE).saga
    assert transition(once, FACTS[fact], PATIENCE) == SagaStep(once)


@pytest.mark.parametrize(("fact", "state"), ANSWERED)
def test_an_invoice_that_still_waits_is_answered_each_time_but_not_for_ever(fact: str, state: str) -> None:
    saga, answers = STATES[state], list[tuple[Command, ...]]()
    for _ in range(REPEATS_MAX + 2):
        step = transition(saga, FACTS[fact], PATIENCE)
        saga, answers = step.saga, [*answers, step.says]
    assert answers == [TABLE[fact][state].says] * REPEATS_MAX + [()] * 2


@pytest.mark.parametrize(("fact", "state"), CELLS)
def test_a_change_is_one_version_and_without_one_nothing_is_sent(fact: str, state: str) -> None:
    before = STATES[state]
    step = transition(before, FACTS[fact], PATIENCE)
    assert step.saga.version == before.version + (step.saga != before)
    assert step.saga != before or (step.says, step.deadline_s) == ((), None)


@pytest.mark.parametrize(("fact", "state"), CELLS)
def test_a_saga_that_waits_has_a_deadline(fact: str, state: str) -> None:
    after = transition(STATES[state], FACTS[fact], PATIENCE).saga
    assert not domain.reminders(after) or after.deadline_s is not None


# -- more than the table can show --------------------------------------------------------------------------------------------------------


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
        Refunded(VERSION - 1),
    ],
    ids=lambda fact: type(fact).__name__,
)
@pytest.mark.parametrize("state", [name for name, saga in STATES.items() if saga.payment_version])
def test_an_older_outcome_than_the_known_one_is_ignored(state: str, stale: Fact) -> None:
    assert transition(STATES[state], stale, PATIENCE) == SagaStep(STATES[state])


@pytest.mark.parametrize("state", [name for name, saga in STATES.items() if saga.payment_version])
def test_a_capture_is_never_stale(state: str) -> None:
    fresh = FACTS["captured"]
    assert isinstance(fresh, Captured)
    after = transition(STATES[state], replace(fresh, version=1), PATIENCE)
    assert Cell(after.saga.status, after.says, after.deadline_s) == TABLE["captured"][state]


@pytest.mark.parametrize("end", [Refunded(VERSION), RefundFailed(VERSION, closed=True)])
def test_only_news_leads_back_from_the_end(end: Fact) -> None:
    ended = transition(STATES["refunding"], end, PATIENCE).saga
    for same in (RefundInDoubt(VERSION), RefundFailed(VERSION, closed=False)):
        assert transition(ended, same, PATIENCE) == SagaStep(ended)


def test_the_known_version_never_goes_back() -> None:
    settling = transition(STATES["in_doubt"], Captured(1, 1_000, "EUR", "R-1"), PATIENCE).saga
    assert (settling.status, settling.payment_version) == (SagaStatus.SETTLING, VERSION)


@pytest.mark.parametrize(
    "news",
    [
        Declined(NEWER, "do_not_honor"),
        NotCharged(NEWER, "never_sent"),
        InDoubt(NEWER),
        NeedsDecision(NEWER),
        Refunded(NEWER),
        RefundInDoubt(NEWER),
        RefundFailed(NEWER, closed=True),
        Captured(NEWER, 1_000, "EUR", "R-1"),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_every_outcome_makes_the_ones_before_it_stale(news: Fact) -> None:
    assert transition(ABSENT, news, PATIENCE).saga.payment_version == NEWER


def test_the_first_capture_heard_of_is_the_one() -> None:
    """A person may have recorded it under another receipt number than the gateway gives it later."""
    again = transition(STATES["settling"], Captured(NEWER, 1_000, "EUR", "R-2"), PATIENCE).saga
    assert (again.capture, again.payment_version) == (CAPTURE, NEWER)


def test_the_first_failure_heard_of_is_the_one() -> None:
    noted = transition(DECLINED, PaymentFailed("not_charged", "another"), PATIENCE).saga
    assert (noted.failure, noted.failure_recorded) == (DECLINE, True)


def test_a_failure_recorded_while_settling_is_not_sent_again_after_a_rejection() -> None:
    noted = transition(STATES["settling"], FACTS["payment failed"], PATIENCE).saga
    assert transition(noted, FACTS["settlement rejected"], PATIENCE).says == (REFUND_REJECTED,)


def test_an_invoice_that_waits_again_after_its_payment_went_back_is_told_that_it_went_back() -> None:
    """It had recorded the payment, and lost that with its last commit."""
    refunded = transition(STATES["completed"], Refunded(NEWER), PATIENCE).saga
    assert (refunded.status, refunded.failure) == (SagaStatus.REFUNDED, None)
    assert transition(refunded, PaymentRequested(), PATIENCE).says == (TELL_REFUND,)


def test_an_invoice_that_was_paid_before_the_memory_of_the_saga_is_told_nothing_that_the_saga_does_not_know() -> None:
    paid = transition(ABSENT, Paid(), PATIENCE).saga
    assert transition(paid, PaymentRequested(), PATIENCE) == SagaStep(paid)
