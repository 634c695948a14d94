"""`remit audit`, and `remit audit baseline`."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.history import HISTORY
from deploy.cli.output import MISUSED, REFUSED, Json, console, fail, say, write_json

if TYPE_CHECKING:
    from services.audit.stores import Sources

Ledger = Annotated[
    Path | None,
    typer.Option(envvar="REMIT_AUDIT_LEDGER", help="The sandbox gateway's ledger (SQLite).", show_default=False),
]

app = typer.Typer(no_args_is_help=False)


def register(to: typer.Typer) -> None:
    """Add the commands to the application."""
    to.add_typer(app, name="audit")


@app.callback(invoke_without_command=True)
def audit(
    context: typer.Context,
    *,
    ledger: Ledger = None,
    history: Annotated[
        Path | None,
        typer.Option(
            envvar=HISTORY,
            help='A sender\'s own record, one JSON object a line: {"command_id": ..., "confirmed": true}.',
            show_default=False,
        ),
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(envvar="REMIT_AUDIT_LOGS", help="A folder of log files.", show_default=False)
    ] = None,
    seals: Annotated[
        Path | None,
        typer.Option(envvar="STAFF_SEALS_FILE", help="The file of seals of staff's journal.", show_default=False),
    ] = None,
    tap: Annotated[
        Path | None,
        typer.Option(
            help='What a listener beside our queues received, one JSON object a line: {"queue", "message_id", "sha256"}.',
            show_default=False,
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="The report of a fault run.", show_default=False)] = None,
    baseline: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="What `remit audit baseline` wrote earlier; of several lines the last counts.",
            show_default=False,
        ),
    ] = None,
    lost: Annotated[
        list[str] | None,
        typer.Option(metavar="QUEUE", help="A queue that was deleted or lost with what was in it.", show_default=False),
    ] = None,
    unacked: Annotated[
        Path | None,
        typer.Option(
            help="What `rabbitmqctl list_queues name messages messages_ready messages_unacknowledged --formatter json` prints.",
            show_default=False,
        ),
    ] = None,
    drained: Annotated[
        bool, typer.Option("--drained", help="No work is under way: everything must have come to its end.")
    ] = False,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for which work may be under way (without --drained).")
    ] = 600.0,
    complete: Annotated[bool, typer.Option("--complete", help="What cannot be checked counts as broken.")] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help="Evidence that --complete does without: tap, run, baseline, logs or unacked.",
            show_default=False,
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LINE,...",
            help="Lines of the report, such as `captured_once`: one of them that could not be checked counts as broken.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Read all stores and report which of the promises hold. Changes nothing; exit code 1 if one is broken, or nothing could be checked.

    The last line names what was not checked; --require makes that a failure.

    Looks at every database whose *_DATABASE_URL is set, and at the queues if RABBITMQ_URL is set. With --drained it also takes the
    messages from each queue that has no consumer and gives them back. For each message this counts as one of its hundred deliveries.
    """
    if context.invoked_subcommand is not None:
        return
    from services.audit.finding import WAIVABLE, Source  # noqa: PLC0415 - quick to import, but for the subcommand only
    from services.audit.run import audit as check  # noqa: PLC0415 - opens databases
    from services.audit.stores import DATABASES, Sources  # noqa: PLC0415
    from shared.clock import system_clock  # noqa: PLC0415
    from shared.messaging.topology import QUEUE_NAMES  # noqa: PLC0415

    if unknown := set(without or ()) - set(WAIVABLE):
        raise typer.BadParameter(f"{min(unknown)} is not one of {', '.join(WAIVABLE)}", param_hint="--without")
    required = _required(require or [])
    if strange := sorted(set(lost or ()) - QUEUE_NAMES):
        fail(f"--lost {strange[0]}: there is no such queue. There are: {', '.join(sorted(QUEUE_NAMES))}.", MISUSED)
    databases, rabbitmq_url = servers()
    if not databases and run is None:
        from shared.settings import database_variable  # noqa: PLC0415

        names = ", ".join(map(database_variable, DATABASES))
        fail(f"none of {names} is set: without a database there is nothing to audit.", MISUSED)
    sources = Sources(
        databases=databases,
        rabbitmq_url=rabbitmq_url,
        ledger=ledger,
        history=history,
        drained=drained,
        grace_s=grace,
        tap=tap,
        run=run,
        baselines=tuple(baseline or ()),
        logs=logs,
        seals=seals,
        lost=frozenset(lost or ()),
        unacked=unacked,
        sender_groups=_sender_groups(),
    )
    report = asyncio.run(
        check(
            sources, system_clock(), complete=complete, waived=[Source(one) for one in without or ()], required=required
        )
    )
    if json:
        write_json(report.as_json())
    else:
        from deploy.cli.audit_report import page  # noqa: PLC0415 - rich

        console().print(page(report))
    if not report.ok:
        raise typer.Exit(REFUSED)


def _required(given: list[str]) -> set[str]:
    """The names of the checks. Raises CliError for one that does not exist."""
    from services.audit.checks import CHECKS  # noqa: PLC0415 - as above

    names = {name.strip() for text in given for name in text.split(",") if name.strip()}
    known = [check.name for check in CHECKS]
    if unknown := sorted(names - set(known)):
        fail(f"--require {unknown[0]}: there is no such line. There are: {', '.join(known)}.", MISUSED)
    return names


@app.command("baseline")
def baseline(
    file: Path,
    *,
    ledger: Ledger = None,
    digest: Annotated[
        bool, typer.Option(help="With a digest of every table. Use it only before something that must change nothing.")
    ] = True,
    json: Json = False,
) -> None:
    """Write what the drained system holds, for a later `remit audit --baseline FILE`."""
    from services.audit.stores import Sources  # noqa: PLC0415 - opens databases

    databases, _ = servers()
    content = asyncio.run(_take_baseline(Sources(databases, ledger=ledger, drained=True), digest=digest))
    from services.audit.baseline import write  # noqa: PLC0415

    write(content, file)
    if json:
        write_json({"file": str(file), "databases": sorted(databases), "tables": len(content.get("digest", ()))})
        return
    tables = f", {len(content['digest'])} tables" if digest else ""
    say(f"{file}: connections of {len(databases)} databases{tables}")


async def _take_baseline(sources: "Sources", *, digest: bool) -> dict[str, dict[str, object]]:
    from services.audit.baseline import take_baseline  # noqa: PLC0415
    from services.audit.stores import open_stores  # noqa: PLC0415
    from shared.clock import system_clock  # noqa: PLC0415

    async with open_stores(sources, system_clock()) as stores:
        return await take_baseline(stores, digest=digest)


def _sender_groups() -> tuple[frozenset[str], ...]:
    """Names that share their invoices, as the invoice service was told: `a,b;c,d`."""
    groups = os.environ.get("SENDER_GROUPS", "").split(";")
    return tuple(frozenset(name.strip() for name in group.split(",")) for group in groups if group)


def servers() -> tuple[dict[str, str], str | None]:
    """The databases and the broker that the environment names."""
    from services.audit.stores import DATABASES  # noqa: PLC0415
    from shared.settings import EnvironmentVariables  # noqa: PLC0415

    environment = EnvironmentVariables()
    named = {name: environment.database_url(name) for name in DATABASES if environment.names_database(name)}
    return named, environment.rabbitmq_url() if environment.names_broker() else None
