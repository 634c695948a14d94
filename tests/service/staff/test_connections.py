"""The staff service: what it does with the broker on one connection disturbs nothing on another."""

import asyncio

import pytest

from services.staff import __main__ as staff
from services.staff.unreadable import UnreadableWatch
from shared.amqp.broker_link import BrokerLink
from shared.messaging.topology import DEAD_LETTERS, HEARTBEATS, JOURNAL, REPLAYS
from shared.service import Runtime
from tests.support.environment import Environment


async def test_each_queue_that_is_consumed_or_watched_has_a_connection_of_its_own(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching: list[BrokerLink] = []

    class RecordedWatch(UnreadableWatch):
        def __init__(self, link: BrokerLink) -> None:
            super().__init__(link)
            watching.append(link)

    monkeypatch.setattr(staff, "UnreadableWatch", RecordedWatch)
    assembled: asyncio.Future[Runtime] = asyncio.get_running_loop().create_future()

    async def assemble(runtime: Runtime) -> None:
        await staff.assemble(runtime)
        assembled.set_result(runtime)

    async with environment.running("staff", assemble):
        consuming = {consumer.queue: consumer.link for consumer in (await assembled).consumers}
        assert consuming.keys() == {"staff.cases", DEAD_LETTERS, JOURNAL, HEARTBEATS, REPLAYS}
        assert len({*consuming.values(), *watching}) == len(consuming) + 1
    with pytest.raises(ConnectionError, match="closed"):
        await watching[0].channel(confirms=False)
