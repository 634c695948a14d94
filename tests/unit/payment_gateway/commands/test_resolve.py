"""Resolve: a person decides about a payment with unknown outcome, on the version that the person saw."""

from typing import get_args
from uuid import UUID, uuid5

import pytest

from services.payment_gateway import afterwards, domain
from services.payment_gateway.commands import GIVE_BACK, NeverSeen, Resolve
from services.payment_gateway.domain import (
    GatewayAnswer,
    GatewayStep,
    Outcome,
    Payment,
    PaymentStatus,
    PaymentTransition,
    Resolution,
    ResolutionRefused,
)
from services.payment_gateway.gateways import port
from services.payment_gateway.refunds import PaymentRefund, PaymentRefundStatus
from shared.records import replace
from tests.support.scenarios import Scenario, each
from tests.unit.payment_gateway.payments import (
    ACTION_REQUIRED,
    CANCELLED,
    CAPTURED,
    DECLINED,
    DISPUTED,
    ID,
    POLICY,
    UNCONFIRMED,
    Becomes,
    CommandScenario,
    about_refund,
    becomes,
    decided,
    is_refunded,
    on_known,
    payment,
)


def resolve(resolution: Resolution, *, version: int = 3, by: str = "ann", receipt: str | None = "R-1") -> Resolve:
    return Resolve(ID, "INV-1", resolution, version, by, receipt)


CAPTURED_BY_ANN = becomes(PaymentStatus.CAPTURED, Outcome.CAPTURED, 0.0, receipt_number="R-1", decided_by="ann")
NOT_CHARGED_BY_ANN = becomes(
    PaymentStatus.NOT_CHARGED, Outcome.NOT_CHARGED, 0.0, reason="decided_by_person", decided_by="ann"
)
REFUNDED_BY_ANN = is_refunded(None, 0.0, decided_by="ann")
LEFT_BY_ANN = about_refund(
    becomes(PaymentStatus.REFUND_FAILED, Outcome.REFUND_FAILED, 0.0, reason="decided_by_person", decided_by="ann"),
    status=PaymentRefundStatus.KEPT,
    version=4,
    decided_by="ann",
)
MADE_AGAIN = becomes(PaymentStatus.REFUNDING, delay_s=0.0)
CASE_AGAIN = becomes(PaymentStatus.NEEDS_DECISION, Outcome.NEEDS_DECISION, 0.0, reason="reopened_by_person")
REFUND_AGAIN = about_refund(
    becomes(PaymentStatus.REFUND_FAILED, Outcome.REFUND_FAILED, 0.0, reason="reopened_by_person"),
    status=PaymentRefundStatus.AT_WORK,
    version=4,
    decided_by=None,
)
REOPENED = {
    PaymentStatus.CAPTURED: CASE_AGAIN,
    PaymentStatus.NOT_CHARGED: CASE_AGAIN,
    PaymentStatus.REFUNDED: REFUND_AGAIN,
    PaymentStatus.REFUND_FAILED: REFUND_AGAIN,
}
WHOLE = PaymentRefund(ID, GIVE_BACK)
GIVEN_BACK = becomes(
    PaymentStatus.REFUNDING, delay_s=0.0, refunds=(replace(WHOLE, status=PaymentRefundStatus.AT_WORK, asked_by="ann"),)
)
WAS_GIVEN_BACK = becomes(
    PaymentStatus.REFUNDED,
    Outcome.REFUNDED,
    0.0,
    decided_by="ann",
    refunds=(
        replace(
            WHOLE,
            status=PaymentRefundStatus.REFUNDED,
            amount_minor=1_250,
            version=4,
            decided_by="ann",
            made_elsewhere=True,
        ),
    ),
)
"""The gateway shows that none of it was given back there."""

ACCEPTED: dict[tuple[PaymentStatus, Resolution], Becomes] = {
    (PaymentStatus.IN_DOUBT, "captured"): CAPTURED_BY_ANN,
    (PaymentStatus.IN_DOUBT, "not_charged"): NOT_CHARGED_BY_ANN,
    (PaymentStatus.NEEDS_DECISION, "captured"): CAPTURED_BY_ANN,
    (PaymentStatus.NEEDS_DECISION, "not_charged"): NOT_CHARGED_BY_ANN,
    (PaymentStatus.REFUND_IN_DOUBT, "refunded"): REFUNDED_BY_ANN,
    (PaymentStatus.REFUND_IN_DOUBT, "not_refunded"): LEFT_BY_ANN,
    (PaymentStatus.REFUND_FAILED, "refunded"): REFUNDED_BY_ANN,
    (PaymentStatus.REFUND_FAILED, "not_refunded"): LEFT_BY_ANN,
    (PaymentStatus.REFUND_FAILED, "refund_again"): MADE_AGAIN,
}
"""In every other state every other decision is refused: there is nothing to decide."""


def in_every_state(status: PaymentStatus, resolution: Resolution) -> CommandScenario:
    before, command = payment(status), resolve(resolution)
    if (status, resolution) in ACCEPTED:
        return Scenario(before, command, ACCEPTED[status, resolution](before))
    unfit = status is PaymentStatus.NEEDS_DECISION and resolution in {"refunded", "give_back"}
    refused = ResolutionRefused("does_not_fit" if unfit else "nothing_to_decide", "ann", resolution)
    return Scenario(before, command, PaymentTransition(before, refused=refused))


CASE = payment(PaymentStatus.NEEDS_DECISION)
DISCARDED = Payment(ID, "INV-1", PaymentStatus.NOT_CHARGED, reason="decided_by_person", decided_by="ann", was_case=True)
TOLD = replace(CASE, settled_as=PaymentStatus.NOT_CHARGED)


def does_not_fit(resolution: Resolution) -> Becomes:
    return lambda before: PaymentTransition(before, refused=ResolutionRefused("does_not_fit", "ann", resolution))


ABOUT_A_CAPTURE: dict[str, dict[Resolution, Becomes]] = {
    "disputed": {
        "captured": CAPTURED_BY_ANN,
        "not_charged": does_not_fit("not_charged"),
        "refunded": WAS_GIVEN_BACK,
        "give_back": GIVEN_BACK,
    },
    "capture_differs": {
        "captured": does_not_fit("captured"),
        "not_charged": does_not_fit("not_charged"),
        "refunded": WAS_GIVEN_BACK,
        "give_back": GIVEN_BACK,
    },
}
"""Nothing is booked as whole that is not, and nothing that the gateway shows as captured is told as not charged."""
PAID = replace(CASE, settled_as=PaymentStatus.CAPTURED, reason="reopened_by_person")
"""Told as captured, so its invoice is paid."""
DECIDED_REFUND = uuid5(ID, f"decided:{PAID.version}")
MADE_BY_OTHERS = uuid5(ID, "given back there:1")


def told_to_the_invoice(status: PaymentStatus, amount_minor: int, asked_minor: int | None = None) -> Becomes:
    """A refund with an id of its own, as of one that the invoice asked for."""

    def after(before: Payment) -> PaymentTransition:
        made = PaymentRefund(
            MADE_BY_OTHERS,
            "the money was given back at the gateway",
            asked_minor=asked_minor,
            status=PaymentRefundStatus.REFUNDED,
            amount_minor=amount_minor,
            version=before.version + 1,
            decided_by="ann",
        )
        moved = domain.move(before, status, decided_by="ann", refunds=(made,))
        return PaymentTransition(moved, Outcome.REFUNDED, delay_s=0.0)

    return after


def given_back_now(before: Payment) -> PaymentTransition:
    words, at_work = "staff gave back what is left", PaymentRefundStatus.AT_WORK
    begun = PaymentRefund(DECIDED_REFUND, words, status=at_work, asked_by="ann")
    return PaymentTransition(domain.move(before, PaymentStatus.REFUNDING, refunds=(begun,)), delay_s=0.0)


GIVEN_BACK_THERE = replace(PAID, reason="refunded_at_gateway", gateway_side=domain.side_of(CAPTURED))
OF_A_PAID_INVOICE: dict[str, CommandScenario] = {
    "its invoice is paid: not_charged would leave it so": Scenario(
        PAID, resolve("not_charged"), does_not_fit("not_charged")(PAID)
    ),
    "its invoice is paid, and the money never came": Scenario(
        PAID, resolve("refunded"), told_to_the_invoice(PaymentStatus.REFUNDED, 1_250)(PAID)
    ),
    "its invoice is paid, and nothing shows that there is something to give back": Scenario(
        PAID, resolve("give_back"), does_not_fit("give_back")(PAID)
    ),
    **{
        f"people gave back {by_hand_minor} of 1250 at the gateway": Scenario(
            before, resolve("refunded"), told_to_the_invoice(status, by_hand_minor, asked_minor)(before)
        )
        for by_hand_minor, status, asked_minor in [
            (1_250, PaymentStatus.REFUNDED, None),
            (400, PaymentStatus.CAPTURED, 400),
        ]
        for before in [
            replace(
                GIVEN_BACK_THERE,
                gateway_side=domain.side_of(replace(CAPTURED, refunded_minor=by_hand_minor)),
            )
        ]
    },
    "its invoice is paid, and what is left goes back": Scenario(
        GIVEN_BACK_THERE, resolve("give_back"), given_back_now(GIVEN_BACK_THERE)
    ),
    "all of it went back before": Scenario(
        ALL_BACK := replace(
            GIVEN_BACK_THERE,
            refunds=(PaymentRefund(ID, "void", status=PaymentRefundStatus.REFUNDED, amount_minor=1_250),),
        ),
        resolve("refunded"),
        does_not_fit("refunded")(ALL_BACK),
    ),
}
UNFOUND = replace(CASE, gateway_id=None)
CANCELLED_THERE = replace(CASE, gateway_side=domain.side_of(CANCELLED))
UNDER_REVIEW: port.Captured = replace(DISPUTED, dispute=port.Dispute("under_review"))
OPEN = replace(CASE, reason="disputed", gateway_side=domain.side_of(UNDER_REVIEW))
OPEN_OF_A_PAID = replace(PAID, gateway_side=domain.side_of(replace(UNDER_REVIEW, refunded_minor=400)))
OPEN_AND_BACK = replace(PAID, gateway_side=domain.side_of(replace(UNDER_REVIEW, refunded_minor=1_250)))
OPEN_AFTER_OURS = replace(
    PAID,
    gateway_side=domain.side_of(replace(UNDER_REVIEW, refunded_minor=250)),
    refunds=(
        PaymentRefund(
            UUID(int=1), "damaged", asked_minor=250, status=PaymentRefundStatus.REFUNDED, amount_minor=250, version=2
        ),
    ),
)
CLOSED = replace(CASE, amount_minor=None, currency=None, gateway_side=domain.side_of(CAPTURED))
GIVEN_UP = payment(PaymentStatus.REFUND_FAILED, decided_by="ann")

SCENARIOS: dict[str, CommandScenario] = {
    **{
        f"{status} as {resolution}: {'accepted' if (status, resolution) in ACCEPTED else 'refused'}": in_every_state(
            status, resolution
        )
        for status in PaymentStatus
        for resolution in get_args(Resolution)
    },
    "refused on another version than stands": Scenario(
        CASE,
        resolve("not_charged", version=2, by="bob"),
        PaymentTransition(CASE, refused=ResolutionRefused("version_differs", "bob", "not_charged")),
    ),
    "refused as captured without its receipt": Scenario(
        CASE,
        resolve("captured", receipt=None),
        PaymentTransition(CASE, refused=ResolutionRefused("receipt_number_required", "ann", "captured")),
    ),
    **{
        f"about a payment never seen, {resolution} is refused": Scenario(
            None, resolve(resolution), NeverSeen(ResolutionRefused("unknown_payment", "ann", resolution))
        )
        for resolution in get_args(Resolution)
        if resolution != "not_charged"
    },
    "a payment never seen is closed by a person: its request, if it comes, is never sent": Scenario(
        None,
        resolve("not_charged"),
        PaymentTransition(DISCARDED, Outcome.NOT_CHARGED, delay_s=0.0),
    ),
    "a payment that a person closed before its request came is reopened": Scenario(
        DISCARDED, resolve("reopen", version=1, by="bob"), CASE_AGAIN(DISCARDED)
    ),
    **{
        f"{status} by a person is reopened": Scenario(before, resolve("reopen", by="bob"), case_again(before))
        for status, case_again in REOPENED.items()
        for before in [payment(status, decided_by="ann")]
    },
    **{
        f"the gateway shows a capture, {reason}: {resolution}": Scenario(before, resolve(resolution), follows(before))
        for reason, resolutions in ABOUT_A_CAPTURE.items()
        for resolution, follows in resolutions.items()
        for before in [replace(CASE, reason=reason, gateway_side=domain.side_of(DISPUTED))]
    },
    **OF_A_PAID_INVOICE,
    "nobody has found it at the gateway, so nobody could watch a capture": Scenario(
        UNFOUND, resolve("captured"), does_not_fit("captured")(UNFOUND)
    ),
    "the gateway shows a cancel, so it was not charged": Scenario(
        CANCELLED_THERE, resolve("not_charged"), NOT_CHARGED_BY_ANN(CANCELLED_THERE)
    ),
    "the gateway shows a cancel, so there is nothing to give back": Scenario(
        CANCELLED_THERE, resolve("give_back"), does_not_fit("give_back")(CANCELLED_THERE)
    ),
    "a dispute goes on, and what is left goes back": Scenario(OPEN, resolve("give_back"), GIVEN_BACK(OPEN)),
    "a dispute goes on, and nothing went back": Scenario(OPEN, resolve("refunded"), does_not_fit("refunded")(OPEN)),
    "a dispute goes on, and people gave a part back": Scenario(
        OPEN_OF_A_PAID,
        resolve("refunded"),
        told_to_the_invoice(PaymentStatus.CAPTURED, 400, 400)(OPEN_OF_A_PAID),
    ),
    "a dispute goes on, and people gave all back: whoever wins it, the money is gone": Scenario(
        OPEN_AND_BACK,
        resolve("refunded"),
        told_to_the_invoice(PaymentStatus.REFUNDED, 1_250)(OPEN_AND_BACK),
    ),
    "a dispute goes on, and only what we gave back ourselves went back": Scenario(
        OPEN_AFTER_OURS, resolve("refunded"), does_not_fit("refunded")(OPEN_AFTER_OURS)
    ),
    "it was closed before its request, so we know of nothing to give back": Scenario(
        CLOSED, resolve("refunded"), does_not_fit("refunded")(CLOSED)
    ),
    "captured after it had been told as not charged: it is late": Scenario(
        TOLD, resolve("captured"), replace(CAPTURED_BY_ANN(TOLD), outcome=Outcome.CAPTURED_LATE)
    ),
    **{
        f"a refund that a person gave up is left alone: {resolution}": Scenario(
            GIVEN_UP,
            resolve(resolution, by="bob"),
            PaymentTransition(GIVEN_UP, refused=ResolutionRefused("nothing_to_decide", "bob", resolution)),
        )
        for resolution in get_args(Resolution)
        if resolution != "reopen"
    },
}


@each(SCENARIOS)
def test_resolve(scenario: CommandScenario) -> None:
    assert decided(scenario) == scenario.then


OURS = PaymentRefund(
    UUID(int=1), "damaged", asked_minor=250, status=PaymentRefundStatus.REFUNDED, amount_minor=250, version=2
)
GONE: dict[str, tuple[port.Captured, tuple[PaymentRefund, ...], int | None, int, PaymentStatus]] = {
    "a part": (replace(CAPTURED, refunded_minor=400), (), 400, 400, PaymentStatus.CAPTURED),
    "a cent": (replace(CAPTURED, refunded_minor=1), (), 1, 1, PaymentStatus.CAPTURED),
    "all but a cent": (replace(CAPTURED, refunded_minor=1_249), (), 1_249, 1_249, PaymentStatus.CAPTURED),
    "all": (replace(CAPTURED, refunded_minor=1_250), (), None, 1_250, PaymentStatus.REFUNDED),
    "a part, and a part in a dispute": (
        replace(CAPTURED, refunded_minor=300, lost_minor=100), (), 400, 400, PaymentStatus.CAPTURED,
    ),
    "a part by us, a part by others": (
        replace(CAPTURED, refunded_minor=650), (OURS,), 400, 400, PaymentStatus.CAPTURED,
    ),
    "a part by us, the rest by others": (
        replace(CAPTURED, refunded_minor=1_250), (OURS,), None, 1_000, PaymentStatus.REFUNDED,
    ),
    "a part by us, and the rest without a trace": (
        replace(CAPTURED, refunded_minor=250), (OURS,), None, 1_000, PaymentStatus.REFUNDED,
    ),
    "all but a cent by us, and the cent without a trace": (
        replace(CAPTURED, refunded_minor=1_249), (replace(OURS, amount_minor=1_249),), None, 1, PaymentStatus.REFUNDED,
    ),
    "of a smaller capture a part": (
        replace(CAPTURED, amount_minor=900, refunded_minor=400), (), 400, 400, PaymentStatus.CAPTURED,
    ),
    "of a smaller capture all": (
        replace(CAPTURED, amount_minor=900, refunded_minor=900), (), None, 900, PaymentStatus.REFUNDED,
    ),
    "in a currency that is not ours": (
        replace(CAPTURED, amount_minor=900, currency="USD", refunded_minor=400), (), None, 1_250, PaymentStatus.REFUNDED,
    ),
    "of an amount that cannot be shown": (
        replace(CAPTURED, amount_minor=port.AMOUNT_SHOWN_MAX + 1, refunded_minor=400), (), 400, 400, PaymentStatus.CAPTURED,
    ),
    "as much as cannot be shown": (
        replace(CAPTURED, refunded_minor=port.AMOUNT_SHOWN_MAX + 1), (), None, 1_250, PaymentStatus.REFUNDED,
    ),
}  # fmt: skip
"""What the gateway shows and what we gave back before; then what of it the person's refund takes, its amount, and the status."""


@pytest.mark.parametrize("gone", GONE)
def test_a_person_finds_given_back_what_the_gateway_shows_beyond_our_own_refunds(gone: str) -> None:
    shown, ours, asked_minor, amount_minor, status = GONE[gone]
    case = replace(GIVEN_BACK_THERE, gateway_side=domain.side_of(shown), refunds=ours)
    found = on_known(case, resolve("refunded")).payment
    *before, made = found.refunds
    assert (tuple(before), made.asked_minor, made.amount_minor, found.status) == (
        ours,
        asked_minor,
        amount_minor,
        status,
    )


def test_a_refund_keeps_the_id_of_the_try_that_a_person_found_made() -> None:
    failed = payment(PaymentStatus.REFUND_FAILED)
    tried = replace(failed, refunds=(replace(failed.refunds[0], gateway_id="re_1"),))
    (made,) = on_known(tried, resolve("refunded")).payment.refunds
    assert (made.status, made.gateway_id) == (PaymentRefundStatus.REFUNDED, "re_1")


def test_what_is_left_goes_back_whole_whatever_others_gave_back_before() -> None:
    case = replace(GIVEN_BACK_THERE, gateway_side=domain.side_of(replace(CAPTURED, refunded_minor=400)))
    (begun,) = on_known(case, resolve("give_back")).payment.refunds
    assert (begun.takes_rest, begun.asked_by) == (True, "ann")


def test_a_refund_that_the_saga_waits_for_is_the_one_that_a_person_has_made() -> None:
    waits = PaymentRefund(ID, "the invoice cannot take the money", amount_minor=1_000)
    (begun,) = on_known(replace(GIVEN_BACK_THERE, refunds=(waits,)), resolve("give_back")).payment.refunds
    assert begun == replace(waits, status=PaymentRefundStatus.AT_WORK, amount_minor=None, asked_by="ann")


@pytest.mark.parametrize(
    "answer", [CANCELLED, DECLINED, UNCONFIRMED, ACTION_REQUIRED], ids=lambda answer: type(answer).__name__
)
def test_money_that_never_came_is_given_back_once_in_the_books(answer: GatewayAnswer) -> None:
    """The gateway has nothing to give back, and the person knew that."""
    case = afterwards.on_answer(payment(PaymentStatus.CAPTURED), GatewayStep.INQUIRE, answer, POLICY).payment
    assert (case.status, case.reason) == (PaymentStatus.NEEDS_DECISION, "not_captured")
    decided = on_known(case, resolve("refunded", version=case.version)).payment
    assert domain.next_step(decided) is GatewayStep.INQUIRE_REFUND
    nothing = port.NoRefund("nothing was captured")
    assert afterwards.on_answer(decided, GatewayStep.INQUIRE_REFUND, nothing, POLICY) == PaymentTransition(decided)
    there = replace(nothing, left_minor=1_250)
    again = afterwards.on_answer(decided, GatewayStep.INQUIRE_REFUND, there, POLICY)
    assert again.payment.reason == "not_refunded", "now it has the money after all"


def test_a_payment_not_charged_by_a_person_is_still_cancelled() -> None:
    watched = on_known(CASE, resolve("not_charged")).payment
    assert domain.next_step(watched) is GatewayStep.CANCEL
    late = afterwards.on_answer(watched, GatewayStep.CANCEL, CAPTURED, POLICY)
    assert (late.outcome, late.payment.decided_by) == (Outcome.CAPTURED_LATE, None)
