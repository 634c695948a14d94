"""Senders against each other (row 18): one uses the ids, the invoices and the queue of another. It is refused, and learns nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

from aio_pika.abc import AbstractQueue

from deploy.demo.scenes import AMOUNT_MINOR, CURRENCY
from shared.contracts.base import Contract
from shared.contracts.invoice import IssueInvoice, PayInvoice, RefundInvoice, TokenMethod, VoidInvoice
from shared.ids import new_id
from tests.faults.payments import TOKEN, Payments, invoice
from tests.faults.ready import until_ready
from tests.faults.stranger import Stranger, as_sender, take_all
from tests.faults.testbed import POLL_S, Testbed
from tests.faults.trial import Note
from tests.support.databases import rows

ANSWERED_WITHIN_S: Final = 60.0
NAMED: Final = {"SENDERS": "named"}

Answer = tuple[str, str | None]
"""`accepted` or `rejected`, and the reason."""
ACCEPTED: Final[Answer] = ("accepted", None)
UNKNOWN: Final[Answer] = ("rejected", "unknown_invoice")


@dataclass(frozen=True, slots=True)
class Sender:
    """A user of the broker with a sender's rights, and the queue for its answers."""

    name: str
    stranger: Stranger
    queue: AbstractQueue

    @classmethod
    @asynccontextmanager
    async def open(cls, testbed: Testbed, name: str) -> AsyncIterator[Self]:
        """A new user, which is deleted at the end."""
        async with as_sender(testbed, name) as url, Stranger.open(url) as stranger:
            yield cls(name, stranger, await stranger.own_queue(f"{name}.answers"))

    async def expect(self, answer: Answer, command: Contract, *, command_id: UUID | None = None) -> None:
        """Send a command. Raises AssertionError if its answer is another one."""
        got = await self.ask(command, command_id=command_id)
        assert got == answer, f"{self.name} expects {answer} to {type(command).__name__}, and got {got}"

    async def ask(self, command: Contract, *, command_id: UUID | None = None, **properties: Any) -> Answer:
        """Send a command, and wait for the answer to it."""
        id_ = await self.stranger.send(command, command_id=command_id, **({"reply_to": self.queue.name} | properties))
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            while not (answers := await self._answers(id_)):
                await asyncio.sleep(POLL_S)
        assert len(answers) == 1, f"{self.name} got {len(answers)} answers to one command"
        return answers[0]

    async def _answers(self, command_id: UUID) -> list[Answer]:
        data = [json.loads(message.body)["data"] for message in await take_all(self.queue)]
        wrong = [one["command_id"] for one in data if one["command_id"] != str(command_id)]
        assert not wrong, f"{self.name} got answers to commands that it does not ask about: {wrong}"
        return [(one["answer"], one["reason"]) for one in data]


@asynccontextmanager
async def _two(testbed: Testbed, *, service: str = "invoice") -> AsyncIterator[tuple[Sender, Sender]]:
    """The owner, and somebody else, of a service that wants senders to have names."""
    await testbed.restart(service, instance=1, **NAMED)
    await until_ready(testbed, service)
    suffix = new_id().hex[-8:]
    async with AsyncExitStack() as opened:
        owner, other = [
            await opened.enter_async_context(Sender.open(testbed, f"{who}-{suffix}")) for who in ("owner", "other")
        ]
        yield owner, other


def _pay(issued: IssueInvoice) -> PayInvoice:
    return PayInvoice(
        invoice_id=issued.invoice_id,
        payment_id=new_id(),
        amount_minor=AMOUNT_MINOR,
        currency=CURRENCY,
        method=TokenMethod(token=TOKEN),
    )


async def foreign_ids(testbed: Testbed, payments: Payments, note: Note) -> None:
    """Another sender uses the ids of commands: with a command of its own, and to hear the answer that is not for it."""
    async with _two(testbed) as (owner, other):
        issued, issue_id, pay_id = invoice(testbed), new_id(), new_id()
        await owner.expect(ACCEPTED, issued, command_id=issue_id)
        paid = _pay(issued)
        await owner.expect(ACCEPTED, paid, command_id=pay_id)
        await other.expect(UNKNOWN, paid, command_id=pay_id)
        await other.expect(ACCEPTED, invoice(testbed), command_id=issue_id)
        await owner.expect(ACCEPTED, issued, command_id=issue_id)
        await owner.expect(ACCEPTED, paid, command_id=pay_id)
        note.fired(2)
    note.mended()
    await payments.pay(1)


async def foreign_invoices(testbed: Testbed, payments: Payments, note: Note) -> None:
    """Another sender pays, voids and refunds an invoice that is not its own: there is none, as far as it is told."""
    async with _two(testbed) as (owner, other):
        issued = invoice(testbed)
        await owner.expect(ACCEPTED, issued)
        await other.expect(UNKNOWN, _pay(issued))
        await other.expect(UNKNOWN, VoidInvoice(invoice_id=issued.invoice_id, reason="mine"))
        refund = RefundInvoice(invoice_id=issued.invoice_id, refund_id=new_id(), currency="EUR", reason="mine")
        await other.expect(UNKNOWN, refund)
        note.fired(3)
        await owner.expect(ACCEPTED, VoidInvoice(invoice_id=issued.invoice_id, reason="ordered by mistake"))
    note.mended()
    await payments.pay(1)


async def foreign_queue(testbed: Testbed, payments: Payments, note: Note) -> None:
    """Another sender has its answers sent to the owner's queue. Nothing arrives there."""
    async with _two(testbed) as (owner, other):
        sent = [
            await other.stranger.send(invoice(testbed), reply_to=address)
            for address in (owner.queue.name, f"{owner.name}.", owner.name, f"{other.name}x.answers")
        ]
        await _until_refused(testbed, "reply_to_not_allowed", len(sent))
        note.fired(len(sent))
        await owner.expect(ACCEPTED, invoice(testbed))  # and so nothing came before
    note.mended()
    await payments.pay(1)


async def nameless(testbed: Testbed, payments: Payments, note: Note) -> None:
    """A command without a name, where senders have names, is refused. Its answer goes to nobody."""
    async with _two(testbed) as (owner, _):
        await owner.stranger.send(invoice(testbed), user_id=None, reply_to=owner.queue.name)
        await _until_refused(testbed, "sender_unknown", 1)
        note.fired()
        await owner.expect(ACCEPTED, invoice(testbed))  # the first answer that it gets: nobody else may name its queue
    note.mended()
    await payments.pay(1)


async def _until_refused(testbed: Testbed, reason: str, count: int) -> None:
    """Wait until so many commands were answered with this reason."""
    query = "SELECT count(*) AS n FROM answers WHERE reason = $1"

    async def refused() -> bool:
        found = await testbed.ask_database(lambda: rows(testbed.database("invoice"), query, reason))
        return found is not None and found[0]["n"] >= count

    await testbed.until(refused, what=f"{count} commands to be rejected: {reason}")
