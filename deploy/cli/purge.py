"""`remit purge`: takes card data that got in out of all databases."""

import asyncio
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.output import MISUSED, REFUSED, Json, Who, fail, say, write_json, write_line
from shared.observability.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.purge.run import FoundRow, Purged

DIGITS_MIN, DIGITS_MAX = 12, 19
SHOWN_MAX = 60
"""Characters of what is left of a member."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(purge)


def purge(
    *,
    scan: Annotated[bool, typer.Option("--scan", help="Everything that reads as card data.")] = False,
    number_from_stdin: Annotated[
        bool,
        typer.Option(
            "--number-from-stdin", help="One card number, read from a prompt or from stdin, however it is printed."
        ),
    ] = False,
    do: Annotated[bool, typer.Option("--do", help="Take it out. Without this it is only listed, masked.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the journal. Needed with --do.")] = "",
    who: Who = "",
    json: Json = False,
) -> None:
    """Find card data in the tables of all services, and take it out.

    Needs the four database URLs, each of a role that may change every table. It can run beside the services, and again after it died. Not
    looked at: queues, logs, files of the servers, backups. Exit code 1 if something was found and is still there.
    """
    if scan == number_from_stdin:
        fail("give either --scan or --number-from-stdin.", MISUSED)
    number = _number() if number_from_stdin else None
    if do:
        _refuse_unfit(who=who, reason=reason)
    purged = asyncio.run(_purge(number, do=do, who=who.strip(), reason=reason.strip()))
    if json:
        write_json(
            {
                "cleaned": [_as_json(row) for row in purged.cleaned],
                "left": [_as_json(row) for row in purged.left],
                "invoices_under_way": purged.under_way,
            }
        )
    else:
        _print(purged)
    if purged.left or purged.under_way:
        raise typer.Exit(REFUSED)


def _number() -> str:
    line = typer.prompt("Card number", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    digits = re.sub(r"[ \-\r\n]", "", line)
    if not (digits.isascii() and digits.isdecimal() and DIGITS_MIN <= len(digits) <= DIGITS_MAX):
        fail(f"a card number has {DIGITS_MIN} to {DIGITS_MAX} digits.", MISUSED)  # what was read is never shown
    return digits


def _refuse_unfit(**texts: str) -> None:
    """Fail if who acts or why is missing, or holds what this command is to take out."""
    from shared.card_data.scan import has_card_data  # noqa: PLC0415 - `--help` need not pay

    for name, text in texts.items():
        if not text.strip():
            fail(f"--{name} is needed: the journal says who purged and why.", MISUSED)
        if has_card_data(text):
            fail(f"--{name} holds card data: leave it out.", MISUSED)


async def _purge(number: str | None, *, do: bool, who: str, reason: str) -> "Purged":
    from contextlib import AsyncExitStack  # noqa: PLC0415 - as above, and the database's client

    from deploy.cli.operate import SERVICES_FOLDER  # noqa: PLC0415
    from services.purge.places import PLACES  # noqa: PLC0415
    from services.purge.run import Purge, Purged, look, tables_of  # noqa: PLC0415
    from shared.clock import system_clock  # noqa: PLC0415
    from shared.persistence import schema  # noqa: PLC0415
    from shared.persistence.database import AWAY_ERRORS, Database  # noqa: PLC0415
    from shared.settings import ConfigurationError, EnvironmentVariables, database_variable  # noqa: PLC0415

    environment = EnvironmentVariables()
    urls = {name: environment.database_url(name) for name in PLACES}  # all of them: a number in one is in others
    databases: dict[str, Database] = {}
    opening = ""
    try:
        async with AsyncExitStack() as opened:
            for name, url in urls.items():
                opening = f"{database_variable(name)}: "
                databases[name] = await Database.open(url, name="remit purge", connections_max=2)
                opened.push_async_callback(databases[name].close)
                async with databases[name].connection() as connection:
                    problem = await schema.pending(connection, SERVICES_FOLDER / name / "migrations")
                if problem is not None:
                    raise ConfigurationError(f"{database_variable(name)}: {problem}.")
            opening = ""
            if do:
                return await Purge(databases, number=number, who=who, reason=reason, clock=system_clock).run()
            _, found, under_way = await look(databases, await tables_of(databases), number)
            return Purged((), found, under_way)
    except AWAY_ERRORS as error:
        from shared.observability.redaction import describe_error  # noqa: PLC0415

        fail(
            f"{opening}{describe_error(error)}. What was begun is done completely or not at all: run it again.", MISUSED
        )


def _as_json(row: "FoundRow") -> dict[str, object]:
    return {"database": row.table.database, "table": row.table.name, "key": row.key, "members": sorted(row.members)}


def _print(purged: "Purged") -> None:
    for title, rows in (("purged", purged.cleaned), ("holds card data", purged.left)):
        _print_rows(title, rows)
    if purged.under_way:
        say(
            f"{purged.under_way} invoices have card data in their ids, and a payment of theirs is under way: "
            "run it again when it is settled.",
            style="yellow",
        )
    if purged.cleaned or purged.left:
        say(f"{len(purged.cleaned)} rows purged, {len(purged.left)} rows hold card data.")
        if purged.left and not purged.cleaned:
            say("`--do --reason TEXT` takes it out.", style="dim")
    elif not purged.under_way:
        say("No card data was found.", style="green")


def _print_rows(title: str, rows: "Sequence[FoundRow]") -> None:
    for row in rows:
        for column, left in row.members.items():
            shown = visible(_as_text(left).replace("\n", " "))[:SHOWN_MAX]
            write_line(f"{title}: {row.table.database}.{row.table.name}.{column} of {row.key}: {shown}")


def _as_text(left: object) -> str:
    match left:
        case bytes():
            return left.decode("utf-8", "replace") or "(nothing: it is no text)"
        case list():
            return ", ".join(map(_as_text, left))
        case _:
            return str(left)
