"""What a service says at its start about a broker that lacks something, and of what it says nothing: that may go away by itself."""

from typing import Any, cast

import pytest

from shared.amqp.broker_link import AccessRefusedError, BrokerLink, ChannelNotFoundEntity
from shared.messaging.start_check import FRAME_BYTES_LEAST, missing_at
from shared.messaging.topology import EXCHANGES

QUEUE = "saga.events"


class AnsweringBroker:
    """A connection, and its channel. `raised` is the answer to a declaration of the queue."""

    def __init__(self, *, payload_bytes: int = 0, raised: Exception | None = None) -> None:
        self.max_content_size = payload_bytes
        self.declared: list[str] = []
        self.tried: list[tuple[str, bool]] = []
        self._raised = raised

    async def channel(self, *, confirms: bool) -> "AnsweringBroker":
        assert not confirms
        return self

    async def exchange_declare(self, name: str, **how: Any) -> None:
        assert how["passive"]
        self.declared.append(name)

    async def queue_declare(self, name: str, **how: Any) -> None:
        assert how["passive"]
        if self._raised is not None:
            raise self._raised
        self.declared.append(name)

    async def try_to_write(self, exchange: str, *, unbound_key: str, may_be_heard: bool) -> None:
        assert unbound_key
        self.tried.append((exchange, may_be_heard))


async def asked(broker: AnsweringBroker) -> str | None:
    return await missing_at(cast("BrokerLink", broker), [QUEUE])


async def test_nothing_is_missing_where_everything_is_there() -> None:
    broker = AnsweringBroker()
    assert await asked(broker) is None
    assert broker.declared == [*(exchange.name for exchange in EXCHANGES), QUEUE]


async def test_frames_that_are_too_small_are_a_mistake() -> None:
    small = AnsweringBroker(payload_bytes=FRAME_BYTES_LEAST - 1)
    assert (
        await asked(small)
        == "RABBITMQ_URL: frames of the broker (its frame_max) hold 16383 bytes, and 16384 are needed."
    )
    assert small.declared == []
    assert await asked(AnsweringBroker(payload_bytes=FRAME_BYTES_LEAST)) is None


async def test_a_queue_that_is_not_there_is_a_mistake() -> None:
    missing = ChannelNotFoundEntity(f"NOT_FOUND - no queue '{QUEUE}' in vhost '/'")
    told = await asked(AnsweringBroker(raised=missing))
    assert told == f"RABBITMQ_URL: there is no queue '{QUEUE}' in vhost '/': run `remit topology apply`."


@pytest.mark.parametrize(
    "text",
    [
        f"NOT_FOUND - home node 'rabbit@b' of durable queue '{QUEUE}' in vhost '/' is down or inaccessible",
        f"NOT_FOUND - queue '{QUEUE}' in vhost '/' has crashed and failed to restart",
        f"NOT_FOUND - no queue '{QUEUE}' in vhost '/' due to timeout: its node is down",
        f"NOT_FOUND - queue '{QUEUE}' in vhost '/' process is stopped by supervisor",
    ],
)
async def test_a_queue_that_is_there_and_does_not_answer_is_none(text: str) -> None:
    assert await asked(AnsweringBroker(raised=ChannelNotFoundEntity(text))) is None


async def test_a_refusal_is_no_outage() -> None:
    with pytest.raises(AccessRefusedError, match="access to queue"):
        await asked(AnsweringBroker(raised=AccessRefusedError("ACCESS_REFUSED - access to queue")))


async def test_only_where_a_listener_might_hear_it_a_try_to_write_is_one_that_the_broker_refuses() -> None:
    """What it refuses makes a line in its log."""
    broker = AnsweringBroker()
    heard = ["invoice.events", "invoice.events.direct"]  # what no queue takes goes on from the second to the first
    unheard = ["amq.default", "invoice.events.own", "invoice.requests", "dead-letters.direct", "operations.heartbeats"]
    assert await missing_at(cast("BrokerLink", broker), [], [*heard, *unheard]) is None
    assert broker.tried == [*((name, True) for name in heard), ("", False), *((name, False) for name in unheard[1:])]
