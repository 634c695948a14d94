"""What the gateway may say later, in every status of a payment: the whole table. And when a settled payment is looked at."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Final
from uuid import UUID

import pytest

from services.payment_gateway import afterwards, domain
from services.payment_gateway.commands import Inquire, Resolve
from services.payment_gateway.domain import (
    GatewayAnswer,
    GatewayStep,
    Outcome,
    Payment,
    PaymentStatus,
    PaymentTransition,
    Policy,
)
from services.payment_gateway.gateways import port
from services.payment_gateway.refunds import PaymentRefund, PaymentRefundStatus
from services.payment_gateway.settings import CANCEL_LOOKS_S, LADDER_S, REFUND_LOOKS_S, REMIND_S, WATCH_S
from shared.records import replace
from tests.unit.payment_gateway.payments import (
    ACTION_REQUIRED,
    ALL_REFUNDED,
    CANCELLED,
    CAPTURED,
    DECLINED,
    DISPUTED,
    ID,
    NO_REFUND,
    NOT_FOUND,
    NOT_SENT,
    OF_SOMETHING_ELSE,
    PARTLY_REFUNDED,
    PREPARED,
    PROCESSING,
    REFUND_FAILED,
    REFUND_PENDING,
    REFUNDED,
    UNCONFIRMED,
    UNKNOWN,
    on_known,
    payment,
)

POLICY = Policy(LADDER_S, REMIND_S, WATCH_S, REFUND_LOOKS_S, CANCEL_LOOKS_S)
Table = Mapping[str, str]
"""For each answer what happens: the status afterwards, then its reason if it is a case."""

# -- every status and every answer -------------------------------------------------------------------------------------------------------

CHARGE_ANSWERS: Final[dict[str, GatewayAnswer]] = {
    "captured": CAPTURED,
    "captured, another amount": OF_SOMETHING_ELSE["another amount"],
    "captured, another currency": OF_SOMETHING_ELSE["another currency"],
    "captured, partly given back": PARTLY_REFUNDED,
    "captured, given back": ALL_REFUNDED,
    "captured, disputed": DISPUTED,
    "cancelled": CANCELLED,
    "declined": DECLINED,
    "unconfirmed": UNCONFIRMED,
    "action required": ACTION_REQUIRED,
    "processing": PROCESSING,
    "unknown to it": NOT_FOUND,
    "not sent": NOT_SENT,
    "no answer": UNKNOWN,
}
REFUND_ANSWERS: Final[dict[str, GatewayAnswer]] = {
    "refunded": REFUNDED,
    "pending": REFUND_PENDING,
    "failed": REFUND_FAILED,
    "none": NO_REFUND,
    "unknown to it": NOT_FOUND,
    "not sent": NOT_SENT,
    "no answer": UNKNOWN,
}
PREPARE_ANSWERS: Final[dict[str, GatewayAnswer]] = {
    "prepared": PREPARED,
    "not sent": NOT_SENT,
    "no answer": UNKNOWN,
}
TOLD_BY: Final[dict[GatewayStep, dict[str, GatewayAnswer]]] = {
    GatewayStep.PREPARE: PREPARE_ANSWERS,
    GatewayStep.INQUIRE: CHARGE_ANSWERS,
    GatewayStep.CANCEL: CHARGE_ANSWERS,
    GatewayStep.INQUIRE_REFUND: REFUND_ANSWERS,
}
SAME: Final = "stays"
_NOT_WHOLE: Final[Table] = {
    "captured, another amount": "needs_decision: capture_differs",
    "captured, another currency": "needs_decision: capture_differs",
    "captured, partly given back": "needs_decision: refunded_at_gateway",
    "captured, given back": "needs_decision: refunded_at_gateway",
    "captured, disputed": "needs_decision: disputed",
}
_NO_NEWS: Final[Table] = dict.fromkeys(("processing", "unknown to it", "not sent", "no answer"), SAME)
_NOT_PAID: Final = ("cancelled", "declined", "unconfirmed", "action required")
_FAILED: Final[Table] = {
    **_NOT_WHOLE,
    **_NO_NEWS,
    "captured": "captured",
    "cancelled": SAME,
    "declined": "stays, then cancel",
    "unconfirmed": "stays, then cancel",
    "action required": "stays, then cancel",
}
_NOT_CAPTURED: Final[Table] = dict.fromkeys(_NOT_PAID, "needs_decision: not_captured")
_REFUND_OPEN: Final[Table] = {
    "refunded": "refunded",
    "pending": SAME,
    "failed": "refund_failed: expired_card",
    "none": "stays, then refund",
    "unknown to it": SAME,
    "not sent": SAME,
    "no answer": SAME,
}

TABLE: Final[dict[str, tuple[Payment, Table]]] = {
    "requested": (
        payment(PaymentStatus.REQUESTED),
        {"prepared": "prepared, then execute", "not sent": SAME, "no answer": SAME},
    ),
    "prepared": (
        payment(PaymentStatus.PREPARED),
        {
            **_NOT_WHOLE,
            "captured": "captured",
            "cancelled": "not_charged",
            "declined": "cancelling, then cancel",
            "unconfirmed": "stays, then execute",
            "action required": "cancelling, then cancel",
            "processing": "in_doubt: processing",
            "unknown to it": "in_doubt: unknown_to_gateway",
            "not sent": SAME,
            "no answer": "in_doubt: no_readable_answer",
        },
    ),
    "cancelling": (
        payment(PaymentStatus.CANCELLING),
        {
            **_NOT_WHOLE,
            **_NO_NEWS,
            "captured": "captured",
            "cancelled": "declined",
            "declined": SAME,
            "unconfirmed": SAME,
            "action required": SAME,
        },
    ),
    "in_doubt": (
        payment(PaymentStatus.IN_DOUBT),
        {
            **_NOT_WHOLE,
            **_NO_NEWS,
            "captured": "captured",
            "cancelled": "not_charged",
            "declined": "cancelling, then cancel",
            "unconfirmed": "stays, then execute",
            "action required": "cancelling, then cancel",
        },
    ),
    "needs_decision": (
        payment(PaymentStatus.NEEDS_DECISION),
        {
            **_NOT_WHOLE,
            **_NO_NEWS,
            "captured": "captured",
            "cancelled": "not_charged",
            "declined": "cancelling, then cancel",
            "unconfirmed": "cancelling, then cancel",
            "action required": "cancelling, then cancel",
        },
    ),
    "needs_decision, was captured": (
        replace(payment(PaymentStatus.NEEDS_DECISION), settled_as=PaymentStatus.CAPTURED),
        {**_NOT_WHOLE, **_NO_NEWS, **_NOT_CAPTURED, "captured": "captured"},
    ),
    "captured": (
        payment(PaymentStatus.CAPTURED),
        {
            **_NOT_WHOLE,
            **_NO_NEWS,
            **_NOT_CAPTURED,
            "captured": SAME,
            "unknown to it": "needs_decision: not_captured",
        },
    ),
    "captured by a person": (
        payment(PaymentStatus.CAPTURED, decided_by="ann"),
        {**_NOT_WHOLE, **_NO_NEWS, **_NOT_CAPTURED, "captured": SAME},
    ),
    "declined": (payment(PaymentStatus.DECLINED), _FAILED),
    "not_charged": (payment(PaymentStatus.NOT_CHARGED), _FAILED),
    "not_charged by a person": (  # the question is a cancel already
        payment(PaymentStatus.NOT_CHARGED, decided_by="ann"),
        {**_FAILED, "declined": SAME, "unconfirmed": SAME, "action required": SAME},
    ),
    "refunding": (
        payment(PaymentStatus.REFUNDING),
        {
            **_REFUND_OPEN,
            "pending": "refund_in_doubt: refund_pending",
            "unknown to it": "refund_in_doubt: unknown_to_gateway",
            "no answer": "refund_in_doubt: no_readable_answer",
        },
    ),
    "refund_in_doubt": (payment(PaymentStatus.REFUND_IN_DOUBT), _REFUND_OPEN),
    "refund_failed": (
        payment(PaymentStatus.REFUND_FAILED),
        {**dict.fromkeys(REFUND_ANSWERS, SAME), "refunded": "refunded"},
    ),
    "refund_failed, kept by a person": (
        payment(PaymentStatus.REFUND_FAILED, decided_by="ann"),
        {**dict.fromkeys(REFUND_ANSWERS, SAME), "refunded": "refunded"},
    ),
    "refunded": (
        payment(PaymentStatus.REFUNDED),
        {
            **dict.fromkeys(REFUND_ANSWERS, SAME),
            "failed": "refund_failed: expired_card",
            "none": "refund_failed: not_refunded",
        },
    ),
    "refunded by a person": (
        payment(PaymentStatus.REFUNDED, decided_by="ann"),
        {
            **dict.fromkeys(REFUND_ANSWERS, SAME),
            "failed": "refund_failed: expired_card",
            "none": "refund_failed: not_refunded",
        },
    ),
}


def what_happens(before: Payment, answer: GatewayAnswer) -> str:
    step = domain.next_step(before)
    assert step is not None
    transition = afterwards.on_answer(before, step, answer, POLICY)
    after = transition.payment
    moved = after.version != before.version
    words = str(after.status) if moved else SAME
    words += f": {after.reason}" if moved and after.status in domain.CASES else ""
    return words + (f", then {transition.then}" if transition.then else "")


def test_the_table_has_every_status() -> None:
    assert {before.status for before, _ in TABLE.values()} == set(PaymentStatus)


@pytest.mark.parametrize("row", TABLE)
def test_what_the_gateway_may_say_later_and_what_happens(row: str) -> None:
    before, table = TABLE[row]
    step = domain.next_step(before)
    assert step is not None
    assert {name: what_happens(before, answer) for name, answer in TOLD_BY[step].items()} == table


@pytest.mark.parametrize("row", TABLE)
def test_a_contradiction_is_told_with_both_sides_and_the_amounts(row: str) -> None:
    before, _ = TABLE[row]
    if not domain.is_settled(before) or domain.next_step(before) is GatewayStep.INQUIRE_REFUND:
        return
    found = afterwards.on_answer(before, GatewayStep.INQUIRE, PARTLY_REFUNDED, POLICY)
    assert found.outcome is Outcome.NEEDS_DECISION
    assert (found.payment.settled_as, found.payment.version) == (before.status, before.version + 1)
    assert found.payment.gateway_side == domain.GatewaySide("captured", 1_250, 300, "EUR")


def test_a_capture_of_a_person_that_the_gateway_denies_for_hours_is_a_case_and_then_stands() -> None:
    """The invoice is paid, and nobody knows by what. Once a person has seen that, the decision is not asked about for ever."""
    by_ann = payment(PaymentStatus.CAPTURED, decided_by="ann")
    denied = afterwards.on_answer(by_ann, GatewayStep.INQUIRE, NOT_FOUND, POLICY)
    waited_s = denied.delay_s or 0.0
    while denied.outcome is None:
        denied = afterwards.on_answer(denied.payment, GatewayStep.INQUIRE, NOT_FOUND, POLICY)
        waited_s += denied.delay_s or 0.0
    case = denied.payment
    assert waited_s == sum(LADDER_S) + REMIND_S
    assert (denied.outcome, case.gateway_side) == (Outcome.NEEDS_DECISION, domain.GatewaySide("not_found"))
    for resolution, step in (("captured", GatewayStep.INQUIRE), ("refunded", GatewayStep.INQUIRE_REFUND)):
        decide = Resolve(ID, "INV-1", resolution, case.version, "ben", "R-1")  # type: ignore[arg-type] # one of them
        stands = on_known(case, decide).payment
        assert afterwards.on_answer(stands, step, NOT_FOUND, POLICY) == PaymentTransition(stands)


def test_what_a_person_knew_is_no_news_and_what_is_new_is() -> None:
    case = afterwards.on_answer(payment(PaymentStatus.CAPTURED), GatewayStep.INQUIRE, DISPUTED, POLICY).payment
    assert afterwards.on_answer(case, GatewayStep.INQUIRE, DISPUTED, POLICY) == PaymentTransition(
        case, delay_s=REMIND_S, republish=True
    )
    stands = on_known(case, Resolve(ID, "INV-1", "captured", case.version, "ann", "R-1")).payment
    assert afterwards.meaning_of(DISPUTED, stands) is afterwards.Meaning.KNOWN
    assert afterwards.on_answer(stands, GatewayStep.INQUIRE, DISPUTED, POLICY) == PaymentTransition(stands)
    worse = replace(DISPUTED, refunded_minor=1_250)
    again = afterwards.on_answer(stands, GatewayStep.INQUIRE, worse, POLICY)
    assert (again.outcome, again.payment.version) == (Outcome.NEEDS_DECISION, stands.version + 1)


def test_a_receipt_that_was_told_stands_whatever_a_person_types_later() -> None:
    """The invoice and its customer have it. Where the gateway was silent, the person's is all there is."""
    case = afterwards.on_answer(payment(PaymentStatus.CAPTURED), GatewayStep.INQUIRE, DISPUTED, POLICY).payment
    assert on_known(case, Resolve(ID, "INV-1", "captured", case.version, "ann", "R-1")).payment.receipt_number == "ch_1"
    unknown = replace(payment(PaymentStatus.NEEDS_DECISION), receipt_number=None)
    stands = on_known(unknown, Resolve(ID, "INV-1", "captured", unknown.version, "ann", "R-1")).payment
    assert stands.receipt_number == "R-1"


def test_after_a_lost_dispute_nobody_expects_a_refund() -> None:
    """The bank took the money back: the gateway has a dispute, and no refund."""
    case = afterwards.on_answer(payment(PaymentStatus.CAPTURED), GatewayStep.INQUIRE, DISPUTED, POLICY).payment
    lost = on_known(case, Resolve(ID, "INV-1", "refunded", case.version, "ann")).payment
    assert afterwards.on_answer(lost, GatewayStep.INQUIRE_REFUND, NO_REFUND, POLICY) == PaymentTransition(lost)


def test_a_late_capture_that_a_person_let_stand_is_still_announced_until_it_is_given_back() -> None:
    case = afterwards.on_answer(payment(PaymentStatus.NOT_CHARGED), GatewayStep.INQUIRE, DISPUTED, POLICY).payment
    stands = on_known(case, Resolve(ID, "INV-1", "captured", case.version, "ann", "R-1")).payment
    assert domain.is_late(stands)
    assert afterwards.on_answer(stands, GatewayStep.INQUIRE, DISPUTED, POLICY) == PaymentTransition(
        replace(stands, rung=1), delay_s=REMIND_S, republish=True
    )


def test_what_was_shown_before_is_a_case_again_unless_a_person_decided_about_it() -> None:
    before = replace(payment(PaymentStatus.CAPTURED), gateway_side=domain.side_of(DISPUTED))
    again = afterwards.on_answer(before, GatewayStep.INQUIRE, DISPUTED, POLICY)
    assert (again.outcome, again.payment.version) == (Outcome.NEEDS_DECISION, before.version + 1)


@pytest.mark.parametrize("nothing", [port.NoRefund(""), port.RefundFailed("expired_card", "", "re_1")])
def test_money_that_the_gateway_showed_and_never_gave_back_is_news(nothing: GatewayAnswer) -> None:
    """Only where it showed that nothing was captured, nothing has to go back."""
    case = afterwards.on_answer(payment(PaymentStatus.CAPTURED), GatewayStep.INQUIRE, ALL_REFUNDED, POLICY).payment
    decided = on_known(case, Resolve(ID, "INV-1", "refunded", case.version, "ann")).payment
    found = afterwards.on_answer(decided, GatewayStep.INQUIRE_REFUND, nothing, POLICY)
    assert (found.outcome, found.payment.status) == (Outcome.REFUND_FAILED, PaymentStatus.REFUND_FAILED)


def test_a_refund_that_failed_is_news_even_where_nothing_was_captured() -> None:
    case = afterwards.on_answer(payment(PaymentStatus.CAPTURED), GatewayStep.INQUIRE, CANCELLED, POLICY).payment
    decided = on_known(case, Resolve(ID, "INV-1", "refunded", case.version, "ann")).payment
    failed = replace(REFUND_FAILED, left_minor=None)
    assert afterwards.meaning_of(failed, decided) is afterwards.Meaning.NOT_REFUNDED


KEPT: Final = payment(PaymentStatus.REFUND_FAILED, decided_by="ann")


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        *((status, CAPTURED) for status in (PaymentStatus.REFUNDED, PaymentStatus.REFUND_FAILED)),
        *((PaymentStatus.REFUNDED, answer) for answer in (CANCELLED, DECLINED, UNCONFIRMED, ACTION_REQUIRED)),
        *((status, port.Found("pi_1", "")) for status in (PaymentStatus.NOT_CHARGED, PaymentStatus.CAPTURED)),
        *((PaymentStatus.NOT_CHARGED, answer) for answer in (REFUNDED, REFUND_FAILED, NO_REFUND)),
    ],
    ids=str,
)
def test_an_answer_to_another_question_tells_nothing(status: PaymentStatus, answer: GatewayAnswer) -> None:
    before = KEPT if status is PaymentStatus.REFUND_FAILED else payment(status)
    assert afterwards.meaning_of(answer, before) is afterwards.Meaning.TELLS_NOTHING


def test_what_an_answer_means_is_asked_only_of_a_settled_payment() -> None:
    with pytest.raises(AssertionError, match="is not settled"):
        afterwards.meaning_of(PROCESSING, payment(PaymentStatus.IN_DOUBT))


def standing(status: str, *, lost_minor: int = 0) -> port.Captured:
    """The capture while its dispute stands so."""
    dispute = port.Dispute(status, "fraudulent", 1_250, "EUR", 1_772_366_400)
    return replace(DISPUTED, dispute=dispute, lost_minor=lost_minor)


LOST: Final = standing("lost", lost_minor=1_250)
STANDINGS: Final[dict[str, tuple[port.Captured, str]]] = {
    "nobody can say": (DISPUTED, "needs_decision: disputed"),
    **{status: (standing(status), "needs_decision: disputed") for status in sorted(port.DISPUTE_OPEN)},
    "prevented": (standing("prevented"), "needs_decision: disputed"),
    "a status of next year": (standing("mediated"), "needs_decision: disputed"),
    "lost": (LOST, "needs_decision: disputed"),
    "lost, nobody knows how much": (standing("lost"), "needs_decision: disputed"),
    "won": (standing("won"), SAME),
    "warning_closed": (standing("warning_closed"), SAME),
}


@pytest.mark.parametrize("status", STANDINGS)
def test_a_dispute_is_a_case_unless_we_have_won_it(status: str) -> None:
    answer, happens = STANDINGS[status]
    before = payment(PaymentStatus.CAPTURED)
    assert what_happens(before, answer) == happens
    case = afterwards.on_answer(before, GatewayStep.INQUIRE, DISPUTED, POLICY).payment
    over = afterwards.on_answer(case, GatewayStep.INQUIRE, answer, POLICY)
    assert over.payment.status is (PaymentStatus.CAPTURED if happens == SAME else PaymentStatus.NEEDS_DECISION)
    assert (over.payment.gateway_side or domain.GatewaySide("")).dispute == answer.dispute


def test_a_person_says_that_money_went_back_only_once_the_dispute_is_lost() -> None:
    shown = afterwards.on_answer(
        payment(PaymentStatus.CAPTURED), GatewayStep.INQUIRE, standing("under_review"), POLICY
    ).payment
    refused = on_known(shown, Resolve(ID, "INV-1", "refunded", shown.version, "ann")).refused
    assert (refused and refused.reason) == "does_not_fit"
    lost = afterwards.on_answer(shown, GatewayStep.INQUIRE, LOST, POLICY).payment
    back = on_known(lost, Resolve(ID, "INV-1", "refunded", lost.version, "ann")).payment
    assert (back.status, back.refunds[0].amount_minor) == (PaymentStatus.REFUNDED, 1_250)
    nothing_left = replace(NO_REFUND, left_minor=0)
    assert afterwards.meaning_of(nothing_left, back) is afterwards.Meaning.AGREES


def test_a_dispute_about_a_part_takes_that_part() -> None:
    part = standing("lost", lost_minor=500)
    case = afterwards.on_answer(payment(PaymentStatus.CAPTURED), GatewayStep.INQUIRE, part, POLICY).payment
    back = on_known(case, Resolve(ID, "INV-1", "refunded", case.version, "ann")).payment
    assert (back.status, back.refunds[0].amount_minor) == (PaymentStatus.CAPTURED, 500)
    assert afterwards.meaning_of(part, back) is afterwards.Meaning.AGREES
    assert afterwards.meaning_of(LOST, back) is afterwards.Meaning.CONTRADICTS


@pytest.mark.parametrize(("ends", "happens"), [("won", SAME), ("lost", "needs_decision: disputed")])
def test_a_capture_that_stands_while_it_is_disputed_is_watched_until_the_dispute_ends(ends: str, happens: str) -> None:
    opened = standing("needs_response")
    case = afterwards.on_answer(payment(PaymentStatus.CAPTURED), GatewayStep.INQUIRE, opened, POLICY).payment
    stands = on_known(case, Resolve(ID, "INV-1", "captured", case.version, "ann", "R-1")).payment
    looked = [at_s / 86_400 for at_s in looks_s(stands, standing("under_review"), days=3)]
    assert len(looked) == len(LADDER_S) + 1 + 2, "on the ladder, and then every day, however the dispute goes on"
    assert what_happens(stands, LOST if ends == "lost" else standing(ends)) == happens


@pytest.mark.parametrize(
    ("shown", "says"),
    [("needs_response", "lost"), ("prevented", "needs_response"), ("prevented", "lost")],
)
def test_a_dispute_that_takes_another_turn_than_the_person_saw_is_a_case_again(shown: str, says: str) -> None:
    case = afterwards.on_answer(payment(PaymentStatus.CAPTURED), GatewayStep.INQUIRE, standing(shown), POLICY).payment
    stands = on_known(case, Resolve(ID, "INV-1", "captured", case.version, "ann", "R-1")).payment
    assert what_happens(stands, standing(shown)) == SAME
    assert what_happens(stands, standing(says)) == "needs_decision: disputed"


def test_a_case_whose_difference_grows_is_a_new_version() -> None:
    """Nobody decides on a version that shows less than the gateway says by now."""
    case = afterwards.on_answer(payment(PaymentStatus.CAPTURED), GatewayStep.INQUIRE, PARTLY_REFUNDED, POLICY).payment
    grown = afterwards.on_answer(case, GatewayStep.INQUIRE, ALL_REFUNDED, POLICY)
    assert (grown.outcome, grown.payment.version) == (Outcome.NEEDS_DECISION, case.version + 1)


@pytest.mark.parametrize("amount_minor", [port.AMOUNT_SHOWN_MAX + 1, 4_242_424_242_424_242])
def test_an_amount_that_could_read_as_a_card_number_is_not_shown(amount_minor: int) -> None:
    strange: port.Captured = replace(CAPTURED, amount_minor=amount_minor, currency="e$r")
    assert domain.side_of(strange) == domain.GatewaySide("captured", None, 0, "E_R")


def disputed_too(status: str) -> port.Captured:
    """The capture that was given back, while its dispute stands so."""
    return replace(standing(status), refunded_minor=1_250)


BOTH: Final = port.Refunded("re_1", "", charge=disputed_too("needs_response"))
TWICE: Final = afterwards.on_answer(payment(PaymentStatus.REFUNDED), GatewayStep.INQUIRE_REFUND, BOTH, POLICY)
"""The customer has the money back, and the bank takes it a second time."""


@pytest.mark.parametrize("there", [BOTH, port.NoRefund("", 0, charge=BOTH.charge)], ids=["by us", "by others"])
def test_a_dispute_of_what_was_given_back_is_a_case_with_both_sides(there: GatewayAnswer) -> None:
    found = afterwards.on_answer(payment(PaymentStatus.REFUNDED), GatewayStep.INQUIRE_REFUND, there, POLICY)
    case = found.payment
    assert (found.outcome, case.reason, case.settled_as) == (Outcome.NEEDS_DECISION, "disputed", PaymentStatus.REFUNDED)
    assert case.gateway_side == domain.side_of(disputed_too("needs_response"))
    again = afterwards.on_answer(case, GatewayStep.INQUIRE, disputed_too("needs_response"), POLICY)
    assert again == PaymentTransition(case, delay_s=REMIND_S, republish=True)


def test_a_dispute_of_what_was_given_back_that_is_won_is_over() -> None:
    won = afterwards.on_answer(TWICE.payment, GatewayStep.INQUIRE, disputed_too("won"), POLICY)
    assert (won.outcome, won.payment.status) == (Outcome.REFUNDED, PaymentStatus.REFUNDED)
    assert [refund.version for refund in won.payment.refunds] == [won.payment.version], "it is told again"
    assert afterwards.meaning_of(port.Refunded("re_1", ""), won.payment) is afterwards.Meaning.AGREES


@pytest.mark.parametrize("answer", [CANCELLED, DECLINED, UNCONFIRMED, ACTION_REQUIRED], ids=str)
def test_what_was_given_back_never_becomes_not_charged(answer: GatewayAnswer) -> None:
    found = afterwards.on_answer(TWICE.payment, GatewayStep.INQUIRE, answer, POLICY)
    assert (found.outcome, found.payment.reason) == (Outcome.NEEDS_DECISION, "not_captured")


def test_a_person_can_only_say_that_it_stays_given_back() -> None:
    case = TWICE.payment
    for resolution in ("captured", "not_charged", "give_back"):
        refused = on_known(case, Resolve(ID, "INV-1", resolution, case.version, "ann", "R-1")).refused
        assert (refused and refused.reason) == "does_not_fit"
    decided = on_known(case, Resolve(ID, "INV-1", "refunded", case.version, "ann"))
    stays = decided.payment
    assert (decided.outcome, stays.status, stays.decided_by) == (Outcome.REFUNDED, PaymentStatus.REFUNDED, "ann")
    assert [(one.version, one.decided_by) for one in stays.refunds] == [(stays.version, "ann")]
    assert afterwards.meaning_of(BOTH, stays) is afterwards.Meaning.KNOWN
    lost = replace(BOTH, charge=disputed_too("lost"))
    assert afterwards.meaning_of(lost, stays) is afterwards.Meaning.CONTRADICTS, "how it ends is news"
    reopened = on_known(stays, Resolve(ID, "INV-1", "reopen", stays.version, "bob"))
    assert (reopened.payment.status, reopened.payment.reason) == (PaymentStatus.NEEDS_DECISION, "reopened_by_person")


def test_what_others_gave_back_and_got_back_is_a_case_where_all_had_to_go_back() -> None:
    """Of a late capture somebody gave a part back in the dashboard, and its saga the rest. Then that part came back."""
    part = replace(CAPTURED, refunded_minor=1_150)
    whole, says = payment(PaymentStatus.REFUNDED), replace(REFUNDED, charge=part)
    found = afterwards.on_answer(whole, GatewayStep.INQUIRE_REFUND, says, POLICY)
    case = found.payment
    assert (found.outcome, case.reason, case.gateway_side) == (
        Outcome.NEEDS_DECISION,
        "not_refunded",
        domain.side_of(part),
    )
    again = afterwards.on_answer(case, GatewayStep.INQUIRE, part, POLICY)
    assert again == PaymentTransition(case, delay_s=REMIND_S, republish=True), "it stays the same case"
    by_hand = on_known(case, Resolve(ID, "INV-1", "refunded", case.version, "ann")).payment
    assert afterwards.meaning_of(says, by_hand) is afterwards.Meaning.KNOWN
    looked = afterwards.on_answer(by_hand, GatewayStep.INQUIRE_REFUND, says, POLICY)
    assert (looked.outcome, looked.delay_s is None) == (None, False), "it is looked at until it is true"
    assert afterwards.meaning_of(REFUNDED, by_hand) is afterwards.Meaning.AGREES
    ended = afterwards.on_answer(case, GatewayStep.INQUIRE, ALL_REFUNDED, POLICY)
    assert (ended.outcome, ended.payment.status) == (Outcome.REFUNDED, PaymentStatus.REFUNDED)


def test_what_went_back_elsewhere_is_not_missed_at_the_gateway() -> None:
    (refund,) = payment(PaymentStatus.REFUNDED).refunds
    beside = replace(refund, refund_id=UUID(int=1), amount_minor=100, made_elsewhere=True)
    whole = replace(payment(PaymentStatus.REFUNDED), refunds=(replace(refund, amount_minor=1_150), beside))
    says = replace(REFUNDED, charge=replace(CAPTURED, refunded_minor=1_150))
    assert afterwards.meaning_of(says, whole) is afterwards.Meaning.AGREES


def test_a_refund_that_failed_while_its_charge_is_disputed_is_the_case() -> None:
    """Nothing went back, so only the dispute can take the money."""
    none = replace(NO_REFUND, charge=standing("needs_response"))
    assert afterwards.meaning_of(none, payment(PaymentStatus.REFUNDED)) is afterwards.Meaning.NOT_REFUNDED


NOTHING_SAID = port.Dispute("needs_response")


@pytest.mark.parametrize(
    ("dispute", "shown"),
    [
        (None, None),
        (NOTHING_SAID, NOTHING_SAID),
        (
            port.Dispute("lost", "fraudulent", 1_250, "EUR", 1_772_366_400),
            port.Dispute("lost", "fraudulent", 1_250, "EUR", 1_772_366_400),
        ),
        (
            port.Dispute("un der", "no t", port.AMOUNT_SHOWN_MAX + 1, "e$r"),
            port.Dispute("un_der", "no_t", None, "e_r"),
        ),
        (replace(NOTHING_SAID, amount_minor=0), replace(NOTHING_SAID, amount_minor=0)),
        (
            replace(NOTHING_SAID, amount_minor=port.AMOUNT_SHOWN_MAX),
            replace(NOTHING_SAID, amount_minor=port.AMOUNT_SHOWN_MAX),
        ),
    ],
    ids=["none", "bare", "whole", "strange", "of nothing", "of the largest amount"],
)
def test_a_dispute_is_shown_in_codes_and_amounts_that_everybody_can_read(
    dispute: port.Dispute | None, shown: port.Dispute | None
) -> None:
    assert domain.side_of(replace(DISPUTED, dispute=dispute)).dispute == shown


# -- when a settled payment is looked at ---------------------------------------------------------------------------------------------------


def looks_s(before: Payment, answer: GatewayAnswer, *, days: float) -> list[float]:
    """The times of all looks within so many days, if every look gets this answer. The payment becomes settled at 0 s."""
    at_s, due_s = 0.0, 0.0 if before.decided_by else domain.next_look_s(before, POLICY)
    times: list[float] = []
    while due_s is not None and at_s + due_s <= days * 86_400:
        at_s += due_s
        times.append(at_s)
        step = domain.next_step(before)
        assert step is not None
        found = afterwards.on_answer(before, step, answer, POLICY)
        before, due_s = found.payment, found.delay_s
    return times


@pytest.mark.parametrize("status", [PaymentStatus.CAPTURED, PaymentStatus.NOT_CHARGED, PaymentStatus.REFUNDED])
def test_a_decision_is_watched_ever_more_rarely_until_the_gateway_agrees(status: PaymentStatus) -> None:
    """For hours the key is rotated, or the gateway is silent: the watch outlives the ladder."""
    watched = looks_s(payment(status, decided_by="ann"), UNKNOWN, days=60)
    waits = [later - sooner for sooner, later in pairwise(watched)]
    assert watched[0] == 0.0
    assert tuple(waits[: len(LADDER_S)]) == LADDER_S
    assert set(waits[len(LADDER_S) :]) == {WATCH_S}
    assert watched[-1] > 59 * 86_400


@pytest.mark.parametrize(
    ("status", "answer", "looks"),
    [
        (PaymentStatus.CAPTURED, CAPTURED, 1),
        (PaymentStatus.NOT_CHARGED, CANCELLED, 1 + len(CANCEL_LOOKS_S)),
        (PaymentStatus.REFUND_FAILED, NO_REFUND, 1),
        (PaymentStatus.REFUNDED, REFUNDED, 1 + len(REFUND_LOOKS_S)),
    ],
)
def test_once_the_gateway_agrees_with_a_person_it_is_watched_like_its_own_outcome(
    status: PaymentStatus, answer: GatewayAnswer, looks: int
) -> None:
    assert len(looks_s(payment(status, decided_by="ann"), answer, days=400)) == looks


OFTEN = Policy(LADDER_S, REMIND_S, WATCH_S, (2.0, 20.0), (3.0, 30.0), (1.0, 10.0))
"""A policy that looks at captures as well. The looks at a refund, a cancel and a capture are told apart by their times."""
A_PART = PaymentRefund(UUID(int=1), "damaged", 250, PaymentRefundStatus.REFUNDED, amount_minor=250)


@pytest.mark.parametrize(
    ("settled", "waits_s"),
    [
        (payment(PaymentStatus.CAPTURED), (1.0, 10.0)),
        (replace(payment(PaymentStatus.CAPTURED), refunds=(A_PART,)), (2.0, 20.0)),
        (payment(PaymentStatus.REFUNDED), (2.0, 20.0)),
        (payment(PaymentStatus.DECLINED), (3.0, 30.0)),
        (payment(PaymentStatus.NOT_CHARGED), (3.0, 30.0)),
        (replace(payment(PaymentStatus.NOT_CHARGED), gateway_id=None), (None, None)),
        (payment(PaymentStatus.REFUND_FAILED), (None, None)),
    ],
    ids=["captured", "a part refunded", "refunded", "declined", "not charged", "never sent", "not settled"],
)
def test_each_kind_of_outcome_has_its_own_looks(settled: Payment, waits_s: tuple[float | None, ...]) -> None:
    assert (domain.next_look_s(settled, OFTEN), domain.next_look_s(replace(settled, rung=1), OFTEN)) == waits_s
    assert domain.next_look_s(replace(settled, rung=2), OFTEN) is None


@pytest.mark.parametrize(
    ("before", "step", "answer", "wait_s"),
    [
        (payment(PaymentStatus.PREPARED), GatewayStep.EXECUTE, CAPTURED, 1.0),
        (payment(PaymentStatus.CANCELLING), GatewayStep.CANCEL, CANCELLED, 3.0),
        (payment(PaymentStatus.REFUNDING), GatewayStep.REFUND, REFUNDED, 2.0),
    ],
    ids=["captured", "cancelled", "refunded"],
)
def test_the_first_look_is_set_with_the_outcome(
    before: Payment, step: GatewayStep, answer: GatewayAnswer, wait_s: float
) -> None:
    assert afterwards.on_answer(before, step, answer, OFTEN).delay_s == wait_s


def test_a_late_capture_that_went_back_is_looked_at_like_any_refund() -> None:
    refunded = replace(payment(PaymentStatus.REFUNDED), settled_as=PaymentStatus.NOT_CHARGED)
    looked = afterwards.on_answer(refunded, GatewayStep.INQUIRE_REFUND, REFUNDED, OFTEN)
    assert (looked.republish, looked.delay_s) == (False, 20.0)


@pytest.mark.parametrize("answer", [REFUNDED, UNKNOWN, REFUND_PENDING])
def test_a_refund_is_looked_at_for_thirty_days(answer: GatewayAnswer) -> None:
    looks = looks_s(payment(PaymentStatus.REFUNDED), answer, days=400)
    assert len(looks) == len(REFUND_LOOKS_S)
    assert 30 * 86_400 <= looks[-1] < 31 * 86_400


def test_a_capture_is_looked_at_only_when_somebody_asks() -> None:
    assert looks_s(payment(PaymentStatus.CAPTURED), CAPTURED, days=400) == []
    asked = on_known(payment(PaymentStatus.CAPTURED), Inquire(ID, "INV-1", look=True))
    assert (asked.hurry, asked.payment.was_case) == (True, True)
    agreed = afterwards.on_answer(asked.payment, GatewayStep.INQUIRE, CAPTURED, POLICY)
    assert agreed.delay_s is None
    assert domain.is_told_to_staff(agreed, GatewayStep.INQUIRE)


def test_a_look_before_the_first_that_comes_by_itself_takes_none_away() -> None:
    """`store.hurry` takes the rung back that such a look counts."""
    hurried = payment(PaymentStatus.REFUNDED, rung=-1)
    looked = afterwards.on_answer(hurried, GatewayStep.INQUIRE_REFUND, REFUNDED, POLICY)
    assert looked.delay_s == REFUND_LOOKS_S[0]


@pytest.mark.parametrize(
    ("transition", "told"),
    [
        (PaymentTransition(payment(PaymentStatus.NEEDS_DECISION), delay_s=REMIND_S, republish=True), True),
        (PaymentTransition(payment(PaymentStatus.IN_DOUBT), delay_s=300.0), True),
        (PaymentTransition(payment(PaymentStatus.IN_DOUBT), delay_s=domain.TOLD_FROM_WAIT_S), True),
        (PaymentTransition(payment(PaymentStatus.IN_DOUBT), delay_s=1.0), False),
        (PaymentTransition(payment(PaymentStatus.IN_DOUBT), delay_s=1.0, republish=True), True),
        (PaymentTransition(payment(PaymentStatus.IN_DOUBT), then=GatewayStep.EXECUTE), False),
        (PaymentTransition(payment(PaymentStatus.NEEDS_DECISION), Outcome.NEEDS_DECISION, delay_s=REMIND_S), False),
        (PaymentTransition(payment(PaymentStatus.CAPTURED)), False),
        (PaymentTransition(replace(payment(PaymentStatus.CAPTURED), was_case=True)), True),
    ],
)
def test_staff_are_told_what_the_gateway_answers_about_a_case(transition: PaymentTransition, told: bool) -> None:
    assert domain.is_told_to_staff(transition, GatewayStep.INQUIRE) is told
    assert not domain.is_told_to_staff(transition, GatewayStep.EXECUTE)


def test_staff_are_told_what_was_asked_and_not_what_was_done() -> None:
    case = PaymentTransition(payment(PaymentStatus.NEEDS_DECISION), delay_s=REMIND_S)
    assert {step for step in GatewayStep if domain.is_told_to_staff(case, step)} == {
        GatewayStep.FIND,
        GatewayStep.INQUIRE,
        GatewayStep.INQUIRE_REFUND,
        GatewayStep.CANCEL,
    }
