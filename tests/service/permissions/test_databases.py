"""Every role tries every operation on every table of a real database, and every statement of a service runs under its role."""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from deploy.doctor.databases import _rights
from deploy.permissions.databases import (
    AUDIT,
    DOOR,
    FUNCTIONS,
    GRANTS,
    PURGE,
    SERVICES,
    Service,
    grants_sql,
    owner,
    roles,
    roles_sql,
    users,
)
from services.audit.stores import snapshot
from shared.persistence.database import Connection
from tests.support.environment import Environment
from tests.support.statements import Statement, statements_of

TIMEOUT_S = 10.0
_OBJECTS = """SELECT relname::text AS name, relkind::text AS kind FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('i', 'I', 'c') ORDER BY relname"""
_COLUMNS = """SELECT attname::text FROM pg_attribute
    WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""
_OTHER_PRIVILEGES = """SELECT acl.grantee::regrole::text || ': ' || acl.privilege_type || ' ON ' || c.relname
    FROM pg_class c, aclexplode(c.relacl) acl WHERE c.relnamespace = 'public'::regnamespace AND acl.grantee <> c.relowner
        AND acl.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')"""
_DDL = (
    "CREATE TABLE made (id int)",
    "CREATE TEMPORARY TABLE made (id int)",
    "CREATE SCHEMA made",
    "CREATE FUNCTION made() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE inbox ADD COLUMN made int",
    "CREATE INDEX made ON inbox (handled_at)",
    "DROP TABLE inbox",
    "CREATE ROLE made",
)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url, timeout=TIMEOUT_S)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, environment_urls: Environment) -> Service:
    if environment_urls.stack.kind == "given":
        pytest.skip("the roles of a given server are not ours")
    found: Service = request.param
    return found


async def _is_allowed(connection: Connection, statement: str) -> bool:
    """Whether the statement is refused for a lack of rights. Any other refusal comes after the rights were checked. Nothing is kept."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    except asyncpg.PostgresError:
        return True
    finally:
        await transaction.rollback()
    return True


def _allows(granted: str, privilege: str, column: str | None = None) -> bool:
    """Whether a grant such as `SELECT, UPDATE (version)` includes this privilege, for the table or one of its columns."""
    parts = re.findall(r"([A-Z]+)(?: \(([^)]*)\))?", granted)
    return any(name == privilege and (not of or column in of.split(", ")) for name, of in parts)


async def _attempts(connection: Connection, table: str, kind: str, granted: str) -> list[tuple[str, bool]]:
    """What a role tries on a table, and whether its grant allows it. PostgreSQL refuses before it looks at a row."""
    found = [(f"SELECT count(*) FROM {table}", "SELECT" in granted)]
    if kind == "v":
        return found  # nobody can write through this view, since it unnests
    for column in await connection.fetch(_COLUMNS, table):
        name = column[0]
        found.append((f"SELECT {name} FROM {table} WHERE false", _allows(granted, "SELECT", name)))
        found.append((f"UPDATE {table} SET {name} = DEFAULT WHERE false", _allows(granted, "UPDATE", name)))
    found.append((f"INSERT INTO {table} DEFAULT VALUES", _allows(granted, "INSERT")))
    found.append((f"DELETE FROM {table} WHERE false", _allows(granted, "DELETE")))
    found.append((f"TRUNCATE {table}", _allows(granted, "TRUNCATE")))
    return found


@pytest.mark.parametrize("role", ["service", AUDIT, PURGE, DOOR])
async def test_a_role_may_do_what_the_table_says_and_nothing_else(
    role: str, service: Service, environment_urls: Environment
) -> None:
    name = service if role == "service" else role
    if name not in roles(service):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
            await asyncpg.connect(environment_urls.stack.database_url_of(service, name), timeout=TIMEOUT_S)
        return
    differing = []
    async with connected(environment_urls.stack.database_url_of(service, name)) as connection:
        for row in await connection.fetch(_OBJECTS):
            granted = GRANTS[service][row["name"]].of(name)
            for statement, allowed in await _attempts(connection, row["name"], row["kind"], granted):
                if await _is_allowed(connection, statement) != allowed:
                    differing.append(f"{name}: {statement}, by the table {allowed}")
        differing += [f"{name}: {ddl}" for ddl in _DDL if await _is_allowed(connection, ddl)]
        differing += [
            f"{name} becomes {other}" for other in roles(service) if other != name and await _becomes(connection, other)
        ]
    assert not differing, "\n".join(differing)


async def _becomes(connection: Connection, role: str) -> bool:
    return await _is_allowed(connection, f"SET LOCAL ROLE {role}")


async def test_the_owner_may_migrate(service: Service, environment_urls: Environment) -> None:
    async with connected(environment_urls.stack.database_url_of(service, owner(service))) as connection:
        refused = [ddl for ddl in _DDL if not await _is_allowed(connection, ddl)]
    assert refused == ["CREATE ROLE made"]


async def test_every_table_and_view_stands_in_the_table_and_belongs_to_the_owner(
    service: Service, environment_urls: Environment
) -> None:
    async with connected(environment_urls.databases[service]) as connection:
        there = {row["name"] for row in await connection.fetch(_OBJECTS)}
        owners = await connection.fetch(
            """SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
            UNION SELECT pg_get_userbyid(proowner)::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            UNION SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = current_database()"""
        )
        others = [row[0] for row in await connection.fetch(_OTHER_PRIVILEGES)]
    assert there == GRANTS[service].keys(), "say in deploy/permissions/databases.py what each role may do with it"
    assert [row[0] for row in owners] == [owner(service)]
    assert others == []


async def test_the_public_has_no_right_in_the_database(service: Service, environment_urls: Environment) -> None:
    async with connected(environment_urls.databases[service]) as connection:
        found = await connection.fetch(
            """SELECT privilege_type FROM pg_database, aclexplode(datacl) WHERE datname = current_database() AND grantee = 0
            UNION ALL SELECT privilege_type FROM pg_namespace, aclexplode(nspacl) WHERE nspname = 'public' AND grantee = 0"""
        )
    assert found == []


async def test_functions_are_run_by_whom_the_table_says(service: Service, environment_urls: Environment) -> None:
    async with connected(environment_urls.databases[service]) as connection:
        found = await connection.fetch(
            """SELECT role, proname::text FROM pg_proc, unnest($1::text[]) AS role
            WHERE pronamespace = 'public'::regnamespace AND has_function_privilege(role, oid, 'EXECUTE')""",
            list(users(service)),
        )
    expected = {(role, name) for role in (service, PURGE) for name in FUNCTIONS.get(service, ())}
    assert {tuple(row) for row in found} == expected


async def test_no_role_of_ours_may_more_than_a_role_can(service: Service, environment_urls: Environment) -> None:
    async with connected(environment_urls.databases[service]) as connection:
        found = await connection.fetch(
            """SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1::text[])
            AND NOT (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)""",
            list(roles(service)),
        )
        members = await connection.fetch(
            """SELECT member::regrole::text, roleid::regrole::text FROM pg_auth_members
            WHERE member = ANY($1::text[]::regrole[])""",
            list(roles(service)),
        )
    assert {row[0] for row in found} == set(roles(service))
    assert {tuple(row) for row in members} == {(AUDIT, "pg_read_all_stats"), (PURGE, "pg_signal_backend")}


async def test_a_service_reaches_no_other_database(service: Service, environment_urls: Environment) -> None:
    stack = environment_urls.stack
    for other in SERVICES:
        if other != service:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
                await asyncpg.connect(stack.database_url_of(other, service), timeout=TIMEOUT_S)
    url = stack.database_url_of(service, service).rpartition("/")[0]
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
        await asyncpg.connect(f"{url}/postgres", timeout=TIMEOUT_S)


# -- enough, and not more ----------------------------------------------------------------------------------------------------------------


async def _refused(connection: Connection, role: str, statements: Sequence[Statement]) -> list[str]:
    """The statements that PostgreSQL refuses this role. They are explained, which checks the rights of all of it and runs nothing."""
    await connection.execute(f"SET LOCAL ROLE {role}")
    found = []
    for statement in statements:
        await connection.execute(f"PREPARE tried AS {statement.text}")
        parameters = max(map(int, re.findall(r"\$(\d+)", statement.text)), default=0)
        nulls = ", ".join(["NULL"] * parameters)
        try:
            async with connection.transaction():
                await connection.execute(f"EXPLAIN EXECUTE tried{f'({nulls})' if nulls else ''}")
        except asyncpg.InsufficientPrivilegeError as error:
            found.append(f"{statement.where}: {error}")
        await connection.execute("DEALLOCATE tried")
    await connection.execute("RESET ROLE")
    return found


async def test_every_statement_of_a_service_runs_under_its_role(
    service: Service, environment_urls: Environment
) -> None:
    async with connected(environment_urls.databases[service]) as connection, connection.transaction():
        refused = await _refused(connection, service, statements_of(service))
    assert not refused, "grant it in deploy/permissions/databases.py:\n" + "\n".join(refused)


def _statements_of_the_door() -> list[Statement]:
    """Its own, and those by which every web process starts, says that it lives, and knows who asks."""
    shared_ones = ("services/invoice/sender_tokens.py", "shared/persistence/schema.py", "shared/web/")
    every = [one for one in statements_of("invoice") if one.where.startswith(("services/invoice/door/", *shared_ones))]
    return [one for one in every if "sender_tokens" not in one.text or "hash = $1" in one.text]


async def test_every_statement_of_the_door_runs_under_its_role(environment_urls: Environment) -> None:
    if environment_urls.stack.kind == "given":
        pytest.skip("the roles of a given server are not ours")
    async with connected(environment_urls.databases["invoice"]) as connection, connection.transaction():
        refused = await _refused(connection, DOOR, _statements_of_the_door())
    assert not refused, "grant it in deploy/permissions/databases.py:\n" + "\n".join(refused)


def _privileges(service: Service, role: str) -> Iterator[tuple[str, str]]:
    """Each right of a role; one to some columns is as many rights."""
    for table, grant in GRANTS[service].items():
        for privilege, columns in re.findall(r"([A-Z]+)(?: \(([^)]*)\))?", grant.of(role)):
            yield from ((table, f"{privilege} ({column})") for column in columns.split(", ") if column)
            if not columns:
                yield table, privilege


async def _needless(connection: Connection, service: Service, role: str, every: Sequence[Statement]) -> list[str]:
    """The rights that no statement needs."""
    needless = []
    for table, privilege in _privileges(service, role):
        about = [one for one in every if re.search(rf"\b{table}\b", one.text)]
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"REVOKE {privilege} ON {table} FROM {role}")
        if not await _refused(connection, role, about):
            needless.append(f"{privilege} ON {table}")
        await transaction.rollback()
    return needless


async def test_every_right_of_a_service_is_needed_by_one_of_its_statements(
    service: Service, environment_urls: Environment
) -> None:
    async with connected(environment_urls.databases[service]) as connection:
        assert await _needless(connection, service, service, statements_of(service)) == []


async def test_every_right_of_the_door_is_needed_by_one_of_its_statements(environment_urls: Environment) -> None:
    if environment_urls.stack.kind == "given":
        pytest.skip("the roles of a given server are not ours")
    async with connected(environment_urls.databases["invoice"]) as connection:
        assert await _needless(connection, "invoice", DOOR, _statements_of_the_door()) == []


async def test_the_grants_can_be_repeated_beside_a_running_service(
    service: Service, environment_urls: Environment
) -> None:
    async with connected(environment_urls.databases[service]) as connection:
        before = await _all_rights(connection)
        await connection.execute(roles_sql(service))
        await connection.execute(grants_sql(service))
        assert await _all_rights(connection) == before


async def test_what_was_granted_beside_the_table_is_taken_away(service: Service, environment_urls: Environment) -> None:
    async with connected(environment_urls.databases[service]) as connection:
        before = await _all_rights(connection)
        await connection.execute(f"GRANT ALL ON inbox TO {AUDIT}; GRANT UPDATE (handled_at) ON inbox TO PUBLIC")
        assert await _all_rights(connection) != before
        await connection.execute(grants_sql(service))
        assert await _all_rights(connection) == before


async def _all_rights(connection: Connection) -> list[tuple[object, ...]]:
    rows = await connection.fetch(
        """SELECT relname::text, relacl::text[] AS rights FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT attrelid::regclass::text || '.' || attname, attacl::text[] FROM pg_attribute WHERE attacl IS NOT NULL
        UNION ALL SELECT datname::text, datacl::text[] FROM pg_database WHERE datname = current_database()"""
    )
    return sorted((row[0], tuple(sorted(row["rights"] or ()))) for row in rows)


@pytest.mark.parametrize(
    ("given", "taken", "says"),
    [
        ("ALTER ROLE saga SUPERUSER", "ALTER ROLE saga NOSUPERUSER", "saga SUPERUSER"),
        ("GRANT saga_owner TO saga", "REVOKE saga_owner FROM saga", "saga MEMBER of saga_owner"),
        ("ALTER TABLE inbox OWNER TO saga", None, "saga OWNER of inbox"),
        ("GRANT CREATE ON SCHEMA public TO saga", None, "saga CREATE schema public"),
        ("GRANT TEMPORARY ON DATABASE {} TO PUBLIC", None, "PUBLIC TEMPORARY database"),
        ("GRANT SELECT ON outbox TO saga WITH GRANT OPTION", None, "saga SELECT WITH GRANT OPTION outbox"),
        (
            "CREATE SEQUENCE made; GRANT USAGE ON SEQUENCE made TO saga",
            "DROP SEQUENCE made",
            "saga USAGE made",
        ),
        (
            "CREATE FUNCTION made() RETURNS int LANGUAGE sql AS 'SELECT 1'; GRANT EXECUTE ON FUNCTION made TO PUBLIC",
            "DROP FUNCTION made",
            "PUBLIC EXECUTE function made",
        ),
    ],
    ids=["attribute", "membership", "owner", "schema", "database", "grant option", "sequence", "function"],
)
async def test_the_doctor_sees_whatever_goes_beyond_need(
    given: str, taken: str | None, says: str, environment_urls: Environment
) -> None:
    if environment_urls.stack.kind == "given":
        pytest.skip("the roles of a given server are not ours")
    async with connected(environment_urls.databases["saga"]) as connection:
        before = await _doctor_says(environment_urls)
        await connection.execute(given.format(await connection.fetchval("SELECT quote_ident(current_database())")))
        try:
            found = await _doctor_says(environment_urls)
        finally:
            await connection.execute(taken or "SELECT 1")
            await connection.execute(grants_sql("saga"))
    assert before == ["Every role may do what it should, and nothing else."]
    assert any(says in one for one in found), found


async def _doctor_says(environment: Environment) -> list[str]:
    async with snapshot("saga", environment.stack.database_url_of("saga", AUDIT)) as database:
        return [one.says for one in await _rights("saga", "saga database", database)]
