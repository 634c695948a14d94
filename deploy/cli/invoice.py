"""`remit invoice`: send commands as an upstream system would, and look at what happened."""

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from deploy.cli.card import KeyFile, encrypt_card_from_stdin
from deploy.cli.output import LISTED, MISUSED, REFUSED, Json, Limit, console, fail, say, write_json, write_line

if TYPE_CHECKING:
    from rich.table import Table

    from shared.contracts.invoice import UpstreamCommand

WAIT_MAX_S = 3_600.0

app = typer.Typer(no_args_is_help=True, help="Send commands about invoices, and see what happened.")


class InvoiceStatusOption(StrEnum):
    """The states of an invoice, for the command line, so that `--help` does not load the invoice service. A unit test compares them."""

    OPEN = "open"
    PAYMENT_PENDING = "payment_pending"
    IN_DOUBT = "in_doubt"
    PAID = "paid"
    VOID = "void"


InvoiceId = Annotated[str, typer.Argument(metavar="INVOICE", help="The invoice's number.", show_default=False)]
Amount = Annotated[
    int,
    typer.Option("--amount-minor", help="In the minor unit of the currency: 1250 is 12.50 EUR.", show_default=False),
]
Currency = Annotated[str, typer.Option(help="ISO 4217.", show_default=False)]
CommandId = Annotated[
    UUID | None,
    typer.Option(
        "--id", help="Send the command of this id again: it gets the same answer again.", show_default="a new one"
    ),
]
Wait = Annotated[float, typer.Option(min=0, max=WAIT_MAX_S, help="Seconds to wait for the answer; 0: do not wait.")]


@app.command("issue")
def issue(
    invoice: InvoiceId,
    *,
    customer: Annotated[str, typer.Option(help="The customer's number.", show_default=False)],
    amount_minor: Amount,
    currency: Currency,
    id_: CommandId = None,
    wait: Wait = 10.0,
    json: Json = False,
) -> None:
    """Issue an invoice."""
    from deploy.cli.sender import read_command  # noqa: PLC0415 - the broker's client and the contracts
    from shared.contracts.invoice import IssueInvoice  # noqa: PLC0415

    values = {"invoice_id": invoice, "customer_id": customer, "amount_minor": amount_minor, "currency": currency}
    _send(read_command(IssueInvoice, values), _command_id(id_), wait, json=json)


@app.command("pay")
def pay(
    invoice: InvoiceId,
    *,
    amount_minor: Amount,
    currency: Currency,
    token: Annotated[str | None, typer.Option(help="A token of the card gateway.", show_default=False)] = None,
    customer: Annotated[
        str | None, typer.Option(help="The gateway's customer who owns a saved token.", show_default=False)
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Read a card (asked for, or `NUMBER MM/YYYY` on stdin) and encrypt it.")
    ] = False,
    key_file: KeyFile = None,
    payment_id: Annotated[
        UUID | None, typer.Option(help="New for every attempt to pay.", show_default="derived from the command's id")
    ] = None,
    id_: CommandId = None,
    wait: Wait = 10.0,
    json: Json = False,
) -> None:
    """Pay the whole invoice. Accepted means that the outcome follows: see `remit invoice show`."""
    if card == (token is not None):
        fail("give either --token or --card.", MISUSED)
    if card and customer:
        fail("--customer goes with --token.", MISUSED)
    from deploy.cli.sender import read_command  # noqa: PLC0415
    from shared.contracts.invoice import PayInvoice  # noqa: PLC0415
    from shared.ids import derived_id  # noqa: PLC0415

    command_id = _command_id(id_)
    payment_id = payment_id or derived_id(command_id, "payment")  # a command sent again must carry the same data
    values = {
        "invoice_id": invoice,
        "payment_id": payment_id,
        "amount_minor": amount_minor,
        "currency": currency,
        "method": {"kind": "encrypted_card", "jwe": encrypt_card_from_stdin(payment_id, key_file)}
        if card
        else {"kind": "token", "token": token, "customer": customer},
    }
    _send(read_command(PayInvoice, values), command_id, wait, json=json, payment_id=str(payment_id))


@app.command("void")
def void(
    invoice: InvoiceId,
    *,
    reason: Annotated[str, typer.Option(help="Why.", show_default=False)],
    id_: CommandId = None,
    wait: Wait = 10.0,
    json: Json = False,
) -> None:
    """Withdraw an invoice that is not paid."""
    from deploy.cli.sender import read_command  # noqa: PLC0415
    from shared.contracts.invoice import VoidInvoice  # noqa: PLC0415

    _send(read_command(VoidInvoice, {"invoice_id": invoice, "reason": reason}), _command_id(id_), wait, json=json)


@app.command("refund")
def refund(
    invoice: InvoiceId,
    *,
    currency: Currency,
    reason: Annotated[str, typer.Option(help="Why.", show_default=False)],
    amount_minor: Annotated[
        int | None,
        typer.Option(
            "--amount-minor", min=1, help="In the minor unit of the currency.", show_default="all that is left"
        ),
    ] = None,
    refund_id: Annotated[
        UUID | None, typer.Option(help="New for every refund.", show_default="derived from the command's id")
    ] = None,
    id_: CommandId = None,
    wait: Wait = 10.0,
    json: Json = False,
) -> None:
    """Give back what paid an invoice, or a part of it. Accepted means that the outcome follows: see `remit invoice show`."""
    from deploy.cli.sender import read_command  # noqa: PLC0415
    from shared.contracts.invoice import RefundInvoice  # noqa: PLC0415
    from shared.ids import derived_id  # noqa: PLC0415

    command_id = _command_id(id_)
    refund_id = refund_id or derived_id(command_id, "refund")  # a command sent again must carry the same data
    values = {
        "invoice_id": invoice,
        "refund_id": refund_id,
        "amount_minor": amount_minor,
        "currency": currency,
        "reason": reason,
    }
    _send(read_command(RefundInvoice, values), command_id, wait, json=json, refund_id=str(refund_id))


@app.command("list")
def list_(
    *,
    status: Annotated[
        InvoiceStatusOption | None, typer.Option(help="Only those with this status.", show_default=False)
    ] = None,
    limit: Limit = LISTED,
    json: Json = False,
) -> None:
    """List invoices; those that changed last come first."""
    from deploy.cli import queries  # noqa: PLC0415 - the database's client

    invoices = asyncio.run(queries.invoices(status.value if status else None, limit))
    if json:
        write_json(invoices)
    elif not invoices:
        say("No invoices.")
    else:
        console().print(_table(invoices))


def _table(invoices: list[dict[str, Any]]) -> "Table":
    """One line an invoice."""
    from deploy.cli.tables import plain, table  # noqa: PLC0415 - only where people look
    from deploy.cli.words import money, time  # noqa: PLC0415

    listed = table()
    for name in ("invoice", "status", "customer"):
        listed.add_column(name, overflow="fold")
    listed.add_column("amount", justify="right", no_wrap=True)
    listed.add_column("changed", no_wrap=True)
    for row in invoices:
        amount, changed = money(row["amount_minor"], row["currency"]), time(row["updated_at"])
        listed.add_row(
            plain(row["invoice_id"]), plain(row["status"]), plain(row["customer_id"]), plain(amount), changed
        )
    return listed


@app.command("show")
def show(invoice: InvoiceId, *, json: Json = False) -> None:
    """The state of an invoice, and every message and step from command to answer, with times and causes.

    Looks at every service whose *_DATABASE_URL is set. INVOICE_DATABASE_URL must be set.
    """
    from deploy.cli import queries  # noqa: PLC0415
    from deploy.cli.timeline import page  # noqa: PLC0415

    story = asyncio.run(queries.story(invoice))
    if story is None:
        fail(f"there is no invoice {invoice}, and no command about it was answered.")
    if json:
        write_json(story.as_json())
    else:
        terminal = console()
        terminal.print(page(story, terminal.width))


def _command_id(given: UUID | None) -> UUID:
    from shared.ids import new_id  # noqa: PLC0415

    return given or new_id()


def _send(command: "UpstreamCommand", command_id: UUID, wait_s: float, *, json: bool, **more: str) -> None:
    from deploy.cli.sender import send  # noqa: PLC0415
    from shared.settings import EnvironmentVariables  # noqa: PLC0415

    answer = asyncio.run(send(EnvironmentVariables().rabbitmq_url(), command, command_id, wait_s=wait_s))
    told: dict[str, str | None] = {"answer": None, "reason": None, "detail": None}
    if answer is not None:
        told = {"answer": answer.answer, "reason": answer.reason, "detail": answer.detail}
    if json:
        write_json({"command_id": str(command_id), **more, **told})
    else:
        words = [told["answer"] or "sent, not answered yet", told["reason"], told["detail"]]
        write_line(f"command {command_id}")
        for name, value in more.items():
            write_line(f"{name.replace('_', ' ')} {value}")
        write_line(": ".join(word for word in words if word))
    if answer is None and wait_s > 0:
        fail(
            f"no answer within {wait_s:g} s. The broker has the command; ask again with `remit command show {command_id}`."
        )
    if answer is not None and answer.answer != "accepted":
        raise typer.Exit(REFUSED)
