"""`remit dead-letters` and `remit payments`: what staff do, from a terminal or a script.

Exit codes: 0 done, 1 refused (at least one of several), 2 wrong usage or configuration. `--json` writes one JSON value to stdout; sentences
for people go to stderr. Nothing that a sender wrote reaches the terminal with control characters in it.
"""

import asyncio
import getpass
import os
import re
import unicodedata
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeVar
from uuid import UUID

import orjson
import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from services.staff import actions, domain
from services.staff.actions import ActionResult, JournalEntry, KeptCase, Selection
from services.staff.dead_letters import DeadLetter, DeadLetterRecord, DeadLetterStatus
from services.staff.domain import Case, Resolution
from shared import crash_points
from shared.clock import system_clock
from shared.contracts.currencies import in_major_units
from shared.observability.logs import configure_logs
from shared.persistence import schema
from shared.persistence.database import AWAY_ERRORS, Database
from shared.settings import ConfigurationError, EnvironmentVariables

T = TypeVar("T")

REFUSED, MISUSED = 1, 2
MIGRATIONS = Path(__file__).parent / "migrations"
LISTED = 50
"""Rows that a list shows unless told otherwise: two screens."""
LISTED_MAX = 10_000
WIDE = 120
"""Columns of a terminal from which on ids are shown whole."""
SHORT_ID = 8
PREFIX_MIN = 4
BODY_SHOWN_MAX = 4_000

dead_letters = typer.Typer(name="dead-letters", no_args_is_help=True, help="Messages that could not be handled.")
payments = typer.Typer(name="payments", no_args_is_help=True, help="Payments whose outcome is unknown.")

# -- options ---------------------------------------------------------------------------------------------------------------------------

Json = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
Who = Annotated[
    str, typer.Option(envvar=["REMIT_WHO", "USER"], show_envvar=False, help="Who acts. Default: you ($USER).")
]
Queue = Annotated[str | None, typer.Option(help="Only those that failed on this queue.")]
Reason = Annotated[str | None, typer.Option(help="Only those with this reason code.")]
Type = Annotated[
    str | None, typer.Option("--type", help="Only messages of this type: `PayInvoice`, or the whole name.")
]
OlderThan = Annotated[str | None, typer.Option(help="Only those last seen longer ago: `30s`, `15m`, `2h`, `7d`.")]
NewerThan = Annotated[str | None, typer.Option(help="Only those last seen within: `30s`, `15m`, `2h`, `7d`.")]
Ids = Annotated[list[str] | None, typer.Option("--id", help="This one; its first characters do. Repeatable.")]
LetterIds = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Which; the first characters do.")]
LetterId = Annotated[str, typer.Argument(metavar="ID", help="Which; the first characters do.")]
PaymentId = Annotated[str, typer.Argument(metavar="PAYMENT_ID", help="Which; the first characters do.")]
Limit = Annotated[int, typer.Option(min=1, max=LISTED_MAX, help="At most so many rows.")]

# -- dead letters ----------------------------------------------------------------------------------------------------------------------


@dead_letters.command("list")
def list_dead_letters(
    *,
    queue: Queue = None,
    reason: Reason = None,
    type_: Type = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    ids: Ids = None,
    status: Annotated[DeadLetterStatus, typer.Option(help="Only those that stand so.")] = DeadLetterStatus.OPEN,
    everything: Annotated[bool, typer.Option("--all", help="Also those replayed or discarded.")] = False,
    limit: Limit = LISTED,
    json: Json = False,
) -> None:
    """What could not be handled, latest first."""
    wanted = _selection(queue, reason, type_, older_than, newer_than, status=None if everything or ids else status)

    async def look(database: Database) -> tuple[list[DeadLetterRecord], int]:
        selection = await _with_ids(database, wanted, ids)
        return await actions.list_dead_letters(database, selection, at_most=limit)

    records, count = _run(look)
    if json:
        _write_json([_letter_json(record) for record in records])
    elif not records:
        _say("No dead letters.", style="green")
    else:
        console = Console()
        console.print(_letters_table(records, wide=console.width >= WIDE))
        _say(f"{len(records)} of {count}. `remit dead-letters show ID` says everything about one.", style="dim")


@dead_letters.command("show")
def show_dead_letter(letter_id: LetterId, *, json: Json = False) -> None:
    """Everything about one: why, from where, its body, and what people did."""

    async def look(database: Database) -> tuple[DeadLetterRecord, list[JournalEntry]] | None:
        return await actions.show_dead_letter(database, await _one_id(database, "dead_letters", letter_id))

    found = _run(look)
    if found is None:
        _fail("There is no dead letter of this id.", REFUSED)
    record, journal = found
    if json:
        _write_json(
            _letter_json(record) | _body_json(record.letter) | {"journal": [asdict(entry) for entry in journal]}
        )
    else:
        Console().print(_letter_page(record, journal))


@dead_letters.command("replay")
def replay_dead_letters(
    letter_ids: LetterIds = None,
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
    json: Json = False,
) -> None:
    """Send messages again to the queues they came from, under their own ids."""
    given = [*(letter_ids or []), *(ids or [])]
    filters = (queue, reason, type_, older_than, newer_than)
    if not given and not everything and not any(filters):
        _fail("Say which: IDs, a filter such as --queue, or --all.", MISUSED)
    if given and (everything or any(filters)):
        _fail("Give either IDs or filters, not both.", MISUSED)
    wanted = _selection(*filters, status=None if given else DeadLetterStatus.OPEN)
    if not given and not yes:
        _confirm(_run(lambda database: actions.list_dead_letters(database, wanted, at_most=LISTED_MAX)))

    async def act(database: Database) -> list[ActionResult]:
        return await actions.replay(database, await _with_ids(database, wanted, given), who=_person(who))

    _report(_run(act), json=json, done="replayed")


@dead_letters.command("discard")
def discard_dead_letters(
    letter_ids: LetterIds = None,
    *,
    ids: Ids = None,
    reason: Annotated[str, typer.Option(help="Why it is given up; it stays in the journal.")],
    who: Who = "",
    json: Json = False,
) -> None:
    """Give messages up. The sender of a command is answered `rejected: discarded`."""
    given = [*(letter_ids or []), *(ids or [])]
    if not given:
        _fail("Say which: one or more IDs.", MISUSED)

    async def act(database: Database) -> list[ActionResult]:
        selection = await _with_ids(database, Selection(), given)
        return await actions.discard(database, selection, who=_person(who), reason=reason)

    _report(_run(act), json=json, done="discarded")


# -- payments --------------------------------------------------------------------------------------------------------------------------


@payments.command("in-doubt")
def list_payments(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are settled.")] = False,
    limit: Limit = LISTED,
    json: Json = False,
) -> None:
    """Payments of which nobody knows, or which wait for a decision; the oldest first."""
    cases = _run(lambda database: actions.list_cases(database, open_only=not everything, at_most=limit))
    if json:
        _write_json([_case_json(kept) for kept in cases])
    elif not cases:
        _say("No payment is in doubt.", style="green")
    else:
        console = Console()
        console.print(_cases_table(cases, wide=console.width >= WIDE))
        _say("`remit payments show PAYMENT_ID` says everything about one.", style="dim")


@payments.command("show")
def show_payment(payment_id: PaymentId, *, json: Json = False) -> None:
    """Everything known of one: every attempt, every answer, and what people did."""

    async def look(database: Database) -> tuple[KeptCase, list[JournalEntry]] | None:
        return await actions.show_case(database, await _one_id(database, "cases", payment_id))

    found = _run(look)
    if found is None:
        _fail("There is no case of this payment.", REFUSED)
    kept, journal = found
    if json:
        _write_json(_case_json(kept) | {"journal": [asdict(entry) for entry in journal]})
    else:
        Console().print(_case_page(kept, journal))


@payments.command("ask")
def ask_payment(payment_id: PaymentId, *, who: Who = "", json: Json = False) -> None:
    """Have the gateway asked now."""

    async def act(database: Database) -> list[ActionResult]:
        return [await actions.ask(database, await _one_id(database, "cases", payment_id), who=_person(who))]

    _report(_run(act), json=json, done="asked")


@payments.command("resolve")
def resolve_payment(
    payment_id: PaymentId,
    resolution: Annotated[Resolution, typer.Argument(help="What happened to the money.")],
    *,
    version: Annotated[int, typer.Option(min=1, help="The version you looked at, as `show` gives it.")],
    evidence: Annotated[str, typer.Option(help="What you saw, and where.")],
    reason: Annotated[str, typer.Option(help="Why you decide so.")],
    receipt: Annotated[
        str | None, typer.Option(help="The gateway's receipt number; a captured payment needs it.")
    ] = None,
    who: Who = "",
    json: Json = False,
) -> None:
    """Settle a payment in doubt, on the version that you looked at."""

    async def act(database: Database) -> list[ActionResult]:
        result = await actions.resolve(
            database,
            await _one_id(database, "cases", payment_id),
            resolution=resolution,
            expected_version=version,
            evidence=evidence,
            reason=reason,
            who=_person(who),
            receipt_number=receipt,
        )
        return [result]

    _report(_run(act), json=json, done="decided")


# -- running ---------------------------------------------------------------------------------------------------------------------------


def _run(work: Callable[[Database], Awaitable[T]]) -> T:
    """Do it on the staff database; every trouble with it is one sentence and exit code 2."""
    try:
        if "REMIT_FAULT" in os.environ:
            configure_logs("remit", level="WARNING")
            crash_points.arm_from_environment()
        return asyncio.run(_on_database(work))
    except ConfigurationError as error:
        _fail(str(error), MISUSED)
    except AWAY_ERRORS as error:
        _fail(
            f"The staff database does not answer ({type(error).__name__}): is STAFF_DATABASE_URL right and PostgreSQL up? "
            "What was begun is done whole or not at all; doing it again does nothing twice.",
            MISUSED,
        )


async def _on_database(work: Callable[[Database], Awaitable[T]]) -> T:
    database = await Database.open(
        EnvironmentVariables().database_url("staff"), name="remit staff cli", connections_max=1
    )
    try:
        async with database.connection() as connection:
            if (problem := await schema.pending(connection, MIGRATIONS)) is not None:
                raise ConfigurationError(f"STAFF_DATABASE_URL: {problem}.")
        return await work(database)
    finally:
        await database.close()


async def _one_id(database: Database, table: Literal["dead_letters", "cases"], text: str) -> UUID:
    """The id that begins so; a whole one need not exist."""
    try:
        return UUID(text)
    except ValueError:
        pass
    if len(text) < PREFIX_MIN or not re.fullmatch(r"[0-9A-Fa-f-]+", text):
        _fail(f"{_printable(text)!r} is no id: give it whole, or its first characters, at least {PREFIX_MIN}.", MISUSED)
    found = await actions.ids_like(database, table, text)
    if len(found) != 1:
        _fail(f"{'More than one' if found else 'No'} id begins with {text}.", MISUSED if found else REFUSED)
    return found[0]


async def _with_ids(database: Database, selection: Selection, texts: Sequence[str] | None) -> Selection:
    if not texts:
        return selection
    ids = [await _one_id(database, "dead_letters", text) for text in texts]
    return replace(selection, ids=tuple(ids))


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


_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _ago(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if found is None:
        _fail(f"{option} takes a number and a unit: 30s, 15m, 2h or 7d.", MISUSED)
    return system_clock() - timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def _person(who: str) -> str:
    if who.strip():
        return who.strip()
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        _fail("Nobody knows who you are: say --who NAME.", MISUSED)


def _confirm(found: tuple[list[DeadLetterRecord], int]) -> None:
    records, count = found
    if not records:
        _say("No dead letters.", style="green")
        raise typer.Exit
    queues = Counter(record.letter.queue for record in records)
    where = ", ".join(f"{number} to {queue}" for queue, number in sorted(queues.items()))
    if not typer.confirm(f"Replay {count} messages ({where})?", err=True):
        _fail("Nothing was replayed.", REFUSED)


# -- telling ---------------------------------------------------------------------------------------------------------------------------


def _say(sentence: str, *, style: str = "") -> None:
    Console(stderr=True).print(Text(sentence, style=style), soft_wrap=True)


def _fail(sentence: str, code: int) -> NoReturn:
    _say(sentence, style="red")
    raise typer.Exit(code)


def _report(results: Sequence[ActionResult], *, json: bool, done: str) -> None:
    refused = [result for result in results if not result.ok]
    if json:
        _write_json([asdict(result) | {"ok": result.ok} for result in results])
    else:
        for result in results:
            line = Text(str(result.subject) if result.subject else "", style="cyan")
            line.append(": " if result.subject else "", style="default")
            line.append(_printable(result.text), style="red" if result.refusal else "green")
            Console(stderr=result.refusal is not None).print(line, soft_wrap=True)
        if len(results) != 1:
            _say(f"{len(results) - len(refused)} {done}, {len(refused)} refused.", style="dim")
    if refused:
        raise typer.Exit(REFUSED)


def _write_json(value: object) -> None:
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z, default=str).decode())


def _letter_json(record: DeadLetterRecord) -> dict[str, object]:
    """One flat object: the failure seen last, and how the record stands."""
    flat = asdict(record)
    letter: dict[str, object] = flat.pop("letter")
    for name in ("body", "replay_of", "generation"):
        letter.pop(name)
    return letter | flat


def _body_json(letter: DeadLetter) -> dict[str, object]:
    if letter.body is None:
        return {"body": None, "body_encoding": None}
    try:
        return {"body": letter.body.decode(), "body_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"body": b64encode(letter.body).decode(), "body_encoding": "base64"}


def _case_json(kept: KeptCase) -> dict[str, object]:
    flat = asdict(kept)
    case: dict[str, object] = flat.pop("case")
    case["decisions"] = sorted(domain.decisions_for(kept.case.status))
    case["decision_on_its_way"] = kept.case.decision_on_its_way is not None
    return case | flat


# -- tables and pages ------------------------------------------------------------------------------------------------------------------


def _letters_table(records: Sequence[DeadLetterRecord], *, wide: bool) -> Table:
    table = _table()
    table.add_column("id", no_wrap=True, style="cyan", min_width=36 if wide else SHORT_ID)
    table.add_column("queue", no_wrap=True, overflow="ellipsis", ratio=4)
    table.add_column("type", no_wrap=True, overflow="ellipsis", ratio=3)
    table.add_column("reason", no_wrap=True, overflow="ellipsis", ratio=4)
    for title in ("tries", "seen", "last"):
        table.add_column(title, no_wrap=True, justify="right")
    if mixed := any(record.status is not DeadLetterStatus.OPEN for record in records):
        table.add_column("status", no_wrap=True)
    now = system_clock()
    for record in records:
        letter = record.letter
        table.add_row(
            _id(record.id, wide=wide),
            _plain(letter.queue),
            _plain(_short_type(letter.type)),
            _plain(letter.reason),
            str(letter.tries),
            str(record.seen),
            _age(record.last_seen, now),
            *([Text(record.status, style=_STATUS_STYLES[record.status])] if mixed else []),
        )
    return table


_STATUS_STYLES = {
    DeadLetterStatus.OPEN: "yellow",
    DeadLetterStatus.REPLAYED: "green",
    DeadLetterStatus.DISCARDED: "dim",
}


def _letter_page(record: DeadLetterRecord, journal: Sequence[JournalEntry]) -> RenderableType:
    letter = record.letter
    settled = record.settlement
    facts = _facts(
        ("status", f"{record.status}{f' by {settled.by} at {_time(settled.at)}' if settled else ''}"),
        ("why", settled.reason if settled else None),
        ("failed on", letter.queue),
        ("reason", letter.reason),
        ("error", ": ".join(part for part in (letter.error_type, letter.error_text) if part)),
        ("tries", str(letter.tries)),
        ("set aside by", "the broker" if letter.origin == "broker" else "its service"),
        ("times", f"arrived: {record.seen}, replayed: {record.replays}"),
        ("first seen", _time(record.first_seen)),
        ("last seen", _time(record.last_seen)),
        ("type", letter.type),
        ("event id", str(letter.event_id) if letter.event_id else None),
        ("message id", letter.message_id or f"none; a replay goes under {record.id}"),
        ("correlation", letter.correlation_id),
        ("reply to", letter.reply_to),
        ("published to", f"{letter.exchange or '(default)'} with {letter.routing_key or 'no routing key'}"),
        ("content type", letter.content_type),
        ("headers", orjson.dumps(letter.headers, default=str).decode() if letter.headers else None),
    )
    return Group(
        Panel(facts, title=f"dead letter {record.id}", title_align="left", border_style="dim"),
        Panel(_body(letter), title=f"body, {letter.body_bytes} bytes", title_align="left", border_style="dim"),
        *_journal_panel(journal),
    )


def _body(letter: DeadLetter) -> Text:
    if letter.body is None:
        return Text(f"not kept: {letter.withheld}", style="yellow")
    try:
        text = orjson.dumps(orjson.loads(letter.body), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        text = letter.body.decode("utf-8", "backslashreplace")
    cut = len(text) > BODY_SHOWN_MAX
    return _plain(text[:BODY_SHOWN_MAX] + ("\n… `--json` has it whole" if cut else ""))


def _cases_table(cases: Sequence[KeptCase], *, wide: bool) -> Table:
    table = _table()
    table.add_column("payment", no_wrap=True, style="cyan", min_width=36 if wide else SHORT_ID)
    table.add_column("invoice", no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column("amount", no_wrap=True, justify="right")
    table.add_column("state", no_wrap=True)
    table.add_column("reason", no_wrap=True, overflow="ellipsis", ratio=3)
    for title in ("version", "since"):
        table.add_column(title, no_wrap=True, justify="right")
    now = system_clock()
    for kept in cases:
        case = kept.case
        table.add_row(
            _id(case.payment_id, wide=wide),
            _plain(case.invoice_id),
            _amount(case),
            _state(case),
            _plain(case.reason),
            str(case.version),
            _age(kept.opened_at, now),
        )
    return table


def _state(case: Case) -> Text:
    style = "red" if case.status in {domain.CaseStatus.NEEDS_DECISION, domain.CaseStatus.REFUND_FAILED} else "yellow"
    text = Text(case.status.replace("_", " "), style=style if case.is_open else "green")
    if case.decision_on_its_way is not None:
        text.append(" …", style="dim")
    return text


def _case_page(kept: KeptCase, journal: Sequence[JournalEntry]) -> RenderableType:
    case = kept.case
    coming = case.decision_on_its_way
    facts = _facts(
        ("state", f"{_state(case).plain}{f', decided by {case.decided_by}' if case.decided_by else ''}"),
        ("version", str(case.version)),
        ("reason", case.reason),
        ("invoice", case.invoice_id),
        ("amount", _amount(case)),
        ("gateway id", case.gateway_id or "none is known"),
        ("correlation", kept.correlation_id),
        ("open since", _time(kept.opened_at)),
        ("last news", _time(kept.updated_at)),
        ("on its way", f"{coming.resolution.replace('_', ' ')}, decided by {coming.by}" if coming else None),
    )
    parts: list[RenderableType] = [
        Panel(facts, title=f"payment {case.payment_id}", title_align="left", border_style="dim")
    ]
    if case.attempts:
        parts.append(Panel(_attempts(case), title="calls to the gateway", title_align="left", border_style="dim"))
    if case.refusals:
        parts.append(Panel(_refusals(case), title="decisions refused", title_align="left", border_style="red"))
    parts += _journal_panel(journal)
    if (fitting := sorted(domain.decisions_for(case.status))) and coming is None:
        receipt = " --receipt NUMBER" if "captured" in fitting else ""
        command = f"remit payments resolve {case.payment_id} {'|'.join(fitting)} --version {case.version}"
        parts.append(Text(f'To settle it: {command}{receipt} --evidence "…" --reason "…"', style="dim"))
    return Group(*parts)


def _attempts(case: Case) -> Table:
    table = _table()
    for title in ("time", "step", "answer"):
        table.add_column(title, no_wrap=True)
    table.add_column("evidence", overflow="fold", ratio=1)
    for attempt in case.attempts:
        table.add_row(_time(attempt.at), _plain(attempt.step), _plain(attempt.answer), _plain(attempt.evidence))
    return table


def _refusals(case: Case) -> Table:
    table = _table()
    for title in ("who", "decided", "refused because", "it stood as"):
        table.add_column(title, overflow="fold")
    for refused in case.refusals:
        table.add_row(
            _plain(refused.decided_by),
            refused.resolution.replace("_", " "),
            _plain(refused.reason),
            _plain(f"{refused.state}, version {refused.version}"),
        )
    return table


def _journal_panel(journal: Sequence[JournalEntry]) -> list[RenderableType]:
    if not journal:
        return []
    table = _table()
    for title in ("time", "who", "did"):
        table.add_column(title, no_wrap=True)
    table.add_column("details", overflow="fold", ratio=1)
    for entry in journal:
        details = ", ".join(f"{name}: {value}" for name, value in entry.details.items() if value is not None)
        table.add_row(_time(entry.at), _plain(entry.who), entry.action, _plain(details))
    return [Panel(table, title="what people did", title_align="left", border_style="dim")]


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True, header_style="bold", padding=(0, 1, 0, 0))


def _facts(*facts: tuple[str, str | None]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        if value:
            grid.add_row(name, _plain(value))
    return grid


def _plain(text: str | None) -> Text:
    """Never markup: it may be a sender's."""
    return Text(_printable(text or ""))


def _printable(text: str) -> str:
    """Escape sequences would act on the terminal."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co"} else f"\\u{ord(c):04x}"
        for c in text
    )


def _id(id_: UUID, *, wide: bool) -> str:
    return str(id_) if wide else str(id_)[:SHORT_ID]


def _short_type(type_: str | None) -> str:
    """`remit.invoice.PayInvoice.v1` -> `PayInvoice`."""
    found = re.fullmatch(r"remit\.\w+\.(\w+)\.v\d+", type_ or "")
    return found[1] if found else type_ or "?"


def _amount(case: Case) -> str:
    """Unknown while only an outcome has told of the payment."""
    if case.amount_minor is None or case.currency is None:
        return "?"
    return in_major_units(case.amount_minor, case.currency)


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _age(moment: datetime, now: datetime) -> str:
    seconds = max(0, int((now - moment).total_seconds()))
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _SECONDS[unit]:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"
