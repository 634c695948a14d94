"""Deliveries of one queue, taken as they have arrived.

The client's callback only enqueues: losing the connection cancels tasks that belong to the channel (measured), so the work
runs in a task of the service. Deliveries buffered before a reconnect are stale (the broker delivers them again) and are
dropped by channel generation.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import structlog

from shared.amqp import frames
from shared.amqp.broker_link import BROKER_ERRORS, RPC_TIMEOUT_S, BrokerLink, Channel, losses_as_errors
from shared.amqp.transport import FrameTransport
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.records import dataclass, field
from shared.retry_policy import OUTAGE

log = structlog.get_logger(__name__)

BATCH_MAX = 200
"""Messages handled in one transaction. Set-based statements gain little beyond (FACTS.md), and locks stay short."""
PREFETCH = 2 * BATCH_MAX
"""One batch in hand and one waiting; a crash counts a delivery against every one of them."""
ACK_WITHIN_S = 0.1
"""How long an acknowledgement waits for others, so that one frame carries them all: in a quorum queue each is an entry in a log on disk. At
100 payments/s the whole system takes a quarter less CPU for it (measured). A crash gives that much more back, which the inbox knows."""
ACK_AT = BATCH_MAX // 4
"""Messages for which it does not wait: the prefetch must not run dry."""
WATCH_INTERVAL_S = 15.0
"""How often we ask the broker whether it still knows our consumer."""
SUSPICIONS_MAX = 2
"""Checks in a row at which the queue had messages for us and none came, while we had others in hand."""


TRIES_SHOWN_MAX = 1_000_000
"""The broker counts deliveries in a header that a sender can write, too: on a first delivery it is not believed."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery as the broker gave it. `tries` counts earlier deliveries of it (quorum queues keep the count)."""

    body: bytes
    tag: int
    generation: int
    queue: str
    exchange: str
    routing_key: str
    content_type: str | None
    message_id: str | None
    correlation_id: str | None
    reply_to: str | None
    type: str | None
    headers: dict[str, Any] = field(default_factory=dict)
    tries: int = 0

    @property
    def property_texts(self) -> list[str]:
        """What the sender wrote into properties other than headers."""
        return [text for text in (self.message_id, self.correlation_id, self.reply_to, self.type) if text]


class Consumer:
    """Keeps a consumer on `queue` alive, whatever happens to broker, channel or queue."""

    def __init__(
        self,
        link: BrokerLink,
        queue: str,
        *,
        readiness: Readiness,
        prefetch: int = PREFETCH,
        after: "Consumer | None" = None,
    ) -> None:
        self.queue = queue
        self.caught_up = asyncio.Event()
        """Set once what waited in the queue when we first came has been handled."""
        self._after = after
        self._waited_at_start = 0
        self._link = link
        self._prefetch = prefetch
        self._readiness = readiness
        self._channel: Channel | None = None
        self._wire: FrameTransport | None = None
        self._tag: str | None = None
        self._generation = 0
        self._buffer: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._lost = asyncio.Event()
        self._stopping = False
        self._paused = False
        self._unsettled = 0
        self._deliveries = 0
        self._owed: list[Delivery] = []
        self._owing: asyncio.TimerHandle | None = None

    # -- what the shell does with it -------------------------------------------------------------------------------------------------

    async def take(self, at_most: int = BATCH_MAX) -> list[Delivery]:
        """Wait for the first delivery, then take what else is there. Empty: stopped and nothing is left."""
        while not self._buffer:
            if self._stopping:
                return []
            self._arrived.clear()
            await self._arrived.wait()
        return [self._buffer.popleft() for _ in range(min(at_most, len(self._buffer)))]

    def is_stale(self, deliveries: Sequence[Delivery]) -> bool:
        """Whether the channel they came on is gone: the broker delivers them again, to whomever."""
        return deliveries[-1].generation != self._generation

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """These are settled; the broker hears of it soon (`ACK_WITHIN_S`). Stale ones are skipped: their redelivery finds them in the
        inbox."""
        if self.is_stale(deliveries):
            return
        self._owed += deliveries
        self._unsettled -= len(deliveries)
        self._note_handled(len(deliveries))
        if not self._unsettled:
            self.caught_up.set()  # nothing more is coming our way: other instances took the rest
        if self._stopping or len(self._owed) >= min(ACK_AT, max(1, self._prefetch // 4)):
            self._settle()
        elif self._owing is None:
            self._owing = asyncio.get_running_loop().call_later(ACK_WITHIN_S, self._settle)

    def _settle(self) -> None:
        """One multiple-ack up to the last: what lies before it on this channel was settled earlier."""
        if self._owing is not None:
            self._owing.cancel()
            self._owing = None
        owed, self._owed = self._owed, []
        if not owed or self.is_stale(owed) or self._channel is None or self._channel.is_closed or self._wire is None:
            return  # on a closed channel it would cost all consumers their connection
        try:
            self._wire.write(frames.ack_up_to(self._channel.number, owed[-1].tag))
        except BROKER_ERRORS:
            self._lost.set()

    async def pause(self) -> None:
        """Give everything back to the broker (a long outage of the database: its consumer timeout would close the channel anyway)."""
        self._paused = True
        self._lost.set()
        await self._drop_channel()

    def resume(self) -> None:
        self._paused = False
        self._lost.set()

    async def stop(self) -> None:
        """Take no more deliveries; those buffered can still be taken and acked."""
        self._stopping = True
        self._settle()
        channel = self._channel
        if channel is not None and self._tag is not None:
            try:
                with losses_as_errors():
                    await channel.basic_cancel(self._tag, timeout=RPC_TIMEOUT_S)
            except BROKER_ERRORS:
                log.info("consumer_was_gone", queue=self.queue)
        self._arrived.set()
        self._lost.set()

    # -- keeping it alive ------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Consume until `stop`: open, watch, and open again after every loss. With `after`, begin when that one has caught up."""
        if self._after is not None:
            self._readiness.set(
                f"consumer {self.queue}", ok=False, reason=f"waits for {self._after.queue} to be caught up"
            )
            await self._after.caught_up.wait()
        failures = 0
        renewed = False
        while not self._stopping:
            if self._paused:
                await self._wait_for_loss(WATCH_INTERVAL_S)
                continue
            try:
                with losses_as_errors():
                    await self._open()
                    if not renewed:
                        log.info("consuming", queue=self.queue, prefetch=self._prefetch)
                    failures = 0
                    self._readiness.set(f"consumer {self.queue}", ok=True)
                    renewed = await self._watch()
            except BROKER_ERRORS as error:
                reason = describe_error(error, max_characters=200)
                log.warning("consumer_lost", queue=self.queue, reason=reason)
                self._readiness.set(f"consumer {self.queue}", ok=False, reason=reason)
                renewed = False
            if not self._stopping:
                await self._drop_channel()
                self._lost.clear()  # our own closing; without this there would be no back-off
                if renewed:
                    continue
                failures += 1
                await self._wait_for_loss(OUTAGE.delay_s(failures))

    async def _wait_for_loss(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._lost.wait()
        except TimeoutError:
            return False
        finally:
            self._lost.clear()
        return True

    async def _open(self) -> None:
        self._lost.clear()
        channel, wire = await self._link.open(confirms=False)
        self._channel, self._wire = channel, wire
        self._generation += 1
        self._unsettled = 0
        generation = self._generation
        channel.on_consumer_cancel_callbacks.add(lambda _frame: self._lost.set())
        channel.closing.add_done_callback(self._on_closed)
        await channel.basic_qos(prefetch_count=self._prefetch, timeout=RPC_TIMEOUT_S)
        state = await channel.queue_declare(self.queue, passive=True, timeout=RPC_TIMEOUT_S)
        if not self.caught_up.is_set():
            self._waited_at_start = state.message_count or 0
            self._note_handled(0)

        if self._stopping:  # told so while it opened: `stop` found nothing to cancel
            return
        wire.listen(channel, _Deliveries(self, generation))
        await self._begin(channel)

    async def _begin(self, channel: Channel) -> None:
        answer = await channel.basic_consume(self.queue, _never, timeout=RPC_TIMEOUT_S)
        self._tag = answer.consumer_tag
        if self._stopping:
            await channel.basic_cancel(self._tag or "", timeout=RPC_TIMEOUT_S)

    def arrived(self, delivery: Delivery) -> None:
        """A delivery has come in, perhaps on a channel that was given up meanwhile."""
        if delivery.generation == self._generation:
            self._deliveries += 1
            self._unsettled += 1
            self._buffer.append(delivery)
            self._arrived.set()

    def _note_handled(self, messages: int) -> None:
        self._waited_at_start -= messages
        if self._waited_at_start <= 0:
            self.caught_up.set()

    def _on_closed(self, closing: "asyncio.Future[None]") -> None:
        if not closing.cancelled():
            closing.exception()  # retrieved: the loss is reported by `run`
        self._lost.set()

    async def _watch(self) -> bool:
        """Return when the consumer is lost, or (True) when it might be: a lost consumer can look alive.

        Seen with RabbitMQ 3.10, in 3 of 12 deletions: a queue is deleted under load and made anew, and the broker goes on counting our
        consumer, hands it the messages of the new queue, as many as the prefetch allows, and none arrives. Nothing tells that from a quiet
        hour, so in silence we consume anew; closing the channel gives back what it holds.
        """
        suspicions = 0
        while not self._stopping:
            seen = self._deliveries
            if await self._wait_for_loss(WATCH_INTERVAL_S):
                return False
            if self._channel is None or self._channel.is_closed:
                return False
            state = await self._channel.queue_declare(self.queue, passive=True, timeout=RPC_TIMEOUT_S)
            if not state.message_count and not self._unsettled:
                self.caught_up.set()
            silent = self._deliveries == seen
            starving = silent and bool(state.message_count) and self._unsettled < self._prefetch
            suspicions = suspicions + 1 if starving else 0
            if state.consumer_count == 0 or suspicions >= SUSPICIONS_MAX:
                log.error(
                    "consumer_unknown_at_broker",
                    queue=self.queue,
                    consumers=state.consumer_count,
                    messages=state.message_count,
                )
                return False
            if silent and not self._unsettled:
                return True
        return False

    async def _drop_channel(self) -> None:
        self._settle()
        channel, self._channel, self._tag = self._channel, None, None
        self._generation += 1
        self._buffer.clear()
        if channel is not None and not channel.is_closed:
            try:
                with losses_as_errors():
                    await channel.close(timeout=RPC_TIMEOUT_S)
            except BROKER_ERRORS:
                log.info("channel_was_gone", queue=self.queue)


class _Deliveries:
    """Listens to the channel of one consumer (`shared.amqp.transport.Listener`)."""

    def __init__(self, consumer: Consumer, generation: int) -> None:
        self._consumer = consumer
        self._generation = generation

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        delivery, redelivered = read_delivery(
            method, header, body, queue=self._consumer.queue, generation=self._generation
        )
        if redelivered:
            metrics.REDELIVERIES.labels(queue=self._consumer.queue).inc()
        self._consumer.arrived(delivery)

    def on_confirm(self, method: bytes) -> None:
        """Nothing is published here."""


def read_delivery(method: bytes, header: bytes, body: bytes, *, queue: str, generation: int) -> tuple[Delivery, bool]:
    """A delivery by the payloads of its frames, and whether it is a redelivery."""
    deliver = frames.read_deliver(method)
    properties = frames.read_properties(header)
    tries = 0
    if deliver.redelivered:
        count = properties.headers.get("x-delivery-count", 0)
        tries = min(max(count, 0), TRIES_SHOWN_MAX) if isinstance(count, int) else 0
    delivery = Delivery(
        body=body,
        tag=deliver.tag,
        generation=generation,
        queue=queue,
        exchange=deliver.exchange,
        routing_key=deliver.routing_key,
        content_type=properties.content_type,
        message_id=properties.message_id,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        type=properties.type,
        headers=properties.headers,
        tries=tries,
    )
    return delivery, deliver.redelivered


async def _never(_message: object) -> None:
    """aiormq's callback: it sees no delivery."""
