"""Readiness reports a dependency that is away as long as it is away (row 17 of the catalogue), even if there is no work."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import aiohttp
import pytest
from structlog.testing import capture_logs

from services.saga.__main__ import MIGRATIONS
from shared.amqp.broker_link import BROKER_ERRORS, BrokerLink
from shared.background import run_every
from shared.batch.commit import CommitLoop
from shared.batch.retry import BatchRetry, RetryState
from shared.contracts import invoice
from shared.messaging import publisher as publishing
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Draft, Outgoing
from shared.messaging.outbox_sweeper import OutboxSweeper
from shared.messaging.publisher import Publisher
from shared.messaging.publisher_probe import PublisherProbe
from shared.messaging.relay import Relay
from shared.observability.health import Liveness, Readiness
from shared.persistence.database import Database
from shared.service import EXIT_FAILED, Runtime, serve
from tests.faults.frames import Amqp, FrameEvent, Postgres
from tests.faults.proxy import SILENCE, Network
from tests.support.environment import Environment
from tests.support.ports import free_port
from tests.support.waiting import until


def message() -> Outgoing:
    data = invoice.IssueInvoice(invoice_id="INV-1", customer_id="C-1", amount_minor=5, currency="EUR")
    return encode(Draft(data), Cause(uuid4(), "c", datetime(2026, 1, 1, tzinfo=UTC)), 0, source="test")


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


async def said(readiness: Readiness, component: str, *, away: bool) -> None:
    async def says() -> bool:
        return (component in readiness.reasons) is away

    await until(says, what=f"{component} {'away' if away else 'there'}")


async def test_a_publisher_that_is_cut_off_is_not_ready_until_something_is_confirmed(
    network: Network, environment: Environment, readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = network.stand_before(environment.rabbitmq_url, speaks=Amqp)
    publisher = Publisher(BrokerLink(proxy.url, name="test"), readiness)
    await publisher.publish([message()])
    assert readiness.ready
    # From here on no confirm comes; until here a loaded broker took its time.
    monkeypatch.setattr(publishing, "CONFIRM_TIMEOUT_S", 0.3)
    lost = proxy.drop(FrameEvent.CONFIRM, times=2, then=SILENCE)
    await publisher.publish([message()])
    assert "publisher" in readiness.reasons
    proxy.reset()

    async def probed() -> bool:
        with suppress(*BROKER_ERRORS):
            await publisher.keep_open()
        return lost.fired == 2

    await until(probed, what="a new channel, whose confirm is lost, too")
    assert "publisher" in readiness.reasons
    proxy.heal()
    monkeypatch.setattr(publishing, "CONFIRM_TIMEOUT_S", 10.0)

    async def recovered() -> bool:
        with suppress(*BROKER_ERRORS):
            await publisher.keep_open()
        return readiness.ready

    with capture_logs() as logged:
        await until(recovered, what="a confirm")
    assert "publishing_again" in [entry["event"] for entry in logged]
    await publisher.close()


async def test_an_idle_publisher_notices_that_the_broker_takes_nothing(
    network: Network, environment: Environment, readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens under a memory or disk alarm: connection and channel live, heartbeats come, and no message is confirmed."""
    proxy = network.stand_before(environment.rabbitmq_url, speaks=Amqp)
    publisher = Publisher(BrokerLink(proxy.url, name="test"), readiness, probe_after_s=0.0)
    await publisher.keep_open()
    assert readiness.ready
    # From here on no confirm comes; until here a loaded broker took its time.
    monkeypatch.setattr(publishing, "CONFIRM_TIMEOUT_S", 0.3)
    lost = proxy.drop(FrameEvent.CONFIRM, times=1, then=SILENCE)
    with pytest.raises(TimeoutError):
        await publisher.keep_open()
    assert lost.fired == 1
    assert "publisher" in readiness.reasons
    await publisher.close()


async def test_a_publisher_with_a_recent_confirm_sends_no_probe(
    network: Network, environment: Environment, readiness: Readiness
) -> None:
    proxy = network.stand_before(environment.rabbitmq_url, speaks=Amqp)
    publisher = Publisher(BrokerLink(proxy.url, name="test"), readiness, probe_after_s=3_600.0)
    await publisher.publish([message()])
    lost = proxy.drop(FrameEvent.CONFIRM, times=1, then=SILENCE)
    await publisher.keep_open()
    assert lost.fired == 0
    await publisher.close()


async def test_an_idle_service_notices_that_broker_or_database_are_away(
    network: Network, environment: Environment, readiness: Readiness
) -> None:
    broker = network.stand_before(environment.rabbitmq_url, speaks=Amqp)
    server = network.stand_before(environment.databases["invoice"], speaks=Postgres)
    database = await Database.open(server.url, name="test", connections_max=2)
    publisher = Publisher(BrokerLink(broker.url, name="test"), readiness)
    tasks = (PublisherProbe(publisher), OutboxSweeper(database, Relay(database, publisher), readiness))
    running = [asyncio.create_task(run_every(task)) for task in tasks]
    for component, proxy in (("publisher", broker), ("database", server)):
        await said(readiness, component, away=False)
        proxy.refuse()
        proxy.reset()
        await said(readiness, component, away=True)
        proxy.heal()
        await said(readiness, component, away=False)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await publisher.close()
    await database.close()


async def test_a_service_of_which_a_part_died_is_not_alive_until_it_has_ended(environment: Environment) -> None:
    settings = environment.settings("saga").model_copy(update={"health_port": free_port()})
    was_seen = asyncio.Event()

    async def die() -> None:
        raise KeyError("a bug")

    async def drain() -> None:
        await was_seen.wait()

    async def assemble(runtime: Runtime) -> None:
        runtime.run_beside("clockwork", die)
        runtime.on_drain(drain)

    serving = asyncio.create_task(serve(settings, MIGRATIONS, assemble, asyncio.Event()))
    async with aiohttp.ClientSession() as session:

        async def not_alive() -> Any:
            with suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{settings.health_port}/livez") as answer:
                    return await answer.json() if answer.status == 503 else None
            return None

        said = await until(not_alive, what="liveness to name the part")
    assert said == {"live": False, "reasons": {"clockwork": "KeyError: 'a bug'"}}
    was_seen.set()
    assert await serving == EXIT_FAILED


async def test_a_batch_that_waits_for_the_end_of_an_outage_does_not_stand_still(
    readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    liveness = Liveness(monotonic=lambda: now_s)
    seen: list[dict[str, str]] = []

    async def pause(_: BatchRetry, seconds: float) -> None:
        nonlocal now_s
        now_s += 3_600.0
        seen.append(liveness.reasons)

    async def commit(items: Sequence[int], *, carefully: bool) -> int:
        nonlocal now_s
        if len(seen) < 3:
            raise ConnectionError
        now_s += 3_600.0
        seen.append(liveness.reasons)
        return sum(items)

    async def give_up(item: int, error: Exception, _: RetryState) -> None:
        raise AssertionError(item) from error

    monkeypatch.setattr(BatchRetry, "pause", pause)
    retry = BatchRetry("saga.events", cast(Database, None), readiness, liveness=liveness)
    with capture_logs() as logged:
        assert await CommitLoop(commit, give_up=give_up, retry=retry).run([1, 2]) == [3]
    assert seen == [{}, {}, {}, {"commit saga.events": "its work stands still for 3600 s"}]
    assert [entry["event"] for entry in logged] == ["database_away", "database_back"], "no line at each try"
