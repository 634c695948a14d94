"""A browser for tests of the desk: it keeps cookies, reads forms as they are drawn, and sends them. It runs no script."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI

from services.staff import people_store
from services.staff.actions import accounts
from services.staff.desk.app import make_app
from services.staff.desk.desk import Desk
from services.staff.desk.routing import Room
from services.staff.desk.settings import DeskSettings
from services.staff.people import Actor, Role, Via
from shared.ids import new_id
from shared.persistence.database import Database

ORIGIN = "http://127.0.0.1:8600"
BLOCKS = frozenset(
    (
        "a",
        "br",
        "code",
        "dd",
        "div",
        "dt",
        "h1",
        "h2",
        "h3",
        "legend",
        "li",
        "option",
        "p",
        "section",
        "summary",
        "td",
        "th",
    )
)
"""Elements before which a person sees a gap."""
NOW = datetime(2026, 11, 28, 2, 14, 7, tzinfo=UTC)


class DeskClock:
    """A clock that a test moves."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        """Let time pass."""
        self.now += timedelta(**span)


@dataclass
class DrawnForm:
    """A form as a page has it: its fields with their values, and the names of its buttons."""

    action: str
    method: str
    fields: dict[str, list[str]] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class _PageReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.forms: list[DrawnForm] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self._form: DrawnForm | None = None
        self._area: str | None = None
        self._select: str | None = None
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.ids.append(found["id"])
        if tag in BLOCKS or found.get("class") == "sub":
            self.texts.append(" ")
        match tag:
            case "form":
                self._form = DrawnForm(found.get("action", ""), found.get("method", "get"))
                self.forms.append(self._form)
            case "a" if "href" in found:
                self.links.append(found["href"])
            case "input" if self._form is not None and "name" in found:
                if found.get("type") not in ("checkbox", "radio") or "checked" in found:
                    self._form.fields.setdefault(found["name"], []).append(found.get("value", ""))
            case "textarea" if self._form is not None:
                self._area = found["name"]
                self._form.fields[self._area] = [""]
            case "select":
                self._select = found["name"]
            case "option" if self._form is not None and self._select is not None:
                if "selected" in found or self._select not in self._form.fields:
                    self._form.fields[self._select] = [found.get("value", "")]
            case "button" if self._form is not None:
                self._form.buttons.append((found.get("name", ""), found.get("value", "")))
            case "style" | "script" | "svg":
                self._silent += 1
            case _:
                pass

    def handle_endtag(self, tag: str) -> None:
        match tag:
            case "form":
                self._form = None
            case "textarea":
                self._area = None
            case "select":
                self._select = None
            case "style" | "script" | "svg":
                self._silent -= 1
            case _:
                pass

    def handle_data(self, data: str) -> None:
        if self._area is not None and self._form is not None:
            text = self._form.fields[self._area][0] + data
            self._form.fields[self._area] = [text.removeprefix("\n") if text == data else text]
        elif not self._silent:
            self.texts.append(data)


@dataclass(frozen=True)
class SeenPage:
    """A page as it came."""

    status: int
    address: str
    html: str
    headers: httpx.Headers
    forms: Sequence[DrawnForm]
    links: Sequence[str]
    ids: Sequence[str]
    text: str
    """What can be read on it, with single blanks."""

    def form(self, action: str) -> DrawnForm:
        """The form that sends to this address, with whatever query. Raises AssertionError if there is none."""
        found = [form for form in self.forms if form.action == action]
        found += [form for form in self.forms if form.action.partition("?")[0] == action]
        assert found, f"no form sends to {action}, only to {[form.action for form in self.forms]}"
        return found[0]


def seen(response: httpx.Response) -> SeenPage:
    """Read an answer as a page. Whatever page it is, each id is there once, and what links within it leads somewhere."""
    reader = _PageReader()
    reader.feed(response.text)
    assert len(reader.ids) == len(set(reader.ids)), sorted(id_ for id_ in reader.ids if reader.ids.count(id_) > 1)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids), reader.links
    text = " ".join("".join(reader.texts).split())
    address = response.request.url.raw_path.decode()
    return SeenPage(
        response.status_code, address, response.text, response.headers, reader.forms, reader.links, reader.ids, text
    )


class DeskBrowser:
    """One browser with its cookies."""

    def __init__(self, app: FastAPI, origin: str = ORIGIN, network: str = "127.0.0.1") -> None:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True, client=(network, 123))
        self.client = httpx.AsyncClient(transport=transport, base_url=origin, follow_redirects=True, timeout=30)
        self._origin = origin

    async def open(self, address: str, **headers: str) -> SeenPage:
        """Go to an address."""
        return seen(await self.client.get(address, headers={"sec-fetch-site": "same-origin", **headers}))

    async def post(self, address: str, fields: Mapping[str, object], **headers: str) -> SeenPage:
        """Send fields to an address, as a form of the desk does."""
        said = {"sec-fetch-site": "same-origin", "origin": self._origin, **headers}
        return seen(await self.client.post(address, data=dict(fields), headers=said))

    async def submit(self, page: SeenPage, action: str, **fields: object) -> SeenPage:
        """Send the form of a page with this action, with these fields filled in."""
        form = page.form(action)
        return await self.post(form.action, {**form.fields, **fields})

    async def sign_in(self, name: str, password: str) -> SeenPage:
        """Sign in with a local account."""
        page = await self.open("/sign-in")
        return await self.submit(page, "/sign-in", username=name, password=password)


@dataclass
class DeskUnderTest:
    """A desk over a real database, with a clock that the test moves."""

    desk: Desk
    clock: DeskClock
    app: FastAPI

    async def account(self, name: str, *roles: Role, password: str | None = None) -> UUID:
        """Make a local account. Without `password` nobody can sign in with one, which saves the time of hashing."""
        person = people_store.Person(new_id(), name, frozenset(roles), password or "none", None, active=True)
        async with self.desk.database.connection() as connection:
            await people_store.insert_person(connection, person, self.clock())
        return person.id

    async def browser(self, name: str | None = None, *roles: Role, network: str = "127.0.0.1") -> DeskBrowser:
        """A browser. With a name, one in which somebody of these roles is signed in: the account is made if there is none."""
        browser = DeskBrowser(self.app, self.desk.settings.url, network)
        if name is not None:
            await self._begin_session(browser, name, roles)
        return browser

    async def _begin_session(self, browser: DeskBrowser, name: str, roles: Collection[Role]) -> None:
        async with self.desk.database.connection() as connection:
            person = await people_store.person_named(connection, name)
        if person is None:
            await self.account(name, *roles)
            async with self.desk.database.connection() as connection:
                person = await people_store.person_named(connection, name)
        assert person is not None
        cookie = f"cookie-{new_id()}"
        who = Actor(name, Via.DESK, person.roles)
        await accounts.begin_session(
            self.desk.database, person, cookie, who=who, how="test", kept=None, before=None, now=self.clock()
        )
        secure = "__Host-" if self.desk.settings.is_secure else ""
        browser.client.cookies.set(f"{secure}remit-session", cookie)

    async def token(self, name: str, *roles: Role) -> httpx.AsyncClient:
        """A program with a token of these roles."""
        made = await accounts.make_token(
            self.desk.database, name, roles=roles, days=1, who=Actor("test", Via.TERMINAL), clock=self.clock
        )
        transport = httpx.ASGITransport(app=self.app)
        headers = {"authorization": f"Bearer {made.secret}"}
        return httpx.AsyncClient(transport=transport, base_url=self.desk.settings.url, headers=headers, timeout=30)


def desk_settings(**settings: Any) -> DeskSettings:
    """Settings of a desk under test."""
    given = {"database_url": "postgresql://localhost/staff", "environment": "tests", **settings}
    return DeskSettings.model_validate(given)


@asynccontextmanager
async def open_desk(url: str, /, rooms: Sequence[Room] | None = None, **settings: Any) -> AsyncIterator[DeskUnderTest]:
    """A desk over the database at `url`, with all rooms or these."""
    database = await Database.open(url, name="test desk", connections_max=4)
    clock = DeskClock()
    desk = Desk(database, desk_settings(**settings), clock)
    try:
        yield DeskUnderTest(desk, clock, make_app(desk, rooms))
    finally:
        await database.close()
