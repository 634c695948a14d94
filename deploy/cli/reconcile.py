"""`remit reconcile`: our payments and the gateway's books, side by side."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.output import MISUSED, REFUSED, Json, console, fail, say, write_json
from shared.clock import system_clock

if TYPE_CHECKING:
    from services.payment_gateway.reconcile.books import Window
    from services.payment_gateway.reconcile.run import Reconciliation

DAYS = 7
UNSETTLED = timedelta(minutes=10)
"""What is younger is still at work, so it is not compared by default."""
PRINTED_MAX = 50


def register(to: typer.Typer) -> None:
    """Add the command to the application."""
    to.command("reconcile")(reconcile)


def reconcile(
    *,
    since: Annotated[
        datetime | None,
        typer.Option(
            help="Compare what was created at the gateway from then on (UTC); a week ago.", show_default=False
        ),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Until before then (UTC); ten minutes ago.", show_default=False)
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the gateway's books in this new file, for `remit audit --ledger`.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare the payments of this balance report of the gateway (CSV), instead of a window of time.",
            show_default=False,
        ),
    ] = None,
    look: Annotated[
        bool,
        typer.Option(
            "--look", help="Have what differs or one side does not know looked at now; what contradicts becomes a case."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Compare our payments with the gateway's own books. Exit code 1 if they contradict each other.

    Needs PAYMENT_GATEWAY_DATABASE_URL and the gateway's variables (GATEWAY_URL, GATEWAY_API_KEY, GATEWAY_MODE).
    """
    from services.payment_gateway.reconcile.books import Window  # noqa: PLC0415 - the gateway's SDK takes half a second

    now = system_clock()
    window = Window(_seconds(since, now - timedelta(days=DAYS)), _seconds(until, now - UNSETTLED))
    if window.since >= window.until:
        fail("--since must be before --until.", MISUSED)
    if report is not None and (since or until or ledger):
        fail("--report has a time of its own: leave out --since, --until and --ledger.", MISUSED)
    with _file(ledger) as path:
        result = asyncio.run(_run(window, path, report, look=look))
    if json:
        told = {"report": str(report)} if report else {"since": window.since, "until": window.until}
        write_json(
            told
            | {
                "counts": {verdict.value: count for verdict, count in sorted(result.counts.items())},
                "found": [asdict(one) for one in result.found],
                "not_shown": result.broken - len(result.found),
            }
        )
    else:
        _print(result)
    if result.broken:
        raise typer.Exit(REFUSED)


def _seconds(given: datetime | None, default: datetime) -> int:
    return int((given.replace(tzinfo=UTC) if given is not None else default).timestamp())


@contextmanager
def _file(ledger: Path | None) -> Iterator[Path]:
    """The file for the gateway's books. One that is not kept holds tokens of cards all the same, so it is nobody else's and is deleted."""
    if ledger is not None:
        if ledger.exists():
            fail(f"{ledger} exists: books of another window are not mixed with these. Name a new file.", MISUSED)
        yield ledger
        return
    with tempfile.TemporaryDirectory(prefix="remit-") as folder:
        yield Path(folder) / "books.sqlite"


async def _run(window: "Window", path: Path, report: Path | None, *, look: bool) -> "Reconciliation":
    from services.payment_gateway.gateways.stripe import StripeGateway  # noqa: PLC0415 - as above
    from services.payment_gateway.reconcile.books import new_books  # noqa: PLC0415
    from services.payment_gateway.reconcile.fetch import ReconcileError, fetch  # noqa: PLC0415
    from services.payment_gateway.reconcile.report import read_report  # noqa: PLC0415
    from services.payment_gateway.reconcile.run import (  # noqa: PLC0415
        Reconciliation,
        reconcile,
        reconcile_report,
    )
    from services.payment_gateway.settings import ReconcileSettings  # noqa: PLC0415
    from shared.persistence.database import AWAY_ERRORS, Database  # noqa: PLC0415

    declared = ReconcileSettings.read()
    url, settings = declared.database_url, declared.charging
    gateway = settings.open_gateway()
    if not isinstance(gateway, StripeGateway):
        fail("GATEWAY_URL: a gateway in memory has no books.", MISUSED)
    result = Reconciliation(system_clock() if look else None)
    try:
        database = await Database.open(url, name="remit reconcile", connections_max=1)
        try:
            if report is not None:
                reported = read_report(report)
                async with database.connection() as connection:
                    await reconcile_report(connection, gateway, reported, result)
            else:
                with new_books(path) as books:
                    if not await fetch(gateway, window, books, livemode=settings.mode == "live"):
                        say("The key may not read disputes: those of older payments are not seen.")
                    async with database.connection() as connection:
                        await reconcile(connection, gateway, books, window, result)
            if result.unfit:
                say(f"{result.unfit} captures cannot become cases: their metadata or amounts are none of ours.")
            return result
        finally:
            await database.close()
    except ReconcileError as error:
        fail(str(error)[:1].upper() + str(error)[1:])
    except AWAY_ERRORS as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a file of ours, not the database
        fail(f"PAYMENT_GATEWAY_DATABASE_URL: the database does not answer ({type(error).__name__}).")
    finally:
        await gateway.close()


def _print(result: "Reconciliation") -> None:
    from deploy.cli.tables import plain, table  # noqa: PLC0415 - rich

    terminal = console()
    counted = table()
    counted.add_column("verdict")
    counted.add_column("payments", justify="right")
    for verdict, count in sorted(result.counts.items()):
        counted.add_row(plain(verdict.value.replace("_", " ")), f"{count:,}")
    terminal.print(counted)
    for one in result.found[:PRINTED_MAX]:
        terminal.print(plain(f"{one.verdict.value.replace('_', ' ')}: {one.payment_id} ({one.gateway_id})"))
        terminal.print(plain(f"  here: {one.here or 'unknown'}; there: {one.there}"))
    if result.broken > PRINTED_MAX:
        say(f"and {result.broken - PRINTED_MAX} more: --json shows {len(result.found)} of all")
    say("They contradict each other: see deploy/README.md, Reconcile." if result.broken else "Both sides agree.")
