"""Accounts: who may sign in, tokens of programs, and that the journal tells of each change."""

import asyncio
from datetime import timedelta

from services.staff import people_store
from services.staff.actions import accounts
from services.staff.actions.results import ActionRefusal, ActionResult
from services.staff.people import Role, at_terminal
from services.staff.people_store import KeptForm, Person, SessionRecord
from shared.clock import system_clock
from shared.persistence.database import Database
from shared.tokens import hash_of

WHO = at_terminal("cleo.admin")


async def add(database: Database, name: str, *roles: Role) -> ActionRefusal | None:
    result = await accounts.add_person(database, name, roles=roles, password="hash", who=WHO)
    return result.refusal  # type: ignore[return-value]


async def person(database: Database, name: str) -> Person:
    async with database.connection() as connection:
        found = await people_store.person_named(connection, name)
    assert found is not None
    return found


async def noted(database: Database) -> list[tuple[str, str]]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT action, details->>'code' AS code FROM journal ORDER BY position")
    return [(row["action"], row["code"] or "") for row in rows]


async def test_a_name_is_given_once_whatever_its_case(database: Database) -> None:
    assert await add(database, "ann", Role.RESOLVER) is None
    assert await add(database, "ANN") is ActionRefusal.NAME_TAKEN
    token = await accounts.make_token(database, "Ann", roles=[Role.VIEWER], days=1, who=WHO)
    assert token.result.refusal is ActionRefusal.NAME_TAKEN
    assert token.secret is None
    assert (await accounts.make_token(database, "reports", roles=[Role.VIEWER], days=1, who=WHO)).result.ok
    assert await add(database, "reports") is ActionRefusal.NAME_TAKEN
    assert await noted(database) == [
        ("add_person", ""),
        ("refused", "name_taken"),
        ("refused", "name_taken"),
        ("add_token", ""),
        ("refused", "name_taken"),
    ]


async def test_two_at_once_give_a_name_once(database: Database) -> None:
    results = await asyncio.gather(*(add(database, "ann") for _ in range(4)))
    assert sorted(map(str, results)) == ["None", *["name_taken"] * 3]


async def test_names_that_cannot_be_shown_are_refused(database: Database) -> None:
    for name in (
        "",
        "a b",
        "<b>",
        "ann\u202e",
        "-x",
        "x" * 61,
        "4242424242424242",
        "ben\u0130",
        "\u212aate",
        "\u017fam",
    ):
        assert await add(database, name) in (ActionRefusal.INVALID, ActionRefusal.CARD_DATA), name


async def test_the_last_admin_stays_one(database: Database) -> None:
    await add(database, "cleo.admin", Role.ADMIN)
    refused = [
        await accounts.set_roles(database, "cleo.admin", roles=[Role.RESOLVER], who=WHO),
        await accounts.set_active(database, "cleo.admin", active=False, who=WHO),
    ]
    assert [result.refusal for result in refused] == [ActionRefusal.LAST_ADMIN] * 2
    await add(database, "dora", Role.ADMIN)
    assert (await accounts.set_active(database, "cleo.admin", active=False, who=WHO)).ok
    assert not (await person(database, "cleo.admin")).active


async def test_two_admins_cannot_remove_each_other_at_once(database: Database) -> None:
    await add(database, "cleo", Role.ADMIN)
    await add(database, "dora", Role.ADMIN)
    results = await asyncio.gather(
        *(accounts.set_roles(database, name, roles=[], who=WHO) for name in ("cleo", "dora"))
    )
    assert sorted(str(result.refusal) for result in results) == ["None", "last_admin"]


async def test_what_the_provider_says_is_not_changed_here(database: Database) -> None:
    now = system_clock()
    made = await accounts.person_from_provider(database, "idp|1", "eva", [Role.VIEWER], who=WHO, now=now)
    assert isinstance(made, Person)
    refused = [
        await accounts.set_roles(database, "eva", roles=[Role.RESOLVER], who=WHO),
        await accounts.set_password(database, "eva", password="hash", who=WHO),
    ]
    assert [result.refusal for result in refused] == [ActionRefusal.NOT_LOCAL] * 2
    again = await accounts.person_from_provider(database, "idp|1", "eva2", [Role.RESOLVER], who=WHO, now=now)
    assert isinstance(again, Person)
    assert (again.name, again.roles) == ("eva", frozenset({Role.RESOLVER}))


async def test_nobody_gets_the_name_of_somebody_else_from_the_provider(database: Database) -> None:
    await add(database, "ann", Role.RESOLVER)
    made = await accounts.person_from_provider(database, "idp|2", "Ann", [Role.RESOLVER], who=WHO, now=system_clock())
    assert isinstance(made, ActionResult)
    assert made.refusal is ActionRefusal.NAME_TAKEN


async def test_whoever_is_shut_out_or_gets_another_password_is_signed_out(database: Database) -> None:
    await add(database, "ann", Role.RESOLVER)
    ann, now = await person(database, "ann"), system_clock()

    async def sessions() -> int:
        async with database.connection() as connection:
            past = now - timedelta(hours=1)
            return len(await people_store.open_sessions(connection, ann.id, seen_after=past, began_after=past))

    async def sign_in(cookie: str) -> None:
        await accounts.begin_session(database, ann, cookie, who=WHO, how="password", kept=None, before=None, now=now)

    await sign_in("one")
    await sign_in("two")
    assert await sessions() == 2
    await accounts.set_password(database, "ann", password="other", who=WHO)
    assert await sessions() == 0
    await sign_in("three")
    await accounts.set_active(database, "ann", active=False, who=WHO)
    assert await sessions() == 0


async def test_a_token_is_kept_as_a_hash_and_can_be_revoked(database: Database) -> None:
    made = await accounts.make_token(database, "reports", roles=[Role.VIEWER], days=30, who=WHO)
    assert made.secret is not None
    async with database.connection() as connection:
        stored = str(await connection.fetch("SELECT * FROM tokens")) + str(
            await connection.fetch("SELECT * FROM journal")
        )
        assert made.secret not in stored
        found = await people_store.token_of(connection, hash_of(made.secret))
    assert found is not None
    assert found.name == "reports"
    assert (await accounts.revoke_token(database, "reports", who=WHO)).ok
    assert (await accounts.revoke_token(database, "reports", who=WHO)).refusal is ActionRefusal.UNKNOWN
    assert (await accounts.make_token(database, "reports", roles=[], days=30, who=WHO)).result.ok
    assert (await accounts.make_token(database, "other", roles=[], days=401, who=WHO)).result.refusal is not None


async def test_a_setting_is_changed_and_noted(database: Database) -> None:
    async with database.connection() as connection:
        assert await people_store.setting(connection, "edit", default=False) is False
    await accounts.change_setting(database, "edit", True, who=WHO)
    async with database.connection() as connection:
        assert await people_store.setting(connection, "edit", default=False) is True
    assert await noted(database) == [("change_setting", "")]


# -- sessions --------------------------------------------------------------------------------------------------------------------------

NOW = system_clock()
TYPED = KeptForm("/cases", "/cases/7/note", {"note": ["not for others"]})


async def begun(database: Database, who: Person, cookie: str, before: SessionRecord | None = None) -> SessionRecord:
    """A session that begins now, in the browser of the one before."""
    await accounts.begin_session(
        database, who, cookie, who=WHO, how="password", kept=None if before else TYPED, before=before, now=NOW
    )
    return await session(database, cookie)


async def session(database: Database, cookie: str) -> SessionRecord:
    async with database.connection() as connection:
        found = await people_store.session_of(connection, hash_of(cookie))
    assert found is not None
    return found


async def test_a_session_ends_when_another_begins_in_its_browser_and_shows_nothing_of_what_was_typed(
    database: Database,
) -> None:
    for name in ("ann", "ben"):
        await add(database, name, Role.RESOLVER)
    first = await begun(database, await person(database, "ann"), "one")
    assert (first.ended_at, first.kept) == (None, TYPED)
    second = await begun(database, await person(database, "ben"), "other", first)
    assert (second.ended_at, second.kept) == (None, None)
    ended = await session(database, "one")
    assert (ended.ended_at, ended.kept) == (NOW, None)


async def test_whoever_signs_out_everywhere_signs_nobody_else_out(database: Database) -> None:
    for name in ("ann", "ben"):
        await add(database, name, Role.RESOLVER)
        await begun(database, await person(database, name), name)
    await accounts.end_session(database, await person(database, "ann"), None, who=WHO, now=NOW)
    assert [(await session(database, name)).ended_at for name in ("ann", "ben")] == [NOW, None]


async def test_a_session_is_seen_later_and_never_earlier_and_not_after_its_end(database: Database) -> None:
    await add(database, "ann", Role.RESOLVER)
    one, later = await begun(database, await person(database, "ann"), "one"), NOW + timedelta(minutes=5)
    seen = []
    for at, ended in ((later, False), (NOW, False), (later + timedelta(minutes=5), True)):
        async with database.connection() as connection:
            if ended:
                await people_store.end_sessions(connection, later, hash_=one.hash)
            await people_store.see_session(connection, one.hash, at)
        seen.append((await session(database, "one")).seen_at)
    assert seen == [later] * 3
