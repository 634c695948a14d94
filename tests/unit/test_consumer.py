"""What a consumer does with deliveries whose channel is gone: they are neither handled nor acknowledged, because they come again."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared.amqp import frames
from shared.amqp.broker_link import BrokerLink
from shared.amqp.transport import FrameTransport
from shared.messaging.consumer import PREFETCH, Consumer, Delivery, read_delivery
from shared.messaging.losses import LOSSES_MAX
from shared.observability.health import Readiness

CHANNEL = 7


class Wire:
    """Notes what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def listen(self, *_: object, **__: object) -> None:
        """Nothing comes by itself."""


class OpenChannel(SimpleNamespace):
    """A channel of the broker's client."""

    number = CHANNEL
    is_closed = False

    async def close(self, *, timeout: float) -> None:
        self.is_closed = True


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def consumer(wire: Wire) -> Consumer:
    """A consumer on an open channel, the first one."""
    made = Consumer(cast(BrokerLink, None), "q", readiness=Readiness())
    open_channel(made, wire)
    return made


def open_channel(consumer: Consumer, wire: Wire) -> None:
    consumer._channel, consumer._transport = cast(Any, OpenChannel()), cast(FrameTransport, wire)
    consumer._generation += 1
    consumer._prefetch, consumer._unsettled = 400, 0


def delivery(consumer: Consumer, tag: int) -> Delivery:
    return Delivery(b"{}", tag, consumer._generation, "q", "", "", None, None, None, None, None)


def arrive(consumer: Consumer, *tags: int) -> list[Delivery]:
    deliveries = [delivery(consumer, tag) for tag in tags]
    for one in deliveries:
        consumer.arrived(one)
    return deliveries


async def test_one_acknowledgement_is_for_all_before_it(consumer: Consumer, wire: Wire) -> None:
    arrive(consumer, 1, 2, 3)
    await consumer.ack(await consumer.take())
    consumer._send_ack()
    assert wire.written == [frames.ack_up_to(CHANNEL, 3)]


async def test_a_postponed_delivery_is_passed_over(consumer: Consumer, wire: Wire) -> None:
    arrive(consumer, 1, 2, 3)
    first, second, third = await consumer.take()
    consumer.postpone([second], 3_600.0)
    await consumer.ack([first, third])
    consumer._send_ack()
    assert wire.written == [frames.ack_one(CHANNEL, 1) + frames.ack_one(CHANNEL, 3)]


async def test_deliveries_of_a_channel_that_is_gone_are_stale_and_never_acknowledged(
    consumer: Consumer, wire: Wire
) -> None:
    arrive(consumer, 1, 2)
    taken = await consumer.take()
    assert not consumer.is_stale(taken)
    await consumer._drop_channel()
    open_channel(consumer, wire)
    assert consumer.is_stale(taken)
    await consumer.ack(taken)
    consumer._send_ack()
    assert wire.written == [], "tags of another channel: the broker would close this one"
    assert consumer._unsettled == 0


async def test_an_acknowledgement_that_waited_is_not_sent_on_the_next_channel(consumer: Consumer, wire: Wire) -> None:
    arrive(consumer, 1)
    await consumer.ack(await consumer.take())
    open_channel(consumer, wire)
    consumer._send_ack()
    assert wire.written == []


async def test_nothing_of_a_dropped_channel_is_handled(consumer: Consumer) -> None:
    before = delivery(consumer, 3)
    arrive(consumer, 1, 2)
    await consumer._drop_channel()
    consumer.arrived(before)
    await consumer.stop()
    assert await consumer.take() == []


async def test_a_late_delivery_of_an_earlier_channel_is_dropped(consumer: Consumer, wire: Wire) -> None:
    before = delivery(consumer, 1)
    await consumer._drop_channel()
    open_channel(consumer, wire)
    consumer.arrived(before)
    (after,) = arrive(consumer, 1)
    assert await consumer.take() == [after]


class OpenLink:
    """A connection on which every channel opens and lets us consume."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def open(self, *, confirms: bool) -> tuple[OpenChannel, Wire]:
        async def answer(*_: object, **__: object) -> SimpleNamespace:
            return SimpleNamespace(consumer_tag=f"consumes, confirms: {confirms}")

        closing = asyncio.get_running_loop().create_future()
        asks = dict.fromkeys(("basic_qos", "queue_declare", "basic_consume"), answer)
        return OpenChannel(on_consumer_cancel_callbacks=set(), closing=closing, **asks), self._wire


async def test_nothing_of_the_channel_before_counts_on_the_next_one(consumer: Consumer, wire: Wire) -> None:
    """Neither what it had not acknowledged, nor which of its tags were postponed: tags begin anew."""
    consumer.link = cast(BrokerLink, OpenLink(wire))
    consumer.postpone(arrive(consumer, 1, 2), 3_600.0)
    await consumer._drop_channel()
    await consumer._open()
    assert consumer._unsettled == 0
    arrive(consumer, 5)
    await consumer.ack(await consumer.take())
    consumer._send_ack()
    assert wire.written == [frames.ack_up_to(CHANNEL, 5)]


async def test_a_broker_that_cannot_be_reached_counts_against_no_message(consumer: Consumer) -> None:
    for has_begun, prefetch in ((False, PREFETCH), (True, 1)):
        consumer._has_begun = has_begun
        for _ in range(LOSSES_MAX):
            consumer._lost.set()  # so nobody waits
            await consumer._back_off(nothing_came=False)
        assert consumer._losses.prefetch == prefetch


async def test_a_postponed_delivery_is_taken_again_while_its_channel_is_there_and_the_service_goes_on(
    consumer: Consumer, wire: Wire
) -> None:
    (postponed,) = arrive(consumer, 1)
    assert await consumer.take() == [postponed]
    consumer._take_again([postponed])
    assert await consumer.take() == [postponed]
    await consumer._drop_channel()
    open_channel(consumer, wire)
    consumer._take_again([postponed])
    (here,) = arrive(consumer, 1)
    assert await consumer.take() == [here], "the broker gives the other one to somebody again"
    await consumer.stop()
    consumer._take_again([here])
    assert await consumer.take() == []


@pytest.mark.parametrize(("redelivered", "tries"), [(True, 9), (False, 0)])
def test_only_of_a_redelivery_the_count_is_the_brokers(
    monkeypatch: pytest.MonkeyPatch, redelivered: bool, tries: int
) -> None:
    """A sender can write the same header."""
    deliver = SimpleNamespace(redelivered=redelivered, tag=1, exchange="", routing_key="")
    properties = SimpleNamespace(
        headers={"x-delivery-count": 9},
        **dict.fromkeys(
            ("content_type", "message_id", "correlation_id", "reply_to", "type", "content_encoding", "user_id")
        ),
    )
    monkeypatch.setattr(frames, "read_deliver", lambda _: deliver)
    monkeypatch.setattr(frames, "read_properties", lambda _: properties)
    read, told = read_delivery(b"", b"", b"{}", queue="q", generation=1)
    assert (read.tries, told) == (tries, redelivered)
