"""Refunds in parts: never more than was captured, one after the other, each id once; and what comes back days later."""

from dataclasses import dataclass, field
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
from services.payment_gateway.refunds import PaymentRefund, PaymentRefundStatus, refunded_minor, told_by_hand
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


def test_the_rest_takes_what_the_gateway_says_is_left_and_not_what_we_know() -> None:
    """A part of ours came back, and nobody has looked since."""
    part = answered(asked(refund(0, 250)), (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, REFUNDED)).payment
    rest = on_known(part, refund(1)).payment
    made = answered(rest, (INQUIRE, port.NoRefund("", CAPTURED_MINOR)), (SEND, port.Refunded("re_2", ""))).payment
    assert [one.amount_minor for one in made.refunds] == [250, CAPTURED_MINOR]


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


# -- laws ------------------------------------------------------------------------------------------------------------------------------


@dataclass
class RefundingBank:
    """The refunds of one captured payment at a gateway that honours idempotency keys, and whose answers get lost."""

    by_key: dict[str, tuple[UUID, int]] = field(default_factory=dict)
    came_back: set[str] = field(default_factory=set)
    by_hand_minor: int = 0

    @property
    def made(self) -> list[UUID]:
        """Our ids of the refunds that stand."""
        return [refund_id for key, (refund_id, _) in self.by_key.items() if key not in self.came_back]

    @property
    def left_minor(self) -> int:
        ours = sum(amount for key, (_, amount) in self.by_key.items() if key not in self.came_back)
        return CAPTURED_MINOR - self.by_hand_minor - ours

    def send_back(self) -> None:
        """The customer's bank sends the money of the oldest refund back that stands."""
        self.came_back |= set([key for key in self.by_key if key not in self.came_back][:1])

    def do(self, at: Payment, step: GatewayStep) -> domain.GatewayAnswer:
        if step is GatewayStep.INQUIRE:
            return seen(CAPTURED_MINOR - self.left_minor)
        if step is SEND:
            order, key = domain.refund_order(at), domain.idempotency_key(at, SEND) or ""
            if key not in self.by_key:
                if order.amount_minor > self.left_minor:
                    return port.RefundFailed("amount_too_large", "", left_minor=self.left_minor)
                self.by_key[key] = (order.refund_id, order.amount_minor)
            assert self.by_key[key] == (order.refund_id, order.amount_minor), "one key, two requests"
        return port.worst([self._about(refund_id) for refund_id in domain.refunds_asked_about(at)])

    def _about(self, refund_id: UUID) -> port.RefundAnswer:
        tries = [key for key, (made_id, _) in self.by_key.items() if made_id == refund_id]
        if refund_id in self.made:
            return port.Refunded(next(key for key in tries if key not in self.came_back), "")
        if tries:
            return port.RefundFailed("declined", "", tries[-1], self.left_minor, refund_id)
        return port.NoRefund("", self.left_minor, refund_id)


Asked = tuple[int, int | None]
"""Which of the refunds is asked for, and its amount."""
DECISIONS: dict[str, domain.Resolution] = {
    "refund_again": "refund_again",
    "refunded": "refunded",
    "not_refunded": "not_refunded",
}
MOVES = st.one_of(
    st.sampled_from(["step", "step", "lost", "unsent", "crash", "by_hand", "send_back", *DECISIONS]),
    st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(1, 700))),
)


@dataclass
class RefundHistory:
    """The captured payment and its bank. `decided` are the refunds that a person called made."""

    bank: RefundingBank = field(default_factory=RefundingBank)
    at: Payment = CAPTURED
    then: GatewayStep | None = None
    amounts: dict[UUID, int | None] = field(default_factory=dict)
    decided: set[UUID] = field(default_factory=set)

    def go_on(self, move: str | Asked) -> PaymentTransition | None:
        """The transition that the move causes; None: nothing happens."""
        match move:
            case (int(number), amount):
                return self.command(refund(number, self.amounts.setdefault(IDS[number], amount)))
            case "by_hand":
                self.bank.by_hand_minor += min(100, self.bank.left_minor)
                return None
            case "send_back":
                self.bank.send_back()
                return None
            case str() if move in DECISIONS:
                return self.decide(DECISIONS[move])
            case _:
                return self.step(str(move))

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
        assert sum(one.status is PaymentRefundStatus.AT_WORK for one in self.at.refunds) <= 1
        told = {one.refund_id for one in self.at.refunds if one.status is PaymentRefundStatus.REFUNDED}
        # The rest may have been given back by hand.
        rest = {one.refund_id for one in self.at.refunds if one.takes_rest}
        ever_made = {refund_id for refund_id, _ in self.bank.by_key.values()}
        by_hand = {one.refund_id: one.amount_minor or 0 for one in self.at.refunds if one.reason == WENT_BACK}
        assert told <= {*ever_made, *self.decided, *rest, *by_hand}, "told as made, and it was not"
        kept = {one.refund_id for one in self.at.refunds if one.status is PaymentRefundStatus.KEPT}
        kept_minor = sum(amount for refund_id, amount in self.bank.by_key.values() if refund_id in kept)
        assert sum(by_hand.values()) <= self.bank.by_hand_minor + kept_minor, "more is told than others gave back"

    def check_end(self) -> None:
        """Once everything was looked at, a refund that came back is a case."""
        if domain.is_settled(self.at) and not self.decided:
            standing = {*self.bank.made, *(one.refund_id for one in self.at.refunds if one.takes_rest)}
            made = {one.refund_id for one in self.at.refunds if one.status is PaymentRefundStatus.REFUNDED}
            made -= {one.refund_id for one in self.at.refunds if one.reason == WENT_BACK}
            assert made <= standing or self.bank.left_minor == 0, "it came back, and nobody was told"


@settings(max_examples=400)
@given(st.lists(MOVES, max_size=60))
def test_no_history_gives_back_more_than_was_captured_or_one_refund_twice(moves: list[str | Asked]) -> None:
    history, told = RefundHistory(), set[int]()
    for move in [*moves, *["step"] * 30]:
        transition = history.go_on(move)
        if transition is None:
            continue
        history.at = transition.payment
        if transition.outcome is not None:
            assert history.at.version not in told, "two outcomes of one version"
            told.add(history.at.version)
            is_of_charge = transition.outcome is Outcome.NEEDS_DECISION
            assert is_of_charge or any(one.version == history.at.version for one in history.at.refunds)
        history.check()
    history.check_end()
    asked_for = [one for one in history.at.refunds if one.refund_id != ID and one.reason != WENT_BACK]
    known = {one.refund_id: one.asked_minor for one in asked_for}
    assert known.items() <= history.amounts.items(), "each refund that was asked for is known, with its amount"
