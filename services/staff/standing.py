"""How an invoice stands: in a sentence, what happens next, and what to tell the customer. Pure."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from services.staff.domain import DECIDE_ANEW_AFTER
from services.staff.heard import IN_DOUBT, PAID, VOID, MessageHeard, PaymentHeard
from services.staff.story import RESOLUTIONS, CaseTold, InvoiceTold, Theirs, When, Words
from shared.records import dataclass


class State(StrEnum):
    """How an invoice stands, for the person at the telephone."""

    UNKNOWN = "unknown"
    OPEN = "open"
    FAILED = "failed"
    GIVEN_BACK = "given_back"
    PENDING = "pending"
    CHARGED = "charged"
    IN_DOUBT = "in_doubt"
    NEEDS_DECISION = "needs_decision"
    DECIDED = "decided"
    PAID = "paid"
    REFUND_ASKED = "refund_asked"
    REFUNDED = "refunded"
    REFUND_UNCLEAR = "refund_unclear"
    REFUND_REFUSED = "refund_refused"
    KEPT = "kept"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class Standing:
    """How the invoice stands: in one sentence, what happens next, and what to tell the customer.

    `title` follows the number of the invoice. `customer` is one sentence to be said as it is: no promise, and no code.
    """

    state: State
    kind: Literal["act", "look", "work", "hand", "done", "quiet"]
    badge: str
    title: str
    next: Words
    customer: str


def standing_of(told: InvoiceTold) -> Standing:
    """How the invoice stands, from all that is known."""
    state = _state(told)
    kind, badge, title, customer = _SAID[state]
    return Standing(state, kind, badge, title, _next(state, told), customer)


_SAID: Final[Mapping[State, tuple[Any, str, str, str]]] = {
    State.UNKNOWN: (
        "quiet",
        "Not known",
        "is not known well enough to say how it stands",
        "I cannot see this invoice here; I have to ask a colleague and call you back.",
    ),
    State.OPEN: ("quiet", "Open", "is open; no payment was tried", "The invoice is open, and no payment was made."),
    State.FAILED: (
        "quiet",
        "Open",
        "is open; its payment was not made",
        "Your payment was not made and nothing was charged; the invoice is still open and can be paid again.",
    ),
    State.GIVEN_BACK: (
        "quiet",
        "Open",
        "is open; its payment was given back",
        "The money was charged and has been given back to the card; the invoice is still open.",
    ),
    State.PENDING: (
        "work",
        "Being paid",
        "is being paid",
        "Your payment is under way; please do not pay again until it is clear what became of it.",
    ),
    State.CHARGED: (
        "work",
        "Charged",
        "was charged, and is being marked as paid",
        "Your card was charged, and the invoice is being marked as paid.",
    ),
    State.IN_DOUBT: (
        "look",
        "In doubt",
        "is in doubt: nobody knows yet whether the card was charged",
        "We are finding out whether your card was charged; please do not pay again until then.",
    ),
    State.NEEDS_DECISION: (
        "act",
        "Needs a decision",
        "waits for a decision: was the card charged?",
        "We are finding out whether your card was charged, and somebody is looking into it; please do not pay again until then.",
    ),
    State.DECIDED: (
        "work",
        "Decided",
        "was decided about; the decision is on its way",
        "Somebody has looked into your payment, and the result is being entered now.",
    ),
    State.PAID: ("done", "Paid", "is paid", "Your payment has arrived and the invoice is paid."),
    State.REFUND_ASKED: (
        "work",
        "Refund under way",
        "is paid; a refund is under way",
        "The invoice is paid, and a refund to your card is under way.",
    ),
    State.REFUNDED: (
        "done",
        "Given back",
        "is paid; money was given back",
        "The money was given back to the card with which you paid.",
    ),
    State.REFUND_UNCLEAR: (
        "look",
        "Refund unclear",
        "waits: nobody knows yet whether the money went back",
        "A refund was asked for, and we are finding out whether it has gone through.",
    ),
    State.REFUND_REFUSED: (
        "act",
        "Refund refused",
        "waits for a person: the gateway did not give the money back",
        "A refund was asked for and has not gone through yet; somebody is looking into it.",
    ),
    State.KEPT: (
        "quiet",
        "Not given back",
        "keeps its money: a person decided not to give it back",
        "The refund was not made; a colleague can explain why.",
    ),
    State.VOID: ("quiet", "Void", "is void", "The invoice was cancelled, and nothing is to be paid."),
}
SENTENCES: Final[Mapping[State, str]] = {state: said[3] for state, said in _SAID.items()}
"""What to tell the customer, by state."""


def _state(told: InvoiceTold) -> State:
    payment = latest_payment(told)
    case = _case(told, payment)
    if case is not None and case.is_open:
        is_coming = case.decided is not None and not case.decision_waits
        return State.DECIDED if is_coming else _OF_CASE.get(case.status, State.NEEDS_DECISION)
    invoice = told.invoice.status if told.invoice is not None else None
    if invoice == VOID:
        return State.VOID
    of_payment = _OF_PAYMENT.get(payment.status) if payment is not None else None
    if invoice == PAID:
        return _of_a_paid_one(told, of_payment)
    if of_payment is not None:
        return State.PENDING if of_payment is State.OPEN else of_payment
    if invoice == IN_DOUBT:
        return State.IN_DOUBT
    return State.UNKNOWN if told.invoice is None else State.OPEN


_OF_CASE: Final[Mapping[str, State]] = {
    "in_doubt": State.IN_DOUBT,
    "needs_decision": State.NEEDS_DECISION,
    "refund_in_doubt": State.REFUND_UNCLEAR,
    "refund_failed": State.REFUND_REFUSED,
}
_OF_PAYMENT: Final[Mapping[str, State]] = {
    "pending": State.PENDING,
    "captured": State.CHARGED,
    "declined": State.FAILED,
    "not_charged": State.FAILED,
    "refunded": State.GIVEN_BACK,
    "not_refunded": State.KEPT,
    **_OF_CASE,
}


def _of_a_paid_one(told: InvoiceTold, of_payment: State | None) -> State:
    """A paid invoice stays paid. What became of its money since, the last word about a refund says."""
    if of_payment in (State.REFUND_UNCLEAR, State.REFUND_REFUSED, State.KEPT):
        return of_payment
    if of_payment is State.GIVEN_BACK:
        return State.REFUNDED
    words = [message for message in told.messages if message.name in _ABOUT_REFUNDS]
    newest: dict[str, MessageHeard] = {}
    for message in sorted(words, key=lambda one: (one.at, one.type)):
        newest[str(message.facts.get("refund_id"))] = message
    names = {message.name for message in newest.values()}
    if "InvoiceRefundRequested" in names:
        return State.REFUND_ASKED
    return State.REFUNDED if "InvoiceRefunded" in names else State.PAID


_ABOUT_REFUNDS: Final = frozenset({"InvoiceRefundRequested", "InvoiceRefunded", "InvoiceRefundFailed"})


def latest_payment(told: InvoiceTold) -> PaymentHeard | None:
    """The payment that the invoice stands by: the one that charged, else the one that was heard of last."""
    if not told.payments:
        return None
    if told.invoice is not None and told.invoice.status == PAID:
        kept = [one for one in told.payments if one.status in _HAS_PAID]
        if kept:
            return max(kept, key=lambda one: (one.requested_at, one.payment_id))
    return max(told.payments, key=lambda one: (one.settled_at is None, one.requested_at, one.payment_id))


_HAS_PAID: Final = frozenset({"captured", "refunded", "not_refunded", "refund_in_doubt", "refund_failed"})


def _case(told: InvoiceTold, payment: PaymentHeard | None) -> CaseTold | None:
    """The open case of the invoice, else that of its payment."""
    open_ = [case for case in told.cases if case.is_open]
    if open_:
        return max(open_, key=lambda case: (case.opened_at, case.payment_id))
    return next((case for case in told.cases if payment is not None and case.payment_id == payment.payment_id), None)


def _next(state: State, told: InvoiceTold) -> Words:
    """What happens next, with a time where one is known."""
    payment = latest_payment(told)
    case = _case(told, payment)
    match state:
        case State.IN_DOUBT | State.REFUND_UNCLEAR:
            return (*_waits(case), *_asked_again(told, case))
        case State.NEEDS_DECISION | State.REFUND_REFUSED:
            since = case.opened_at if case is not None else None
            return (*_waits(case), "A person decides", *((". It waits since ", When(since)) if since else ()), ".")
        case State.DECIDED:
            return _takes_effect(case)
        case State.PENDING:
            heard = (" It was first heard of at ", When(payment.requested_at), ".") if payment is not None else ()
            return (
                "The card is charged, or the bank says no. Remit asks again by itself while nothing is heard.",
                *heard,
            )
        case State.CHARGED:
            return (
                "The saga has the invoice marked as paid, within seconds. If it does not, it is among what is stuck.",
            )
        case State.REFUND_ASKED:
            return ("The gateway gives the money back, and the sender is told.",)
        case State.OPEN | State.FAILED | State.GIVEN_BACK:
            return ("Nothing by itself. The sender may try a payment.",)
        case State.UNKNOWN:
            return ("Nothing is known here. `remit find` asks the services themselves.",)
        case _:
            return ("Nothing: it is over.",)


def _asked_again(told: InvoiceTold, case: CaseTold | None) -> Words:
    mine = [one for one in told.messages if case is None or one.payment_id == case.payment_id]
    asked = [datetime.fromisoformat(one["at"]) for message in mine for one in message.facts.get("attempts", ())]
    last: Words = (" It was last asked at ", When(max(asked)), ".") if asked else ()
    return ("The gateway is asked again by itself, ever more rarely; if it cannot tell, a person decides.", *last)


def _waits(case: CaseTold | None) -> Words:
    """That a decision has no effect for too long, if there is one."""
    if case is None or case.decided is None or not case.decision_waits:
        return ()
    who, what, at = case.decided
    waits = ". That decision waits: it has no effect yet, and anybody may decide anew. "
    return (Theirs(who), f" decided {RESOLUTIONS.get(what, what)} at ", When(at), waits)


def _takes_effect(case: CaseTold | None) -> Words:
    if case is None or case.decided is None:
        return ("The decision takes effect.",)
    who, what, at = case.decided
    return (
        Theirs(who),
        f" decided {RESOLUTIONS.get(what, what)} at ",
        When(at),
        ". If no effect shows by ",
        When(at + DECIDE_ANEW_AFTER),
        ", anybody may decide anew.",
    )
