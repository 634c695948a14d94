"""Publishing with confirms: a batch leaves in few socket writes, and only a message that the broker acks counts as published.

After a return, a nack, a timeout or a lost channel the message counts as not published. It stays in the outbox and is published again with
the same id.

A message can make the broker end the connection, each time it is sent. So after a loss the broker is asked first: if it does not answer, it
is an outage, and no message is to blame. If it answers, the messages whose fate is unknown are sent again in halves, then alone, until the
one that ends connections is known. Its neighbours are published meanwhile.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from uuid import UUID

import structlog

from shared import crash_points
from shared.amqp import frames
from shared.amqp.broker_link import (
    BROKER_ERRORS,
    AccessRefusedError,
    BrokerLink,
    CannotConnectError,
    Channel,
    ChannelNotFoundEntity,
    access_refused,
    losses_as_errors,
    payload_bytes_max,
)
from shared.amqp.transport import FrameTransport
from shared.messaging import dead_letters
from shared.messaging.codec import BODY_BYTES_MAX
from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.reply_address import direct_kind
from shared.messaging.topology import DEAD_LETTERS, MUST_ROUTE, entry_exchange, is_for_own_queues, is_public
from shared.observability import metrics
from shared.observability.health import Readiness
from shared.observability.logs import describe_error, error_text
from shared.outage_log import OnceAMinute, OutageLog
from shared.records import dataclass, field

log = structlog.get_logger(__name__)

IN_FLIGHT_MAX, IN_FLIGHT_PUBLIC_MAX = 256, 64
"""Messages published before we wait for their confirms. 256 messages of 64 KiB are 16 MiB, far below a broker's default memory alarm. Of
public copies they are fewer, because others decide what each costs the broker."""
CONFIRM_TIMEOUT_S = 10.0
"""How long we wait for the confirms of a wave. A broker under an alarm never confirms: the outbox keeps the messages."""
BEAT_S = 0.25
"""Waits for confirms are counted in beats of so many seconds. A beat that ends late does not count: this process stood still (it was
stopped or swapped out, say), and what the broker said meanwhile lies unread in the socket. Of late beats in a row only the first does not
count, so that a process which is always busy waits no longer than twice."""
BEAT_LATE_S = BEAT_S / 2
"""How much later than planned a beat may end. A busy event loop is late by some hundredths of a second."""
SILENT_AFTER_S = 3.0
"""How long the broker may confirm nothing more of a wave. A quorum queue confirms in milliseconds, and never while it has no leader. Even
the channel that publishes to such a queue for the first time is blocked then (RabbitMQ 3.10), and with it all that was sent together."""
RENEW_INTERVAL_S = 1.0
"""The shortest time between two new channels while messages are refused. One full queue must not cost a new channel for every batch."""
PROBE_AFTER_S = 10.0
"""Silence after which we probe whether the broker takes messages: as often as heartbeats, which do not show an alarm."""
ASK_TIMEOUT_S = 3.0
"""How long the broker may take, after a loss, to open a channel and to confirm the probe. It takes milliseconds, or it is an outage."""
FRESH_FOR_S = 1.0
"""How long a confirm shows that the broker took messages. A message that ends the connection alone within this time is to blame. On the
inside lane, where poison is rare and a delay costs more, it has to do so twice."""
PROMPT_S = 5.0
"""A message that ends the connection does so at once. After a later loss nobody knows: this process stood still, say, and the broker gave
its connection up."""
LOSSES_MAX, LOSSES_INSIDE_MAX = 256, 32
"""Lost waves of one call: one message among 256 costs nine. What is unknown after more is left to the sweeper. A loss takes some 10 ms
(measured). On the inside lane an acknowledgement waits for the call; on the others only the sweeper's reservation does."""
COMPONENTS = {Lane.INSIDE: "publisher", Lane.OUTSIDE: "publisher outside"}
"""The names in readiness of the publishers that are always connected. Those of the other lanes connect when something waits there."""
APP_ID = "remit"
"""The property `app_id` of what we publish. That of a message under an id of its sender goes on with a slash and our own id for it."""
PROBE = Outgoing(UUID(int=0), exchange=DEAD_LETTERS, routing_key="remit.probe", type="", correlation_id="", body=b"")
"""A message for no queue. The broker returns and confirms it, which shows that it takes messages. It goes to an exchange that every service
may write to."""


@dataclass(slots=True)
class Published:
    """What became of the messages of one call of `publish`, by their ids.

    `confirmed`: the broker has taken them. `unroutable`: the broker returned them, because no queue takes them. `unencodable`: AMQP cannot
    carry them. `refused`: the broker nacked them, because a queue is full. `silent`: it takes others, and says nothing about them, because
    their queue has no leader. `unclear`: one of their queues has no leader, and the broker says nothing about messages to several of them.
    `poison`: sent alone, they ended the connection, and the broker could be reached at once. `failed`: nobody knows, because the broker is
    away. `slowest_s` is how many seconds the slowest wave waited for its confirms.
    """

    confirmed: list[UUID] = field(default_factory=list)
    unroutable: list[UUID] = field(default_factory=list)
    unencodable: list[UUID] = field(default_factory=list)
    refused: list[UUID] = field(default_factory=list)
    silent: list[UUID] = field(default_factory=list)
    unclear: list[UUID] = field(default_factory=list)
    poison: list[UUID] = field(default_factory=list)
    failed: list[UUID] = field(default_factory=list)
    slowest_s: float = field(default=0.0, init=False)

    @property
    def is_complete(self) -> bool:
        """Whether the broker has taken all messages."""
        return not (self.undeliverable or self.not_taken or self.unclear or self.poison or self.failed)

    def with_others(self, other: "Published") -> "Published":
        """This result together with that for other messages."""
        ids = {name: getattr(self, name) + getattr(other, name) for name in self.__slots__ if name != "slowest_s"}
        both = Published(**ids)
        both.slowest_s = max(self.slowest_s, other.slowest_s)
        return both

    @property
    def not_taken(self) -> set[UUID]:
        """The ids of messages that their queues do not take now: they are full, or have no leader."""
        return {*self.refused, *self.silent}

    @property
    def undeliverable(self) -> set[UUID]:
        """The ids of messages that would fail again if they were sent again at once: a queue is missing, or AMQP cannot carry them."""
        return {*self.unroutable, *self.unencodable}


_Wave = dict[str, Outgoing]
"""Messages that are in flight together, by the marks by which their returns are recognised (`mark_of`). No mark occurs twice."""


class WaveSize:
    """How many messages are sent together: half as many after a wave was lost, twice as many after one was not."""

    def __init__(self, at_most: int = IN_FLIGHT_MAX) -> None:
        self.at_most = self._most = at_most

    def lost(self, messages: int) -> None:
        """A wave was lost, and the fate of so many of its messages is unknown."""
        self.at_most = max(1, messages // 2)

    def passed(self) -> None:
        """A wave was not lost."""
        self.at_most = min(self._most, 2 * self.at_most)


class Fate(Enum):
    """What the broker said about a message."""

    CONFIRMED = "acked: the only proof that the broker has the message"
    RETURNED = "no queue takes it"
    REFUSED = "nacked: a queue is full"


class _Patience:
    """How long a wave may wait for its confirms, counted in beats. `missing` is the number of its messages without a fate."""

    def __init__(self, missing: int) -> None:
        self._missing = missing
        self._ends_at = 0.0
        self._waited_s = self._silent_s = 0.0
        self._stood_still = False
        self.timer: asyncio.TimerHandle | None = None
        """Ends the beat."""

    def end(self) -> None:
        """The wait is over."""
        if self.timer is not None:
            self.timer.cancel()

    def next_beat(self, now: float) -> float:
        """Begin a beat. Returns when it ends."""
        self._ends_at = now + BEAT_S
        return self._ends_at

    def is_over(self, now: float, missing: int) -> bool:
        """A beat has ended. Returns whether the wait is over."""
        self._stood_still = not self._stood_still and now - self._ends_at > BEAT_LATE_S
        if self._stood_still:
            return False
        self._waited_s += BEAT_S
        self._silent_s = self._silent_s + BEAT_S if missing == self._missing else 0.0
        self._missing = missing
        return self._silent_s >= SILENT_AFTER_S or self._waited_s >= CONFIRM_TIMEOUT_S

    def waited_s(self, now: float) -> float:
        """Seconds of the wait up to now, without those in which this process stood still."""
        return self._waited_s + min(BEAT_S, max(0.0, now - self._ends_at + BEAT_S))


class _Confirms:
    """The listener on the channel that we publish on (`shared.amqp.transport.Listener`). One wave is in flight at a time."""

    def __init__(self) -> None:
        self._first_tag = 1
        self._marks: Sequence[str] = ()
        self._fates: list[Fate | None] = []
        self._confirmed_up_to = 0
        self._missing = 0
        self._returned: set[str] = set()
        self._settled: asyncio.Future[None] | None = None
        self._patience = _Patience(0)

    def expect(self, marks: Sequence[str]) -> "asyncio.Future[None]":
        """Expect confirms for the next messages on this channel, given by their marks.

        The returned future is done when the fate of each is known. It raises ConnectionError if the channel closes before, and TimeoutError
        if the broker confirms nothing more for `SILENT_AFTER_S` seconds, or not all in `CONFIRM_TIMEOUT_S`. Time in which this process
        stood still does not count.
        """
        self._first_tag += len(self._marks)
        self._marks, self._fates, self._missing = marks, [None] * len(marks), len(marks)
        self._confirmed_up_to = 0
        self._returned.clear()
        loop = asyncio.get_running_loop()
        self._settled = settled = loop.create_future()
        self._patience = patience = _Patience(len(marks))

        def wait_a_beat() -> None:
            patience.timer = loop.call_at(patience.next_beat(loop.time()), look)

        def look() -> None:
            if settled.done():
                return
            if patience.is_over(loop.time(), self._missing):
                settled.set_exception(TimeoutError("the broker confirms nothing more"))
            else:
                wait_a_beat()

        wait_a_beat()
        settled.add_done_callback(lambda _: patience.end())
        return settled

    @property
    def waited_s(self) -> float:
        """How long the wave in flight has waited, in seconds."""
        return self._patience.waited_s(asyncio.get_running_loop().time())

    @property
    def fates(self) -> Sequence[Fate | None]:
        """The fates of the wave in flight, in its order. None means that nobody knows."""
        return self._fates

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:  # noqa: ARG002 - the signature is the listener's
        """A message was returned. Its confirm follows."""
        message_id, app_id = (name.decode("ascii", "replace") for name in frames.read_names(header))
        self._returned.add(message_id if app_id == APP_ID else app_id)

    def on_confirm(self, method: bytes) -> None:
        tag, multiple = frames.read_confirm(method)
        last = tag - self._first_tag
        fate = Fate.CONFIRMED if method.startswith(frames.ACK) else Fate.REFUSED
        for index in range(self._confirmed_up_to if multiple else last, last + 1):
            if 0 <= index < len(self._fates) and self._fates[index] is None:
                self._fates[index] = Fate.RETURNED if self._marks[index] in self._returned else fate
                self._missing -= 1
        if multiple:
            self._confirmed_up_to = max(self._confirmed_up_to, last + 1)
        if not self._missing and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def channel_closed(self, reason: BaseException | None) -> None:
        """End the wait for confirms, because none can come any more. `reason` is what the broker said about it."""
        if self._settled is not None and not self._settled.done():
            if isinstance(reason, ChannelNotFoundEntity):
                self._settled.set_exception(reason)
            else:
                refused = None if reason is None else access_refused(reason)
                self._settled.set_exception(refused or ConnectionError("the channel was closed"))


class _NotSentError(ConnectionError):
    """The connection was found closed before anything was written."""


class Publisher:
    """Publishes on one channel, one batch at a time, for one lane.

    No two messages with the same mark are in flight together. If they were, the return of one would be counted for the other (measured).
    `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        link: BrokerLink,
        readiness: Readiness | None = None,
        *,
        lane: Lane = Lane.INSIDE,
        probe_after_s: float = PROBE_AFTER_S,
        tell_reply_address: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._link = link
        self._readiness = readiness or Readiness()
        self._lane = lane
        self._losses_max = LOSSES_INSIDE_MAX if lane is Lane.INSIDE else LOSSES_MAX
        self._probe_after_s = probe_after_s
        self._tell_reply_address = tell_reply_address
        self._told_on: FrameTransport | None = None
        self._confirmed_at = self._clock()
        self._failing = False
        self._outage = OutageLog(log, "publish_failed", "publishing_again", lane=lane)
        self._standing = OnceAMinute(clock)
        self._channel: Channel | None = None
        self._transport: FrameTransport | None = None
        self._confirms = _Confirms()
        self._wave_size = WaveSize(IN_FLIGHT_PUBLIC_MAX if lane is Lane.PUBLIC else IN_FLIGHT_MAX)
        self._turn = asyncio.Lock()
        self._renewed_at = -RENEW_INTERVAL_S

    async def publish(self, messages: Sequence[Outgoing]) -> Published:
        """Publish, and wait at most `CONFIRM_TIMEOUT_S` seconds for each wave of confirms. Never raises an error of the broker.

        After a lost wave, and after one without all confirms, what is unknown is left to the sweeper if the broker does not answer.
        """
        result = Published()
        waiting = deque(messages)
        losses = 0
        suspects: set[UUID] = set()
        async with self._turn:
            while waiting:
                wave = _next_wave(waiting, self._wave_size.at_most)
                sent_at = self._clock()
                is_proof = self._lane is not Lane.INSIDE and sent_at - self._confirmed_at < FRESH_FOR_S
                unknown, problem = await self._publish_wave(wave, result)
                is_prompt = self._clock() - sent_at < PROMPT_S
                if problem is None:
                    self._wave_size.passed()
                    continue
                losses += 1
                if losses > self._losses_max or not await self._is_answering():
                    self._give_up([*unknown, *waiting], result, problem)
                    break
                is_proof = is_prompt and (is_proof or (bool(unknown) and unknown[0].id in suspects))
                if unknown and not self._decide(unknown, problem, result, is_proof=is_proof):
                    if is_prompt and len(unknown) == 1 and not isinstance(problem, _NotSentError):
                        suspects.add(unknown[0].id)
                    waiting.extendleft(reversed(unknown))
                    self._wave_size.lost(len(unknown))
            if result.refused:
                self._after_refusals(len(result.refused))
        return result

    async def keep_open(self) -> None:
        """Keep a channel open while nothing is published, so that readiness tells of an outage and of its end at once.

        After a failure, and after `probe_after_s` seconds of silence, the broker must also confirm the probe message. The reason is that
        a broker under an alarm opens channels but confirms nothing. `tell_reply_address` is told an address of direct reply-to of each node
        that we connect to. Raises one of `BROKER_ERRORS` if the broker is away.
        """
        if self._turn.locked():
            return  # a batch is being published, which shows the same
        async with self._turn:
            try:
                channel = await self._open_channel()
                if self._failing or self._clock() - self._confirmed_at >= self._probe_after_s:
                    await self._probe(channel)
                await self._learn_reply_address()
            except BROKER_ERRORS as error:
                self._failed(error)
                raise
            self._succeeded()

    async def _learn_reply_address(self) -> None:
        """Ask each new connection once for an address of direct reply-to, and tell it. Without one, each node counts as unknown."""
        if self._tell_reply_address is None or self._told_on is self._transport:
            return
        self._told_on = self._transport
        try:
            address = await self._link.reply_address(
                exchange=entry_exchange(PROBE.exchange), unbound_key=PROBE.routing_key
            )
        except BROKER_ERRORS as error:
            log.info("reply_address_unknown", error=error_text(error))
            return
        if address is not None:
            self._tell_reply_address(address)

    async def close(self) -> None:
        await self._link.close()

    async def _publish_wave(self, wave: _Wave, result: Published) -> tuple[list[Outgoing], BaseException | None]:
        """Publish a wave. Returns the messages whose fate is unknown, and the error because of which it is."""
        try:
            channel = await self._open_channel()
        except AccessRefusedError as error:
            return list(wave.values()), error
        except BROKER_ERRORS as error:
            not_sent = _NotSentError(error_text(error))
            not_sent.__cause__ = error
            return list(wave.values()), not_sent
        sendable, payload = _encoded(wave, channel, self._lane, self._link.user, result)
        if not sendable:
            return [], None
        problem = await self._send(list(sendable), payload)
        result.slowest_s = max(result.slowest_s, self._confirms.waited_s)
        unknown = self._sort_out(sendable.values(), result)
        if problem is None:
            self._succeeded()
        return unknown, problem

    async def _send(self, marks: Sequence[str], payload: bytes) -> BaseException | None:
        """Write a wave and wait for its confirms. Returns the error that ended the wait before all had come."""
        problem: BaseException | None = ConnectionError("cut off")
        try:
            settled = self._write(marks, payload)
            crash_points.reach("publisher.before_confirm")
            await self._all_confirmed(settled)
            problem = None
        except BROKER_ERRORS as error:
            problem = error
        finally:
            if problem is not None:
                self._drop_channel()
            if isinstance(problem, TimeoutError):
                self._link.abort()  # the broker may be at this wave for minutes, and a closed channel does not free it
        return problem

    def _write(self, marks: Sequence[str], payload: bytes) -> "asyncio.Future[None]":
        """Write the frames of all messages at once. Raises one of `BROKER_ERRORS`.

        The library's publish makes a socket write, a timer and three futures for each message. Measured for client and broker, that costs
        117 + 91 microseconds a message. Frames that are written together cost 12 + 24.
        """
        settled = self._confirms.expect(marks)
        problem = "there is no connection"
        if self._transport is not None:
            try:
                self._transport.write(payload)
            except ConnectionError as error:
                problem = str(error)
            else:
                return settled
        settled.cancel()  # nobody waits for it
        raise _NotSentError(problem)

    async def _all_confirmed(self, settled: "asyncio.Future[None]") -> None:
        """Wait for the confirms of all written messages. `_confirms.fates` holds them then. Raises one of `BROKER_ERRORS`."""
        await settled
        self._confirmed_at = self._clock()

    async def _probe(self, channel: Channel) -> None:
        """Send the probe message and wait for its confirm. Raises one of `BROKER_ERRORS`."""
        probe = mark_of(PROBE)
        await self._all_confirmed(self._write([probe], _payload(probe, PROBE, channel)))

    def _sort_out(self, wave: Iterable[Outgoing], result: Published) -> list[Outgoing]:
        """Note the fates of a wave, and return the messages whose fate is unknown."""
        unknown: list[Outgoing] = []
        for message, fate in zip(wave, self._confirms.fates, strict=True):
            match fate:
                case Fate.CONFIRMED:
                    result.confirmed.append(message.id)
                case Fate.RETURNED:
                    result.unroutable.append(message.id)
                    self._report_unroutable(message)
                case Fate.REFUSED:
                    result.refused.append(message.id)
                case None:
                    unknown.append(message)
        return unknown

    async def _is_answering(self) -> bool:
        """Whether the broker takes messages now, on a new channel. If not, it is an outage."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                await self._probe(await self._open_channel())
        except BROKER_ERRORS as error:
            self._failed(error)
            return False
        return True

    def _decide(
        self, unknown: Sequence[Outgoing], problem: BaseException, result: Published, *, is_proof: bool
    ) -> bool:
        """Decide about messages whose fate is unknown although the broker takes others. False: they have to be sent again.

        `is_proof` says that the loss of a single message proves that it is to blame, and that it was no outage which is over already.
        """
        alone = unknown[0] if len(unknown) == 1 else None
        if isinstance(problem, TimeoutError):
            routes = {(message.exchange, message.routing_key) for message in unknown}
            (result.silent if len(routes) == 1 else result.unclear).extend(message.id for message in unknown)
            metrics.PUBLISH_FAILURES.labels(reason="silent").inc(len(unknown))
            if self._standing.is_due("messages_unconfirmed"):
                log.warning(
                    "messages_unconfirmed", messages=len(unknown), advice="a queue has no leader; sent again soon"
                )
        elif alone is None or isinstance(problem, _NotSentError):
            return False
        elif isinstance(problem, ChannelNotFoundEntity):  # its exchange is missing
            result.unroutable.append(alone.id)
            self._report_unroutable(alone)
        elif isinstance(problem, AccessRefusedError):
            result.refused.append(alone.id)
            if self._standing.is_due(("publish_not_permitted", alone.exchange)):
                detail = error_text(problem, max_characters=200)
                log.error("publish_not_permitted", exchange=alone.exchange, detail=detail)
        elif is_proof:
            result.poison.append(alone.id)
            metrics.PUBLISH_FAILURES.labels(reason="poison").inc()
            log.error("message_ended_connection", message_id=str(alone.id), type=alone.type, lane=self._lane)
        else:
            return False
        return True

    def _give_up(self, wave: Sequence[Outgoing], result: Published, error: BaseException) -> None:
        """Leave the messages to the sweeper."""
        error = error.__cause__ or error
        result.failed.extend(message.id for message in wave)
        metrics.PUBLISH_FAILURES.labels(reason=type(error).__name__).inc(len(wave))
        is_mistake = isinstance(error, AccessRefusedError | CannotConnectError)
        self._outage.failed(error, is_mistake=is_mistake, messages=len(wave))

    def _after_refusals(self, messages: int) -> None:
        """Open a new channel after refusals, at most once in `RENEW_INTERVAL_S`.

        A queue is full, or it changes its leader. In a cluster an old channel may go on refusing long after a queue has a new leader. It
        does so if the queue had lost its leader when the channel first published to it: what the channel knows of that queue then stays
        wrong (seen with RabbitMQ 3.10). A new channel looks up the leader again.
        """
        metrics.PUBLISH_FAILURES.labels(reason="nacked").inc(messages)
        if self._standing.is_due("messages_refused"):
            log.warning(
                "messages_refused", messages=messages, advice="a queue is full or changes its leader; sent again soon"
            )
        now = self._clock()
        if now - self._renewed_at >= RENEW_INTERVAL_S:
            self._renewed_at = now
            self._drop_channel()

    def _report_unroutable(self, message: Outgoing) -> None:
        if message.droppable:
            metrics.ANSWERS_UNROUTABLE.inc()
            return
        metrics.PUBLISH_FAILURES.labels(reason="unroutable").inc()
        key = ("message_unroutable", entry_exchange(message.exchange), message.routing_key)
        if not self._standing.is_due(key):
            return
        log.error(
            "message_unroutable",
            message_id=str(message.id),
            type=message.type,
            exchange=entry_exchange(message.exchange),
            routing_key=message.routing_key,
            advice="a queue or binding is missing: run `remit topology apply`; the message waits in the outbox",
        )

    def _succeeded(self) -> None:
        self._failing = False
        self._outage.succeeded()
        self._says(ok=True)

    def _failed(self, error: BaseException) -> None:
        self._failing = True
        self._says(ok=False, reason=describe_error(error))
        self._drop_channel()

    def _says(self, *, ok: bool, reason: str = "") -> None:
        if (component := COMPONENTS.get(self._lane)) is not None:
            self._readiness.set(component, ok=ok, reason=reason)

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
            channel.closing.add_done_callback(lambda closing: confirms.channel_closed(_reason(closing)))
            self._channel, self._transport, self._confirms = channel, transport, confirms
        return self._channel


def _reason(closing: "asyncio.Future[None]") -> BaseException | None:
    return None if closing.cancelled() else closing.exception()


async def _close_quietly(channel: Channel) -> None:
    try:
        with losses_as_errors():
            await channel.close(timeout=CONFIRM_TIMEOUT_S)
    except BROKER_ERRORS:
        return


def _next_wave(waiting: deque[Outgoing], at_most: int) -> _Wave:
    """Take the next messages, at most `at_most`, so that no mark occurs twice among them. Their order is kept."""
    wave: _Wave = {}
    while waiting and len(wave) < at_most and (mark := mark_of(waiting[0])) not in wave:
        wave[mark] = waiting.popleft()
    return wave


def mark_of(message: Outgoing) -> str:
    """The text by which we recognise a message that the broker returns: its message id, or our own if the message id is its sender's.

    What others chose may not come back as it was read, or may be what other messages have.
    """
    return str(message.id) if message.message_id is None else f"{APP_ID}/{message.id}"


def _encoded(wave: _Wave, channel: Channel, lane: Lane, user: str | None, result: Published) -> tuple[_Wave, bytes]:
    """The messages that AMQP can carry, and the frames of all of them. A message that AMQP cannot carry is noted in `result`."""
    sendable: _Wave = {}
    payloads: list[bytes] = []
    for mark, message in wave.items():
        try:
            payloads.append(_payload_or_remains(mark, message, channel, lane, user))
            sendable[mark] = message
        except (ValueError, TypeError, struct.error) as error:
            result.unencodable.append(message.id)
            log.warning("message_not_encodable", message_id=str(message.id), type=message.type, error=error_text(error))
    return sendable, b"".join(payloads)


def _payload_or_remains(mark: str, message: Outgoing, channel: Channel, lane: Lane, user: str | None) -> bytes:
    """Like `_payload`. Of a dead letter that the broker's frames cannot hold, that is sent which they always can."""
    try:
        return _payload(mark, message, channel, lane, user)
    except ValueError:
        if message.type != dead_letters.TYPE:
            raise
        return _payload(mark, dead_letters.stripped(message), channel, lane, user)


def _payload(
    mark: str, message: Outgoing, channel: Channel, lane: Lane = Lane.INSIDE, user: str | None = None
) -> bytes:
    """The frames of one message with its mark. Raises ValueError, TypeError or struct.error if AMQP cannot carry it.

    On the inside lane an event goes to our own queues alone. On any other lane it is a public copy, and it is no error if nobody listens.
    `user` is who we are. A message of another sender that is sent again says so: its receiver believes only staff who its sender is.
    """
    if len(message.body) > 2 * BODY_BYTES_MAX:
        # The broker would close the channel for an oversized body, and all messages in flight on it would fail.
        raise ValueError(f"a body of {len(message.body)} bytes must not reach the broker")
    is_event = is_public(message.exchange)
    is_copy = is_event and lane is not Lane.INSIDE
    is_ours = is_for_own_queues(message.exchange, message.routing_key) if is_event else message.type in MUST_ROUTE
    # RabbitMQ 3.10 returns what it delivers by direct reply-to as if nobody had got it.
    is_direct = direct_kind(message.exchange, message.routing_key) is not None
    return frames.publish(
        channel.number,
        exchange=message.exchange if is_copy else entry_exchange(message.exchange),
        routing_key=message.routing_key,
        mandatory=not is_direct
        and (message.exchange in {"", DEAD_LETTERS} or (is_ours and not is_copy) or message.droppable),
        content_type=message.content_type,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        message_id=mark if message.message_id is None else message.message_id,
        type_=message.type,
        headers=message.headers,
        body=message.body,
        app_id=APP_ID if message.message_id is None else mark,
        user_id=user if message.message_id is not None else None,
        payload_max=payload_bytes_max(channel),
    )
