"""A listener may keep public events in a stream of its own, which many readers read, each from the place that it likes."""

import asyncio

import aio_pika

from deploy.local.stack import LISTENER
from shared.messaging.topology import PUBLIC_EXCHANGES
from tests.support.environment import Environment

WITHIN_S = 10.0
STREAM = f"{LISTENER}.archive"
ARGUMENTS = {"x-queue-type": "stream", "x-max-age": "7D"}


async def test_a_listener_reads_its_stream_again_and_again(environment: Environment) -> None:
    administrator = await aio_pika.connect(environment.rabbitmq_url, timeout=WITHIN_S)
    listener = await aio_pika.connect(environment.stack.rabbitmq_url_of(LISTENER), timeout=WITHIN_S)
    try:
        channel = await listener.channel()
        stream = await channel.declare_queue(STREAM, durable=True, arguments=dict(ARGUMENTS))
        for name in PUBLIC_EXCHANGES:
            await stream.bind(name, "#")
        sending = await administrator.channel()
        for number in range(3):
            exchange = await sending.get_exchange(PUBLIC_EXCHANGES[number % 2], ensure=False)
            await exchange.publish(aio_pika.Message(b"%d" % number), f"event.{number}", timeout=WITHIN_S)
        for _reader in range(2):
            assert await _read(listener, 3) == [b"0", b"1", b"2"]
    finally:
        await (await administrator.channel()).queue_delete(STREAM)
        await listener.close()
        await administrator.close()


async def _read(connection: aio_pika.abc.AbstractConnection, count: int) -> list[bytes]:
    """The first messages of the stream, by a consumer of its own."""
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=10)
    stream = await channel.get_queue(STREAM, ensure=False)
    found: list[bytes] = []
    async with asyncio.timeout(WITHIN_S), stream.iterator(arguments={"x-stream-offset": "first"}) as messages:
        async for message in messages:
            await message.ack()
            found.append(message.body)
            if len(found) == count:
                break
    await channel.close()
    return found
