"""`remit outbox`: messages that end the broker's connection at each try. Operators look at them, release them, or drop them."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, TypeVar
from uuid import UUID

import typer

from deploy.cli import staff_pages
from deploy.cli.operate import Service
from deploy.cli.output import LISTED, LISTED_MAX, REFUSED, Json, Limit, Who, console, fail, say, write_json
from deploy.cli.staff_pages import person
from deploy.cli.tables import WIDE, id_column, plain, table
from deploy.cli.words import age, id_text
from services.staff import actions
from services.staff.actions import ActionResult
from shared.clock import system_clock
from shared.persistence import outbox
from shared.persistence.database import Connection, Database
from shared.persistence.outbox import QuarantinedMessage

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True)

OfService = Annotated[Service, typer.Argument(help="Whose outbox.", show_default=False)]
MessageId = Annotated[UUID, typer.Argument(help="The message's whole id.", show_default=False)]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the journal.", show_default=False)]


@app.command("list")
def list_quarantined(*, limit: Limit = LISTED, json: Json = False) -> None:
    """Quarantined messages of all services, oldest first. They are not tried any more."""
    found = {service.value: _on(service, lambda c: outbox.quarantined(c, at_most=limit)) for service in Service}
    if json:
        write_json([{"service": name} | asdict(message) for name, messages in found.items() for message in messages])
    elif not any(found.values()):
        say("No message is quarantined.", style="green")
    else:
        _print(found)
        say(
            "`remit outbox release SERVICE ID --reason WHY` has one tried again; `drop` deletes it for good.",
            style="dim",
        )


@app.command("release")
def release(service: OfService, message_id: MessageId, *, reason: Reason, who: Who = "", json: Json = False) -> None:
    """Have a quarantined message published again: the broker, or what stands before it, is repaired."""
    _noted(message_id, "release", service=service, who=who, reason=reason)
    done = _on(service, lambda connection: outbox.release(connection, [message_id]))
    _report(message_id, "it is published again, within a second" if done else "somebody else was faster", json=json)


@app.command("drop")
def drop(service: OfService, message_id: MessageId, *, reason: Reason, who: Who = "", json: Json = False) -> None:
    """Delete a quarantined message for good: nobody will ever hear of it. The audit goes on reporting what it would have caused."""
    _noted(message_id, "drop", service=service, who=who, reason=reason)
    done = _on(service, lambda connection: outbox.drop(connection, [message_id]))
    _report(message_id, "it is deleted" if done else "somebody else was faster", json=json)


def _noted(message_id: UUID, action: "actions.OutboxAction", *, service: Service, who: str, reason: str) -> None:
    """Note the action in staff's journal. Raises CliError if there is no such message, or a text is not fit for the journal."""
    found = _on(service, lambda connection: outbox.quarantined(connection, at_most=LISTED_MAX))
    if message_id not in {message.id for message in found}:
        fail(f"No message {message_id} is quarantined there.", REFUSED)
    noted: ActionResult = staff_pages.run(
        lambda database: actions.note_outbox_action(
            database, message_id, action, service=service.value, who=person(who), reason=reason
        )
    )
    if not noted.ok:
        fail(f"{noted.text}.", REFUSED)


def _report(message_id: UUID, text: str, *, json: bool) -> None:
    staff_pages.report([ActionResult(message_id, text)], json=json, done="done")


def _print(found: dict[str, list[QuarantinedMessage]]) -> None:
    terminal = console()
    rows = table()
    rows.add_column("service", no_wrap=True)
    id_column(rows, "message", wide=True)
    for title in ("type", "to", "since", "losses"):
        rows.add_column(title, overflow="fold")
    now = system_clock()
    for name, messages in found.items():
        for message in messages:
            to = f"{message.exchange or 'queue'} {message.routing_key}"
            rows.add_row(
                name,
                id_text(message.id, wide=True),
                plain(message.type),
                plain(to),
                age(message.created_at, now),
                str(message.losses),
            )
    terminal.print(rows, soft_wrap=terminal.width < WIDE)


def _on(service: Service, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Do the work on the database of a service. Raises ConfigurationError, or CliError if the database does not answer."""

    async def on(database: Database) -> T:
        async with database.connection() as connection:
            return await work(connection)

    return staff_pages.run(on, of=service)
