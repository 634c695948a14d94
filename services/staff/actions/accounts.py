"""Accounts: who may sign in, with which roles, the tokens of programs, and what of this is noted in the journal.

The names here are those of the journal, so nobody is deleted: somebody who left is made inactive.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from services.staff import people_store, store
from services.staff.actions.results import ActionRefusal, ActionResult, journals_refusals
from services.staff.people import Actor, Role
from services.staff.people_store import BegunSignIn, KeptForm, Person, SessionRecord, TokenRecord
from services.staff.store import JournalEntry
from shared.card_data.scan import has_card_data
from shared.clock import Clock, system_clock
from shared.ids import derived_id, new_id
from shared.persistence.database import Connection, Database
from shared.records import dataclass, replace
from shared.tokens import DAYS_MAX, hash_of, new_token

NAME_LENGTH_MAX = 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")
"""ASCII: a letter of which Python and PostgreSQL make different small ones would make somebody else of one person (`let_in_by_clicks`)."""
SUBJECT_OF_SETTINGS = UUID("5f1d7a52-6d0e-4b0a-9a3e-0d5f2f7a9c11")
"""What entries about settings of the desk are about: all of them have this subject."""


def unfit_name(name: str) -> ActionResult | None:
    """The refusal of a name that cannot be one: it stands in the journal, in addresses and in sentences."""
    if len(name) > NAME_LENGTH_MAX or _NAME.fullmatch(name) is None:
        text = f"a name has letters, digits and . _ @ + - only, and at most {NAME_LENGTH_MAX} of them"
        return ActionResult(None, text, ActionRefusal.INVALID)
    if has_card_data(name):
        return ActionResult(None, "the name holds card data: choose another one", ActionRefusal.CARD_DATA)
    return None


T = TypeVar("T")


async def _store(database: Database, write: Callable[[Connection], Awaitable[T]]) -> T:
    """Do what `write` does in one transaction."""
    async with database.transaction() as tx:
        return await write(tx)


async def _note(database: Database, entry: JournalEntry) -> None:
    await _store(database, lambda tx: store.append_entries(tx, [entry]))


async def _lock_names(tx: Connection) -> None:
    """Let nobody else give or take a name until the transaction ends: a person and a program must not have the same one."""
    await tx.execute("SELECT pg_advisory_xact_lock(hashtextextended('staff.people', 0))")


# -- people ----------------------------------------------------------------------------------------------------------------------------


@journals_refusals("add_person")
async def add_person(
    database: Database, name: str, *, roles: Collection[Role], password: str, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Add somebody who signs in with a password of this desk. `password` is as argon2 hashed it."""
    if (unfit := unfit_name(name)) is not None:
        return unfit
    now = clock()
    person = Person(_id_for(who, f"person:{name.lower()}"), name, frozenset(roles), password, None, active=True)
    entry = JournalEntry.of(who, now, "add_person", person.id, {"name": name, "roles": _names(roles)})

    async def write(tx: Connection) -> ActionResult:
        await _lock_names(tx)
        if await _is_taken(tx, name):
            return ActionResult(person.id, f"{name} is the name of another person or program", ActionRefusal.NAME_TAKEN)
        await people_store.insert_person(tx, person, now)
        await store.append_entries(tx, [entry])
        return ActionResult(person.id, f"{name} can sign in now", entry=entry.id)

    return await _store(database, write)


async def _is_taken(tx: Connection, name: str) -> bool:
    return await people_store.person_named(tx, name) is not None or await people_store.token_named(tx, name) is not None


@journals_refusals("set_roles")
async def set_roles(
    database: Database, name: str, *, roles: Collection[Role], who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Give somebody these roles and no others. They hold from the next click on."""

    def changed(person: Person) -> tuple[Person, str] | ActionResult:
        if person.login is not None:
            text = f"single sign-on says which roles {person.name} has: change them there"
            return ActionResult(person.id, text, ActionRefusal.NOT_LOCAL)
        return replace(person, roles=frozenset(roles)), f"{person.name} is {_in_words(roles)} now"

    return await _change_person(database, name, "set_roles", changed, who=who, clock=clock)


@journals_refusals("set_active")
async def set_active(
    database: Database, name: str, *, active: bool, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Let somebody in, or no more. Whoever may not come in any more is signed out at once."""

    def changed(person: Person) -> tuple[Person, str] | ActionResult:
        text = f"{person.name} can sign in again" if active else f"{person.name} is signed out and cannot sign in"
        return replace(person, active=active), text

    return await _change_person(database, name, "set_active", changed, who=who, clock=clock)


@journals_refusals("set_password")
async def set_password(
    database: Database, name: str, *, password: str, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Give somebody another password, as argon2 hashed it. All sessions of that person end."""

    def changed(person: Person) -> tuple[Person, str] | ActionResult:
        if person.login is not None:
            return ActionResult(person.id, f"{person.name} has no password here", ActionRefusal.NOT_LOCAL)
        text = f"{person.name} has another password, and is signed out everywhere"
        return replace(person, password=password), text

    return await _change_person(database, name, "set_password", changed, who=who, clock=clock)


_Change = Callable[[Person], tuple[Person, str] | ActionResult]


async def _change_person(
    database: Database, name: str, action: str, change: _Change, *, who: Actor, clock: Clock
) -> ActionResult:
    async def write(tx: Connection) -> ActionResult:
        await _lock_names(tx)
        person = await people_store.person_named(tx, name, lock=True)
        if person is None:
            return ActionResult(None, f"there is no account {name}", ActionRefusal.UNKNOWN)
        changed = change(person)
        if isinstance(changed, ActionResult):
            return changed
        after, text = changed
        if await _is_last_admin(tx, person, after):
            text = f"{person.name} is the only admin: make somebody else one first"
            return ActionResult(person.id, text, ActionRefusal.LAST_ADMIN)
        now = clock()
        await people_store.save_person(tx, after)
        if not after.active or after.password != person.password:
            await people_store.end_sessions(tx, now, person_id=person.id)
        entry = JournalEntry.of(who, now, action, person.id, {"name": person.name})
        await store.append_entries(tx, [entry.changing(_stands(person), _stands(after))])
        return ActionResult(person.id, text, entry=entry.id)

    return await _store(database, write)


async def _is_last_admin(tx: Connection, before: Person, after: Person) -> bool:
    """Whether nobody would be left who can give roles at the desk. A terminal still could."""
    if Role.ADMIN not in before.roles or not before.active or (after.active and Role.ADMIN in after.roles):
        return False
    return await people_store.active_names(tx, Role.ADMIN) == [before.name]


async def prefer(database: Database, person_id: UUID, preferences: Mapping[str, Any]) -> None:
    """Store how somebody wants to see the desk. It changes nothing for others, so the journal does not tell of it."""
    await _store(database, lambda tx: people_store.save_preferences(tx, person_id, preferences))


# -- signing in and out ----------------------------------------------------------------------------------------------------------------


async def begin_session(
    database: Database,
    person: Person,
    cookie: str,
    *,
    who: Actor,
    how: str,
    kept: KeptForm | None,
    before: SessionRecord | None,
    now: datetime,
) -> None:
    """Begin a session for somebody who proved to be this person, and note it. `how`: by what it was proved.

    The session `before`, of the same browser, ends.
    """
    entry = JournalEntry.of(who, now, "sign_in", person.id, {"how": how})

    async def write(tx: Connection) -> None:
        if before is not None:
            await people_store.end_sessions(tx, now, hash_=before.hash)
            await people_store.keep_form(tx, before.hash, None)
        await people_store.insert_session(tx, hash_of(cookie), person.id, now, kept)
        await store.append_entries(tx, [entry])

    await _store(database, write)


async def refuse_sign_in(database: Database, person: Person, code: str, *, who: Actor, now: datetime) -> None:
    """Note that somebody tried to sign in as this person."""
    await _note(database, JournalEntry.of(who, now, "refused", person.id, {"action": "sign_in", "code": code}))


async def note_refused_request(
    database: Database, subject: UUID, act: str, code: str, *, who: Actor, now: datetime
) -> None:
    """Note that somebody asked for what was refused before any action saw it. Nothing of what was written is noted.

    `subject` is what it is about, or else the id of the person or of the token.
    """
    await _note(database, JournalEntry.of(who, now, "refused", subject, {"action": act, "code": code}))


async def end_session(
    database: Database, person: Person, cookie_hash: bytes | None, *, who: Actor, now: datetime
) -> None:
    """End a session because its person said so, and note it. With None, all sessions of that person, in whatever browser."""
    details = {"everywhere": True} if cookie_hash is None else {}
    entry = JournalEntry.of(who, now, "sign_out", person.id, details)

    async def write(tx: Connection) -> None:
        of_person = person.id if cookie_hash is None else None
        await people_store.end_sessions(tx, now, hash_=cookie_hash, person_id=of_person)
        await store.append_entries(tx, [entry])

    await _store(database, write)


async def person_from_provider(
    database: Database, login: str, name: str, roles: Collection[Role], *, who: Actor, now: datetime
) -> Person | ActionResult:
    """The person whom the provider of single sign-on vouches for, with the roles that it says.

    Somebody new gets an account. Nobody gets one under a name that is another's: the journal and the rule of two people go by names.
    """
    if (unfit := unfit_name(name)) is not None:
        return unfit

    async def write(tx: Connection) -> Person | ActionResult:
        await _lock_names(tx)
        known = await people_store.person_of_login(tx, login)
        if known is None:
            if await _is_taken(tx, name):
                text = f"{name} is the account of somebody else here: an admin has to tell you apart"
                return ActionResult(None, text, ActionRefusal.NAME_TAKEN)
            known = Person(new_id(), name, frozenset(roles), None, login, active=True)
            await people_store.insert_person(tx, known, now)
            details = {"name": name, "roles": _names(roles), "how": "single sign-on"}
            await store.append_entries(tx, [JournalEntry.of(who, now, "add_person", known.id, details)])
            return known
        if known.roles == frozenset(roles):
            return known
        entry = JournalEntry.of(who, now, "set_roles", known.id, {"name": known.name, "how": "single sign-on"})
        before, known = known, replace(known, roles=frozenset(roles))
        await people_store.save_person(tx, known)
        await store.append_entries(tx, [entry.changing(_stands(before), _stands(known))])
        return known

    return await _store(database, write)


async def begin_sign_in(database: Database, state: bytes, begun: BegunSignIn) -> None:
    """Note that somebody went to the provider, under the hash of what only that browser knows."""
    await _store(database, lambda tx: people_store.begin_sign_in(tx, state, begun))


async def take_sign_in(database: Database, state: bytes) -> BegunSignIn | None:
    """What was noted when that browser went, once."""
    return await _store(database, lambda tx: people_store.take_sign_in(tx, state))


# -- tokens of programs ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A token that was made: `secret` is shown once and kept nowhere."""

    result: ActionResult
    secret: str | None = None


async def make_token(
    database: Database, name: str, *, roles: Collection[Role], days: int, who: Actor, clock: Clock = system_clock
) -> MadeToken:
    """Make a token for a program of this name. A program may have the roles of people, and is neither of two people who agree."""
    secret = new_token()
    result = await _make_token(database, name, secret, roles=roles, days=days, who=who, clock=clock)
    return MadeToken(result, secret if result.ok else None)


@journals_refusals("add_token")
async def _make_token(
    database: Database, name: str, secret: str, *, roles: Collection[Role], days: int, who: Actor, clock: Clock
) -> ActionResult:
    if (unfit := unfit_name(name)) is not None:
        return unfit
    if not 1 <= days <= DAYS_MAX:
        return ActionResult(None, f"a token holds for 1 to {DAYS_MAX} days", ActionRefusal.INVALID)
    now = clock()
    token = TokenRecord(
        _id_for(who, f"token:{name.lower()}"), name, frozenset(roles), now, now + timedelta(days=days), None, None
    )
    details = {"name": name, "roles": _names(roles), "ends_at": token.ends_at.isoformat()}
    entry = JournalEntry.of(who, now, "add_token", token.id, details)

    async def write(tx: Connection) -> ActionResult:
        await _lock_names(tx)
        if await _is_taken(tx, name):
            return ActionResult(token.id, f"{name} is the name of another program or person", ActionRefusal.NAME_TAKEN)
        await people_store.insert_token(tx, token, hash_of(secret))
        await store.append_entries(tx, [entry])
        return ActionResult(token.id, f"{name} has a token until {token.ends_at:%Y-%m-%d}", entry=entry.id)

    return await _store(database, write)


@journals_refusals("revoke_token")
async def revoke_token(database: Database, name: str, *, who: Actor, clock: Clock = system_clock) -> ActionResult:
    """Make the token of this program worthless, at once."""

    async def write(tx: Connection) -> ActionResult:
        token = await people_store.token_named(tx, name)
        if token is None:
            return ActionResult(None, f"there is no token {name}", ActionRefusal.UNKNOWN)
        now = clock()
        await people_store.revoke_token(tx, token.id, now)
        entry = JournalEntry.of(who, now, "revoke_token", token.id, {"name": token.name})
        await store.append_entries(tx, [entry])
        return ActionResult(token.id, f"the token of {token.name} is worth nothing now", entry=entry.id)

    return await _store(database, write)


# -- settings of the desk --------------------------------------------------------------------------------------------------------------


async def change_setting(
    database: Database, name: str, value: Any, *, who: Actor, clock: Clock = system_clock
) -> ActionResult:
    """Change a setting that holds for everybody, such as whether messages may be edited."""
    now = clock()

    async def write(tx: Connection) -> ActionResult:
        before = await people_store.setting(tx, name, None)
        await people_store.save_setting(tx, name, value, who.name, now)
        entry = JournalEntry.of(who, now, "change_setting", SUBJECT_OF_SETTINGS, {"setting": name})
        await store.append_entries(tx, [entry.changing({"value": before}, {"value": value})])
        return ActionResult(SUBJECT_OF_SETTINGS, f"{name.replace('_', ' ')} is {value} now", entry=entry.id)

    return await _store(database, write)


def _stands(person: Person) -> Mapping[str, object]:
    """What somebody may do, as the journal tells it before and after a change."""
    return {"roles": _names(person.roles), "active": person.active}


def _id_for(who: Actor, what: str) -> UUID:
    """The id of what an act makes: the same if the act is sent twice."""
    return new_id() if who.request is None else derived_id(who.request, what)


def _names(roles: Collection[Role]) -> list[str]:
    return [role.value for role in sorted(roles)]


def _in_words(roles: Collection[Role]) -> str:
    return ", ".join(_names(roles)) or "without any role"
