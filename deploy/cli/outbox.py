"""`remit outbox`: messages that end the broker's connection at each try. Operators look at them, release them, or drop them."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, TypeVar
from uuid import UUID

import typer

from deploy.cli import staff_pages
from deploy.cli.ids import one_among, short_length
from deploy.cli.operate import Service
from deploy.cli.output import LISTED, LISTED_MAX, REFUSED, Json, Limit, Who, console, fail, say, write_json
from deploy.cli.staff_pages import person
from deploy.cli.tables import WIDE, id_column, plain, table
from deploy.cli.words import age, id_text
from services.staff.actions import outboxes as outbox_actions
from services.staff.actions.outboxes import OutboxAction
from services.staff.actions.results import ActionResult
from shared.clock import system_clock
from shared.persistence import outbox
from shared.persistence.database import Connection, Database
from shared.persistence.outbox import QuarantinedMessage

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True)

OfService = Annotated[Service, typer.Argument(help="Whose outbox.", show_default=False)]
MessageId = Annotated[
    str, typer.Argument(metavar="ID", help="The message's id, or its last characters.", show_default=False)
]
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
    id_ = _noted(message_id, "release", service=service, who=who, reason=reason)
    done = _on(service, lambda connection: outbox.release(connection, [id_]))
    _report(id_, "it is published again, within a second" if done else "somebody else was faster", json=json)


@app.command("drop")
def drop(service: OfService, message_id: MessageId, *, reason: Reason, who: Who = "", json: Json = False) -> None:
    """Delete a quarantined message for good: nobody will ever hear of it. The audit goes on reporting what it would have caused."""
    id_ = _noted(message_id, "drop", service=service, who=who, reason=reason)
    done = _on(service, lambda connection: outbox.drop(connection, [id_]))
    _report(id_, "it is deleted" if done else "somebody else was faster", json=json)


def _noted(text: str, action: OutboxAction, *, service: Service, who: str, reason: str) -> UUID:
    """Note the action on this message in staff's journal, and return its id.

    Raises CliError if there is no such message, or a text is not fit for the journal.
    """
    found = _on(service, lambda connection: outbox.quarantined(connection, at_most=LISTED_MAX))
    quarantined = {message.id for message in found}
    message_id = one_among(text, quarantined)
    if message_id not in quarantined:
        fail(f"No message {message_id} is quarantined there.", REFUSED)
    noted: ActionResult = staff_pages.run(
        lambda database: outbox_actions.note_outbox_action(
            database, message_id, action, service=service.value, who=person(who), reason=reason
        )
    )
    if not noted.ok:
        fail(f"{noted.text}.", REFUSED)
    return message_id


def _report(message_id: UUID, text: str, *, json: bool) -> None:
    staff_pages.report([ActionResult(message_id, text)], json=json, done="done")


def _print(found: dict[str, list[QuarantinedMessage]]) -> None:
    terminal = console()
    rows = table()
    rows.add_column("service", no_wrap=True)
    wide = terminal.width >= WIDE
    length = short_length(message.id for messages in found.values() for message in messages)
    id_column(rows, "message", wide=wide)
    for title in ("type", "to", "since", "losses"):
        rows.add_column(title, overflow="fold")
    now = system_clock()
    for name, messages in found.items():
        for message in messages:
            to = f"{message.exchange or 'queue'} {message.routing_key}"
            rows.add_row(
                name,
                id_text(message.id, wide=wide, length=length),
                plain(message.type),
                plain(to),
                age(message.created_at, now),
                str(message.losses),
            )
    terminal.print(rows)


def _on(service: Service, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Do the work on the database of a service. Raises ConfigurationError, or CliError if the database does not answer."""

    async def on(database: Database) -> T:
        async with database.connection() as connection:
            return await work(connection)

    return staff_pages.run(on, of=service)
