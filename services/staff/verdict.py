"""The verdict of the overview: must somebody act now? And what to do, in order. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from services.staff.story import RESOLUTIONS, Amount, Named, Theirs, When, Words
from services.staff.stuck import ProposalSeen, Stuck
from shared.records import dataclass

ACT_AFTER: Final = timedelta(minutes=15)
"""A payment that is in doubt for longer is not young any more: the first rungs of the ladder are over."""
NEEDS_DECISION, IN_DOUBT, REFUND_IN_DOUBT, REFUND_FAILED = (
    "needs_decision",
    "in_doubt",
    "refund_in_doubt",
    "refund_failed",
)
TODO_SHOWN_MAX: Final = 20
Level = Literal["act", "look", "done"]


@dataclass(frozen=True, slots=True)
class CaseSeen:
    """A case that is open, or that a fact contradicts (`contradicted_at`) and nobody took note of."""

    payment_id: UUID
    invoice_id: str
    status: str
    reason: str | None
    amount_minor: int | None
    currency: str | None
    opened_at: datetime
    asked: int = 0
    """How often the gateway was asked, as far as the case tells."""
    on_its_way: bool = False
    contradicted_at: datetime | None = None
    claimed_by: str | None = None


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """A group of failed messages that wait. `charges`: how many of them are payments, which a replay would charge; `sums` of what."""

    grp: str
    type: str | None
    queue: str
    reason: str
    error_type: str | None
    open: int
    first_at: datetime
    hourly: tuple[int, ...] = ()
    charges: int = 0
    sums: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class StoppedRun:
    """A replay that stopped by itself."""

    no: int
    at: datetime


@dataclass(frozen=True, slots=True)
class OverviewSeen:
    """What the verdict is about."""

    now: datetime
    cases: tuple[CaseSeen, ...] = ()
    proposals: tuple[ProposalSeen, ...] = ()
    """Those that whoever looks may answer."""
    proposed: frozenset[UUID] = frozenset()
    """The payments about which anything is proposed: nobody can decide on them meanwhile, not even the proposer."""
    groups: tuple[GroupSeen, ...] = ()
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
    left_out: int = 0
    """Lines that are not shown."""


def verdict_of(seen: OverviewSeen) -> DeskVerdict:
    """The verdict, and the list of what to do in its order: inside each kind, what waits longest comes first."""
    doubtful = [case for case in seen.cases if case.contradicted_at is None]
    todo = _todo(seen)
    known = [case for case in doubtful if case.amount_minor is not None and case.currency is not None]
    return DeskVerdict(
        level=_level(seen, doubtful),
        title=_title(seen, doubtful),
        sums=_sums(known),
        unknown=len(doubtful) - len(known),
        oldest_at=min((case.opened_at for case in doubtful), default=None),
        waiting=sum(_waits_for_a_person(case) for case in seen.cases),
        todo=tuple(todo[:TODO_SHOWN_MAX]),
        left_out=max(0, len(todo) - TODO_SHOWN_MAX),
    )


def _waits_for_a_person(case: CaseSeen) -> bool:
    return not case.on_its_way and (case.status in (NEEDS_DECISION, REFUND_FAILED) or case.contradicted_at is not None)


def _level(seen: OverviewSeen, doubtful: Sequence[CaseSeen]) -> Level:
    must_act = any(
        case.status in (NEEDS_DECISION, REFUND_FAILED) or seen.now - case.opened_at > ACT_AFTER for case in doubtful
    )
    if must_act or seen.missing or seen.is_broken:
        return "act"
    return "look" if seen.cases or seen.proposals or seen.stopped_runs or seen.groups or seen.stuck else "done"


def _title(seen: OverviewSeen, doubtful: Sequence[CaseSeen]) -> str:
    """The sentence that a page opens with: money first."""
    if doubtful:
        charges = sum(case.status in (NEEDS_DECISION, IN_DOUBT) for case in doubtful)
        refunds = len(doubtful) - charges
        if charges:
            cards = "1 card was" if charges == 1 else f"{charges} cards were"
            return f"Money is in doubt: nobody knows whether {cards} charged"
        waits = "1 refund" if refunds == 1 else f"{refunds} refunds"
        return f"Money is in doubt: {waits} did not go through, or nobody knows"
    if seen.missing:
        return f"No money is in doubt, but {_names(seen.missing)} {'does' if len(seen.missing) == 1 else 'do'} not run"
    if seen.is_broken:
        return "No money is in doubt, but the activity log is not as it was"
    if any(case.contradicted_at is not None for case in seen.cases):
        return "No money is in doubt; the gateway contradicts a decision"
    if seen.groups:
        number = sum(group.open for group in seen.groups)
        return f"No money is in doubt; {'1 failed message waits' if number == 1 else f'{number} failed messages wait'}"
    if seen.stuck or seen.stopped_runs or seen.proposals:
        return "No money is in doubt; something waits to be looked at"
    return "All quiet: no money is in doubt, and nothing waits for a person"


def _names(names: Sequence[str]) -> str:
    return (
        names[0].replace("_", " ") if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}".replace("_", " ")
    )


def _sums(cases: Sequence[CaseSeen]) -> tuple[SumInDoubt, ...]:
    """Sums by currency, never across currencies; the largest number of payments first."""
    found: dict[str, list[int]] = {}
    for case in cases:
        found.setdefault(str(case.currency), []).append(case.amount_minor or 0)
    sums = [SumInDoubt(currency, sum(amounts), len(amounts)) for currency, amounts in found.items()]
    return tuple(sorted(sums, key=lambda one: (-one.number, one.currency)))


# -- what to do ----------------------------------------------------------------------------------------------------------------------------


def _todo(seen: OverviewSeen) -> list[Todo]:
    proposed = seen.proposed | {proposal.payment_id for proposal in seen.proposals}
    kinds = (
        [_decide(case) for case in seen.cases if case.status == NEEDS_DECISION and _is_mine(case, proposed)],
        [_agree(proposal, seen.cases) for proposal in seen.proposals],
        [_refund(case) for case in seen.cases if case.status == REFUND_FAILED and _is_mine(case, proposed)],
        [_take_note(case) for case in seen.cases if case.contradicted_at is not None],
        [_stopped(run) for run in seen.stopped_runs],
        _groups(seen.groups),
        [_stuck(one, seen.now) for one in seen.stuck],
    )
    return [todo for kind in kinds for todo in sorted(kind, key=lambda one: one.since)]


def _is_mine(case: CaseSeen, proposed: frozenset[UUID]) -> bool:
    return case.contradicted_at is None and not case.on_its_way and case.payment_id not in proposed


def _about(case: CaseSeen) -> Words:
    amount: Words = (
        () if case.amount_minor is None or case.currency is None else (", ", Amount(case.amount_minor, case.currency))
    )
    return (Named(case.invoice_id, "invoice"), *amount)


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


def _agree(proposal: ProposalSeen, cases: Sequence[CaseSeen]) -> Todo:
    case = next((one for one in cases if one.payment_id == proposal.payment_id), None)
    return Todo(
        "hand",
        "Agree or not, as second person.",
        _about(case) if case is not None else (Named(proposal.invoice_id, "invoice"),),
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


def _stopped(run: StoppedRun) -> Todo:
    return Todo(
        "look",
        f"The replay R-{run.no} stopped by itself.",
        (),
        ("A message failed again. The rest were not sent.",),
        "Look at it",
        f"/replays/{run.no}",
        run.at,
    )


def _groups(groups: Sequence[GroupSeen]) -> list[Todo]:
    """One line for all groups: they have a page of their own."""
    if not groups:
        return []
    number, first = sum(group.open for group in groups), min(group.first_at for group in groups)
    return [
        Todo(
            "look",
            "1 failed message waits." if number == 1 else f"{number} failed messages wait.",
            (),
            (
                f"{'1 group' if len(groups) == 1 else f'{len(groups)} groups'}, the first since ",
                When(first),
                ". ",
                *_charges(groups),
            ),
            "Open the groups",
            "/dead-letters",
            first,
        )
    ]


def _charges(groups: Sequence[GroupSeen]) -> Words:
    """How many of the messages are payments, with a sum in each currency."""
    charges = sum(group.charges for group in groups)
    if not charges:
        return ("Nothing of them was done.",)
    sums: dict[str, int] = {}
    for currency, amount_minor in (one for group in groups for one in group.sums):
        sums[currency] = sums.get(currency, 0) + amount_minor
    words: list[str | Amount] = [f"{charges} {'is a payment' if charges == 1 else 'are payments'}"]
    for number, (currency, amount_minor) in enumerate(sorted(sums.items())):
        words += [", " if number == 0 else " and ", Amount(amount_minor, currency)]
    return (*words, ": nothing was charged.")


def _stuck(one: Stuck, now: datetime) -> Todo:
    return Todo("look", f"{one.what}.", (), one.means, "Look at it", one.place or "/stuck", one.since or now)
