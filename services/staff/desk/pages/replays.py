"""Replays of many messages: the preview, the steps, what became of each, and what people can do with a run."""

from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from services.staff import run_store, runs, store
from services.staff.actions import runs as run_actions
from services.staff.actions.dead_letters import withheld_words
from services.staff.dead_letters import Withheld
from services.staff.desk.acted import done
from services.staff.desk.frame import Count
from services.staff.desk.pages.dead_letters import mistake_words, name_of
from services.staff.desk.parameters import NUMBER_MAX, Number, read_moment
from services.staff.desk.routing import Act, Desk, Done, Refused, Room
from services.staff.people import Actor, Role
from services.staff.proposals import is_same_person
from services.staff.run_store import ItemKey, KeptRun, RunItem
from services.staff.runs import Bin, Counts, Halt, ItemState, RunAct, RunState, RunStep
from services.staff.story_store import read_queues
from services.staff.stuck import GONE_AFTER_S, QueueSeen
from shared.persistence.database import Connection

room = Room(__name__)

ROWS_MAX = 50
POSITION_MAX = 2 * runs.LETTERS_MAX
"""More places than a run has."""
FIRST_MAX = 20
_STEPS = ((RunStep.ONE, "Try one"), (RunStep.TEN, "Ten, then a hundred"), (RunStep.REST, "The rest"))
_ENDS = (ItemState.HANDLED, ItemState.DUPLICATE, ItemState.REJECTED, ItemState.FAILED, ItemState.NO_SIGN)
_BADGES = {
    RunState.PREVIEWED: ("quiet", "Nothing is sent yet"),
    RunState.RUNNING: ("work", "Running"),
    RunState.WAITING: ("hand", "Waits for you to go on"),
    RunState.PAUSED: ("quiet", "Paused"),
    RunState.HALTED: ("look", "Stopped by itself"),
    RunState.STOPPED: ("quiet", "Stopped for good"),
    RunState.DONE: ("done", "Finished"),
}
_BECAME = {
    ItemState.SENT: ("work", "on its way"),
    ItemState.HANDLED: ("done", "handled"),
    ItemState.DUPLICATE: ("quiet", "it had been handled before"),
    ItemState.REJECTED: ("hand", "refused"),
    ItemState.FAILED: ("act", "failed again"),
    ItemState.NO_SIGN: ("look", "no sign"),
    ItemState.LEFT_OUT: ("quiet", "left out"),
}
_BINS = {
    Bin.CHARGES: ("look", "Charge a card now", True),
    Bin.CHARGES_NOBODY: ("quiet", "Charge nobody", True),
    Bin.SETTLED: ("quiet", "Charge nobody: settled meanwhile", True),
    Bin.TOO_OLD: ("quiet", "Too old to charge", False),
    Bin.CANNOT: ("quiet", "Cannot be replayed", False),
    Bin.IN_A_RUN: ("quiet", "Are in another run", False),
    Bin.NOT_OPEN: ("quiet", "Are not open any more", False),
}

_WHY_NOT = {
    "proposal_open": "a decision about their payment is proposed, and a second person answers first",
    "not_read_yet": "an earlier version stored them, and nobody has read yet what they charge: preview again in some minutes",
    "no_such_queue": "they came from no queue of Remit; discard them",
}
"""Why messages cannot be replayed, besides that their bodies were not kept."""


def _why_not(why: str) -> str:
    if why in _WHY_NOT:
        return _WHY_NOT[why]
    withheld = Withheld(why) if why in set(Withheld) else None
    return f"the body was not kept ({withheld_words(withheld)}); discard them"


@room.count("replays")
async def runs_under_way(desk: Desk) -> Count | None:
    """How many runs are under way, for the menu."""
    async with desk.read() as connection:
        numbers = await run_store.runs_at_work(connection)
    return Count(len(numbers), "work", "under way") if numbers else None


# -- the list --------------------------------------------------------------------------------------------------------------------------


class RunLine(BaseModel):
    """A run in the list."""

    no: int
    title: str
    badge: tuple[str, str]
    made_by: str
    made_at: datetime
    total: int
    charges: int


class RunsView(BaseModel):
    """Runs, the latest first. The list begins with the number `first`; `newer` were made since the number `latest`."""

    runs: list[RunLine]
    next: int | None
    first: int
    latest: int
    newer: int = 0


@room.page("/replays", "replays.html")
async def replays(desk: Desk, before: Number | None = None) -> RunsView:
    """Every run, the latest first."""
    async with desk.read() as connection:
        latest = await run_store.latest_run(connection)
        return await _runs(connection, latest if before is None else before - 1, latest)


@room.region("runs", "_runs.html")
async def runs_now(key: str, desk: Desk, viewer: Actor) -> RunsView | None:  # noqa: ARG001 - the same for everybody
    """How the runs of a list stand now. The key is the number with which it begins, and the latest one there was."""
    first, latest = (_no(part) for part in [*key.split("."), ""][:2])
    if first is None or latest is None:
        return None
    async with desk.read() as connection:
        newer = max(await run_store.latest_run(connection) - latest, 0)
        return await _runs(connection, first, latest, newer)


async def _runs(connection: Connection, first: int, latest: int, newer: int = 0) -> RunsView:
    found = await run_store.page_of_runs(connection, up_to=first, at_most=ROWS_MAX + 1)
    return RunsView(
        runs=[
            RunLine(
                no=one.no,
                title=one.title,
                badge=_BADGES[one.run.state],
                made_by=one.made_by,
                made_at=one.made_at,
                total=one.total,
                charges=one.run.charges,
            )
            for one in found[:ROWS_MAX]
        ],
        next=found[ROWS_MAX - 1].no if len(found) > ROWS_MAX else None,
        first=first,
        latest=latest,
        newer=newer,
    )


# -- one run ---------------------------------------------------------------------------------------------------------------------------


class BinLine(BaseModel):
    """What replaying some of the list would do."""

    bin: Bin
    kind: str
    text: str
    taken: bool
    count: int
    sums: dict[str, int]
    oldest: datetime
    newest: datetime
    why: dict[str, int]

    @property
    def reasons(self) -> list[tuple[int, str]]:
        """How many cannot be replayed for which reason, and what to do then."""
        return [(count, _why_not(why)) for why, count in self.why.items()]


class RunItemLine(BaseModel):
    """A message of a run, and what became of it after how many seconds."""

    id: UUID
    name: str
    invoice_id: str | None
    amount_minor: int | None
    currency: str | None
    kind: str
    became: str
    after_s: float | None


class HaltView(BaseModel):
    """Why a run stopped by itself: the message, how, and whether the mistake is another than before.

    `why` is the queue that was refused, or the type of an error. Of an error there is no message.
    """

    how: Halt
    why: str | None
    id: UUID | None = None
    name: str | None = None
    invoice_id: str | None = None
    after_s: float | None = None
    mistake: str | None = None
    differs: bool = False


class RunQueueView(BaseModel):
    """The queue to which a run sends: how much waits in it, who takes from it, and for how many seconds it has not become less."""

    name: str
    messages: int
    consumers: int
    still_s: int


class RunHistoryLine(BaseModel):
    """Something that a person did with a run."""

    at: datetime
    who: str
    text: str


class RunStateView(BaseModel):
    """What changes while a run goes on. `can` are the acts that are possible now.

    `unseen` are the messages that failed again, or showed no sign, since somebody let it go on.
    """

    no: int
    name: str
    title: str
    state: RunState
    step: RunStep
    badge: tuple[str, str]
    steps: list[tuple[str, str]]
    total: int
    sent: int
    set_aside: int
    counts: dict[str, int]
    halt: HaltView | None
    rate: int
    minutes_left: int | None
    can: list[RunAct]
    unseen: int
    is_told: bool
    version: str
    queue: RunQueueView | None

    def may(self, act: str) -> bool:
        """Whether this can be done now."""
        return RunAct[act] in self.can

    @property
    def told(self) -> int:
        """Of how many of its messages it is known what became of them."""
        return sum(self.counts[state.name.lower()] for state in _ENDS)


class RunView(RunStateView):
    """One run. Sums are in minor units, by currency."""

    listed: int
    bins: list[BinLine]
    charges: int
    sums: dict[str, int]
    first: list[RunItemLine]
    tried_first: RunItemLine | None
    items: list[RunItemLine]
    next: str | None
    charged: dict[str, int]
    made_by: str
    made_at: datetime
    second_by: str | None
    too_old: BinLine | None
    is_mine: bool
    started_by: str | None
    started_at: datetime | None
    ended_at: datetime | None
    reason: str | None
    old_after_h: int
    history: list[RunHistoryLine]


class RunNewsView(BaseModel):
    """What happened in a run since somebody opened its page: `more` were sent, and `told`: more is known of those before."""

    no: int
    more: int
    told: bool


@room.page("/replays/{no}", "replay.html")
async def replay_run(no: Number, desk: Desk, viewer: Actor, after: str | None = None) -> RunView:
    """A preview or a run: what it would do, how far it is, what became of each message."""
    key = _key(after)
    async with desk.read() as connection:
        return await _view(desk, connection, no, key, viewer)


@room.region("run", "_run_state.html", has_forms=True)
async def run_state(key: str, desk: Desk, viewer: Actor) -> RunStateView | None:  # noqa: ARG001 - the same for everybody
    """What changes while a run goes on, and what can be done with it now."""
    if (no := _no(key)) is None:
        return None
    async with desk.read() as connection:
        kept = await run_store.find_run(connection, no)
        return None if kept is None else RunStateView(**await _state(desk, connection, kept))


@room.region("run-news", "_run_news.html")
async def run_news(key: str, desk: Desk, viewer: Actor) -> RunNewsView | None:  # noqa: ARG001 - the same for everybody
    """That there is more than a page shows, which was drawn when so many were sent, and the end of so many was known."""
    no, sent, told = (_no(part) for part in [*key.split("."), "", ""][:3])
    if no is None or sent is None or told is None:
        return None
    async with desk.read() as connection:
        counts = await run_store.counts_of(connection, no)
    return RunNewsView(no=no, more=counts.sent - sent, told=sum(counts[state] for state in _ENDS) > told)


def _no(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= len(str(NUMBER_MAX)) and int(text) <= NUMBER_MAX else None


async def _state(desk: Desk, connection: Connection, kept: KeptRun) -> dict[str, Any]:
    """The fields of `RunStateView`."""
    tried = await run_store.tried_first(connection, kept.no)
    counts = await run_store.counts_of(connection, kept.no)
    by = kept.run.halted_by
    return {
        "no": kept.no,
        "name": kept.name,
        "title": kept.title,
        "state": kept.run.state,
        "step": kept.run.step,
        "badge": _BADGES[kept.run.state],
        "steps": _steps(kept),
        "total": kept.total,
        "sent": counts.sent,
        "set_aside": counts.set_aside,
        "counts": {state.name.lower(): counts[state] for state in ItemState},
        "halt": _halt(kept, None if by is None else await run_store.item_of(connection, kept.no, by)),
        "rate": kept.run.rate,
        "minutes_left": _minutes_left(kept, counts),
        "can": [act for act in RunAct if run_actions.may(kept.run, act)],
        "unseen": len(counts.unseen),
        "is_told": desk.settings.staff_replays == "on",
        "version": kept.version(counts),
        "queue": None if tried is None else _queue(await read_queues(connection), tried.queue),
    }


def _key(text: str | None) -> ItemKey | None:
    if not text:
        return None
    if (found := _read_key(text)) is None:
        sentence = "After: the key of a page, as the page before has it."
        raise Refused("invalid", sentence, HTTPStatus.UNPROCESSABLE_ENTITY)
    return found


def _read_key(text: str) -> ItemKey | None:
    """Where a page of the list ends, `MOMENT_PLACE`, without the moment for what is on its way; None if it is no such key."""
    at, _, place = text.partition("_")
    position = _no(place)
    try:
        moment = read_moment(at) if at else None
    except ValueError:
        return None
    return None if position is None or position > POSITION_MAX else ItemKey(moment, position)


def _key_text(item: RunItem) -> str:
    return f"{item.ended_at.isoformat() if item.ended_at is not None else ''}_{item.position}"


async def _view(desk: Desk, connection: Connection, no: int, after: ItemKey | None, viewer: Actor) -> RunView:
    kept = await run_store.find_run(connection, no)
    if kept is None:
        raise Refused("unknown", "There is no such run.", HTTPStatus.NOT_FOUND)
    is_preview = kept.run.state is RunState.PREVIEWED
    first = await run_store.smallest_of(connection, no, at_most=FIRST_MAX) if is_preview else []
    items = [] if is_preview else await run_store.items_of(connection, no, after=after, at_most=ROWS_MAX + 1)
    tried = await run_store.tried_first(connection, no)
    entries = await store.entries_about(connection, kept.id)
    bins = [_bin(one) for one in kept.bins]
    charging = next((one for one in bins if one.bin is Bin.CHARGES), None)
    return RunView(
        **await _state(desk, connection, kept),
        listed=sum(one.count for one in bins),
        bins=bins,
        charges=kept.run.charges,
        sums=charging.sums if charging is not None else {},
        first=[_item(one) for one in first],
        tried_first=None if tried is None else _item(tried),
        items=[_item(one) for one in items[:ROWS_MAX]],
        next=_key_text(items[ROWS_MAX - 1]) if len(items) > ROWS_MAX else None,
        charged=await run_store.charged_by(connection, no),
        made_by=kept.made_by,
        made_at=kept.made_at,
        second_by=kept.second_by,
        too_old=next((one for one in bins if one.bin is Bin.TOO_OLD), None),
        is_mine=is_same_person(kept.made_by, viewer.name),
        started_by=kept.started_by,
        started_at=kept.started_at,
        ended_at=kept.ended_at,
        reason=kept.reason,
        old_after_h=int(desk.settings.replay_charges_within_s // 3600),
        history=[_history(entry.at, entry.who, entry.action, entry.details) for entry in entries],
    )


def _queue(queues: Sequence[QueueSeen], name: str) -> RunQueueView | None:
    """How this queue stands; None if nobody has looked lately."""
    seen = next((one for one in queues if one.name == name and one.age_s <= GONE_AFTER_S), None)
    if seen is None or seen.messages is None:
        return None
    return RunQueueView(name=name, messages=seen.messages, consumers=seen.consumers, still_s=int(seen.still_s))


def _bin(stored: object) -> BinLine:
    plain = dict(stored)  # type: ignore[call-overload]
    bin_ = Bin(plain["bin"])
    kind, text, taken = _BINS[bin_]
    return BinLine(**{**plain, "bin": bin_, "kind": kind, "text": text, "taken": taken})


def _steps(kept: KeptRun) -> list[tuple[str, str]]:
    """The steps of the run, with what each is now: done, at work, stopped, to come."""
    run = kept.run
    if run.state is RunState.PREVIEWED:
        return [("work", "Preview"), *(("quiet", text) for _, text in _STEPS), ("quiet", "Finished")]
    if run.state is RunState.DONE:
        return [("done", text) for text in ("Preview", *(text for _, text in _STEPS), "Finished")]
    at = 1 if run.step is RunStep.HUNDRED else [step for step, _ in _STEPS].index(run.step)
    now = {RunState.WAITING: "done", RunState.HALTED: "look", RunState.STOPPED: "look"}.get(run.state, "work")
    kinds = ["done" if place < at else now if place == at else "quiet" for place in range(len(_STEPS))]
    return [("done", "Preview"), *zip(kinds, (text for _, text in _STEPS), strict=True), ("quiet", "Finished")]


def _item(item: RunItem) -> RunItemLine:
    kind, text = _BECAME.get(item.state, ("quiet", "waits"))
    if item.why is not None and item.state in (ItemState.REJECTED, ItemState.LEFT_OUT):
        text = f"{text}: {item.why.replace('_', ' ')}"
    return RunItemLine(
        id=item.letter_id,
        name=name_of(item.type),
        invoice_id=item.invoice_id,
        amount_minor=item.amount_minor,
        currency=item.currency,
        kind=kind,
        became=text,
        after_s=_after_s(item),
    )


def _after_s(item: RunItem) -> float | None:
    if item.sent_at is None or item.ended_at is None:
        return None
    return round((item.ended_at - item.sent_at).total_seconds(), 1)


def _halt(kept: KeptRun, item: RunItem | None) -> HaltView | None:
    """Why a run is stopped; `item` is the message because of which it is."""
    how, why = kept.run.halted_how, kept.run.halted_why
    if kept.run.state is not RunState.HALTED or how is None:
        return None
    if item is None:
        return HaltView(how=how, why=why, id=kept.run.halted_by)
    return HaltView(
        how=how,
        why=why,
        id=item.letter_id,
        name=name_of(item.type),
        invoice_id=item.invoice_id,
        after_s=_after_s(item),
        mistake=item.error_text or mistake_words(item.why or "unknown", item.error_type),
        differs=item.differs,
    )


def _minutes_left(kept: KeptRun, counts: Counts) -> int | None:
    if kept.run.state is not RunState.RUNNING or kept.run.step is not RunStep.REST:
        return None
    return max(round(counts.waiting / kept.run.rate / 60), 1)


_DID = {
    "run_preview": "made the list: {taken} of {listed} messages are taken",
    "run_try": "try one",
    "run_go": "ten, then a hundred",
    "run_rest": "the rest, {rate} a second",
    "run_pause": "pause",
    "run_resume": "go on",
    "run_leave_out": "leave it out and go on",
    "run_second": "take in what is too old",
    "run_stop": "stop for good",
    "run_speed": "{rate} a second",
    "refused": "refused: {code}",
}


def _history(at: datetime, who: str, action: str, details: object) -> RunHistoryLine:
    plain = dict(details)  # type: ignore[call-overload]
    text = _DID.get(action, action.replace("_", " "))
    listed = sum(plain.get("bins", {}).values())
    told = {"rate": plain.get("rate"), "code": plain.get("code"), "taken": plain.get("taken"), "listed": listed}
    return RunHistoryLine(at=at, who=who, text=text.format_map(told))


# -- acts ------------------------------------------------------------------------------------------------------------------------------


class ShownRunForm(Act):
    """An act on a run as its page showed it."""

    version: str = Field(
        max_length=64, json_schema_extra={"missing": "Say which version of the run was shown: its page has it."}
    )


class TryForm(ShownRunForm):
    """How a run begins: which message is tried, how fast the rest goes later, why, and that cards shall be charged."""

    rate: int = Field(runs.RATE_USUAL, title="Speed")
    first: UUID | None = None
    reason: str = Field(max_length=1_000, title="Why", json_schema_extra={"missing": "Say why they are replayed."})
    sure: bool = False


class SecondForm(Act):
    """Why what is too old still shall charge."""

    reason: str = Field(
        max_length=1_000, title="Why", json_schema_extra={"missing": "Say why they still shall charge."}
    )


class SpeedForm(Act):
    """How many messages a second."""

    rate: int = Field(title="Speed")


class RestForm(ShownRunForm, SpeedForm):
    """How fast the rest goes, of a run as its page showed it."""


async def _do(desk: Desk, no: int, act: RunAct, actor: Actor, **options: object) -> Done:
    result = await run_actions.act(desk.database, no, act, who=actor, clock=desk.clock, **options)  # type: ignore[arg-type]
    return done(result, f"/replays/{no}")


@room.act("/replays/{no}/second", needs=Role.REPLAYER)
async def second(no: Number, form: SecondForm, desk: Desk, actor: Actor) -> Done:
    """Take in what is too old to charge, as a second person."""
    result = await run_actions.take_in(desk.database, no, who=actor, reason=form.reason, clock=desk.clock)
    return done(result, f"/replays/{no}")


@room.act("/replays/{no}/try", needs=Role.REPLAYER)
async def try_one(no: Number, form: TryForm, desk: Desk, actor: Actor) -> Done:
    """Begin: try one message."""
    return await _do(desk, no, RunAct.TRY, actor, **form.model_dump(exclude={"once"}))


@room.act("/replays/{no}/go", needs=Role.REPLAYER)
async def go(no: Number, form: ShownRunForm, desk: Desk, actor: Actor) -> Done:
    """Ten, then a hundred."""
    return await _do(desk, no, RunAct.GO, actor, version=form.version)


@room.act("/replays/{no}/rest", needs=Role.REPLAYER)
async def rest(no: Number, form: RestForm, desk: Desk, actor: Actor) -> Done:
    """The rest, at this speed."""
    return await _do(desk, no, RunAct.REST, actor, rate=form.rate, version=form.version)


@room.act("/replays/{no}/speed", needs=Role.REPLAYER)
async def speed(no: Number, form: SpeedForm, desk: Desk, actor: Actor) -> Done:
    """Another speed, from now on."""
    return await _do(desk, no, RunAct.SPEED, actor, rate=form.rate)


@room.act("/replays/{no}/pause", needs=Role.REPLAYER)
async def pause(no: Number, form: Act, desk: Desk, actor: Actor) -> Done:  # noqa: ARG001 - its id is in the actor
    """Send nothing more for now."""
    return await _do(desk, no, RunAct.PAUSE, actor)


@room.act("/replays/{no}/resume", needs=Role.REPLAYER)
async def resume(no: Number, form: ShownRunForm, desk: Desk, actor: Actor) -> Done:
    """Go on, without what failed again while it was paused."""
    return await _do(desk, no, RunAct.RESUME, actor, version=form.version)


@room.act("/replays/{no}/leave-out", needs=Role.REPLAYER)
async def leave_out(no: Number, form: ShownRunForm, desk: Desk, actor: Actor) -> Done:
    """Go on without what failed again."""
    return await _do(desk, no, RunAct.LEAVE_OUT, actor, version=form.version)


@room.act("/replays/{no}/stop", needs=Role.REPLAYER)
async def stop(no: Number, form: Act, desk: Desk, actor: Actor) -> Done:  # noqa: ARG001 - its id is in the actor
    """Stop for good: the rest stay failed messages."""
    return await _do(desk, no, RunAct.STOP, actor)
