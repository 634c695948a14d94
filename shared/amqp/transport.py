"""The transport of a connection: frames of the hot path bypass the client library in both directions.

aiormq lets its caller make the transport (`transport_factory`). Ours has a `StreamReader` that splits incoming bytes into frames.
Deliveries, confirms and returns on a channel with a listener go to that listener. All other frames go to aiormq in their order, and aiormq
does the rest. A frame that went to a listener is still a sign that the broker is alive, so aiormq is shown a heartbeat in its place.
Outgoing frames are written to the socket directly, ahead of aiormq's queue.
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
"""How often the library is shown a heartbeat: far more often than any heartbeat interval. Otherwise a connection whose frames all go to
listeners would look dead to the library."""
LIMIT_BYTES: Final = 2**18
"""Bytes that may wait for the library before the socket is paused. The library reads frames at once, and gets none that carry bodies."""


class Listener(Protocol):
    """Receives the hot frames of one channel. It is called while the event loop reads the socket, so it must only note what came."""

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """A delivery or a return has come, given as the payloads of its frames. `body` is empty if the body was dropped for its size."""
        ...

    def on_confirm(self, method: bytes) -> None:
        """An ack or a nack of a published message has come, given as the payload of its frame."""
        ...


class _ChannelFrames:
    """Assembles the messages of one channel: a message is a method frame, a header frame, and body frames (AMQP 0-9-1, 4.2.6).

    The header frame says how long the body is. The frames of a body of more than `body_bytes_max` bytes are counted and dropped as they
    come: of 60 messages of 16 MiB nothing is kept but their headers.
    """

    def __init__(self, listener: Listener, body_bytes_max: int) -> None:
        self.listener = listener
        self._body_bytes_max = body_bytes_max
        self._is_dropped = False
        self._method = self._header = b""
        self._bodies: list[bytes] = []
        self._missing = 0

    def take(self, kind: int, payload: bytes) -> bool:
        """Take a frame if it is for the listener. Returns whether it was."""
        if kind == METHOD:
            return self._take_method(payload)
        if kind == HEADER:
            self._header, self._bodies, self._missing = payload, [], read_body_size(payload)
            self._is_dropped = self._missing > self._body_bytes_max
        elif kind == BODY:
            self._missing -= len(payload)
            if not self._is_dropped:
                self._bodies.append(payload)
        else:
            return False
        if self._missing <= 0:
            body = self._bodies[0] if len(self._bodies) == 1 else b"".join(self._bodies)
            self._bodies = []
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
    """The transport of one connection. The library calls `create` when it connects."""

    def __init__(self) -> None:
        self._listening: dict[int, _ChannelFrames] = {}
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the broker at `url`. Raises AMQPConnectionError.

        Source: aiormq's own `TCPTransportFactory` and `TLSTransportFactory` in `aiormq.connection`.
        """
        provider = kwargs.pop("ssl_context_provider", None)
        context: ssl.SSLContext | None = None
        if url.scheme == "amqps" and provider is not None:
            context = await provider.get_context()
        loop = asyncio.get_running_loop()
        reader = _Reader(self._listening, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, url.host or "", url.port or 0, ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, self._writer

    def listen(self, channel: AbstractChannel, listener: Listener, *, body_bytes_max: int = 0) -> None:
        """Give the hot frames of `channel` to `listener` until the channel closes. Call it before anything can arrive on the channel.

        Bodies of more than `body_bytes_max` bytes are dropped as they come.
        """
        channel_frames = self._listening[channel.number] = _ChannelFrames(listener, body_bytes_max)
        channel.closing.add_done_callback(lambda _: self._end(channel.number, channel_frames))

    def _end(self, number: int, channel_frames: _ChannelFrames) -> None:
        if self._listening.get(number) is channel_frames:  # a new channel may have the number already
            del self._listening[number]

    def abort(self) -> None:
        """End the connection at once. What is still to be written is lost."""
        if self._writer is not None:
            self._writer.transport.abort()

    def write(self, frames: bytes) -> None:
        """Send whole frames at once, ahead of what the library has queued. Raises ConnectionError if the connection is closed."""
        if self._writer is None or self._writer.is_closing():
            raise ConnectionError("the connection is closed")
        self._writer.write(frames)


class _Reader(asyncio.StreamReader):
    """Splits the stream into frames, and passes on to the library those that no listener takes."""

    def __init__(self, listening: dict[int, _ChannelFrames], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=LIMIT_BYTES, loop=loop)
        self._listening = listening
        self._time: Callable[[], float] = loop.time
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._wanted_bytes = FRAME_BYTES_MIN
        self._shown_at = 0.0

    def feed_data(self, arrived: bytes) -> None:  # type: ignore[override] # that is what transports give
        """Called by the transport with the bytes that arrived, which may end within a frame."""
        data = self._joined(arrived)
        if data is None:
            return
        self._wanted_bytes = FRAME_BYTES_MIN
        start = done = 0  # where the current frame begins, and up to where frames were taken or passed on
        end = len(data)
        for_library: list[bytes] = []
        while end - start >= FRAME_BYTES_MIN:
            kind, number, size = frame_prefix.unpack_from(data, start)
            stop = start + size + FRAME_BYTES_MIN
            if kind not in KINDS:
                # This is no frame. Either the broker names the protocol version that it wants, or the stream is broken: for the library.
                stop = end
            if stop > end:
                self._wanted_bytes = stop - start
                break
            channel_frames = self._listening.get(number)
            if channel_frames is not None and channel_frames.take(kind, data[start + PREFIX_BYTES : stop - 1]):
                for_library.append(data[done:start])
                done = stop
            start = stop
        self._rest = [data[start:]] if start < end else []
        self._rest_bytes = end - start
        if done:
            self._show_life(for_library)
        for_library.append(data[done:start])
        if joined := b"".join(for_library):
            super().feed_data(joined)

    def _joined(self, arrived: bytes) -> bytes | None:
        """What waits of a frame, and `arrived`; None until the frame is complete. Its pieces may be many and small, and are joined once."""
        if not self._rest:
            return arrived
        self._rest.append(arrived)
        self._rest_bytes += len(arrived)
        return b"".join(self._rest) if self._rest_bytes >= self._wanted_bytes else None

    def _show_life(self, for_library: list[bytes]) -> None:
        now = self._time()
        if now - self._shown_at >= SIGN_OF_LIFE_INTERVAL_S:
            self._shown_at = now
            for_library.append(HEARTBEAT)
