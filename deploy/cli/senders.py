"""`remit senders`: the tokens by which the systems that send commands ask at the door. They need the role `invoice`."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated
from uuid import UUID

import typer

from deploy.cli import staff_pages
from deploy.cli.operate import Service
from deploy.cli.output import MISUSED, Json, console, fail, say, write_json
from deploy.cli.tables import plain, table
from deploy.cli.words import time
from services.invoice import sender_tokens
from services.invoice.sender_tokens import NewSenderToken, SenderToken, UnfitTokenError
from shared.clock import system_clock
from shared.persistence.database import Database
from shared.tokens import DAYS_MAX

app = typer.Typer(no_args_is_help=True)
of_tokens = typer.Typer(no_args_is_help=True, help="Tokens: list, add, revoke.")
app.add_typer(of_tokens, name="tokens")

DAYS = 365


@of_tokens.command("list")
def list_tokens(
    sender: Annotated[str | None, typer.Argument(metavar="NAME", help="Of one sender.", show_default=False)] = None,
    *,
    json: Json = False,
) -> None:
    """The tokens of all senders, also those that are worth nothing any more. The tokens themselves are kept nowhere."""
    found = staff_pages.run(lambda database: sender_tokens.tokens(database, sender), of=Service.INVOICE)
    now = system_clock()
    if json:
        write_json([asdict(one) | {"state": _state(one, now)} for one in found])
    elif not found:
        say("There is no such token: `remit senders tokens add NAME` makes one.")
    else:
        listed = table(expand=True)
        for title in ("id", "sender", "made", "until", "state"):
            listed.add_column(title, overflow="fold")
        for one in found:
            listed.add_row(str(one.id), plain(one.sender), time(one.made_at), time(one.ends_at), _state(one, now))
        console().print(listed)


@of_tokens.command("add")
def add(
    sender: Annotated[
        str, typer.Argument(metavar="NAME", help="The name of the sender's user at the broker.", show_default=False)
    ],
    *,
    days: Annotated[int, typer.Option(min=1, max=DAYS_MAX, help="For how long it holds.")] = DAYS,
    json: Json = False,
) -> None:
    """Make a token for a sender, and print it once. Those that it has go on holding, until they end or are revoked."""

    async def make(database: Database) -> NewSenderToken | UnfitTokenError:
        try:
            return await sender_tokens.make(database, sender, days=days)
        except UnfitTokenError as error:
            return error

    made = staff_pages.run(make, of=Service.INVOICE)
    if isinstance(made, UnfitTokenError):
        fail(f"{made}.", MISUSED)
    if json:
        write_json(
            {"id": made.token.id, "sender": made.token.sender, "ends_at": made.token.ends_at, "token": made.secret}
        )
        return
    say(
        f"{made.token.sender} has a token until {made.token.ends_at:%Y-%m-%d}; its id is {made.token.id}", style="green"
    )
    console().print(plain(made.secret), soft_wrap=True)


@of_tokens.command("revoke")
def revoke(
    token_id: Annotated[UUID, typer.Argument(metavar="ID", help="The token's id.", show_default=False)],
    *,
    json: Json = False,
) -> None:
    """Make a token worth nothing, at once."""
    token = staff_pages.run(lambda database: sender_tokens.revoke(database, token_id), of=Service.INVOICE)
    if token is None:
        fail(f"there is no token {token_id}.")
    if json:
        write_json(asdict(token))
        return
    say(f"the token {token.id} of {token.sender} is worth nothing now", style="green")


def _state(token: SenderToken, now: datetime) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "holds" if token.ends_at > now else "ended"
