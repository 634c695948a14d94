"""The event loop has its turns while the worst messages are handled, and a message too large is answered without being kept."""

import asyncio
import time
from uuid import uuid4

from aiohttp import test_utils

from services.invoice.__main__ import assemble
from services.staff.__main__ import assemble as assemble_staff
from shared.messaging.codec import BODY_BYTES_MAX
from shared.messaging.topology import DEAD_LETTERS
from shared.observability.health import Liveness, Readiness, health_app
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

WORST = (b"9999999999999999999," * BODY_BYTES_MAX)[:BODY_BYTES_MAX]
COUNT = 100
"""Several batches. With 800 it takes half a minute, and the answers come as fast."""
LIVE_WITHIN_S = 1.0
"""Of this thread's own CPU: the machine may be busy with others."""
DEADLINE_S = 120.0


async def test_live_answers_while_the_worst_messages_are_handled(
    environment: Environment, upstream: UpstreamClient
) -> None:
    """Half of them are answered, since they have an id; the others become dead letters, which the staff service stores."""
    for number in range(COUNT):
        await upstream.send_raw(WORST, message_id=str(uuid4()) if number % 2 else None)
    url = environment.databases["staff"]
    slowest_s = 0.0
    async with (
        test_utils.TestClient(test_utils.TestServer(health_app(Readiness(), Liveness()))) as probe,
        environment.running("invoice", assemble),
        environment.running("staff", assemble_staff),
        asyncio.timeout(DEADLINE_S),
    ):
        while len(await rows(url, "SELECT id FROM dead_letters")) < COUNT // 2:
            asked = time.thread_time()
            async with probe.get("/livez") as answer:
                assert answer.status == 200
            slowest_s = max(slowest_s, time.thread_time() - asked)
    assert slowest_s < LIVE_WITHIN_S


async def test_a_command_that_is_too_large_is_answered(environment: Environment, upstream: UpstreamClient) -> None:
    answers, command_id, size = await upstream.inbox(), uuid4(), 5_000_000
    async with environment.running("invoice", assemble):
        await upstream.send_raw(b"x" * size, message_id=str(command_id), reply_to=answers.name)
        answer = await answers.next()
    assert answer.data["reason"] == "too_large"
    assert answer.data["detail"] == f"the body has {size} bytes; at most {BODY_BYTES_MAX} are taken"


async def test_a_large_message_that_cannot_be_answered_is_a_dead_letter_that_names_its_size(
    environment: Environment, upstream: UpstreamClient
) -> None:
    """By our service, and by the broker itself, which sends it whole."""
    size = 300_000
    url = environment.databases["staff"]

    async def both() -> bool:
        return len(await rows(url, "SELECT id FROM dead_letters")) == 2

    async with environment.running("invoice", assemble), environment.running("staff", assemble_staff):
        await upstream.send_raw(b"x" * size)
        await upstream.send_raw(b"y" * size, exchange=DEAD_LETTERS, key="saga.events")
        await until(both, what="the dead letters")
    found = await rows(url, "SELECT queue, reason, withheld, body, body_bytes FROM dead_letters ORDER BY queue")
    assert [tuple(row.values()) for row in found] == [
        ("invoice.commands", "too_large", "too_large", None, size),
        ("saga.events", "unknown", "too_large", None, size),
    ]
