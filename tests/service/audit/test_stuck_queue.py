"""A message that the broker can never dead-letter: AMQP does not show it, and the audit finds it in what the broker's own tool prints."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from deploy.local.stack import Stack
from services.audit.evidence import Evidence, read_queue_counts
from services.audit.finding import CheckResult
from services.audit.queues import QueueState, read_queues
from services.audit.stores import Stores
from services.audit.stuck import ASK_THE_BROKER
from shared.messaging.apply import apply_topology
from shared.messaging.topology import COMMANDS, DEAD_LETTERS
from tests.service.audit.test_checks import found
from tests.support.waiting import until

ARGUMENTS = ASK_THE_BROKER.removeprefix("rabbitmqctl list_queues ").split()


async def test_a_message_that_the_broker_keeps_for_ever_is_found(empty_vhost: Stack, tmp_path: Path) -> None:
    """In a virtual host of its own: the message cannot be removed from its queue."""
    url = empty_vhost.rabbitmq_url
    await apply_topology(url)
    death: Any = [{"queue": DEAD_LETTERS, "reason": "expired", "count": 1, "exchange": "", "routing-keys": [COMMANDS]}]
    async with await aio_pika.connect(url, timeout=10) as connection:
        channel = await connection.channel()
        poison = aio_pika.Message(b"{}", headers={"x-death": death}, expiration=0.05, delivery_mode=2)
        await channel.default_exchange.publish(poison, COMMANDS, timeout=10)  # past the screen
    printed = tmp_path / "counts.json"

    async def ended() -> Mapping[str, QueueState | None]:
        text = await asyncio.to_thread(
            empty_vhost.broker.ctl, "--quiet", "list_queues", "--vhost", empty_vhost.vhost, *ARGUMENTS
        )
        printed.write_text(text)
        _, stuck = read_queue_counts(printed)
        queues = await read_queues(url, look_into=False)
        arrived = queues[DEAD_LETTERS]
        return queues if (stuck and stuck[COMMANDS]) or (arrived and arrived.ready) else {}

    queues = await until(ended, within_s=60, what="the end of the poison")
    if queues[DEAD_LETTERS] != QueueState():
        pytest.skip("this RabbitMQ does not obey the x-death of a sender")
    assert queues[COMMANDS] == QueueState(), "AMQP does not show it"
    unacked, stuck = read_queue_counts(printed)
    finding = await found("queues_drain", Stores({}, None, None, queues, None, Evidence(unacked=unacked, stuck=stuck)))
    assert finding.result is CheckResult.BROKEN
    assert [breach.about for breach in finding.breaches] == [COMMANDS]
