"""`remit desk`: the accounts by which people sign in at the staff desk. The first admin is made here; the others, at the desk."""

from typing import Annotated

import typer

from deploy.cli import staff_pages
from deploy.cli.output import MISUSED, Json, Who, console, fail, say, write_json
from deploy.cli.staff_pages import person
from deploy.cli.tables import plain, table
from services.staff import people_store
from services.staff.actions import accounts
from services.staff.actions.results import ActionResult
from services.staff.desk.passwords import hashed, new_password, unfit_password
from services.staff.people import Role
from services.staff.people_store import Person
from shared.persistence.database import Database

app = typer.Typer(no_args_is_help=True)
of_accounts = typer.Typer(no_args_is_help=True, help="Accounts: list, add, another password.")
app.add_typer(of_accounts, name="accounts")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name under which somebody acts.", show_default=False)]
Roles = Annotated[
    list[Role] | None, typer.Option("--role", help="A role; may be given several times.", show_default=False)
]
FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the standard input, not draw one.")
]


@of_accounts.command("list")
def list_accounts(*, json: Json = False) -> None:
    """Everybody who may sign in, or might once."""
    found = staff_pages.run(_people)
    if json:
        write_json([_as_json(one) for one in found])
    elif not found:
        say("Nobody has an account yet: `remit desk accounts add NAME --role admin` makes the first.")
    else:
        listed = table(expand=True)
        for title in ("name", "roles", "signs in by"):
            listed.add_column(title, overflow="fold")
        for one in found:
            by = "password" if one.login is None else "single sign-on"
            listed.add_row(plain(one.name), ", ".join(sorted(one.roles)), by if one.active else "not any more")
        console().print(listed)


@of_accounts.command("add")
def add(
    name: Name, *, role: Roles = None, password_stdin: FromStdin = False, who: Who = "", json: Json = False
) -> None:
    """Let somebody sign in at the desk. Without --password-stdin a password is drawn, and printed once."""
    password, is_drawn = _password(from_stdin=password_stdin)
    result = staff_pages.run(
        lambda database: accounts.add_person(
            database, name, roles=role or [Role.VIEWER], password=hashed(password), who=person(who)
        )
    )
    _report(result, password if is_drawn else None, json=json)


@of_accounts.command("password")
def give_password(name: Name, *, password_stdin: FromStdin = False, who: Who = "", json: Json = False) -> None:
    """Give somebody another password, and sign them out everywhere. Without --password-stdin it is drawn, and printed once."""
    password, is_drawn = _password(from_stdin=password_stdin)
    result = staff_pages.run(
        lambda database: accounts.set_password(database, name, password=hashed(password), who=person(who))
    )
    _report(result, password if is_drawn else None, json=json)


async def _people(database: Database) -> list[Person]:
    async with database.connection() as connection:
        return await people_store.people(connection)


def _as_json(one: Person) -> dict[str, object]:
    by = "password" if one.login is None else "single sign-on"
    return {"name": one.name, "roles": sorted(one.roles), "active": one.active, "by": by}


def _password(*, from_stdin: bool) -> tuple[str, bool]:
    """The password, and whether it was drawn. Raises CliError for one that is too easy."""
    if not from_stdin:
        return new_password(), True
    password = typer.get_text_stream("stdin").readline().rstrip("\n")
    if (why := unfit_password(password)) is not None:
        fail(why, MISUSED)
    return password, False


def _report(result: ActionResult, drawn: str | None, *, json: bool) -> None:
    if not result.ok or drawn is None:
        staff_pages.report([result], json=json, done="done")
    elif json:
        write_json([{"subject": result.subject, "text": result.text, "ok": True, "password": drawn}])
    else:
        say(f"{result.text}, with the password", style="green")
        console().print(plain(drawn))
