"""People and programs: who may sign in, with which roles. For admins."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from services.staff import people_store
from services.staff.actions import accounts
from services.staff.actions.results import ActionRefusal, ActionResult
from services.staff.desk.acted import sentence
from services.staff.desk.passwords import PasswordChecker, unfit_password
from services.staff.desk.routing import Act, Desk, Done, Mistaken, Refused, Room
from services.staff.people import Actor, Role
from shared.tokens import DAYS_MAX

room = Room(__name__)
passwords = PasswordChecker()

EDIT_AND_REPLAY = "edit_and_replay"
"""The setting by which admins let replayers edit messages."""
_STATUS = {ActionRefusal.UNKNOWN: 404, ActionRefusal.INVALID: 422, ActionRefusal.CARD_DATA: 422}


class PersonLine(BaseModel):
    """Somebody who may sign in, or might once."""

    name: str
    roles: list[Role]
    active: bool
    by: Literal["password", "single sign-on"]


class TokenLine(BaseModel):
    """The token of a program."""

    name: str
    roles: list[Role]
    made_at: datetime
    ends_at: datetime
    used_at: datetime | None
    stands: Literal["holds", "ended", "revoked"]


class PeopleView(BaseModel):
    """Everybody, the tokens of programs, and what admins allow."""

    people: list[PersonLine]
    tokens: list[TokenLine]
    edit_and_replay: bool
    roles: list[Role] = list(Role)


@room.page("/people", "people.html", needs=Role.ADMIN)
async def people(desk: Desk) -> PeopleView:
    """Who may sign in, and which programs have a token."""
    now = desk.clock()
    async with desk.read() as connection:
        found = await people_store.people(connection)
        tokens = await people_store.tokens(connection)
        may_edit = await people_store.setting(connection, EDIT_AND_REPLAY, default=False)
    return PeopleView(
        people=[
            PersonLine(
                name=one.name,
                roles=sorted(one.roles),
                active=one.active,
                by="single sign-on" if one.login is not None else "password",
            )
            for one in found
        ],
        tokens=[
            TokenLine(
                name=one.name,
                roles=sorted(one.roles),
                made_at=one.made_at,
                ends_at=one.ends_at,
                used_at=one.used_at,
                stands="revoked" if one.revoked_at is not None else "ended" if one.ends_at <= now else "holds",
            )
            for one in tokens
        ],
        edit_and_replay=bool(may_edit),
    )


class AddPersonForm(Act):
    """Somebody new."""

    name: str = Field(max_length=200, title="Name", json_schema_extra={"missing": "Name: fill it in."})
    password: str = Field(max_length=1000, title="Password", json_schema_extra={"missing": "Password: fill it in."})
    roles: tuple[Role, ...] = ()


class RolesForm(Act):
    """The roles of somebody."""

    roles: tuple[Role, ...] = ()


class ActiveForm(Act):
    """Whether somebody may sign in."""

    active: bool


class PasswordForm(Act):
    """Another password for somebody."""

    password: str = Field(max_length=1000, title="Password", json_schema_extra={"missing": "Password: fill it in."})


class AddTokenForm(Act):
    """A token for a program."""

    name: str = Field(max_length=200, title="Name", json_schema_extra={"missing": "Name: fill it in."})
    roles: tuple[Role, ...] = ()
    days: int = Field(90, ge=1, le=DAYS_MAX, title="Days")


class EditForm(Act):
    """Whether replayers may edit messages."""

    allowed: bool


@room.act("/people", needs=Role.ADMIN)
async def add_person(form: AddPersonForm, desk: Desk, actor: Actor) -> Done:
    """Let somebody sign in with a password of this desk."""
    hashed = await _hashed(form.password)
    result = await accounts.add_person(
        desk.database, form.name, roles=form.roles, password=hashed, who=actor, clock=desk.clock
    )
    return _done(result, form.name, field="name")


@room.act("/people/{name}/roles", needs=Role.ADMIN)
async def set_roles(name: str, form: RolesForm, desk: Desk, actor: Actor) -> Done:
    """Give somebody these roles and no others."""
    result = await accounts.set_roles(desk.database, name, roles=form.roles, who=actor, clock=desk.clock)
    return _done(result, name)


@room.act("/people/{name}/active", needs=Role.ADMIN)
async def set_active(name: str, form: ActiveForm, desk: Desk, actor: Actor) -> Done:
    """Let somebody in, or no more."""
    return _done(await accounts.set_active(desk.database, name, active=form.active, who=actor, clock=desk.clock), name)


@room.act("/people/{name}/password", needs=Role.ADMIN)
async def set_password(name: str, form: PasswordForm, desk: Desk, actor: Actor) -> Done:
    """Give somebody another password."""
    hashed = await _hashed(form.password)
    return _done(await accounts.set_password(desk.database, name, password=hashed, who=actor, clock=desk.clock), name)


@room.act("/tokens", needs=Role.ADMIN, page="/people")
async def add_token(form: AddTokenForm, desk: Desk, actor: Actor) -> Done:
    """Make a token for a program. It is in the answer, and nowhere else."""
    made = await accounts.make_token(
        desk.database, form.name, roles=form.roles, days=form.days, who=actor, clock=desk.clock
    )
    return _done(made.result, form.name, field="name").model_copy(update={"secret": made.secret})


@room.act("/tokens/{name}/revoke", needs=Role.ADMIN, page="/people")
async def revoke_token(name: str, desk: Desk, actor: Actor) -> Done:
    """Make the token of a program worthless."""
    return _done(await accounts.revoke_token(desk.database, name, who=actor, clock=desk.clock), name)


@room.act("/people/edit-and-replay", needs=Role.ADMIN)
async def allow_edit(form: EditForm, desk: Desk, actor: Actor) -> Done:
    """Let replayers edit messages, or no more."""
    result = await accounts.change_setting(desk.database, EDIT_AND_REPLAY, form.allowed, who=actor, clock=desk.clock)
    text = "Replayers may edit messages now." if form.allowed else "Nobody may edit messages now."
    return Done(text=text, location="/people", entry=result.entry)


async def _hashed(password: str) -> str:
    if (why := unfit_password(password)) is not None:
        raise Mistaken({"password": why})
    return await passwords.hashed(password)


def _done(result: ActionResult, name: str, field: str | None = None) -> Done:
    text = sentence(result.text, name)
    if result.refusal is not None:
        status = _STATUS.get(result.refusal, 409) if isinstance(result.refusal, ActionRefusal) else 409
        raise Refused(result.refusal.value, text, status, field, is_noted=result.subject is not None)
    return Done(text=text, location="/people", entry=result.entry)
