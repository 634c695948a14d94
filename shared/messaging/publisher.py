"""Pipelined, confirmed publishing: a batch leaves in few socket writes, and only `Basic.Ack` counts as published.

A return, a nack, a timeout, a lost channel: not published. The message stays in the outbox and goes again with the same id.
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
"""Messages published before we wait for their confirms: 256 of 64 KiB are 16 MiB, far below a broker's default memory alarm."""
CONFIRM_TIMEOUT_S = 10.0
"""A quorum queue confirms in milliseconds; under an alarm it never does, and the outbox keeps the message."""
RENEW_INTERVAL_S = 1.0
"""Between new channels while messages are refused: somebody's full queue must not cost everybody a channel a batch."""
PROBE_AFTER_S = 10.0
"""Silence after which we ask whether the broker takes messages; as often as heartbeats, and an alarm shows in neither."""
COMPONENT = "publisher"
APP_ID = "remit"
PROBE = Outgoing(UUID(int=0), exchange="", routing_key="remit.probe", type="", correlation_id="", body=b"")
"""For no queue: it is returned and confirmed, which shows that the broker takes messages."""


@dataclass(slots=True)
class Published:
    """What became of a batch. `unroutable`: returned by the broker, no queue took them. `refused`: nacked, a queue is full.
    `unencodable`: AMQP cannot carry them. `failed`: nobody knows, the connection was lost or no confirm came in time."""

    confirmed: list[UUID] = field(default_factory=list)
    unroutable: list[UUID] = field(default_factory=list)
    unencodable: list[UUID] = field(default_factory=list)
    refused: list[UUID] = field(default_factory=list)
    failed: list[UUID] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether the broker has taken all of it."""
        return not (self.unroutable or self.unencodable or self.refused or self.failed)

    @property
    def undeliverable(self) -> set[UUID]:
        """The ids of messages that would fail again if they were sent again at once: a queue is missing, or AMQP cannot carry them."""
        return {*self.unroutable, *self.unencodable}


_Wave = dict[str, Outgoing]
"""Messages that are in flight together, by their AMQP ids: no id twice."""


class Fate(Enum):
    """What the broker said of a message."""

    CONFIRMED = "Basic.Ack, and nothing else, is proof"
    RETURNED = "no queue takes it"
    REFUSED = "nacked: a queue is full"


class _Confirms:
    """Listens to the channel that we publish on (`shared.amqp.transport.Listener`); one wave is in flight at a time."""

    def __init__(self) -> None:
        self._first_tag = 1
        self._ids: Sequence[str] = ()
        self._fates: list[Fate | None] = []
        self._low = 0
        self._missing = 0
        self._returned: set[str | None] = set()
        self._settled: asyncio.Future[None] | None = None

    def expect(self, ids: Sequence[str]) -> "asyncio.Future[None]":
        """The next messages on this channel, by their AMQP ids; done when the fate of each is known."""
        self._first_tag += len(self._ids)
        self._ids, self._fates, self._low, self._missing = ids, [None] * len(ids), 0, len(ids)
        self._returned.clear()
        self._settled = asyncio.get_running_loop().create_future()
        return self._settled

    @property
    def fates(self) -> Sequence[Fate | None]:
        """Of the wave in flight; None: nobody knows."""
        return self._fates

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:  # noqa: ARG002 - the listener's
        """A return; its confirm follows."""
        self._returned.add(frames.read_properties(header).message_id)

    def on_confirm(self, method: bytes) -> None:
        tag, multiple = frames.read_confirm(method)
        last = tag - self._first_tag
        fate = Fate.CONFIRMED if method.startswith(frames.ACK) else Fate.REFUSED
        for at in range(self._low if multiple else last, last + 1):
            if 0 <= at < len(self._fates) and self._fates[at] is None:
                self._fates[at] = Fate.RETURNED if self._ids[at] in self._returned else fate
                self._missing -= 1
        if multiple:
            self._low = max(self._low, last + 1)
        if not self._missing and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def lose(self) -> None:
        """The channel is closed."""
        if self._settled is not None and not self._settled.done():
            self._settled.set_exception(ConnectionError("the channel was closed"))


class Publisher:
    """Publishes on one channel, one batch at a time, so that no two messages of the same id are ever in flight together: the return
    of one would be credited to the other (FACTS.md)."""

    def __init__(
        self, link: BrokerLink, readiness: Readiness | None = None, *, probe_after_s: float = PROBE_AFTER_S
    ) -> None:
        self._link = link
        self._readiness = readiness or Readiness()
        self._probe_after_s = probe_after_s
        self._silent_since = time.monotonic()
        self._failing = False
        self._channel: Channel | None = None
        self._wire: FrameTransport | None = None
        self._confirms = _Confirms()
        self._turn = asyncio.Lock()
        self._renewed_at = -RENEW_INTERVAL_S

    async def publish(self, messages: Sequence[Outgoing]) -> Published:
        """Publish and wait for the confirms, `CONFIRM_TIMEOUT_S` at most. Never raises for what the broker does."""
        result = Published()
        async with self._turn:
            for wave in _waves(messages):
                if result.failed:  # the channel was lost, or is silent: the rest would wait as long for nothing
                    result.failed += [message.id for message in wave.values()]
                else:
                    await self._publish_wave(wave, result)
        return result

    async def keep_open(self) -> None:
        """Have a channel, also when there is nothing to publish: readiness tells of an outage and of its end without waiting for a message.
        After a failure, and in silence, the channel must confirm one of nobody's: a broker under an alarm opens channels, and confirms
        nothing. Raises one of `BROKER_ERRORS` when it is away."""
        if self._turn.locked():
            return  # whoever publishes finds out
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

        A library's publish makes a socket write, a timer and three futures a message, which costs client and broker several times what
        the message costs (measured: 117 + 91 against 12 + 24 microseconds).
        """
        settled = self._confirms.expect(ids)
        if self._wire is None:
            raise ConnectionError("there is no connection")
        self._wire.write(payload)
        return settled

    async def _confirmed(self, settled: "asyncio.Future[None]") -> None:
        """Wait for the confirms of what was written, which stand in `_confirms.fates` then. Raises one of `BROKER_ERRORS`."""
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
        """A queue is full, or it changes its leader. In a cluster the channel may go on refusing long after another leads: what it knows of
        a queue whose leader was lost when it first published there stays wrong (seen with RabbitMQ 3.10). The next one asks anew."""
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
        """Nobody knows its state."""
        channel, self._channel = self._channel, None
        if channel is not None and not channel.is_closed:
            self._closing = asyncio.ensure_future(_close_quietly(channel))

    async def _open_channel(self) -> Channel:
        """The one that is open, else a fresh one. Raises one of `BROKER_ERRORS`."""
        if self._channel is None or self._channel.is_closed:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                with losses_as_errors():
                    channel, wire = await self._link.open(confirms=True)
            confirms = _Confirms()
            wire.listen(channel, confirms)
            channel.closing.add_done_callback(lambda _: confirms.lose())
            self._channel, self._wire, self._confirms = channel, wire, confirms
        return self._channel


async def _close_quietly(channel: Channel) -> None:
    try:
        with losses_as_errors():
            await channel.close(timeout=CONFIRM_TIMEOUT_S)
    except BROKER_ERRORS:
        return


def _waves(messages: Sequence[Outgoing]) -> list[_Wave]:
    """Cut into pieces of at most `IN_FLIGHT_MAX` in which no id occurs twice, order kept."""
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
    """The messages that AMQP can carry, and their frames; one that it cannot fails alone, and before anything is sent."""
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
    """The frames of one message under its AMQP id. Raises ValueError, TypeError or struct.error for what AMQP cannot carry."""
    if (
        len(message.body) > 2 * BODY_BYTES_MAX
    ):  # an oversized body would close the channel, and fail all that is in flight on it
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
