"""Who is there: by the cookie of a session, or by the token of a program."""

import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from services.staff import people_store
from services.staff.desk.desk import Desk
from services.staff.desk.problems import Refused, too_often
from services.staff.desk.settings import DeskSettings
from services.staff.people import Actor, Role, Via
from services.staff.people_store import KeptForm, Person, SessionRecord
from shared.persistence.database import Connection
from shared.records import dataclass, field
from shared.tokens import hash_of
from shared.web.limiter import network_of_client
from shared.web.strangers import Strangers, TooManyWrongError

IDLE = timedelta(minutes=30)
"""After so long without a click somebody else may sit there."""
LASTS = timedelta(hours=12)
"""A shift. Then one signs in again, whatever one does."""
SEEN_EVERY = timedelta(seconds=15)
"""How exactly the last click is known: a write for each would cost more than it tells."""
TOKEN_USED_EVERY = timedelta(minutes=1)
_SECRET_BYTES = 32
_TEXT_MAX = 200
_Owner = TypeVar("_Owner")


class Preferences(BaseModel):
    """How somebody wants to see the desk."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    zone: str = Field("", max_length=_TEXT_MAX)
    """A name of the time zone database; empty: the zone of the browser."""
    colours: str = Field("auto", pattern="^(auto|light|dark)$")
    keys: bool = True
    undo_s: int = Field(10, ge=10, le=60)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is there, for one request. `id` is that of the person or the token; `cookie` is the secret of the session, if it is one."""

    actor: Actor
    id: UUID
    cookie: str | None = None
    session: SessionRecord | None = None
    preferences: Preferences = field(default_factory=Preferences)

    @property
    def person(self) -> Person | None:
        return None if self.session is None else self.session.person

    @property
    def kept(self) -> KeptForm | None:
        """What was typed before the session began."""
        return None if self.session is None else self.session.kept


def new_secret() -> str:
    """A secret that nobody can guess, for a cookie."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def cookie_name(settings: DeskSettings, what: str = "session") -> str:
    """The name of a cookie. With `__Host-` a browser keeps it for this host alone, and sends it by TLS only."""
    return f"__Host-remit-{what}" if settings.is_secure else f"remit-{what}"


def set_cookie(response: Response, settings: DeskSettings, value: str, what: str = "session") -> None:
    """Have the browser keep a secret until it is closed. No script reads it, and no other site has it sent with a form."""
    response.set_cookie(
        cookie_name(settings, what), value, path="/", secure=settings.is_secure, httponly=True, samesite="lax"
    )


def cookie_of(request: Request, settings: DeskSettings, what: str = "session") -> str | None:
    """The secret that the browser kept."""
    value = request.cookies.get(cookie_name(settings, what))
    return value if value and len(value) <= _TEXT_MAX else None


async def session_of(desk: Desk, request: Request) -> SessionRecord | None:
    """The session of the request's cookie, also one that has ended. Raises `Refused` if too many wrong ones came from there."""
    cookie = cookie_of(request, desk.settings)
    return None if cookie is None else await _owner_of(desk, request, cookie, people_store.session_of)


async def _owner_of(
    desk: Desk, request: Request, secret: str, find: Callable[[Connection, bytes], Awaitable[_Owner | None]]
) -> _Owner | None:
    digest = hash_of(secret)

    async def read() -> _Owner | None:
        async with desk.read() as connection:
            return await find(connection, digest)

    with _too_many_refused(request) as strangers:
        return await strangers.look_up(digest, network_of_client(request), read)


def _count_wrong(request: Request) -> None:
    """Count a secret that belongs to nobody. Raises `Refused` if it is one too many."""
    with _too_many_refused(request) as strangers:
        strangers.was_wrong(network_of_client(request))


@contextmanager
def _too_many_refused(request: Request) -> Iterator[Strangers]:
    try:
        yield request.app.state.strangers
    except TooManyWrongError as error:
        raise too_often(error.again_in_s) from None


def is_open(session: SessionRecord, desk: Desk) -> bool:
    """Whether somebody is signed in by it."""
    now = desk.clock()
    return (
        session.ended_at is None
        and session.person.active
        and now - session.seen_at < IDLE
        and now - session.began_at < LASTS
    )


def signed_out(session: SessionRecord | None, desk: Desk) -> Refused:
    """The refusal of somebody who is not signed in, with the reason if it is known."""
    if session is None:
        sentence = "Sign in first."
    elif session.ended_at is None and session.person.active and desk.clock() - session.began_at >= LASTS:
        sentence = "You were signed out after 12 hours. Sign in; what you typed is kept."
    elif session.ended_at is None and session.person.active:
        sentence = "You were signed out after 30 minutes. Sign in; what you typed is kept."
    else:
        sentence = "You were signed out. Sign in; what you typed is kept."
    return Refused("signed_out", sentence, HTTPStatus.UNAUTHORIZED)


async def visitor_of(desk: Desk, request: Request, *, by_click: bool = True) -> Visitor:
    """Who is there. `by_click`: somebody did something just now.

    Raises `Refused`: with the code `signed_out` if nobody is, `too_often` if too many wrong cookies or tokens came from there.
    """
    if (authorization := request.headers.get("authorization")) is not None:
        return await _program(desk, request, authorization)
    session = await session_of(desk, request)
    cookie = cookie_of(request, desk.settings)
    if session is None and cookie is not None:
        _count_wrong(request)
    if session is None or cookie is None or not is_open(session, desk):
        raise signed_out(session, desk)
    now = desk.clock()
    if by_click and now - session.seen_at >= SEEN_EVERY:
        async with desk.database.connection() as connection:
            await people_store.see_session(connection, session.hash, now)
    person = session.person
    via = Via.API if request.url.path.startswith("/api/") else Via.DESK
    actor = Actor(person.name, via, person.roles)
    return Visitor(actor, person.id, cookie, session, preferences_of(person.preferences))


def preferences_of(kept: Any) -> Preferences:
    """The preferences as they are kept. What an earlier build kept and this one does not know is passed over."""
    try:
        return Preferences.model_validate(kept)
    except ValidationError:
        return Preferences()


async def _program(desk: Desk, request: Request, authorization: str) -> Visitor:
    scheme, _, secret = authorization.partition(" ")
    token, now = None, desk.clock()
    if scheme.lower() == "bearer" and secret and len(secret) <= _TEXT_MAX:
        token = await _owner_of(desk, request, secret.strip(), people_store.token_of)
    if token is None or token.revoked_at is not None or token.ends_at <= now:
        _count_wrong(request)
        raise Refused("signed_out", "This token is not known, or no longer holds.", HTTPStatus.UNAUTHORIZED)
    if token.used_at is None or now - token.used_at >= TOKEN_USED_EVERY:
        async with desk.database.connection() as connection:
            await people_store.use_token(connection, token.id, now)
    return Visitor(Actor(token.name, Via.API, token.roles, is_program=True), token.id)


def why_not(actor: Actor, needed: Role | None, admins: list[str]) -> str | None:
    """Why somebody may not do what needs a role, as a sentence; None if it is allowed. Whoever signed in may see everything else."""
    if needed is None or needed in actor.roles or (needed is Role.VIEWER and actor.roles):
        return None
    role = ", ".join(role.value for role in sorted(actor.roles)) or "none yet"
    who = f" Admins: {', '.join(admins)}." if admins else ""
    return f"Your role is {role}: {_WHAT[needed]} takes {'an' if needed is Role.ADMIN else 'a'} {needed.value}.{who}"


_WHAT = {
    Role.VIEWER: "looking",
    Role.REPLAYER: "replaying",
    Role.RESOLVER: "deciding",
    Role.ADMIN: "this",
}
