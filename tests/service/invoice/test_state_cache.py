"""An instance caches what it stored last. Before it answers, it notices what another instance stored meanwhile."""

from uuid import UUID, uuid4

from services.invoice.__main__ import assemble
from services.invoice.command_inbox import CommandInbox
from services.invoice.handlers import InvoiceHandler
from shared.contracts import invoice as messages
from shared.service import Runtime
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import Received, Subscription, UpstreamClient

PAYMENT = UUID(int=77)
AMOUNT = {"amount_minor": 500, "currency": "EUR"}
ISSUE = messages.IssueInvoice(invoice_id="INV-1", customer_id="C-1", **AMOUNT)
VOID = messages.VoidInvoice(invoice_id="INV-1", reason="a mistake")
EVENT = """INSERT INTO events (stream_id, version, type, data, cause_id, cause_position, correlation_id, recorded_at)
           VALUES ('INV-1', $1, $2, $3, $4, 0, 'c', now())"""


def pay(payment_id: UUID = PAYMENT) -> messages.PayInvoice:
    return messages.PayInvoice(
        invoice_id="INV-1", payment_id=payment_id, method=messages.TokenMethod(token="pm_card_visa"), **AMOUNT
    )


async def answer(
    upstream: UpstreamClient, answers: Subscription, command: messages.UpstreamCommand
) -> tuple[str, str | None]:
    await upstream.send(command, reply_to=answers.name)
    received: Received = await answers.next()
    return received.data["answer"], received.data["reason"]


async def versions(environment: Environment) -> list[int]:
    found = await rows(environment.databases["invoice"], "SELECT version FROM events ORDER BY version")
    return [row["version"] for row in found]


async def test_another_instances_events_cannot_be_overwritten(
    environment: Environment, upstream: UpstreamClient
) -> None:
    answers, url = await upstream.inbox(), environment.databases["invoice"]
    async with environment.running("invoice", assemble):
        assert await answer(upstream, answers, ISSUE) == ("accepted", None)
        await execute(url, EVENT, 2, "Voided.1", '{"reason": "elsewhere"}', uuid4())
        await execute(url, "UPDATE invoices SET status = 'void', version = 2")
        assert await answer(upstream, answers, pay()) == ("rejected", "invoice_void")
    assert await versions(environment) == [1, 2]


async def test_no_command_is_rejected_on_a_cached_state(environment: Environment, upstream: UpstreamClient) -> None:
    answers, url = await upstream.inbox(), environment.databases["invoice"]
    async with environment.running("invoice", assemble):
        assert await answer(upstream, answers, ISSUE) == ("accepted", None)
        assert await answer(upstream, answers, pay()) == ("accepted", None)
        failed = f'{{"payment_id": "{PAYMENT}", "outcome": "declined", "reason": "no_money"}}'
        await execute(url, EVENT, 3, "PaymentFailed.1", failed, uuid4())
        await execute(url, "UPDATE invoices SET status = 'open', version = 3, payment_id = NULL")
        assert await answer(upstream, answers, pay(uuid4())) == ("accepted", None)
    assert await versions(environment) == [1, 2, 3, 4]


async def test_a_state_stored_by_this_instance_is_not_read_again(
    environment: Environment, upstream: UpstreamClient
) -> None:
    """Both queues of the process use the same cache."""
    read: list[set[str]] = []

    class Watched(InvoiceHandler):
        async def load_unlocked(self, connection, messages_, cached):  # type: ignore[no-untyped-def]
            read.append({self.key(message) for message in messages_} - cached.keys())
            return await InvoiceHandler.load_unlocked(self, connection, messages_, cached)

    async def watched(runtime: Runtime) -> None:
        watched_handler = Watched()
        runtime.consume("invoice.commands", watched_handler, inbox=CommandInbox())
        runtime.consume("invoice.settlement", watched_handler)

    answers, events = await upstream.inbox(), await upstream.tap("invoice.events", messages.InvoicePaid.wire_name)
    async with environment.running("invoice", watched):
        assert await answer(upstream, answers, ISSUE) == ("accepted", None)
        assert await answer(upstream, answers, pay()) == ("accepted", None)
        await upstream.send(
            messages.RecordPayment(invoice_id="INV-1", payment_id=PAYMENT, receipt_number="ch_1", **AMOUNT)
        )
        await events.next()
        assert await answer(upstream, answers, VOID) == ("rejected", "already_paid")
    assert read == [{"INV-1"}, set(), set(), set(), {"INV-1"}], "a refusal is decided on the stored state"
    assert await versions(environment) == [1, 2, 3]
