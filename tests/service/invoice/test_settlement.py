"""The settlement queue, reminders and the rebuild: what the coordinator and time bring about."""

from uuid import UUID, uuid4

from services.audit.routes import queues_for
from services.invoice.__main__ import assemble
from services.invoice.rebuild import rebuild
from services.invoice.reminders import RequestReminder
from shared.amqp.broker_link import BrokerLink
from shared.clock import system_clock
from shared.contracts import invoice as messages
from shared.contracts.base import Contract
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.persistence.database import Database
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import Received, UpstreamClient

PAYMENT = UUID(int=77)
AMOUNT = {"amount_minor": 500, "currency": "EUR"}
ISSUE = messages.IssueInvoice(invoice_id="INV-1", customer_id="C-1", **AMOUNT)
TOKEN = messages.TokenMethod(token="pm_card_visa")
JWE = messages.EncryptedCardMethod(jwe="eyJhbGciOiJSU0EtT0FFUC0yNTYifQ.a2V5.aXY.Y2lwaGVydGV4dA.dGFn")


def pay(
    method: messages.TokenMethod | messages.EncryptedCardMethod = TOKEN, payment_id: UUID = PAYMENT
) -> messages.PayInvoice:
    return messages.PayInvoice(invoice_id="INV-1", payment_id=payment_id, method=method, **AMOUNT)


def record(payment_id: UUID = PAYMENT) -> messages.RecordPayment:
    return messages.RecordPayment(invoice_id="INV-1", payment_id=payment_id, receipt_number="ch_1", **AMOUNT)


async def received(upstream: UpstreamClient, environment: Environment, *sent: Contract, count: int) -> list[Received]:
    """What the invoice service says to these messages, one after the other."""
    events = await upstream.tap("invoice.events")
    async with environment.running("invoice", assemble):
        said: list[Received] = []
        for message in sent:
            await upstream.send(message)
            said += await events.take(min(1, count - len(said)))
        said += await events.take(count - len(said))
    return said


async def test_recorded_payment(environment: Environment, upstream: UpstreamClient) -> None:
    *_, paid = await received(upstream, environment, ISSUE, pay(), record(), count=3)
    assert paid.type == "remit.invoice.InvoicePaid.v1"
    assert paid.data == {"invoice_id": "INV-1", "payment_id": str(PAYMENT), "receipt_number": "ch_1", **AMOUNT}


async def test_recorded_again_it_is_said_again_with_the_same_id_and_bytes(
    environment: Environment, upstream: UpstreamClient
) -> None:
    """The coordinator may have missed it: a queue was deleted, a disk was lost."""
    *_, first, second = await received(upstream, environment, ISSUE, pay(), record(), record(), count=4)
    assert first.id == second.id
    assert first.message.body == second.message.body
    assert [r["version"] for r in await rows(environment.databases["invoice"], "SELECT version FROM events")] == [
        1,
        2,
        3,
    ]


async def test_failed_payment_opens_the_invoice_again(environment: Environment, upstream: UpstreamClient) -> None:
    failure = messages.RecordPaymentFailure(
        invoice_id="INV-1", payment_id=PAYMENT, outcome="declined", reason="no_funds"
    )
    *_, failed, requested = await received(
        upstream, environment, ISSUE, pay(), failure, pay(payment_id=uuid4()), count=4
    )
    assert (failed.type, failed.data["outcome"], failed.data["reason"]) == (
        "remit.invoice.InvoicePaymentFailed.v1",
        "declined",
        "no_funds",
    )
    assert failed.data["reference_code"].startswith("PF-")
    assert requested.type == "remit.invoice.InvoicePaymentRequested.v1"


async def test_money_nobody_waits_for_is_rejected(environment: Environment, upstream: UpstreamClient) -> None:
    _, rejected = await received(upstream, environment, ISSUE, record(), count=2)
    assert (rejected.type, rejected.data["reason"]) == (
        "remit.invoice.InvoiceSettlementRejected.v1",
        "payment_not_awaited",
    )


async def test_doubt_is_said_once(environment: Environment, upstream: UpstreamClient) -> None:
    flag = messages.FlagPaymentInDoubt(invoice_id="INV-1", payment_id=PAYMENT)
    *_, doubt, paid = await received(upstream, environment, ISSUE, pay(), flag, record(), count=4)
    assert doubt.type == "remit.invoice.InvoicePaymentInDoubt.v1"
    assert paid.type == "remit.invoice.InvoicePaid.v1"


async def test_a_discarded_command_is_answered(environment: Environment, upstream: UpstreamClient) -> None:
    command_id = uuid4()
    answers = await upstream.inbox()
    close = messages.CloseCommand(
        command_id=command_id,
        command_type="remit.invoice.PayInvoice.v9",
        reply_to=answers.name,
        reply_correlation_id="mine",
        reason="a test",
    )
    async with environment.running("invoice", assemble):
        await upstream.send(close)
        answer = await answers.next()
    assert (answer.data["command_id"], answer.data["answer"], answer.data["reason"]) == (
        str(command_id),
        "rejected",
        "discarded",
    )
    assert answer.message.correlation_id == "mine"
    stored = await rows(environment.databases["invoice"], "SELECT command_id, answer, reason FROM answers")
    assert stored == [{"command_id": command_id, "answer": "rejected", "reason": "discarded"}]


async def test_a_command_that_has_its_answer_keeps_it_when_it_is_discarded(
    environment: Environment, upstream: UpstreamClient
) -> None:
    answers = await upstream.inbox()
    async with environment.running("invoice", assemble):
        command_id = await upstream.send(ISSUE, reply_to=answers.name)
        await answers.next()
        await upstream.send(
            messages.CloseCommand(
                command_id=command_id, command_type=ISSUE.wire_name, reply_to=answers.name, reason="a test"
            )
        )
        await upstream.send(ISSUE, message_id=command_id, reply_to=answers.name)
        again = await answers.next()
    assert again.data["answer"] == "accepted"
    assert await upstream.depth("dead-letters") == 0


async def test_of_an_encrypted_card_history_keeps_a_fingerprint(
    environment: Environment, upstream: UpstreamClient
) -> None:
    await received(upstream, environment, ISSUE, pay(JWE), count=2)
    stored = str(await rows(environment.databases["invoice"], "SELECT data FROM events"))
    assert JWE.jwe not in stored
    assert "encrypted_card" in stored
    kept = await rows(environment.databases["invoice"], "SELECT method FROM payments")
    assert kept == [{"method": {"kind": "encrypted_card", "jwe": JWE.jwe}}], (
        "kept while pending: it may have to be asked again"
    )
    await received(upstream, environment, record(), count=1)
    assert await rows(environment.databases["invoice"], "SELECT method FROM payments") == [{"method": None}], (
        "erased when it is over"
    )


async def test_what_is_pending_too_long_is_requested_again_with_the_same_id(
    environment: Environment, upstream: UpstreamClient
) -> None:
    _, first = await received(upstream, environment, ISSUE, pay(JWE), count=2)
    url = environment.databases["invoice"]
    await execute(url, "UPDATE payments SET announced_at = now() - interval '1 hour'")
    events = await upstream.tap("invoice.events")
    database = await Database.open(url, name="test", connections_max=2)
    publisher = Publisher(BrokerLink(environment.rabbitmq_url, name="test"))
    try:
        reminder = RequestReminder(database, Relay(database, publisher), older_than_s=30)
        assert await reminder.remind() == 1
        again = await events.next()
        assert await reminder.remind() == 0, "not more often than that"
    finally:
        await publisher.close()
        await database.close()
    assert (again.id, again.message.body) == (first.id, first.message.body)
    heard_by = [queues_for("invoice.events", str(one.message.routing_key)) for one in (first, again)]
    assert heard_by == [("payment_gateway.requests",), ("saga.events", "payment_gateway.requests")], (
        "the saga watches it"
    )


async def test_rebuild_finds_the_stored_state_and_repairs_another(
    environment: Environment, upstream: UpstreamClient
) -> None:
    await received(upstream, environment, ISSUE, pay(), record(), count=3)
    url = environment.databases["invoice"]
    database = await Database.open(url, name="test", connections_max=2)
    try:
        assert await rebuild(database, system_clock, repair=False) == (
            rebuilt := await rebuild(database, system_clock, repair=True)
        )
        assert (rebuilt.streams, rebuilt.differing) == (1, ())
        await execute(url, "UPDATE invoices SET status = 'open'")
        assert (await rebuild(database, system_clock, repair=True)).differing == ("INV-1",)
        assert (await rebuild(database, system_clock, repair=False)).differing == ()
    finally:
        await database.close()
