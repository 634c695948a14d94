"""The bytes of a connection: what is hot is taken out before the library sees it, and written past its queue.

aiormq lets its caller make the transport (`transport_factory`), and that is where we stand: a `StreamReader` that parts what arrives into
frames. Deliveries, confirms and returns on a channel that somebody listens to go to the listener; all other frames, in their order, to
aiormq, which goes on doing the rest. A frame that was taken is still a sign of life, so the library is shown a heartbeat in its place.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol

from aiormq.abc import AbstractChannel
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from shared.amqp.frames import (
    BODY,
    CONFIRM_METHODS,
    CONTENT_METHODS,
    FRAME_BYTES_MIN,
    HEADER,
    HEARTBEAT,
    KINDS,
    METHOD,
    PREFIX_BYTES,
    frame_prefix,
    read_body_size,
)

SIGN_OF_LIFE_INTERVAL_S: Final = 1.0
"""Far below any heartbeat: a connection busy with taken frames alone must not look dead to the library."""
LIMIT_BYTES: Final = 2**18
"""Of what waits for the library before the socket is paused; it takes frames at once, and none of those that carry bodies."""


class Listener(Protocol):
    """Takes the hot frames of one channel; called where the loop reads, so it only notes what came."""

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """A delivery or a return, by the payloads of its frames."""
        ...

    def on_confirm(self, method: bytes) -> None:
        """An ack or a nack of what was published."""
        ...


class _ChannelFrames:
    """The frames of one channel, put together: content comes in a method, a header and as many bodies as it takes (AMQP 0-9-1, 4.2.6)."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._method = self._header = b""
        self._bodies: list[bytes] = []
        self._missing = 0

    def take(self, kind: int, payload: bytes) -> bool:
        """Whether it is a frame that the listener takes."""
        if kind == METHOD:
            return self._take_method(payload)
        if kind == HEADER:
            self._header, self._bodies, self._missing = payload, [], read_body_size(payload)
        elif kind == BODY:
            self._bodies.append(payload)
            self._missing -= len(payload)
        else:
            return False
        if self._missing <= 0:
            body = self._bodies[0] if len(self._bodies) == 1 else b"".join(self._bodies)
            self.listener.on_message(self._method, self._header, body)
        return True

    def _take_method(self, payload: bytes) -> bool:
        name = payload[:4]
        if name in CONTENT_METHODS:
            self._method = payload
        elif name in CONFIRM_METHODS:
            self.listener.on_confirm(payload)
        else:
            return False
        return True


class FrameTransport(TransportFactory):
    """The transport of one connection, made when the library asks for it."""

    def __init__(self) -> None:
        self._taps: dict[int, _ChannelFrames] = {}
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect. Raises AMQPConnectionError. Source: `aiormq.connection.TCPTransportFactory`, `TLSTransportFactory`."""
        provider = kwargs.pop("ssl_context_provider", None)
        context: ssl.SSLContext | None = None
        if url.scheme == "amqps" and provider is not None:
            context = await provider.get_context()
        loop = asyncio.get_running_loop()
        reader = _Reader(self._taps, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, url.host or "", url.port or 0, ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, self._writer

    def listen(self, channel: AbstractChannel, listener: Listener) -> None:
        """Give the hot frames of `channel` to `listener`, before anything can arrive on it, until it closes."""
        tap = self._taps[channel.number] = _ChannelFrames(listener)
        channel.closing.add_done_callback(lambda _: self._forget(channel.number, tap))

    def _forget(self, number: int, tap: _ChannelFrames) -> None:
        if self._taps.get(number) is tap:  # the number may have been given out again
            del self._taps[number]

    def write(self, frames: bytes) -> None:
        """Send whole frames now, ahead of what the library has queued. Raises ConnectionError."""
        if self._writer is None or self._writer.is_closing():
            raise ConnectionError("the connection is closed")
        self._writer.write(frames)


class _Reader(asyncio.StreamReader):
    """Parts the stream into frames and passes on what nobody listens to."""

    def __init__(self, taps: dict[int, _ChannelFrames], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=LIMIT_BYTES, loop=loop)
        self._taps = taps
        self._time: Callable[[], float] = loop.time
        self._rest = b""
        self._shown_at = 0.0

    def feed_data(self, data: bytes) -> None:  # type: ignore[override] # that is what transports give
        """Called by the transport with whatever arrived."""
        if self._rest:
            data = self._rest + data
        at = passed = 0
        end = len(data)
        passing: list[bytes] = []
        while end - at >= FRAME_BYTES_MIN:
            kind, number, size = frame_prefix.unpack_from(data, at)
            stop = at + size + FRAME_BYTES_MIN
            if (
                kind not in KINDS
            ):  # no frame: the broker names the version that it wants, or all is lost; the library knows what to do
                stop = end
            if stop > end:
                break
            tap = self._taps.get(number)
            if tap is not None and tap.take(kind, data[at + PREFIX_BYTES : stop - 1]):
                passing.append(data[passed:at])
                passed = stop
            at = stop
        self._rest = data[at:]
        if passed:
            self._show_life(passing)
        passing.append(data[passed:at])
        if passed_on := b"".join(passing):
            super().feed_data(passed_on)

    def _show_life(self, passing: list[bytes]) -> None:
        now = self._time()
        if now - self._shown_at >= SIGN_OF_LIFE_INTERVAL_S:
            self._shown_at = now
            passing.append(HEARTBEAT)
