"""Healthy payments beside a fault, whose secrets are remembered: what pays must not be overheard."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from deploy.demo.scenes import AMOUNT_MINOR, CURRENCY, VISA, Stage
from shared.contracts.invoice import EncryptedCardMethod, IssueInvoice, PayInvoice
from shared.ids import new_id
from tests.support.databases import rows

if TYPE_CHECKING:
    from tests.faults.testbed import Testbed

TOKEN: Final = "pm_card_visa"
BY_CARD: Final = 5
"""One in so many payments is by an encrypted card."""


def invoice(testbed: "Testbed", *, invoice_id: str = "", customer_id: str = "C-1") -> IssueInvoice:
    """A command that issues an invoice."""
    return IssueInvoice(
        invoice_id=invoice_id or f"{testbed.name}-{new_id()}",
        customer_id=customer_id,
        amount_minor=AMOUNT_MINOR,
        currency=CURRENCY,
    )


async def answers_of(testbed: "Testbed", ids: Sequence[UUID]) -> dict[UUID, str | None]:
    """The reasons of the answers to these commands, by the ids that their senders gave them. A command without an answer is left out."""
    query = """SELECT coalesce(sent_id, command_id) AS id, reason FROM answers
        WHERE command_id = ANY($1::uuid[]) OR sent_id = ANY($1::uuid[]) ORDER BY answered_at"""
    found = await testbed.until_answered(lambda: rows(testbed.database("invoice"), query, list(ids)))
    return {row["id"]: row["reason"] for row in found}


class Payments:
    """Pays invoices on a testbed. `secrets`: every token and every encrypted card that was sent."""

    def __init__(self, testbed: "Testbed") -> None:
        keys: Any = testbed.system.public_keys["keys"]
        self._testbed = testbed
        self._stage = Stage(testbed.upstream, keys[0])
        self._count = 0
        self.secrets: set[str] = set()

    async def pay(self, count: int) -> list[float]:
        """Issue and pay so many invoices at once. Returns for each the seconds until its payment was answered. Raises AssertionError if one
        of them is not paid."""
        return list(await asyncio.gather(*(self._pay() for _ in range(count))))

    async def settle(self, count: int) -> tuple[list[float], list[PayInvoice]]:
        """Like `pay`, for as long as the public hears nothing: our own books say what is paid. Returns the commands as well."""
        told = await asyncio.gather(*(self._answered() for _ in range(count)))
        commands = [command for _, command in told]
        ids = [command.invoice_id for command in commands]
        query = "SELECT 1 FROM invoices WHERE invoice_id = ANY($1::text[]) AND status = 'paid'"

        async def all_paid() -> bool:
            return len(await rows(self._testbed.database("invoice"), query, ids)) == count

        await self._testbed.until(all_paid, what=f"{count} invoices to be paid")
        return [answered_s for answered_s, _ in told], commands

    async def _pay(self) -> float:
        answered_s, command = await self._answered()
        await self.until_paid(command)
        return answered_s

    async def _answered(self) -> tuple[float, PayInvoice]:
        command = await self._command(new_id())
        sent_at = time.monotonic()
        _, answer = await self._testbed.upstream.ask(command)
        answered_s = time.monotonic() - sent_at
        assert answer.answer == "accepted", answer
        return answered_s, command

    async def begin(self, payment_id: UUID) -> PayInvoice:
        """Issue an invoice, and send the payment with this id. Nobody waits for its answer."""
        command = await self._command(payment_id)
        await self._testbed.upstream.send(command)
        return command

    async def until_paid(self, command: PayInvoice) -> None:
        """Wait until the invoice is paid. Raises AssertionError if it ends otherwise."""
        result = await self._stage.outcome(command)
        assert result == "paid", f"payment {command.payment_id}: {result}"

    async def _command(self, payment_id: UUID) -> PayInvoice:
        issue = invoice(self._testbed)
        await self._stage.issue(issue.invoice_id)
        self._count += 1
        if self._count % BY_CARD:
            self.secrets.add(TOKEN)
            return self._stage.pay(issue.invoice_id, TOKEN, payment_id)
        card: EncryptedCardMethod = self._stage.card(VISA, payment_id)
        self.secrets.add(card.jwe)
        return self._stage.pay(issue.invoice_id, card, payment_id)
