"""The activity log: what people did or were refused, whether its chain is whole, and the log as a file."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from http import HTTPStatus
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import orjson
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from services.staff import journal_store, journal_words
from services.staff.actions import log
from services.staff.desk.frame import zone_named, zone_of
from services.staff.desk.once import NUL
from services.staff.desk.routing import Act, Desk, Done, Refused, Room, Visitor
from services.staff.desk.spreadsheet import cell, csv_lines
from services.staff.journal_check import LOOK_EVERY
from services.staff.journal_store import EntryFilter, ReadEntry
from services.staff.people import Actor, Role
from shared.ids import read_uuid
from shared.observability.visible import visible
from shared.persistence.database import Connection

room = Room(__name__)

ENTRIES_A_PAGE = 50
NEWS_MAX = 100
ENTRIES_A_PIECE = 1_000
"""Entries that a download reads at a time."""
NAMES_MAX = 500
"""Names in the choice of who acted. Anybody else is found by typing the name into the address."""
SUBJECTS_MAX = 200
END_LENGTH_MIN = 4
NOT_CHECKED_AFTER = 3 * LOOK_EVERY
BESIDE = timedelta(hours=1)
"""Refusals about the same thing are shown beside an entry if they are at most so far from it."""
BESIDE_MAX = 20
Who = Annotated[str | None, Field(max_length=200)]
About = Annotated[str | None, Field(max_length=200)]
ActionName = Annotated[str | None, Field(max_length=40)]
Place = Annotated[int | None, Field(ge=1, le=journal_store.BEYOND_ALL)]


class ChainView(BaseModel):
    """Whether the log is whole. `newer` are entries behind the last seal; `broken_why` says what differs at entry `broken_at`."""

    state: Literal["whole", "broken", "not_checked", "empty"]
    entries: int
    checked_at: datetime | None
    seals: int
    seals_outside: int
    newer: int
    is_asked: bool
    broken_at: int | None = None
    broken_why: str | None = None


class AboutView(BaseModel):
    """What an entry is about, and the page of that, if it has one."""

    subject: UUID
    text: str | None
    link: str | None


class EntryView(BaseModel):
    """An entry. `said` is what was done, in words; `result` what came of it, with the kind of its badge.

    `before` and `after` say what the act changed. `request` is the id of the form, or of what a program sent.
    """

    position: int
    id: UUID
    at: datetime
    who: str
    via: str | None
    action: str
    said: str
    about: AboutView
    why: str | None
    kind: str
    result: str
    before: str | None
    after: str | None
    facts: list[tuple[str, str]]
    request: str | None
    is_purged: bool


class FilterView(BaseModel):
    """What the list is filtered by, as it was asked for."""

    who: str | None = None
    action: str | None = None
    about: str | None = None
    day: date | None = None

    @property
    def query(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.model_dump().items() if value is not None}


class ActivityView(BaseModel):
    """The log, the latest entry first. `next` is the key of the next page: its entries come before this one."""

    chain: ChainView
    filter: FilterView
    people: list[str]
    groups: list[str]
    actions: list[str]
    entries: list[EntryView]
    next: int | None
    csv: str
    json_lines: str
    live: str

    def address(self, **more: object) -> str:
        """The address of this list, with more in its query."""
        return f"/activity?{urlencode({**self.filter.query, **more})}"


class ActivityNewsView(BaseModel):
    """How many entries that the filters mean were written since a list began, and the address of the list as it is now."""

    came: int
    address: str
    news_max: int = NEWS_MAX


class ChainNow(BaseModel):
    """Whether the log is whole, as its pages show it while somebody looks."""

    chain: ChainView


class ActivityEntryView(BaseModel):
    """One entry with its place in the chain, and the refusals about the same thing beside it."""

    chain: ChainView
    entry: EntryView
    hash: str
    hash_before: str
    refusals: list[EntryView]
    is_last: bool


@room.page("/activity", "activity.html")
async def activity(
    desk: Desk,
    visitor: Visitor,
    request: Request,
    who: Who = None,
    action: ActionName = None,
    about: About = None,
    day: date | None = None,
    before: Place = None,
) -> ActivityView:
    """What people did or were refused, the latest first."""
    asked = FilterView(who=who, action=action, about=about, day=day)
    zone = zone_of(request, visitor.preferences.zone)[0]
    async with desk.read() as connection:
        newest = await journal_store.last_place(connection)
        actions = await journal_store.names_in(connection, "action", at_most=NAMES_MAX)
        filter_ = await _filter(connection, asked, actions, zone)
        found = await journal_store.read_entries(
            connection, filter_, before=before or journal_store.BEYOND_ALL, at_most=ENTRIES_A_PAGE + 1
        )
        entries, rest = found[:ENTRIES_A_PAGE], found[ENTRIES_A_PAGE:]
        shown = await _views(connection, entries)
        people = await journal_store.names_in(connection, "who", at_most=NAMES_MAX)
        chain = await chain_view(connection, desk.clock())
    query = asked.query
    return ActivityView(
        chain=chain,
        filter=asked,
        people=[name for name in people if visible(name) == name],
        groups=list(journal_words.GROUPS),
        actions=actions,
        entries=shown,
        next=entries[-1].position if rest else None,
        csv=f"/activity/download?{urlencode({**query, 'kind': 'csv'})}",
        json_lines=f"/activity/download?{urlencode({**query, 'kind': 'jsonl'})}",
        live=urlencode({**query, "zone": str(zone), "seen": newest}),
    )


@room.region("activity", "_activity_news.html")
async def activity_news(key: str, desk: Desk, viewer: Actor) -> ActivityNewsView | None:  # noqa: ARG001 - the same for everybody
    """What was written since a list began. The key is the query of the list, with the newest entry there was and the zone of its day."""
    sent = dict(parse_qsl(key))
    zone = zone_named(sent.pop("zone", "")) or UTC
    try:
        asked, seen = FilterView.model_validate(sent), int(sent.get("seen", ""))
    except ValueError:
        return None
    if any(NUL in text for text in sent.values()):
        return None
    async with desk.read() as connection:
        came = await _came(connection, asked, zone, seen) if seen < await journal_store.last_place(connection) else 0
    return ActivityNewsView(came=came, address=f"/activity?{urlencode(asked.query)}")


async def _came(connection: Connection, asked: FilterView, zone: tzinfo, seen: int) -> int:
    known = await journal_store.names_in(connection, "action", at_most=NAMES_MAX)
    filter_ = await _filter(connection, asked, known, zone)
    return len(await journal_store.read_entries(connection, filter_, after=max(seen, 0), at_most=NEWS_MAX))


@room.region("chain", "_chain.html", has_forms=True)
async def chain_now(key: str, desk: Desk, viewer: Actor) -> ChainNow:  # noqa: ARG001 - there is one, the same for everybody
    """Whether the log is whole, as it is looked at."""
    async with desk.read() as connection:
        return ChainNow(chain=await chain_view(connection, desk.clock()))


@room.page("/activity/download", "activity.html")
async def download(
    desk: Desk,
    visitor: Visitor,
    request: Request,
    kind: Literal["csv", "jsonl"] = "csv",
    who: Who = None,
    action: ActionName = None,
    about: About = None,
    day: date | None = None,
) -> Response:
    """The entries of a filter as a file, the earliest first. The download is an entry, too, and not among them."""
    asked = FilterView(who=who, action=action, about=about, day=day)
    zone = zone_of(request, visitor.preferences.zone)[0]
    async with desk.read() as connection:
        known = await journal_store.names_in(connection, "action", at_most=NAMES_MAX)
        filter_ = await _filter(connection, asked, known, zone)
        head = await journal_store.head_now(connection, desk.clock())
    await log.note_export(desk.database, kind, asked.query, who=visitor.actor, clock=desk.clock)
    lines = _lines(desk, filter_, until=head.position if head is not None else 0)
    content = _as_csv(lines) if kind == "csv" else _as_json_lines(lines)
    media_type, ending = _FILES[kind]
    name = f"remit-log-{desk.clock():%Y-%m-%d}.{ending}"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(content, media_type=media_type, headers=headers)


@room.page("/activity/{position}", "activity-entry.html")
async def entry(position: Annotated[int, Field(ge=1, le=journal_store.BEYOND_ALL)], desk: Desk) -> ActivityEntryView:
    """One entry, whole."""
    async with desk.read() as connection:
        found = await journal_store.read_entry(connection, position)
        if found is None:
            raise Refused("unknown", "There is no such entry in the log.", HTTPStatus.NOT_FOUND)
        before = await journal_store.read_entry(connection, position - 1)
        (shown,) = await _views(connection, [found])
        refusals = await _views(connection, await _beside(connection, found))
        chain = await chain_view(connection, desk.clock())
    return ActivityEntryView(
        chain=chain,
        entry=shown,
        hash=found.hash.hex(),
        hash_before=before.hash.hex() if before is not None else "",
        refusals=refusals,
        is_last=position == chain.entries,
    )


async def _beside(connection: Connection, found: ReadEntry) -> list[ReadEntry]:
    """Refusals about the same thing, shortly before or after this entry."""
    span = (found.at - BESIDE, found.at + BESIDE)
    filter_ = EntryFilter(subjects=[found.subject], actions=[journal_words.REFUSED], day=span)
    near = await journal_store.read_entries(
        connection, filter_, before=journal_store.BEYOND_ALL, at_most=BESIDE_MAX + 1
    )
    return [one for one in near if one.position != found.position][:BESIDE_MAX]


# -- which entries, and how they are told ------------------------------------------------------------------------------------------------


async def _filter(connection: Connection, asked: FilterView, known: Sequence[str], zone: tzinfo) -> EntryFilter:
    actions = None
    if asked.action is not None:
        actions = journal_words.actions_of(asked.action, known)
        if actions is None:
            actions = []
    subjects = None if asked.about is None else await _subjects(connection, asked.about.strip())
    return EntryFilter(
        who=asked.who,
        actions=actions,
        subjects=subjects,
        about=asked.about.strip() if asked.about is not None else None,
        day=None if asked.day is None else _span_of(asked.day, zone),
    )


def _span_of(day: date, zone: tzinfo) -> tuple[datetime, datetime]:
    """The day in this zone. It has 23 or 25 hours where clocks are set. The first and the last day that there are end where time ends."""
    last = day if day == date.max else day + timedelta(days=1)
    return datetime.combine(day, time(), zone), datetime.combine(last, time(), zone)


async def _subjects(connection: Connection, about: str) -> list[UUID]:
    """What may be meant: a whole id, the end of one, or an invoice."""
    if (whole := read_uuid(about)) is not None:
        return [whole]
    end = about.lstrip("…").lower()
    found = await journal_store.payments_of(connection, about, at_most=SUBJECTS_MAX)
    if len(end) >= END_LENGTH_MIN and all(character in "0123456789abcdef-" for character in end):
        found += await journal_store.subjects_ending(connection, end, at_most=SUBJECTS_MAX)
    return found


async def _views(connection: Connection, entries: Sequence[ReadEntry]) -> list[EntryView]:
    kinds = await journal_store.what_they_are(connection, list({one.subject for one in entries}))
    return [_view(one, kinds) for one in entries]


def _view(one: ReadEntry, kinds: Mapping[UUID, tuple[str, str | None]]) -> EntryView:
    told = journal_words.tell(one.action, one.details)
    via, request = one.details.get("via"), one.details.get("request")
    return EntryView(
        position=one.position,
        id=one.id,
        at=one.at,
        who=one.who,
        via=journal_words.VIA.get(via) if isinstance(via, str) else None,
        action=one.action,
        said=told.said,
        about=_about(one, kinds),
        why=told.why,
        kind=told.kind,
        result=told.result,
        before=journal_words.stood(one.details, "before"),
        after=journal_words.stood(one.details, "after"),
        facts=journal_words.facts(one.details),
        request=request if isinstance(request, str) else None,
        is_purged=one.is_purged,
    )


def _about(one: ReadEntry, kinds: Mapping[UUID, tuple[str, str | None]]) -> AboutView:
    named = one.details.get("about")
    text = named if isinstance(named, str) else None
    if one.subject == log.SUBJECT_OF_LOG:
        return AboutView(subject=one.subject, text="the log", link=None)
    kind, name = kinds.get(one.subject, (None, None))
    pages = {"case": f"/cases/{one.subject}", "dead_letter": f"/dead-letters/{one.subject}", "run": f"/replays/{name}"}
    shown = f"R-{name}" if kind == "run" else name
    return AboutView(subject=one.subject, text=text or shown, link=pages.get(kind or ""))


async def chain_view(connection: Connection, now: datetime) -> ChainView:
    """Whether the log is whole, as the last look at it found."""
    look, result = await journal_store.chain_result(connection)
    head = await journal_store.head_now(connection, now)
    seal = await journal_store.last_seal(connection)
    written = head.position if head is not None else 0
    is_checked = result.checked_at is not None and abs(now - result.checked_at) <= NOT_CHECKED_AFTER
    state: Literal["whole", "broken", "not_checked", "empty"]
    if result.broken_at is not None:
        state = "broken"
    elif not written:
        state = "empty"
    else:
        state = "whole" if is_checked and result.entries else "not_checked"
    return ChainView(
        state=state,
        entries=written,
        checked_at=result.checked_at,
        seals=result.sealed,
        seals_outside=result.sealed_outside,
        newer=max(0, written - (seal.position if seal is not None else 0)),
        is_asked=look.asked_at is not None or look.begun_at is not None,
        broken_at=result.broken_at,
        broken_why=result.broken_why,
    )


@room.act("/activity/check", needs=Role.VIEWER, page="/activity")
async def check(form: Act, desk: Desk, actor: Actor) -> Done:  # noqa: ARG001 - the form has nothing but its own id
    """Have the whole chain looked at now."""
    result = await log.ask_for_check(desk.database, who=actor, clock=desk.clock)
    return Done(text=result.text, location="/activity", entry=result.entry)


# -- the log as a file -------------------------------------------------------------------------------------------------------------------


class _File(NamedTuple):
    media_type: str
    ending: str


_FILES = {"csv": _File("text/csv; charset=utf-8", "csv"), "jsonl": _File("application/jsonl", "jsonl")}
COLUMNS = ("entry", "at", "who", "via", "action", "about", "subject", "reason", "details", "id", "hash")


async def _lines(desk: Desk, filter_: EntryFilter, *, until: int) -> AsyncIterator[list[ReadEntry]]:
    """The entries in pieces, up to entry `until`. An entry is never changed, so pieces that are read one after the other fit together."""
    after = 0
    while True:
        async with desk.read() as connection:
            piece = await journal_store.read_entries(connection, filter_, after=after, at_most=ENTRIES_A_PIECE)
        yield [one for one in piece if one.position <= until]
        if len(piece) < ENTRIES_A_PIECE or piece[-1].position >= until:
            return
        after = piece[-1].position


async def _as_csv(pieces: AsyncIterator[list[ReadEntry]]) -> AsyncIterator[str]:
    yield csv_lines([COLUMNS])
    async for piece in pieces:
        yield csv_lines([[cell(_as_dict(one)[name]) for name in COLUMNS] for one in piece])


async def _as_json_lines(pieces: AsyncIterator[list[ReadEntry]]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield b"".join(orjson.dumps(_as_dict(one)) + b"\n" for one in piece)


def _as_dict(one: ReadEntry) -> dict[str, Any]:
    named = one.details.get("about")
    return {
        "entry": one.position,
        "at": one.at.isoformat().replace("+00:00", "Z"),
        "who": one.who,
        "via": one.details.get("via"),
        "action": one.action,
        "about": named if isinstance(named, str) else None,
        "subject": str(one.subject),
        "reason": one.details.get("reason"),
        "details": {name: value for name, value in one.details.items() if name not in ("via", "reason", "about")},
        "id": str(one.id),
        "hash": one.hash.hex(),
    }
