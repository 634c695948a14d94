"""`remit find`: what an id, a number or a code is, and where to look further."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.output import REFUSED, Json, console, fail, say, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from deploy.cli.lookups import Match


def register(to: typer.Typer) -> None:
    """Add the command to the application."""
    to.command("find")(find)


def find(
    text: Annotated[
        str,
        typer.Argument(
            metavar="ANYTHING",
            help="An invoice, payment, command, correlation, refund, receipt, gateway id, reference code or dead letter.",
            show_default=False,
        ),
    ],
    *,
    json: Json = False,
) -> None:
    """Say what an id, a number or a code is, and what to type to see more.

    Looks at every service whose *_DATABASE_URL is set. Of dead letters, cases and quarantined messages the end of an id is enough. Exit
    code 1 if nothing has it.
    """
    from deploy.cli import lookups  # noqa: PLC0415 - the database's client

    lookup = asyncio.run(lookups.find(text.strip()))
    if json:
        write_json({"found": [asdict(match) for match in lookup.found], "unseen": lookup.unseen})
    else:
        if lookup.found:
            console().print(_page(lookup.found))
        for what in lookup.unseen:
            say(f"Not looked at: {what}.", style="yellow")
    if not lookup.found:
        if json:
            raise typer.Exit(REFUSED)
        what = "nothing that was looked at" if lookup.unseen else "nothing"
        fail(f"{what} has {text.strip()} as its id, number or code.")


def _page(found: "tuple[Match, ...]") -> "RenderableType":
    """Two lines a match: what it is, and what shows more."""
    from rich.console import Group  # noqa: PLC0415 - only where people look
    from rich.text import Text  # noqa: PLC0415

    from deploy.cli.tables import plain  # noqa: PLC0415

    lines: list[Text] = []
    for match in found:
        head = plain(match.kind, style="bold")
        head.append_text(plain(f" {match.id}", style="cyan"))
        head.append_text(plain(f" ({match.service}): {match.says}", style="default"))
        lines += [head, plain(f"    {match.look}", style="dim")]
    return Group(*lines)
