"""`remit command`: the answer that a command got."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from deploy.cli.output import Json, console, fail, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(no_args_is_help=True, help="What a command was answered.")


@app.command("show")
def show(
    command_id: Annotated[UUID, typer.Argument(metavar="ID", help="The command's id.", show_default=False)],
    *,
    sender: Annotated[
        str | None, typer.Option(help="The name of its sender, if several used the id.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """The stored answer, or the dead letter that the command became."""
    from deploy.cli import queries  # noqa: PLC0415 - the database's client

    found = asyncio.run(queries.command(command_id, sender))
    if found is None:
        fail(f"command {command_id} has no answer and is no dead letter: it did not arrive, or it waits in its queue.")
    if json:
        write_json(found)
    else:
        console().print(_page(found))


def _page(found: Mapping[str, Mapping[str, Any]]) -> "RenderableType":
    """The answer, or the dead letter, a line a field."""
    from rich.console import Group  # noqa: PLC0415 - only where people look
    from rich.text import Text  # noqa: PLC0415

    from deploy.cli.tables import facts  # noqa: PLC0415
    from deploy.cli.words import time  # noqa: PLC0415

    ((kind, fields),) = found.items()
    named = {name.replace("_", " "): value for name, value in fields.items() if value is not None}
    shown = [(name, time(value) if isinstance(value, datetime) else str(value)) for name, value in named.items()]
    return Group(Text(kind.replace("_", " "), style="italic"), facts(*shown))


@app.callback()
def commands() -> None:
    """Without this callback Typer would drop the word `show`, since it is the only command here."""
