"""A run: many dead letters replayed step by step, from a list that was fixed before. Pure: no I/O, clock, randomness, logging.

One message is tried first, then ten, then a hundred, each step waited for; then the rest at a chosen speed. A run stops by itself at the
first message that fails again, or of which nothing is heard. A person goes on, or ends it.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from uuid import UUID

from shared.records import dataclass, field, replace

LETTERS_MAX = 10_000
"""Dead letters in one run, the oldest ones."""
RATE_MAX = 500
"""Messages a second, beside what comes in by itself."""
RATE_USUAL = 10
SILENCE_MAX = timedelta(seconds=60)
"""A message of which nothing is heard for so long has no sign. A healthy service tells within a second."""
IN_FLIGHT_SECONDS = 10
"""A run has no more on its way than it sends in so many seconds, so that a service that is down does not get all of it at once."""
IN_FLIGHT_LEAST = 20
BURST_MAX = timedelta(seconds=1)
"""What was not sent in time is made up for this long at most."""


class RunState(StrEnum):
    PREVIEWED = "previewed"  # the list is fixed; nothing is sent
    RUNNING = "running"
    WAITING = "waiting"  # a step went well; a person says that the next one may begin
    PAUSED = "paused"  # by a person
    HALTED = "halted"  # by itself
    STOPPED = "stopped"  # for good
    DONE = "done"


class RunStep(StrEnum):
    ONE = "one"
    TEN = "ten"
    HUNDRED = "hundred"
    REST = "rest"


ENDED = frozenset({RunState.STOPPED, RunState.DONE})
_UP_TO = {RunStep.ONE: 1, RunStep.TEN: 11, RunStep.HUNDRED: 111, RunStep.REST: LETTERS_MAX}
"""How many messages a run has sent after each step."""


class ItemState(IntEnum):
    """What became of one message of a run. The numbers are stored. The first two take its letter: it can be in no other run."""

    WAITS = 0
    SENT = 1
    HANDLED = 2
    DUPLICATE = 3
    REJECTED = 4
    FAILED = 5
    NO_SIGN = 6
    LEFT_OUT = 7
    LISTED = 8
    NOT_SENT = 9


TOLD = {"handled": ItemState.HANDLED, "duplicate": ItemState.DUPLICATE, "rejected": ItemState.REJECTED}
"""The states by what a service tells of a replay."""
_BAD = frozenset({ItemState.FAILED, ItemState.NO_SIGN})
_WAS_SENT = frozenset({ItemState.SENT, *TOLD.values(), *_BAD})


class Halt(StrEnum):
    """Why a run stopped by itself. The values are stored."""

    FAILED = "failed"  # a message failed again
    NO_SIGN = "no_sign"  # nothing was heard of a message
    REFUSED = "refused"  # the broker did not take messages: they are failed messages, as before
    ERROR = "error"  # a turn of the run failed, with an error of ours


class RunRefusal(StrEnum):
    """Why nothing was done with a run."""

    RUN_NOT_RUNNING = "run_not_running"
    SPEED = "speed"
    NOT_SURE = "not_sure"
    NONE_SELECTED = "none_selected"


class RunAct(StrEnum):
    """What people do with a run. The values are the actions in the journal."""

    SECOND = "run_second"
    TRY = "run_try"
    GO = "run_go"
    REST = "run_rest"
    PAUSE = "run_pause"
    RESUME = "run_resume"
    LEAVE_OUT = "run_leave_out"
    STOP = "run_stop"
    SPEED = "run_speed"


_ALLOWED: Mapping[RunAct, frozenset[tuple[RunState, RunStep | None]]] = {
    RunAct.SECOND: frozenset({(RunState.PREVIEWED, None)}),
    RunAct.TRY: frozenset({(RunState.PREVIEWED, None)}),
    RunAct.GO: frozenset({(RunState.WAITING, RunStep.ONE)}),
    RunAct.REST: frozenset({(RunState.WAITING, RunStep.ONE), (RunState.WAITING, RunStep.HUNDRED)}),
    RunAct.PAUSE: frozenset({(RunState.RUNNING, None)}),
    RunAct.RESUME: frozenset({(RunState.PAUSED, None), (RunState.HALTED, None)}),
    RunAct.LEAVE_OUT: frozenset({(RunState.HALTED, None)}),
    RunAct.STOP: frozenset({(state, None) for state in RunState if state not in ENDED}),
    RunAct.SPEED: frozenset({(state, None) for state in RunState if state not in ENDED}),
}
"""In which states an act is possible, and in which step, if that matters. The rest may follow at once only where nobody is charged."""
_NOTHING_TO_LEAVE_OUT = frozenset({Halt.REFUSED, Halt.ERROR})
"""After these a run goes on where it was: no message of it has gone wrong."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it is decided on. `rate` is messages a second.

    `halted_by` is the letter because of which it stopped by itself. `halted_why` is the queue that was refused, or the type of an error.
    """

    state: RunState
    step: RunStep
    rate: int
    charges: int = 0
    halted_by: UUID | None = None
    halted_how: Halt | None = None
    halted_why: str | None = None

    @property
    def stands(self) -> Mapping[str, object]:
        """How it stands, as the journal tells it before and after an act."""
        return {"state": self.state.value, "step": self.step.value, "rate": self.rate, "charges": self.charges}


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages of a run are in which state.

    `set_aside` are those that the run left out when it came to them. `unseen` are those that failed again or showed no sign, and with which
    no person let the run go on: how, and their places in the run.
    """

    of: Mapping[ItemState, int] = field(default_factory=dict)
    set_aside: int = 0
    unseen: Sequence[tuple[ItemState, int]] = ()

    def __getitem__(self, state: ItemState) -> int:
        return self.of.get(state, 0)

    @property
    def sent(self) -> int:
        return sum(self[state] for state in _WAS_SENT)

    @property
    def in_flight(self) -> int:
        return self[ItemState.SENT]

    @property
    def waiting(self) -> int:
        return self[ItemState.WAITS]


def may(run: Run, act: RunAct) -> bool:
    """Whether this act is possible now."""
    if run.state is RunState.HALTED and act in (RunAct.RESUME, RunAct.LEAVE_OUT):
        return (run.halted_how in _NOTHING_TO_LEAVE_OUT) is (act is RunAct.RESUME)
    return bool({(run.state, None), (run.state, run.step)} & _ALLOWED[act])


def after(run: Run, act: RunAct, *, rate: int | None = None, sure: bool = True) -> Run | RunRefusal:
    """The run after a person's act, or why it is refused. `sure`: the person has said that cards shall be charged."""
    if not may(run, act):
        return RunRefusal.RUN_NOT_RUNNING
    if rate is not None and not 1 <= rate <= RATE_MAX:
        return RunRefusal.SPEED
    run = run if rate is None else replace(run, rate=rate)
    match act:
        case RunAct.TRY:
            if run.charges and not sure:
                return RunRefusal.NOT_SURE
            return replace(run, state=RunState.RUNNING, step=RunStep.ONE)
        case RunAct.GO:
            return replace(run, state=RunState.RUNNING, step=RunStep.TEN)
        case RunAct.REST:
            if run.step is RunStep.ONE and run.charges:
                return RunRefusal.RUN_NOT_RUNNING
            return replace(run, state=RunState.RUNNING, step=RunStep.REST)
        case RunAct.PAUSE:
            return replace(run, state=RunState.PAUSED)
        case RunAct.RESUME | RunAct.LEAVE_OUT:
            return replace(run, state=RunState.RUNNING, halted_by=None, halted_how=None, halted_why=None)
        case RunAct.STOP:
            return replace(run, state=RunState.STOPPED)
        case RunAct.SPEED | RunAct.SECOND:
            return run


@dataclass(frozen=True, slots=True)
class BadSign:
    """The first message of a run that went wrong, how, and that no person has seen yet. `why` is the queue that was refused."""

    letter_id: UUID
    how: Halt
    why: str | None = None


@dataclass(frozen=True, slots=True)
class RunTurn:
    """What the service does with a run now: the run afterwards, and how many messages it sends."""

    run: Run
    send: int = 0


def turn(run: Run, counts: Counts, trouble: BadSign | None, since_last: timedelta) -> RunTurn:
    """What is to be done with a run. `since_last` is how long ago its speed was used up."""
    if run.state is not RunState.RUNNING:
        return RunTurn(run)
    if trouble is not None:
        by, how, why = trouble.letter_id, trouble.how, trouble.why
        return RunTurn(replace(run, state=RunState.HALTED, halted_by=by, halted_how=how, halted_why=why))
    left = min(_UP_TO[run.step] - counts.sent, counts.waiting)
    if left > 0:
        return RunTurn(run, min(left, _pace(run, counts, since_last)) if run.step is RunStep.REST else left)
    if counts.in_flight:
        return RunTurn(run)
    return _next_step(run, counts)


def _pace(run: Run, counts: Counts, since_last: timedelta) -> int:
    due = int(run.rate * min(since_last, BURST_MAX).total_seconds())
    room = max(run.rate * IN_FLIGHT_SECONDS, IN_FLIGHT_LEAST) - counts.in_flight
    return max(min(due, room), 0)


def _next_step(run: Run, counts: Counts) -> RunTurn:
    if not counts.waiting:
        return RunTurn(replace(run, state=RunState.DONE))
    if run.step is RunStep.TEN:
        return RunTurn(replace(run, step=RunStep.HUNDRED))
    return RunTurn(replace(run, state=RunState.WAITING))


# -- the preview ---------------------------------------------------------------------------------------------------------------------------


class Bin(StrEnum):
    """What a replay of a message would do."""

    CHARGES = "charges"
    CHARGES_NOBODY = "charges_nobody"
    SETTLED = "settled"  # it could have charged, and its payment has an outcome by now
    TOO_OLD = "too_old"
    CANNOT = "cannot"
    IN_A_RUN = "in_a_run"
    NOT_OPEN = "not_open"


TAKEN = frozenset({Bin.CHARGES, Bin.CHARGES_NOBODY, Bin.SETTLED})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dead letter that was selected for a run. `why` says why it cannot be replayed; `since` is when its charge was asked for."""

    letter_id: UUID
    is_open: bool
    why: str | None
    may_charge: bool
    is_settled: bool
    in_run: int | None
    currency: str | None
    amount_minor: int | None
    first_seen: datetime
    since: datetime
    grp: str | None = None

    def bin(self, now: datetime, old_after: timedelta) -> Bin:
        if not self.is_open:
            return Bin.NOT_OPEN
        if self.in_run is not None:
            return Bin.IN_A_RUN
        if self.why is not None:
            return Bin.CANNOT
        if not self.may_charge:
            return Bin.CHARGES_NOBODY
        if now - self.since > old_after:  # a run asks nobody how its payment stands: it leaves all of them out
            return Bin.TOO_OLD
        return Bin.SETTLED if self.is_settled else Bin.CHARGES


@dataclass(frozen=True, slots=True)
class ListedCharge:
    """What the list of a run says that a message charges. `is_taken_in`: a second person said that it shall, although it is old."""

    may_charge: bool
    currency: str | None
    amount_minor: int | None
    is_taken_in: bool = False


@dataclass(frozen=True, slots=True)
class BinSummary:
    """One bin of a preview: how many messages, the oldest and the newest of them.

    `sums` are what they charge, or would if they were not too old, in minor units by currency.
    """

    bin: Bin
    count: int
    sums: Mapping[str, int]
    oldest: datetime
    newest: datetime
    why: Mapping[str, int]


def bins_of(candidates: Iterable[Candidate], now: datetime, old_after: timedelta) -> list[BinSummary]:
    """The bins that are not empty, in their order."""
    found: dict[Bin, list[Candidate]] = {}
    for candidate in candidates:
        found.setdefault(candidate.bin(now, old_after), []).append(candidate)
    return [_summary(bin_, found[bin_]) for bin_ in Bin if bin_ in found]


def _summary(bin_: Bin, candidates: Sequence[Candidate]) -> BinSummary:
    sums: dict[str, int] = {}
    why: dict[str, int] = {}
    for one in candidates:
        if bin_ in (Bin.CHARGES, Bin.TOO_OLD) and one.currency is not None and one.amount_minor is not None:
            sums[one.currency] = sums.get(one.currency, 0) + one.amount_minor
        reason = f"R-{one.in_run}" if bin_ is Bin.IN_A_RUN else one.why
        if reason is not None:
            why[reason] = why.get(reason, 0) + 1
    times = [one.since for one in candidates]
    return BinSummary(bin_, len(candidates), sums, min(times), max(times), why)


def with_old_taken_in(bins: Iterable[BinSummary]) -> list[BinSummary]:
    """The bins once somebody took in what is too old to charge: it charges now, like the others."""
    found = {one.bin: one for one in bins}
    old, charging = found.pop(Bin.TOO_OLD, None), found.get(Bin.CHARGES)
    if old is not None:
        both = [one for one in (old, charging) if one is not None]
        sums: dict[str, int] = {}
        for currency, amount_minor in (pair for one in both for pair in one.sums.items()):
            sums[currency] = sums.get(currency, 0) + amount_minor
        oldest, newest = min(one.oldest for one in both), max(one.newest for one in both)
        found[Bin.CHARGES] = BinSummary(Bin.CHARGES, sum(one.count for one in both), sums, oldest, newest, {})
    return [found[bin_] for bin_ in Bin if bin_ in found]


def in_order(candidates: Iterable[Candidate], now: datetime, old_after: timedelta) -> list[Candidate]:
    """Those that a run takes, as they are sent: first the one that risks least, then the oldest first."""
    taken = [one for one in candidates if one.bin(now, old_after) in TAKEN]
    taken.sort(key=lambda one: (one.first_seen, one.letter_id))
    if taken:
        first = min(range(len(taken)), key=lambda n: _risk(taken[n], now, old_after))
        taken.insert(0, taken.pop(first))
    return taken


def _risk(one: Candidate, now: datetime, old_after: timedelta) -> tuple[int, int]:
    """The smallest amount is tried first. A run that charges is tried with a message that charges: another one would show nothing."""
    charges = one.bin(now, old_after) is Bin.CHARGES
    return (0 if charges else 1, one.amount_minor or 0)
