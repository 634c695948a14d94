"""Publisher and consumer on the real broker: only a confirm counts, and stale deliveries are dropped."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiormq.exceptions import PublishError
from structlog.testing import capture_logs

from deploy.local.stack import Stack
from services.audit.routes import queues_for
from shared.amqp.broker_link import BROKER_ERRORS, RPC_TIMEOUT_S, BrokerLink, losses_as_errors
from shared.contracts import invoice
from shared.contracts.catalogue import MESSAGES
from shared.contracts.payment_gateway import PaymentCaptured
from shared.messaging import consumer as consuming
from shared.messaging import publisher as publishing
from shared.messaging.apply import apply_topology, check_topology, leftovers, prune_topology
from shared.messaging.codec import encode
from shared.messaging.consumer import Consumer, Delivery
from shared.messaging.envelope import Cause, Draft, Lane, Outgoing
from shared.messaging.losses import Losses
from shared.messaging.publisher import Publisher, mark_of
from shared.messaging.topology import (
    CASE,
    COMMAND_ENTRY,
    DEAD_LETTERS,
    PUBLIC_EXCHANGES,
    QUEUES,
    UNREADABLE_DEAD_LETTERS,
    WORK_QUEUES,
    ingress_exchange,
    is_for_own_queues,
    routing_key,
)
from shared.observability.health import Readiness
from shared.records import replace
from tests.faults.frames import Amqp
from tests.faults.proxy import Network
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

TAKEN = UUID(int=1)


def message(invoice_id: str = "INV-1") -> Outgoing:
    data = invoice.IssueInvoice(invoice_id=invoice_id, customer_id="C-1", amount_minor=5, currency="EUR")
    return encode(Draft(data), Cause(uuid4(), "c", datetime(2026, 1, 1, tzinfo=UTC)), 0, source="test")


@pytest.fixture
async def publisher(environment: Environment) -> AsyncIterator[Publisher]:
    opened = Publisher(BrokerLink(environment.rabbitmq_url, name="test publisher"))
    yield opened
    await opened.close()


@pytest.fixture
async def consumer(environment: Environment) -> AsyncIterator[Consumer]:
    link = BrokerLink(environment.rabbitmq_url, name="test consumer")
    opened = Consumer(link, "invoice.commands", readiness=Readiness())
    task = asyncio.create_task(opened.run())
    yield opened
    await opened.stop()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await link.close()


async def test_a_batch_is_confirmed(publisher: Publisher, upstream: UpstreamClient) -> None:
    messages = [message(f"INV-{n}") for n in range(1_000)]
    published = await publisher.publish(messages)
    assert published.confirmed == [m.id for m in messages]
    tap = await upstream.queue("invoice.commands")
    assert [h.id for h in await tap.take(1_000)] == [str(m.id) for m in messages]


async def test_old_bindings_duplicate_nothing_and_can_be_removed(
    environment: Environment, publisher: Publisher, upstream: UpstreamClient
) -> None:
    link = BrokerLink(environment.rabbitmq_url, name="test topology")
    channel = await link.channel(confirms=False)
    retired = [(queue, binding) for queue in QUEUES for binding in queue.retired]
    assert retired
    for queue, binding in retired:
        await channel.queue_bind(queue.name, binding.exchange, binding.routing_key, timeout=RPC_TIMEOUT_S)
    await link.close()
    await apply_topology(environment.rabbitmq_url)
    saga = await upstream.queue("saga.events")
    now = Outgoing(uuid4(), "payment.events", PaymentCaptured.wire_name, PaymentCaptured.wire_name, "c", b"{}")
    assert (await publisher.publish([now])).confirmed == [now.id]
    await upstream.send_raw(b"{}", exchange="payment.events", key=PaymentCaptured.wire_name, message_id="as before")
    assert [received.id for received in await saga.waiting()] == [str(now.id), "as before"]
    await prune_topology(environment.rabbitmq_url)
    bound = {(binding.exchange, binding.routing_key) for queue in QUEUES for binding in queue.bindings}
    for exchange, key in {(binding.exchange, binding.routing_key.removesuffix(".#")) for _, binding in retired} - bound:
        with pytest.raises(PublishError, match="NO_ROUTE"):
            await upstream.send_raw(b"{}", exchange=exchange, key=key)


SAGA, STAFF, REQUESTS = "saga.events", "staff.cases", "payment_gateway.requests"
HEARD = {
    "remit.invoice.InvoiceIssued.v1": ([], []),
    "remit.invoice.InvoicePaymentOverdue.v1": ([SAGA], [SAGA]),
    "remit.invoice.InvoicePaid.v1": ([SAGA], [SAGA]),
    "remit.invoice.InvoicePaymentFailed.v1": ([SAGA], [SAGA]),
    "remit.invoice.InvoicePaymentInDoubt.v1": ([], []),
    "remit.invoice.InvoiceVoided.v1": ([], []),
    "remit.invoice.InvoiceSettlementRejected.v1": ([SAGA], [SAGA]),
    "remit.invoice.InvoiceRefundRequested.v1": ([SAGA, STAFF], [SAGA, STAFF]),
    "remit.invoice.InvoiceRefunded.v1": ([SAGA, STAFF], [SAGA, STAFF]),
    "remit.invoice.InvoiceRefundFailed.v1": ([SAGA, STAFF], [SAGA, STAFF]),
    "remit.invoice.InvoiceRefundRejected.v1": ([STAFF], [STAFF]),
    "remit.invoice.InvoiceCommandRejected.v1": ([], []),
    "remit.payment_gateway.PaymentCaptured.v1": ([SAGA], [SAGA, STAFF]),
    "remit.payment_gateway.PaymentDeclined.v1": ([SAGA], [SAGA, STAFF]),
    "remit.payment_gateway.PaymentNotCharged.v1": ([SAGA], [SAGA, STAFF]),
    "remit.payment_gateway.PaymentInDoubt.v1": ([SAGA, STAFF], [SAGA, STAFF]),
    "remit.payment_gateway.PaymentNeedsDecision.v1": ([SAGA, STAFF], [SAGA, STAFF]),
    "remit.payment_gateway.PaymentRefunded.v1": ([SAGA], [SAGA, STAFF]),
    "remit.payment_gateway.PaymentRefundInDoubt.v1": ([SAGA, STAFF], [SAGA, STAFF]),
    "remit.payment_gateway.PaymentRefundFailed.v1": ([SAGA, STAFF], [SAGA, STAFF]),
    "remit.payment_gateway.PaymentInquired.v1": ([], [STAFF]),
    "remit.payment_gateway.PaymentResolutionRefused.v1": ([STAFF], [STAFF]),
    "remit.invoice.OfALaterVersion.v1": ([], []),
    "remit.staff.JournalSealed.v1": ([], []),
}
"""The queues that receive an event; and those that receive it as the end of a case."""
EXCHANGE_OF = {"invoice": "invoice.events", "payment_gateway": "payment.events", "staff": "staff.events"}
"""The public exchange of an event, by the service that its name tells."""


@pytest.mark.parametrize("qualified", [False, True])
async def test_an_event_reaches_its_queues_once_and_its_copy_every_bound_pattern(
    environment: Environment, publisher: Publisher, upstream: UpstreamClient, qualified: bool
) -> None:
    public = Publisher(BrokerLink(environment.rabbitmq_url, name="test public"), lane=Lane.PUBLIC)
    assert {event.wire_name for event in MESSAGES if ingress_exchange(event.exchange) != event.exchange} <= set(HEARD)
    taps = {exchange: await upstream.tap(exchange, "remit.#") for exchange in PUBLIC_EXCHANGES}
    ours = {queue.name: await upstream.queue(queue.name) for queue in WORK_QUEUES if not queue.is_optional}
    expected: dict[str, list[str | None]] = {name: [] for name in (*ours, *taps)}
    for wire_name, received in HEARD.items():
        exchange = EXCHANGE_OF[wire_name.split(".")[1]]
        key = routing_key(wire_name, CASE if qualified else "")
        for name in (*received[qualified], exchange):
            expected[name].append(key)
        sent = Outgoing(uuid4(), exchange, key, wire_name, "c", b"{}")
        for each in (publisher, public) if is_for_own_queues(exchange, key) else (public,):
            assert (await each.publish([sent])).confirmed == [sent.id]
        assert sorted(queues_for(exchange, key)) == sorted(received[qualified]), (
            "the audit must expect them in the same queues"
        )
    await public.close()
    came = {name: [one.message.routing_key for one in await tap.waiting()] for name, tap in (ours | taps).items()}
    assert came == expected


async def test_an_unroutable_message_is_not_published(publisher: Publisher) -> None:
    good = message()
    lost = Outgoing(uuid4(), "", "no-such-queue", "t", "c", b"{}", droppable=True)
    published = await publisher.publish([lost, good])
    assert (published.unroutable, published.confirmed) == ([lost.id], [good.id])


@pytest.mark.parametrize("foreign", ["a\ufffdb", "\x00", "?", "remit", "remit/1", "\u202e" * 80, str(TAKEN)])
async def test_a_returned_message_is_recognised_whatever_id_its_sender_gave_it(
    publisher: Publisher, foreign: str
) -> None:
    """A replay has the id that it came with. The broker gives the text back as it likes to, and others may have the same id."""
    good = replace(message(), id=TAKEN)
    lost, also_lost = (Outgoing(uuid4(), "", "no-such-queue", "t", "c", b"{}", message_id=foreign) for _ in range(2))
    routed = Outgoing(uuid4(), "", "dead-letters", "t", "c", b"{}", message_id=foreign)
    published = await publisher.publish([good, lost, routed, also_lost])
    assert published.confirmed == [good.id, routed.id]
    assert published.unroutable == [lost.id, also_lost.id]


async def test_events_that_nobody_bound_a_queue_for_are_published(publisher: Publisher) -> None:
    data = invoice.InvoiceVoided(invoice_id="INV-1", reason="r")
    event = encode(Draft(data), Cause(uuid4(), "c", datetime(2026, 1, 1, tzinfo=UTC)), 0, source="test")
    assert (await publisher.publish([event])).confirmed == [event.id]


async def test_the_same_id_twice_in_a_batch_is_confirmed_twice(publisher: Publisher, upstream: UpstreamClient) -> None:
    one = message()
    assert (await publisher.publish([one, one])).confirmed == [one.id, one.id]
    assert len(await (await upstream.queue("invoice.commands")).take(2)) == 2


async def test_a_message_to_a_missing_exchange_is_unroutable_and_its_neighbours_are_published(
    publisher: Publisher,
) -> None:
    lost = Outgoing(uuid4(), "no-such-exchange", "k", "t", "c", b"{}")
    neighbours = [message(f"INV-{number}") for number in range(9)]
    published = await publisher.publish([*neighbours[:4], lost, *neighbours[4:]])
    assert published.unroutable == [lost.id]
    assert set(published.confirmed) == {neighbour.id for neighbour in neighbours}
    assert (published.failed, published.poison) == ([], [])


async def test_a_message_that_alone_gets_no_confirm_is_told_from_an_outage(
    publisher: Publisher, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue has lost its leader, say: the broker confirms other messages, and never this one."""
    await publisher.publish([message()])
    await publisher._open_channel()
    publisher._confirms.on_confirm = lambda method: None  # type: ignore[method-assign] # noqa: ARG005
    drop_channel, patience_s = publisher._drop_channel, publishing.CONFIRM_TIMEOUT_S

    def patient_again() -> None:
        """The broker is asked next, and may take its time."""
        monkeypatch.setattr(publishing, "CONFIRM_TIMEOUT_S", patience_s)
        drop_channel()

    monkeypatch.setattr(publisher, "_drop_channel", patient_again)
    monkeypatch.setattr(publishing, "CONFIRM_TIMEOUT_S", 0.2)
    silent = message()
    assert (await publisher.publish([silent])).silent == [silent.id]
    assert (await publisher.publish([silent])).confirmed == [silent.id], "a new channel works"


async def test_after_a_refusal_the_next_message_uses_a_new_channel(
    publisher: Publisher, upstream: UpstreamClient
) -> None:
    """Otherwise the channel might refuse for ever (RabbitMQ 3.10, after a queue lost its leader)."""
    refused, good = Outgoing(uuid4(), "", await upstream.full_queue(), "t", "c", b"{}", droppable=True), message()
    await publisher.publish([good])
    before = publisher._channel
    with capture_logs() as logged:
        for _ in range(2):
            published = await publisher.publish([refused, good])
            assert (published.refused, published.confirmed) == ([refused.id], [good.id])
    assert [entry["event"] for entry in logged] == ["messages_refused"], "a queue may be full for days"
    assert (await publisher.publish([good])).confirmed == [good.id]
    assert publisher._channel is not before


async def test_a_message_that_amqp_cannot_carry_fails_alone(publisher: Publisher) -> None:
    good, long_id = message(), Outgoing(uuid4(), COMMAND_ENTRY, "k", "t", "c" * 300, b"{}")
    huge = Outgoing(uuid4(), COMMAND_ENTRY, "k", "t", "c", b"x" * 200_000)
    published = await publisher.publish([long_id, huge, good])
    assert (published.unencodable, published.confirmed) == ([long_id.id, huge.id], [good.id])


HOSTILE: dict[str, tuple[bytes, bytes]] = {
    "an id that is not UTF-8": (b"\x04EVIL", b"\x04\xff\xfe\xff\xfe"),
    "a type that is not UTF-8": (b"\x08EVILTYPE", b"\x08\xff\xfe\xff\xfe\xff\xfe\xff\xfe"),
    "a time beyond all years": (b"\x08evilnameS\x00\x00\x00\x04text", b"\x08evilnameT\xff\xff\xff\xff\xff\xff\xff\xff"),
    "a header name that is not UTF-8": (b"\x08evilname", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff"),
}


def deep(levels: int) -> dict[str, object]:
    """A header table with so many levels."""
    table: dict[str, object] = {}
    for _ in range(levels):
        table = {"a": table}
    return table


async def send_frames(publisher: Publisher, outgoing: Outgoing, old: bytes = b"", new: bytes = b"") -> None:
    """Publish with `old` replaced by `new` in the frames, since our own encoder would never write that."""
    channel = await publisher._open_channel()
    frames = publishing._payload(mark_of(outgoing), outgoing, channel)
    assert old in frames
    await publisher._all_confirmed(publisher._write([mark_of(outgoing)], frames.replace(old, new)))


@pytest.mark.parametrize(("old", "new"), HOSTILE.values(), ids=HOSTILE)
async def test_hostile_properties_and_headers_stop_no_consumer(
    publisher: Publisher, consumer: Consumer, old: bytes, new: bytes
) -> None:
    evil = Outgoing(
        uuid4(), COMMAND_ENTRY, "k", "EVILTYPE", "c", b"{}", message_id="EVIL", headers={"evilname": "text"}
    )
    await send_frames(publisher, evil, old, new)
    await publisher.publish([message()])
    async with asyncio.timeout(10):
        first = await consumer.take(at_most=1)
        second = await consumer.take(at_most=1)
    assert first[0].body == b"{}"
    assert second[0].tries == 0, "the channel was not lost"


async def test_headers_nested_without_end_stop_no_consumer(publisher: Publisher, consumer: Consumer) -> None:
    evil = Outgoing(uuid4(), COMMAND_ENTRY, "k", "t", "c", b"{}", headers=deep(400))  # type: ignore[arg-type]
    await send_frames(publisher, evil)
    async with asyncio.timeout(10):
        (delivery,) = await consumer.take()
    assert "x-unreadable" in str(delivery.headers)


async def test_an_unreachable_broker_is_a_failure_and_no_exception() -> None:
    publisher = Publisher(BrokerLink("amqp://nobody:x@127.0.0.1:1/", name="test"))
    one = message()
    with capture_logs() as logged:
        for _ in range(3):
            assert (await publisher.publish([one])).failed == [one.id]
    await publisher.close()
    (told,) = logged  # and no line at each try
    assert (told["event"], told["lane"]) == ("publish_failed", "inside")
    assert "Connection refused" in told["error"] or "Connect call failed" in told["error"]


async def test_a_batch_is_all_that_has_arrived(
    publisher: Publisher, consumer: Consumer, upstream: UpstreamClient
) -> None:
    messages = [message(f"INV-{n}") for n in range(50)]
    await publisher.publish(messages)
    taken: list[consuming.Delivery] = []
    while len(taken) < 50:
        async with asyncio.timeout(10):
            batch = await consumer.take(at_most=20)
        assert 1 <= len(batch) <= 20
        taken += batch
        await consumer.ack(batch)
    assert [d.message_id for d in taken] == [str(m.id) for m in messages]
    await until(lambda: _is_empty(upstream), what="the queue")


async def _is_empty(upstream: UpstreamClient) -> bool:
    return await upstream.depth("invoice.commands") == 0


@pytest.mark.parametrize(("ack_at", "come_again"), [(3, 2), (2, 0)])
async def test_acknowledgements_are_collected(
    publisher: Publisher, consumer: Consumer, monkeypatch: pytest.MonkeyPatch, ack_at: int, come_again: int
) -> None:
    monkeypatch.setattr(consuming, "ACK_WITHIN_S", 3_600.0)
    monkeypatch.setattr(consuming, "ACK_AT", ack_at)
    await settle_one_by_one(publisher, consumer, 2)
    assert consumer._channel is not None
    await consumer._channel.close()
    await publisher.publish([last := message("INV-last")])
    received: list[consuming.Delivery] = []
    async with asyncio.timeout(10):
        while not received or received[-1].message_id != str(last.id):
            received += await consumer.take()
    assert len(received) == come_again + 1
    assert all(delivery.tries == 1 for delivery in received[:-1])


async def test_no_acknowledgement_is_sent_on_another_or_a_closed_channel(
    publisher: Publisher, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another channel the same number is another message; on a closed channel it is an error of the whole connection."""
    monkeypatch.setattr(consuming, "ACK_WITHIN_S", 3_600.0)
    written: list[bytes] = []
    await settle_one_by_one(publisher, consumer, 1)
    assert consumer._transport is not None
    monkeypatch.setattr(consumer._transport, "write", written.append)
    to_ack = list(consumer._to_ack)
    consumer._generation += 1
    consumer._send_ack()
    consumer._generation -= 1
    consumer._to_ack = to_ack
    assert consumer._channel is not None
    with monkeypatch.context() as closed:
        closed.setattr(type(consumer._channel), "is_closed", True)
        consumer._send_ack()
    assert written == []


async def test_settled_deliveries_do_not_come_back_when_a_consumer_pauses(
    publisher: Publisher, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consuming, "ACK_WITHIN_S", 3_600.0)
    await settle_one_by_one(publisher, consumer, 1)
    await consumer.pause()
    consumer.resume()
    await publisher.publish([last := message("INV-last")])
    async with asyncio.timeout(10):
        assert [one.message_id for one in await consumer.take()] == [str(last.id)]


async def test_settled_deliveries_are_acknowledged_soon(
    publisher: Publisher, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    await settle_one_by_one(publisher, consumer, 1)
    assert consumer._transport is not None
    monkeypatch.setattr(consumer._transport, "write", written.append)
    await until(lambda: _some(written), what="the acknowledgement")
    assert len(written) == 1


async def test_a_stopping_consumer_acknowledges_settled_deliveries(
    environment: Environment, publisher: Publisher, upstream: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consuming, "ACK_WITHIN_S", 3_600.0)
    link = BrokerLink(environment.rabbitmq_url, name="test consumer")
    stopping = Consumer(link, "invoice.commands", readiness=Readiness())
    task = asyncio.create_task(stopping.run())
    await settle_one_by_one(publisher, stopping, 2)
    await publisher.publish([message()])
    async with asyncio.timeout(10):
        late = await stopping.take()
        await stopping.stop()
        await stopping.ack(late)
        await task
    await link.close()
    assert await upstream.depth("invoice.commands") == 0


async def test_a_consumer_that_gathers_takes_what_comes_meanwhile_and_stops_at_once(
    environment: Environment, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = BrokerLink(environment.rabbitmq_url, name="test consumer")
    gathering = Consumer(link, "invoice.commands", readiness=Readiness(), gather_s=3_600.0)
    task = asyncio.create_task(gathering.run())

    async def another_comes() -> None:
        await publisher.publish([message()])
        await until(_both_are_there, what="the second message")

    async def _both_are_there() -> bool:
        return len(gathering._buffer) > 1

    await publisher.publish([message()])
    async with asyncio.timeout(10):
        with monkeypatch.context() as patched:
            patched.setattr(gathering, "_gather", another_comes)
            both = await gathering.take()
        await publisher.publish([message()])
        taking = asyncio.create_task(gathering.take())
        await until(lambda: _some(list(gathering._buffer)), what="the third message")
        await gathering.stop()
        assert (len(both), len(await taking)) == (2, 1)
        await gathering.ack(both)
        await task
    await link.close()


async def test_a_closed_channel_leaves_nothing_in_its_connection(environment: Environment) -> None:
    """An idle consumer takes a new channel every fifteen seconds, and its connection may live for months."""
    link = BrokerLink(environment.rabbitmq_url, name="test channels")

    async def tasks_after(channels: int) -> int:
        for _ in range(channels):
            channel = await link.channel(confirms=False)
            await channel.close(timeout=RPC_TIMEOUT_S)
        gc.collect()
        return sum(type(one) is asyncio.Task for one in gc.get_objects())

    few, many = await tasks_after(3), await tasks_after(40)
    assert many - few < 20, "each channel would leave one task; those of the last channel may still be ending"
    await link.close()


async def settle_one_by_one(publisher: Publisher, consumer: Consumer, count: int) -> None:
    for number in range(count):
        await publisher.publish([message(f"INV-{number}")])
        async with asyncio.timeout(10):
            await consumer.ack(await consumer.take())


async def _some(written: list[Any]) -> bool:
    return bool(written)


async def test_deliveries_of_a_lost_channel_are_stale_and_redelivered(publisher: Publisher, consumer: Consumer) -> None:
    await publisher.publish([message()])
    async with asyncio.timeout(10):
        first = await consumer.take()
        assert consumer._channel is not None
        await consumer._channel.close()
        await until(lambda: _stale(consumer, first), what="staleness")
        await consumer.ack(first)  # does nothing, and does not raise
        second = await consumer.take()
    assert [d.message_id for d in second] == [d.message_id for d in first]
    assert second[0].tries == 1


async def _stale(consumer: Consumer, batch: list[consuming.Delivery]) -> bool:
    return consumer.is_stale(batch)


async def test_a_consumer_that_gets_nothing_is_renewed(
    environment: Environment, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker gives messages to a consumer that does not get them: the queue looks empty and consumed. When nothing comes for a while,
    the consumer starts again."""
    monkeypatch.setattr(consuming, "WATCH_INTERVAL_S", 0.1)
    swallowed: list[Delivery] = []
    arrived = Consumer.arrived

    def deaf(consumer: Consumer, delivery: Delivery) -> None:
        if delivery.generation == 1:
            swallowed.append(delivery)
        else:
            arrived(consumer, delivery)

    monkeypatch.setattr(Consumer, "arrived", deaf)
    link = BrokerLink(environment.rabbitmq_url, name="test consumer")
    consumer = Consumer(link, "invoice.commands", readiness=Readiness())
    await publisher.publish([lost := message()])
    with capture_logs() as logs:
        task = asyncio.create_task(consumer.run())
        async with asyncio.timeout(10):
            batch = await consumer.take()
        await consumer.ack(batch)
        await consumer.stop()
        await asyncio.wait_for(task, 10)
    await link.close()
    assert [delivery.message_id for delivery in (*swallowed, *batch)] == [str(lost.id)] * 2
    assert [entry["event"] for entry in logs] == ["consuming"]


async def test_a_loss_is_told_once_with_the_words_of_the_broker(
    network: Network, environment: Environment, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the consumer tries to connect meanwhile, and whatever the client library says of each try."""
    tries = 0
    proxy = network.stand_before(environment.rabbitmq_url, speaks=Amqp)
    link = BrokerLink(proxy.url, name="test consumer")
    connect = link.open

    async def counted(*, confirms: bool) -> Any:
        nonlocal tries
        tries += 1
        return await connect(confirms=confirms)

    monkeypatch.setattr(link, "open", counted)
    monkeypatch.setattr(Losses, "delay_s", lambda _, *, nothing_came: 0.01)  # noqa: ARG005 - the name matters
    consumer = Consumer(link, "invoice.commands", readiness=Readiness())

    async def consuming_again() -> bool:
        return [entry["event"] for entry in logs].count("consuming") == 2

    async def tried_often() -> bool:
        return tries >= 5

    with capture_logs() as logs:
        task = asyncio.create_task(consumer.run())
        await until(lambda: _some([e for e in logs if e["event"] == "consuming"]), what="the consumer")
        proxy.refuse()
        closing = ("close_all_connections", "--vhost", environment.stack.vhost, "maintenance tonight")
        await asyncio.to_thread(stack.broker.ctl, *closing)
        await until(tried_often, what="five tries")
        proxy.heal()
        await until(consuming_again, what="the consumer once more")
        await consumer.stop()
        await asyncio.wait_for(task, 10)
    await link.close()
    told = [(entry["event"], entry.get("reason", "")) for entry in logs]
    assert [event for event, _ in told] == ["consuming", "consumer_lost", "consumer_lost", "consuming"]
    assert "maintenance tonight" in told[1][1]
    assert "maintenance" not in told[2][1], "that one says why it cannot connect"


async def test_a_consumer_unknown_to_the_broker_is_replaced(
    publisher: Publisher, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consumer looks alive, because its channel is open, and gets nothing."""
    monkeypatch.setattr(consuming, "WATCH_INTERVAL_S", 0.1)
    link = BrokerLink(environment.rabbitmq_url, name="test consumer")
    consumer = Consumer(link, "invoice.commands", readiness=Readiness())
    task = asyncio.create_task(consumer.run())
    try:
        await publisher.publish([message()])
        async with asyncio.timeout(10):
            await consumer.ack(await consumer.take())
            assert consumer._channel is not None
            await consumer._channel.basic_cancel(consumer._tag or "")  # without the consumer's knowledge
            await publisher.publish([message()])
            assert len(await consumer.take()) == 1
    finally:
        await consumer.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await link.close()


async def test_a_connection_closed_in_the_handshake_is_an_outage() -> None:
    """A proxy does this while the broker behind it restarts: it accepts connections, and closes them."""

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = BrokerLink(f"amqp://guest:guest@127.0.0.1:{port}/", name="test")
    with pytest.raises(BROKER_ERRORS):
        await link.channel(confirms=False)
    publisher = Publisher(link)
    one = message()
    assert (await publisher.publish([one])).failed == [one.id]
    await publisher.close()
    server.close()
    await server.wait_closed()


class LateLink(BrokerLink):
    """A link during whose opening the consumer is stopped."""

    consumer: Consumer

    async def open(self, *, confirms: bool):  # type: ignore[no-untyped-def]
        opened = await super().open(confirms=confirms)
        await self.consumer.stop()
        return opened


async def test_a_consumer_stopped_while_it_opens_takes_nothing(publisher: Publisher, environment: Environment) -> None:
    link = LateLink(environment.rabbitmq_url, name="test consumer")
    link.consumer = consumer = Consumer(link, "invoice.commands", readiness=Readiness())
    await publisher.publish([message()])
    async with asyncio.timeout(10):
        await consumer.run()
        channel = await BrokerLink.channel(link, confirms=False)
        state = await channel.queue_declare("invoice.commands", passive=True)
    assert state.consumer_count == 0, "it would go on taking messages while its service waits for its end"
    await link.close()


async def test_a_cancellation_that_the_client_turns_into_an_error_stays_one() -> None:
    """Otherwise the task would go on, and the service that cancelled it would wait for ever."""
    begun = asyncio.Event()

    async def hidden() -> None:
        with losses_as_errors():
            try:
                begun.set()
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise RuntimeError("the transport is closed") from None

    task = asyncio.create_task(hidden())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_dead_letters_of_an_earlier_build_stay_and_the_operator_is_told(empty_vhost: Stack) -> None:
    """Arguments of a queue cannot be changed, and it may hold messages. What it lacks comes by a policy."""
    url = empty_vhost.rabbitmq_url
    (dead_letters,) = (queue for queue in QUEUES if queue.name == DEAD_LETTERS)
    link = BrokerLink(url, name="test earlier build")
    channel = await link.channel(confirms=False)
    former: dict[str, Any] = {**(dead_letters.former_arguments or {})}
    await channel.queue_declare(DEAD_LETTERS, durable=True, arguments=former)
    await link.close()
    await apply_topology(url)
    assert await check_topology(url) == []
    (note,) = await leftovers(url)
    policy = note[note.index("{") : note.rindex("}") + 1]
    assert json.loads(policy) == dead_letters.policy
    lower = json.dumps(json.loads(policy) | {"delivery-limit": 2})
    empty_vhost.broker.ctl(
        "set_policy", "--vhost", empty_vhost.vhost, DEAD_LETTERS, f"^{DEAD_LETTERS}$", lower, "--apply-to", "queues"
    )
    async with UpstreamClient.open(url) as there:
        await there.send_raw(b"deadly", exchange=DEAD_LETTERS, key="saga.events")

        async def moved_on() -> int:
            # Not until it is gone from `dead-letters`: in whose hands a connection ends, it is in no depth at all.
            async with UpstreamClient.open(url) as lost:
                await (await lost.queue(DEAD_LETTERS))._queue.get(fail=False)
            return await there.depth(UNREADABLE_DEAD_LETTERS)

        await until(moved_on, what="the way out of a message that ends connections")
        (moved,) = await (await there.queue(UNREADABLE_DEAD_LETTERS)).take(1)
    assert (moved.message.body, moved.message.routing_key) == (b"deadly", "saga.events")


async def test_a_new_broker_has_nothing_of_an_earlier_build(environment: Environment) -> None:
    assert await check_topology(environment.rabbitmq_url) == []
    assert await leftovers(environment.rabbitmq_url) == []
