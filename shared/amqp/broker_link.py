"""A connection to RabbitMQ for one role (publish, consume), opened again whenever it was lost.

One connection per role: a failing redeclare or a blocked publisher must not take the consumers down (FACTS.md). We use aio-pika's plain
connection and reconnect ourselves, since what must happen after a loss (drop stale deliveries, leave unconfirmed messages to the
sweeper) is ours to decide.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import aio_pika
from aio_pika.abc import ConnectionParameter
from aiormq.abc import AbstractConnection, DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity, ChannelPreconditionFailed
from yarl import URL

from shared.amqp.transport import FrameTransport

CONNECT_TIMEOUT_S = 5.0
HEARTBEAT_S = 10
"""A dead peer is noticed after about three times this (measured)."""
RPC_TIMEOUT_S = 10.0

BROKER_ERRORS: tuple[type[Exception], ...] = (AMQPError, OSError, TimeoutError, RuntimeError)
"""What the client raises when the broker is away; aio-pika signals a closed transport with RuntimeError in places."""

__all__ = [
    "BROKER_ERRORS",
    "BrokerLink",
    "Channel",
    "ChannelNotFoundEntity",
    "ChannelPreconditionFailed",
    "DeliveredMessage",
    "losses_as_errors",
]
"""The client library's names that the rest of the repository may use stand here too: nobody else imports it."""


@contextmanager
def losses_as_errors() -> Iterator[None]:
    """The client has more ways to say that the connection is gone: it cancels whoever waits on a closed channel, a connection closed
    during the handshake ends in `StopAsyncIteration`, and a bare `Exception` comes too (all seen while a broker restarted). Here all become
    `ConnectionError`; a cancellation of the task itself stays one, also where the client turns it into an error."""
    try:
        yield
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        raise ConnectionError("the channel was closed") from None
    except StopAsyncIteration:
        raise ConnectionError("the broker closed the connection during the handshake") from None
    except Exception as error:
        if (
            _is_cancelled()
        ):  # the client made an error of it, and a task that goes on never ends (found by a crash as a service began)
            raise asyncio.CancelledError from error
        if (
            type(error) is Exception
        ):  # aiormq's word for "rejected, no reason given": a connection lost while a channel opens
            raise ConnectionError("the connection was lost") from None
        raise


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class _Connection(aio_pika.Connection):
    """aio-pika's own, over a transport of ours."""

    PARAMETERS = (
        *aio_pika.Connection.PARAMETERS,
        ConnectionParameter(name="transport_factory", parser=lambda wire: wire, is_kwarg=True),
    )

    def __init__(self, url: URL, **kwargs: Any) -> None:
        self.wire = FrameTransport()
        super().__init__(url, transport_factory=self.wire, **kwargs)


class BrokerLink:
    """Opens channels, and the connection below them when there is none."""

    def __init__(self, url: str, *, name: str) -> None:
        self._url = url
        self._heartbeat_s = _heartbeat_s(url)
        self._name = name
        self._connection: _Connection | None = None
        self._lock = asyncio.Lock()
        self._closed = False

    async def channel(self, *, confirms: bool) -> Channel:
        """A fresh channel. Raises one of `BROKER_ERRORS` if the broker is away."""
        return (await self.open(confirms=confirms))[0]

    async def open(self, *, confirms: bool) -> tuple[Channel, FrameTransport]:
        """A fresh channel, and the wire below it for whoever wants its frames. Raises one of `BROKER_ERRORS`."""
        async with self._lock, asyncio.timeout(CONNECT_TIMEOUT_S + RPC_TIMEOUT_S):
            try:
                with losses_as_errors():
                    connection, wire = await self._open_connection()
                    # Not by aio-pika's `channel()`: of each such channel something stays with its connection for as long as that lives.
                    channel = await connection.channel(
                        publisher_confirms=confirms, on_return_raises=confirms, timeout=RPC_TIMEOUT_S
                    )
                    return cast(Channel, channel), wire
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
                client_properties={"connection_name": self._name},
                connection_class=_Connection,
            )
        below = _below(self._connection)
        if below is None:
            raise ConnectionError("the connection was lost")
        return below, self._connection.wire

    async def close(self) -> None:
        """Close for good; never raises."""
        self._closed = True
        await self._drop_connection()

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                async with asyncio.timeout(RPC_TIMEOUT_S):
                    with losses_as_errors():
                        await connection.close()
            except BROKER_ERRORS:
                return


def _heartbeat_s(url: str) -> int:
    """The URL's own `heartbeat=` if it has one: aio-pika would overwrite it with what it is called with."""
    own = parse_qs(urlsplit(url).query).get("heartbeat", [""])[-1]
    return int(own) if own.isdecimal() else HEARTBEAT_S


def _below(connection: _Connection) -> AbstractConnection | None:
    """The connection of the library below, if it is still there: `is_closed` of aio-pika's own says whether *we* closed it."""
    below = connection.transport.connection if connection.transport is not None else None
    return None if connection.is_closed or below is None or below.is_closed else below
