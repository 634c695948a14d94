"""The invoice service in a conversation: commands go in, answers and events come out."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest

from deploy.local.stack import Stack
from deploy.permissions.broker import broker_users, definitions
from services.invoice.__main__ import assemble
from services.staff.__main__ import assemble as assemble_staff
from shared.contracts import invoice as messages
from shared.contracts.base import Contract
from shared.contracts.invoice import AnswerReason
from shared.persistence.database import Database
from tests.support.conversation import Conversation
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.upstream_client import Received, Subscription, UpstreamClient
from tests.support.waiting import until

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


# -- senders with names ------------------------------------------------------------------------------------------------------------------

PASSWORD = "of-a-test"


@pytest.fixture(scope="module")
def users(stack: Stack, environment_urls: Environment) -> Iterator[dict[str, str]]:
    """Two senders that the broker knows, and a URL for each."""
    names = {who: f"{who}-{uuid4().hex[:6]}" for who in ("billing", "shop")}
    senders = [user for user in broker_users(senders=names.values()) if user.name in names.values()]
    known = definitions(senders, environment_urls.stack.vhost, dict.fromkeys(names.values(), PASSWORD))
    stack.broker.import_definitions(json.dumps(known))
    parts = urlsplit(environment_urls.rabbitmq_url)
    yield {
        who: parts._replace(netloc=f"{name}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()
        for who, name in names.items()
    }
    for name in names.values():
        stack.broker.ctl("delete_user", name)


@dataclass(frozen=True, slots=True)
class NamedSender:
    """A sender with a user of its own at the broker."""

    client: UpstreamClient
    inbox: Subscription

    @property
    def name(self) -> str:
        return self.client.user

    async def sends(self, command: Contract, command_id: UUID | None = None) -> Received:
        """Send a command, and return its answer. Another one may come again, which a service had published just before it ended."""
        id_ = await self.client.send(command, message_id=command_id, reply_to=self.inbox.name)
        while (answer := await self.inbox.next()).data["command_id"] != str(id_):
            pass
        return answer

    async def hears(self, command: Contract, command_id: UUID | None = None) -> tuple[str, str | None]:
        """Send a command, and return what it is answered."""
        data = (await self.sends(command, command_id)).data
        return data["answer"], data["reason"]


Two = tuple[NamedSender, NamedSender]


@pytest.fixture
async def senders(environment: Environment, users: dict[str, str]) -> AsyncIterator[Two]:
    async with AsyncExitStack() as opened:
        made = []
        for url in users.values():
            client = await opened.enter_async_context(UpstreamClient.open(url))
            made.append(NamedSender(client, await client.inbox()))
        yield made[0], made[1]


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, environment: Environment) -> None:
    """Senders must have names."""
    monkeypatch.setenv("SENDERS", "named")
    monkeypatch.setenv("STAFF_USER", str(urlsplit(environment.settings("staff").rabbitmq_url).username))


@asynccontextmanager
async def staffed(environment: Environment) -> AsyncIterator[Database]:
    async with environment.running("staff", assemble_staff), environment.running("invoice", assemble):
        database = await Database.open(environment.databases["staff"], name="test", connections_max=2)
        try:
            yield database
        finally:
            await database.close()


async def letters(environment: Environment, count: int, seen: int = 1) -> list[dict[str, object]]:
    async def kept() -> list[dict[str, object]] | None:
        found = await rows(environment.databases["staff"], "SELECT * FROM dead_letters ORDER BY first_seen, sender")
        return found if len(found) == count and all(row["seen"] == seen for row in found) else None

    return await until(kept, what=f"{count} dead letters, seen {seen} times") or []
