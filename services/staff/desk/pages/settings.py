"""How somebody wants to see the desk: zone, colours, keys, time to undo; the password, and the sessions."""

from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import available_timezones

from pydantic import BaseModel, Field
from starlette.requests import Request

from services.staff import people_store
from services.staff.actions import accounts, second_thoughts
from services.staff.actions.proposing import limits_of
from services.staff.desk import sessions
from services.staff.desk.frame import zone_named
from services.staff.desk.guesses import Guesses
from services.staff.desk.pages.people import passwords
from services.staff.desk.passwords import unfit_password
from services.staff.desk.routing import Act, Desk, Done, Mistaken, Refused, Room, Visitor
from services.staff.desk.shown import age_text
from services.staff.people import Actor
from shared.persistence.database import Connection

room = Room(__name__)

UNDO_CHOICES_S = (10, 20, 30, 60)


class SessionLine(BaseModel):
    """A browser in which somebody is signed in."""

    began_at: datetime
    seen_at: datetime
    is_this: bool


class SettingsView(BaseModel):
    """The settings of whoever looks, and those of the desk, which hold for everybody."""

    zone: str
    zones: list[str]
    colours: Literal["auto", "light", "dark"]
    keys: bool
    undo_s: int
    has_password: bool
    sessions: list[SessionLine]
    rules: list[tuple[str, str]]

    @property
    def zone_options(self) -> list[tuple[str, str]]:
        """The zones to choose from, and that of the browser."""
        return [("", "That of my browser"), *((name, name.replace("_", " ")) for name in self.zones)]


@room.page("/settings", "settings.html", api=False)
async def settings(desk: Desk, visitor: Visitor) -> SettingsView:
    """The settings of whoever looks. A program has none."""
    person = _person(visitor)
    now = desk.clock()
    async with desk.read() as connection:
        open_ = await people_store.open_sessions(
            connection, person.id, seen_after=now - sessions.IDLE, began_after=now - sessions.LASTS
        )
        rules = await _rules(desk, connection)
    mine = visitor.session.hash if visitor.session is not None else b""
    wanted = visitor.preferences
    return SettingsView(
        zone=wanted.zone,
        zones=sorted(available_timezones() - {"localtime"}),
        colours=wanted.colours,
        keys=wanted.keys,
        undo_s=wanted.undo_s,
        has_password=person.password is not None,
        sessions=[SessionLine(began_at=one.began_at, seen_at=one.seen_at, is_this=one.hash == mine) for one in open_],
        rules=rules,
    )


async def _rules(desk: Desk, connection: Connection) -> list[tuple[str, str]]:
    """What whoever runs Remit has set, in words."""
    limits, set_ = await limits_of(connection), desk.settings
    above = [limits.in_words(currency) for currency in sorted(limits.above_minor)]
    may_edit = await second_thoughts.may_edit(connection)
    heard = {"on": "heard", "off": "not heard"}
    return [
        ("A second person", f"{', '.join(above)}; in any other currency always" if above else "always"),
        ("Too old to charge", f"{age_text(timedelta(seconds=set_.replay_charges_within_s))} after it was asked for"),
        (
            "A payment is stuck",
            f"{age_text(timedelta(seconds=set_.pending_after_s))} after it was asked for, without an outcome",
        ),
        ("Edit and replay", "on" if may_edit else "off"),
        ("Messages for stories", heard[set_.staff_journal]),
        ("What became of replays", heard[set_.staff_replays]),
        ("How instances and queues are", heard[set_.heartbeats]),
    ]


class PreferencesForm(Act):
    """How somebody wants to see the desk. An empty zone is that of the browser."""

    zone: str = Field("", max_length=100, title="Time zone")
    colours: Literal["auto", "light", "dark"] = Field("auto", title="Colours")
    keys: bool = Field(default=False, title="Keys")
    undo_s: int = Field(10, ge=10, le=60, title="Time to undo")


class OwnPasswordForm(Act):
    """Another password, by whoever knows the one before."""

    password_now: str = Field(
        max_length=1000, title="Password now", json_schema_extra={"missing": "Password now: fill it in."}
    )
    password: str = Field(
        max_length=1000, title="New password", json_schema_extra={"missing": "New password: fill it in."}
    )


@room.act("/settings", needs=None, api=False)
async def change(form: PreferencesForm, desk: Desk, visitor: Visitor) -> Done:
    """Store the settings of whoever sends them."""
    person = _person(visitor)
    if form.zone and zone_named(form.zone) is None:
        raise Mistaken({"zone": "Time zone: a name such as Europe/Berlin, or nothing for the zone of your browser."})
    await accounts.prefer(desk.database, person.id, form.model_dump(exclude={"once"}))
    return Done(text="Your settings are kept.", location="/settings")


@room.act("/settings/password", needs=None, api=False)
async def change_password(form: OwnPasswordForm, desk: Desk, visitor: Visitor, actor: Actor, request: Request) -> Done:
    """Give oneself another password. It ends all sessions, this one as well. Whoever finds a browser open guesses no faster."""
    person = _person(visitor)
    if person.password is None:
        raise Refused("not_local", "You have no password here: single sign-on says who you are.")
    guesses: Guesses = request.app.state.guesses
    guesses.check(request, person.name)
    if not await passwords.is_right(form.password_now, person.password):
        raise Mistaken({"password_now": "This is not your password now."}, "wrong_password")
    guesses.was_right(request, person.name)
    if (why := unfit_password(form.password)) is not None:
        raise Mistaken({"password": why})
    hashed = await passwords.hashed(form.password)
    result = await accounts.set_password(desk.database, person.name, password=hashed, who=actor, clock=desk.clock)
    return Done(text="You have a new password. Sign in with it.", location="/settings", entry=result.entry)


def _person(visitor: Visitor) -> people_store.Person:
    if visitor.person is None:
        raise Refused("not_allowed", "A program has no settings.", 403)
    return visitor.person
