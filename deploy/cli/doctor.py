"""`remit doctor`: looks at everything that Remit stands on, and says what to type."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.audit import servers
from deploy.cli.output import MISUSED, REFUSED, Json, console, fail, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from deploy.doctor.diagnosis import Diagnosis


def register(to: typer.Typer) -> None:
    """Add the command to the application."""
    to.command("doctor")(doctor)


def doctor(
    *,
    rabbitmqctl: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="How to run `rabbitmqctl` on the broker, such as `sudo rabbitmqctl`: only it tells of alarms, users and builds.",
            show_default=False,
        ),
    ] = None,
    canary: Annotated[
        bool,
        typer.Option(
            "--canary", help="Issue an invoice of its own, and pay it with a test card. It stays in the books."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Look at servers, rights, clocks, queues, lag and certificates, and say of each trouble what to type. It changes nothing.

    Looks at every database whose *_DATABASE_URL is set, the broker of RABBITMQ_URL, the gateway of GATEWAY_URL, the staff desk of
    REMIT_DESK_URL (or DESK_URL) and the door of REMIT_DOOR_URL. Exit code 1 if anything is broken.
    """
    databases, rabbitmq_url = servers()
    if not databases and rabbitmq_url is None:
        fail("neither RABBITMQ_URL nor a database's URL is set: name a server to look at.", MISUSED)
    from deploy.doctor.diagnosis import is_healthy  # noqa: PLC0415 - `--help` need not pay
    from deploy.doctor.run import Surroundings, examine  # noqa: PLC0415
    from shared.clock import system_clock  # noqa: PLC0415

    found = asyncio.run(examine(Surroundings(databases, rabbitmq_url, rabbitmqctl, canary), system_clock))
    if json:
        write_json({"ok": is_healthy(found), "found": [asdict(one) for one in found]})
    else:
        console().print(_page(found))
    if not is_healthy(found):
        raise typer.Exit(REFUSED)


_STYLES = {"well": "green", "look": "yellow", "broken": "bold red", "not seen": "dim"}


def _page(found: "Sequence[Diagnosis]") -> "RenderableType":
    """A line a diagnosis, with what to type below it; and how many there are of each kind."""
    from rich.console import Group  # noqa: PLC0415 - only where people look
    from rich.text import Text  # noqa: PLC0415

    from deploy.cli.tables import plain, table  # noqa: PLC0415

    rows = table()
    rows.add_column("", no_wrap=True)
    rows.add_column("what", overflow="fold")
    rows.add_column("", overflow="fold", ratio=1)
    for one in found:
        says = plain(one.says)
        if one.do:
            says.append_text(plain(f"\n→ {one.do}", lines=True, style="cyan"))
        rows.add_row(Text(one.condition.value, style=_STYLES[one.condition.value]), plain(one.what), says)
    counts = {kind: sum(one.condition.value == kind for one in found) for kind in _STYLES}
    return Group(rows, Text(", ".join(f"{count} {kind}" for kind, count in counts.items() if count) + "."))
