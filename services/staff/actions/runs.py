"""What people do with runs: preview, try one, go on, pause, leave out, stop. The staff service sends; nothing is sent here."""

from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from services.staff import letter_store, people_store, run_store, runs, store
from services.staff.actions.proposing import doubtful_text
from services.staff.actions.results import ActionRefusal, ActionResult, done_before, journals_refusals, unfit
from services.staff.charges import OLD_AFTER
from services.staff.letter_store import LetterFilter
from services.staff.people import Actor, Role
from services.staff.proposals import ProposalRefusal, is_same_person
from services.staff.run_store import KeptRun
from services.staff.runs import Bin, Run, RunAct, RunRefusal, RunState
from services.staff.store import JournalEntry
from shared import crash_points
from shared.clock import Clock, system_clock
from shared.ids import derived_id, new_id
from shared.persistence.database import Connection, Database
from shared.records import dataclass, replace

TITLE_LENGTH_MAX = 200


COUNTED_MAX = 10 * runs.LETTERS_MAX
"""So many selected messages are counted, to say how many a run leaves."""


@dataclass(frozen=True, slots=True)
class Previewed:
    """The result of a preview: the run's number, unless it was refused. `beyond`: how many more were selected than a run takes."""

    result: ActionResult
    no: int | None = None
    beyond: int = 0


async def preview(
    database: Database,
    filter_: LetterFilter,
    *,
    who: Actor,
    title: str,
    old_after: timedelta = OLD_AFTER,
    clock: Clock = system_clock,
) -> Previewed:
    """Fix the list of a run: the oldest of what is selected, at most `LETTERS_MAX`, and what replaying them would do.

    Words are looked for in the newest dead letters alone, as in a list.
    What may charge and was asked for longer than `old_after` ago is left out.
    """
    if (refused := unfit(who=who.name, words=filter_.words)) is not None:
        return Previewed(refused)
    async with database.transaction() as tx:
        if who.request is not None and (known := await run_store.run_of(tx, _id_of(who))) is not None:
            return Previewed(_listed(known), known.no)  # the same act, sent twice
        meant = await letter_store.with_words_found(tx, filter_)
        found = await letter_store.candidates(tx, meant, at_most=runs.LETTERS_MAX)
        if not found:
            return Previewed(ActionResult(None, "nothing is selected: select at least one", RunRefusal.NONE_SELECTED))
        beyond = 0
        if len(found) == runs.LETTERS_MAX:
            beyond = await letter_store.count_of(tx, meant, at_most=COUNTED_MAX) - runs.LETTERS_MAX
        now, id_ = clock(), _id_of(who)
        bins = runs.bins_of(found, now, old_after)
        taken = runs.in_order(found, now, old_after)
        listed = {one.letter_id for one in taken}
        left_out = [(one, _why(one.bin(now, old_after), one.why)) for one in found if one.letter_id not in listed]
        entry = JournalEntry.of(
            who,
            now,
            "run_preview",
            id_,
            {"filter": filter_.as_json(), "taken": len(taken), "bins": {one.bin.value: one.count for one in bins}},
        )
        await store.append_entries(tx, [entry])
        no = await run_store.insert_run(
            tx,
            id_,
            title=title[:TITLE_LENGTH_MAX],
            filter_=filter_.as_json(),
            bins=bins,
            rate=runs.RATE_USUAL,
            made_by=who.name,
            made_at=now,
            taken=taken,
            left_out=left_out,
        )
        crash_points.reach("staff.run_preview.before_commit")
    crash_points.reach("staff.run_preview.after_commit")
    return Previewed(
        ActionResult(id_, f"R-{no} lists {_messages(len(taken))}; nothing is sent", entry=entry.id), no, beyond
    )


def _id_of(who: Actor) -> UUID:
    return new_id() if who.request is None else derived_id(who.request, "run")


def _listed(kept: KeptRun) -> ActionResult:
    return ActionResult(kept.id, f"{kept.name} lists {_messages(kept.total)}; nothing is sent")


def _messages(number: int) -> str:
    return f"{number} message{'s' if number != 1 else ''}"


def _why(bin_: Bin, why: str | None) -> str:
    return why or bin_.value


# -- acts on a run -------------------------------------------------------------------------------------------------------------------------


@journals_refusals("run")
async def act(
    database: Database,
    no: int,
    what: RunAct,
    *,
    who: Actor,
    rate: int | None = None,
    sure: bool = False,
    first: UUID | None = None,
    reason: str | None = None,
    version: str | None = None,
    clock: Clock = system_clock,
) -> ActionResult:
    """Do `what` with a run. `rate`: messages a second, from now on.

    `first`, `reason` and `sure` are for the start: which message is tried, why, and that cards shall be charged. `version` is the one of
    the run that `who` saw: another one by now is refused. None: whatever it is.
    """
    if (refused := unfit(who=who.name, reason=reason)) is not None:
        return refused
    async with database.transaction() as tx:
        if (kept := await run_store.find_run(tx, no, lock=True)) is None:
            return _no_run(no)
        if (before := await done_before(tx, who, what.value, kept.id)) is not None:
            return ActionResult(kept.id, _DONE[what].format(run=kept.name, rate=kept.run.rate), entry=before)
        after = runs.after(kept.run, what, rate=rate, sure=sure)
        if isinstance(after, RunRefusal):
            return ActionResult(kept.id, _why_not(kept, after), after)
        if version not in (None, kept.version(await run_store.counts_of(tx, no))):
            text = f"{kept.name} changed since it was shown: look at it again"
            return ActionResult(kept.id, text, ActionRefusal.CHANGED)
        if what is RunAct.TRY and (refused := await _not_by_this_person(tx, kept, who)) is not None:
            return refused
        now = clock()
        details: dict[str, object] = {
            "run": no,
            "rate": after.rate,
            "reason": reason,
            "sure": sure if kept.run.charges else None,
        }
        entry = JournalEntry.of(
            who, now, what.value, kept.id, {name: value for name, value in details.items() if value is not None}
        )
        await store.append_entries(tx, [entry.changing(kept.run.stands, after.stands)])
        changed = replace(kept, run=after)
        if what is RunAct.TRY:
            waiting = await run_store.start_items(tx, no, first)
            changed = replace(
                changed, started_by=who.name, started_via=who.via.value, started_at=now, reason=reason, total=waiting
            )
        await _with_items(tx, no, what, kept.run.state)
        await run_store.save_run(tx, changed)
        crash_points.reach("staff.run_act.before_commit")
    crash_points.reach("staff.run_act.after_commit")
    return ActionResult(kept.id, _DONE[what].format(run=kept.name, rate=after.rate), entry=entry.id)


@journals_refusals("run_second")
async def take_in(database: Database, no: int, *, who: Actor, reason: str, clock: Clock = system_clock) -> ActionResult:
    """Take what is too old to charge into a run that is not begun, as a second person: neither who made its list, nor who starts it."""
    if (refused := unfit(who=who.name, reason=reason)) is not None:
        return refused
    async with database.transaction() as tx:
        if (kept := await run_store.find_run(tx, no, lock=True)) is None:
            return _no_run(no)
        if not runs.may(kept.run, RunAct.SECOND):
            return ActionResult(kept.id, _why_not(kept, RunRefusal.RUN_NOT_RUNNING), RunRefusal.RUN_NOT_RUNNING)
        if is_same_person(kept.made_by, who.name):
            text = "you made the list: another person has to take in what is too old"
            return ActionResult(kept.id, text, ProposalRefusal.SAME_PERSON)
        if not who.can_be_second or Role.REPLAYER not in who.roles:
            return ActionResult(kept.id, _ONLY_A_PERSON, ProposalRefusal.NOT_ALLOWED)
        now = clock()
        taken_in = await run_store.take_in_old(tx, kept, runs.with_old_taken_in(kept.summaries), who.name, now)
        if not taken_in:
            text = f"{kept.name} has left out nothing that is too old to charge"
            return ActionResult(kept.id, text, RunRefusal.NONE_SELECTED)
        details = {"run": no, "reason": reason, "taken_in": taken_in}
        after = await run_store.find_run(tx, no) or kept
        entry = JournalEntry.of(who, now, RunAct.SECOND.value, kept.id, details)
        await store.append_entries(tx, [entry.changing(kept.run.stands, after.run.stands)])
        crash_points.reach("staff.run_second.before_commit")
    crash_points.reach("staff.run_second.after_commit")
    text = f"{_messages(taken_in)} of {kept.name} charge now, although they are old: somebody else than you starts it"
    return ActionResult(kept.id, text, entry=entry.id)


def _no_run(no: int) -> ActionResult:
    return ActionResult(None, f"there is no run R-{no}", ActionRefusal.UNKNOWN)


_ONLY_A_PERSON = "only a person with the role of a replayer can be the second one, signed in at the desk"


async def _not_by_this_person(tx: Connection, kept: KeptRun, who: Actor) -> ActionResult | None:
    """Why `who` may not start a run into which a second person took what is too old to charge: they must be two people."""
    second = kept.second_by
    if second is None:
        return None
    if is_same_person(second, who.name):
        text = "you took in what is too old: another person has to start it"
        return ActionResult(kept.id, text, ProposalRefusal.SAME_PERSON)
    if not who.can_be_second:
        return ActionResult(kept.id, _ONLY_A_PERSON, ProposalRefusal.NOT_ALLOWED)
    if doubtful := await people_store.let_in_by_clicks(tx, second, who.name):
        text = doubtful_text(doubtful)
        return ActionResult(kept.id, text, ProposalRefusal.NOT_ALLOWED, name=doubtful[0])
    return None


async def _with_items(tx: Connection, no: int, act: RunAct, before: RunState) -> None:
    if act is RunAct.STOP:
        await run_store.drop_waiting(tx, no)
    if act is RunAct.LEAVE_OUT or (act is RunAct.RESUME and before is RunState.PAUSED):
        await run_store.note_bad(tx, no)


_DONE: Mapping[RunAct, str] = {
    RunAct.SECOND: "{run} takes in what is too old",
    RunAct.TRY: "{run} tries one message now",
    RunAct.GO: "{run} sends ten, then a hundred, and waits for each",
    RunAct.REST: "{run} sends the rest, at most {rate} a second",
    RunAct.PAUSE: "{run} pauses; what is on its way goes through",
    RunAct.RESUME: "{run} goes on",
    RunAct.LEAVE_OUT: "{run} goes on without it; it stays a failed message",
    RunAct.STOP: "{run} is stopped for good; the rest stay failed messages",
    RunAct.SPEED: "{run} sends at most {rate} a second from now on",
}


def _why_not(kept: KeptRun, refusal: RunRefusal) -> str:
    match refusal:
        case RunRefusal.SPEED:
            return f"a speed is between 1 and {runs.RATE_MAX} a second"
        case RunRefusal.NOT_SURE:
            return f"{kept.name} charges up to {kept.run.charges} cards: say that it shall"
        case RunRefusal.NONE_SELECTED:
            return f"{kept.name} has no message that could be sent"
        case RunRefusal.RUN_NOT_RUNNING:
            return f"{kept.name} {STATE_WORDS[kept.run.state]}: that cannot be done now"


STATE_WORDS: Mapping[RunState, str] = {
    RunState.PREVIEWED: "has not begun",
    RunState.RUNNING: "is running",
    RunState.WAITING: "waits for a person to go on",
    RunState.PAUSED: "is paused",
    RunState.HALTED: "stopped by itself",
    RunState.STOPPED: "was stopped for good",
    RunState.DONE: "is finished",
}


# -- queries ---------------------------------------------------------------------------------------------------------------------------


async def show_run(database: Database, no: int) -> tuple[KeptRun, runs.Counts] | None:
    """A run, and how many of its messages are in which state. None if there is no such run."""
    async with database.connection() as connection:
        kept = await run_store.find_run(connection, no)
        return None if kept is None else (kept, await run_store.counts_of(connection, no))


def may(run: Run, act: RunAct) -> bool:
    """Whether this can be done with the run now."""
    return not isinstance(runs.after(run, act, sure=True), RunRefusal)
