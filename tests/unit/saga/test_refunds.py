"""Refunds that upstream or a person asked for: made, recorded, reminded of; and facts about one that come in any order."""

from dataclasses import replace
from itertools import permutations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.saga import domain
from services.saga.domain import Command, DeadlineFired, Fact, Saga, SagaStatus, transition
from services.saga.handlers import ROUTES, say
from services.saga.refunds import (
    REMINDED_MAX,
    AskedRefundStatus,
    MakeRefund,
    RecordRefund,
    RecordRefundFailure,
    RefundAsked,
    RefundDoubted,
    RefundMade,
    RefundRecorded,
    RefundUnmade,
)
from shared.contracts import invoice as invoice_messages
from shared.contracts import payment_gateway as payment_messages
from tests.unit.saga.sagas import FIRST_S, PART, PATIENCE, SECOND_S, STATES

COMPLETED = STATES["completed"]
ASKED = RefundAsked(PART, 300, "EUR", "damaged")
MADE = RefundMade(6, PART, 300, "EUR")
CAME_BACK = RefundUnmade(8, PART, "lost_or_stolen_card", closed=False)
MADE_AGAIN = RefundMade(11, PART, 300, "EUR")


def after(*facts: Fact, saga: Saga = COMPLETED) -> tuple[Saga, tuple[Command, ...]]:
    """The saga after these facts, and what it said at the last one."""
    says: tuple[Command, ...] = ()
    for fact in facts:
        step = transition(saga, fact, PATIENCE)
        saga, says = step.saga, step.says
    return saga, says


def kinds(says: tuple[Command, ...]) -> list[type]:
    return [type(command) for command in says]


def test_a_refund_is_made_recorded_and_then_done() -> None:
    saga, says = after(ASKED)
    assert kinds(says) == [MakeRefund]
    assert (saga.status, saga.deadline_s) == (SagaStatus.COMPLETED, FIRST_S)
    saga, says = after(MADE, saga=saga)
    assert kinds(says) == [RecordRefund]
    saga, says = after(RefundRecorded(PART, 6), saga=saga)
    assert (says, domain.reminders(saga)) == ((), ())


@pytest.mark.parametrize(
    ("facts", "reminder"),
    [
        ((ASKED,), MakeRefund),
        ((ASKED, RefundDoubted(6, PART)), MakeRefund),
        ((ASKED, RefundUnmade(6, PART, "expired_card", closed=False)), MakeRefund),
        ((ASKED, MADE), RecordRefund),
        ((ASKED, MADE, RefundRecorded(PART, 6), CAME_BACK), RecordRefundFailure),
        ((ASKED, MADE, CAME_BACK, RefundRecorded(PART, 6)), RecordRefundFailure),
        ((ASKED, RefundUnmade(6, PART, "decided_by_person", closed=True)), RecordRefundFailure),
    ],
)
def test_a_deadline_says_again_what_had_no_effect_yet(facts: tuple[Fact, ...], reminder: type[Command]) -> None:
    saga, _ = after(*facts)
    reminded = transition(saga, DeadlineFired(saga.deadline), PATIENCE)
    assert kinds(reminded.says) == [reminder]
    assert reminded.deadline_s == SECOND_S


def test_a_refund_that_waits_for_a_person_is_not_told_as_failed() -> None:
    _, says = after(ASKED, RefundUnmade(6, PART, "expired_card", closed=False))
    assert says == ()
    _, says = after(
        ASKED,
        RefundUnmade(6, PART, "expired_card", closed=False),
        RefundUnmade(7, PART, "decided_by_person", closed=True),
    )
    assert kinds(says) == [RecordRefundFailure]


def test_one_that_comes_back_days_later_is_told_and_can_be_made_again() -> None:
    saga, says = after(ASKED, MADE, RefundRecorded(PART, 6), CAME_BACK)
    assert kinds(says) == [RecordRefundFailure]
    saga, says = after(RefundRecorded(PART, 8), MADE_AGAIN, saga=saga)
    assert kinds(says) == [RecordRefund]
    assert saga.refunds[0].version == 11


@pytest.mark.parametrize("facts", list(permutations((ASKED, MADE, CAME_BACK, MADE_AGAIN))))
def test_facts_about_a_refund_count_in_any_order(facts: tuple[Fact, ...]) -> None:
    saga, _ = after(*facts)
    (refund,) = saga.refunds
    assert (refund.status, refund.version, refund.amount_minor) == (AskedRefundStatus.MADE, 11, 300)
    assert (refund.asked_minor, refund.reason) == (300, "damaged")


@given(st.lists(st.sampled_from([ASKED, MADE, CAME_BACK, MADE_AGAIN, RefundRecorded(PART, 6)]), max_size=12))
def test_a_repeated_fact_says_nothing(facts: list[Fact]) -> None:
    saga, _ = after(*facts)
    for fact in facts[-1:]:
        if fact is not ASKED or not saga.refunds[0].is_recorded:
            assert after(fact, saga=saga) == (saga, ())


@pytest.mark.parametrize(
    ("facts", "said"),
    [((ASKED, MADE), RecordRefund), ((ASKED, RefundUnmade(6, PART, "kept", closed=True)), RecordRefundFailure)],
)
def test_an_invoice_that_lost_its_last_commit_and_asks_again_is_told_again(
    facts: tuple[Fact, ...], said: type[Command]
) -> None:
    saga, _ = after(*facts, RefundRecorded(PART, 6))
    assert domain.reminders(saga) == ()
    for _ in range(2):
        saga, says = after(ASKED, saga=saga)
        assert kinds(says) == [said]
    assert saga.deadline_s == after(*facts)[0].deadline_s, "only the invoice asks; no deadline does"


def test_a_refund_that_people_made_at_the_gateway_is_recorded_with_the_person_who_found_it() -> None:
    saga, says = after(replace(MADE, decided_by="ann"))
    assert kinds(says) == [RecordRefund]
    assert say(says[0], saga) == invoice_messages.RecordRefund(
        **ABOUT, refund_id=PART, amount_minor=300, currency="EUR", version=6, decided_by="ann"
    )
    told = RefundAsked(PART, 300, "EUR", "the money was given back at the gateway")
    saga, says = after(RefundRecorded(PART, 6), told, saga=saga)
    assert (says, domain.reminders(saga)) == ((), ())


def test_a_new_refund_is_not_kept_waiting_by_one_that_waits_for_a_person() -> None:
    tired = replace(after(ASKED)[0], repeats=domain.REPEATS_MAX, deadline_s=None)
    saga, says = after(replace(ASKED, refund_id=UUID(int=7)), saga=tired)
    assert kinds(says) == [MakeRefund]
    assert (saga.repeats, saga.deadline_s) == (0, FIRST_S)


def test_one_deadline_reminds_of_a_few_refunds() -> None:
    saga, _ = after(*(replace(ASKED, refund_id=UUID(int=number)) for number in range(1, 2 * REMINDED_MAX)))
    assert len(domain.reminders(saga)) == REMINDED_MAX


ABOUT = {"invoice_id": "INV-1", "payment_id": COMPLETED.payment_id}
EVENT = {**ABOUT, "amount_minor": 300, "currency": "EUR", "version": 6}
OURS = payment_messages.RefundFacts(refund_id=PART, amount_minor=300, refunded_minor=300, left_minor=0)
WHOLE = payment_messages.RefundFacts(refund_id=COMPLETED.payment_id, amount_minor=300, refunded_minor=300, left_minor=0)


def test_the_refund_of_the_saga_and_one_that_was_asked_for_are_told_apart() -> None:
    refunded = payment_messages.PaymentRefunded
    assert ROUTES[refunded](refunded(**EVENT, refund=OURS)) == MADE
    assert ROUTES[refunded](refunded(**EVENT, refund=WHOLE)) == domain.Refunded(6)
    assert ROUTES[refunded](refunded(**EVENT)) == domain.Refunded(6), "of a gateway service of the build before"


def test_what_the_saga_says_of_a_refund() -> None:
    (asked,) = after(ASKED)[0].refunds
    (made,) = after(ASKED, MADE)[0].refunds
    (back,) = after(ASKED, MADE, CAME_BACK)[0].refunds
    about = {**ABOUT, "refund_id": PART}
    assert [say(MakeRefund(asked), COMPLETED), say(RecordRefund(made), COMPLETED)] == [
        payment_messages.MakeRefund(**about, amount_minor=300, currency="EUR", reason="damaged"),
        invoice_messages.RecordRefund(**about, amount_minor=300, currency="EUR", version=6),
    ]
    assert say(RecordRefundFailure(back), COMPLETED) == invoice_messages.RecordRefundFailure(
        **about, reason="lost_or_stolen_card", version=8
    )


@pytest.mark.parametrize(
    ("facts", "reminded"),
    [
        ((RefundDoubted(8, PART),), []),
        ((RefundDoubted(8, PART), RefundUnmade(9, PART, "lost_or_stolen_card", closed=False)), []),
        ((RefundUnmade(8, PART, "lost_or_stolen_card", closed=False),), [RecordRefundFailure]),
    ],
    ids=["in doubt", "in doubt, then it waits for a person", "it came back"],
)
def test_what_people_made_at_the_gateway_is_never_made_anew(facts: tuple[Fact, ...], reminded: list[type]) -> None:
    """Nobody asked for it, so there is no reason to give; what becomes of it the gateway service tells by itself."""
    saga, says = after(MADE)
    assert kinds(says) == [RecordRefund]
    assert kinds(domain.reminders(after(*facts, saga=saga)[0])) == reminded


# -- order, and several at once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "early", [RefundDoubted(6, PART), RefundUnmade(6, PART, "expired_card", closed=False)], ids=["doubted", "unmade"]
)
def test_what_comes_before_its_request_is_not_noted_so_that_the_request_is_still_sent(early: Fact) -> None:
    assert after(early) == (COMPLETED, ())
    assert kinds(after(early, ASKED)[1]) == [MakeRefund]


def test_a_refund_that_the_gateway_service_forgot_and_found_again_is_recorded_once() -> None:
    recorded, _ = after(ASKED, MADE, RefundRecorded(PART, 6))
    again, says = after(replace(MADE, version=90), saga=recorded)
    assert (says, domain.reminders(again), again.refunds[0].version) == ((), (), 90)
    assert kinds(after(replace(CAME_BACK, version=91), saga=again)[1]) == [RecordRefundFailure]
    for other in (replace(MADE, version=90, amount_minor=299), replace(MADE, version=90, currency="USD")):
        assert kinds(after(other, saga=recorded)[1]) == [RecordRefund], "it came to another amount"
    unrecorded, _ = after(ASKED, MADE)
    assert kinds(after(replace(MADE, version=90), saga=unrecorded)[1]) == [RecordRefund]


def test_a_request_for_what_people_made_already_is_noted_and_nothing_is_said_twice() -> None:
    saga, says = after(MADE, ASKED)
    assert (says, saga.refunds[0].reason) == ((), "damaged")


@pytest.mark.parametrize("known", [(MADE,), (MADE, RefundRecorded(PART, 6))], ids=["made", "made and recorded"])
def test_an_outcome_that_comes_again_changes_nothing(known: tuple[Fact, ...]) -> None:
    saga, _ = after(ASKED, *known)
    assert after(MADE, saga=saga) == (saga, ())


@pytest.mark.parametrize(
    ("facts", "status", "code"),
    [
        ((RefundDoubted(6, PART),), AskedRefundStatus.IN_DOUBT, None),
        ((RefundUnmade(6, PART, "expired_card", closed=False),), AskedRefundStatus.FAILED, "expired_card"),
        ((MADE, CAME_BACK), AskedRefundStatus.UNMADE, "lost_or_stolen_card"),
        ((MADE, CAME_BACK, MADE_AGAIN), AskedRefundStatus.MADE, None),
    ],
)
def test_the_newest_outcome_is_the_one_with_its_own_code(
    facts: tuple[Fact, ...], status: AskedRefundStatus, code: str | None
) -> None:
    (refund,) = after(ASKED, *facts)[0].refunds
    assert (refund.status, refund.code) == (status, code)


def test_one_that_came_back_and_fails_again_is_told_with_its_new_code() -> None:
    """The invoice knows that it was made once, so it hears of every failure since."""
    _, says = after(ASKED, MADE, CAME_BACK, RefundUnmade(9, PART, "expired_card", closed=False))
    (told,) = says
    assert isinstance(told, RecordRefundFailure)
    assert (told.refund.code, told.refund.version) == ("expired_card", 9)


def test_what_becomes_of_one_refund_leaves_the_others_as_they_are() -> None:
    other = replace(ASKED, refund_id=UUID(int=7), amount_minor=200)
    saga, _ = after(ASKED, other)
    first, second = saga.refunds
    made = after(RefundMade(6, UUID(int=7), 200, "EUR"), saga=saga)[0].refunds
    assert made[0] == first
    assert (made[1].refund_id, made[1].status, made[1].asked_minor) == (second.refund_id, AskedRefundStatus.MADE, 200)


def test_an_invoice_that_asks_again_for_one_refund_is_told_of_that_one() -> None:
    other = replace(ASKED, refund_id=UUID(int=7))
    both = (RefundMade(7, UUID(int=7), 300, "EUR"), RefundRecorded(PART, 6), RefundRecorded(UUID(int=7), 7))
    saga, _ = after(ASKED, other, MADE, *both)
    (told,) = after(ASKED, saga=saga)[1]
    assert isinstance(told, RecordRefund)
    assert told.refund.refund_id == PART


def test_a_doubt_is_no_reason_to_ask_more_often_again() -> None:
    saga, _ = after(ASKED)
    for _ in range(2):
        saga, _ = after(DeadlineFired(saga.deadline), saga=saga)
    doubted = transition(saga, RefundDoubted(6, PART), PATIENCE)
    assert (doubted.saga.repeats, doubted.deadline_s) == (2, None), "the deadline that is set stays the next"
