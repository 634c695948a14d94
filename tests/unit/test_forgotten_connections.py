"""A connection that never opened is forgotten in silence, also where no loop is running."""

import asyncio
import gc
import warnings

import aio_pika
import pytest
from remit_kit import broker as kit
from yarl import URL

from shared.amqp import broker_link


@pytest.mark.parametrize("kind", [broker_link._Connection, kit._Connection], ids=["services", "kit"])
def test_a_connection_that_never_opened_is_forgotten_in_silence(kind: type[aio_pika.Connection]) -> None:
    async def begun() -> aio_pika.Connection:
        return kind(URL("amqp://127.0.0.1:1/"))

    loop = asyncio.new_event_loop()
    try:
        connection = loop.run_until_complete(begun())
        asyncio.set_event_loop(None)
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            del connection
            gc.collect()
    finally:
        loop.close()
    assert [str(one.message) for one in noted] == []
