"""A sender of AMQP 1.0 (OASIS, 2012): just enough of it for one message with an application property that is a UUID."""

import asyncio
import struct
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

# Descriptors of frames and of what is in them, by the names of the specification.
SASL_MECHANISMS, SASL_INIT, SASL_OUTCOME = 0x40, 0x41, 0x44
OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
SOURCE, TARGET, ACCEPTED = 0x28, 0x29, 0x24
APPLICATION_PROPERTIES, DATA = 0x74, 0x75
FRAME_AMQP, FRAME_SASL = 0, 1
SASL_HEADER, AMQP_HEADER = b"AMQP\x03\x01\x00\x00", b"AMQP\x00\x01\x00\x00"

NULL, TRUE, FALSE, ZERO = b"\x40", b"\x41", b"\x42", b"\x43"
MANY = b"\x70" + struct.pack(">I", 1_000)
UNSETTLED = b"\x50\x00"


def text(value: str) -> bytes:
    return b"\xb1" + struct.pack(">I", len(value.encode())) + value.encode()


def symbol(value: str) -> bytes:
    return b"\xb3" + struct.pack(">I", len(value)) + value.encode()


def binary(value: bytes) -> bytes:
    return b"\xb0" + struct.pack(">I", len(value)) + value


def compound(code: bytes, *items: bytes) -> bytes:
    """A list (d0) or a map (d1)."""
    body = b"".join(items)
    return code + struct.pack(">II", len(body) + 4, len(items)) + body


def described(descriptor: int, value: bytes) -> bytes:
    return b"\x00\x53" + bytes((descriptor,)) + value


def performative(descriptor: int, *fields: bytes) -> bytes:
    return described(descriptor, compound(b"\xd0", *fields))


def frame(body: bytes, kind: int = FRAME_AMQP) -> bytes:
    return struct.pack(">IBBH", len(body) + 8, 2, kind, 0) + body


def message_with_uuid(body: bytes) -> bytes:
    """Its application property `id` is a UUID, which no header of AMQP 0-9-1 can be."""
    properties = compound(b"\xd1", text("id"), b"\x98" + UUID(int=18).bytes)
    return described(APPLICATION_PROPERTIES, properties) + described(DATA, binary(body))


async def send(url: str, queue: str, message: bytes, *, within_s: float = 10.0) -> None:
    """Send it to this queue of RabbitMQ 4, and wait until it is accepted. Raises `ConnectionError` if it is not."""
    parts = urlsplit(url)
    async with asyncio.timeout(within_s):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 5672)
        try:
            await _log_in(reader, writer, unquote(parts.username or "guest"), unquote(parts.password or "guest"))
            await _deliver(reader, writer, unquote(parts.path[1:]) or "/", queue, message)
        finally:
            writer.close()


async def _log_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str, password: str) -> None:
    writer.write(SASL_HEADER)
    await _read_header(reader, SASL_HEADER)
    await _read_until(reader, SASL_MECHANISMS)
    response = binary(f"\0{user}\0{password}".encode())
    writer.write(frame(performative(SASL_INIT, symbol("PLAIN"), response), FRAME_SASL))
    await _read_until(reader, SASL_OUTCOME)  # the server ends the connection if it refuses
    writer.write(AMQP_HEADER)
    await _read_header(reader, AMQP_HEADER)


async def _deliver(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, vhost: str, queue: str, message: bytes
) -> None:
    writer.write(frame(performative(OPEN, text("test sender"), text(f"vhost:{vhost}"))))
    writer.write(frame(performative(BEGIN, NULL, ZERO, MANY, MANY)))
    source, target = performative(SOURCE, text("test")), performative(TARGET, text(f"/queues/{quote(queue, safe='')}"))
    writer.write(
        frame(
            performative(
                ATTACH, text("link"), ZERO, FALSE, UNSETTLED, UNSETTLED, source, target, NULL, NULL, ZERO
            )
        )
    )  # fmt: skip
    await _read_until(reader, FLOW)  # credit
    writer.write(frame(performative(TRANSFER, ZERO, ZERO, binary(b"1"), ZERO, FALSE) + message))
    said = await _read_until(reader, DISPOSITION)
    if b"\x00\x53" + bytes((ACCEPTED,)) not in said:
        raise ConnectionError(f"not accepted: {said!r}")
    writer.write(frame(performative(CLOSE)))
    await _read_until(reader, CLOSE)


async def _read_header(reader: asyncio.StreamReader, header: bytes) -> None:
    if (said := await reader.readexactly(len(header))) != header:
        raise ConnectionError(f"the server speaks no AMQP 1.0: {said!r}")


async def _read_until(reader: asyncio.StreamReader, wanted: int) -> bytes:
    """The body of the first frame with this descriptor. Raises `ConnectionError` if what was begun is ended instead."""
    while True:
        size, offset = struct.unpack(">IB", await reader.readexactly(5))
        body = (await reader.readexactly(size - 5))[offset * 4 - 5 :]
        descriptor = body[2] if body else None  # an empty frame is a heartbeat
        if descriptor == wanted:
            return body
        if descriptor in {DETACH, END, CLOSE}:
            raise ConnectionError(repr(body))
