"""The verdict of the overview: must somebody act now? And what to do, in order. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from services.staff.runs import Halt
from services.staff.story import RESOLUTIONS, Amount, Named, Theirs, When, Words
from services.staff.stuck import ProposalSeen, Stuck
from shared.records import dataclass, field, replace

ACT_AFTER: Final = timedelta(minutes=15)
"""A payment that is in doubt for longer is not young any more: the first rungs of the ladder are over."""
NEEDS_DECISION, IN_DOUBT, REFUND_IN_DOUBT, REFUND_FAILED = (
    "needs_decision",
    "in_doubt",
    "refund_in_doubt",
    "refund_failed",
)
FOR_A_PERSON: Final = (NEEDS_DECISION, REFUND_FAILED)
"""Nothing happens with these by itself."""
LINES_OF_A_KIND_MAX: Final = 10
"""Lines of one kind of work. So a kind of which there is much hides no other."""
Level = Literal["act", "look", "done"]


@dataclass(frozen=True, slots=True)
class DoubtSeen:
    """All open cases of one status and currency. `amount_minor` is the sum of the amounts that are known; `unknown` cases have none.

    Of these cases `decided` have a decision on its way, and `proposed` others wait for a second person. `old` is how many of the rest are
    in doubt for longer than `ACT_AFTER`.
    """

    status: str
    currency: str | None
    number: int
    amount_minor: int
    unknown: int
    oldest_at: datetime
    decided: int = 0
    proposed: int = 0
    old: int = 0

    @property
    def left(self) -> int:
        """Those about which nobody has said anything yet."""
        return self.number - self.decided - self.proposed


@dataclass(frozen=True, slots=True)
class CaseSeen:
    """A case about which nobody has said anything yet, or that a fact contradicts (`contradicted_at`) and nobody took note of."""

    payment_id: UUID
    invoice_id: str
    status: str
    reason: str | None
    amount_minor: int | None
    currency: str | None
    opened_at: datetime
    asked: int = 0
    """How often the gateway was asked, as far as the case tells."""
    contradicted_at: datetime | None = None
    claimed_by: str | None = None


@dataclass(frozen=True, slots=True)
class FailedSeen:
    """All failed messages that wait, since `first_at`. `charges`: how many are payments, which a replay would charge; `sums` of what."""

    number: int
    groups: int
    first_at: datetime
    charges: int = 0
    sums: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class StoppedRun:
    """A replay that stopped by itself, and why."""

    no: int
    at: datetime
    how: Halt | None = None


@dataclass(frozen=True, slots=True)
class ProposalsSeen:
    """The decisions that wait for a second person: those of the list whoever looks may answer, of `number`; the `others` they may not."""

    shown: tuple[ProposalSeen, ...] = ()
    number: int = 0
    others: int = 0


@dataclass(frozen=True, slots=True)
class OverviewSeen:
    """What the verdict is about. `doubts` are all open cases, and `contradicted` counts the others that somebody must take note of."""

    now: datetime
    doubts: tuple[DoubtSeen, ...] = ()
    contradicted: int = 0
    cases: tuple[CaseSeen, ...] = ()
    """Those that wait longest, of each kind the first `LINES_OF_A_KIND_MAX`."""
    proposals: ProposalsSeen = field(default_factory=ProposalsSeen)
    failed: FailedSeen | None = None
    stopped_runs: tuple[StoppedRun, ...] = ()
    stuck: tuple[Stuck, ...] = ()
    missing: tuple[str, ...] = ()
    """Services of which no instance runs."""
    is_broken: bool = False
    """Whether the activity log is not as it was."""


@dataclass(frozen=True, slots=True)
class Todo:
    """A line of what to do: what, what it is about, one sentence more, and where. `button` names the act."""

    kind: Literal["act", "hand", "look"]
    what: str
    about: Words
    why: Words
    button: str
    place: str
    since: datetime


@dataclass(frozen=True, slots=True)
class SumInDoubt:
    """The money in doubt in one currency, in minor units. `number` counts payments, `unknown` those whose amount nobody knows yet."""

    currency: str
    amount_minor: int
    number: int


@dataclass(frozen=True, slots=True)
class DeskVerdict:
    """The verdict. `oldest_at`: since when the oldest payment is in doubt. `waiting`: how many cases wait for a person."""

    level: Level
    title: str
    sums: tuple[SumInDoubt, ...]
    unknown: int
    oldest_at: datetime | None
    waiting: int
    todo: tuple[Todo, ...]


def verdict_of(seen: OverviewSeen) -> DeskVerdict:
    """The verdict, and the list of what to do in its order: inside each kind, what waits longest comes first.

    Whatever must be acted on has a line in the list.
    """
    return DeskVerdict(
        level=_level(seen),
        title=_title(seen),
        sums=_sums(seen.doubts),
        unknown=sum(doubt.unknown for doubt in seen.doubts),
        oldest_at=min((doubt.oldest_at for doubt in seen.doubts), default=None),
        waiting=seen.contradicted
        + sum(doubt.number - doubt.decided for doubt in seen.doubts if doubt.status in FOR_A_PERSON),
        todo=tuple(_todo(seen)),
    )


def _level(seen: OverviewSeen) -> Level:
    must_act = any(doubt.status in FOR_A_PERSON or seen.now - doubt.oldest_at > ACT_AFTER for doubt in seen.doubts)
    if must_act or seen.missing or seen.is_broken:
        return "act"
    waits = seen.doubts or seen.contradicted or seen.proposals.number or seen.proposals.others
    return "look" if waits or seen.stopped_runs or seen.failed or seen.stuck else "done"


def _title(seen: OverviewSeen) -> str:
    """The sentence that a page opens with: money first."""
    if seen.doubts:
        return _title_of_doubt(seen.doubts)
    if seen.missing:
        return f"No money is in doubt, but {_names(seen.missing)} {'does' if len(seen.missing) == 1 else 'do'} not run"
    if seen.is_broken:
        return "No money is in doubt, but the activity log is not as it was"
    if seen.contradicted:
        return "No money is in doubt; the gateway contradicts a decision"
    if seen.failed:
        number = seen.failed.number
        return f"No money is in doubt; {'1 failed message waits' if number == 1 else f'{number} failed messages wait'}"
    if _level(seen) == "look":
        return "No money is in doubt; something waits to be looked at"
    return "All quiet: no money is in doubt, and nothing waits for a person"


def _names(names: Sequence[str]) -> str:
    return (
        names[0].replace("_", " ") if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}".replace("_", " ")
    )


def _title_of_doubt(doubts: Sequence[DoubtSeen]) -> str:
    charges = sum(doubt.number for doubt in doubts if doubt.status in (NEEDS_DECISION, IN_DOUBT))
    if charges:
        cards = "1 card was" if charges == 1 else f"{charges} cards were"
        return f"Money is in doubt: nobody knows whether {cards} charged"
    refunds = sum(doubt.number for doubt in doubts)
    waits = "1 refund" if refunds == 1 else f"{refunds} refunds"
    return f"Money is in doubt: {waits} did not go through, or nobody knows"


def _sums(doubts: Sequence[DoubtSeen]) -> tuple[SumInDoubt, ...]:
    """Sums by currency, never across currencies; the largest number of payments first."""
    known: dict[str, SumInDoubt] = {}
    for doubt in doubts:
        number = doubt.number - doubt.unknown
        if doubt.currency is not None and number:
            before = known.get(doubt.currency, SumInDoubt(doubt.currency, 0, 0))
            amount_minor = before.amount_minor + doubt.amount_minor
            known[doubt.currency] = SumInDoubt(doubt.currency, amount_minor, before.number + number)
    return tuple(sorted(known.values(), key=lambda one: (-one.number, one.currency)))


# -- what to do ----------------------------------------------------------------------------------------------------------------------------


def _todo(seen: OverviewSeen) -> list[Todo]:
    cases, proposals, stopped, found = seen.cases, seen.proposals, seen.stopped_runs, seen.stuck
    contradicted = [case for case in cases if case.contradicted_at is not None]
    undecided = [case for case in cases if case.contradicted_at is None and case.status == NEEDS_DECISION]
    refused = [case for case in cases if case.contradicted_at is None and case.status == REFUND_FAILED]
    return [
        *_lines([_decide(case) for case in undecided], _left(seen, NEEDS_DECISION), "/cases"),
        *_lines([_agree(one) for one in proposals.shown], proposals.number, "/cases?show=mine"),
        *_lines([_refund(case) for case in refused], _left(seen, REFUND_FAILED), "/cases"),
        *_unclear(seen),
        *[_missing(name, seen.now) for name in seen.missing],
        *([_broken(seen.now)] if seen.is_broken else []),
        *_said_already(seen),
        *_lines([_take_note(case) for case in contradicted], seen.contradicted, "/cases?show=contradicted"),
        *_lines([_stopped(run) for run in stopped], len(stopped), "/replays"),
        *([_failed(seen.failed)] if seen.failed is not None else []),
        *_lines([_stuck(one, seen.now) for one in found], len(found), "/stuck"),
    ]


def _left(seen: OverviewSeen, status: str) -> int:
    return sum(doubt.left for doubt in seen.doubts if doubt.status == status)


def _lines(todos: Sequence[Todo], number: int, place: str) -> list[Todo]:
    """The lines of one kind, the longest wait first. If there are more of the `number`, a last one says how many, and where they are."""
    shown = sorted(todos, key=lambda one: one.since)[:LINES_OF_A_KIND_MAX]
    if number <= len(shown) or not shown:
        return shown
    more = replace(shown[-1], what=f"{number - len(shown)} more like this.", about=(), why=("They wait less long.",))
    return [*shown, replace(more, button="Show all", place=place)]


def _unclear(seen: OverviewSeen) -> list[Todo]:
    """One line for all payments that Remit itself asks about, and has asked about for too long."""
    old = [doubt for doubt in seen.doubts if doubt.old and doubt.status not in FOR_A_PERSON]
    if not old:
        return []
    number = sum(doubt.old for doubt in old)
    doubtful = [case for case in seen.cases if case.status in (IN_DOUBT, REFUND_IN_DOUBT)]
    oldest = min(doubtful, key=lambda case: case.opened_at, default=None)
    since = min(doubt.oldest_at for doubt in old) if oldest is None else oldest.opened_at
    what = f"{'1 payment is' if number == 1 else f'{number} payments are'} in doubt for longer than 15 minutes."
    why: Words = (
        "Remit asks the gateway by itself, and no answer says yet what happened. Ask, or look there and decide.",
    )
    if number == 1 and oldest is not None:
        return [Todo("act", what, _about(oldest), why, "Open the case", f"/cases/{oldest.payment_id}", since)]
    return [Todo("act", what, (), (*why, " The first since ", When(since), "."), "Open the cases", "/cases", since)]


def _said_already(seen: OverviewSeen) -> list[Todo]:
    """What somebody has proposed or decided already: whoever looks can only wait, or find somebody who can answer."""
    since = min((doubt.oldest_at for doubt in seen.doubts), default=seen.now)
    others, decided = seen.proposals.others, sum(doubt.decided for doubt in seen.doubts)
    waits = f"{'1 decision waits' if others == 1 else f'{others} decisions wait'} for a second person."
    goes = "1 decision is on its way." if decided == 1 else f"{decided} decisions are on their way."
    agrees: Words = ("Nothing is sent before another resolver agrees than the one who proposed it.",)
    effect: Words = ("It takes effect within seconds. If none shows in 5 minutes, anybody may decide anew.",)
    return [
        *([Todo("hand", waits, (), agrees, "Look at it", "/cases?show=second", since)] if others else []),
        *([Todo("look", goes, (), effect, "Look at it", "/cases", since)] if decided else []),
    ]


_MEANS_MISSING: Final[Mapping[str, str]] = {
    "invoice": "Invoices are neither issued nor paid meanwhile; nothing is charged.",
    "payment_gateway": "No card is charged meanwhile, and the gateway is asked about none.",
    "saga": "Invoices are not marked as paid meanwhile, though their cards are charged.",
    "staff": "Decisions and replays do not leave meanwhile, and what is in doubt since then does not show here.",
}


def _missing(name: str, now: datetime) -> Todo:
    what = f"No instance of {name.replace('_', ' ')} runs."
    means = _MEANS_MISSING.get(name, "What it does is not done meanwhile.")
    return Todo("act", what, (), (f"{means} Nothing is lost. Start it.",), "Look at the parts", "/#parts", now)


def _broken(now: datetime) -> Todo:
    why = "An entry was changed or taken out: rely on nothing from there on before you know who did it."
    return Todo("act", "The activity log is not as it was.", (), (why,), "Read the log", "/activity", now)


def _about(seen: CaseSeen | ProposalSeen) -> Words:
    amount: Words = (
        () if seen.amount_minor is None or seen.currency is None else (", ", Amount(seen.amount_minor, seen.currency))
    )
    return (Named(seen.invoice_id, "invoice"), *amount)


def _decide(case: CaseSeen) -> Todo:
    tries = (
        f"The gateway gave no readable answer in {case.asked} {'try' if case.asked == 1 else 'tries'}. "
        if case.asked
        else ""
    )
    claimed: Words = (" ", Theirs(case.claimed_by), " takes care of it.") if case.claimed_by else ()
    return Todo(
        "act",
        "Decide: was this card charged?",
        _about(case),
        (f"{tries}It waits for a person since ", When(case.opened_at), ".", *claimed),
        "Open the case",
        f"/cases/{case.payment_id}",
        case.opened_at,
    )


def _agree(proposal: ProposalSeen) -> Todo:
    return Todo(
        "hand",
        "Agree or not, as second person.",
        _about(proposal),
        (
            Theirs(proposal.by),
            f" says: {RESOLUTIONS.get(proposal.resolution, proposal.resolution)}, at ",
            When(proposal.at),
            ".",
        ),
        "Look at it",
        f"/cases/{proposal.payment_id}",
        proposal.at,
    )


def _refund(case: CaseSeen) -> Todo:
    says: Words = ("The gateway says ", Theirs(case.reason), ". ") if case.reason else ()
    return Todo(
        "act",
        "A refund was refused.",
        _about(case),
        (*says, "The customer still waits for the money."),
        "Open the case",
        f"/cases/{case.payment_id}",
        case.opened_at,
    )


def _take_note(case: CaseSeen) -> Todo:
    since = case.contradicted_at or case.opened_at
    return Todo(
        "look",
        "The gateway contradicts a decision.",
        _about(case),
        ("Since ", When(since), ". The services act on it by themselves; somebody must take note."),
        "Read it",
        f"/cases/{case.payment_id}",
        since,
    )


_WHY_STOPPED: Final[Mapping[Halt, str]] = {
    Halt.FAILED: "A message failed again.",
    Halt.NO_SIGN: "Nothing was heard of a message for a minute.",
    Halt.REFUSED: "The broker does not take its messages.",
    Halt.ERROR: "A step of it failed, with an error of Remit's own.",
}


def _stopped(run: StoppedRun) -> Todo:
    why = "" if run.how is None else f"{_WHY_STOPPED[run.how]} "
    return Todo(
        "look",
        f"The replay R-{run.no} stopped by itself.",
        (),
        (f"{why}The rest were not sent.",),
        "Look at it",
        f"/replays/{run.no}",
        run.at,
    )


def _failed(failed: FailedSeen) -> Todo:
    """One line for all groups: they have a page of their own."""
    return Todo(
        "look",
        "1 failed message waits." if failed.number == 1 else f"{failed.number} failed messages wait.",
        (),
        (
            f"{'1 group' if failed.groups == 1 else f'{failed.groups} groups'}, the first since ",
            When(failed.first_at),
            ". ",
            *_charges(failed),
        ),
        "Open the groups",
        "/dead-letters",
        failed.first_at,
    )


def _charges(failed: FailedSeen) -> Words:
    """How many of the messages are payments, with a sum in each currency."""
    if not failed.charges:
        return ("Nothing of them was done.",)
    words: list[str | Amount] = [f"{failed.charges} {'is a payment' if failed.charges == 1 else 'are payments'}"]
    for number, (currency, amount_minor) in enumerate(sorted(failed.sums)):
        words += [", " if number == 0 else " and ", Amount(amount_minor, currency)]
    return (*words, ": nothing was charged.")


def _stuck(one: Stuck, now: datetime) -> Todo:
    return Todo("look", f"{one.what}.", (), one.means, "Look at it", one.place or "/stuck", one.since or now)
