"""The public queue: what arrives, what leaves, what the sender is answered."""

from uuid import UUID, uuid4

import pytest

from services.invoice.__main__ import assemble
from shared.contracts import invoice as messages
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient


def issue(invoice_id: str = "INV-1", amount_minor: int = 1_250) -> messages.IssueInvoice:
    return messages.IssueInvoice(invoice_id=invoice_id, customer_id="C-1", amount_minor=amount_minor, currency="EUR")


def pay(invoice_id: str = "INV-1", payment_id: UUID | None = None, amount_minor: int = 1_250) -> messages.PayInvoice:
    return messages.PayInvoice(
        invoice_id=invoice_id,
        payment_id=payment_id or uuid4(),
        amount_minor=amount_minor,
        currency="EUR",
        method=messages.TokenMethod(token="pm_card_visa"),
    )


async def test_an_issued_invoice_can_be_paid(environment: Environment, upstream: UpstreamClient) -> None:
    events = await upstream.tap("invoice.events")
    answers = await upstream.inbox()
    async with environment.running("invoice", assemble):
        issued = await upstream.send(issue(), reply_to=answers.name)
        paying = pay()
        paid = await upstream.send(paying, reply_to=answers.name)
        first, second = await events.take(2)
        answered = await answers.take(2)
    assert [(a.data["command_id"], a.data["answer"], a.data["reason"]) for a in answered] == [
        (str(issued), "accepted", None),
        (str(paid), "accepted", None),
    ]
    assert (first.type, first.data) == (
        "remit.invoice.InvoiceIssued.v1",
        {"invoice_id": "INV-1", "customer_id": "C-1", "amount_minor": 1_250, "currency": "EUR"},
    )
    assert (second.type, second.data) == (
        "remit.invoice.InvoicePaymentRequested.v1",
        {
            "invoice_id": "INV-1",
            "payment_id": str(paying.payment_id),
            "amount_minor": 1_250,
            "currency": "EUR",
            "method": {"kind": "token", "token": "pm_card_visa"},
        },
    )
    assert second.event["causationid"] == str(paid)
    stored = await rows(environment.databases["invoice"], "SELECT status, version FROM invoices")
    assert stored == [{"status": "payment_pending", "version": 2}]
    assert await rows(environment.databases["invoice"], "SELECT * FROM outbox") == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (pay("INV-unknown"), "unknown_invoice"),
        (pay(amount_minor=1), "amount_differs"),
        (issue(), "already_issued"),
    ],
)
async def test_a_breach_of_a_rule_is_an_answer(
    environment: Environment, upstream: UpstreamClient, command: messages.PayInvoice, reason: str
) -> None:
    answers = await upstream.inbox()
    async with environment.running("invoice", assemble):
        await upstream.send(issue())
        await upstream.send(command, reply_to=answers.name)
        answer = await answers.next()
    assert (answer.data["answer"], answer.data["reason"]) == ("rejected", reason)
    assert await upstream.depth("dead-letters") == 0
