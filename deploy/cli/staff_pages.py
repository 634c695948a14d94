"""What the pages for staff share: the staff database, ids by their ends, who acts, and reports of actions."""

import asyncio
import getpass
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Literal, TypeVar
from uuid import UUID

import typer
from rich.panel import Panel
from rich.text import Text

from deploy.cli.ids import CANDIDATES_MAX, refuse_unless_end, the_one, whole_id
from deploy.cli.operate import SERVICES_FOLDER, Service
from deploy.cli.output import MISUSED, REFUSED, console, fail, say, write_json
from deploy.cli.tables import panel, plain, table
from deploy.cli.words import time
from services.staff.actions import dead_letters as dead_letter_actions
from services.staff.actions.results import ActionResult
from services.staff.journal_words import flat
from services.staff.people import Actor, at_terminal
from services.staff.store import JournalEntry
from shared import crash_points
from shared.observability.logs import configure_logs
from shared.observability.visible import visible
from shared.persistence import schema
from shared.persistence.database import AWAY_ERRORS, Database, mistake_of
from shared.settings import ConfigurationError, EnvironmentVariables, database_variable

T = TypeVar("T")


def run(work: Callable[[Database], Awaitable[T]], *, of: Service = Service.STAFF) -> T:
    """Do the work on a service's database. Raises ConfigurationError, or CliError if the database does not answer or refuses us."""
    variable = database_variable(of.value)
    try:
        if "REMIT_FAULT" in os.environ:
            configure_logs("remit", level="WARNING")
            crash_points.arm_from_environment()
        return asyncio.run(_on_database(of, work))
    except AWAY_ERRORS as error:
        if (mistake := mistake_of(error)) is not None:
            fail(f"{variable}: {mistake}", MISUSED)
        fail(
            f"The {of.value} database does not answer ({type(error).__name__}): is {variable} right and PostgreSQL up? "
            "What was begun is done completely or not at all; doing it again does nothing twice.",
            MISUSED,
        )


async def _on_database(of: Service, work: Callable[[Database], Awaitable[T]]) -> T:
    database = await Database.open(
        EnvironmentVariables().database_url(of.value), name=f"remit {of.value} cli", connections_max=1
    )
    try:
        async with database.connection() as connection:
            if (problem := await schema.pending(connection, SERVICES_FOLDER / of.value / "migrations")) is not None:
                raise ConfigurationError(f"{database_variable(of.value)}: {problem}.")
        return await work(database)
    finally:
        await database.close()


async def one_id(database: Database, table_name: Literal["dead_letters", "cases"], text: str) -> UUID:
    """The id that ends with this text. A whole id need not exist. Raises CliError if no id or more than one ends so."""
    if (whole := whole_id(text)) is not None:
        return whole
    refuse_unless_end(text)
    return the_one(text, await dead_letter_actions.ids_ending(database, table_name, text, at_most=CANDIDATES_MAX + 1))


def person(who: str) -> Actor:
    """Who acts: the name that was given, or the user of this process. Raises CliError if there is neither."""
    if who.strip():
        return at_terminal(who.strip())
    try:
        return at_terminal(getpass.getuser())
    except (KeyError, OSError):
        fail("Your user name is not known: give --who NAME.", MISUSED)


def report(results: Sequence[ActionResult], *, json: bool, done: str) -> None:
    """Print the result of each action; exit code REFUSED if one was refused. `done`: the verb for the others (`replayed`)."""
    refused = [result for result in results if not result.ok]
    if json:
        write_json([asdict(result) | {"ok": result.ok} for result in results])
    else:
        for result in results:
            line = Text(str(result.subject) if result.subject else "", style="cyan")
            line.append(": " if result.subject else "", style="default")
            line.append(visible(result.text), style="red" if result.refusal else "green")
            console(stderr=result.refusal is not None).print(line, soft_wrap=True)
        if len(results) != 1:
            waits = sum(result.proposal is not None for result in results)
            proposed = f"{waits} proposed to a second person, " if waits else ""
            say(f"{len(results) - len(refused) - waits} {done}, {proposed}{len(refused)} refused.", style="dim")
    if refused:
        raise typer.Exit(REFUSED)


def journal_panel(journal: Sequence[JournalEntry]) -> list[Panel]:
    """What people did, as one panel; no panel if nobody did anything."""
    if not journal:
        return []
    entries = table(expand=True)
    for title in ("time", "who", "did"):
        entries.add_column(title, no_wrap=True)
    entries.add_column("details", overflow="fold", ratio=1)
    for entry in journal:
        details = ", ".join(f"{name}: {flat(value)}" for name, value in entry.details.items() if value is not None)
        entries.add_row(time(entry.at), plain(entry.who), plain(entry.action), plain(details, lines=True))
    return [panel(entries, "what people did")]
