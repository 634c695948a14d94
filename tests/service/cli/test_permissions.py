"""`remit permissions`: what it shows and prints, and what it does in a database that another role has migrated."""

import asyncio
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from deploy.local.stack import SERVICES, Stack, database_variable
from deploy.permissions.broker import broker_users
from deploy.permissions.databases import GRANTS
from shared.persistence.migrate import migrate
from tests.service.cli.remit import remit
from tests.support.databases import execute, rows
from tests.support.environment import ROOT, Environment

VOID = ("invoice", "void", "INV-1", "--reason", "a test")
SAGA_MIGRATIONS = ROOT / "services" / "saga" / "migrations"


async def test_the_page_shows_every_user_and_table_within_80_columns() -> None:
    shown = await remit("permissions", "--sender", "shop", COLUMNS="80")
    assert (shown.code, shown.err) == (0, "")
    assert max(map(len, shown.out.splitlines())) <= 80
    for name in (
        "invoice",
        "remit_setup",
        "remit_audit",
        "shop.*",
        *(table for one in GRANTS.values() for table in one),
    ):
        assert name in shown.out


async def test_json_says_the_same() -> None:
    shown = await remit("permissions", "--json")
    assert [user["user"] for user in shown.json["rabbitmq"]] == [user.name for user in broker_users()]
    assert shown.json["postgresql"]["saga"]["transitions"] == {
        "saga": "SELECT, INSERT, DELETE",
        "remit_audit": "SELECT",
        "remit_purge": "SELECT, UPDATE (from_status, to_status, fact, correlation_id)",
    }


async def test_the_printed_script_calls_rabbitmqctl_with_what_the_definitions_say(tmp_path: Path) -> None:
    script = await remit("permissions", "rabbitmq", "--sender", "shop", "--vhost", "pay 'ments")
    definitions = await remit("permissions", "rabbitmq", "--definitions", "--sender", "shop", "--vhost", "pay 'ments")
    program = tmp_path / "rabbitmqctl"
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = list_users ]; then printf "saga\\t[]\\nshopping\\t[]\\n"; exit; fi\n'
        f'for word; do printf "%s\\n" "$word"; done >> {tmp_path}/called; echo >> {tmp_path}/called\n'
    )
    program.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", script.out.replace("/dev/tty", "/dev/null")),
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdin=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    called = [tuple(call.splitlines()) for call in (tmp_path / "called").read_text().strip().split("\n\n")]
    added = {arguments[0] for command, *arguments in called if command == "add_user"}
    assert added == {user.name for user in broker_users(("shop",))} - {"saga"}
    given = [arguments for command, *arguments in called if command == "set_permissions"]
    assert given == [
        ["--vhost", "pay 'ments", one["user"], one["configure"], one["write"], one["read"]]
        for one in definitions.json["permissions"]
    ]
    assert "users" not in definitions.json
    assert "no user is made" in definitions.err
    assert "SENDERS=named" in script.err


async def test_passwords_stay_in_their_file(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    broker = await remit("permissions", "rabbitmq", "--definitions", "--passwords", str(path))
    sql = await remit("permissions", "postgresql", "saga", "--passwords", str(path))
    assert (broker.code, sql.code) == (0, 0), broker.err + sql.err
    kept = dict(line.split("=") for line in path.read_text().splitlines())
    assert {user["name"] for user in broker.json["users"]} | {"saga_owner", "remit_purge"} == kept.keys()
    assert not [name for name, password in kept.items() if password in broker.out + sql.out]
    path.chmod(0o644)
    refused = await remit("permissions", "postgresql", "saga", "--passwords", str(path))
    assert (refused.code, refused.out, refused.err) == (
        2,
        "",
        f"remit: {path} can be read or changed by others (mode 0644): `chmod 0600 {path}`.\n",
    )


async def test_a_name_that_cannot_be_a_sender_is_one_sentence() -> None:
    refused = await remit("permissions", "--sender", "payment")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "remit: 'payment' cannot name a sender or listener: it would own payment.events.\n"


@pytest.mark.parametrize(
    ("typed", "variable", "user", "says"),
    [
        (("audit",), "SAGA_DATABASE_URL", "staff", "permission denied for database"),
        (("dead-letters", "list"), "STAFF_DATABASE_URL", "saga", "permission denied for database"),
        (VOID, "RABBITMQ_URL", "remit_audit", "this user is no sender"),
        (VOID, "RABBITMQ_URL", "listener", "may not write to exchange invoice.commands.entry"),
    ],
)
async def test_a_command_with_the_wrong_user_says_so(
    typed: tuple[str, ...], variable: str, user: str, says: str, environment: Environment
) -> None:
    stack = environment.stack
    if stack.kind == "given":
        pytest.skip("the users of given servers are not ours")
    services = {database_variable(service): service for service in SERVICES}
    url = stack.database_url_of(services[variable], user) if variable in services else stack.rabbitmq_url_of(user)
    refused = await remit(*typed, environment=environment, **{variable: url})
    assert refused.code in (1, 2)
    assert says in refused.err
    assert "`remit permissions` shows" in refused.err
    assert "Traceback" not in refused.err


@pytest.fixture
def database(stack: Stack) -> Iterator[str]:
    """An empty database of the administrator."""
    if stack.kind == "given":
        pytest.skip("it makes roles, which we do not do on a given server")
    name = f"test_cli_{uuid.uuid4().hex[:8]}"
    yield stack.create_database(name)
    stack.drop_database(name)


async def test_a_database_that_another_role_migrated_changes_hands(database: str, stack: Stack) -> None:
    too_early = await remit("permissions", "apply", "saga", SAGA_DATABASE_URL=database)
    await migrate(database, SAGA_MIGRATIONS)
    first = await remit("permissions", "apply", "saga", SAGA_DATABASE_URL=database)
    address = database.rpartition("@")[2]
    owners = f"postgresql://saga_owner:{stack.passwords['saga_owner']}@{address}"
    again = await remit("permissions", "apply", "saga", "--json", SAGA_DATABASE_URL=owners)
    assert too_early.code == 1
    assert "run `remit migrate` first" in too_early.err
    assert (first.code, first.out) == (0, "saga: every role may do what it should, and nothing else.\n"), first.err
    assert (again.code, list(again.json)) == (0, ["saga"]), again.err
    assert await rows(f"postgresql://saga:{stack.passwords['saga']}@{address}", "SELECT count(*) FROM sagas")
    await migrate(owners, SAGA_MIGRATIONS, post=True)
    await execute(
        owners, "DROP TABLE deadlines"
    )  # as a post step would, after which the table of permissions still names it
    dropped = await remit("permissions", "apply", "saga", SAGA_DATABASE_URL=owners)
    await execute(owners, "UPDATE alembic_version SET version_num = '0000'")
    too_old = await remit("permissions", "apply", "saga", SAGA_DATABASE_URL=owners)
    assert dropped.code == 0, dropped.err
    assert too_old.code == 1
    assert re.search("this build needs revision [0-9]+: run `remit migrate` first", too_old.err)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(f"postgresql://staff:{stack.passwords['staff']}@{address}", "SELECT 1")


async def test_a_role_that_may_do_too_much_is_refused(database: str, stack: Stack) -> None:
    await migrate(database, SAGA_MIGRATIONS)
    await execute(database, "ALTER ROLE remit_purge CREATEDB")
    try:
        refused = await remit("permissions", "apply", "saga", SAGA_DATABASE_URL=database)
    finally:
        await execute(database, "ALTER ROLE remit_purge NOCREATEDB")
    assert refused.code == 1
    assert "role remit_purge exists and may do more than it should" in refused.err
