"""`remit journal verify`: whether staff's journal is whole."""

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.audit import servers
from deploy.cli.output import MISUSED, REFUSED, Json, fail, say, write_json, write_line

if TYPE_CHECKING:
    from services.audit.finding import Finding
    from services.audit.stores import Sources

_HEAD = re.compile(r"[0-9]{1,18}:[0-9a-f]{64}")

app = typer.Typer(no_args_is_help=True, help="What people did: whether the record of it is whole.")


@app.callback()
def journal() -> None:
    """Without this callback Typer would drop the word `verify`, since it is the only command here."""


@app.command("verify")
def verify(
    *,
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="POSITION:HASH", help="A head that you noted earlier.", show_default=False),
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(help="A folder with logs of the staff service.", show_default=False)
    ] = None,
    seals: Annotated[
        Path | None,
        typer.Option(envvar="STAFF_SEALS_FILE", help="The file of seals of the staff service.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Compute the chain of all entries again, and compare it with the heads that are known from elsewhere.

    Heads stand in the decisions of the payment-gateway service (if PAYMENT_GATEWAY_DATABASE_URL is set), in seals, in logs, and wherever
    you noted one: this command prints the present head. Exit code 1 if an entry was changed, put in or taken out.
    """
    if wrong := next((one for one in head or () if not _HEAD.fullmatch(one)), None):
        raise typer.BadParameter(f"{wrong[:80]!r} is not of the form POSITION:HASH", param_hint="--head")
    databases, _ = servers()
    if "staff" not in databases:
        fail("STAFF_DATABASE_URL is not set.", MISUSED)
    from services.audit.stores import Sources  # noqa: PLC0415 - opens databases

    databases = {name: url for name, url in databases.items() if name in {"staff", "payment_gateway"}}
    finding, last = asyncio.run(_verify(Sources(databases, logs=logs, seals=seals), head or []))
    if json:
        write_json(finding.as_json() | {"head": last})
    else:
        for breach in finding.breaches:
            write_line(f"{breach.about}: {breach.why}")
        say(_summary(finding, last))
    if finding.broken:
        raise typer.Exit(REFUSED)


def _summary(finding: "Finding", head: str | None) -> str:
    """What was found in a sentence. A journal without entries is not whole: there is nothing that could be."""
    if not finding.looked_at and not finding.broken:
        return "Nothing was checked: the journal has no entries."
    return f"{finding.looked_at} entries, {finding.broken or 'nothing'} wrong. The head is {head or 'not there yet'}."


async def _verify(sources: "Sources", heads: list[str]) -> "tuple[Finding, str | None]":
    from services.audit.journal import verify_journal  # noqa: PLC0415 - opens databases
    from services.audit.stores import open_stores  # noqa: PLC0415
    from shared.clock import system_clock  # noqa: PLC0415

    async with open_stores(sources, system_clock()) as stores:
        return await verify_journal(stores, heads)
