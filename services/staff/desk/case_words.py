"""How a case is told to people: its state, its calls, what can be decided and what follows from it. Pure: no I/O.

The words of programs stand in services/staff/domain.py; here are those of the screen.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

from services.staff.domain import (
    ASKING,
    DECIDE_ANEW_MINUTES,
    OPEN,
    Case,
    CaseAttempt,
    CaseStatus,
    SentDecision,
    is_decided,
)
from services.staff.journal_words import tried
from services.staff.proposals import Proposal
from services.staff.reasons import REASON_WORDS
from services.staff.store import JournalEntry, KeptCase
from shared.records import dataclass

Kind = Literal["act", "look", "work", "hand", "done", "quiet"]

RESOLUTION_WORDS: Final[Mapping[str, str]] = {
    "captured": "charged",
    "not_charged": "not charged",
    "refunded": "given back",
    "not_refunded": "kept",
    "refund_again": "give it back again",
    "give_back": "give it all back",
    "reopen": "take the decision back",
    "refund": "give money back",
}
_STATUS_WORDS: Final[Mapping[CaseStatus, tuple[Kind, str]]] = {
    CaseStatus.UNKNOWN: ("quiet", "No doubt was told"),
    CaseStatus.IN_DOUBT: ("work", "Gateway is being asked"),
    CaseStatus.NEEDS_DECISION: ("act", "Needs a decision"),
    CaseStatus.REFUND_IN_DOUBT: ("act", "Refund unclear"),
    CaseStatus.REFUND_FAILED: ("act", "Refund refused"),
    CaseStatus.CAPTURED: ("done", "Charged"),
    CaseStatus.DECLINED: ("quiet", "Declined by the bank"),
    CaseStatus.NOT_CHARGED: ("done", "Not charged"),
    CaseStatus.REFUNDED: ("done", "Given back"),
    CaseStatus.NOT_REFUNDED: ("done", "Kept"),
}
STEP_WORDS: Final[Mapping[str, str]] = {
    "tokenise": "Take the card",
    "find": "Find",
    "prepare": "Prepare",
    "execute": "Charge",
    "inquire": "Ask",
    "cancel": "Cancel",
    "refund": "Give back",
    "inquire_refund": "Ask about the refund",
}
UNSENT_AFTER: Final = timedelta(seconds=10)
"""The staff service sends within a second. What it has not sent by then waits."""
FOLDED_FROM: Final = 4
"""So many calls in a row with the same answer are one line: the first and the last of them stay."""


@dataclass(frozen=True, slots=True)
class StateInWords:
    """How a case stands: the class and the words of its badge, and a line below."""

    kind: Kind
    text: str
    sub: str


def state_of(kept: KeptCase, now: datetime) -> StateInWords:
    """How a case stands, the most pressing first."""
    case = kept.case
    if kept.proposal is not None:
        return StateInWords("hand", "Needs a second person", f"{kept.proposal.by}: {decided_words(kept.proposal)}")
    if (coming := case.decision_on_its_way) is not None:
        return _coming(kept, coming, now)
    if case.is_contradicted and not case.is_open:
        return StateInWords("look", "Contradicted", contradiction_words(case))
    kind, text = _STATUS_WORDS[case.status]
    return StateInWords(kind, text, "Nothing to do yet" if case.status is CaseStatus.IN_DOUBT else reason_words(case))


def _coming(kept: KeptCase, coming: SentDecision, now: datetime) -> StateInWords:
    """How far a decision without an effect has come. It waits if it was not sent, or if its effect does not show for too long."""
    decided = f"{coming.by}: {RESOLUTION_WORDS[coming.resolution]}"
    if not is_decided(kept.case, now):
        return StateInWords(
            "act", "Decision waits", f"{decided}. No effect for {DECIDE_ANEW_MINUTES} minutes: it may be made anew"
        )
    if kept.decision_waits and now > coming.at + UNSENT_AFTER:
        return StateInWords("work", "Decision waits", f"{decided}. The staff service has not sent it yet")
    return StateInWords("work", "Decision on its way", decided)


def contradiction_words(case: Case) -> str:
    """What contradicts the last decision about a case, in one line."""
    decided = case.decided
    if decided is None:
        return ""
    said = _STATUS_WORDS[decided.status][1].lower()
    if decided.status is not CaseStatus.NOT_CHARGED:
        return f"Decided: {said}. The gateway has no such money"
    now = "it was given back" if case.status is CaseStatus.REFUNDED else "it is given back"
    return f"Decided: {said}. It was charged; {now}"


def reason_words(case: Case) -> str:
    """Why a case stands as it does, in words; a code of the gateway as it is."""
    if case.reason is None:
        return f"decided by {case.decided_by}" if case.decided_by else ""
    words = REASON_WORDS.get(case.reason, case.reason)
    return f"{words}, {case.decided_by}" if case.decided_by and case.status not in OPEN else words


def known_words(case: Case) -> str:
    """What is known of an open case, in sentences: why it is in doubt, and how often the gateway was asked."""
    asked = sum(one.step in ASKING for one in case.attempts)
    times = f" Remit has asked the gateway {asked} time{'s' if asked != 1 else ''}." if asked else ""
    return f"{reason_words(case)}.{times}"


def question_of(case: Case) -> str:
    """What the page asks, without the invoice."""
    if case.is_contradicted and not case.is_open:
        return "the gateway contradicts a decision"
    if case.status in {CaseStatus.REFUND_IN_DOUBT, CaseStatus.REFUND_FAILED}:
        return "did the money go back?"
    if case.is_open:
        return "was this card charged?"
    return _STATUS_WORDS[case.status][1].lower()


def decided_words(proposal: Proposal) -> str:
    """What somebody proposes, in words."""
    return RESOLUTION_WORDS[proposal.resolution]


# -- choices ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChoiceInWords:
    """What can be decided: a sentence that a person says, and what follows from it."""

    value: str
    says: str
    follows: str
    agrees: str
    """What the button of the second person says after "I agree: "."""


def choice_of(resolution: str, case: Case) -> ChoiceInWords:
    """One decision about this case, in words."""
    invoice = case.invoice_id
    first = "Give the rest back in the gateway's dashboard first. " if case.reason == "not_refunded" else ""
    says, follows = {
        "captured": ("The card was charged", f"{invoice} is marked paid, and the sender is told."),
        "not_charged": (
            "The card was not charged",
            f"The payment is cancelled at the gateway if it still can be; {invoice} is open again, and the sender is told. Should a "
            "charge show up later, Remit gives the money back and tells you.",
        ),
        "refunded": (
            "The money was given back",
            f"{first}The refund counts as made; {invoice} and the sender are told.",
        ),
        "not_refunded": (
            "The money was not given back",
            "It stays with us; the sender is told that the refund failed.",
        ),
        "refund_again": (
            "Give it back now",
            "The gateway is asked first. If it has no such refund, the money is given back.",
        ),
        "give_back": ("Give all that is left back now", "The gateway gives it back; the sender is told."),
        "reopen": ("The decision was wrong", "The case is open again, and the gateway is asked at once."),
        "refund": ("Give money back", "The invoice service checks that it fits, and the gateway gives it back."),
    }[resolution]
    return ChoiceInWords(resolution, says, follows, RESOLUTION_WORDS[resolution])


ORDER: Final = ("captured", "not_charged", "refunded", "not_refunded", "refund_again", "give_back")
"""How choices stand on the page."""


# -- calls to the gateway --------------------------------------------------------------------------------------------------------------


def folded(attempts: Sequence[CaseAttempt]) -> list[list[CaseAttempt]]:
    """The calls in order. What is alike in a row is one group, if it is long; every other call is a group of its own."""
    runs: list[list[CaseAttempt]] = []
    for one in attempts:
        if runs and _alike(runs[-1][-1], one):
            runs[-1].append(one)
        else:
            runs.append([one])
    return [group for run in runs for group in _groups(run)]


def _groups(run: list[CaseAttempt]) -> list[list[CaseAttempt]]:
    if len(run) < FOLDED_FROM:
        return [[one] for one in run]
    return [[run[0]], run[1:-1], [run[-1]]]


def _alike(one: CaseAttempt, other: CaseAttempt) -> bool:
    return (one.step, one.answer, one.evidence) == (other.step, other.answer, other.evidence)


# -- what people did -------------------------------------------------------------------------------------------------------------------

_DID: Final[Mapping[str, str]] = {
    "ask": "asked the gateway",
    "agree": "agreed",
    "disagree": "did not agree",
    "withdraw": "took the proposal back",
    "claim": "is on it",
    "unclaim": "said that nobody is on it",
    "note": "wrote a note",
    "take_note": "took note of the contradiction",
    "refund": "asked for a refund",
    "discard": "discarded its request",
}


def did(entry: JournalEntry) -> tuple[Kind, str]:
    """What somebody did, without the name: `decided: not charged`."""
    details = entry.details
    what = str(details.get("resolution") or details.get("act") or "")
    words = RESOLUTION_WORDS.get("not_charged" if what == "discard" else what, what.replace("_", " "))
    match entry.action:
        case "resolve":
            return "hand", f"decided: {words}"
        case "propose":
            return "hand", f"proposed: {words}. It waits for a second person"
        case "refused":
            return (
                "act",
                f"{tried(str(details.get('action', '')))}: refused, {str(details.get('code', '')).replace('_', ' ')}",
            )
        case action:
            return "hand", _DID.get(action, action.replace("_", " "))
