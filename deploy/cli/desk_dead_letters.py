"""`remit dead-letters` at the staff desk: the same commands, asked of the desk's API (`desk_client`)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from uuid import UUID

from rich.console import Group, RenderableType
from rich.table import Table

from deploy.cli.desk_client import DeskClient
from deploy.cli.ids import refuse_unless_end, short_length, the_one, whole_id
from deploy.cli.output import MISUSED, CliError, console, fail, say, write_json
from deploy.cli.tables import WIDE, facts, id_column, panel, plain, table
from deploy.cli.words import age, id_text, money, time
from services.staff.actions.results import ActionRefusal, ActionResult
from services.staff.store import Selection
from shared.clock import system_clock

Row = Mapping[str, Any]
AT_ONCE_MAX = 50
"""Messages of one command. The desk has runs for more: they are previewed, try one first, and stop by themselves."""
BODY_SHOWN_MAX = 4_000
"""Characters."""
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def letter_of(desk: DeskClient, text: str) -> UUID:
    """The dead letter that this id or end of an id names. Raises CliError."""
    if (whole := whole_id(text)) is not None:
        return whole
    refuse_unless_end(text)
    found = {UUID(one["letter_id"]) for one in desk.get("/find", q=text)["found"] if one["letter_id"]}
    return the_one(text, sorted(id_ for id_ in found if str(id_).endswith(text.lower())))


def list_letters(desk: DeskClient, selection: Selection, ids: Sequence[str] | None, *, limit: int, json: bool) -> None:
    """Print the selected dead letters, latest first; those with these ids, if there are any."""
    named = (desk.get(f"/dead-letters/{letter_of(desk, text)}") for text in ids or ())
    rows = list(named if ids else islice(_rows(desk, selection), limit))
    if json:
        write_json(rows)
    elif not rows:
        say("No dead letters.", style="green")
    else:
        terminal = console()
        terminal.print(_table(rows, wide=terminal.width >= WIDE))
        say("`remit dead-letters show ID` shows everything about one.", style="dim")


def show_letter(desk: DeskClient, text: str, *, json: bool) -> None:
    """Print everything about one dead letter."""
    letter = desk.get(f"/dead-letters/{letter_of(desk, text)}")
    if json:
        write_json(letter)
    else:
        console().print(_page(letter))


def replay_letters(
    desk: DeskClient,
    given: Sequence[str],
    selection: Selection,
    *,
    charge_old: bool,
    confirm: Callable[[Sequence[Row]], None] | None,
) -> list[ActionResult]:
    """Replay dead letters: those that were `given`, or else the selected ones, of which `confirm` is asked first."""
    if charge_old:
        fail("At the desk a second person takes in what is old: preview a run there.", MISUSED)
    if given:
        return _on_each(desk, given, "replay")
    rows = list(islice(_rows(desk, selection), AT_ONCE_MAX + 1))
    if len(rows) > AT_ONCE_MAX:
        fail(f"More than {AT_ONCE_MAX} messages go as a run: preview it at the desk, under Failed messages.", MISUSED)
    if confirm is not None:
        confirm(rows)
    return _on_each(desk, [row["id"] for row in rows], "replay")


def discard_letters(desk: DeskClient, given: Sequence[str], reason: str) -> list[ActionResult]:
    """Give these dead letters up."""
    return _on_each(desk, given, "discard", reason=reason)


def _on_each(desk: DeskClient, given: Sequence[str], verb: str, **fields: object) -> list[ActionResult]:
    """Do this with each of them. One mistyped id keeps nothing from the others. Raises CliError if it is the only one."""
    if len(given) > AT_ONCE_MAX:
        fail(f"More than {AT_ONCE_MAX} messages go as a run: preview it at the desk, under Failed messages.", MISUSED)
    results: list[ActionResult] = []
    for text in dict.fromkeys(given):
        try:
            id_ = letter_of(desk, text)
            shown = desk.get(f"/dead-letters/{id_}")
            results.append(desk.act(id_, f"/dead-letters/{id_}/{verb}", version=shown["version"], **fields))
        except CliError as error:
            if len(given) == 1:
                raise
            results.append(ActionResult(None, str(error), ActionRefusal.UNKNOWN))
    return results


def _rows(desk: DeskClient, selection: Selection) -> Iterator[Row]:
    """The selected dead letters, page by page. With a beginning of time the desk lists them, and not only their groups."""
    asked = {
        "status": selection.status or "all",
        "queue": selection.queue,
        "reason": selection.reason,
        "type": selection.type,
        "until": selection.older_than and selection.older_than.isoformat(),
        "since": (selection.newer_than or _BEGINNING).isoformat(),
    }
    query = {name: str(value) for name, value in asked.items() if value is not None}
    while True:
        page = desk.get("/dead-letters", **query)
        yield from page["letters"]
        if page["next"] is None:
            return
        query["after"] = page["next"]


def _table(rows: Sequence[Row], *, wide: bool) -> Table:
    listed = table(expand=True)
    id_column(listed, "id", wide=wide)
    listed.add_column("message", no_wrap=True, overflow="ellipsis", ratio=3)
    listed.add_column("invoice", no_wrap=True, overflow="ellipsis", ratio=2)
    for title in ("amount", "last"):
        listed.add_column(title, no_wrap=True, justify="right")
    listed.add_column("status", no_wrap=True)
    ids = [UUID(row["id"]) for row in rows]
    now, length = system_clock(), short_length(ids)
    for id_, row in zip(ids, rows, strict=True):
        listed.add_row(
            id_text(id_, wide=wide, length=length),
            plain(row["name"]),
            plain(row["invoice_id"] or ""),
            plain(money(row["amount_minor"], row["currency"])),
            age(datetime.fromisoformat(row["last_seen"]), now),
            plain(row["status"]),
        )
    return listed


def _page(letter: Row) -> RenderableType:
    named = facts(
        ("status", letter["status"]),
        ("what happened", letter["happened"]),
        ("mistake", letter["mistake"]),
        ("why it cannot be replayed", letter["why_not_replay"]),
        ("invoice", letter["invoice_id"]),
        ("payment", letter["payment_id"]),
        ("amount", money(letter["amount_minor"], letter["currency"])),
        ("charges a card", "yes" if letter["charges"] else "no"),
        ("first seen", time(datetime.fromisoformat(letter["first_seen"]))),
        ("last seen", time(datetime.fromisoformat(letter["last_seen"]))),
        *((label.lower(), value) for label, value in letter["facts"]),
    )
    body = letter["body"]
    shown = f"not kept: {letter['why_no_body']}" if body is None else body[:BODY_SHOWN_MAX]
    cut = "\n… `--json` shows all of it" if body is not None and len(body) > BODY_SHOWN_MAX else ""
    history = table(expand=True)
    history.add_column("time", no_wrap=True)
    history.add_column("what happened", overflow="fold", ratio=1)
    for line in (*letter["history"], *letter["notes"]):
        history.add_row(time(datetime.fromisoformat(line["at"])), plain(line["text"], lines=True))
    return Group(
        panel(named, f"dead letter {letter['id']}"),
        panel(plain(shown + cut, lines=True), f"body, {letter['body_bytes']} bytes"),
        panel(history, "history"),
    )
