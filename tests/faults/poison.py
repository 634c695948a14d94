"""Unreadable messages among healthy ones (row 15): each is dead-lettered with its reason, and the others are handled."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import aio_pika

from shared.ids import new_id
from shared.messaging.topology import WORK_QUEUES
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial
from tests.fuzz.corpus import CORPUS
from tests.support.databases import rows

FAMILY: Final = "poison"


async def _poisoned(testbed: Testbed, note: Note, *, queue: str) -> None:
    began = time.time()
    restarts = testbed.restarts
    testbed.play()
    await testbed.until_under_load()
    connection = await aio_pika.connect(testbed.system.stack.rabbitmq_url, timeout=10)
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        for poison in CORPUS.values():
            headers = {name: _writable(value) for name, value in poison.headers.items()}
            message = aio_pika.Message(
                poison.body,
                content_type=poison.content_type,
                headers=headers,
                message_id=f"poison {new_id()}",  # no UUID: a command with a readable id would be answered, not dead-lettered
                delivery_mode=2,
            )
            await channel.default_exchange.publish(message, routing_key=queue, timeout=10)
    note.mended()
    testbed.play()
    await testbed.until_drained()
    query = """SELECT sum(seen)::int AS n, count(DISTINCT reason)::int AS reasons FROM dead_letters
        WHERE queue = $1 AND last_seen > to_timestamp($2)"""
    (found,) = await rows(testbed.database("staff"), query, queue, began)
    note.fired(len(CORPUS))
    note.remark(f"{len(CORPUS)} inputs: {found['n']} dead letters of {found['reasons']} reasons")
    assert testbed.restarts == restarts, "a service ended by itself"


def _writable(value: Any) -> Any:
    """The value as our client can write it into a table of headers, which takes no bytes."""
    match value:
        case bytes():
            return value.decode()
        case list():
            return [_writable(one) for one in value]
        case dict():
            return {name: _writable(one) for name, one in value.items()}
        case _:
            return value


def trials() -> Sequence[Trial]:
    """One trial a queue, with the whole corpus."""
    return [
        Trial(
            f"{FAMILY}/{queue.name}",
            FAMILY,
            f"each of {len(CORPUS)} inputs of the corpus is sent to {queue.name}",
            partial(_poisoned, queue=queue.name),
            estimate_s=25.0,
            touches=frozenset({queue.name.partition(".")[0]}),
        )
        for queue in WORK_QUEUES
    ]
