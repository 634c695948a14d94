"""`remit permissions`: what each user and role may do, in words, for RabbitMQ and for PostgreSQL; and the databases' part done."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.operate import Service
from deploy.cli.output import MISUSED, REFUSED, CliError, Json, console, fail, say, write_json, write_line

if TYPE_CHECKING:
    from rich.table import Table

    from deploy.permissions.broker import BrokerUser
    from deploy.permissions.databases import Service as DatabaseService

Senders = Annotated[
    list[str] | None,
    typer.Option("--sender", metavar="NAME", help="A system that sends commands. Repeat for more.", show_default=False),
]
Listeners = Annotated[
    list[str] | None,
    typer.Option(
        "--listener", metavar="NAME", help="A system that listens to events. Repeat for more.", show_default=False
    ),
]
Upgrading = Annotated[
    bool,
    typer.Option(
        "--upgrading",
        help="Also what instances and senders of the build before need. Run it again without this once none of them is left.",
    ),
]
Passwords = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Passwords, one name=password a line, readable for you alone. Missing ones are drawn and added. What is printed has hashes.",
        show_default=False,
    ),
]

app = typer.Typer()


@app.callback(invoke_without_command=True)
def permissions(
    context: typer.Context,
    *,
    sender: Senders = None,
    listener: Listeners = None,
    upgrading: Upgrading = False,
    json: Json = False,
) -> None:
    """Show what each RabbitMQ user and each PostgreSQL role may do, and nothing else.

    `rabbitmq` and `postgresql` print it for these servers. `apply` does it in the databases.
    """
    if context.invoked_subcommand is not None:
        return
    from deploy.permissions.databases import GRANTS  # noqa: PLC0415 - beside the other imports of this page

    users = _users(sender, listener, upgrading=upgrading)
    if json:
        write_json(
            {
                "rabbitmq": [_as_json(user) for user in users],
                "postgresql": {service: _grants(service) for service in GRANTS},
            }
        )
        return
    console().print(_users_table(users))
    for service in GRANTS:
        console().print()
        console().print(_grants_table(service))


@app.command("rabbitmq")
def rabbitmq(
    *,
    sender: Senders = None,
    listener: Listeners = None,
    upgrading: Upgrading = False,
    vhost: Annotated[str, typer.Option(help="The virtual host.")] = "/",
    definitions: Annotated[
        bool, typer.Option("--definitions", help="Print JSON for `rabbitmqctl import_definitions` instead.")
    ] = False,
    passwords: Passwords = None,
) -> None:
    """Print a shell script of `rabbitmqctl` commands, which asks for passwords; or with --definitions what RabbitMQ imports."""
    from deploy.permissions import broker  # noqa: PLC0415 - loads the contracts

    users = _users(sender, listener, upgrading=upgrading)
    if not vhost.isprintable():
        raise typer.BadParameter("it has letters that cannot be shown", param_hint="--vhost")
    if sender:
        say(
            "Give the invoice service SENDERS=named once these senders set `user_id`: with SENDERS=trusted each may pay and void "
            "the invoices of all."
        )
    if not definitions:
        if passwords is not None:
            raise typer.BadParameter("it needs --definitions: a script would show passwords", param_hint="--passwords")
        sys.stdout.write(broker.commands(users, vhost))
        return
    known = None if passwords is None else _kept(passwords, [user.name for user in users])
    write_json(broker.definitions(users, vhost, known))
    if known is None:
        say("Only permissions: without --passwords no user is made, and no password is changed.")


@app.command("postgresql")
def postgresql(
    service: Annotated[Service, typer.Argument(help="Whose database.", show_default=False)],
    *,
    passwords: Passwords = None,
) -> None:
    """Print the SQL for one service's database: for psql, as a role that may create roles, after `remit migrate`."""
    sys.stdout.write(f"\\set ON_ERROR_STOP on\n{_script(service, passwords)}\n")


@app.command("apply")
def apply(
    services: Annotated[
        list[Service] | None, typer.Argument(help="Services. Default: all.", show_default=False)
    ] = None,
    *,
    passwords: Passwords = None,
    json: Json = False,
) -> None:
    """Run that SQL on the databases that *_DATABASE_URL name. Safe to run again, and beside running services.

    The URLs are those of the set-up, as for `remit migrate`: at first of a role that may create roles, later of the owner.
    """
    from shared.settings import EnvironmentVariables  # noqa: PLC0415 - beside the other imports of this command

    chosen = services or list(Service)
    environment = EnvironmentVariables()
    urls = {service: environment.database_url(service.value) for service in chosen}  # fails before any work
    for service, url in urls.items():
        asyncio.run(_apply(service, url, passwords))
        if not json:
            write_line(f"{service.value}: every role may do what it should, and nothing else.")
    if json:
        write_json({service.value: _grants(service.value) for service in chosen})


async def _apply(service: Service, url: str, passwords: Path | None) -> None:
    from asyncpg.exceptions import PostgresError, UndefinedTableError  # noqa: PLC0415 - the database's client

    from deploy.permissions.apply import execute  # noqa: PLC0415
    from shared.observability.redaction import describe_error  # noqa: PLC0415
    from shared.settings import database_variable  # noqa: PLC0415

    name = database_variable(service.value)
    try:
        await execute(url, _script(service, passwords))
    except UndefinedTableError as error:
        raise CliError(f"{name}: {error}: run `remit migrate` first.", REFUSED) from None
    except (PostgresError, OSError, TimeoutError) as error:
        raise CliError(f"{name}: cannot apply ({describe_error(error)}).", REFUSED) from None


def _script(service: Service, passwords: Path | None) -> str:
    from deploy.permissions.databases import grants_sql, roles, roles_sql  # noqa: PLC0415

    known = None if passwords is None else _kept(passwords, roles(service.value))
    try:
        return f"{roles_sql(service.value, known)}\n{grants_sql(service.value)}"
    except UnicodeEncodeError:
        fail(f"{passwords}: a password of a database has letters other than ASCII.", MISUSED)


def _kept(path: Path, names: Sequence[str]) -> Mapping[str, str]:
    from deploy.permissions.passwords import kept_passwords  # noqa: PLC0415

    try:
        return kept_passwords(path, names)
    except (OSError, ValueError) as error:
        fail(f"{error}.", MISUSED)


def _users(senders: list[str] | None, listeners: list[str] | None, *, upgrading: bool) -> "tuple[BrokerUser, ...]":
    from deploy.permissions.broker import NameRefusedError, broker_users  # noqa: PLC0415 - loads the contracts

    try:
        return broker_users(senders or (), listeners or (), upgrading=upgrading)
    except NameRefusedError as error:
        fail(str(error), MISUSED)


def _as_json(user: "BrokerUser") -> dict[str, Any]:
    return {"user": user.name, **user.patterns()}


def _grants(service: "DatabaseService") -> dict[str, dict[str, str]]:
    """What each role may do with each table of a service, as SQL writes it."""
    from deploy.permissions.databases import GRANTS, users  # noqa: PLC0415

    return {table: {role: grant.of(role) for role in users(service)} for table, grant in GRANTS[service].items()}


def _users_table(users: "Sequence[BrokerUser]") -> "Table":
    from deploy.cli.tables import plain, table  # noqa: PLC0415 - rich
    from deploy.permissions.broker import SETUP  # noqa: PLC0415

    page = table()
    page.title, page.title_justify = "RabbitMQ", "left"
    for column in ("user", "configure", "write", "read"):
        page.add_column(column, overflow="fold")
    for user in users:
        cells = []
        for names in (user.configure, user.write, user.read):
            shown = ["all of Remit's"] if user.name == SETUP else sorted(names)
            cells.append(plain("\n".join([*shown, *([f"{user.name}.*"] if user.owns_prefix else [])])))
        page.add_row(plain(user.name), *cells)
    return page


def _grants_table(service: "DatabaseService") -> "Table":
    from deploy.cli.tables import plain, table  # noqa: PLC0415 - rich
    from deploy.permissions.databases import owner  # noqa: PLC0415

    page = table()
    page.title, page.title_justify = f"PostgreSQL: {service}, owned by {owner(service)}", "left"
    for table_name, granted in _grants(service).items():
        if not page.columns:
            for column in ("table", *granted):
                page.add_column(column, overflow="fold")
        page.add_row(plain(table_name), *(plain(words) for words in granted.values()))
    return page
