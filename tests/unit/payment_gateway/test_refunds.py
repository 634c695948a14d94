"""Refunds in parts: never more than was captured, one after the other, each id once; and what comes back days later."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.payment_gateway import afterwards, domain
from services.payment_gateway.commands import Command, Refund, Resolve
from services.payment_gateway.domain import (
    WENT_BACK,
    GatewayStep,
    Outcome,
    Payment,
    PaymentStatus,
    PaymentTransition,
)
from services.payment_gateway.gateways import port
from services.payment_gateway.refunds import (
    PaymentRefund,
    PaymentRefundStatus,
    find,
    refunded_minor,
    refunded_there_minor,
    told_by_hand,
)
from shared.records import replace
from tests.unit.payment_gateway.payments import (
    ID,
    LAST,
    NOT_SENT,
    POLICY,
    REFUNDED,
    REMIND_S,
    SECOND_S,
    UNKNOWN,
    on_known,
    payment,
)

CAPTURED_MINOR = 1_250
IDS = [UUID(int=number) for number in range(1, 6)]
CAPTURED = payment(PaymentStatus.CAPTURED)
INQUIRE, SEND = GatewayStep.INQUIRE_REFUND, GatewayStep.REFUND


def refund(number: int, amount_minor: int | None = None) -> Refund:
    return Refund(ID, "INV-1", IDS[number], "damaged", amount_minor, "EUR")


def asked(*commands: Refund) -> Payment:
    """The captured payment after these commands."""
    at = CAPTURED
    for command in commands:
        at = on_known(at, command).payment
    return at


def answered(at: Payment, *answers: tuple[GatewayStep, port.RefundAnswer]) -> PaymentTransition:
    """The last transition after these answers."""
    transition = PaymentTransition(at)
    for step, answer in answers:
        transition = afterwards.on_answer(transition.payment, step, answer, POLICY)
    return transition


# -- parts -----------------------------------------------------------------------------------------------------------------------------


def test_after_a_part_the_payment_is_captured_again() -> None:
    made = answered(
        asked(refund(0, 250)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, port.Refunded("re_1", ""))
    )
    assert (made.payment.status, made.outcome, made.delay_s) == (PaymentStatus.CAPTURED, Outcome.REFUNDED, None)
    assert refunded_minor(made.payment.refunds) == 250


def test_refunds_follow_each_other() -> None:
    both = asked(refund(0, 250), refund(1))
    assert [one.status for one in both.refunds] == [PaymentRefundStatus.AT_WORK, PaymentRefundStatus.WAITING]
    first = answered(both, (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, port.Refunded("re_1", "")))
    assert first.delay_s == 0.0
    begun = domain.on_due(first.payment)
    assert (begun.payment.status, begun.then) == (PaymentStatus.REFUNDING, INQUIRE)
    rest = answered(begun.payment, (INQUIRE, port.NoRefund("", 1_000)))
    assert domain.refund_order(rest.payment).amount_minor == 1_000
    ended = answered(rest.payment, (SEND, port.Refunded("re_2", "")))
    assert (ended.payment.status, refunded_minor(ended.payment.refunds)) == (PaymentStatus.REFUNDED, CAPTURED_MINOR)


@pytest.mark.parametrize(
    ("amount_minor", "left_minor", "sent_minor"), [(None, 950, 950), (950, 950, 950), (951, 950, None), (250, 0, None)]
)
def test_no_more_is_sent_than_the_gateway_says_is_left(
    amount_minor: int | None, left_minor: int, sent_minor: int | None
) -> None:
    """300 or more were given back by hand, which is told first."""
    known = answered(asked(refund(0, amount_minor)), *[(INQUIRE, port.NoRefund("", left_minor))] * 2)
    if sent_minor is None:
        assert (known.outcome, known.payment.reason) == (Outcome.REFUND_FAILED, "refund_too_large")
    else:
        assert (known.then, domain.refund_order(known.payment).amount_minor) == (SEND, sent_minor)


@pytest.mark.parametrize("amount_minor", [None, 250])
def test_what_was_given_back_by_hand_meanwhile_is_told_as_a_refund_of_its_own(amount_minor: int | None) -> None:
    told = answered(asked(refund(0, amount_minor)), (INQUIRE, port.NoRefund("", 950)))
    ours, theirs = told.payment.refunds
    assert (told.outcome, told.then, told.payment.status) == (Outcome.REFUNDED, INQUIRE, PaymentStatus.REFUNDING)
    assert (theirs.asked_minor, theirs.amount_minor, theirs.reason) == (300, 300, WENT_BACK)
    assert theirs.version == told.payment.version
    assert theirs.refund_id not in {ID, ours.refund_id}
    sent = answered(told.payment, (INQUIRE, port.NoRefund("", 950)), (SEND, port.Refunded("re_1", "")))
    given_back = {one.refund_id: one.amount_minor for one in sent.payment.refunds}
    assert given_back == {ours.refund_id: amount_minor or 950, theirs.refund_id: 300}
    assert refunded_minor(sent.payment.refunds) == 300 + (amount_minor or 950)
    assert sent.payment.status is (PaymentStatus.CAPTURED if amount_minor else PaymentStatus.REFUNDED)


def test_a_refund_that_is_in_doubt_again_after_that_is_a_case_again() -> None:
    doubted = answered(asked(refund(0, 250)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, UNKNOWN))
    assert doubted.outcome is Outcome.REFUND_IN_DOUBT
    told = answered(doubted.payment, (INQUIRE, port.NoRefund("", 950)))
    assert (told.outcome, told.payment.status) == (Outcome.REFUNDED, PaymentStatus.REFUNDING)
    assert answered(told.payment, (INQUIRE, NOT_SENT)).delay_s == SECOND_S, "the ladder does not begin anew"
    again = answered(told.payment, (INQUIRE, port.NoRefund("", 950)), (SEND, UNKNOWN))
    assert (again.outcome, again.payment.version) == (Outcome.REFUND_IN_DOUBT, told.payment.version + 1)


def test_what_was_given_back_of_money_that_no_invoice_took_is_told_to_none() -> None:
    whole = on_known(CAPTURED, Refund(ID, "INV-1", ID, "the invoice could not take it")).payment
    sent = answered(whole, (INQUIRE, port.NoRefund("", 950)), (SEND, port.Refunded("re_1", "")))
    assert (sent.payment.status, refunded_minor(sent.payment.refunds)) == (PaymentStatus.REFUNDED, CAPTURED_MINOR)
    assert len(sent.payment.refunds) == 1


@pytest.mark.parametrize(
    ("amount_minor", "left_minor", "reason", "sent_minor"),
    [(None, 950, None, 950), (None, 0, None, None), (1_000, 950, "refund_too_large", None)],
)
def test_a_refund_that_others_outran_is_measured_by_what_is_left(
    amount_minor: int | None, left_minor: int, reason: str | None, sent_minor: int | None
) -> None:
    """Between our look and our request, somebody gave a part back in the dashboard: the gateway refuses ours."""
    outrun = port.RefundFailed("charge_already_refunded", "400", left_minor=left_minor)
    refused = answered(asked(refund(0, amount_minor)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, outrun))
    assert (refused.outcome, refused.delay_s) == (None, POLICY.ladder_s[0])
    looks = [(INQUIRE, port.NoRefund("", left_minor))] * (1 if left_minor == 0 else 2)
    after = answered(refused.payment, *looks)
    assert after.payment.reason == reason
    assert (domain.refund_order(after.payment).amount_minor if after.then is SEND else None) == sent_minor
    assert (after.outcome is Outcome.REFUNDED) is (left_minor == 0)


def test_a_refund_that_is_refused_although_enough_is_left_waits_for_a_person() -> None:
    disputed = port.RefundFailed("charge_disputed", "400", left_minor=CAPTURED_MINOR)
    refused = answered(asked(refund(0)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, disputed))
    assert (refused.outcome, refused.payment.reason) == (Outcome.REFUND_FAILED, "charge_disputed")


def test_a_refund_of_the_rest_that_was_made_by_hand_is_made() -> None:
    found = answered(asked(refund(0)), (INQUIRE, port.NoRefund("", 0)))
    assert (found.outcome, found.payment.refunds[0].amount_minor) == (Outcome.REFUNDED, CAPTURED_MINOR)


def test_no_more_is_booked_as_given_back_than_was_captured_when_people_are_quicker() -> None:
    """Our refund of all was lost. Meanwhile people gave back a part at the gateway, and then the rest."""
    lost = answered(asked(refund(0)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, UNKNOWN)).payment
    ended = answered(lost, (INQUIRE, port.NoRefund("", 950)), (INQUIRE, port.NoRefund("", 0)))
    assert [one.amount_minor for one in ended.payment.refunds] == [950, 300]
    assert (ended.payment.status, ended.outcome) == (PaymentStatus.REFUNDED, Outcome.REFUNDED)


def test_the_rest_of_nothing_is_a_case() -> None:
    all_back = answered(
        asked(refund(0)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, port.Refunded("re_1", ""))
    )
    again = answered(on_known(all_back.payment, refund(1)).payment, (INQUIRE, port.NoRefund("", 0)))
    assert (again.outcome, again.payment.reason) == (Outcome.REFUND_FAILED, "nothing_left")


def test_the_rest_changes_its_key_with_its_amount() -> None:
    lost = answered(asked(refund(0)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, UNKNOWN)).payment
    same, less = (answered(lost, *[(INQUIRE, port.NoRefund("", left))] * 2).payment for left in (CAPTURED_MINOR, 950))
    assert domain.idempotency_key(same, SEND) == domain.idempotency_key(lost, SEND)
    assert domain.idempotency_key(lost, SEND) == f"{ID}:refund:{IDS[0]}:1"
    assert domain.idempotency_key(less, SEND) == f"{ID}:refund:{IDS[0]}:2"


def test_the_rest_of_a_smaller_capture_is_all_of_it_even_after_a_try_that_failed() -> None:
    """What the gateway captured is forgotten with what it says of the try."""
    case = replace(
        payment(PaymentStatus.NEEDS_DECISION),
        reason="capture_differs",
        gateway_side=domain.side_of(replace(seen(0), amount_minor=900)),
    )
    back = on_known(case, Resolve(ID, "INV-1", "give_back", case.version, "ann")).payment
    failed = port.RefundFailed("expired_card", "", "re_1", 900)
    tried = answered(back, (INQUIRE, port.NoRefund("", 900)), (SEND, failed))
    assert tried.outcome is Outcome.REFUND_FAILED
    made = answered(tried.payment, (INQUIRE, port.Refunded("re_2", ""))).payment
    assert (made.status, made.refunds[0].amount_minor) == (PaymentStatus.REFUNDED, 900)


def test_the_rest_takes_no_more_than_our_books_leave_and_what_came_back_is_a_case_of_its_own() -> None:
    """A part of ours came back, and nobody has looked since."""
    part = answered(asked(refund(0, 250)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, REFUNDED)).payment
    rest = on_known(part, refund(1)).payment
    made = answered(rest, (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, port.Refunded("re_2", ""))).payment
    assert [one.amount_minor for one in made.refunds] == [250, 1_000]
    back = answered(made, (INQUIRE, replace(BACK, left_minor=250)))
    assert (back.outcome, domain.refund_at_work(back.payment).refund_id) == (Outcome.REFUND_FAILED, IDS[0])
    again = on_known(back.payment, Resolve(ID, "INV-1", "refund_again", back.payment.version, "ann")).payment
    sent = answered(again, (INQUIRE, replace(BACK, left_minor=250))).payment
    assert domain.refund_order(sent).amount_minor == 250


@pytest.mark.parametrize(
    "at",
    [CAPTURED, replace(payment(PaymentStatus.NOT_CHARGED), gateway_id=None), asked(refund(0, 100), refund(1, 100))],
    ids=["none waits", "none was ever asked for", "one is at work"],
)
def test_no_refund_begins_when_a_payment_is_due_unless_one_waits_and_none_is_at_work(at: Payment) -> None:
    assert domain.on_due(at) == PaymentTransition(at)


def test_a_sum_counts_what_was_made_and_by_hand_the_most_that_the_gateway_showed() -> None:
    made = PaymentRefund(IDS[0], "", 250, PaymentRefundStatus.REFUNDED, amount_minor=250, by_hand_minor=100)
    kept = replace(made, refund_id=IDS[1], status=PaymentRefundStatus.KEPT, by_hand_minor=300)
    of_unknown_amount = replace(made, refund_id=IDS[2], amount_minor=None, by_hand_minor=0)
    assert refunded_minor((made, kept, of_unknown_amount)) == 250 + 300
    assert refunded_minor(()) == 0


def test_what_others_gave_back_counts_once_after_it_was_told() -> None:
    kept = PaymentRefund(IDS[0], "", 250, PaymentRefundStatus.KEPT, by_hand_minor=300)
    told = PaymentRefund(IDS[1], WENT_BACK, 300, PaymentRefundStatus.REFUNDED, amount_minor=300)
    assert refunded_minor(told_by_hand((kept,), told)) == 300


# -- lack of balance -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["insufficient_balance_for_refund", "balance_insufficient", "insufficient_funds"])
def test_lack_of_balance_is_tried_again_and_then_waits_for_a_person(code: str) -> None:
    at, refused = asked(refund(0, 250)), port.RefundFailed(code, "", left_minor=CAPTURED_MINOR)
    keys = []
    for rung in range(LAST):
        keys.append(domain.idempotency_key(at, SEND))
        tried = answered(at, (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, refused))
        assert (tried.outcome, tried.delay_s) == (None, POLICY.ladder_s[rung])
        at = tried.payment
    given_up = answered(at, (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, refused))
    assert (given_up.outcome, given_up.payment.reason, given_up.delay_s) == (Outcome.REFUND_FAILED, code, REMIND_S)
    assert len(set(keys)) == LAST, "the gateway replays a refusal under its key"
    again = on_known(given_up.payment, Resolve(ID, "INV-1", "refund_again", given_up.payment.version, "ann"))
    assert (again.payment.status, again.delay_s, domain.next_step(again.payment)) == (
        PaymentStatus.REFUNDING,
        0.0,
        INQUIRE,
    )
    made = answered(again.payment, (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, port.Refunded("re_1", "")))
    assert made.outcome is Outcome.REFUNDED


def test_a_try_that_failed_is_known_and_not_taken_for_the_next_one() -> None:
    failed = port.RefundFailed("expired_card", "", "re_1", CAPTURED_MINOR)
    case = answered(asked(refund(0, 250)), (INQUIRE, failed)).payment
    again = on_known(case, Resolve(ID, "INV-1", "refund_again", case.version, "ann")).payment
    assert answered(again, (INQUIRE, failed)).then is SEND
    other = answered(again, (INQUIRE, replace(failed, refund_id="re_2")))
    assert other.outcome is Outcome.REFUND_FAILED, "another try failed meanwhile"


# -- days later ------------------------------------------------------------------------------------------------------------------------


BACK = port.RefundFailed("lost_or_stolen_card", "", "re_1", CAPTURED_MINOR, IDS[0])
"""The bank sent the money of the first refund back."""


def made_in_parts() -> Payment:
    """Captured, of which 250 and then 500 were given back."""
    first = answered(
        asked(refund(0, 250)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, port.Refunded("re_1", ""))
    )
    second = on_known(first.payment, refund(1, 500)).payment
    return answered(second, (INQUIRE, port.NoRefund("", 1_000)), (SEND, port.Refunded("re_2", ""))).payment


def seen(refunded_minor: int) -> port.Captured:
    return port.Captured("pi_1", CAPTURED_MINOR, "EUR", "ch_1", "", refunded_minor)


def test_what_we_gave_back_in_parts_is_no_contradiction() -> None:
    made = made_in_parts()
    assert domain.next_step(made) is GatewayStep.INQUIRE
    agreed, more = (afterwards.on_answer(made, GatewayStep.INQUIRE, seen(back), POLICY) for back in (750, 751))
    assert (agreed.outcome, agreed.then) == (None, None)
    assert (more.outcome, more.payment.reason) == (Outcome.NEEDS_DECISION, "refunded_at_gateway")


def test_a_part_that_fails_days_later_is_a_case_and_can_be_made_again() -> None:
    made = made_in_parts()
    less = afterwards.on_answer(made, GatewayStep.INQUIRE, seen(500), POLICY)
    assert (less.payment, less.then) == (made, INQUIRE)
    assert domain.refunds_asked_about(made) == (IDS[0], IDS[1])
    late = answered(made, (INQUIRE, BACK))
    assert (late.outcome, late.payment.status) == (Outcome.REFUND_FAILED, PaymentStatus.REFUND_FAILED)
    assert (late.payment.reason, late.payment.settled_as) == ("lost_or_stolen_card", PaymentStatus.CAPTURED)
    assert (refunded_minor(late.payment.refunds), late.payment.refunds[0].version) == (500, late.payment.version)
    again = on_known(late.payment, Resolve(ID, "INV-1", "refund_again", late.payment.version, "ann")).payment
    assert answered(again, (INQUIRE, replace(BACK, left_minor=750))).then is SEND
    assert domain.idempotency_key(again, SEND) != domain.idempotency_key(asked(refund(0, 250)), SEND)


def test_a_part_that_fails_after_all_was_given_back_is_the_case() -> None:
    rest = on_known(made_in_parts(), refund(2)).payment
    whole = answered(rest, (INQUIRE, port.NoRefund("", 500)), (SEND, port.Refunded("re_3", ""))).payment
    assert (whole.status, domain.refunds_asked_about(whole)) == (PaymentStatus.REFUNDED, tuple(IDS[:3]))
    late = answered(whole, (INQUIRE, replace(BACK, left_minor=250))).payment
    assert (late.status, domain.refund_at_work(late).refund_id) == (PaymentStatus.REFUND_FAILED, IDS[0])
    kept = on_known(late, Resolve(ID, "INV-1", "not_refunded", late.version, "ann"))
    assert (kept.payment.status, refunded_minor(kept.payment.refunds)) == (PaymentStatus.CAPTURED, 1_000)


def test_no_look_is_taken_while_a_refund_is_at_work_or_waits() -> None:
    busy = on_known(made_in_parts(), refund(2, 100)).payment
    assert domain.refunds_asked_about(busy) == (IDS[2],)
    both = on_known(busy, refund(3, 100)).payment
    made = answered(both, (INQUIRE, port.NoRefund("", 500)), (SEND, port.Refunded("re_3", "")))
    assert (made.delay_s, domain.next_step(made.payment)) == (0.0, None)


def test_a_decision_about_a_part_is_watched_and_can_be_taken_back() -> None:
    case = answered(made_in_parts(), (INQUIRE, BACK)).payment
    decided = on_known(case, Resolve(ID, "INV-1", "refunded", case.version, "ann"))
    assert (decided.payment.status, decided.payment.decided_by, decided.delay_s) == (PaymentStatus.CAPTURED, "ann", 0.0)
    agreed = afterwards.on_answer(decided.payment, GatewayStep.INQUIRE, seen(750), POLICY)
    assert agreed.payment.gateway_side == domain.side_of(seen(750))
    reopened = on_known(decided.payment, Resolve(ID, "INV-1", "reopen", decided.payment.version, "bob"))
    assert (reopened.outcome, reopened.payment.reason) == (Outcome.REFUND_FAILED, "reopened_by_person")
    assert domain.refund_at_work(reopened.payment).refund_id == IDS[0]


def test_what_is_left_of_a_disputed_capture_is_given_back_as_one_more_refund() -> None:
    disputed = afterwards.on_answer(
        made_in_parts(), GatewayStep.INQUIRE, replace(seen(750), disputed=True), POLICY
    ).payment
    assert disputed.reason == "disputed"
    back = on_known(disputed, Resolve(ID, "INV-1", "give_back", disputed.version, "ann")).payment
    assert domain.refund_at_work(back).refund_id not in {ID, *IDS}, "an id of its own, so that the invoice hears of it"
    sent = answered(back, (INQUIRE, port.NoRefund("", 500)))
    assert domain.refund_order(sent.payment).amount_minor == 500
    ended = answered(sent.payment, (SEND, port.Refunded("re_3", ""))).payment
    assert (ended.status, refunded_minor(ended.refunds)) == (PaymentStatus.REFUNDED, CAPTURED_MINOR)


@pytest.mark.parametrize("answer", [port.Refunded("re_1", ""), port.RefundPending("re_1", ""), UNKNOWN, NOT_SENT])
def test_a_refund_that_was_made_stands_until_the_gateway_says_that_it_failed(answer: port.RefundAnswer) -> None:
    at = answered(asked(refund(0)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, port.Refunded("re_1", "")))
    assert at.payment.status is PaymentStatus.REFUNDED
    assert domain.refunds_asked_about(at.payment) == (IDS[0],)
    assert answered(at.payment, (INQUIRE, answer)) == PaymentTransition(replace(at.payment, rung=1))
    failed = answered(at.payment, (INQUIRE, port.RefundFailed("lost_or_stolen_card", "", "re_1", CAPTURED_MINOR)))
    assert (failed.outcome, failed.payment.reason) == (Outcome.REFUND_FAILED, "lost_or_stolen_card")


def test_a_part_that_others_gave_back_with_all_the_rest_was_not_made_by_us() -> None:
    made = made_in_parts()
    gone = answered(made, (INQUIRE, port.NoRefund("", 0, IDS[0])))
    assert (gone.outcome, gone.payment.reason) == (Outcome.REFUND_FAILED, "not_refunded")
    assert answered(made, (INQUIRE, port.Refunded("re_2", ""))).outcome is None, "all of them were made"


def test_what_people_gave_back_and_got_back_is_no_refund_of_ours_to_ask_about() -> None:
    kept = PaymentRefund(IDS[0], "", 250, PaymentRefundStatus.KEPT, by_hand_minor=300)
    looked = afterwards.on_answer(replace(CAPTURED, refunds=(kept,)), GatewayStep.INQUIRE, seen(0), POLICY)
    assert (looked.outcome, looked.then) == (None, None)


def test_an_answer_about_another_refund_is_not_taken_for_the_one_at_work() -> None:
    first = asked(refund(0, 250))
    second = on_known(
        answered(first, (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, port.Refunded("re_1", ""))).payment,
        refund(1, 500),
    ).payment
    assert domain.on_late_answer(second, port.Refunded("re_1", ""), POLICY, asked=first) is None


def test_an_answer_for_a_payment_that_had_no_refund_at_work_is_not_taken_for_the_one_that_has_begun() -> None:
    begun = asked(refund(0, 250))
    assert domain.on_late_answer(begun, port.Refunded("re_1", ""), POLICY, asked=CAPTURED) is None


def test_once_a_person_keeps_the_money_of_the_saga_only_that_refund_is_asked_about() -> None:
    part = PaymentRefund(IDS[0], "damaged", 250, PaymentRefundStatus.REFUNDED, amount_minor=250, version=2)
    case = payment(PaymentStatus.REFUND_FAILED)
    kept = on_known(
        replace(case, refunds=(*case.refunds, part)), Resolve(ID, "INV-1", "not_refunded", case.version, "ann")
    ).payment
    assert domain.refunds_asked_about(kept) == (ID,)


def test_where_no_refund_was_made_the_newest_is_asked_about() -> None:
    kept = [PaymentRefund(one, "damaged", 250, PaymentRefundStatus.KEPT) for one in IDS[:3]]
    assert domain.refunds_asked_about(replace(CAPTURED, refunds=tuple(kept))) == (IDS[2],)


def test_money_that_a_person_keeps_leaves_the_payment_captured() -> None:
    case = answered(asked(refund(0, 250)), (INQUIRE, port.RefundFailed("expired_card", "", "re_1"))).payment
    kept = on_known(case, Resolve(ID, "INV-1", "not_refunded", case.version, "ann"))
    assert (kept.payment.status, kept.outcome) == (PaymentStatus.CAPTURED, Outcome.REFUND_FAILED)
    assert (kept.payment.refunds[0].status, kept.payment.refunds[0].decided_by) == (PaymentRefundStatus.KEPT, "ann")


# -- decided by a person -----------------------------------------------------------------------------------------------------------------


def looked(at: Payment, answer: port.Captured) -> PaymentTransition:
    """What a look at the charge finds."""
    return afterwards.on_answer(at, GatewayStep.INQUIRE, answer, POLICY)


def called_made(case: Payment) -> Payment:
    """After a person said that the refund at work was made."""
    return on_known(case, Resolve(ID, "INV-1", "refunded", case.version, "ann")).payment


def paid_by_transfer(at: Payment, number: int, amount_minor: int) -> Payment:
    """The payment after this refund failed at the gateway, and staff paid it by bank transfer."""
    left_minor = CAPTURED_MINOR - refunded_there_minor(at.refunds)
    failed = port.RefundFailed("expired_card", "", "re_9", left_minor, IDS[number])
    return called_made(answered(on_known(at, refund(number, amount_minor)).payment, (INQUIRE, failed)).payment)


def made_at(at: Payment, number: int, amount_minor: int | None, left_minor: int) -> Payment:
    """The payment after the gateway made this refund."""
    return answered(
        on_known(at, refund(number, amount_minor)).payment,
        (INQUIRE, port.NoRefund("", left_minor)),
        (SEND, port.Refunded(f"re_{number}", "")),
    ).payment


def test_a_failure_that_a_person_decided_hides_no_other() -> None:
    third = made_at(CAPTURED, 2, 300, CAPTURED_MINOR)
    both = paid_by_transfer(third, 0, 400)
    assert [one.made_elsewhere for one in both.refunds] == [False, True]
    watched = afterwards.on_answer(both, GatewayStep.INQUIRE, seen(300), WATCHING)
    assert (watched.outcome, watched.delay_s) == (None, 1.0), "the other one is watched for its thirty days"
    back = looked(watched.payment, seen(0))
    assert (back.then, domain.refunds_asked_about(back.payment)) == (INQUIRE, (IDS[2],))
    case = answered(back.payment, (INQUIRE, port.RefundFailed("lost", "", "re_2", CAPTURED_MINOR, IDS[2])))
    assert (case.outcome, domain.refund_at_work(case.payment).refund_id) == (Outcome.REFUND_FAILED, IDS[2])
    assert refunded_minor(case.payment.refunds) == 400


WATCHING = replace(POLICY, refund_looks_s=(1.0, 2.0))


def test_a_dispute_that_a_person_let_stand_hides_no_refund() -> None:
    made = made_at(CAPTURED, 2, 300, CAPTURED_MINOR)
    disputed = replace(seen(300), disputed=True)
    case = looked(made, disputed).payment
    stands = on_known(case, Resolve(ID, "INV-1", "captured", case.version, "ann", "R-1")).payment
    assert afterwards.meaning_of(disputed, stands) is afterwards.Meaning.KNOWN
    assert afterwards.on_answer(stands, GatewayStep.INQUIRE, disputed, WATCHING).delay_s == 2.0
    assert looked(stands, replace(disputed, refunded_minor=0)).outcome is Outcome.NEEDS_DECISION


def test_what_a_person_decided_about_a_refund_outlives_the_next_one() -> None:
    decided = paid_by_transfer(CAPTURED, 0, 400)
    made = made_at(decided, 2, 300, CAPTURED_MINOR)
    assert made.decided_by is None
    agreed = looked(made, seen(300))
    assert (agreed.outcome, agreed.then) == (None, None)
    assert refunded_minor(agreed.payment.refunds) == 700


def test_a_refund_that_nobody_knew_to_have_failed_is_a_case_even_after_a_decision() -> None:
    """The gateway had not answered when the person decided, and says later that there is no refund."""
    doubted = answered(asked(refund(0, 400)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, UNKNOWN)).payment
    decided = called_made(doubted)
    assert not decided.refunds[0].made_elsewhere
    less = looked(made_at(decided, 2, 300, CAPTURED_MINOR), seen(300))
    assert less.then is INQUIRE
    found = answered(less.payment, (INQUIRE, port.NoRefund("", 950, IDS[0])))
    assert (found.outcome, domain.refund_at_work(found.payment).refund_id) == (Outcome.REFUND_FAILED, IDS[0])
    known = called_made(found.payment)
    assert known.refunds[0].made_elsewhere, "now the person knew"
    assert looked(known, seen(300)).outcome is None


def test_what_the_gateway_said_last_of_a_case_is_what_the_person_knew() -> None:
    """It gave no answer until the end of the ladder, and then said that there is no refund."""
    silent = answered(asked(refund(0, 400)), *[(INQUIRE, NOT_SENT)] * (LAST + 1)).payment
    assert (silent.status, silent.gateway_side) == (PaymentStatus.REFUND_FAILED, None)
    assert not called_made(silent).refunds[0].made_elsewhere
    asked_again = answered(silent, (INQUIRE, port.NoRefund("", CAPTURED_MINOR))).payment
    assert called_made(asked_again).refunds[0].made_elsewhere


def test_a_decision_that_is_taken_back_is_made_by_what_the_gateway_says_then() -> None:
    decided = paid_by_transfer(CAPTURED, 0, 400)
    case = on_known(decided, Resolve(ID, "INV-1", "reopen", decided.version, "bob")).payment
    assert (case.gateway_side, case.refunds[0].made_elsewhere) == (None, False)
    assert not called_made(case).refunds[0].made_elsewhere
    again = answered(case, (INQUIRE, port.NoRefund("", CAPTURED_MINOR))).payment
    assert called_made(again).refunds[0].made_elsewhere


def test_all_that_was_paid_by_transfer_is_looked_for_no_more() -> None:
    whole = paid_by_transfer(CAPTURED, 0, CAPTURED_MINOR)
    assert whole.status is PaymentStatus.REFUNDED
    for failed in (port.RefundFailed("expired_card", "", "re_9", CAPTURED_MINOR), port.NoRefund("", CAPTURED_MINOR)):
        assert afterwards.on_answer(whole, INQUIRE, failed, WATCHING) == PaymentTransition(whole)
    rest = made_at(paid_by_transfer(CAPTURED, 0, 400), 2, None, CAPTURED_MINOR)
    assert (rest.status, domain.refunds_asked_about(rest)) == (PaymentStatus.REFUNDED, (IDS[2],))
    assert afterwards.on_answer(rest, INQUIRE, port.Refunded("re_2", ""), WATCHING).delay_s == 2.0
    by_hand = port.NoRefund("", 400, IDS[2])
    assert answered(rest, (INQUIRE, by_hand)).outcome is None, "others gave that back there instead"
    assert answered(rest, (INQUIRE, replace(by_hand, left_minor=401))).outcome is Outcome.REFUND_FAILED


@pytest.mark.parametrize(("amount_minor", "sent_minor"), [(None, 850), (850, 850), (851, None)])
def test_what_was_paid_by_transfer_is_not_given_back_once_more(
    amount_minor: int | None, sent_minor: int | None
) -> None:
    decided = paid_by_transfer(CAPTURED, 0, 400)
    next_one = answered(
        on_known(decided, refund(2, amount_minor)).payment, (INQUIRE, port.NoRefund("", CAPTURED_MINOR))
    )
    if sent_minor is None:
        assert (next_one.outcome, next_one.payment.reason) == (Outcome.REFUND_FAILED, "refund_too_large")
    else:
        assert domain.refund_order(next_one.payment).amount_minor == sent_minor


def test_nothing_is_left_by_our_books_although_the_gateway_holds_it() -> None:
    whole = paid_by_transfer(CAPTURED, 0, CAPTURED_MINOR)
    found = answered(on_known(whole, refund(1)).payment, (INQUIRE, port.NoRefund("", CAPTURED_MINOR)))
    assert (found.outcome, found.payment.reason) == (Outcome.REFUND_FAILED, "nothing_left")
    refused = on_known(found.payment, Resolve(ID, "INV-1", "refunded", found.payment.version, "ann")).refused
    assert (refused and refused.reason) == "does_not_fit"


def test_what_others_gave_back_beside_a_transfer_is_told_whole() -> None:
    decided = paid_by_transfer(CAPTURED, 0, 400)
    told = answered(on_known(decided, refund(1, 100)).payment, (INQUIRE, port.NoRefund("", 950)))
    assert [one.amount_minor for one in told.payment.refunds if one.reason == WENT_BACK] == [300]
    case = looked(decided, seen(300)).payment
    assert (case.reason, domain.given_back_by_hand_minor(case)) == ("refunded_at_gateway", 300)
    assert refunded_minor(called_made(case).refunds) == 700


def test_what_staff_gave_back_in_the_dashboard_after_a_failure_is_that_refund() -> None:
    """They call the failed refund made, and just its amount is gone there: it counts once."""
    decided = paid_by_transfer(CAPTURED, 0, 400)
    found = looked(decided, seen(400))
    assert (found.outcome, found.then, found.payment.refunds[0].made_elsewhere) == (None, None, False)
    assert afterwards.meaning_of(seen(400), found.payment) is afterwards.Meaning.AGREES
    assert looked(found.payment, seen(0)).then is INQUIRE, "it came back"
    next_one = answered(on_known(decided, refund(1, 100)).payment, (INQUIRE, port.NoRefund("", CAPTURED_MINOR - 400)))
    assert (next_one.outcome, domain.refund_order(next_one.payment).amount_minor) == (None, 100)
    for at in (found.payment, next_one.payment):
        assert refunded_minor(at.refunds) == 400
    assert looked(decided, replace(seen(0), lost_minor=400)).outcome is Outcome.NEEDS_DECISION, "a dispute is no refund"


def test_no_person_calls_more_given_back_than_was_captured() -> None:
    """Others gave back nearly all, so ours is more than is left."""
    case = answered(asked(refund(0, 400)), *[(INQUIRE, port.NoRefund("", 20))] * 2).payment
    assert (case.reason, refunded_minor(case.refunds)) == ("refund_too_large", 1_230)
    refused = on_known(case, Resolve(ID, "INV-1", "refunded", case.version, "ann")).refused
    assert (refused and refused.reason) == "does_not_fit"


# -- forgotten: a restore or a fail-over took the record from us ---------------------------------------------------------------------------


def named(number: int, amount_minor: int, **changes: Any) -> port.StandingRefund:
    return replace(port.StandingRefund(f"re_{number}", amount_minor, ID, IDS[number]), **changes)


def there(*found: port.StandingRefund, by_hand_minor: int = 0) -> port.Captured:
    """What the gateway says of the charge, of which these refunds stand there."""
    gone_minor = sum(one.amount_minor for one in found) + by_hand_minor
    return replace(seen(gone_minor), standing=found)


def left_of(*found: port.StandingRefund, by_hand_minor: int = 0) -> port.NoRefund:
    return port.NoRefund("", CAPTURED_MINOR - there(*found, by_hand_minor=by_hand_minor).gone_minor, standing=found)


def test_a_forgotten_refund_is_told_under_its_own_id_before_the_next_one_is_made() -> None:
    recovered = answered(asked(refund(1, 200)), (INQUIRE, left_of(named(0, 400))))
    assert (recovered.outcome, recovered.delay_s) == (Outcome.REFUNDED, 0.0)
    assert recovered.payment.status is PaymentStatus.REFUNDING
    lost = find(recovered.payment.refunds, IDS[0])
    assert lost is not None
    assert (lost.amount_minor, lost.gateway_id, lost.version) == (400, "re_0", recovered.payment.version)
    made = answered(recovered.payment, (INQUIRE, left_of(named(0, 400))), (SEND, port.Refunded("re_1", ""))).payment
    assert (made.status, refunded_minor(made.refunds), len(made.refunds)) == (PaymentStatus.CAPTURED, 600, 2)
    assert looked(made, there(named(0, 400), named(1, 200))).outcome is None


def test_a_look_finds_a_forgotten_refund_and_opens_no_case() -> None:
    recovered = looked(CAPTURED, there(named(0, 400)))
    assert (recovered.outcome, recovered.payment.status, recovered.delay_s) == (
        Outcome.REFUNDED,
        PaymentStatus.CAPTURED,
        0.0,
    )
    assert [one.refund_id for one in recovered.payment.refunds] == [IDS[0]]
    assert looked(recovered.payment, there(named(0, 400))).outcome is None
    whole = looked(recovered.payment, there(named(0, 400), named(1, 850))).payment
    assert (whole.status, refunded_minor(whole.refunds)) == (PaymentStatus.REFUNDED, CAPTURED_MINOR)


def test_what_others_gave_back_besides_is_the_case_and_no_more() -> None:
    both = there(named(0, 400), by_hand_minor=100)
    recovered = looked(CAPTURED, both).payment
    case = looked(recovered, both).payment
    assert (case.reason, domain.given_back_by_hand_minor(case)) == ("refunded_at_gateway", 100)
    assert refunded_minor(called_made(case).refunds) == 500
    of_before = replace(looked(CAPTURED, seen(500)).payment, reason="refunded_at_gateway")
    assert looked(of_before, both).outcome is Outcome.REFUNDED, "a case of before is mended, too"


def test_a_capture_that_was_forgotten_with_its_refund_is_captured_first() -> None:
    found = afterwards.on_answer(payment(PaymentStatus.PREPARED), GatewayStep.INQUIRE, there(named(0, 400)), POLICY)
    assert (found.outcome, found.delay_s) == (Outcome.CAPTURED, 0.0)
    assert looked(found.payment, there(named(0, 400))).outcome is Outcome.REFUNDED


def test_a_forgotten_refund_that_is_asked_for_again_is_the_same() -> None:
    recovered = looked(CAPTURED, there(named(0, 400))).payment
    for amount_minor in (400, None, 500):  # what it came to is what counts
        again = on_known(recovered, refund(0, amount_minor))
        assert (again.payment, again.republish, again.about_version) == (recovered, True, recovered.version)


def test_one_that_waits_or_was_kept_is_recovered_under_what_was_asked() -> None:
    waits = asked(refund(1, 200), refund(0, 400))
    recovered = answered(waits, (INQUIRE, left_of(named(0, 400)))).payment
    assert [(one.status, one.reason) for one in recovered.refunds] == [
        (PaymentRefundStatus.AT_WORK, "damaged"),
        (PaymentRefundStatus.REFUNDED, "damaged"),
    ]
    case = answered(asked(refund(0, 400)), (INQUIRE, replace(BACK, about=None))).payment
    kept = on_known(case, Resolve(ID, "INV-1", "not_refunded", case.version, "ann")).payment
    made = looked(kept, there(named(0, 400)))
    assert (made.outcome, made.payment.refunds[0].decided_by) == (Outcome.REFUNDED, None)


def test_one_that_is_pending_counts_neither_as_made_nor_as_made_by_others() -> None:
    """Its saga still asks for it."""
    pending = named(0, 400, is_pending=True)
    sent = answered(asked(refund(1, 200)), (INQUIRE, left_of(pending)))
    assert (sent.then, sent.outcome, sent.payment.refunds[0].by_hand_minor) == (SEND, None, 0)
    assert looked(CAPTURED, there(pending)).outcome is None


FOREIGN = {
    "of another payment": [named(0, 400, payment_id=UUID(int=99))],
    "the id of the saga": [named(0, 400, refund_id=ID)],
    "more than our books leave": [named(0, CAPTURED_MINOR + 1)],
}


@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_text_of_others_makes_no_refund_of_ours(foreign: str) -> None:
    """It counts as given back by hand, as it would without that text."""
    found = FOREIGN[foreign]
    case = looked(CAPTURED, there(*found))
    assert (case.outcome, case.payment.reason) == (Outcome.NEEDS_DECISION, "refunded_at_gateway")
    told = answered(asked(refund(1, 200)), (INQUIRE, replace(left_of(named(0, 400)), standing=tuple(found)))).payment
    by_hand = [one for one in told.refunds if one.refund_id != IDS[1]]
    assert [(one.reason, one.amount_minor) for one in by_hand] == [(WENT_BACK, 400)]


def test_what_others_gave_back_is_told_under_the_same_id_after_we_forgot_it() -> None:
    first = answered(asked(refund(0, 250)), (INQUIRE, port.NoRefund("", 950))).payment
    again = answered(asked(refund(1, 100)), (INQUIRE, port.NoRefund("", 900))).payment
    assert first.refunds[-1].refund_id == again.refunds[-1].refund_id
    decided = called_made(looked(CAPTURED, seen(300)).payment)
    assert decided.refunds[-1].refund_id == first.refunds[-1].refund_id
    second = answered(first, (INQUIRE, port.NoRefund("", 900))).payment
    assert [one.amount_minor for one in second.refunds if one.reason == WENT_BACK] == [300, 50]
    assert len({one.refund_id for one in second.refunds}) == 3


def test_what_others_gave_back_never_takes_an_id_that_somebody_wrote_there() -> None:
    taken = domain.by_hand_id(CAPTURED)
    written = replace(named(0, 100), refund_id=taken)
    recovered = looked(CAPTURED, there(written)).payment
    case = looked(recovered, there(written, by_hand_minor=200)).payment
    after = called_made(case)
    assert [one.amount_minor for one in after.refunds] == [100, 200]
    assert len({one.refund_id for one in after.refunds}) == 2


def test_a_forgotten_refund_of_another_capture_is_not_booked_as_ours() -> None:
    dollars = replace(there(named(0, 300)), currency="USD")
    case = looked(CAPTURED, dollars)
    assert (case.outcome, case.payment.reason) == (Outcome.NEEDS_DECISION, "capture_differs")
    again = afterwards.on_answer(case.payment, GatewayStep.INQUIRE, dollars, POLICY)
    assert (again.payment.status, again.payment.refunds) == (PaymentStatus.NEEDS_DECISION, ())


def test_an_id_counts_once_however_often_it_stands_there() -> None:
    twice = there(named(0, 400), named(0, 400, gateway_id="re_copy"))
    recovered = looked(CAPTURED, twice).payment
    assert [(one.refund_id, one.gateway_id) for one in recovered.refunds] == [(IDS[0], "re_0")]
    case = looked(recovered, twice)
    assert (case.outcome, case.payment.reason) == (Outcome.NEEDS_DECISION, "refunded_at_gateway")
    known = made_at(CAPTURED, 0, 400, CAPTURED_MINOR)
    assert looked(known, twice).outcome is Outcome.NEEDS_DECISION


@pytest.mark.parametrize("others_minor", [250, 300])
def test_what_others_gave_back_hides_no_refund_that_came_back(others_minor: int) -> None:
    made = made_at(CAPTURED, 0, 250, CAPTURED_MINOR)
    others = port.StandingRefund("re_theirs", others_minor)
    assert looked(made, there(others)).then is INQUIRE
    assert looked(made, there(named(0, 250))).then is None
    told = answered(on_known(made, refund(1, 100)).payment, (INQUIRE, left_of(others))).payment
    assert [one.amount_minor for one in told.refunds if one.reason == WENT_BACK] == [others_minor]


@pytest.mark.parametrize("settled_as", [None, PaymentStatus.NOT_CHARGED])
def test_where_no_invoice_took_the_money_nothing_is_recovered(settled_as: PaymentStatus | None) -> None:
    """The saga gives all of it back, and hears of no part."""
    whole = replace(CAPTURED, refunds=(PaymentRefund(ID, "", status=PaymentRefundStatus.WAITING),))
    at = whole if settled_as is None else replace(CAPTURED, settled_as=settled_as)
    assert looked(at, there(named(0, 400))).outcome is Outcome.NEEDS_DECISION


def test_the_gateway_knows_best_how_much_it_gave_back() -> None:
    """The record of an earlier part is lost, and then that of the rest, which comes to light first."""
    found = answered(asked(refund(1)), (INQUIRE, port.Refunded("re_1", "", 850))).payment
    assert (found.status, found.refunds[0].amount_minor) == (PaymentStatus.CAPTURED, 850)
    assert looked(found, there(named(0, 400), named(1, 850))).payment.status is PaymentStatus.REFUNDED


# -- laws ------------------------------------------------------------------------------------------------------------------------------


@dataclass
class RefundingBank:
    """The refunds of one captured payment at a gateway that honours idempotency keys, and whose answers get lost."""

    by_key: dict[str, tuple[UUID, int]] = field(default_factory=dict)
    came_back: set[str] = field(default_factory=set)
    by_hand_minor: int = 0
    copied: tuple[port.StandingRefund, ...] = ()
    """What people gave back there with our ids in its texts."""

    @property
    def made(self) -> list[UUID]:
        """Our ids of the refunds that stand."""
        return [refund_id for key, (refund_id, _) in self.by_key.items() if key not in self.came_back]

    @property
    def left_minor(self) -> int:
        ours = sum(amount for key, (_, amount) in self.by_key.items() if key not in self.came_back)
        return CAPTURED_MINOR - self.by_hand_minor - sum(one.amount_minor for one in self.copied) - ours

    @property
    def standing(self) -> tuple[port.StandingRefund, ...]:
        """All refunds that stand and name ours."""
        ours = [(key, *made) for key, made in self.by_key.items() if key not in self.came_back]
        return (*(port.StandingRefund(key, minor, ID, refund_id) for key, refund_id, minor in ours), *self.copied)

    def copy(self, refund_id: UUID) -> None:
        """Give some of the money back in the dashboard, with the texts of another refund."""
        if self.left_minor and not self.copied:
            self.copied = (port.StandingRefund("re_copy", min(100, self.left_minor), ID, refund_id),)

    def send_back(self) -> None:
        """The customer's bank sends the money of the oldest refund back that stands."""
        self.came_back |= set([key for key in self.by_key if key not in self.came_back][:1])

    def do(self, at: Payment, step: GatewayStep) -> domain.GatewayAnswer:
        if step is GatewayStep.INQUIRE:
            return replace(seen(CAPTURED_MINOR - self.left_minor), standing=self.standing)
        if step is SEND:
            order, key = domain.refund_order(at), domain.idempotency_key(at, SEND) or ""
            if key not in self.by_key:
                if order.amount_minor > self.left_minor:
                    return port.RefundFailed("amount_too_large", "", left_minor=self.left_minor)
                self.by_key[key] = (order.refund_id, order.amount_minor)
            assert self.by_key[key] == (order.refund_id, order.amount_minor), "one key, two requests"
        return port.worst([self._about(refund_id) for refund_id in domain.refunds_asked_about(at)])

    def _about(self, refund_id: UUID) -> port.RefundAnswer:
        found = next((one for one in self.standing if one.refund_id == refund_id), None)
        if found is not None:
            charge = (
                replace(seen(CAPTURED_MINOR - self.left_minor), standing=self.standing) if self.left_minor else None
            )
            return port.Refunded(found.gateway_id, "", found.amount_minor, charge)
        tries = [key for key, (made_id, _) in self.by_key.items() if made_id == refund_id]
        if tries:
            return port.RefundFailed("declined", "", tries[-1], self.left_minor, refund_id, self.standing)
        return port.NoRefund("", self.left_minor, refund_id, self.standing)


Asked = tuple[int, int | None]
"""Which of the refunds is asked for, and its amount."""
DECISIONS: dict[str, domain.Resolution] = {
    "refund_again": "refund_again",
    "refunded": "refunded",
    "not_refunded": "not_refunded",
}
MOVES = st.one_of(
    st.sampled_from(["step", "step", "lost", "unsent", "crash", "by_hand", "copy", "send_back", "restore", *DECISIONS]),
    st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(1, 700))),
)


@dataclass
class RefundHistory:
    """The captured payment and its bank. `decided` are the refunds that a person called made.

    `past` are the states that were stored, and `booked` is what the invoice holds of each refund: the newest fact about it counts.
    """

    bank: RefundingBank = field(default_factory=RefundingBank)
    at: Payment = CAPTURED
    then: GatewayStep | None = None
    amounts: dict[UUID, int | None] = field(default_factory=dict)
    decided: set[UUID] = field(default_factory=set)
    past: list[Payment] = field(default_factory=list)
    is_restored: bool = False
    booked: dict[UUID, int] = field(default_factory=dict)

    def go_on(self, move: str | Asked) -> PaymentTransition | None:
        """The transition that the move causes; None: nothing happens."""
        match move:
            case "by_hand" | "send_back" | "refunded" if self.is_restored:
                return None
            case (int(number), amount):
                return self.command(refund(number, self.amounts.setdefault(IDS[number], amount)))
            case "by_hand":
                self.bank.by_hand_minor += min(100, self.bank.left_minor)
                return None
            case "send_back":
                self.bank.send_back()
                return None
            case "copy":
                self.bank.copy(IDS[0])
                return None
            case "restore":
                self.restore()
                return None
            case str() if move in DECISIONS:
                return self.decide(DECISIONS[move])
            case _:
                return self.step(str(move))

    def restore(self) -> None:
        """Lose the last commits. Left out is what the gateway does not tell: what only people know, and what came back."""
        if self.past and not self.decided and not self.bank.by_hand_minor and not self.bank.came_back:
            self.is_restored = True
            newest = self.at.next_version
            self.at, self.then = replace(self.past[max(len(self.past) - 4, 0)], version_floor=newest), None

    def book(self, transition: PaymentTransition) -> None:
        """Store the state, and tell the invoice."""
        self.past.append(self.at)
        self.at = replace(
            transition.payment, version_floor=max(self.at.version_floor, transition.payment.version_floor)
        )
        if transition.outcome in {Outcome.REFUNDED, Outcome.REFUND_FAILED}:
            told = next(one for one in self.at.refunds if one.version == self.at.version)
            is_made = transition.outcome is Outcome.REFUNDED
            self.booked[told.refund_id] = (told.amount_minor or 0) if is_made else 0

    def command(self, command: Command) -> PaymentTransition:
        transition = on_known(self.at, command)
        self.then = self.then if transition.payment is self.at else None  # the fence changed: the holder must stop
        return transition

    def decide(self, resolution: domain.Resolution) -> PaymentTransition:
        before = {one.refund_id for one in self.at.refunds}
        at_work = {one.refund_id for one in self.at.refunds if one.status is PaymentRefundStatus.AT_WORK}
        transition = self.command(Resolve(ID, "INV-1", resolution, self.at.version, "ann"))
        if resolution == "refunded" and transition.refused is None:
            by_hand = {
                one.refund_id: one.asked_minor for one in transition.payment.refunds if one.refund_id not in before
            }
            self.decided |= at_work | by_hand.keys()  # what was given back by hand becomes a refund of its own
            self.amounts |= by_hand
        return transition

    def step(self, move: str) -> PaymentTransition | None:
        step, self.then = self.then or domain.next_step(self.at), None
        if move == "crash":
            return None
        if step is None:
            transition = domain.on_due(self.at)
        else:
            real = NOT_SENT if move == "unsent" else self.bank.do(self.at, step)
            transition = afterwards.on_answer(self.at, step, UNKNOWN if move == "lost" else real, POLICY)
        self.then = transition.then
        return transition

    def check(self) -> None:
        assert self.bank.left_minor >= 0, "more was given back than was captured"
        assert len(self.bank.made) == len(set(self.bank.made)), "one refund was made twice"
        # With a copy there, the gateway calls a refund made before we have sent it; what came back until then is told next.
        assert self.bank.copied or sum(self.booked.values()) <= CAPTURED_MINOR, "more is booked than was captured"
        assert sum(one.status is PaymentRefundStatus.AT_WORK for one in self.at.refunds) <= 1
        told = {one.refund_id for one in self.at.refunds if one.status is PaymentRefundStatus.REFUNDED}
        # The rest may have been given back by hand.
        rest = {one.refund_id for one in self.at.refunds if one.takes_rest}
        ever_made = {refund_id for refund_id, _ in self.bank.by_key.values()}
        by_hand = {one.refund_id: one.amount_minor or 0 for one in self.at.refunds if one.reason == WENT_BACK}
        copied = {one.refund_id: one.amount_minor for one in self.bank.copied}
        assert told <= {*ever_made, *self.decided, *rest, *by_hand, *copied}, "told as made, and it was not"
        kept = {one.refund_id for one in self.at.refunds if one.status is PaymentRefundStatus.KEPT}
        kept_minor = sum(amount for refund_id, amount in self.bank.by_key.values() if refund_id in kept)
        others_minor = self.bank.by_hand_minor + kept_minor + sum(copied.values())
        assert sum(by_hand.values()) <= others_minor, "more is told than others gave back"

    def check_end(self) -> None:
        """Once everything was looked at, a refund that came back is a case."""
        if domain.is_settled(self.at) and not self.decided:
            standing = {one.refund_id for one in self.bank.standing}
            standing |= {one.refund_id for one in self.at.refunds if one.takes_rest}
            made = {one.refund_id for one in self.at.refunds if one.status is PaymentRefundStatus.REFUNDED}
            made -= {one.refund_id for one in self.at.refunds if one.reason == WENT_BACK}
            assert made <= standing or self.bank.left_minor == 0, "it came back, and nobody was told"
            gone_minor = CAPTURED_MINOR - self.bank.left_minor
            assert self.bank.copied or sum(self.booked.values()) == gone_minor, "the books differ from the gateway"


@settings(max_examples=400)
@given(st.lists(MOVES, max_size=60))
def test_no_history_gives_back_more_than_was_captured_or_one_refund_twice(moves: list[str | Asked]) -> None:
    history, told = RefundHistory(), set[int]()
    history.past.append(history.at)
    for move in [*moves, *["step"] * 30]:
        transition = history.go_on(move)
        if transition is None:
            continue
        history.book(transition)
        if transition.outcome is not None:
            assert history.at.version not in told, "two outcomes of one version"
            told.add(history.at.version)
            is_of_charge = transition.outcome is Outcome.NEEDS_DECISION
            assert is_of_charge or any(one.version == history.at.version for one in history.at.refunds)
        history.check()
    history.check_end()
    asked_for = [one for one in history.at.refunds if one.reason == "damaged"]
    known = {one.refund_id: one.asked_minor for one in asked_for}
    assert known.items() <= history.amounts.items(), "each refund that was asked for is known, with its amount"


LATE_MOVES = st.sampled_from(["step", "step", "step", "lost", "crash", "by_hand", "by_hand_came_back", "send_back"])


@settings(max_examples=200)
@given(st.lists(LATE_MOVES, min_size=6, max_size=12))
def test_all_of_a_late_capture_has_gone_back_or_a_person_knows(moves: list[str]) -> None:
    late = replace(CAPTURED, settled_as=PaymentStatus.DECLINED)
    history = RefundHistory(at=on_known(late, Refund(ID, "INV-1", ID, "captured after the payment had failed")).payment)
    for move in [*moves, *["step"] * 10]:
        if move == "by_hand_came_back":
            history.bank.by_hand_minor = 0
        elif (transition := history.go_on(move)) is not None:
            history.book(transition)
    assert history.at.status in domain.CASES or history.bank.left_minor == 0
