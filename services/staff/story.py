"""The story of an invoice: what happened, in which order, and why. Pure. `standing` says how it stands, `picture` draws its causes.

It is told from what staff heard (`heard`), from cases, failed messages and the journal of people. What staff do not hear is not guessed:
the request of a payment, and single calls to the gateway of healthy payments.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from services.staff import journal_words
from services.staff.heard import POSITIONS_MAX, CommandHeard, InvoiceHeard, MessageHeard, PaymentHeard
from services.staff.reasons import ANSWER_WORDS, REASON_WORDS
from shared.contracts.catalogue import short_name
from shared.ids import derived_id
from shared.records import dataclass, field, replace

# -- words that are shown in their own way ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of money, in minor units."""

    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Theirs:
    """A text or code of a sender, of the gateway or of a person."""

    text: str


@dataclass(frozen=True, slots=True)
class Named:
    """An id that can be copied, and the page about it if there is one."""

    id: str
    kind: Literal["invoice", "payment", "receipt", "reference", "refund", "letter", "customer"]


@dataclass(frozen=True, slots=True)
class When:
    """A moment."""

    at: datetime


Words = tuple[str | Amount | Theirs | Named | When, ...]
"""A sentence, whose parts are shown each in its own way."""


def plain(words: Words) -> str:
    """The words as a text for programs and tests."""
    return "".join(_plain(word) for word in words)


def _plain(word: str | Amount | Theirs | Named | When) -> str:
    match word:
        case str():
            return word
        case Amount(amount_minor, currency):
            return f"{amount_minor} {currency}"
        case Theirs(text):
            return text
        case Named(id_, _):
            return id_
        case When(at):
            return at.isoformat()


# -- what it is told from ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CaseTold:
    """A case as the story needs it."""

    payment_id: UUID
    status: str
    is_open: bool
    reason: str | None
    opened_at: datetime
    decided: tuple[str, str, datetime] | None = None
    """A decision without an effect yet: by whom, what, and when."""
    decision_waits: bool = False
    """It has had none for too long, and may be made anew."""


@dataclass(frozen=True, slots=True)
class LetterTold:
    """A failed message about the invoice or one of its payments."""

    id: UUID
    type: str | None
    queue: str
    reason: str
    status: str
    at: datetime
    settled_by: str | None = None
    settled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EntryTold:
    """What a person did about one of the payments or failed messages: an entry of the journal."""

    id: UUID
    at: datetime
    who: str
    action: str
    subject: UUID
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InvoiceTold:
    """Everything that is known about one invoice."""

    invoice_id: str
    invoice: InvoiceHeard | None = None
    payments: tuple[PaymentHeard, ...] = ()
    commands: tuple[CommandHeard, ...] = ()
    messages: tuple[MessageHeard, ...] = ()
    cases: tuple[CaseTold, ...] = ()
    letters: tuple[LetterTold, ...] = ()
    entries: tuple[EntryTold, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever heard of such an invoice."""
        return not (self.invoice or self.payments or self.commands or self.messages or self.cases or self.letters)


# -- the steps --------------------------------------------------------------------------------------------------------------------------

SENDER, INVOICE, SAGA, GATEWAY_SERVICE, GATEWAY, PEOPLE, DESK = (
    "Sender",
    "Invoice",
    "Saga",
    "Payment gateway",
    "Card gateway",
    "People",
    "Staff desk",
)
PARTIES: Final = (SENDER, INVOICE, SAGA, GATEWAY_SERVICE, GATEWAY, PEOPLE, DESK)
"""The columns of the picture, from left to right."""
Kind = Literal["", "act", "look", "work", "hand", "done"]
PAUSE: Final = timedelta(minutes=1)
"""A longer wait is shown if the gateway was asked in it."""
STEPS_MAX: Final = 500
"""Steps that a page shows. A payment has a dozen; one that is asked about for weeks has more."""
ORDER_TRIES_MAX: Final = 64
"""Links of causes that are followed. A healthy story has about ten."""


@dataclass(frozen=True, slots=True)
class StoryStep:
    """One thing that happened. `number` counts from 1 in the order of the story; `cause` is the number of the step that brought it about.

    `against` is the number of a step that it contradicts. `who` is the name of the person, else the party. `delay` is the time since its
    cause, or since the step that it contradicts; None if there is none.
    """

    at: datetime
    party: str
    title: str
    text: Words = ()
    kind: Kind = ""
    number: int = 0
    cause: int | None = None
    against: int | None = None
    who: str = ""
    delay: timedelta | None = None
    pause: tuple[timedelta, int] | None = None
    """The wait before this step, and how often the gateway was asked in it."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """A step that has no number yet. `id` is that of its message or entry, `cause` that of what caused it."""

    id: UUID
    step: StoryStep
    cause: UUID | None = None
    against: UUID | None = None


def steps_of(told: InvoiceTold) -> tuple[StoryStep, ...]:
    """The steps of the story, the earliest first, each after its cause. Clocks of servers differ a little: causes decide, then times."""
    folded = _folded(_in_order(_drafts(told))[:STEPS_MAX])
    drafts = [same[0] for same in folded]
    numbers = {draft.id: number for number, same in enumerate(folded, start=1) for draft in same}
    at = {draft.id: draft.step.at for draft in drafts}
    asked = _questions(told.messages)
    steps: list[StoryStep] = []
    for number, draft in enumerate(drafts, start=1):
        origin = draft.cause if draft.cause in numbers else draft.against
        steps.append(
            replace(
                draft.step,
                number=number,
                title=_counted(draft.step.title, len(folded[number - 1])),
                cause=numbers.get(draft.cause) if draft.cause is not None else None,
                against=numbers.get(draft.against) if draft.against is not None else None,
                who=draft.step.who or draft.step.party,
                delay=max(timedelta(), draft.step.at - at[origin]) if origin in at else None,
                pause=_pause(steps[-1].at, draft.step.at, asked) if steps else None,
            )
        )
    return tuple(steps)


def _drafts(told: InvoiceTold) -> list[_Draft]:
    unheard = _unheard_causes(told.messages)
    drafts = [_of_message(message, told, unheard) for message in told.messages]
    heard = {message.cause for message in told.messages}
    drafts += [_of_entry(entry) for entry in told.entries if entry.id not in heard]
    drafts += [_of_letter(letter) for letter in told.letters]
    in_doubt = {message.payment_id for message in told.messages if message.name in _OF_CASES}
    drafts += [_of_case(case) for case in told.cases if case.payment_id not in in_doubt]
    return list({draft.id: draft for draft in drafts}.values())


_OF_CASES: Final = frozenset({"PaymentInDoubt", "PaymentNeedsDecision", "PaymentRefundInDoubt", "PaymentRefundFailed"})


SAME_MOMENT: Final = timedelta(seconds=1)


def _folded(drafts: Sequence[_Draft]) -> list[list[_Draft]]:
    """Equal steps of one moment are one: a service that was down makes up for all its reminders at once."""
    folded: list[list[_Draft]] = []
    for draft in drafts:
        first = folded[-1][0] if folded else None
        if first is not None and draft.step.at - first.step.at < SAME_MOMENT and _is_same(first, draft):
            folded[-1].append(draft)
        else:
            folded.append([draft])
    return folded


def _is_same(one: _Draft, other: _Draft) -> bool:
    return one.cause == other.cause and replace(one.step, at=other.step.at) == other.step


def _counted(title: str, times: int) -> str:
    return title if times == 1 else f"{title}, {times} times"


def _in_order(drafts: Sequence[_Draft]) -> list[_Draft]:
    by_id = {draft.id: draft for draft in drafts}

    def place(draft: _Draft) -> tuple[datetime, int]:
        at, depth = draft.step.at, 0
        cause = by_id.get(draft.cause) if draft.cause is not None else None
        while cause is not None and depth < ORDER_TRIES_MAX:
            at, depth = max(at, cause.step.at), depth + 1
            cause = by_id.get(cause.cause) if cause.cause is not None else None
        return at, depth

    places = {draft.id: place(draft) for draft in drafts}
    return sorted(drafts, key=lambda draft: (*places[draft.id], draft.id))


def _questions(messages: Iterable[MessageHeard]) -> list[datetime]:
    """When the gateway was asked, as far as cases tell."""
    found = {
        datetime.fromisoformat(attempt["at"])
        for message in messages
        for attempt in message.facts.get("attempts", ())
        if attempt.get("step") == "inquire"
    }
    return sorted(found)


def _pause(before: datetime, at: datetime, asked: Sequence[datetime]) -> tuple[timedelta, int] | None:
    if at - before < PAUSE:
        return None
    number = sum(before < one < at for one in asked)
    return (at - before, number) if number else None


# -- a step for each kind of message ----------------------------------------------------------------------------------------------------

Teller = Callable[[MessageHeard, InvoiceTold], StoryStep]


def _unheard_causes(messages: Sequence[MessageHeard]) -> dict[UUID, UUID]:
    """The ids of the commands by which the saga passed messages on, and of each the message: an id follows from that of its cause.

    Staff do not hear these commands (`topology.PASSED_ON`). So what they brought about is told as brought about by what was passed on.
    """
    heard = {message.id for message in messages}
    said = ((derived_id(message.id, position), message.id) for message in messages for position in range(POSITIONS_MAX))
    return {id_: cause for id_, cause in said if id_ not in heard}


def _of_message(message: MessageHeard, told: InvoiceTold, unheard: Mapping[UUID, UUID]) -> _Draft:
    teller = _TELLERS.get(message.name, _unknown)
    against = _contradicted(message, told) if message.facts.get("late") else None
    cause = unheard.get(message.cause, message.cause) if message.cause is not None else None
    return _Draft(message.id, teller(message, told), cause, against)


def _contradicted(message: MessageHeard, told: InvoiceTold) -> UUID | None:
    """The outcome that a late capture contradicts."""
    before = [
        one
        for one in told.messages
        if one.payment_id == message.payment_id and one.name in ("PaymentNotCharged", "PaymentDeclined")
    ]
    return max(before, key=lambda one: one.facts.get("version", 0)).id if before else None


def _money(facts: Mapping[str, Any]) -> Words:
    amount, currency = facts.get("amount_minor"), facts.get("currency")
    return (Amount(amount, currency),) if isinstance(amount, int) and isinstance(currency, str) else ()


def _theirs(value: object, before: str = "") -> Words:
    return (before, Theirs(str(value))) if value else ()


def _reason(code: object) -> Words:
    """A reason in words, if it is a code of ours; else as it was written."""
    words = REASON_WORDS.get(str(code))
    return _theirs(code) if words is None else (words,)


def _simple(party: str, title: str, kind: Kind = "") -> Teller:
    def tell(message: MessageHeard, _: InvoiceTold) -> StoryStep:
        return StoryStep(message.at, party, title, (), kind)

    return tell


def _with_reason(party: str, title: str, kind: Kind = "") -> Teller:
    def tell(message: MessageHeard, _: InvoiceTold) -> StoryStep:
        return StoryStep(message.at, party, title, _reason(message.facts.get("reason")), kind)

    return tell


def _issued(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    customer = message.facts.get("customer_id")
    text: Words = ("Invoice of ", *_money(message.facts))
    if customer:
        text = (*text, " for customer ", Named(str(customer), "customer"))
    return StoryStep(message.at, SENDER, "IssueInvoice, accepted", text)


def _rejected(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    name = short_name(str(message.facts.get("command_type", ""))) or "A command"
    return StoryStep(
        message.at, SENDER, f"{name}, rejected", _theirs(message.facts.get("reason"), "The sender was told "), "look"
    )


def _captured(message: MessageHeard, told: InvoiceTold) -> StoryStep:
    facts = message.facts
    text: Words = ("receipt ", Named(str(facts.get("receipt_number")), "receipt"))
    against = _contradicted(message, told) if facts.get("late") else None
    if facts.get("late"):
        text = (
            *text,
            ". The payment had another outcome before" if against is None else ". It contradicts an earlier outcome",
        )
        return StoryStep(message.at, GATEWAY, "Found charged, late", text, "act")
    title = "Charged (decided)" if facts.get("decided_by") else "Charged"
    return StoryStep(message.at, GATEWAY_SERVICE, title, (*text, ", ", *_money(facts)), "done")


def _not_charged(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    decided = message.facts.get("decided_by")
    title = "Not charged (decided)" if decided else "Not charged"
    return StoryStep(
        message.at, GATEWAY_SERVICE, title, () if decided else _reason(message.facts.get("reason")), "done"
    )


def _needs_decision(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    asked = sum(attempt.get("step") == "inquire" for attempt in message.facts.get("attempts", ()))
    reason = _reason(message.facts.get("reason"))
    text: Words = (*reason, f", after {asked} {'question' if asked == 1 else 'questions'}") if asked else reason
    return StoryStep(message.at, GATEWAY_SERVICE, "Needs a decision", text, "act")


def _refunded(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    refund = message.facts.get("refund_id")
    text: Words = (*_money(message.facts), " given back")
    if refund:
        text = (*text, ", refund ", Named(str(refund), "refund"))
    return StoryStep(message.at, GATEWAY, "Given back", text, "done")


def _refund_failed(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    decided = message.facts.get("decided_by")
    if decided:
        return StoryStep(
            message.at, GATEWAY_SERVICE, "The money is kept (decided)", ("by ", Theirs(str(decided))), "done"
        )
    return StoryStep(message.at, GATEWAY, "The refund was refused", _reason(message.facts.get("reason")), "act")


def _inquired(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    attempts = message.facts.get("attempts") or [{}]
    answer = attempts[-1].get("answer")
    text: Words = (ANSWER_WORDS[answer],) if answer in ANSWER_WORDS else _theirs(answer, "it says ")
    return StoryStep(message.at, GATEWAY, "The gateway was asked", text, "work")


def _failed(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    facts = message.facts
    outcome = "declined by the bank" if facts.get("outcome") == "declined" else "not charged"
    text: Words = (outcome, ", reference ", Named(str(facts.get("reference_code")), "reference"))
    return StoryStep(message.at, INVOICE, "Open again; sender told", text, "done")


def _refund_asked(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    person = message.facts.get("requested_by")
    if person:
        return StoryStep(message.at, INVOICE, "Refund taken on", ("asked for by ", Theirs(str(person))), "")
    return StoryStep(message.at, SENDER, "RefundInvoice, accepted", _money(message.facts))


def _resolved(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    facts = message.facts
    says = RESOLUTIONS.get(str(facts.get("resolution")), str(facts.get("resolution")))
    return StoryStep(
        message.at,
        PEOPLE,
        f"Says: {says}",
        _theirs(facts.get("evidence"), "Saw: "),
        "hand",
        who=str(facts.get("decided_by") or PEOPLE),
    )


def _asked_for_a_refund(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    facts = message.facts
    who = str(facts.get("requested_by") or PEOPLE)
    return StoryStep(message.at, PEOPLE, "Asks for a refund", _theirs(facts.get("reason")), "hand", who=who)


def _refused(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    says = RESOLUTIONS.get(str(message.facts.get("resolution")), "")
    text: Words = (f"{says}: " if says else "", Theirs(str(message.facts.get("reason"))))
    return StoryStep(message.at, GATEWAY_SERVICE, "The decision was refused", text, "look")


def _asks(message: MessageHeard, told: InvoiceTold) -> StoryStep:
    entry = next((one for one in told.entries if one.id == message.cause), None)
    if entry is not None:
        return StoryStep(message.at, PEOPLE, "Has the gateway asked", (), "hand", who=entry.who)
    return StoryStep(message.at, SAGA, "Asks what is known", (), "work")


def _unknown(message: MessageHeard, _: InvoiceTold) -> StoryStep:
    return StoryStep(message.at, DESK, f"A message of a newer build ({message.name})", (), "look")


RESOLUTIONS: Final[Mapping[str, str]] = {
    "captured": "charged",
    "not_charged": "not charged",
    "refunded": "given back",
    "not_refunded": "kept",
    "refund_again": "give it back again",
    "give_back": "give it back",
    "reopen": "that decision was wrong",
}
"""What a decision is called on the desk."""
_TELLERS: Final[Mapping[str, Teller]] = {
    "InvoiceIssued": _issued,
    "InvoiceCommandRejected": _rejected,
    "InvoicePaymentOverdue": _simple(INVOICE, "Still waits for its payment", "work"),
    "InvoicePaid": _simple(INVOICE, "Paid; sender told", "done"),
    "InvoicePaymentFailed": _failed,
    "InvoicePaymentInDoubt": _simple(INVOICE, "In doubt; sender told", "look"),
    "InvoiceVoided": _with_reason(SENDER, "VoidInvoice, accepted"),
    "InvoiceSettlementRejected": _with_reason(INVOICE, "Cannot take the payment", "look"),
    "InvoiceRefundRequested": _refund_asked,
    "InvoiceRefunded": _simple(INVOICE, "Refund noted; sender told", "done"),
    "InvoiceRefundFailed": _with_reason(INVOICE, "Refund failed; sender told", "look"),
    "InvoiceRefundRejected": _with_reason(INVOICE, "Refund does not fit the invoice", "look"),
    "PaymentCaptured": _captured,
    "PaymentDeclined": _with_reason(GATEWAY_SERVICE, "Declined by the bank", "done"),
    "PaymentNotCharged": _not_charged,
    "PaymentInDoubt": _with_reason(GATEWAY_SERVICE, "In doubt: charged or not, nobody knows", "look"),
    "PaymentNeedsDecision": _needs_decision,
    "PaymentRefunded": _refunded,
    "PaymentRefundInDoubt": _with_reason(GATEWAY_SERVICE, "Refund unclear", "look"),
    "PaymentRefundFailed": _refund_failed,
    "PaymentInquired": _inquired,
    "PaymentResolutionRefused": _refused,
    "RecordPayment": _simple(SAGA, "Records the payment"),
    "RecordPaymentFailure": _simple(SAGA, "Records the failure"),
    "FlagPaymentInDoubt": _simple(SAGA, "Flags the invoice"),
    "RecordRefund": _simple(SAGA, "Records the refund"),
    "RecordRefundFailure": _simple(SAGA, "Records that the refund failed"),
    "RequestRefund": _asked_for_a_refund,
    "CloseCommand": _with_reason(DESK, "A command was given up; sender told", "hand"),
    "InquirePayment": _asks,
    "RefundPayment": _simple(SAGA, "Asks for a refund"),
    "MakeRefund": _simple(SAGA, "Asks for a refund"),
    "ResolvePayment": _resolved,
}
TOLD_NAMES: Final = frozenset(_TELLERS)
"""The messages that the story has words for."""


def _of_entry(entry: EntryTold) -> _Draft:
    words = journal_words.tell(entry.action, entry.details)
    title = words.said[:1].upper() + words.said[1:]
    saw = next((entry.details[name] for name in ("saw", "evidence", "note") if entry.details.get(name)), words.why)
    text: Words = (words.result,) if entry.action == journal_words.REFUSED else _theirs(saw)
    return _Draft(entry.id, StoryStep(entry.at, PEOPLE, title, text, "hand", who=entry.who or PEOPLE))


def _of_letter(letter: LetterTold) -> _Draft:
    name = short_name(letter.type or "") or "A message"
    text: Words = (Theirs(letter.reason), f" on {letter.queue}, ", Named(str(letter.id), "letter"))
    if letter.status != "open" and letter.settled_by and letter.settled_at:
        text = (*text, f", {letter.status} by ", Theirs(letter.settled_by), " ", When(letter.settled_at))
    title = f"{name} could not be handled" + (", and waits" if letter.status == "open" else "")
    return _Draft(letter.id, StoryStep(letter.at, DESK, title, text, "look" if letter.status == "open" else ""))


def _of_case(case: CaseTold) -> _Draft:
    step = StoryStep(case.opened_at, DESK, "A case", _reason(case.reason), "look" if case.is_open else "")
    return _Draft(case.payment_id, step)
