"""The overview: must somebody act now, what to do in which order, whom to call, and how the parts are."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from services.staff import letter_store, seen_store
from services.staff.desk.contacts import Contacts, read_contacts
from services.staff.desk.desk import Desk
from services.staff.desk.pages.activity import ChainView, chain_view
from services.staff.desk.pages.stuck import StuckView, as_view, watched_by
from services.staff.desk.routing import Room, SeenBy
from services.staff.desk.said import SaidPart, said
from services.staff.letter_store import LetterGroup
from services.staff.people import Actor, Role
from services.staff.proposals import is_same_person
from services.staff.seen_store import LastHour
from services.staff.stuck import (
    GONE_AFTER_S,
    SERVICES,
    InstanceSeen,
    QueueSeen,
    WatchedWork,
    missing_services,
    stuck,
)
from services.staff.verdict import (
    CaseSeen,
    DoubtSeen,
    FailedSeen,
    OverviewSeen,
    ProposalsSeen,
    StoppedRun,
    Todo,
    verdict_of,
)
from shared.contracts.catalogue import short_name
from shared.records import dataclass

room = Room(__name__)

STUCK_SHOWN_MAX = 5
GROUPS_SHOWN_MAX = 5
GATEWAY_ACCESS = "gateway access"
"""The part of the payment-gateway service that says whether the card gateway takes its requests."""
Kind = Literal["act", "look", "work", "hand", "done", "quiet"]


class TodoView(BaseModel):
    """A line of what to do: what, what it is about, why, and the page where it is done."""

    kind: Kind
    what: str
    about: list[SaidPart]
    why: list[SaidPart]
    button: str
    place: str
    since: datetime


class SumView(BaseModel):
    """The money in doubt in one currency, in minor units, and of how many payments."""

    currency: str
    amount_minor: int
    number: int


class GroupView(BaseModel):
    """A group of failed messages that wait."""

    name: str
    reason: str
    error_type: str | None
    open: int
    hourly: list[int]
    place: str


class PartView(BaseModel):
    """A part of the system: how many instances of it run, and how it is."""

    name: str
    how_many: str
    kind: Kind
    badge: str
    reasons: list[str] = []
    since: datetime | None = None


class HourView(BaseModel):
    """What became of payments in the last hour. `more`: there were more than are counted."""

    paid: int
    declined: int
    not_charged: int
    given_back: int
    in_doubt: int
    more: bool


class OverviewView(BaseModel):
    """The overview. `level`: must somebody act now (`act`), should somebody look (`look`), or is all quiet (`done`)."""

    level: Literal["act", "look", "done"]
    title: str
    sums: list[SumView]
    unknown: int
    oldest_at: datetime | None
    in_doubt: int
    waiting: int
    todo: list[TodoView]
    stuck: list[StuckView]
    groups: list[GroupView]
    failed: int
    replayed: int
    contacts: Contacts
    parts: list[PartView]
    hour: HourView | None
    last_settled: datetime | None
    log: Literal["whole", "broken", "not_checked", "empty"]
    entries: int
    checked_at: datetime | None


@dataclass(frozen=True, slots=True)
class OverviewRead:
    """What the overview is made of. It is the same for all who look."""

    watched: WatchedWork
    doubts: tuple[DoubtSeen, ...]
    contradicted: int
    cases: tuple[CaseSeen, ...]
    proposers: Mapping[str, int]
    failed: FailedSeen | None
    groups: list[LetterGroup]
    stopped: tuple[StoppedRun, ...]
    hour: LastHour | None
    settled: datetime | None
    log: ChainView
    replayed: int
    contacts: Contacts


@room.page("/", "overview.html")
async def overview(desk: Desk, viewer: Actor) -> OverviewView:
    """The verdict, what to do, what is stuck, failed messages, whom to call, the parts, and the last hour."""
    return _overview(await _read(desk), viewer)


async def _read(desk: Desk) -> OverviewRead:
    hears_messages = desk.settings.staff_journal == "on"
    async with desk.read() as connection:
        watched = await watched_by(desk, connection)
        doubts = await seen_store.doubts(connection, watched.now)
        contradicted = await seen_store.contradicted(connection)
        failed = await letter_store.open_ones(connection)
        return OverviewRead(
            watched=watched,
            doubts=doubts,
            contradicted=contradicted,
            cases=await seen_store.first_cases(connection, doubts, watched.now),
            proposers=await seen_store.proposers(connection),
            failed=failed,
            groups=await letter_store.groups(connection, desk.clock(), at_most=GROUPS_SHOWN_MAX) if failed else [],
            stopped=await seen_store.stopped_runs(connection),
            hour=await seen_store.last_hour(connection) if hears_messages else None,
            settled=await seen_store.last_settled(connection) if not doubts and not contradicted else None,
            log=await chain_view(connection, desk.clock()),
            replayed=await seen_store.letters_replayed(connection) if failed is None else 0,
            contacts=read_contacts(desk.settings.contacts_file),
        )


def _overview(read: OverviewRead, viewer: Actor) -> OverviewView:
    """What this viewer sees: only who may answer a proposal is told of it."""
    watched, hour, log = read.watched, read.hour, read.log
    found = stuck(watched)
    missing = missing_services(watched)
    verdict = verdict_of(
        OverviewSeen(
            watched.now,
            read.doubts,
            read.contradicted,
            read.cases,
            proposals=_proposals(read, viewer),
            failed=read.failed,
            stopped_runs=read.stopped,
            stuck=tuple(found),
            missing=tuple(missing),
            is_broken=log.state == "broken",
        )
    )
    in_doubt = sum(doubt.number for doubt in read.doubts)
    return OverviewView(
        level=verdict.level,
        title=verdict.title,
        sums=[SumView(currency=one.currency, amount_minor=one.amount_minor, number=one.number) for one in verdict.sums],
        unknown=verdict.unknown,
        oldest_at=verdict.oldest_at,
        in_doubt=in_doubt,
        waiting=verdict.waiting,
        todo=[_todo(one) for one in verdict.todo],
        stuck=[as_view(one) for one in found[:STUCK_SHOWN_MAX]],
        groups=[_group(one) for one in read.groups],
        failed=0 if read.failed is None else read.failed.number,
        replayed=read.replayed,
        contacts=read.contacts,
        parts=_parts(watched),
        hour=None
        if hour is None
        else HourView(
            paid=hour.paid,
            declined=hour.declined,
            not_charged=hour.not_charged,
            given_back=hour.given_back,
            in_doubt=in_doubt,
            more=hour.more,
        ),
        last_settled=read.settled,
        log=log.state,
        entries=log.entries,
        checked_at=log.checked_at,
    )


def _proposals(read: OverviewRead, viewer: Actor) -> ProposalsSeen:
    """The proposals, as this viewer may answer them: in nothing else do two viewers see different overviews."""
    mine = {by for by in read.proposers if _may_answer(by, viewer)}
    number = sum(count for by, count in read.proposers.items() if by in mine)
    shown = tuple(one for one in read.watched.proposals if one.by in mine)
    return ProposalsSeen(shown, number, others=sum(read.proposers.values()) - number)


@room.region("overview", "_overview.html", seen=SeenBy(alike=_proposals, view=_overview))
async def overview_now(desk: Desk, key: str, viewer: Actor) -> OverviewRead:  # noqa: ARG001 - there is one
    """The same, when it changes. It is read once for all; each sees the own view of it."""
    return await _read(desk)


def _may_answer(proposed_by: str, viewer: Actor) -> bool:
    return Role.RESOLVER in viewer.roles and not viewer.is_program and not is_same_person(proposed_by, viewer.name)


def _todo(todo: Todo) -> TodoView:
    return TodoView(
        kind=todo.kind,
        what=todo.what,
        about=said(todo.about),
        why=said(todo.why),
        button=todo.button,
        place=todo.place,
        since=todo.since,
    )


def _group(group: LetterGroup) -> GroupView:
    return GroupView(
        name=short_name(group.type or "") or f"A message on {group.queue}",
        reason=group.reason,
        error_type=group.error_type,
        open=group.open,
        hourly=list(group.hourly),
        place=f"/dead-letters?group={group.group}",
    )


# -- the parts -----------------------------------------------------------------------------------------------------------------------------


def _parts(watched: WatchedWork) -> list[PartView]:
    if not watched.hears_instances:
        return []
    services = [_service(name, [one for one in watched.instances if one.service == name]) for name in SERVICES]
    return [*services, _broker(watched.queues), _gateway(watched.instances)]


def _service(name: str, instances: Sequence[InstanceSeen]) -> PartView:
    """How the instances of a service are. One that does not report is gone, never green; one that was stopped is not counted."""
    shown = name.replace("_", " ")
    expected = [one for one in instances if not one.has_left]
    there = [one for one in expected if one.is_there]
    gone = [one for one in expected if one.is_gone]
    how_many = f"{len(there)} of {len(expected)}"
    if not there:
        since = max((one.heard_at for one in instances), default=None)
        return PartView(
            name=shown, how_many=how_many, kind="act", badge="gone since" if since else "never heard of", since=since
        )
    reasons = [f"{part}: {reason}" for one in there for part, reason in one.not_ready.items()]
    if gone:
        since = max(one.heard_at for one in gone)
        badge = "one gone since" if len(gone) == 1 else f"{len(gone)} gone since"
        return PartView(name=shown, how_many=how_many, kind="look", badge=badge, since=since, reasons=reasons)
    if reasons:
        return PartView(name=shown, how_many=how_many, kind="look", badge="not ready", reasons=reasons)
    return PartView(name=shown, how_many=how_many, kind="done", badge="ready")


def _broker(queues: Sequence[QueueSeen]) -> PartView:
    name = "RabbitMQ"
    if not queues or max(queue.age_s for queue in queues) > GONE_AFTER_S:
        return PartView(name=name, how_many="", kind="look", badge="not looked at lately")
    missing = [queue.name for queue in queues if queue.messages is None]
    if missing:
        return PartView(name=name, how_many="", kind="act", badge="queues are missing", reasons=missing)
    return PartView(name=name, how_many="", kind="done", badge="all queues there")


def _gateway(instances: Sequence[InstanceSeen]) -> PartView:
    """The card gateway, as the service that calls it says."""
    name = "card gateway"
    there = [one for one in instances if one.service == "payment_gateway" and one.is_there]
    if not there:
        return PartView(name=name, how_many="", kind="quiet", badge="nobody calls it now")
    reasons = [one.not_ready[GATEWAY_ACCESS] for one in there if GATEWAY_ACCESS in one.not_ready]
    if reasons:
        return PartView(name=name, how_many="", kind="act", badge="refuses us", reasons=reasons[:1])
    return PartView(name=name, how_many="", kind="done", badge="takes requests")
