"""A payment that is pending for too long is announced again, so even a deleted queue loses nothing."""

import itertools
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from services.audit.routes import queues_for
from services.invoice import refund_store, store
from services.invoice.handlers import announce
from services.invoice.refunds import Refunded, RefundRequested
from services.invoice.reminders import RequestReminder
from shared.amqp.broker_link import BrokerLink
from shared.contracts import invoice as messages
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.persistence.database import Database
from shared.persistence.due_rows import WHENEVER
from shared.persistence.writes import WriteBatch
from tests.service.invoice.conftest import ISSUE, JWE, PAY, THIS, in_conversation
from tests.support.databases import execute, rows
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


SINCE = "now() - make_interval(secs => $3)"
PENDING = {
    "payments": f"""INSERT INTO payments (payment_id, invoice_id, version, pending, announced_at, announced)
        VALUES ($1, 'INV-1', 2, $4, {SINCE}, $2)""",
    "refunds": f"""INSERT INTO refunds (refund_id, payment_id, invoice_id, version, pending, announced_at, announced)
        VALUES ($1, $1, 'INV-1', 2, $4, {SINCE}, $2)""",
}
FIRST_S = 30.0


@pytest.mark.parametrize("table", PENDING)
async def test_what_waits_is_announced_ever_more_rarely_and_what_has_ended_never(
    environment: Environment, table: str
) -> None:
    url, longest_s = environment.databases["invoice"], FIRST_S * 2**store.ANNOUNCE_DOUBLINGS_MAX
    waits = [(1, FIRST_S), (2, 2 * FIRST_S), (3, 4 * FIRST_S), (20, longest_s)]
    due, ids = set(), itertools.count(1)
    for announced, wait_s in waits:
        for since_s, pending in ((wait_s - 20.0, True), (wait_s + 20.0, True), (wait_s + 20.0, False)):
            id_ = UUID(int=next(ids))
            await execute(url, PENDING[table], id_, announced, since_s, pending)
            due |= {id_} if pending and since_s > wait_s else set()
    database = await Database.open(url, name="test", connections_max=1)
    try:
        async with database.transaction() as tx:
            overdue = store.overdue_requests if table == "payments" else store.overdue_refunds
            number, _ = await overdue(tx, older_than_s=FIRST_S, window=WHENEVER, announce=announce)
            again, _ = await overdue(tx, older_than_s=FIRST_S, window=WHENEVER, announce=announce)
    finally:
        await database.close()
    found = await rows(
        url, f"SELECT {table[:-1]}_id AS id FROM {table} WHERE announced_at > now() - interval '5 seconds'"
    )
    assert ({row["id"] for row in found}, number, again) == (due, len(waits), 0)


async def test_a_refund_waits_until_its_first_outcome(environment: Environment) -> None:
    id_ = UUID(int=1)
    asked = RefundRequested(id_, id_, 500, "EUR", "a test", None)
    database = await Database.open(environment.databases["invoice"], name="test", connections_max=1)
    pending = []
    try:
        async with database.transaction() as tx:
            for version, event in enumerate((asked, Refunded(id_, id_, 500, "EUR", 500, 7)), start=3):
                writes = WriteBatch(tx)
                await refund_store.save(writes, [("INV-1", version, event)])
                await writes.flush()
                pending.append(await tx.fetchval("SELECT pending FROM refunds"))
    finally:
        await database.close()
    assert pending == [True, False]
