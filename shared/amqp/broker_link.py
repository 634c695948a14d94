"""A connection to RabbitMQ for one role (publish or consume), opened again after every loss.

Each role has its own connection. With a shared one, a declaration that fails keeps every channel of the connection down (measured), and a
blocked publisher would stop the consumers. We use aio-pika's plain connection and reconnect ourselves, because a loss needs steps of our
own: stale deliveries are dropped, and unconfirmed messages are published again later.
"""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import aio_pika
from aio_pika.abc import ConnectionParameter
from aiormq.abc import AbstractConnection, DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.commands import Basic
from yarl import URL

from shared.amqp.frames import DIRECT_REPLY_TO
from shared.amqp.transport import FrameTransport
from shared.build import this_build
from shared.unreachable import why_unreachable

CONNECT_TIMEOUT_S = 5.0
HEARTBEAT_S = 10
"""A dead peer is noticed after about three times this (measured)."""
RPC_TIMEOUT_S = 10.0
PAYLOAD_BYTES_DEFAULT = 128 * 1024 - 8
"""What RabbitMQ's default `frame_max` leaves of a frame for its payload."""

BROKER_ERRORS: tuple[type[Exception], ...] = (AMQPError, OSError, TimeoutError, RuntimeError)
"""What the client raises when the broker is away. In places aio-pika raises RuntimeError for a closed transport."""

ADVICE = "`remit permissions` shows what each user needs"

__all__ = [
    "ADVICE",
    "BROKER_ERRORS",
    "AccessRefusedError",
    "BrokerLink",
    "CannotConnectError",
    "Channel",
    "ChannelAccessRefused",
    "ChannelNotFoundEntity",
    "ChannelPreconditionFailed",
    "DeliveredMessage",
    "access_refused",
    "losses_as_errors",
    "payload_bytes_max",
    "user_in",
]
"""Some of these are names of the client library. The rest of the repository takes them from here, and does not import the library."""


class AccessRefusedError(ConnectionError):
    """The broker is there and refuses our user. The text says what it refuses, and what an operator does about it.

    It is one of `BROKER_ERRORS`: work is kept and tried again, and goes on by itself once the user may do it.
    """


class CannotConnectError(ConnectionError):
    """No connection can be made until somebody changes something (`shared.unreachable`). The text names the variable and says why."""


_OUTAGE_OF_VHOST = re.compile(r"is down|limit")
"""What the broker says of a virtual host that it starts, or that has as many connections as it may."""
_REFUSED_RESOURCE = re.compile(r"access to (exchange|queue) '([^']*)' in vhost '([^']*)' refused for user '([^']*)'")
_NEEDED = {"exchange": "write to exchange", "queue": "read from queue"}
"""What a service does with each. Only the set-up does more."""


def access_refused(error: BaseException) -> AccessRefusedError | None:
    """The refusal that the client's error means. None if it means anything else."""
    match error:
        case AccessRefusedError():
            return error
        case ProbableAuthenticationError():
            return AccessRefusedError("RABBITMQ_URL: the broker refuses this user name and password")
        case InvalidFrameError() if "Connection.OpenOk" in str(error) and "Connection.Close" in str(error):
            if _OUTAGE_OF_VHOST.search(str(error)):
                return None
            return AccessRefusedError(
                f"RABBITMQ_URL: the virtual host does not exist, or this user may not use it; {ADVICE}"
            )
        case ChannelAccessRefused() if refused := _REFUSED_RESOURCE.search(str(error)):
            kind, name, vhost, user = refused.groups()
            return AccessRefusedError(f"user {user} may not {_NEEDED[kind]} {name} in virtual host {vhost}; {ADVICE}")
        case ChannelAccessRefused():
            return AccessRefusedError(f"{error}; {ADVICE}")
        case _:
            return None


def _cannot_connect(error: BaseException) -> CannotConnectError | None:
    why = why_unreachable(error)
    return None if why is None else CannotConnectError(f"RABBITMQ_URL: {why}")


@contextmanager
def losses_as_errors() -> Iterator[None]:
    """Turn every sign of a lost connection into `ConnectionError`, and a refusal of our user into `AccessRefusedError`.

    Besides `BROKER_ERRORS` the client has three more signs, all seen while a broker restarted. It cancels tasks that wait on a closed
    channel. It raises `StopAsyncIteration` when a connection is closed during the handshake. And it raises a bare `Exception`. If the
    current task itself was cancelled, the cancellation stays one, even where the client made another error of it.
    """
    try:
        yield
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        raise ConnectionError("the channel was closed") from None
    except StopAsyncIteration:
        raise ConnectionError("the broker closed the connection during the handshake") from None
    except Exception as error:
        if _is_cancelled():
            # The client turned the cancellation into an error. Without this the task never ended (found by a crash at a service's start).
            raise asyncio.CancelledError from error
        if (mistake := access_refused(error) or _cannot_connect(error)) is not None:
            raise mistake from None
        if type(error) is Exception:  # aiormq raises it when a connection is lost while a channel opens
            raise ConnectionError("the connection was lost") from None
        raise


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class _Connection(aio_pika.Connection):
    """A connection of aio-pika that uses our transport."""

    PARAMETERS = (
        *aio_pika.Connection.PARAMETERS,
        ConnectionParameter(name="transport_factory", parser=lambda factory: factory, is_kwarg=True),
    )

    def __init__(self, url: URL, **kwargs: Any) -> None:
        self.frame_transport = FrameTransport()
        super().__init__(url, transport_factory=self.frame_transport, **kwargs)

    def __del__(self) -> None:
        """Nothing: it was never open, or the link has closed it. What aio-pika does here fails with a warning where no loop is running."""


class BrokerLink:
    """Opens channels, and first the connection below them if there is none."""

    def __init__(self, url: str, *, name: str) -> None:
        self._url = url
        self.user = _user(url)
        self._heartbeat_s = _heartbeat_s(url)
        self._name = name
        self._connection: _Connection | None = None
        self._lock = asyncio.Lock()
        self._closed = False

    async def channel(self, *, confirms: bool) -> Channel:
        """A new channel. `confirms` turns publisher confirms on. Raises one of `BROKER_ERRORS` if the broker is away."""
        return (await self.open(confirms=confirms))[0]

    async def open(self, *, confirms: bool) -> tuple[Channel, FrameTransport]:
        """A new channel, and the transport below it for a caller that reads and writes frames. Raises one of `BROKER_ERRORS`."""
        async with self._lock, asyncio.timeout(CONNECT_TIMEOUT_S + RPC_TIMEOUT_S):
            try:
                with losses_as_errors():
                    connection, frame_transport = await self._open_connection()
                    # This is aiormq's `channel()`. aio-pika's would leak memory: its connection keeps something of every channel.
                    channel = await connection.channel(
                        publisher_confirms=confirms, on_return_raises=confirms, timeout=RPC_TIMEOUT_S
                    )
                    return cast(Channel, channel), frame_transport
            except BROKER_ERRORS:
                await self._drop_connection()
                raise

    async def _open_connection(self) -> tuple[AbstractConnection, FrameTransport]:
        if self._closed:
            raise ConnectionError("this link is closed")
        if self._connection is None or _below(self._connection) is None:
            self._connection = await aio_pika.connect(
                self._url,
                timeout=CONNECT_TIMEOUT_S,
                heartbeat=self._heartbeat_s,
                client_properties={"connection_name": self._name, **this_build().client_properties},
                connection_class=_Connection,
            )
        below = _below(self._connection)
        if below is None:
            raise ConnectionError("the connection was lost")
        return below, self._connection.frame_transport

    async def close(self) -> None:
        """Close for good. Never raises an error of the broker."""
        self._closed = True
        await self._drop_connection()

    async def reply_address(self, *, exchange: str, unbound_key: str) -> str | None:
        """An address of direct reply-to as the node writes it that this link is connected to. Raises one of `BROKER_ERRORS`.

        The broker writes it into a message that asks for an answer, and gives that message back, since no queue takes it from `exchange`
        under `unbound_key`. None if it came back without one.
        """
        channel = await self.channel(confirms=True)
        with losses_as_errors():
            await channel.basic_consume(DIRECT_REPLY_TO, _ignore, no_ack=True, timeout=RPC_TIMEOUT_S)
            asks = Basic.Properties(reply_to=DIRECT_REPLY_TO)
            try:
                await _publish_unrouted(channel, exchange, unbound_key, asks)
            except PublishError as returned:
                return None if returned.message is None else returned.message.header.properties.reply_to
            finally:
                await channel.close(timeout=RPC_TIMEOUT_S)
        return None

    async def try_to_write(self, exchange: str, *, unbound_key: str, may_be_heard: bool) -> None:
        """Raise AccessRefusedError if our user may not write to `exchange`. Nothing reaches a queue. Raises one of `BROKER_ERRORS`.

        The broker looks at the permission, and then gives back a message that no queue takes. With `may_be_heard` a listener may have a
        queue for whatever comes to the exchange. So to that one the message says that somebody else has sent it, for a time that is none:
        the broker refuses it for either, closes the channel, and writes a line into its log.
        """
        channel = await self.channel(confirms=True)
        forged = Basic.Properties(user_id=f"not {self.user}", expiration="none")
        with losses_as_errors():
            try:
                await _publish_unrouted(channel, exchange, unbound_key, forged if may_be_heard else Basic.Properties())
            except ChannelPreconditionFailed:
                return
            except PublishError:
                await channel.close(timeout=RPC_TIMEOUT_S)

    def abort(self) -> None:
        """End the connection at once, without a word to the broker. The next channel opens a new one.

        The broker is busy on a channel, say, and does not hear that it is closed. When the socket is closed, it ends the channel within
        nine seconds, whatever it is at (RabbitMQ 3.10, measured).
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.frame_transport.abort()
            self._ending = asyncio.ensure_future(_close_quietly(connection))

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await _close_quietly(connection)


async def _publish_unrouted(channel: Channel, exchange: str, unbound_key: str, properties: Basic.Properties) -> None:
    """Publish an empty message that no queue takes. The broker gives it back, or refuses it."""
    await channel.basic_publish(
        b"",
        exchange=exchange,
        routing_key=unbound_key,
        properties=properties,
        mandatory=True,
        timeout=RPC_TIMEOUT_S,
    )


async def _ignore(_: DeliveredMessage) -> None:
    """Nobody knows the address, so nothing is delivered there."""


async def _close_quietly(connection: _Connection) -> None:
    try:
        async with asyncio.timeout(RPC_TIMEOUT_S):
            with losses_as_errors():
                await connection.close()
    except BROKER_ERRORS:
        return


def payload_bytes_max(channel: Channel) -> int:
    """The largest payload of a frame on this connection, in bytes. A broker may set no limit; then it is as by default."""
    return channel.max_content_size if channel.max_content_size > 0 else PAYLOAD_BYTES_DEFAULT


def user_in(url: str) -> str:
    """The name of the user in a broker's URL. A URL without one means the broker's own `guest`."""
    return unquote(urlsplit(url).username or "guest")


def _user(url: str) -> str | None:
    """The name of the connection's user, or None if it is not the URL that says who connects (`auth=external`)."""
    auth = parse_qs(urlsplit(url).query).get("auth", ["plain"])[-1].lower()
    return user_in(url) if auth == "plain" else None


def _heartbeat_s(url: str) -> int:
    """The heartbeat interval in seconds: the URL's own `heartbeat=` if it has one. aio-pika's argument would overrule the URL's value."""
    own = parse_qs(urlsplit(url).query).get("heartbeat", [""])[-1]
    return int(own) if own.isdecimal() else HEARTBEAT_S


def _below(connection: _Connection) -> AbstractConnection | None:
    """aiormq's connection below, or None if it is lost. aio-pika's `is_closed` only says whether *we* closed the connection."""
    below = connection.transport.connection if connection.transport is not None else None
    return None if connection.is_closed or below is None or below.is_closed else below
