"""Signing in with a local account, and signing out."""

from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from services.staff import people_store
from services.staff.actions import accounts
from services.staff.desk import security, sessions
from services.staff.desk.desk import Desk
from services.staff.desk.frame import render
from services.staff.desk.guesses import Guesses
from services.staff.desk.once import NUL
from services.staff.desk.passwords import PasswordChecker
from services.staff.desk.problems import Refused
from services.staff.desk.routing import FORM_KEY
from services.staff.people import Actor, Via
from services.staff.people_store import KeptForm, Person, SessionRecord

log = structlog.get_logger(__name__)

VISIT = "visit"
"""The cookie of whoever is not signed in yet. Its secret protects the form by which one signs in."""
WRONG = "Name or password is wrong."
_TEXT_MAX = 300


class SignIn:
    """The page where one signs in, with local accounts and the way to single sign-on."""

    def __init__(self, desk: Desk, guesses: Guesses) -> None:
        self._desk, self.guesses = desk, guesses
        self._passwords = PasswordChecker()

    def routes(self) -> list[Route]:
        """The routes of the page."""
        return [
            Route("/sign-in", self.page, methods=["GET"]),
            Route("/sign-in", self.enter, methods=["POST"]),
            Route("/sign-out", self.leave, methods=["POST"]),
        ]

    def view(self, request: Request, page: str, sentence: str | None = None, name: str = "") -> dict[str, Any]:
        """What the page shows. `sentence`: why one is asked to sign in."""
        settings = self._desk.settings
        visit = sessions.cookie_of(request, settings, VISIT)
        if visit is None:
            visit = request.scope["new_visit"] = sessions.new_secret()
        single = None
        if settings.provider:
            single = {"name": settings.provider_name, "address": f"/sign-in/with?{urlencode({'page': page})}"}
        return {
            "page": page,
            "sentence": sentence,
            "name": name,
            "form_key": security.form_key(visit),
            "with_accounts": settings.local_accounts == "on",
            "single_sign_on": single,
        }

    async def page(self, request: Request) -> Response:
        """The form. Whoever is signed in already goes where they wanted to."""
        page = security.own_page(request.query_params.get("page", "/"))
        try:
            await sessions.visitor_of(self._desk, request)
        except Refused:
            return await self.show(request, page)
        return RedirectResponse(page, HTTPStatus.SEE_OTHER)

    async def show(self, request: Request, page: str, refused: Refused | None = None, name: str = "") -> Response:
        """The form, with the reason why somebody was not let in."""
        view = self.view(request, page, None if refused is None else refused.sentence, name)
        status = HTTPStatus.OK if refused is None else refused.status
        answer = await render(self._desk, request, "sign-in.html", view, visitor=None, status=status)
        answer.headers.update({} if refused is None else refused.headers)
        return answer

    async def enter(self, request: Request) -> Response:
        """Sign somebody in, or say that it was wrong. It never says what was wrong."""
        settings = self._desk.settings
        security.check_origin(request, settings.url)
        form = await request.form(max_files=0, max_fields=20)
        texts = {name: value[:_TEXT_MAX].replace(NUL, "") for name, value in form.items() if isinstance(value, str)}
        page, name = security.own_page(texts.get("page", "/")), texts.get("username", "").strip()
        try:
            visit = sessions.cookie_of(request, settings, VISIT)
            security.check_form_key(None if visit is None else texts.get(FORM_KEY), visit or "")
            person = await self._person(request, name, texts.get("password", ""))
        except Refused as refused:
            return await self.show(request, page, refused, name)
        return await enter(self._desk, request, person, page, how="password")

    async def _person(self, request: Request, name: str, password: str) -> Person:
        """The person who knows the password. Raises `Refused`."""
        if self._desk.settings.local_accounts == "off":
            raise Refused("not_allowed", "Sign in with single sign-on.", HTTPStatus.FORBIDDEN)
        self.guesses.check(request, name)
        async with self._desk.read() as connection:
            person = await people_store.person_named(connection, name)
        is_right = await self._passwords.is_right(password, None if person is None else person.password)
        if person is not None and is_right and person.active:
            self.guesses.was_right(request, name)
            return person
        if person is not None:
            who, now = Actor(person.name, Via.DESK), self._desk.clock()
            code = "inactive" if is_right else "wrong_password"
            await accounts.refuse_sign_in(self._desk.database, person, code, who=who, now=now)
        log.warning("sign_in_refused", known=person is not None)
        raise Refused("wrong_password", WRONG, HTTPStatus.UNAUTHORIZED, "password")

    async def leave(self, request: Request) -> Response:
        """Sign out of this browser, or of all with `everywhere`."""
        settings = self._desk.settings
        security.check_origin(request, settings.url)
        form = await request.form(max_files=0, max_fields=20)
        session = await sessions.session_of(self._desk, request)
        cookie = sessions.cookie_of(request, settings)
        if session is not None and cookie is not None:
            security.check_form_key(form.get(FORM_KEY), cookie)
            who, now = Actor(session.person.name, Via.DESK, session.person.roles), self._desk.clock()
            of_one = None if form.get("everywhere") else session.hash
            await accounts.end_session(self._desk.database, session.person, of_one, who=who, now=now)
        response = RedirectResponse("/sign-in", HTTPStatus.SEE_OTHER)
        response.delete_cookie(sessions.cookie_name(settings), path="/", secure=settings.is_secure, httponly=True)
        response.headers["clear-site-data"] = '"storage"'
        return response


async def enter(desk: Desk, request: Request, person: Person, page: str, *, how: str) -> Response:
    """Begin a session for this person, in a new cookie, and go to the page; to that of a form that was kept, if there is one."""
    before = await sessions.session_of(desk, request)
    kept = _kept_for(before, person)
    cookie, now = sessions.new_secret(), desk.clock()
    who = Actor(person.name, Via.DESK, person.roles)
    await accounts.begin_session(desk.database, person, cookie, who=who, how=how, kept=kept, before=before, now=now)
    response = RedirectResponse(page if kept is None else kept.page, HTTPStatus.SEE_OTHER)
    sessions.set_cookie(response, desk.settings, cookie)
    return response


def _kept_for(before: SessionRecord | None, person: Person) -> KeptForm | None:
    """What was typed before, if it was by the same person."""
    return before.kept if before is not None and before.person.id == person.id else None
