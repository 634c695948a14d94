"""Publishing with confirms: a batch leaves in few socket writes, and only a message that the broker acks counts as published.

After a return, a nack, a timeout or a lost channel the message counts as not published. It stays in the outbox and is published again with
the same id.
"""

import asyncio
import struct
import time
from collections.abc import Collection, Sequence
from enum import Enum
from uuid import UUID

import structlog

from shared import crash_points
from shared.amqp import frames
from shared.amqp.broker_link import BROKER_ERRORS, BrokerLink, Channel, losses_as_errors
from shared.amqp.transport import FrameTransport
from shared.messaging.codec import BODY_BYTES_MAX
from shared.messaging.envelope import Outgoing
from shared.messaging.topology import DEAD_LETTERS, MUST_ROUTE, ingress_exchange
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error, error_text
from shared.records import dataclass, field

log = structlog.get_logger(__name__)

IN_FLIGHT_MAX = 256
"""Messages published before we wait for their confirms. 256 messages of 64 KiB are 16 MiB, far below a broker's default memory alarm."""
CONFIRM_TIMEOUT_S = 10.0
"""How long we wait for confirms. A quorum queue confirms in milliseconds. A broker under an alarm never does: the outbox keeps the
messages."""
RENEW_INTERVAL_S = 1.0
"""The shortest time between two new channels while messages are refused. One full queue must not cost a new channel for every batch."""
PROBE_AFTER_S = 10.0
"""Silence after which we probe whether the broker takes messages: as often as heartbeats, which do not show an alarm."""
COMPONENT = "publisher"
"""Its name in readiness."""
APP_ID = "remit"
PROBE = Outgoing(UUID(int=0), exchange="", routing_key="remit.probe", type="", correlation_id="", body=b"")
"""A message for no queue. The broker returns and confirms it, which shows that it takes messages."""


@dataclass(slots=True)
class Published:
    """What became of the messages of one call of `publish`, by their ids.

    `confirmed`: the broker has taken them. `unroutable`: the broker returned them, because no queue takes them. `unencodable`: AMQP cannot
    carry them. `refused`: the broker nacked them, because a queue is full. `failed`: nobody knows, because the connection was lost or no
    confirm came in time.
    """

    confirmed: list[UUID] = field(default_factory=list)
    unroutable: list[UUID] = field(default_factory=list)
    unencodable: list[UUID] = field(default_factory=list)
    refused: list[UUID] = field(default_factory=list)
    failed: list[UUID] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether the broker has taken all messages."""
        return not (self.unroutable or self.unencodable or self.refused or self.failed)

    @property
    def undeliverable(self) -> set[UUID]:
        """The ids of messages that would fail again if they were sent again at once: a queue is missing, or AMQP cannot carry them."""
        return {*self.unroutable, *self.unencodable}


_Wave = dict[str, Outgoing]
"""Messages that are in flight together, by their AMQP ids. No id occurs twice."""


class Fate(Enum):
    """What the broker said about a message."""

    CONFIRMED = "acked: the only proof that the broker has the message"
    RETURNED = "no queue takes it"
    REFUSED = "nacked: a queue is full"


class _Confirms:
    """The listener on the channel that we publish on (`shared.amqp.transport.Listener`). One wave is in flight at a time."""

    def __init__(self) -> None:
        self._first_tag = 1
        self._ids: Sequence[str] = ()
        self._fates: list[Fate | None] = []
        self._confirmed_up_to = 0
        self._missing = 0
        self._returned: set[str | None] = set()
        self._settled: asyncio.Future[None] | None = None

    def expect(self, ids: Sequence[str]) -> "asyncio.Future[None]":
        """Expect confirms for the next messages on this channel, given by their AMQP ids.

        The returned future is done when the fate of each is known. It raises ConnectionError if the channel closes before.
        """
        self._first_tag += len(self._ids)
        self._ids, self._fates, self._missing = ids, [None] * len(ids), len(ids)
        self._confirmed_up_to = 0
        self._returned.clear()
        self._settled = asyncio.get_running_loop().create_future()
        return self._settled

    @property
    def fates(self) -> Sequence[Fate | None]:
        """The fates of the wave in flight, in its order. None means that nobody knows."""
        return self._fates

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:  # noqa: ARG002 - the signature is the listener's
        """A message was returned. Its confirm follows."""
        self._returned.add(frames.read_properties(header).message_id)

    def on_confirm(self, method: bytes) -> None:
        tag, multiple = frames.read_confirm(method)
        last = tag - self._first_tag
        fate = Fate.CONFIRMED if method.startswith(frames.ACK) else Fate.REFUSED
        for index in range(self._confirmed_up_to if multiple else last, last + 1):
            if 0 <= index < len(self._fates) and self._fates[index] is None:
                self._fates[index] = Fate.RETURNED if self._ids[index] in self._returned else fate
                self._missing -= 1
        if multiple:
            self._confirmed_up_to = max(self._confirmed_up_to, last + 1)
        if not self._missing and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def channel_closed(self) -> None:
        """End the wait for confirms, because none can come any more."""
        if self._settled is not None and not self._settled.done():
            self._settled.set_exception(ConnectionError("the channel was closed"))


class Publisher:
    """Publishes on one channel, one batch at a time.

    So no two messages with the same id are in flight together. If they were, the return of one would be counted for the other (measured).
    """

    def __init__(
        self, link: BrokerLink, readiness: Readiness | None = None, *, probe_after_s: float = PROBE_AFTER_S
    ) -> None:
        self._link = link
        self._readiness = readiness or Readiness()
        self._probe_after_s = probe_after_s
        self._silent_since = time.monotonic()
        self._failing = False
        self._channel: Channel | None = None
        self._transport: FrameTransport | None = None
        self._confirms = _Confirms()
        self._turn = asyncio.Lock()
        self._renewed_at = -RENEW_INTERVAL_S

    async def publish(self, messages: Sequence[Outgoing]) -> Published:
        """Publish, and wait at most `CONFIRM_TIMEOUT_S` seconds for each wave of confirms. Never raises an error of the broker."""
        result = Published()
        async with self._turn:
            for wave in _waves(messages):
                if result.failed:  # the channel is lost or silent, so the rest would wait for nothing
                    result.failed += [message.id for message in wave.values()]
                else:
                    await self._publish_wave(wave, result)
        return result

    async def keep_open(self) -> None:
        """Keep a channel open while nothing is published, so that readiness tells of an outage and of its end at once.

        After a failure, and after `probe_after_s` seconds of silence, the broker must also confirm the probe message. The reason is that
        a broker under an alarm opens channels but confirms nothing. Raises one of `BROKER_ERRORS` if the broker is away.
        """
        if self._turn.locked():
            return  # a batch is being published, which shows the same
        async with self._turn:
            try:
                channel = await self._open_channel()
                if self._failing or time.monotonic() - self._silent_since >= self._probe_after_s:
                    probe = PROBE.amqp_message_id
                    await self._confirmed(self._write([probe], _payload(probe, PROBE, channel)))
            except BROKER_ERRORS as error:
                self._failed(error)
                raise
            self._succeeded()

    async def close(self) -> None:
        await self._link.close()

    async def _publish_wave(self, wave: _Wave, result: Published) -> None:
        try:
            channel = await self._open_channel()
        except BROKER_ERRORS as error:
            self._give_up(wave.values(), result, error)
            return
        sendable, payload = _encoded(wave, channel, result)
        if not sendable:
            return
        problem: BaseException | None = ConnectionError("cut off")
        try:
            settled = self._write(list(sendable), payload)
            crash_points.reach("publisher.before_confirm")
            await self._confirmed(settled)
            problem = None
        except BROKER_ERRORS as error:
            problem = error
        finally:
            self._sort_out(sendable.values(), problem, result)

    def _write(self, ids: Sequence[str], payload: bytes) -> "asyncio.Future[None]":
        """Write the frames of all messages at once. Raises one of `BROKER_ERRORS`.

        The library's publish makes a socket write, a timer and three futures for each message. Measured for client and broker, that costs
        117 + 91 microseconds a message. Frames that are written together cost 12 + 24.
        """
        settled = self._confirms.expect(ids)
        if self._transport is None:
            raise ConnectionError("there is no connection")
        self._transport.write(payload)
        return settled

    async def _confirmed(self, settled: "asyncio.Future[None]") -> None:
        """Wait for the confirms of all written messages. `_confirms.fates` holds them then. Raises one of `BROKER_ERRORS`."""
        async with asyncio.timeout(CONFIRM_TIMEOUT_S):
            await settled
        self._silent_since = time.monotonic()

    def _sort_out(self, wave: Collection[Outgoing], problem: BaseException | None, result: Published) -> None:
        refused = 0
        unknown: list[Outgoing] = []
        for message, fate in zip(wave, self._confirms.fates, strict=True):
            match fate:
                case Fate.CONFIRMED:
                    result.confirmed.append(message.id)
                case Fate.RETURNED:
                    result.unroutable.append(message.id)
                    _report_unroutable(message)
                case Fate.REFUSED:
                    result.refused.append(message.id)
                    refused += 1
                case None:
                    unknown.append(message)
        if problem is None:
            self._succeeded()
        else:
            self._give_up(unknown, result, problem)
        if refused:
            metrics.PUBLISH_FAILURES.labels(reason="nacked").inc(refused)
            self._after_refusals(refused)

    def _give_up(self, wave: Collection[Outgoing], result: Published, error: BaseException) -> None:
        """Leave the messages to the sweeper."""
        result.failed.extend(message.id for message in wave)
        metrics.PUBLISH_FAILURES.labels(reason=type(error).__name__).inc(len(wave))
        log.warning(
            "publish_failed",
            messages=len(wave),
            error=type(error).__name__,
            detail=error_text(error, max_characters=200),
        )
        self._failed(error)

    def _after_refusals(self, messages: int) -> None:
        """Open a new channel after refusals, at most once in `RENEW_INTERVAL_S`.

        A queue is full, or it changes its leader. In a cluster an old channel may go on refusing long after a queue has a new leader. It
        does so if the queue had lost its leader when the channel first published to it: what the channel knows of that queue then stays
        wrong (seen with RabbitMQ 3.10). A new channel looks up the leader again.
        """
        log.warning(
            "messages_refused", messages=messages, advice="a queue is full or without a leader; sent again soon"
        )
        now = time.monotonic()
        if now - self._renewed_at >= RENEW_INTERVAL_S:
            self._renewed_at = now
            self._drop_channel()

    def _succeeded(self) -> None:
        self._failing = False
        self._readiness.set(COMPONENT, ok=True)

    def _failed(self, error: BaseException) -> None:
        self._failing = True
        self._readiness.set(COMPONENT, ok=False, reason=describe_error(error))
        self._drop_channel()

    def _drop_channel(self) -> None:
        """Give up the channel, because its state is unknown."""
        channel, self._channel = self._channel, None
        if channel is not None and not channel.is_closed:
            self._closing = asyncio.ensure_future(_close_quietly(channel))

    async def _open_channel(self) -> Channel:
        """The open channel, or a new one if there is none. Raises one of `BROKER_ERRORS`."""
        if self._channel is None or self._channel.is_closed:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                with losses_as_errors():
                    channel, transport = await self._link.open(confirms=True)
            confirms = _Confirms()
            transport.listen(channel, confirms)
            channel.closing.add_done_callback(lambda _: confirms.channel_closed())
            self._channel, self._transport, self._confirms = channel, transport, confirms
        return self._channel


async def _close_quietly(channel: Channel) -> None:
    try:
        with losses_as_errors():
            await channel.close(timeout=CONFIRM_TIMEOUT_S)
    except BROKER_ERRORS:
        return


def _waves(messages: Sequence[Outgoing]) -> list[_Wave]:
    """Split messages into waves of at most `IN_FLIGHT_MAX` in which no id occurs twice. Their order is kept."""
    waves: list[_Wave] = []
    wave: _Wave = {}
    for message in messages:
        id_ = message.amqp_message_id
        if id_ in wave or len(wave) == IN_FLIGHT_MAX:
            waves.append(wave)
            wave = {}
        wave[id_] = message
    if wave:
        waves.append(wave)
    return waves


def _encoded(wave: _Wave, channel: Channel, result: Published) -> tuple[_Wave, bytes]:
    """The messages that AMQP can carry, and the frames of all of them. A message that AMQP cannot carry is noted in `result`."""
    sendable: _Wave = {}
    payloads: list[bytes] = []
    for id_, message in wave.items():
        try:
            payloads.append(_payload(id_, message, channel))
            sendable[id_] = message
        except (ValueError, TypeError, struct.error) as error:
            result.unencodable.append(message.id)
            log.warning("message_not_encodable", message_id=str(message.id), type=message.type, error=error_text(error))
    return sendable, b"".join(payloads)


def _payload(id_: str, message: Outgoing, channel: Channel) -> bytes:
    """The frames of one message with its AMQP id. Raises ValueError, TypeError or struct.error if AMQP cannot carry it."""
    if len(message.body) > 2 * BODY_BYTES_MAX:
        # The broker would close the channel for an oversized body, and all messages in flight on it would fail.
        raise ValueError(f"a body of {len(message.body)} bytes must not reach the broker")
    return frames.publish(
        channel.number,
        exchange=ingress_exchange(message.exchange),
        routing_key=message.routing_key,
        mandatory=message.droppable or message.exchange in {"", DEAD_LETTERS} or message.type in MUST_ROUTE,
        content_type=message.content_type,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        message_id=id_,
        type_=message.type,
        headers=message.headers,
        body=message.body,
        app_id=APP_ID,
        payload_max=channel.max_content_size,
    )


def _report_unroutable(message: Outgoing) -> None:
    if message.droppable:
        metrics.ANSWERS_UNROUTABLE.inc()
        return
    metrics.PUBLISH_FAILURES.labels(reason="unroutable").inc()
    log.error(
        "message_unroutable",
        message_id=str(message.id),
        type=message.type,
        exchange=ingress_exchange(message.exchange),
        routing_key=message.routing_key,
        advice="a queue or binding is missing: run `remit topology apply`; the message waits in the outbox",
    )
