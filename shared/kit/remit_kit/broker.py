"""The way to Remit by RabbitMQ: one connection, opened again after every loss.

Commands are persistent, mandatory and confirmed. Answers and events are acknowledged once they were taken.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from yarl import URL

from remit_kit.commands import Command, new_id
from remit_kit.errors import AccessRefused, NotConfirmed, NotConnected, RemitError
from remit_kit.outcomes import EVENTS, Event

COMMANDS = "invoice.commands.entry"
PUBLIC_EVENTS = "invoice.events"
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"
CONTENT_TYPE = "application/cloudevents+json"
PARAMETERS = frozenset({"auth", "cafile", "capath", "certfile", "heartbeat", "keyfile", "name", "timeout"})
"""What may stand behind the ? of the URL."""

OPEN_WITHIN_S = 30.0
CONNECT_TIMEOUT_S = 10.0
CONFIRM_TIMEOUT_S = 10.0
PAUSE_S = 0.5
PAUSE_MOST_S = 30.0
PREFETCH = 100
UNUSED_MS = 600_000
"""A queue for one process is deleted this long after the process is gone. A process that only lost its connection is back long before."""
Arguments = dict[str, Any]
QUORUM: Arguments = {"x-queue-type": "quorum"}

_LOST = (Exception, asyncio.CancelledError)
"""aio-pika has many signs of a lost connection, a bare `Exception` among them. It also cancels tasks that wait on a closed channel."""
_log = logging.getLogger("remit_kit")


class _Connection(aio_pika.Connection):
    def __del__(self) -> None:
        """Nothing: `_drop` has closed it. What aio-pika does here fails with a warning where no loop is running."""


class Broker:
    """See `remit_kit.client.Transport`."""

    def __init__(self, url: str, *, queue: str | None, listen: bool, user: str | None) -> None:
        self._url = checked(url)
        self._user = user or unquote(urlsplit(url).username or "guest")
        if queue is not None and not queue.startswith(f"{self._user}."):
            raise ValueError(f"the name of your queue must begin with {self._user}. (your user and a dot): {queue!r}")
        self._queue = queue
        self._own = f"{self._user}.{new_id()}"
        self._listens = listen
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._events: AbstractChannel | None = None
        self._is_up = asyncio.Event()
        self._is_lost = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._handing_over = asyncio.Lock()
        """Events are handed over one after the other, in the order in which they came."""
        self._is_ending = False

    async def open(self, on_answer: Callable[[str, bytes], None], on_event: Callable[[Event], Awaitable[None]]) -> None:
        """Connect and listen, and keep connected. Raises NotConnected, or AccessRefused."""
        self._on_answer, self._on_event, self._is_ending = on_answer, on_event, False
        last: BaseException | None = None
        try:
            async with asyncio.timeout(OPEN_WITHIN_S):
                while True:
                    try:
                        await self._connect()
                        break
                    except RemitError:
                        raise
                    except _LOST as error:
                        _stay_cancelled(error)
                        last = error
                        await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            raise NotConnected(f"the broker does not answer: {type(last).__name__}: {last}") from None
        self._keeping = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Disconnect. Queues that were only for this object are deleted."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._end_events()
        if self._queue is None and self._listens and self._channel is not None:
            with contextlib.suppress(*_LOST):  # it also ends by itself, when nobody has used it for a time
                await self._channel.queue_delete(f"{self._own}.events", timeout=CONFIRM_TIMEOUT_S)
        await self._drop()

    async def _end_events(self) -> None:
        """Begin with no further event, and let the one that is being handed over be acknowledged, or it would come again.

        The broker answers when the channel is closed: so it has the acknowledgements before the connection ends.
        """
        self._is_ending = True
        if self._events is None:
            return
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S), self._handing_over:
                await self._events.close()
        except _LOST as error:
            _stay_cancelled(error)

    async def send(self, command: Command) -> None:
        """Publish, and wait for the confirm. Raises NotConfirmed or AccessRefused."""
        message = aio_pika.Message(
            command.to_json().encode(),
            content_type=CONTENT_TYPE,
            type=command.type,
            message_id=str(command.id),
            correlation_id=command.correlation_id,
            user_id=self._user,
            reply_to=DIRECT_REPLY_TO if self._queue is None else f"{self._queue}.answers",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                await self._is_up.wait()
                if (channel := self._channel) is None:
                    raise NotConfirmed("the connection was lost")
                exchange = await channel.get_exchange(COMMANDS, ensure=False)
                await exchange.publish(message, command.type, mandatory=True)
        except _LOST as error:
            _stay_cancelled(error)
            if (mistake := _mistake(error)) is not None:
                raise mistake from None
            if isinstance(error, DeliveryError):
                self._note_loss()  # after a refusal the broker may confirm nothing more on this channel
            raise NotConfirmed(_doubt(error)) from None

    # -- the connection --------------------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Connect again after every loss."""
        pause_s = PAUSE_S
        while True:
            await self._is_lost.wait()
            await self._drop()
            try:
                await self._connect()
                pause_s = PAUSE_S
            except _LOST as error:
                _stay_cancelled(error)
                _log.warning("no connection to the broker: %s: %s", type(error).__name__, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MOST_S)

    async def _connect(self) -> None:
        self._is_lost.clear()
        connection = self._connection = _Connection(URL(self._url))
        try:
            async with asyncio.timeout(3 * CONNECT_TIMEOUT_S):
                await connection.connect(timeout=CONNECT_TIMEOUT_S)
                connection.close_callbacks.add(self._note_loss)
                self._channel = await connection.channel(on_return_raises=True)
                self._channel.close_callbacks.add(self._note_loss)
                await self._receive_answers(self._channel)
                if self._listens:
                    await self._receive_events(connection)
        except BaseException as error:
            await self._drop()
            if (mistake := _mistake(error)) is not None:
                raise mistake from None
            raise
        self._is_up.set()

    def _note_loss(self, *_: object) -> None:
        self._is_up.clear()
        self._is_lost.set()

    async def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        self._note_loss()
        if connection is not None:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await connection.close()
            except _LOST as error:
                _stay_cancelled(error)

    async def _receive_answers(self, channel: AbstractChannel) -> None:
        async def take(message: AbstractIncomingMessage) -> None:
            try:
                self._on_answer(message.correlation_id or "", message.body)
            except (ValueError, KeyError, TypeError):
                _log.warning("a message that is no answer came to %s", message.routing_key)
            if self._queue is not None:
                await message.ack()

        if self._queue is None:  # the same channel must publish and consume
            queue = await channel.get_queue(DIRECT_REPLY_TO, ensure=False)
            await queue.consume(take, no_ack=True, timeout=CONNECT_TIMEOUT_S)
        else:
            queue = await _durable(channel, f"{self._queue}.answers")
            await queue.consume(take, timeout=CONNECT_TIMEOUT_S)

    async def _receive_events(self, connection: AbstractConnection) -> None:
        channel = self._events = await connection.channel()
        channel.close_callbacks.add(self._note_loss)
        await channel.set_qos(PREFETCH)
        if self._queue is None:
            queue = await _durable(channel, f"{self._own}.events", {"x-expires": UNUSED_MS})
        else:
            queue = await _durable(channel, f"{self._queue}.events")
        for name in EVENTS:
            await queue.bind(PUBLIC_EVENTS, f"remit.invoice.{name}.v1.#", timeout=CONNECT_TIMEOUT_S)

        async def take(message: AbstractIncomingMessage) -> None:
            async with self._handing_over:
                if not self._is_ending:
                    await self._hand_over(message)

        await queue.consume(take, timeout=CONNECT_TIMEOUT_S)

    async def _hand_over(self, message: AbstractIncomingMessage) -> None:
        """Give an event to its reader, then acknowledge it."""
        try:
            event = Event.read(message.body)
        except (ValueError, KeyError, TypeError):
            _log.warning("a message that is no event came with the key %s", message.routing_key)
            await message.ack()
            return
        await self._on_event(event)
        with contextlib.suppress(*_LOST):  # then it comes again
            await message.ack()


def checked(url: str) -> str:
    """The URL, if it can be used. Raises ValueError with a sentence that does not show it."""
    if any(sign in url.rpartition("@")[0] for sign in "?#"):
        raise ValueError("a user name or password has a ? or # in it: write them as %3F and %23")
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in {"amqp", "amqps"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text shows the password
        parts, is_whole = urlsplit(""), False
    if not is_whole:
        raise ValueError("the URL of the broker must be like amqp://USER:PASSWORD@HOST/%2F, or begin with amqps://")
    if parts.path.count("/") > 1:
        raise ValueError("the name of the virtual host has a / in it: write it as %2F, and no / behind it")
    if unknown := sorted(parse_qs(parts.query, keep_blank_values=True).keys() - PARAMETERS):
        raise ValueError(f"the URL has the parameter {unknown[0]}; it may have {', '.join(sorted(PARAMETERS))}")
    return url


async def _durable(channel: AbstractChannel, name: str, arguments: Arguments = QUORUM) -> AbstractQueue:
    return await channel.declare_queue(name, durable=True, arguments=arguments, timeout=CONNECT_TIMEOUT_S)


SET_UP_FIRST = (
    ("inequivalent arg", NotConnected, "there is a queue of this name and of another kind: delete it, or name another one"),
    ("user_id property", AccessRefused, "`user` must be the name with which you log in"),
    ("is larger than", AccessRefused, "the broker takes no message of this size"),
)  # fmt: skip
"""Failed preconditions that last, by words of the broker. With others, as an unknown delivery tag, a channel is lost and opened again."""


def _mistake(error: BaseException) -> RemitError | None:
    """What somebody has to set up or correct first. None if it may be an outage."""
    match error:
        case RemitError():
            return error if not isinstance(error, NotConfirmed) else None
        case ProbableAuthenticationError():
            return AccessRefused("the broker refuses this user name and password")
        case InvalidFrameError() if "Connection.OpenOk" in str(error) and "Connection.Close" in str(error):
            return AccessRefused(
                "the virtual host does not exist, or this user may not use it or has too many connections"
            )
        case ChannelAccessRefused():
            return AccessRefused(f"{error}: ask whoever runs Remit for the permissions of a sender and a listener")
        case ChannelLockedResource():
            return NotConnected(f"{error}: the queue belongs to another connection alone: name another one")
        case ChannelNotFoundEntity() if "down or inaccessible" not in str(error):
            return NotConnected(f"{error}: is this the virtual host of Remit?")
        case ChannelPreconditionFailed():
            said = (kind(f"{error}: {advice}") for words, kind, advice in SET_UP_FIRST if words in str(error))
            return next(said, None)
        case _:
            return None


def _doubt(error: BaseException) -> str:
    """Why the broker has not confirmed a command, and what that means."""
    match error:
        case PublishError():
            return f"no queue takes {COMMANDS}: Remit is not set up in this virtual host"
        case DeliveryError():
            return "the broker refused it, as it does when its queue is full"
        case TimeoutError():
            return "the broker does not answer"
        case _:
            return f"{type(error).__name__}: {error}"


def _stay_cancelled(error: BaseException) -> None:
    """Raise a cancellation that is ours. aio-pika also raises one for a closed channel."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from error
