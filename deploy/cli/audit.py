"""`remit audit`."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.output import REFUSED, Json, console, write_json


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(audit)


def audit(
    *,
    ledger: Annotated[
        Path | None, typer.Option(help="The sandbox gateway's ledger (SQLite).", show_default=False)
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            help='A sender\'s own record, one JSON object a line: {"command_id": ..., "confirmed": true}.',
            show_default=False,
        ),
    ] = None,
    drained: Annotated[
        bool, typer.Option("--drained", help="No work is under way: everything must have come to its end.")
    ] = False,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for which work may be under way (without --drained).")
    ] = 600.0,
    complete: Annotated[
        bool, typer.Option("--complete", help="A line that cannot be checked counts as broken.")
    ] = False,
    json: Json = False,
) -> None:
    """Read all stores and say which of the promises hold. Changes nothing; exit code 1 if one is broken.

    Looks at every database whose *_DATABASE_URL is set, and at the queues if RABBITMQ_URL is.
    """
    from deploy.audit.run import audit as check  # noqa: PLC0415 - opens databases
    from deploy.audit.stores import DATABASES, Sources  # noqa: PLC0415
    from shared.clock import system_clock  # noqa: PLC0415
    from shared.settings import Environment  # noqa: PLC0415

    environment = Environment()
    sources = Sources(
        databases={
            name: environment.database_url(name) for name in DATABASES if os.environ.get(f"{name.upper()}_DATABASE_URL")
        },
        rabbitmq_url=environment.rabbitmq_url() if os.environ.get("RABBITMQ_URL") else None,
        ledger=ledger,
        history=history,
        drained=drained,
        grace_s=grace,
    )
    report = asyncio.run(check(sources, system_clock(), complete=complete))
    if json:
        write_json(report.as_json())
    else:
        from deploy.audit.render import print_report  # noqa: PLC0415 - rich

        print_report(console(), report)
    if not report.ok:
        raise typer.Exit(REFUSED)
