"""The invoice service in a conversation: commands go in, answers and events come out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from services.invoice.__main__ import assemble
from shared.contracts import invoice as messages
from shared.contracts.base import Contract
from shared.contracts.invoice import AnswerReason
from tests.support.conversation import Conversation
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.upstream_client import Received, UpstreamClient

THIS, OTHER = UUID(int=77), UUID(int=78)
"""The ids of two payments."""
MONEY: dict[str, Any] = {"amount_minor": 500, "currency": "EUR"}
TOKEN = messages.TokenMethod(token="pm_card_visa")
JWE = messages.EncryptedCardMethod(jwe="eyJhbGciOiJSU0EtT0FFUC0yNTYifQ.a2V5.aXY.Y2lwaGVydGV4dA.dGFn")

ISSUE = messages.IssueInvoice(invoice_id="INV-1", customer_id="C-1", **MONEY)
ISSUED = messages.InvoiceIssued(invoice_id="INV-1", customer_id="C-1", **MONEY)
PAY = messages.PayInvoice(invoice_id="INV-1", payment_id=THIS, method=TOKEN, **MONEY)
REQUESTED = messages.InvoicePaymentRequested(invoice_id="INV-1", payment_id=THIS, method=TOKEN, **MONEY)
VOID = messages.VoidInvoice(invoice_id="INV-1", reason="a mistake")
RECORD = messages.RecordPayment(invoice_id="INV-1", payment_id=THIS, receipt_number="ch_1", **MONEY)
PAID = messages.InvoicePaid(invoice_id="INV-1", payment_id=THIS, receipt_number="ch_1", **MONEY)
FLAG = messages.FlagPaymentInDoubt(invoice_id="INV-1", payment_id=THIS)

HANDLED = "SELECT 1 FROM answers WHERE command_id = $1 UNION ALL SELECT 1 FROM inbox WHERE message_id = $1"


def marker(message: Contract) -> Contract:
    """A command to the same queue about an invoice that was never issued."""
    if message.exchange == ISSUE.exchange:
        return messages.VoidInvoice(invoice_id="INV-marker", reason="a marker")
    return messages.FlagPaymentInDoubt(invoice_id="INV-marker", payment_id=UUID(int=1))


class InvoiceConversation(Conversation):
    """A conversation in which every command has an address for its answer."""

    answers_to: str

    async def when(self, message: Contract, **how: Any) -> list[Received]:
        return await super().when(message, **{"reply_to": self.answers_to} | how)


@asynccontextmanager
async def in_conversation(environment: Environment, upstream: UpstreamClient) -> AsyncIterator[InvoiceConversation]:
    """Run the service as long as the body. Its answer to a command is received before its events."""
    answers, events = await upstream.inbox(), await upstream.tap("invoice.events", "#")
    requests = await upstream.tap("invoice.requests")
    url = environment.databases["invoice"]
    conversation = InvoiceConversation(upstream, url, [answers, events, requests], handled=HANDLED, marker=marker)
    conversation.answers_to = answers.name
    async with environment.running("invoice", assemble):
        yield conversation
    assert await upstream.depth("dead-letters") == 0


@pytest.fixture
async def invoice(environment: Environment, upstream: UpstreamClient) -> AsyncIterator[InvoiceConversation]:
    async with in_conversation(environment, upstream) as conversation:
        yield conversation


def accepted(command_id: UUID) -> messages.CommandAnswered:
    return messages.CommandAnswered(command_id=command_id, answer="accepted")


def rejected(
    command: Contract, command_id: UUID, reason: AnswerReason
) -> list[messages.CommandAnswered | messages.InvoiceCommandRejected]:
    """The answer and the event of a rejection."""
    return [
        messages.CommandAnswered(command_id=command_id, answer="rejected", reason=reason.value),
        messages.InvoiceCommandRejected(
            command_id=command_id, command_type=command.wire_name, invoice_id=command.subject(), reason=reason.value
        ),
    ]


async def stands(environment: Environment) -> list[tuple[str, int]]:
    """Status and version of every invoice."""
    found = await rows(environment.databases["invoice"], "SELECT status, version FROM invoices ORDER BY invoice_id")
    return [(row["status"], row["version"]) for row in found]
