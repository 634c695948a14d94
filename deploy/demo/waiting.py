"""What waits for a person on the staff desk of `make up` and `make demo`: payments in doubt, and failed messages in groups."""

import asyncio
import json
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from deploy.demo.scenes import expect, reject_one
from deploy.demo.upstream import Upstream
from deploy.local.stack import UPSTREAM
from deploy.local.system import System
from shared.contracts.catalogue import wire_name_without_version
from shared.contracts.invoice import IssueInvoice, PayInvoice, TokenMethod, UpstreamCommand
from shared.ids import new_id

FAILED_MINOR: Final = (4_500, 12_500, 31_000)
"""What the failed commands would charge."""
DOUBTFUL_MINOR: Final = (12_500, 124_000)
"""The payments in doubt: one that a person decides alone, and one above the limit, for which a second person must agree."""
INVOICES: Final = len(FAILED_MINOR) + len(DOUBTFUL_MINOR)
GOOD, SILENT = "pm_card_visa", "pm_remit_broken_for_good"


def invoices_of(names: Sequence[str]) -> tuple[IssueInvoice, ...]:
    """Invoices of these names: first those whose payment fails, then those whose payment is in doubt."""
    amounts = (*FAILED_MINOR, *DOUBTFUL_MINOR)
    return tuple(
        IssueInvoice(invoice_id=name, customer_id="C-2", amount_minor=amount, currency="EUR")
        for name, amount in zip(names, amounts, strict=True)
    )


async def spoil(system: System, command: UpstreamCommand, source: str) -> UUID:
    """Dead-letter a good command before the services start, as a faulty consumer of an earlier build would. Returns its id."""
    id_ = new_id()
    event = {
        "specversion": "1.0",
        "id": str(id_),
        "type": command.wire_name,
        "source": source,
        "data": command.model_dump(mode="json"),
    }
    sender_url = system.stack.rabbitmq_url_of(UPSTREAM)
    await reject_one(system.stack.rabbitmq_url, command, json.dumps(event).encode(), id_, sender_url=sender_url)
    # Its sender sent it, as far as anybody knows: once it is replayed, the audit asks for it there.
    with system.history.open("a", encoding="utf-8") as history:
        history.write(json.dumps({"command_id": str(id_), "type": command.wire_name, "confirmed": True}) + "\n")
    return id_


async def spoil_payments(system: System, invoices: Sequence[IssueInvoice], source: str) -> list[UUID]:
    """The same with the commands that pay the first of these invoices. Returns their ids."""
    return [await spoil(system, _paying(one, GOOD), source) for one in invoices[: len(FAILED_MINOR)]]


async def send(system: System, invoices: Sequence[IssueInvoice], name: str) -> None:
    """Issue these invoices, and have a silent gateway charge the last of them. Two more commands are of a version that nobody knows yet."""
    async with Upstream.open(system.stack.rabbitmq_url_of(UPSTREAM), name=name, history=system.history) as upstream:
        for answered in await asyncio.gather(*(upstream.ask(one) for one in invoices)):
            expect(answered, "accepted")
        doubtful = invoices[len(FAILED_MINOR) :]
        for answered in await asyncio.gather(*(upstream.ask(_paying(one, SILENT)) for one in doubtful)):
            expect(answered, "accepted")
        for command in (_paying(doubtful[0], GOOD), doubtful[0]):
            await upstream.send(command, type=f"{wire_name_without_version(command.wire_name)}.v9")


def _paying(invoice: IssueInvoice, token: str) -> PayInvoice:
    return PayInvoice(
        invoice_id=invoice.invoice_id,
        payment_id=new_id(),
        amount_minor=invoice.amount_minor,
        currency=invoice.currency,
        method=TokenMethod(token=token),
    )
