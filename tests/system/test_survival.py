"""Real processes are killed in the middle of a run and started again: everything drains by itself, and the audit holds."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import aio_pika
import pytest

from deploy.demo.scenes import Stage
from deploy.demo.upstream import Upstream
from deploy.local.stack import SERVICES, UPSTREAM
from deploy.local.system import System, audit, wait_until_drained
from shared.messaging.apply import apply_topology
from tests.support.databases import rows
from tests.support.mixed_load import ROUNDS, play_mix
from tests.support.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

LOST: set[str] = set()
"""Queues that a test has deleted with their messages. All tests of this module share one system, so the audit must know of them."""
RESTARTED_WITHIN_S = 60.0
HEARTBEAT_S = 2
"""For a process that will be stopped: its messages are redelivered well before anybody gives up on them."""


def play(system: System, name: str, disturb: Callable[[System], Awaitable[None]], *, rounds: int = ROUNDS) -> list[str]:
    """Play the mix, and `disturb` when a quarter of it has been played. Returns what was unexpected."""
    keys = system.public_keys["keys"]
    assert isinstance(keys, list)
    mix = play_mix(
        system.stack.rabbitmq_url_of(UPSTREAM),
        name=name,
        history=system.history,
        public_key=keys[0],
        disturb=lambda: disturb(system),
        rounds=rounds,
    )
    return asyncio.run(mix)


def holds(system: System) -> None:
    """Everything has drained by itself, and every check of the audit holds."""
    wait_until_drained(system)
    checked = audit(system, *(word for queue in sorted(LOST) for word in ("--lost", queue)))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_kill_9_of_each_service(system: System) -> None:
    """One after the other, each in the middle of work: the next one is killed once the last one consumes again."""

    async def disturb(system: System) -> None:
        for service in SERVICES:
            known = len(system.fleet.log(service))
            await asyncio.to_thread(system.fleet.kill, service)
            await asyncio.to_thread(system.fleet.start, service)

            async def consumes(service: str = service, known: int = known) -> bool:
                return '"consuming"' in system.fleet.log(service)[known:]

            await until(consumes, what=f"{service} that works again", within_s=RESTARTED_WITHIN_S)

    assert play(system, "killed", disturb, rounds=2 * ROUNDS) == []
    holds(system)


def test_the_broker_is_killed_and_comes_back(system: System) -> None:
    async def disturb(system: System) -> None:
        await asyncio.to_thread(system.stack.broker.kill)
        await asyncio.to_thread(system.stack.broker.start)

    assert play(system, "broker", disturb) == []
    holds(system)
    assert all(system.fleet.is_running(service) for service in SERVICES), "services resume unaided"


def test_the_database_is_killed_and_comes_back(system: System) -> None:
    async def disturb(system: System) -> None:
        await asyncio.to_thread(system.stack.database.kill)
        await asyncio.to_thread(system.stack.database.start)

    assert play(system, "database", disturb) == []
    holds(system)
    assert all(system.fleet.is_running(service) for service in SERVICES), "services resume unaided"


def test_deleted_queues_lose_no_payment(system: System) -> None:
    """The deleted messages, confirmed or not, are announced again with the same ids."""

    async def disturb(system: System) -> None:
        connection = await aio_pika.connect(system.stack.rabbitmq_url, timeout=10)
        async with connection:
            channel = await connection.channel()
            for queue in ("saga.events", "payment_gateway.requests"):
                LOST.add(queue)
                await channel.queue_delete(queue)
        await apply_topology(system.stack.rabbitmq_url)

    assert play(system, "deleted", disturb) == []
    holds(system)


def test_two_instances_and_a_rolling_restart_lose_nothing(system: System) -> None:
    """Two instances of each service share the work. Then the first of each restarts, as in a new release, and the second is killed."""
    for service in SERVICES:
        system.fleet.start(service, instance=2)

    async def disturb(system: System) -> None:
        for service in SERVICES:
            await asyncio.to_thread(system.fleet.stop, service)
            await asyncio.to_thread(system.fleet.start, service)
            await asyncio.to_thread(system.fleet.kill, f"{service}-2")

    assert play(system, "rolling", disturb) == []
    holds(system)
    assert "message_failed" not in system.fleet.logs()


def test_a_stopped_process_holds_up_no_other_and_changes_nothing_when_it_wakes(system: System) -> None:
    """After two missed heartbeats the broker closes its connection, and another instance gets its messages."""
    system.fleet.stop("payment_gateway")
    system.fleet.start(
        "payment_gateway", RABBITMQ_URL=f"{system.stack.rabbitmq_url_of('payment_gateway')}?heartbeat={HEARTBEAT_S}"
    )

    async def disturb(system: System) -> None:
        await asyncio.to_thread(system.fleet.start, "payment_gateway", instance=2)
        system.fleet.signal("payment_gateway", signal.SIGSTOP)

    try:
        assert play(system, "zombie", disturb) == []
    finally:
        system.fleet.signal("payment_gateway", signal.SIGCONT)
    holds(system)
    system.fleet.stop("payment_gateway")  # the next test has one with the usual heartbeat


def test_a_service_without_settings_names_the_missing_one(whole_system: System) -> None:
    service, name = "saga", "saga-9"
    whole_system.fleet.start(service, instance=9, SAGA_DATABASE_URL="")

    async def ended() -> None:
        async with asyncio.timeout(15):
            while whole_system.fleet.is_running(name):
                await asyncio.sleep(0.05)

    asyncio.run(ended())
    whole_system.fleet.kill(name)
    assert f"{service}: {service.upper()}_DATABASE_URL is not set" in whole_system.fleet.log(name)


def test_a_second_signal_exits_at_once_and_loses_nothing(system: System) -> None:
    """The first signal waits for the call to the gateway that is under way; the second does not."""

    async def play() -> str:
        async with Upstream.open(
            system.stack.rabbitmq_url_of(UPSTREAM), name="signals", history=system.history
        ) as upstream:
            stage = Stage(upstream, {})
            await stage.issue("signals-1")
            command = stage.pay("signals-1", "pm_remit_slow")
            await upstream.ask(command)
            url = system.stack.service_database_url("payment_gateway")

            async def in_hand() -> bool:
                query = "SELECT 1 FROM payments WHERE payment_id = $1 AND status = 'prepared'"
                return bool(await rows(url, query, command.payment_id))

            await until(in_hand, what="the call to the gateway")
            # Two kinds of signal: the kernel would deliver one kind only once, if the second came before the first was seen.
            for number in (signal.SIGTERM, signal.SIGINT):
                system.fleet.signal("payment_gateway", number)

            async def gone() -> bool:
                return not system.fleet.is_running("payment_gateway")

            await until(gone, what="the end")
            await asyncio.to_thread(system.fleet.start, "payment_gateway")
            return await stage.outcome(command)

    assert asyncio.run(play()) == "paid"
    assert "second_signal" in system.fleet.log("payment_gateway")
    holds(system)
