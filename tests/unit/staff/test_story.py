"""The story of an invoice: its steps with their causes, how it stands, what happens next, what to tell the customer, the picture."""

import random
import re
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from services.staff.heard import NAMES, hear
from services.staff.picture import LINE_CHARACTERS, NODE_HEIGHT, NODE_WIDTH, ROW_STEPS_MAX, picture_of, span
from services.staff.standing import _SAID, SENTENCES, State, latest_payment, standing_of
from services.staff.story import (
    PARTIES,
    STEPS_MAX,
    TOLD_NAMES,
    CaseTold,
    EntryTold,
    InvoiceTold,
    LetterTold,
    StoryStep,
    plain,
    steps_of,
)
from shared.contracts import invoice, payment_gateway
from shared.messaging.envelope import Inbound
from shared.records import replace
from tests.support.heard_messages import (
    ABOUT,
    INVOICE,
    MONEY,
    PAYMENT,
    START,
    healthy_payment,
    life_of_an_invoice,
    message,
)

LIFE = life_of_an_invoice()


def told(messages: list[Inbound], **more: Any) -> InvoiceTold:
    heard = hear(messages)
    return InvoiceTold(
        INVOICE,
        heard.invoices[0] if heard.invoices else None,
        heard.payments,
        heard.commands,
        heard.messages,
        **more,
    )


def case(status: str = "needs_decision", *, is_open: bool = True, **more: Any) -> CaseTold:
    return CaseTold(PAYMENT, status, is_open, "no_readable_answer", START + timedelta(seconds=108), **more)


def titles(steps: tuple[StoryStep, ...]) -> list[str]:
    return [step.title for step in steps]


# -- steps -------------------------------------------------------------------------------------------------------------------------------


def test_every_message_that_staff_hear_has_words() -> None:
    assert set(NAMES.values()) == TOLD_NAMES


def test_the_story_of_a_payment_in_doubt_reads_from_beginning_to_end() -> None:
    steps = steps_of(told(LIFE))
    assert titles(steps) == [
        "IssueInvoice, accepted",
        "In doubt: charged or not, nobody knows",
        "In doubt; sender told",
        "PayInvoice, rejected",
        "Needs a decision",
        "Says: not charged",
        "Not charged (decided)",
        "Open again; sender told",
        "Found charged, late",
        "Asks for a refund",
        "Given back",
    ]
    assert [step.number for step in steps] == list(range(1, 12))
    causes = {step.title: step.cause and steps[step.cause - 1].title for step in steps}
    assert causes["In doubt; sender told"] == "In doubt: charged or not, nobody knows"
    assert causes["Not charged (decided)"] == "Says: not charged"
    assert causes["Open again; sender told"] == "Not charged (decided)"
    assert causes["IssueInvoice, accepted"] is None
    assert {step.party for step in steps} <= set(PARTIES)
    by_title = {step.title: step for step in steps}
    assert by_title["Says: not charged"].who == "ben.resolver"
    assert plain(by_title["Says: not charged"].text) == "Saw: dashboard 17:35, no charge of 310.00 EUR"
    assert by_title["Open again; sender told"].delay == timedelta(milliseconds=18)
    assert plain(by_title["Given back"].text) == "31000 EUR given back, refund re_3QJx81"


def test_a_late_capture_contradicts_the_outcome_before_it() -> None:
    late = next(step for step in steps_of(told(LIFE)) if step.title == "Found charged, late")
    steps = steps_of(told(LIFE))
    assert late.against is not None
    assert steps[late.against - 1].title == "Not charged (decided)"
    assert late.kind == "act"


def test_a_wait_shows_how_often_the_gateway_was_asked_in_it() -> None:
    (pause,) = [
        step.pause for step in steps_of(told(LIFE)) if step.pause is not None and step.title == "Needs a decision"
    ]
    assert pause is not None
    assert pause[1] == 11


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_messages_does_not_matter(seed: int) -> None:
    shuffled = [*LIFE]
    random.Random(seed).shuffle(shuffled)
    assert steps_of(told(shuffled)) == steps_of(told(LIFE))


def test_causes_come_first_though_clocks_differ() -> None:
    """The server of the invoice is five seconds behind: what it says of a payment seems to come before the payment."""
    captured, paid = healthy_payment(1)[1:]
    early = replace(paid, time=captured.time - timedelta(seconds=5))
    steps = steps_of(told([early, captured]))
    assert titles(steps) == ["Charged", "Paid; sender told"]
    assert steps[1].delay == timedelta()
    assert all(step.cause is None or step.cause < step.number for step in steps)


def test_rows_of_a_build_that_heard_what_the_saga_passes_on_are_told() -> None:
    captured, paid = healthy_payment(1)[1:]
    assert paid.causation_id is not None
    about = {"invoice_id": captured.data.subject(), "payment_id": UUID(int=10_001)}
    record = invoice.RecordPayment(**about, **MONEY, receipt_number="ch_1")
    steps = steps_of(told([captured, Inbound(paid.causation_id, record, "C", captured.time, captured.id), paid]))
    assert [(step.title, step.cause) for step in steps] == [
        ("Charged", None),
        ("Records the payment", 1),
        ("Paid; sender told", 2),
    ]


def test_what_causes_itself_ends() -> None:
    """No message does. A row that says so must not hang the page."""
    one = hear([message(invoice.InvoicePaymentInDoubt(**ABOUT), 1)]).messages[0]
    circle = replace(one, cause=one.id)
    assert len(steps_of(InvoiceTold(INVOICE, messages=(circle,)))) == 1


def test_equal_steps_of_one_moment_are_one_with_their_number() -> None:
    """Each reminder has the time of what it reminds of, and an id of its own."""
    doubt = next(one for one in hear(LIFE).messages if NAMES[one.type] == "PaymentInDoubt")
    reminder = hear([message(invoice.InvoicePaymentOverdue(invoice_id=INVOICE, payment_id=PAYMENT), 5)]).messages[0]
    reminders = [replace(reminder, id=UUID(int=n), at=START + timedelta(hours=1)) for n in (1, 2, 3)]
    later = replace(reminder, id=UUID(int=4), at=START + timedelta(hours=2))
    caused = replace(doubt, id=UUID(int=5), at=START + timedelta(hours=1, seconds=2), cause=UUID(int=3))
    steps = steps_of(InvoiceTold(INVOICE, messages=(*reminders, caused, later)))
    reminded, in_doubt = "Still waits for its payment", "In doubt: charged or not, nobody knows"
    assert titles(steps) == [f"{reminded}, 3 times", in_doubt, reminded]
    assert steps[1].cause == 1, "what the last of them caused is caused by the step that stands for all"


def test_a_message_of_a_newer_build_is_shown_as_such() -> None:
    one = replace(hear([LIFE[0]]).messages[0], type=999)
    assert titles(steps_of(InvoiceTold(INVOICE, messages=(one,)))) == ["A message of a newer build (type 999)"]


def test_the_steps_of_a_page_have_a_bound() -> None:
    one = hear([LIFE[0]]).messages[0]
    many = tuple(replace(one, id=UUID(int=n), at=START + timedelta(seconds=n)) for n in range(STEPS_MAX + 5))
    assert len(steps_of(InvoiceTold(INVOICE, messages=many))) == STEPS_MAX


def test_what_people_did_is_told_once() -> None:
    """The message that follows from an entry of the journal tells it; an entry without one tells itself."""
    resolve = next(one for one in LIFE if isinstance(one.data, payment_gateway.ResolvePayment))
    assert resolve.causation_id is not None
    entries = (
        EntryTold(
            resolve.causation_id, resolve.time, "ben.resolver", "resolve", PAYMENT, {"resolution": "not_charged"}
        ),
        EntryTold(UUID(int=77), resolve.time, "cleo.admin", "agree", PAYMENT, {"saw": "list of charges 17:55, none"}),
        EntryTold(
            UUID(int=78), resolve.time, "eve", "refused", PAYMENT, {"action": "resolve", "code": "version_differs"}
        ),
    )
    steps = steps_of(told(LIFE, entries=entries))
    people = [(step.who, step.title, plain(step.text)) for step in steps if step.kind == "hand"]
    assert sorted(people) == [
        ("ben.resolver", "Says: not charged", "Saw: dashboard 17:35, no charge of 310.00 EUR"),
        ("cleo.admin", "Agreed", "list of charges 17:55, none"),
        ("eve", "Tried to decide", "refused: version differs"),
    ]


def test_a_person_who_asks_is_named() -> None:
    asked = message(payment_gateway.InquirePayment(**ABOUT), 5, cause=UUID(int=9))
    entry = EntryTold(UUID(int=9), asked.time, "ann", "ask", PAYMENT)
    (step,) = steps_of(told([asked], entries=(entry,)))
    assert (step.who, step.title) == ("ann", "Has the gateway asked")
    (step,) = steps_of(told([asked]))
    assert (step.who, step.title) == ("Saga", "Asks what is known")


def test_an_open_failed_message_and_a_case_are_in_the_story() -> None:
    letter = LetterTold(UUID(int=5), "remit.invoice.PayInvoice.v1", "invoice.commands", "handler_failed", "open", START)
    settled = replace(
        letter, id=UUID(int=6), status="discarded", settled_by="ann", settled_at=START + timedelta(minutes=1)
    )
    steps = steps_of(InvoiceTold(INVOICE, letters=(letter, settled), cases=(case(),)))
    assert titles(steps) == ["PayInvoice could not be handled, and waits", "PayInvoice could not be handled", "A case"]
    assert [step.kind for step in steps] == ["look", "", "look"]
    assert "discarded by ann" in plain(steps[1].text)
    assert "A case" not in titles(steps_of(told(LIFE, cases=(case(),)))), "its messages tell it"


# -- how it stands -----------------------------------------------------------------------------------------------------------------------


def upto(name: str) -> list[Inbound]:
    """The life of the invoice until this message, which is included."""
    names = [one.type.rpartition(".v")[0].rpartition(".")[2] for one in LIFE]
    return LIFE[: names.index(name) + 1]


@pytest.mark.parametrize(
    ("messages", "state"),
    [
        ([], State.UNKNOWN),
        (upto("InvoiceIssued"), State.OPEN),
        (upto("PaymentInDoubt"), State.IN_DOUBT),
        (upto("InvoicePaymentInDoubt"), State.IN_DOUBT),
        (upto("PaymentNeedsDecision"), State.NEEDS_DECISION),
        (upto("PaymentNotCharged"), State.FAILED),
        (upto("InvoicePaymentFailed"), State.FAILED),
        (upto("PaymentCaptured"), State.CHARGED),
        (LIFE, State.GIVEN_BACK),
        (healthy_payment(1)[:2], State.CHARGED),
        (healthy_payment(1), State.PAID),
    ],
)
def test_it_stands_as_the_newest_fact_says(messages: list[Inbound], state: State) -> None:
    assert standing_of(told(messages)).state is state


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("in_doubt", State.IN_DOUBT),
        ("needs_decision", State.NEEDS_DECISION),
        ("refund_in_doubt", State.REFUND_UNCLEAR),
        ("refund_failed", State.REFUND_REFUSED),
        ("what_a_newer_build_says", State.NEEDS_DECISION),
    ],
)
def test_an_open_case_decides_how_it_stands(status: str, state: State) -> None:
    assert standing_of(told(healthy_payment(1), cases=(case(status),))).state is state
    assert standing_of(told(healthy_payment(1), cases=(case(status, is_open=False),))).state is State.PAID


def test_a_decision_on_its_way_says_until_when_it_has_time() -> None:
    at = START + timedelta(hours=1)
    standing = standing_of(told(LIFE, cases=(case(decided=("ben", "not_charged", at)),)))
    assert standing.state is State.DECIDED
    assert plain(standing.next) == (
        f"ben decided not charged at {at.isoformat()}. If no effect shows by {(at + timedelta(minutes=5)).isoformat()}, "
        "anybody may decide anew."
    )


def test_a_decision_without_effect_for_too_long_waits_and_may_be_made_anew() -> None:
    at = START + timedelta(hours=1)
    standing = standing_of(told(LIFE, cases=(case(decided=("ben", "not_charged", at), decision_waits=True),)))
    assert standing.state is State.NEEDS_DECISION
    assert plain(standing.next).startswith(
        f"ben decided not charged at {at.isoformat()}. That decision waits: it has no effect yet, and anybody may decide anew. "
    )


def test_doubt_says_when_the_gateway_was_asked_last() -> None:
    standing = standing_of(told(upto("PaymentInDoubt"), cases=(case("in_doubt"),)))
    assert plain(standing.next).endswith(f"It was last asked at {(START + timedelta(seconds=98)).isoformat()}.")


REQUESTED: Any = invoice.InvoiceRefundRequested


def refund(kind: Any, seconds: float, number: int = 1) -> Inbound:
    facts: dict[str, Any] = {"refund_id": UUID(int=number), "currency": "EUR", "amount_minor": 100}
    if kind is REQUESTED:
        facts |= {"reason": "goods came back"}
    else:
        facts |= {"refunded_minor": 100, "version": 9}
    if kind is invoice.InvoiceRefundFailed:
        facts |= {"reason": "expired_card"}
    return message(kind(**ABOUT, **facts), seconds, position=f"refund {number}")


@pytest.mark.parametrize(
    ("kinds", "state"),
    [
        ([REQUESTED], State.REFUND_ASKED),
        ([REQUESTED, invoice.InvoiceRefunded], State.REFUNDED),
        ([REQUESTED, invoice.InvoiceRefundFailed], State.PAID),
    ],
)
def test_a_paid_invoice_stays_paid_and_its_refunds_show(kinds: list[Any], state: State) -> None:
    words = [refund(kind, 10 + n) for n, kind in enumerate(kinds)]
    assert standing_of(told([*healthy_payment(1), *words])).state is state


def test_one_refund_that_was_made_does_not_hide_another_that_is_under_way() -> None:
    words = [
        refund(REQUESTED, 10, 1),
        refund(invoice.InvoiceRefunded, 11, 1),
        refund(REQUESTED, 9, 2),
    ]
    assert standing_of(told([*healthy_payment(1), *words])).state is State.REFUND_ASKED


def test_a_voided_invoice_is_void() -> None:
    void = message(invoice.InvoiceVoided(invoice_id="INV-1", reason="by mistake"), 9)
    assert standing_of(told([healthy_payment(1)[0], void])).state is State.VOID


def test_the_payment_that_paid_counts_though_another_was_tried_later() -> None:
    paid = told(healthy_payment(1))
    later = replace(paid.payments[0], payment_id=UUID(int=1), status="declined", requested_at=START + timedelta(days=1))
    both = replace(paid, payments=(*paid.payments, later))
    payment = latest_payment(both)
    assert payment is not None
    assert payment.status == "captured"
    assert standing_of(both).state is State.PAID


def test_every_state_has_one_sentence_for_the_customer() -> None:
    assert set(SENTENCES) == set(State) == set(_SAID)
    for state, sentence in SENTENCES.items():
        assert re.fullmatch(r"[A-Z][^.]*\.", sentence), f"{state}: one sentence"
        promises = re.search(r"\b(will|promise|guarantee|tomorrow|within|soon|shall)\b", sentence)
        assert promises is None, f"{state}: never a promise"
        assert "_" not in sentence, f"{state}: never a code"
        assert "Remit" not in sentence


@pytest.mark.parametrize("state", [State.PENDING, State.IN_DOUBT, State.NEEDS_DECISION])
def test_nobody_is_told_to_pay_again_while_nobody_knows(state: State) -> None:
    assert "please do not pay again" in SENTENCES[state]


def test_every_state_says_what_happens_next() -> None:
    for messages in ([], LIFE, healthy_payment(1), upto("InvoiceIssued"), upto("PaymentInDoubt")):
        assert plain(standing_of(told(messages)).next)


# -- the picture -------------------------------------------------------------------------------------------------------------------------


def test_the_picture_has_a_row_a_step_and_a_column_a_party() -> None:
    steps = steps_of(told(LIFE))
    picture = picture_of(steps)
    assert len(picture.nodes) == len(steps)
    names = [name for _, name in picture.lanes]
    assert names == [party for party in PARTIES if party in names]
    assert {node.x for node in picture.nodes} <= {x for x, _ in picture.lanes}
    assert len({x for x, _ in picture.lanes}) == len(picture.lanes)
    for above, below in pairwise(picture.nodes):
        assert below.y - above.y > NODE_HEIGHT, "no box lies on another"
    for node in picture.nodes:
        assert node.left >= 0
        assert node.left + NODE_WIDTH <= picture.width
        assert node.top + NODE_HEIGHT <= picture.height
        assert len(node.lines) <= 2
        assert all(len(line) <= LINE_CHARACTERS for line in node.lines)


def test_each_cause_is_a_line_and_a_contradiction_a_dashed_one() -> None:
    steps = steps_of(told(LIFE))
    picture = picture_of(steps)
    assert len(picture.edges) == sum(step.cause is not None for step in steps) + 1
    assert sum(edge.against for edge in picture.edges) == 1
    assert all(re.fullmatch(r"M[\d.]+ [\d.]+ [CL][\d. ]+", edge.path) for edge in picture.edges)


def test_the_picture_leaves_out_what_is_beyond_its_bound_and_says_so() -> None:
    step = StoryStep(START, "Saga", "x" * 90, number=1)
    steps = [replace(step, number=n, cause=n - 1 or None) for n in range(1, ROW_STEPS_MAX + 31)]
    picture = picture_of(steps)
    assert (len(picture.nodes), picture.left_out) == (ROW_STEPS_MAX, 30)


def test_days_are_those_of_whoever_looks() -> None:
    steps = steps_of(told(LIFE))
    assert len(picture_of(steps).days) == 2
    assert len(picture_of(steps, lambda at: (at + timedelta(hours=10)).date()).days) == 3


def test_no_story_has_an_empty_picture() -> None:
    picture = picture_of(())
    assert (picture.nodes, picture.edges, picture.lanes) == ((), (), ())
    assert picture.width > 0


@pytest.mark.parametrize(
    ("delay", "said"),
    [
        (None, ""),
        (timedelta(milliseconds=3), "+3 ms"),
        (timedelta(seconds=10.12), "+10.1 s"),
        (timedelta(minutes=16, seconds=9), "+16 min"),
        (timedelta(hours=3, minutes=2), "+3 h 2 min"),
        (timedelta(days=1, hours=9), "+1 d 9 h"),
    ],
)
def test_a_delay_in_its_two_largest_units(delay: timedelta | None, said: str) -> None:
    assert span(delay) == said
    assert isinstance(datetime.now(tz=START.tzinfo), datetime)


def test_money_that_is_not_known_is_left_out() -> None:
    assert MONEY["amount_minor"] == 31_000
    refunded = payment_gateway.PaymentRefunded(**ABOUT, **MONEY, version=9)
    (step,) = steps_of(told([message(refunded, 1)]))
    assert plain(step.text) == "31000 EUR given back"
