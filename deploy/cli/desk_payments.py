"""`remit payments` at the staff desk: the same commands, asked of the desk's API (`desk_client`)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from rich.console import Group, RenderableType
from rich.table import Table

from deploy.cli.desk_client import DeskClient
from deploy.cli.ids import one_among, short_length, whole_id
from deploy.cli.output import LISTED_MAX, console, say, write_json
from deploy.cli.tables import WIDE, facts, id_column, panel, plain, table
from deploy.cli.words import age, id_text, money, time
from shared.clock import system_clock

Row = Mapping[str, Any]


def payment_of(desk: DeskClient, text: str) -> UUID:
    """The payment that this id or end of an id names. An end is looked for among open cases. Raises CliError."""
    if (whole := whole_id(text)) is not None:
        return whole
    return one_among(text, [UUID(row["payment_id"]) for row in _cases(desk, "open", LISTED_MAX)])


def list_payments(desk: DeskClient, *, everything: bool, limit: int, json: bool) -> None:
    """Print the open cases, and the settled ones too if `everything`."""
    rows = _cases(desk, "open", limit)
    if everything:
        rows += _cases(desk, "settled", limit - len(rows))
    if json:
        write_json(rows)
    elif not rows:
        say("No payment is in doubt.", style="green")
    else:
        terminal = console()
        terminal.print(_table(rows, wide=terminal.width >= WIDE))
        say("`remit payments show PAYMENT_ID` shows everything about one.", style="dim")


def show_payment(desk: DeskClient, payment_id: UUID, *, json: bool) -> None:
    """Print everything about one payment."""
    case = desk.get(f"/cases/{payment_id}")
    if json:
        write_json(case)
    else:
        console().print(_page(case))


def _cases(desk: DeskClient, show: str, at_most: int) -> list[Row]:
    rows: list[Row] = []
    key: str | None = ""
    while key is not None and len(rows) < at_most:
        page = desk.get("/cases", show=show, after=key)
        rows += page["rows"]
        key = page["next"]
    return rows[:at_most]


def _table(rows: Sequence[Row], *, wide: bool) -> Table:
    listed = table(expand=True)
    id_column(listed, "payment", wide=wide)
    listed.add_column("invoice", no_wrap=True, overflow="ellipsis", ratio=2)
    listed.add_column("amount", no_wrap=True, justify="right")
    listed.add_column("state", no_wrap=True)
    listed.add_column("why", no_wrap=True, overflow="ellipsis", ratio=3)
    listed.add_column("since", no_wrap=True, justify="right")
    ids = [UUID(row["payment_id"]) for row in rows]
    now, length = system_clock(), short_length(ids)
    for id_, row in zip(ids, rows, strict=True):
        state = row["state"]
        listed.add_row(
            id_text(id_, wide=wide, length=length),
            plain(row["invoice_id"]),
            plain(money(row["amount_minor"], row["currency"]) or "?"),
            plain(state["text"].lower()),
            plain(state["sub"]),
            age(datetime.fromisoformat(row["since"]), now),
        )
    return listed


def _page(case: Row) -> RenderableType:
    state, proposal = case["state"], case["proposal"]
    proposed = f"{proposal['by']}: {proposal['words']}; a second person must agree, at the desk" if proposal else None
    named = facts(
        ("state", ", ".join(text for text in (state["text"].lower(), state["sub"]) if text)),
        ("version", str(case["version"]) if case["version"] else None),
        ("invoice", case["invoice_id"]),
        ("amount", money(case["amount_minor"], case["currency"]) or "?"),
        ("settled before as", case["settled_as"]),
        ("the gateway says", case["gateway_side"]),
        ("gateway id", case["gateway_id"] or "none is known"),
        ("since", time(datetime.fromisoformat(case["since"]))),
        ("proposal", proposed),
        ("who is on it", case["claimed_by"]),
        ("can be decided as", " or ".join(choice["value"] for choice in case["choices"]) or None),
    )
    parts: list[RenderableType] = [panel(named, f"payment {case['payment_id']}")]
    if case["calls"]:
        calls = [call for group in case["calls"] for call in group]
        parts.append(panel(_rows(calls, ("at", "step", "answer", "evidence")), "calls to the gateway"))
    if case["did"]:
        parts.append(panel(_rows(case["did"], ("at", "who", "text", "words")), "what people did"))
    return Group(*parts)


def _rows(rows: Sequence[Row], names: Sequence[str]) -> Table:
    listed = table(expand=True)
    for name in names[:-1]:
        listed.add_column(name if name != "text" else "did", overflow="fold")
    listed.add_column(names[-1], overflow="fold", ratio=1)
    for row in rows:
        cells = (time(datetime.fromisoformat(row[name])) if name == "at" else row[name] or "" for name in names)
        listed.add_row(*(plain(cell, lines=True) for cell in cells))
    return listed
