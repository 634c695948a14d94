"""The SQL of accounts: people, their sessions, tokens of programs, what a form did, and settings."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from services.staff.people import Role
from shared.persistence.database import Record as Row
from shared.persistence.database import Tx
from shared.persistence.retention import RetentionRule
from shared.records import dataclass, field

REQUESTS_DAYS = 1
SESSIONS_DAYS = 7
REQUEST_RETENTION = RetentionRule(
    "what forms did",
    REQUESTS_DAYS,
    """DELETE FROM requests WHERE once IN (
           SELECT once FROM requests WHERE at < now() - make_interval(days => $1) ORDER BY at LIMIT $2)""",
)
SESSION_RETENTION = RetentionRule(
    "sessions of people",
    SESSIONS_DAYS,
    """DELETE FROM sessions WHERE hash IN (
           SELECT hash FROM sessions WHERE began_at < now() - make_interval(days => $1) ORDER BY began_at LIMIT $2)""",
)
SIGN_IN_RETENTION = RetentionRule(
    "sign-ins that never came back",
    1,
    """DELETE FROM sign_ins WHERE state IN (
           SELECT state FROM sign_ins WHERE begun_at < now() - make_interval(days => $1) ORDER BY begun_at LIMIT $2)""",
)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may sign in. `password` is as argon2 wrote it, or None for somebody whom single sign-on knows as `login`."""

    id: UUID
    name: str
    roles: frozenset[Role]
    password: str | None
    login: str | None
    active: bool
    preferences: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeptForm:
    """A form that was sent after its session had ended: the page where it stands, its act, and what was typed into its fields."""

    page: str
    act: str
    typed: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session, and whose it is."""

    hash: bytes
    person: Person
    began_at: datetime
    seen_at: datetime
    ended_at: datetime | None
    kept: KeptForm | None


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token of a program. Nobody can read the token itself from it."""

    id: UUID
    name: str
    roles: frozenset[Role]
    made_at: datetime
    ends_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None


# -- people ----------------------------------------------------------------------------------------------------------------------------

_PERSON = "p.id, p.name, p.roles, p.password, p.login, p.active, p.preferences"


def _person(row: Row) -> Person:
    return Person(
        row["id"],
        row["name"],
        frozenset(map(Role, row["roles"])),
        row["password"],
        row["login"],
        row["active"],
        row["preferences"],
    )


async def people(tx: Tx) -> list[Person]:
    """Everybody, by name."""
    return [_person(row) for row in await tx.fetch(f"SELECT {_PERSON} FROM people p ORDER BY lower(p.name)")]  # noqa: S608


_NAMED = f"SELECT {_PERSON} FROM people p WHERE lower(p.name) = lower($1)"  # noqa: S608 - constants
_NAMED_LOCKED = f"{_NAMED} FOR UPDATE"


async def person_named(tx: Tx, name: str, *, lock: bool = False) -> Person | None:
    """The person of this name, whatever its case. With `lock`, nobody else changes the row until the transaction ends."""
    rows = await tx.fetch(_NAMED_LOCKED, name) if lock else await tx.fetch(_NAMED, name)
    return _person(rows[0]) if rows else None


async def person_of_login(tx: Tx, login: str) -> Person | None:
    """The person whom the provider of single sign-on means."""
    rows = await tx.fetch(f"SELECT {_PERSON} FROM people p WHERE p.login = $1 FOR UPDATE", login)  # noqa: S608
    return _person(rows[0]) if rows else None


async def active_names(tx: Tx, role: Role) -> list[str]:
    """The names of the active people who have this role, in order."""
    rows = await tx.fetch("SELECT name FROM people WHERE active AND $1 = ANY (roles) ORDER BY lower(name)", role.value)
    return [row["name"] for row in rows]


async def let_in_by_clicks(tx: Tx, *names: str) -> list[str]:
    """Those of these names whose password somebody else gave them at the desk last. Whoever did could be that person, too.

    A password that was given at a terminal is by whoever runs Remit. The journal tells, so nobody makes it forgotten.
    """
    rows = await tx.fetch(
        """SELECT p.name FROM people p JOIN LATERAL (
               SELECT j.details->>'via' AS via FROM journal j
               WHERE j.subject = p.id AND j.action IN ('add_person', 'set_password') AND lower(j.who) <> lower(p.name)
               ORDER BY j.position DESC LIMIT 1) given ON true
           WHERE lower(p.name) IN (SELECT lower(name) FROM unnest($1::text[]) AS name) AND given.via <> 'terminal'
           ORDER BY p.name""",
        list(names),
    )
    return [row["name"] for row in rows]


async def insert_person(tx: Tx, person: Person, now: datetime) -> None:
    """Store somebody new. A name that is taken raises a unique violation."""
    await tx.execute(
        "INSERT INTO people (id, name, roles, password, login, active, made_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        person.id,
        person.name,
        sorted(person.roles),
        person.password,
        person.login,
        person.active,
        now,
    )


async def save_person(tx: Tx, person: Person) -> None:
    """Store what changed of a person whose row is locked."""
    await tx.execute(
        "UPDATE people SET roles = $2, password = $3, active = $4 WHERE id = $1",
        person.id,
        sorted(person.roles),
        person.password,
        person.active,
    )


async def save_preferences(tx: Tx, person_id: UUID, preferences: Mapping[str, Any]) -> None:
    """Store how somebody wants to see the desk."""
    await tx.execute("UPDATE people SET preferences = $2 WHERE id = $1", person_id, dict(preferences))


# -- sessions --------------------------------------------------------------------------------------------------------------------------


async def insert_session(tx: Tx, hash_: bytes, person_id: UUID, now: datetime, kept: KeptForm | None) -> None:
    """Begin a session, with what was typed before it."""
    await tx.execute(
        "INSERT INTO sessions (hash, person_id, began_at, seen_at, kept) VALUES ($1, $2, $3, $3, $4)",
        hash_,
        person_id,
        now,
        None if kept is None else {"page": kept.page, "act": kept.act, "typed": dict(kept.typed)},
    )


async def session_of(tx: Tx, hash_: bytes) -> SessionRecord | None:
    """The session of a cookie, also one that has ended."""
    rows = await tx.fetch(
        f"""SELECT s.hash, s.began_at, s.seen_at, s.ended_at, s.kept, {_PERSON}
            FROM sessions s JOIN people p ON p.id = s.person_id WHERE s.hash = $1""",  # noqa: S608 - a constant
        hash_,
    )
    if not rows:
        return None
    row = rows[0]
    kept = None if row["kept"] is None else KeptForm(**row["kept"])
    return SessionRecord(row["hash"], _person(row), row["began_at"], row["seen_at"], row["ended_at"], kept)


async def see_session(tx: Tx, hash_: bytes, now: datetime) -> None:
    """Note that a session is in use."""
    await tx.execute(
        "UPDATE sessions SET seen_at = greatest(seen_at, $2) WHERE hash = $1 AND ended_at IS NULL", hash_, now
    )


async def end_sessions(tx: Tx, now: datetime, *, hash_: bytes | None = None, person_id: UUID | None = None) -> None:
    """End one session, or all of a person."""
    await tx.execute(
        """UPDATE sessions SET ended_at = $1
           WHERE ended_at IS NULL AND (hash = $2 OR person_id = $3)""",
        now,
        hash_,
        person_id,
    )


async def keep_form(tx: Tx, hash_: bytes, kept: KeptForm | None) -> None:
    """Keep what was typed with a session; None: forget it."""
    await tx.execute(
        "UPDATE sessions SET kept = $2 WHERE hash = $1",
        hash_,
        None if kept is None else {"page": kept.page, "act": kept.act, "typed": dict(kept.typed)},
    )


async def open_sessions(tx: Tx, person_id: UUID, *, seen_after: datetime, began_after: datetime) -> list[SessionRecord]:
    """The sessions of a person that are in use, latest first."""
    rows = await tx.fetch(
        f"""SELECT s.hash, s.began_at, s.seen_at, s.ended_at, {_PERSON}
            FROM sessions s JOIN people p ON p.id = s.person_id
            WHERE s.person_id = $1 AND s.ended_at IS NULL AND s.seen_at > $2 AND s.began_at > $3
            ORDER BY s.began_at DESC LIMIT 100""",  # noqa: S608 - a constant
        person_id,
        seen_after,
        began_after,
    )
    return [
        SessionRecord(row["hash"], _person(row), row["began_at"], row["seen_at"], row["ended_at"], None) for row in rows
    ]


# -- sign-ins at the provider ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BegunSignIn:
    """A sign-in that was begun at the provider: what its answer has to fit, and the page to show then."""

    begun_at: datetime
    nonce: str
    verifier: str
    page: str


async def begin_sign_in(tx: Tx, state: bytes, begun: BegunSignIn) -> None:
    """Note a sign-in under the hash of its state."""
    await tx.execute(
        "INSERT INTO sign_ins (state, begun_at, nonce, verifier, page) VALUES ($1, $2, $3, $4, $5)",
        state,
        begun.begun_at,
        begun.nonce,
        begun.verifier,
        begun.page,
    )


async def take_sign_in(tx: Tx, state: bytes) -> BegunSignIn | None:
    """The sign-in of this state, once: a second answer with it finds nothing."""
    rows = await tx.fetch("DELETE FROM sign_ins WHERE state = $1 RETURNING begun_at, nonce, verifier, page", state)
    return BegunSignIn(**rows[0]) if rows else None


# -- tokens of programs ----------------------------------------------------------------------------------------------------------------

_PROGRAM = "id, name, roles, made_at, ends_at, used_at, revoked_at"


def _token(row: Row) -> TokenRecord:
    return TokenRecord(**{**row, "roles": frozenset(map(Role, row["roles"]))})


async def tokens(tx: Tx) -> list[TokenRecord]:
    """All tokens, latest first."""
    rows = await tx.fetch(f"SELECT {_PROGRAM} FROM tokens ORDER BY made_at DESC, id DESC")  # noqa: S608
    return [_token(row) for row in rows]


async def token_of(tx: Tx, hash_: bytes) -> TokenRecord | None:
    """The token with this hash."""
    rows = await tx.fetch(f"SELECT {_PROGRAM} FROM tokens WHERE hash = $1", hash_)  # noqa: S608
    return _token(rows[0]) if rows else None


async def token_named(tx: Tx, name: str) -> TokenRecord | None:
    """The token of this name that was not revoked, whatever the case of the name."""
    rows = await tx.fetch(
        f"SELECT {_PROGRAM} FROM tokens WHERE lower(name) = lower($1) AND revoked_at IS NULL FOR UPDATE",  # noqa: S608
        name,
    )
    return _token(rows[0]) if rows else None


async def insert_token(tx: Tx, token: TokenRecord, hash_: bytes) -> None:
    """Store a new token by its hash. A name that is in use raises a unique violation."""
    await tx.execute(
        "INSERT INTO tokens (id, name, hash, roles, made_at, ends_at) VALUES ($1, $2, $3, $4, $5, $6)",
        token.id,
        token.name,
        hash_,
        sorted(token.roles),
        token.made_at,
        token.ends_at,
    )


async def use_token(tx: Tx, token_id: UUID, now: datetime) -> None:
    """Note that a token was used."""
    await tx.execute("UPDATE tokens SET used_at = $2 WHERE id = $1", token_id, now)


async def revoke_token(tx: Tx, token_id: UUID, now: datetime) -> None:
    """Make a token worthless."""
    await tx.execute("UPDATE tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL", token_id, now)


# -- what forms did --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What came of a form: who sent it, to which act, and what that person was told."""

    once: UUID
    at: datetime
    who: str
    act: str
    result: Mapping[str, Any]


async def request_of(tx: Tx, once: UUID) -> RequestRecord | None:
    """What came of the form with this id; None if nothing has yet."""
    rows = await tx.fetch("SELECT once, at, who, act, result FROM requests WHERE once = $1", once)
    return RequestRecord(**rows[0]) if rows else None


async def keep_request(tx: Tx, request: RequestRecord) -> None:
    """Keep what came of a form. The first result stays."""
    await tx.execute(
        "INSERT INTO requests (once, at, who, act, result) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (once) DO NOTHING",
        request.once,
        request.at,
        request.who,
        request.act,
        dict(request.result),
    )


# -- settings --------------------------------------------------------------------------------------------------------------------------


async def setting(tx: Tx, name: str, default: Any = None) -> Any:
    """The value of a setting of the desk that people change while it runs."""
    rows = await tx.fetch("SELECT value FROM settings WHERE name = $1", name)
    return rows[0]["value"] if rows else default


async def save_setting(tx: Tx, name: str, value: Any, who: str, now: datetime) -> None:
    """Store the value of a setting."""
    await tx.execute(
        """INSERT INTO settings (name, value, at, who) VALUES ($1, $2, $3, $4)
           ON CONFLICT (name) DO UPDATE SET value = $2, at = $3, who = $4""",
        name,
        value,
        now,
        who,
    )
