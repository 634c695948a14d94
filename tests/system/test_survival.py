"""Real processes are killed in the middle of a run and started again: everything drains by itself, and the audit holds."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from deploy.demo.scenes import Stage
from deploy.demo.upstream import Upstream
from deploy.local.stack import SERVICES, UPSTREAM
from deploy.local.system import System, audit, wait_until_drained
from tests.support.databases import rows
from tests.support.mixed_load import ROUNDS, play_mix
from tests.support.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

RESTARTED_WITHIN_S = 60.0


def play(system: System, name: str, *disturb: Callable[[System], Awaitable[None]], rounds: int = ROUNDS) -> list[str]:
    """Play the mix, and meanwhile one after the other of `disturb`. Returns what was unexpected."""
    keys = system.public_keys["keys"]
    assert isinstance(keys, list)
    mix = play_mix(
        system.stack.rabbitmq_url_of(UPSTREAM),
        name=name,
        history=system.history,
        public_key=keys[0],
        disturb=[partial(one, system) for one in disturb],
        rounds=rounds,
    )
    return asyncio.run(mix)


def holds(system: System) -> None:
    """Everything has drained by itself, and every check of the audit holds."""
    wait_until_drained(system)
    checked = audit(system)
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def kill_each_service(system: System) -> None:
    """The next one is killed once the last one consumes again."""
    for service in SERVICES:
        known = len(system.fleet.log(service))
        await asyncio.to_thread(system.fleet.kill, service)
        await asyncio.to_thread(system.fleet.start, service)

        async def consumes(service: str = service, known: int = known) -> bool:
            return '"consuming"' in system.fleet.log(service)[known:]

        await until(consumes, what=f"{service} that works again", within_s=RESTARTED_WITHIN_S)


async def kill_the_broker(system: System) -> None:
    await asyncio.to_thread(system.stack.broker.kill)
    await asyncio.to_thread(system.stack.broker.start)


async def kill_the_database(system: System) -> None:
    await asyncio.to_thread(system.stack.database.kill)
    await asyncio.to_thread(system.stack.database.start)


def test_kill_9_of_each_service_of_the_broker_and_of_the_database(system: System) -> None:
    """One after the other, each in the middle of work. `make faults` has each alone, deleted queues, and processes that stand still."""
    disturb = (kill_each_service, kill_the_broker, kill_the_database)
    assert play(system, "killed", *disturb, rounds=2 * ROUNDS) == []
    holds(system)
    assert all(system.fleet.is_running(service) for service in SERVICES), "services resume unaided"


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
