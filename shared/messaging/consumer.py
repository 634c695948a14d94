"""The consumer of one queue: it buffers deliveries as they arrive, and keeps itself alive.

The listener on the channel only buffers. Losing the connection cancels tasks that belong to the channel (measured), so the work runs in a
task of the service. Deliveries that were buffered before a reconnect are stale, because the broker delivers them again. They are recognised
by the generation of their channel, and dropped.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from shared.amqp import frames
from shared.amqp.broker_link import (
    BROKER_ERRORS,
    RPC_TIMEOUT_S,
    AccessRefusedError,
    BrokerLink,
    CannotConnectError,
    Channel,
    losses_as_errors,
)
from shared.amqp.transport import FrameTransport
from shared.contracts.catalogue import BY_WIRE_NAME
from shared.messaging.codec import BODY_BYTES_MAX, JSON_DATA, STRUCTURED
from shared.messaging.losses import Losses
from shared.messaging.topology import delivery_limit_of
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error
from shared.records import dataclass, field

log = structlog.get_logger(__name__)

BATCH_MAX = 200
"""Messages handled in one transaction. Larger batches gain little: 200 a batch store 71 000 messages/s, one a transaction 3 400 (measured).
They would also hold locks longer."""
BATCH_BYTES_MAX = 2 * 1024**2
"""Bytes of the bodies in one batch. Ours have half a kilobyte, so 200 of them stay far below. Of the largest that we take, 32 make a batch:
they cost 0.2 s of CPU at most, instead of a second."""
PREFETCH = 2 * BATCH_MAX
"""One batch at work and one that waits. A crash counts a delivery against each of these messages. At 64 KiB each they take 25 MiB."""
ACK_WITHIN_S = 0.1
"""How long an acknowledgement waits for others, so that one frame carries all of them. In a quorum queue each frame is an entry in a log on
disk. At 100 payments/s the wait saves the whole system a quarter of its CPU (measured). After a crash the broker delivers that many more
messages again, and the inbox recognises them."""
ACK_AT = BATCH_MAX // 4
"""Messages at which the acknowledgement is sent at once, so that the prefetch does not run dry."""
WATCH_INTERVAL_S = 15.0
"""How often we ask the broker whether it still knows our consumer."""
SUSPICIONS_MAX = 2
"""Suspicious checks in a row after which the consumer counts as lost. A check is suspicious if the queue has messages and none came to us,
although the prefetch had room."""


TRIES_SHOWN_MAX = 1_000_000
"""The largest number of tries that we believe. The broker counts deliveries in a header, and a sender can write the same header."""


_IS_UUID = re.compile("[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}").fullmatch
_CONTENT_TYPES = frozenset({STRUCTURED, JSON_DATA})


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery, as the broker gave it.

    `tag` is its delivery tag, and `generation` that of the channel it came on. `tries` counts earlier deliveries of the message: a quorum
    queue keeps that count. A body of more than `BODY_BYTES_MAX` was dropped as it came: `body` is empty, and `dropped_bytes` is its length.
    """

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
    content_encoding: str | None = None
    dropped_bytes: int = 0
    user_id: str | None = None
    """The name of the sender's user. If it is set, the broker has seen to it that it is true."""

    @property
    def body_bytes(self) -> int:
        """The length of the body that was sent, in bytes."""
        return self.dropped_bytes or len(self.body)

    @property
    def property_texts(self) -> dict[str, str]:
        """What the sender wrote into properties other than headers, by their names.

        UUIDs, types that we know and content types that we take are left out: none of them is a card number, and a healthy message has
        little else."""
        texts: dict[str, str] = {}
        if (message_id := self.message_id) and not _IS_UUID(message_id):
            texts["message_id"] = message_id
        if (correlation_id := self.correlation_id) and correlation_id != message_id and not _IS_UUID(correlation_id):
            texts["correlation_id"] = correlation_id
        if self.reply_to:
            texts["reply_to"] = self.reply_to
        if self.type and self.type not in BY_WIRE_NAME:
            texts["type"] = self.type
        if self.content_type and self.content_type not in _CONTENT_TYPES:
            texts["content_type"] = self.content_type
        if self.content_encoding:
            texts["content_encoding"] = self.content_encoding
        return texts


class Consumer:
    """Keeps a consumer on `queue` alive, whatever happens to the broker, the channel or the queue.

    `prefetch` is the number of messages that may be unacknowledged. With `wary`, this consumer takes one message at a time until it has
    proven healthy, as after losses (`shared.messaging.losses`). `gather_s` is how long a batch that is not full waits for more messages:
    for a queue whose messages nobody waits for. `link` is for this consumer only: a message that ends its connection must not end those of
    others.
    """

    def __init__(
        self,
        link: BrokerLink,
        queue: str,
        *,
        readiness: Readiness,
        prefetch: int = PREFETCH,
        wary: bool = False,
        gather_s: float = 0.0,
    ) -> None:
        self.queue = queue
        self.link = link
        self._gather_s = gather_s
        self._losses = Losses(prefetch, wary=wary, delivery_limit=delivery_limit_of(queue))
        self._prefetch = 0
        """The prefetch of the channel that is open."""
        self._readiness = readiness
        self._channel: Channel | None = None
        self._transport: FrameTransport | None = None
        self._tag: str | None = None
        self._generation = 0
        self._buffer: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._stopped = asyncio.Event()
        self._lost = asyncio.Event()
        self._closed_by: BaseException | None = None
        """Why the channel was closed. It has the words of the broker, if it said some."""
        self._told: type[BaseException] | None = None
        """The kind of the loss that was logged last. An outage makes one line, and not one at each try."""
        self.refused: AccessRefusedError | None = None
        """Why the broker did not let us consume at the last try; None if that was not why."""
        self.has_consumed = False
        """Whether the broker ever let us."""
        self._has_begun = False
        """Whether the broker was asked for deliveries on the channel."""
        self._stopping = False
        self._paused = False
        self._unsettled = 0
        self._deliveries = 0
        self._to_ack: list[Delivery] = []
        self._postponed: set[int] = set()
        """The tags of deliveries that were postponed and are not acknowledged yet."""
        self._ack_timer: asyncio.TimerHandle | None = None

    # -- what the batch pipeline does with it ----------------------------------------------------------------------------------------

    async def take(self, at_most: int = BATCH_MAX) -> list[Delivery]:
        """Wait for a delivery, then take all that are there: at most `at_most`, and no more than `BATCH_BYTES_MAX` of bodies allow.

        Returns [] if stopped and no delivery is left."""
        gathered = not self._gather_s
        while True:
            if not self._buffer:
                if self._stopping:
                    return []
                self._arrived.clear()
                await self._arrived.wait()
            elif gathered or self._stopping or len(self._buffer) >= min(at_most, self._prefetch):
                return self._batch(at_most)
            else:
                await self._gather()
                gathered = True

    def _batch(self, at_most: int) -> list[Delivery]:
        taken = [self._buffer.popleft()]
        bytes_left = BATCH_BYTES_MAX - len(taken[0].body)
        while self._buffer and len(taken) < at_most and (bytes_left := bytes_left - len(self._buffer[0].body)) >= 0:
            taken.append(self._buffer.popleft())
        return taken

    async def _gather(self) -> None:
        """Let more messages come. Nobody looks at each as it comes: that would cost as much as handling it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._gather_s):
                await self._stopped.wait()

    def is_stale(self, deliveries: Sequence[Delivery]) -> bool:
        """Whether the channel they came on is gone. Then the broker delivers them again, to this instance or another."""
        return deliveries[-1].generation != self._generation

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge these deliveries. The broker hears of it within `ACK_WITHIN_S`.

        Stale deliveries are skipped. The broker delivers them again, and the inbox recognises them.
        """
        if not deliveries or self.is_stale(deliveries):
            return
        self._to_ack += deliveries
        self._unsettled -= len(deliveries)
        if self._stopping or len(self._to_ack) >= min(ACK_AT, max(1, self._prefetch // 4)):
            self._send_ack()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_WITHIN_S, self._send_ack)

    def postpone(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Have these deliveries taken again in `seconds`. Until they are acknowledged, the broker keeps them.

        This must come before others of the batch are acknowledged: one acknowledgement is for all before it.
        """
        if deliveries and not self.is_stale(deliveries):
            self._postponed.update(delivery.tag for delivery in deliveries)
            asyncio.get_running_loop().call_later(seconds, self._take_again, deliveries)

    def _take_again(self, deliveries: Sequence[Delivery]) -> None:
        if not self.is_stale(deliveries) and not self._stopping:
            self._buffer.extend(deliveries)
            self._arrived.set()

    def _send_ack(self) -> None:
        """Send one acknowledgement for all deliveries up to the last, since those before it on this channel were acknowledged earlier.

        If one before it was postponed, each gets an acknowledgement of its own.
        """
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        to_ack, self._to_ack = self._to_ack, []
        if not to_ack or self.is_stale(to_ack):
            return
        if self._channel is None or self._channel.is_closed or self._transport is None:
            return  # the broker would close the whole connection, and with it all consumers
        tags = [delivery.tag for delivery in to_ack]
        self._postponed.difference_update(tags)
        try:
            if self._postponed and min(self._postponed) < max(tags):
                self._transport.write(b"".join(frames.ack_one(self._channel.number, tag) for tag in tags))
            else:
                self._transport.write(frames.ack_up_to(self._channel.number, max(tags)))
        except BROKER_ERRORS:
            self._lost.set()
            return
        self._losses.acknowledged(len(to_ack))
        if self._losses.prefetch > self._prefetch:
            self._lost.set()  # `_watch` wakes up, and this consumer begins anew with the full prefetch

    async def pause(self) -> None:
        """Give all deliveries back to the broker, and take none until `resume`.

        This is for a long outage of the database, in which the broker's consumer timeout would close the channel anyway.
        """
        self._paused = True
        self._lost.set()
        await self._drop_channel()

    def resume(self) -> None:
        """Consume again after `pause`."""
        self._paused = False
        self._lost.set()

    async def stop(self) -> None:
        """Receive no more deliveries. Those in the buffer can still be taken and acknowledged."""
        self._stopping = True
        self._stopped.set()
        self._send_ack()
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
        """Consume until `stop`: open, watch, and open again after every loss."""
        renewed = False
        while not self._stopping:
            if self._paused:
                await self._wait_for_loss(WATCH_INTERVAL_S)
                continue
            seen = self._deliveries
            self._has_begun = False
            try:
                with losses_as_errors():
                    prefetch_before = self._prefetch
                    await self._open()
                    if not renewed or self._prefetch != prefetch_before:
                        log.info("consuming", queue=self.queue, prefetch=self._prefetch)
                    self._told, self.refused, self.has_consumed = None, None, True
                    reason = self._losses.reason
                    self._readiness.set(f"consumer {self.queue}", ok=not reason, reason=reason)
                    renewed = await self._watch()
                if self._closed_by is not None and not self._stopping:
                    self._tell_loss(self._closed_by)
            except BROKER_ERRORS as error:
                self._readiness.set(f"consumer {self.queue}", ok=False, reason=self._tell_loss(error))
                renewed = False
            if not self._stopping:
                await self._drop_channel()
                self._lost.clear()  # `_drop_channel` has set it, and without this the back-off below would end at once
                if not renewed and not self._paused:
                    await self._back_off(nothing_came=self._deliveries == seen)

    def _tell_loss(self, error: BaseException) -> str:
        """Log a loss, unless it is of the kind that was logged last. Returns the reason."""
        reason = describe_error(error, max_characters=200)
        self.refused = error if isinstance(error, AccessRefusedError) else None
        if type(error) is not self._told:
            self._told = type(error)
            level = logging.ERROR if isinstance(error, AccessRefusedError | CannotConnectError) else logging.WARNING
            log.log(level, "consumer_lost", queue=self.queue, reason=reason)
        return reason

    async def _back_off(self, *, nothing_came: bool) -> None:
        if self._has_begun:
            self._losses.lost()
        else:
            self._losses.not_opened()
        await self._wait_for_loss(self._losses.delay_s(nothing_came=self._has_begun and nothing_came))

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
        self._closed_by = None
        channel, transport = await self.link.open(confirms=False)
        self._channel, self._transport = channel, transport
        self._generation += 1
        self._unsettled = 0
        self._postponed.clear()
        generation = self._generation
        channel.on_consumer_cancel_callbacks.add(lambda _frame: self._lost.set())
        channel.closing.add_done_callback(partial(self._on_closed, generation))
        self._prefetch = self._losses.prefetch
        await channel.basic_qos(prefetch_count=self._prefetch, timeout=RPC_TIMEOUT_S)
        await channel.queue_declare(self.queue, passive=True, timeout=RPC_TIMEOUT_S)
        if self._stopping:  # `stop` was called while this opened the channel, and found no consumer to cancel
            return
        transport.listen(channel, _Deliveries(self, generation), body_bytes_max=BODY_BYTES_MAX)
        await self._begin(channel)

    async def _begin(self, channel: Channel) -> None:
        self._has_begun = (
            True  # RabbitMQ 4.0.5 ends the connection before it answers, if it stumbles over the first delivery
        )
        answer = await channel.basic_consume(self.queue, _never, timeout=RPC_TIMEOUT_S)
        self._tag = answer.consumer_tag
        if self._stopping:
            await channel.basic_cancel(self._tag or "", timeout=RPC_TIMEOUT_S)

    def arrived(self, delivery: Delivery) -> None:
        """Buffer a delivery that came in. It is dropped if its channel was given up meanwhile."""
        if delivery.generation == self._generation:
            self._deliveries += 1
            self._unsettled += 1
            self._buffer.append(delivery)
            self._arrived.set()

    def _on_closed(self, generation: int, closing: "asyncio.Future[None]") -> None:
        error = (
            None if closing.cancelled() else closing.exception()
        )  # asyncio warns about an exception that nobody reads
        if generation == self._generation:  # else we have closed it
            self._closed_by = error
        self._lost.set()

    async def _watch(self) -> bool:
        """Wait until the consumer is lost (returns False), or until it has to begin anew (returns True): the broker does not know it any
        more, it is silent and might be lost, or it may take more messages at once again.

        A lost consumer can look alive. This was seen with RabbitMQ 3.10, in 3 of 12 cases in which a queue was deleted under load and
        created again. The broker still counts our consumer and assigns it messages of the new queue, as many as the prefetch allows, but
        none arrives. That looks the same as a quiet hour. So after a silent interval we consume anew: closing the channel gives the
        assigned messages back.
        """
        suspicions = 0
        while not self._stopping:
            seen = self._deliveries
            is_lost = await self._wait_for_loss(WATCH_INTERVAL_S)
            if self._channel is None or self._channel.is_closed:
                return False
            if is_lost:
                return self._losses.prefetch > self._prefetch
            state = await self._channel.queue_declare(self.queue, passive=True, timeout=RPC_TIMEOUT_S)
            if not state.message_count and not self._unsettled:
                self._losses.found_nothing()
                if self._losses.prefetch > self._prefetch:
                    return True
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
                return True
            if silent and not self._unsettled:
                return True
        return False

    async def _drop_channel(self) -> None:
        self._send_ack()
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
    """The listener on the channel of one consumer (`shared.amqp.transport.Listener`)."""

    def __init__(self, consumer: Consumer, generation: int) -> None:
        self._consumer = consumer
        self._generation = generation

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        delivery, redelivered = read_delivery(
            method,
            header,
            body,
            queue=self._consumer.queue,
            generation=self._generation,
            dropped_bytes=frames.read_body_size(header) - len(body),
        )
        if redelivered:
            metrics.REDELIVERIES.labels(queue=self._consumer.queue).inc()
        self._consumer.arrived(delivery)

    def on_confirm(self, method: bytes) -> None:
        """Never called: nothing is published on this channel."""


def read_delivery(
    method: bytes, header: bytes, body: bytes, *, queue: str, generation: int, dropped_bytes: int = 0
) -> tuple[Delivery, bool]:
    """Decode a delivery from the payloads of its frames. Also returns whether it is a redelivery.

    A first delivery has 0 tries: its count header, if there is one, comes from the sender.
    """
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
        content_encoding=properties.content_encoding,
        dropped_bytes=dropped_bytes,
        user_id=properties.user_id,
    )
    return delivery, deliver.redelivered


async def _never(_message: object) -> None:
    """The callback for aiormq, which it never calls: the deliveries go to our listener."""
