"""The frame of every page: the menu with its counts, the environment, the zone, the account; and how pages are rendered."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from services.staff import people_store
from services.staff.desk import shown
from services.staff.desk.desk import Desk
from services.staff.desk.once import Done, result_of
from services.staff.desk.security import form_key
from services.staff.desk.sessions import Visitor, why_not
from services.staff.people import Role
from shared.clock import Clock
from shared.ids import read_uuid
from shared.persistence.database import AWAY_ERRORS
from shared.records import dataclass, field, replace

TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"
ZONE_COOKIE = "remit-zone"
"""In it the browser's own zone comes, from desk.js."""
COUNTS_HOLD_S = 1.0


@dataclass(frozen=True, slots=True)
class MenuItem:
    """A line of the menu. `key` is what a template sets as `here`. On a phone only those that are not `wide` stand at the bottom."""

    key: str
    address: str
    icon: str
    text: str
    short: str = ""
    wide: bool = False
    gap: bool = False
    needs: Role | None = None


MENU = (
    MenuItem("overview", "/", "home", "Overview"),
    MenuItem("cases", "/cases", "cases", "Cases"),
    MenuItem("dead-letters", "/dead-letters", "mail", "Failed messages", "Messages"),
    MenuItem("replays", "/replays", "replay", "Replays"),
    MenuItem("stuck", "/stuck", "stuck", "Stuck", wide=True),
    MenuItem("activity", "/activity", "log", "Activity log", wide=True, gap=True),
    MenuItem("people", "/people", "people", "People", wide=True, needs=Role.ADMIN),
    MenuItem("words", "/words", "quiet", "Words and help", wide=True),
)


@dataclass(frozen=True, slots=True)
class Count:
    """A number beside a line of the menu: `kind` is the class of its colour, `word` says what is counted."""

    number: int
    kind: str
    word: str


CountOf = Callable[[Desk], Awaitable[Count | None]]


class MenuCounts:
    """The counts of the menu, asked for at most once a second by this process, however many people look."""

    def __init__(self, sources: Mapping[str, CountOf], clock: Clock) -> None:
        self._sources, self._clock = sources, clock
        self._counted_at: datetime | None = None
        self._counts: Mapping[str, Count] | None = None
        self._counting = asyncio.Lock()

    async def now(self, desk: Desk) -> Mapping[str, Count]:
        """The counts by the keys of the menu. Raises one of `AWAY_ERRORS` while the database is away."""
        async with self._counting:  # who comes meanwhile waits for the same counts
            if not self._holds():
                await self._count(desk)
        if self._counts is None:
            raise ConnectionError("the database was away a moment ago")
        return self._counts

    def _holds(self) -> bool:
        return self._counted_at is not None and abs((self._clock() - self._counted_at).total_seconds()) < COUNTS_HOLD_S

    async def _count(self, desk: Desk) -> None:
        """A count that is cancelled was none. The second runs from its end: else all who waited for a slow one would count again."""
        try:
            counted = {key: await source(desk) for key, source in self._sources.items()}
        except AWAY_ERRORS:
            self._counts, self._counted_at = None, self._clock()
            raise
        self._counts = {key: one for key, one in counted.items() if one is not None}
        self._counted_at = self._clock()


@dataclass(frozen=True, slots=True)
class PageFrame:
    """What base.html shows around a page. Without an account nobody is signed in."""

    environment: str
    zone: tzinfo
    zone_is_chosen: bool
    as_of: datetime
    path: str
    account: str | None = None
    roles: frozenset[Role] = frozenset()
    person_id: UUID | None = None
    colours: str = "auto"
    keys: bool = True
    counts: Mapping[str, Count] = field(default_factory=dict)
    form_key: str = ""
    new_once: Callable[[], UUID] | None = None
    admins: Sequence[str] = ()
    done: Done | None = None
    visitor: Visitor | None = None

    @property
    def zone_text(self) -> str:
        return shown.zone_text(self.zone, self.as_of)

    @property
    def menu(self) -> list[MenuItem]:
        return [item for item in MENU if item.needs is None or item.needs in self.roles]

    @property
    def can_undo(self) -> bool:
        """Whether what was just done can still be taken back."""
        done = self.done
        return done is not None and done.undo is not None and (done.undo_until is None or self.as_of < done.undo_until)

    def for_all(self) -> "PageFrame":
        """The frame of what is drawn once for all who look in the same zone: nothing of one visitor, and no form."""
        return PageFrame(self.environment, self.zone, self.zone_is_chosen, self.as_of, self.path, counts=self.counts)

    def why_not(self, needed: str | None) -> str | None:
        """Why whoever looks may not do what needs this role; None if it is allowed."""
        if self.visitor is None:
            return "Sign in first."
        return why_not(self.visitor.actor, None if needed is None else Role(needed), list(self.admins))


class TypedForm:
    """What was typed into a form that could not be taken, and the mistakes at its fields. `act_form` says which form is being drawn."""

    def __init__(
        self,
        act: str | None = None,
        values: Mapping[str, Sequence[str]] | None = None,
        mistakes: Mapping[str, str] | None = None,
        refusal: str | None = None,
    ) -> None:
        self.act, self._values, self.mistakes, self.refusal = act, values or {}, mistakes or {}, refusal
        self._drawn: frozenset[str] = frozenset()
        self._places: dict[str, str] = {}

    def begin(self, *acts: str) -> str:
        """The form of this act is drawn from here on, or of these, if it has several buttons. It returns nothing to be seen."""
        self._drawn = frozenset(act.partition("?")[0] for act in acts)
        return ""

    def end(self) -> str:
        """The form is drawn."""
        self._drawn = frozenset()
        return ""

    def is_open(self, _summary: str) -> bool:
        """Whether a part that is folded is unfolded: it may hold the form that was sent."""
        return self.act is not None

    @property
    def is_here(self) -> bool:
        """Whether the form that is drawn is the one that was sent."""
        return self.act in self._drawn

    def value(self, name: str, otherwise: object) -> object:
        """What was typed into this field of the form that is drawn."""
        if not self.is_here:
            return otherwise
        return (self._values.get(name) or [""])[-1]

    def chosen(self, name: str, value: object, *, otherwise: bool) -> bool:
        """Whether this box or choice was ticked in the form that is drawn."""
        return str(value) in self._values.get(name, ()) if self.is_here else otherwise

    def mistake(self, name: str, id_: str | None = None) -> str | None:
        """What is wrong with this field of the form that is drawn. `id_` is that of the field on the page, if it is drawn now."""
        if not self.is_here:
            return None
        if id_ is not None:
            self._places[name] = id_
        return self.mistakes.get(name)

    def place_of(self, name: str) -> str | None:
        """The id of this field on the page; None if it is not there."""
        return self._places.get(name)


# -- rendering -------------------------------------------------------------------------------------------------------------------------


def _digest_of_static() -> str:
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


STATIC_VERSION = _digest_of_static()
"""In the address of the stylesheet and the script, so that browsers keep them for ever and still get new ones."""


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=shown.seen,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(shown.FILTERS)
    made.globals.update(static=f"/static/{STATIC_VERSION}", Role=Role)
    return made


ENVIRONMENT = _environment()


def zone_named(name: str) -> tzinfo | None:
    """The time zone of this name; None if there is none."""
    if not name or len(name) > 100 or name.startswith(("/", ".")):  # noqa: PLR2004 - longer than any
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def zone_of(request: Request, chosen: str) -> tuple[tzinfo, bool]:
    """The zone that somebody chose, else that of the browser, else UTC; and whether it was chosen."""
    if (zone := zone_named(chosen)) is not None:
        return zone, True
    return zone_named(unquote(request.cookies.get(ZONE_COOKIE, ""))) or UTC, False


async def frame_of(desk: Desk, request: Request, visitor: Visitor | None) -> PageFrame:
    """The frame of a page for whoever looks."""
    preferences = None if visitor is None else visitor.preferences
    zone, is_chosen = zone_of(request, "" if preferences is None else preferences.zone)
    frame = PageFrame(desk.settings.environment, zone, is_chosen, desk.clock(), request.url.path, new_once=desk.ids)
    if visitor is None or preferences is None:
        return frame
    return PageFrame(
        environment=desk.settings.environment,
        zone=zone,
        zone_is_chosen=is_chosen,
        as_of=frame.as_of,
        path=frame.path,
        account=visitor.actor.name,
        roles=visitor.actor.roles,
        person_id=visitor.id,
        colours=preferences.colours,
        keys=preferences.keys,
        counts=await _counts(desk, request),
        form_key=form_key(visitor.cookie or ""),
        new_once=desk.ids,
        admins=await _admins(desk, visitor),
        done=await _done(desk, request, visitor),
        visitor=visitor,
    )


async def _counts(desk: Desk, request: Request) -> Mapping[str, Count]:
    """The counts of the menu. While the database is away there are none: a page says so elsewhere."""
    counts: MenuCounts = request.app.state.menu_counts
    try:
        return await counts.now(desk)
    except AWAY_ERRORS:
        return {}


async def _admins(desk: Desk, visitor: Visitor) -> list[str]:
    """Whom to ask for a role, for whoever has not all of them."""
    if visitor.actor.roles >= set(Role):
        return []
    try:
        async with desk.read() as connection:
            return await people_store.active_names(connection, Role.ADMIN)
    except AWAY_ERRORS:
        return []


async def _done(desk: Desk, request: Request, visitor: Visitor) -> Done | None:
    """What the form did that led here."""
    once = read_uuid(request.query_params.get("done"))
    if once is None:
        return None
    try:
        return await result_of(desk, once, who=visitor.actor.name)
    except AWAY_ERRORS:
        return None


async def render(
    desk: Desk,
    request: Request,
    template: str,
    view: Any,
    *,
    visitor: Visitor | None,
    typed: TypedForm | None = None,
    done: Done | None = None,
    status: int = 200,
) -> HTMLResponse:
    """A page in its frame. `view` is what the page's handler found, and is `view` in the template. `done`: what was just done."""
    frame = await frame_of(desk, request, visitor)
    frame = frame if done is None else replace(frame, done=done)
    page = ENVIRONMENT.get_template(template).render(view=view, frame=frame, typed=typed or TypedForm())
    return HTMLResponse(page, status)


def render_part(template: str, view: Any, frame: PageFrame) -> str:
    """A part of a page, as a live region gets it."""
    return ENVIRONMENT.get_template(template).render(view=view, frame=frame, typed=TypedForm())
