"""A payment that is pending for too long is announced again, so even a deleted queue loses nothing."""

from prometheus_client import REGISTRY

from services.audit.routes import queues_for
from services.invoice.reminders import RequestReminder
from shared.amqp.broker_link import BrokerLink
from shared.contracts import invoice as messages
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.persistence.database import Database
from tests.service.invoice.conftest import ISSUE, JWE, PAY, THIS, in_conversation
from tests.support.databases import execute
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient


def requested_and_overdue() -> list[float]:
    """How many of these messages this process has committed."""
    types = (messages.InvoicePaymentRequested.wire_name, messages.InvoicePaymentOverdue.wire_name)
    return [REGISTRY.get_sample_value("remit_messages_committed_total", {"type": type_}) or 0.0 for type_ in types]


async def test_a_payment_pending_too_long_is_requested_again_with_the_same_id(
    environment: Environment, upstream: UpstreamClient
) -> None:
    async with in_conversation(environment, upstream) as invoice:
        await invoice.given(ISSUE)
        _, first = await invoice.when(PAY.model_copy(update={"method": JWE}))
    url = environment.databases["invoice"]
    await execute(url, "UPDATE payments SET announced_at = now() - interval '1 hour'")
    requests, events = await upstream.tap("invoice.requests"), await upstream.tap("invoice.events.own")
    database = await Database.open(url, name="test", connections_max=2)
    publisher = Publisher(BrokerLink(environment.rabbitmq_url, name="test"))
    try:
        relay = Relay(database, publisher)
        reminder = RequestReminder(database, relay, older_than_s=30)
        before = requested_and_overdue()
        assert await reminder.remind() == 1
        told = [now - was for now, was in zip(requested_and_overdue(), before, strict=True)]
        again, overdue = await requests.next(), await events.next()
        assert await reminder.remind() == 0, "once in this time is enough"
        await relay.keeper.delete_confirmed()
        await execute(url, "UPDATE payments SET announced_at = now() - interval '1 hour'")
        # Its time is older than what this reminder reads every time: so another instance finds it.
        reminder = RequestReminder(database, relay, older_than_s=30)
        assert await reminder.remind() == 1
        once_more = await events.next()
    finally:
        await publisher.close()
        await database.close()
    assert (again.id, again.message.body) == (first.id, first.message.body)
    assert told == [1, 1], "both are counted; only that it is overdue is news for the log"
    assert overdue.content == messages.InvoicePaymentOverdue(invoice_id="INV-1", payment_id=THIS)
    assert once_more.content == overdue.content
    assert once_more.id != overdue.id, "a saga that has handled the first one must hear that the invoice still waits"
    assert overdue.event["correlationid"] == first.event["correlationid"]
    heard_by = [
        queues_for(exchange, str(one.message.routing_key))
        for exchange, one in (("invoice.requests", again), ("invoice.events", overdue))
    ]
    assert heard_by == [("payment_gateway.requests",), ("saga.events",)], "the saga must hear of it, and not what pays"
