"""`remit payments`: payments whose outcome is unknown. Staff list them, ask the gateway and settle them, from a terminal or a script."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Literal
from uuid import UUID

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy.cli import desk_payments
from deploy.cli.desk_client import desk_of_environment
from deploy.cli.ids import short_length
from deploy.cli.output import LISTED, REFUSED, Json, Limit, Who, console, fail, say, write_json
from deploy.cli.staff_pages import journal_panel, one_id, person, report, run
from deploy.cli.tables import WIDE, facts, id_column, panel, plain, table
from deploy.cli.words import age, id_text, money, time
from services.staff import domain
from services.staff.actions import payments as payment_actions
from services.staff.actions import proposals as proposal_actions
from services.staff.actions.proposing import proposed_text
from services.staff.actions.results import ActionResult
from services.staff.domain import Case
from services.staff.store import JournalEntry, KeptCase
from shared.clock import system_clock
from shared.ids import new_id
from shared.persistence.database import Database

app = typer.Typer(no_args_is_help=True)

Resolution = Literal["captured", "not_charged", "refunded", "not_refunded", "refund_again", "give_back"]
"""All of `domain.Resolution` but `reopen`, which is a command of its own."""
Version = Annotated[int, typer.Option(min=1, help="The version of the case that you looked at: `show` prints it.")]
PaymentId = Annotated[str, typer.Argument(metavar="PAYMENT_ID", help="The payment's id, or its last characters.")]


@app.command("in-doubt")
def list_payments(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are settled.")] = False,
    limit: Limit = LISTED,
    json: Json = False,
) -> None:
    """Payments whose outcome is unknown, or that wait for a decision; the oldest first."""
    if (desk := desk_of_environment()) is not None:
        desk_payments.list_payments(desk, everything=everything, limit=limit, json=json)
        return
    cases = run(lambda database: payment_actions.list_cases(database, open_only=not everything, at_most=limit))
    if json:
        write_json([_as_json(kept) for kept in cases])
    elif not cases:
        say("No payment is in doubt.", style="green")
    else:
        terminal = console()
        terminal.print(_table(cases, wide=terminal.width >= WIDE))
        say("`remit payments show PAYMENT_ID` shows everything about one.", style="dim")


@app.command("show")
def show_payment(payment_id: PaymentId, *, json: Json = False) -> None:
    """Everything known about one payment: every attempt, every answer of the gateway, and what people did."""
    if (desk := desk_of_environment()) is not None:
        desk_payments.show_payment(desk, desk_payments.payment_of(desk, payment_id), json=json)
        return

    async def look(database: Database) -> tuple[KeptCase, list[JournalEntry]] | None:
        return await payment_actions.show_case(database, await one_id(database, "cases", payment_id))

    found = run(look)
    if found is None:
        fail("There is no case of this payment.", REFUSED)
    kept, journal = found
    if json:
        write_json(_as_json(kept) | {"journal": [asdict(entry) for entry in journal]})
    else:
        console().print(_page(kept, journal))


@app.command("ask")
def ask_payment(
    payment_id: PaymentId,
    *,
    invoice: Annotated[
        str | None,
        typer.Option(help="The invoice of a payment that is no case. It becomes one, with what the gateway says."),
    ] = None,
    who: Who = "",
    json: Json = False,
) -> None:
    """Have the payment gateway asked now, however the payment stands."""

    if (at_desk := _at_desk(payment_id, "ask", invoice_id=invoice)) is not None:
        report(at_desk, json=json, done="asked")
        return

    async def act(database: Database) -> list[ActionResult]:
        id_ = await one_id(database, "cases", payment_id)
        return [await payment_actions.ask(database, id_, who=person(who), invoice_id=invoice)]

    report(run(act), json=json, done="asked")


@app.command("resolve")
def resolve_payment(
    payment_id: PaymentId,
    resolution: Annotated[Resolution, typer.Argument(help="What happened to the money, or what shall happen to it.")],
    *,
    version: Version,
    evidence: Annotated[str, typer.Option(help="What you saw, and where.")],
    reason: Annotated[str, typer.Option(help="Why you decide this.")],
    receipt: Annotated[
        str | None, typer.Option(help="The gateway's receipt number; a captured payment needs it.")
    ] = None,
    who: Who = "",
    json: Json = False,
) -> None:
    """Settle a payment in doubt. It fails if the case is no longer at the version that you looked at.

    Above the limit (STAFF_SECOND_PERSON) nothing is sent: it is proposed, and a second person must agree at the desk.
    """

    if (
        at_desk := _at_desk(
            payment_id,
            "decide",
            resolution=resolution,
            version=version,
            evidence=evidence,
            reason=reason,
            receipt_number=receipt,
        )
    ) is not None:
        report(at_desk, json=json, done="decided")
        return

    async def act(database: Database) -> list[ActionResult]:
        result = await payment_actions.resolve(
            database,
            await one_id(database, "cases", payment_id),
            resolution=resolution,
            expected_version=version,
            evidence=evidence,
            reason=reason,
            who=person(who),
            receipt_number=receipt,
        )
        return [result]

    report(run(act), json=json, done="decided")


@app.command("reopen")
def reopen_payment(
    payment_id: PaymentId,
    *,
    version: Version,
    reason: Annotated[str, typer.Option(help="Why the decision was wrong.")],
    evidence: Annotated[str | None, typer.Option(help="What you saw, and where, if that is not in the reason.")] = None,
    who: Who = "",
    json: Json = False,
) -> None:
    """Take a wrong decision back. The payment is a case again, and the gateway is asked about it."""

    if (at_desk := _at_desk(payment_id, "reopen", version=version, reason=reason, evidence=evidence)) is not None:
        report(at_desk, json=json, done="reopened")
        return

    async def act(database: Database) -> list[ActionResult]:
        result = await payment_actions.resolve(
            database,
            await one_id(database, "cases", payment_id),
            resolution="reopen",
            expected_version=version,
            evidence=evidence or reason,
            reason=reason,
            who=person(who),
        )
        return [result]

    report(run(act), json=json, done="reopened")


@app.command("withdraw")
def withdraw_proposal(payment_id: PaymentId, *, who: Who = "", json: Json = False) -> None:
    """Take back what you proposed and nobody has agreed with yet."""

    if (at_desk := _at_desk(payment_id, "withdraw")) is not None:
        report(at_desk, json=json, done="taken back")
        return

    async def act(database: Database) -> list[ActionResult]:
        id_ = await one_id(database, "cases", payment_id)
        return [await proposal_actions.withdraw(database, id_, who=person(who))]

    report(run(act), json=json, done="taken back")


@app.command("refund")
def refund_payment(
    payment_id: PaymentId,
    *,
    reason: Annotated[str, typer.Option(help="Why.")],
    amount_minor: Annotated[
        int | None,
        typer.Option(
            min=1, help="In the minor unit of the currency: 1250 is 12.50 EUR.", show_default="all that is left"
        ),
    ] = None,
    invoice: Annotated[
        str | None, typer.Option(help="The invoice that it paid.", show_default="that of the payment's case")
    ] = None,
    currency: Annotated[str | None, typer.Option(help="ISO 4217.", show_default="that of the payment's case")] = None,
    id_: Annotated[
        UUID | None,
        typer.Option("--id", help="Ask for the refund of this id again: it is made once.", show_default="a new one"),
    ] = None,
    who: Who = "",
    json: Json = False,
) -> None:
    """Give back what paid an invoice, or a part of it."""

    if (
        at_desk := _at_desk(
            payment_id,
            "refund",
            refund_id=id_ and str(id_),
            amount_minor=amount_minor,
            reason=reason,
            invoice_id=invoice,
            currency=currency,
        )
    ) is not None:
        report(at_desk, json=json, done="asked for")
        return

    async def act(database: Database) -> list[ActionResult]:
        result = await payment_actions.refund(
            database,
            await one_id(database, "cases", payment_id),
            refund_id=id_ or new_id(),
            reason=reason,
            who=person(who),
            amount_minor=amount_minor,
            currency=currency,
            invoice_id=invoice,
        )
        return [result]

    report(run(act), json=json, done="asked for")


def _at_desk(payment_id: str, verb: str, **fields: object) -> list[ActionResult] | None:
    """What the desk that REMIT_DESK_URL names says to this act, in the name of its token. None if there is no such desk."""
    desk = desk_of_environment()
    if desk is None:
        return None
    id_ = desk_payments.payment_of(desk, payment_id)
    return [desk.act(id_, f"/cases/{id_}/{verb}", **fields)]


# -- for programs -----------------------------------------------------------------------------------------------------------------------


def _as_json(kept: KeptCase) -> dict[str, object]:
    flat = asdict(kept)
    case: dict[str, object] = flat.pop("case")
    case["decisions"] = sorted(domain.decisions_for(kept.case))
    coming, waits = kept.case.decision_on_its_way is not None, flat.pop("decision_waits")
    case["decision_on_its_way"] = coming and not waits
    case["decision_waiting"] = coming and waits
    return case | flat


# -- for people -------------------------------------------------------------------------------------------------------------------------


def _table(cases: Sequence[KeptCase], *, wide: bool) -> Table:
    listed = table(expand=True)
    id_column(listed, "payment", wide=wide)
    listed.add_column("invoice", no_wrap=True, overflow="ellipsis", ratio=2)
    listed.add_column("amount", no_wrap=True, justify="right")
    listed.add_column("state", no_wrap=True)
    listed.add_column("reason", no_wrap=True, overflow="ellipsis", ratio=3)
    for title in ("version", "since"):
        listed.add_column(title, no_wrap=True, justify="right")
    now, length = system_clock(), short_length(kept.case.payment_id for kept in cases)
    for kept in cases:
        case = kept.case
        listed.add_row(
            id_text(case.payment_id, wide=wide, length=length),
            plain(case.invoice_id),
            plain(_amount(case)),
            _state(case),
            plain(case.reason),
            str(case.version),
            age(kept.opened_at, now),
        )
    return listed


def _state(case: Case) -> Text:
    if case.status is domain.CaseStatus.UNKNOWN:
        return Text("no doubt was told")  # somebody asked about a payment that is no case
    style = "red" if case.status in {domain.CaseStatus.NEEDS_DECISION, domain.CaseStatus.REFUND_FAILED} else "yellow"
    text = Text(case.status.replace("_", " "), style=style if case.is_open else "green")
    if case.decision_on_its_way is not None:
        text.append(" …", style="dim")
    return text


def _page(kept: KeptCase, journal: Sequence[JournalEntry]) -> RenderableType:
    case = kept.case
    named = facts(
        ("state", f"{_state(case).plain}{f', decided by {case.decided_by}' if case.decided_by else ''}"),
        ("version", str(case.version) if case.version else None),
        ("reason", case.reason),
        ("invoice", case.invoice_id),
        ("amount", _amount(case)),
        ("settled before as", case.settled_as and case.settled_as.replace("_", " ")),
        ("the gateway says", _gateway_side(case)),
        ("gateway id", case.gateway_id or "none is known"),
        ("correlation", kept.correlation_id),
        ("open since", time(kept.opened_at)),
        ("last news", time(kept.updated_at)),
        ("decision", payment_actions.decision_text(kept, system_clock())),
        ("proposal", _proposal(kept)),
        ("who is on it", kept.claimed_by),
    )
    parts: list[RenderableType] = [panel(named, f"payment {case.payment_id}")]
    if case.attempts:
        parts.append(panel(_attempts(case), "calls to the gateway"))
    if case.refunds:
        parts.append(panel(_refunds(case), "refunds"))
    if case.refusals:
        parts.append(panel(_refusals(case), "decisions refused", style="red"))
    parts += journal_panel(journal)
    if kept.proposal is None and not domain.is_decided(case, system_clock()) and (hint := _hint(case)):
        parts.append(Text(hint, style="dim"))
    return Group(*parts)


def _proposal(kept: KeptCase) -> str | None:
    """What waits for a second person."""
    if kept.proposal is None:
        return None
    return f"{proposed_text(kept.proposal)}: a second person must agree, at the desk"


def _hint(case: Case) -> str | None:
    """What a person can do about the case now."""
    fitting = sorted(domain.decisions_for(case))
    if "reopen" in fitting:
        return f'If that was wrong: remit payments reopen {case.payment_id} --version {case.version} --reason "…"'
    if not fitting:
        return None
    receipt = " --receipt NUMBER" if "captured" in fitting else ""
    command = f"remit payments resolve {case.payment_id} {'|'.join(fitting)} --version {case.version}"
    return f'To settle it: {command}{receipt} --evidence "…" --reason "…"'


def _gateway_side(case: Case) -> str | None:
    """The gateway's side in words, with its amounts."""
    side = case.gateway
    if side is None:
        return None
    words = [side.answer.replace("_", " ")]
    words += [money(side.captured_minor, side.currency) or "an amount that cannot be read"] * (
        side.answer == domain.CAPTURED
    )
    words += [f"given back {money(side.refunded_minor, side.currency)}"] * bool(side.refunded_minor)
    words += [_dispute(side.dispute) if side.dispute else "disputed"] * side.disputed
    return ", ".join(words)


def _dispute(dispute: domain.Dispute) -> str:
    """How a dispute stands, in words: its status and reason, the amount, and by when evidence has to be there."""
    due_at = f"evidence by {time(dispute.evidence_due_at)}" if dispute.evidence_due_at and dispute.is_open else None
    parts = (dispute.status, dispute.reason, money(dispute.amount_minor, dispute.currency), due_at)
    return "disputed (" + ", ".join(part.replace("_", " ") for part in parts if part) + ")"


def _attempts(case: Case) -> Table:
    listed = table(expand=True)
    for title in ("time", "step", "answer"):
        listed.add_column(title, no_wrap=True)
    listed.add_column("evidence", overflow="fold", ratio=1)
    for attempt in case.attempts:
        shown = (plain(text, lines=True) for text in (attempt.step, attempt.answer, attempt.evidence))
        listed.add_row(time(attempt.at), *shown)
    return listed


def _refunds(case: Case) -> Table:
    listed = table(expand=True)
    listed.add_column("refund", no_wrap=True)
    listed.add_column("amount", no_wrap=True, justify="right")
    listed.add_column("state", overflow="fold", ratio=1)
    for refund in case.refunds:
        amount = money(refund.amount_minor, refund.currency) or "what is left"
        asked_by = f"asked by {refund.requested_by}" if refund.requested_by else None
        told = (refund.status.replace("_", " "), refund.code, asked_by, refund.reason)
        listed.add_row(str(refund.refund_id), plain(amount), plain(", ".join(text for text in told if text)))
    return listed


def _refusals(case: Case) -> Table:
    listed = table(expand=True)
    for title in ("who", "decided", "refused because", "state was"):
        listed.add_column(title, overflow="fold")
    for refused in case.refusals:
        listed.add_row(
            plain(refused.decided_by),
            plain(refused.resolution.replace("_", " ")),
            plain(refused.reason),
            plain(f"{refused.state}, version {refused.version}"),
        )
    return listed


def _amount(case: Case) -> str:
    """The amount with its currency. It is unknown while only an outcome has mentioned the payment."""
    return money(case.amount_minor, case.currency) or "?"
