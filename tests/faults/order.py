"""The waiting messages of a queue are delivered in reverse (rows 11 and 12): outcomes before requests, settlements before their events."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from deploy.local.stack import Service
from tests.faults.tap import copy_of
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial
from tests.faults.workload import LATE_SUCCESS, MIX
from tests.support.databases import rows

FAMILY: Final = "order"
CALM_S: Final = 2.0
LEAST: Final = 2
CONSUMED_BY: Final[dict[str, Service]] = {
    "saga.events": "saga",
    "payment_gateway.requests": "payment_gateway",
    "payment_gateway.commands": "payment_gateway",
    "invoice.settlement": "invoice",
    "staff.cases": "staff",
}
"""The queues to reverse. Not `invoice.commands`: a sender that needs an order waits for the answer."""


async def _reversed(testbed: Testbed, note: Note, *, queue: str, consumer: Service) -> None:
    testbed.play(*MIX, *(LATE_SUCCESS,) * 4, rounds=2)
    await _until_under_way(testbed)
    await testbed.stop(consumer)
    connection = await aio_pika.connect(testbed.system.stack.rabbitmq_url, timeout=10)
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        waiting = await _taken(channel, queue)
        for message in reversed(waiting):
            await channel.default_exchange.publish(copy_of(message), routing_key=queue, timeout=10)
        for message in waiting:
            await message.ack()
    await testbed.start(consumer)
    note.fired(len(waiting))
    note.mended()
    note.remark(f"{len(waiting)} messages were delivered in reverse")


async def _until_under_way(testbed: Testbed) -> None:
    """Wait until payments are at the gateway: then messages follow, whichever other service is stopped now."""

    async def some() -> bool:
        query = "SELECT payment_id FROM payments WHERE status IN ('requested', 'prepared', 'in_doubt')"
        return len(await testbed.until_answered(lambda: rows(testbed.database("payment_gateway"), query))) > LEAST

    await testbed.until(some, what="payments at the gateway")


async def _taken(channel: aio_pika.abc.AbstractChannel, queue: str) -> list[AbstractIncomingMessage]:
    """Take all waiting messages, until no more arrive."""
    source = await channel.get_queue(queue, ensure=False)
    taken: list[AbstractIncomingMessage] = []
    loop = asyncio.get_running_loop()
    last_at, give_up_at = loop.time(), loop.time() + 60.0
    while loop.time() < give_up_at and (len(taken) < LEAST or loop.time() < last_at + CALM_S):
        message = await source.get(fail=False, timeout=10)
        if message is None:
            await asyncio.sleep(0.1)
        else:
            taken.append(message)
            last_at = loop.time()
    return taken if len(taken) >= LEAST else []


def trials() -> Sequence[Trial]:
    """One trial for each queue between services."""
    return [
        Trial(
            f"{FAMILY}/{queue}:reversed",
            FAMILY,
            f"the messages that wait in {queue} are delivered in reverse",
            partial(_reversed, queue=queue, consumer=consumer),
            estimate_s=30.0,
            touches=frozenset({consumer}),
        )
        for queue, consumer in CONSUMED_BY.items()
    ]
