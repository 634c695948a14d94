"""`remit dead-letters`: messages that could not be handled. Staff list, replay and discard them, from a terminal or a script."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Annotated
from uuid import UUID

import orjson
import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy.cli import desk_dead_letters
from deploy.cli.desk_client import desk_of_environment
from deploy.cli.ids import short_length
from deploy.cli.output import (
    LISTED,
    LISTED_MAX,
    MISUSED,
    REFUSED,
    CliError,
    Json,
    Limit,
    Who,
    console,
    fail,
    say,
    write_json,
)
from deploy.cli.settings import StaffPagesSettings
from deploy.cli.staff_pages import journal_panel, one_id, person, report, run
from deploy.cli.tables import WIDE, facts, id_column, panel, plain, table
from deploy.cli.words import SECONDS_IN, age, id_text, money, short_type, time
from services.staff.actions import dead_letters as dead_letter_actions
from services.staff.actions.results import ActionRefusal, ActionResult
from services.staff.charges import charge_of
from services.staff.dead_letters import DeadLetter, DeadLetterRecord, DeadLetterStatus
from services.staff.editing import shown_body
from services.staff.store import JournalEntry, Selection
from shared.clock import system_clock
from shared.contracts.catalogue import BY_WIRE_NAME
from shared.messaging.codec import MalformedReason
from shared.messaging.topology import WORK_QUEUE_NAMES
from shared.observability.visible import visible
from shared.persistence.database import Database

BODY_SHOWN_MAX = 4_000
"""Characters."""
CHARGES_SHOWN_MAX = 20

app = typer.Typer(no_args_is_help=True)

Queue = Annotated[str | None, typer.Option(help="Only those that failed on this queue.")]
Reason = Annotated[str | None, typer.Option(help="Only those with this reason code.")]
Type = Annotated[
    str | None, typer.Option("--type", help="Only messages of this type: `PayInvoice`, or the whole name.")
]
OlderThan = Annotated[str | None, typer.Option(help="Only those last seen longer ago: `30s`, `15m`, `2h`, `7d`.")]
NewerThan = Annotated[str | None, typer.Option(help="Only those last seen within: `30s`, `15m`, `2h`, `7d`.")]
Ids = Annotated[
    list[str] | None, typer.Option("--id", help="Only this one. Its last characters are enough. Repeatable.")
]
DeadLetterIds = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids, or their last characters.")]
DeadLetterId = Annotated[str, typer.Argument(metavar="ID", help="The id, or its last characters.")]


@app.command("list")
def list_dead_letters(
    *,
    queue: Queue = None,
    reason: Reason = None,
    type_: Type = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    ids: Ids = None,
    status: Annotated[DeadLetterStatus, typer.Option(help="Only those with this status.")] = DeadLetterStatus.OPEN,
    everything: Annotated[bool, typer.Option("--all", help="Also those replayed or discarded.")] = False,
    limit: Limit = LISTED,
    json: Json = False,
) -> None:
    """Messages that could not be handled, latest first."""
    wanted = _selection(queue, reason, type_, older_than, newer_than, status=None if everything or ids else status)
    if (desk := desk_of_environment()) is not None:
        desk_dead_letters.list_letters(desk, wanted, ids, limit=limit, json=json)
        return

    async def look(database: Database) -> tuple[list[DeadLetterRecord], int]:
        selection = await _with_ids(database, wanted, ids)
        found = await dead_letter_actions.list_dead_letters(database, selection, at_most=limit)
        if not found[0]:
            await _refuse_unknown_values(database, selection)
        return found

    records, count = run(look)
    if json:
        write_json([_as_json(record) for record in records])
    elif not records:
        say("No dead letters.", style="green")
    else:
        terminal = console()
        terminal.print(_table(records, wide=terminal.width >= WIDE))
        say(f"{len(records)} of {count}. `remit dead-letters show ID` shows everything about one.", style="dim")


@app.command("show")
def show_dead_letter(dead_letter_id: DeadLetterId, *, json: Json = False) -> None:
    """Everything about one dead letter: why it failed, where it came from, its body, and what people did."""
    if (desk := desk_of_environment()) is not None:
        desk_dead_letters.show_letter(desk, dead_letter_id, json=json)
        return

    async def look(database: Database) -> tuple[DeadLetterRecord, list[JournalEntry]] | None:
        return await dead_letter_actions.show_dead_letter(
            database, await one_id(database, "dead_letters", dead_letter_id)
        )

    found = run(look)
    if found is None:
        fail("There is no dead letter of this id.", REFUSED)
    record, journal = found
    if json:
        write_json(_as_json(record) | _body_json(record.letter) | {"journal": [asdict(entry) for entry in journal]})
    else:
        console().print(_page(record, journal))


@app.command("replay")
def replay_dead_letters(
    dead_letter_ids: DeadLetterIds = None,
    *,
    queue: Queue = None,
    reason: Reason = None,
    type_: Type = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="Every open one.")] = False,
    who: Who = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before replaying several.")] = False,
    charge_old: Annotated[
        bool, typer.Option("--charge-old", help="Also what charges a card and is older than REPLAY_CHARGES_WITHIN_S.")
    ] = False,
    json: Json = False,
) -> None:
    """Send messages again to the queues they came from, under their own ids. It asks before it charges for an old command."""
    given = [*(dead_letter_ids or []), *(ids or [])]
    filters = (queue, reason, type_, older_than, newer_than)
    if not given and not everything and not any(filters):
        fail("Say which: IDs, a filter such as --queue, or --all.", MISUSED)
    if given and (everything or any(filters)):
        fail("Give either IDs or filters, not both.", MISUSED)
    wanted = _selection(*filters, status=None if given else DeadLetterStatus.OPEN)
    asks = not (yes or json)
    if (desk := desk_of_environment()) is not None:
        confirm = (lambda rows: _confirm_at_desk(len(rows))) if asks else None
        at_desk = desk_dead_letters.replay_letters(desk, given, wanted, charge_old=charge_old, confirm=confirm)
        report(at_desk, json=json, done="replayed")
        return
    old_after = _old_after()
    if not given:
        run(lambda database: _refuse_unknown_values(database, wanted))
    unknown, found = run(lambda database: _found(database, given))
    selection = replace(wanted, ids=found) if given else wanted
    shown: dict[UUID, str] = {}
    if asks:
        records, count = run(
            lambda database: dead_letter_actions.list_dead_letters(database, selection, at_most=LISTED_MAX)
        )
        if not given:
            _confirm(records, count)
        charge_old = charge_old or _confirm_charges(records, old_after)
        shown = {record.id: record.version for record in records}

    async def act(database: Database) -> list[ActionResult]:
        return unknown + await dead_letter_actions.replay(
            database,
            selection,
            who=person(who),
            old_after=None if charge_old else old_after,
            is_told=StaffPagesSettings.read().staff_replays == "on",
            as_shown=lambda record: shown.get(record.id, record.version) == record.version,
        )

    report(run(act), json=json, done="replayed")


@app.command("discard")
def discard_dead_letters(
    dead_letter_ids: DeadLetterIds = None,
    *,
    ids: Ids = None,
    reason: Annotated[str, typer.Option(help="Why it is given up; it stays in the journal.")],
    who: Who = "",
    json: Json = False,
) -> None:
    """Give messages up. The sender of a command is answered `rejected: discarded`."""
    given = [*(dead_letter_ids or []), *(ids or [])]
    if not given:
        fail("Say which: one or more IDs.", MISUSED)
    if (desk := desk_of_environment()) is not None:
        report(desk_dead_letters.discard_letters(desk, given, reason), json=json, done="discarded")
        return

    async def act(database: Database) -> list[ActionResult]:
        unknown, found = await _found(database, given)
        return unknown + await dead_letter_actions.discard(
            database, Selection(ids=found), who=person(who), reason=reason
        )

    report(run(act), json=json, done="discarded")


# -- which dead letters -----------------------------------------------------------------------------------------------------------------


async def _with_ids(database: Database, selection: Selection, texts: Sequence[str] | None) -> Selection:
    if not texts:
        return selection
    ids = [await one_id(database, "dead_letters", text) for text in texts]
    return replace(selection, ids=tuple(ids))


async def _found(database: Database, texts: Sequence[str]) -> tuple[list[ActionResult], tuple[UUID, ...]]:
    """The dead letters with these ids, and a refusal for each text that is no id of one. Raises CliError if it is the only one.

    One mistyped id keeps nothing from the others.
    """
    refused: list[ActionResult] = []
    ids: list[UUID] = []
    for text in texts:
        try:
            ids.append(await one_id(database, "dead_letters", text))
        except CliError as error:
            if len(texts) == 1:
                raise
            refused.append(ActionResult(None, str(error), ActionRefusal.UNKNOWN))
    return refused, tuple(ids)


def _selection(
    queue: str | None,
    reason: str | None,
    type_: str | None,
    older_than: str | None,
    newer_than: str | None,
    *,
    status: DeadLetterStatus | None,
) -> Selection:
    return Selection(
        queue=queue,
        reason=reason,
        type=type_,
        status=status,
        older_than=_ago("--older-than", older_than),
        newer_than=_ago("--newer-than", newer_than),
    )


async def _refuse_unknown_values(database: Database, selection: Selection) -> None:
    """Raises CliError for a filter whose value neither Remit nor any dead letter has: it is mistyped, and "none" would hide that."""
    if selection.queue is not None:
        _refuse_unknown(
            "--queue", selection.queue, WORK_QUEUE_NAMES, await dead_letter_actions.values_of(database, "queue")
        )
    if selection.reason is not None:
        _refuse_unknown(
            "--reason", selection.reason, MalformedReason, await dead_letter_actions.values_of(database, "reason")
        )
    if selection.type is not None:
        there = await dead_letter_actions.values_of(database, "type")
        names = [*there, *map(short_type, there), *BY_WIRE_NAME]
        _refuse_unknown("--type", selection.type, map(short_type, BY_WIRE_NAME), names)


def _refuse_unknown(option: str, given: str, ours: Iterable[str], there: Sequence[str]) -> None:
    known = sorted({*ours, *there})
    if given not in known:
        fail(
            f"{option} {given}: no dead letter has that, and none can. Those that there are: {', '.join(known)}.",
            MISUSED,
        )


def _ago(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if found is None:
        fail(f"{option} takes a number and a unit: 30s, 15m, 2h or 7d.", MISUSED)
    return system_clock() - timedelta(seconds=int(found[1]) * SECONDS_IN[found[2]])


def _old_after() -> timedelta:
    """The age from which a person has to say that a message still shall charge. Raises ConfigurationError."""
    return timedelta(seconds=StaffPagesSettings.read().replay_charges_within_s)


def _confirm_charges(records: Sequence[DeadLetterRecord], old_after: timedelta) -> bool:
    """Show what would charge a card although it is old, and ask. Returns whether a person said that it still shall."""
    now, total = system_clock(), Counter[str]()
    charges = [charge_of(record) for record in records if record.status is DeadLetterStatus.OPEN]
    old = sorted((one for one in charges if one and one.is_old(now, old_after)), key=attrgetter("since"))
    if not old:
        return False
    for number, charge in enumerate(old):
        if charge.currency is not None and charge.amount_minor is not None:
            total[charge.currency] += charge.amount_minor
        if number < CHARGES_SHOWN_MAX:
            about = f" for invoice {charge.invoice_id}" if charge.invoice_id else ""
            say(f"{charge.amount_text}{about}, sent {age(charge.since, now)} ago")
    if len(old) > CHARGES_SHOWN_MAX:
        say(f"… and {len(old) - CHARGES_SHOWN_MAX} more")
    unread = sum(charge.currency is None for charge in old)
    amounts = [money(amount, currency) for currency, amount in sorted(total.items())]
    amounts += [f"{unread} amounts that cannot be read here"] if unread else []
    if not typer.confirm(f"Charge {' and '.join(amounts)} in all, although these commands are old?", err=True):
        fail("Nothing was replayed.", REFUSED)
    return True


def _confirm(records: Sequence[DeadLetterRecord], count: int) -> None:
    if not records:
        say("No dead letters.", style="green")
        raise typer.Exit
    queues = Counter(record.letter.queue for record in records)
    where = ", ".join(f"{number} to {visible(queue)}" for queue, number in sorted(queues.items()))
    if not typer.confirm(f"Replay {count} messages ({where})?", err=True):
        fail("Nothing was replayed.", REFUSED)


def _confirm_at_desk(count: int) -> None:
    if not count:
        say("No dead letters.", style="green")
        raise typer.Exit
    if not typer.confirm(f"Replay {count} messages?", err=True):
        fail("Nothing was replayed.", REFUSED)


# -- for programs -----------------------------------------------------------------------------------------------------------------------


def _as_json(record: DeadLetterRecord) -> dict[str, object]:
    """One flat object: the latest failure, and the state of the record."""
    flat = asdict(record)
    letter: dict[str, object] = flat.pop("letter")
    for name in ("body", "replay_of", "generation"):
        letter.pop(name)
    return letter | flat


def _body_json(letter: DeadLetter) -> dict[str, object]:
    """The body as the desk shows it: what pays is hidden from programs, too."""
    body, hides = shown_body(letter)
    return {"body": None if letter.body is None else body, "hides": hides}


# -- for people -------------------------------------------------------------------------------------------------------------------------


def _table(records: Sequence[DeadLetterRecord], *, wide: bool) -> Table:
    listed = table(expand=True)
    id_column(listed, "id", wide=wide)
    listed.add_column("queue", no_wrap=True, overflow="ellipsis", ratio=4)
    listed.add_column("type", no_wrap=True, overflow="ellipsis", ratio=3)
    listed.add_column("reason", no_wrap=True, overflow="ellipsis", ratio=4)
    for title in ("tries", "seen", "last"):
        listed.add_column(title, no_wrap=True, justify="right")
    if mixed := any(record.status is not DeadLetterStatus.OPEN for record in records):
        listed.add_column("status", no_wrap=True)
    now, length = system_clock(), short_length(record.id for record in records)
    for record in records:
        letter = record.letter
        listed.add_row(
            id_text(record.id, wide=wide, length=length),
            plain(letter.queue),
            plain(short_type(letter.type)),
            plain(letter.reason),
            str(letter.tries),
            str(record.seen),
            age(record.last_seen, now),
            *([Text(record.status, style=_STATUS_STYLES[record.status])] if mixed else []),
        )
    return listed


_STATUS_STYLES = {
    DeadLetterStatus.OPEN: "yellow",
    DeadLetterStatus.REPLAYED: "green",
    DeadLetterStatus.DISCARDED: "dim",
}


def _page(record: DeadLetterRecord, journal: Sequence[JournalEntry]) -> RenderableType:
    letter = record.letter
    settled = record.settlement
    named = facts(
        ("status", f"{record.status}{f' by {settled.by} at {time(settled.at)}' if settled else ''}"),
        ("why", settled.reason if settled else None),
        ("failed on", letter.queue),
        ("reason", letter.reason),
        ("error", ": ".join(part for part in (letter.error_type, letter.error_text) if part)),
        ("tries", str(letter.tries)),
        ("dead-lettered by", "the broker" if letter.origin == "broker" else "its service"),
        ("times", f"arrived: {record.seen}, replayed: {record.replays}"),
        ("first seen", time(record.first_seen)),
        ("last seen", time(record.last_seen)),
        ("type", letter.type),
        ("event id", str(letter.event_id) if letter.event_id else None),
        ("message id", letter.message_id or f"none; a replay goes under {record.id}"),
        ("correlation", letter.correlation_id),
        ("sender", letter.sender),
        ("reply to", letter.reply_to),
        ("published to", f"{letter.exchange or '(default)'} with {letter.routing_key or 'no routing key'}"),
        ("content type", letter.content_type),
        ("headers", orjson.dumps(letter.headers, default=str).decode() if letter.headers else None),
    )
    return Group(
        panel(named, f"dead letter {record.id}"),
        panel(_body(letter), f"body, {letter.body_bytes} bytes"),
        *journal_panel(journal),
    )


def _body(letter: DeadLetter) -> Text:
    if letter.body is None:
        return Text(f"not kept: {letter.withheld}", style="yellow")
    text, _ = shown_body(letter)
    cut = len(text) > BODY_SHOWN_MAX
    return plain(text[:BODY_SHOWN_MAX] + ("\n… `--json` shows all of it" if cut else ""), lines=True)
