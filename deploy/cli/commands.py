"""`remit command`: the answer that a command got."""

import asyncio
from typing import Annotated
from uuid import UUID

import typer

from deploy.cli.output import Json, console, fail, write_json

app = typer.Typer(no_args_is_help=True, help="What a command was answered.")


@app.command("show")
def show(
    command_id: Annotated[UUID, typer.Argument(metavar="ID", help="The command's id.", show_default=False)],
    *,
    json: Json = False,
) -> None:
    """The stored answer, or the dead letter that the command became."""
    from deploy.cli import queries  # noqa: PLC0415 - the database's client

    found = asyncio.run(queries.command(command_id))
    if found is None:
        fail(f"command {command_id} has no answer and is no dead letter: it did not arrive, or waits in its queue.")
    if json:
        write_json(found)
    else:
        console().print(queries.command_page(found))


@app.callback()
def commands() -> None:
    """Keeps `show` a command of its own."""
