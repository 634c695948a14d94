"""Many instances at once: from one to n and back under load with duplicates, and rolling restarts."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from deploy.local.stack import SERVICES
from shared.messaging.topology import WORK_QUEUES
from tests.faults.testbed import LogMark, Testbed
from tests.faults.trial import Note, Trial
from tests.faults.workload import MIX
from tests.support.databases import rows

FAMILY: Final = "fleet"

ROUNDS: Final = 25
PLAYING_LEAST: Final = 10
"""The number of scenes under way at every restart."""
ECHOES: Final = 10
"""How many of each queue's last messages are delivered again each time, while several instances take from the queue."""
HEALTHY_DEAD_LETTERS: Final = """SELECT id, queue, reason FROM dead_letters
    WHERE first_seen > to_timestamp($1) AND reason <> ALL($2::text[]) ORDER BY first_seen"""
UNREADABLE: Final = ["unknown_type", "unknown_version", "not_json"]
"""Reasons of dead letters that the workload makes on purpose: it sends unreadable messages."""


def _scaled(instances: int) -> Callable[[Testbed, Note], Awaitable[None]]:
    async def run(testbed: Testbed, note: Note) -> None:
        began = time.time()
        testbed.play(*MIX)
        more = [(service, number) for service in SERVICES for number in range(2, instances + 1)]
        logs = [testbed.log_of(f"{service}-{number}") for service, number in more]
        for service, number in more:
            await testbed.start(service, instance=number)
        await _all_at_work(testbed, logs)
        for _ in range(2 * instances):
            testbed.play(*MIX)
            await _echo(testbed)
        await testbed.played()
        await _echo(testbed)
        note.fired(len(more))
        for service, number in more:
            await testbed.stop(f"{service}-{number}")
        testbed.play(*MIX[:4])
        note.mended()
        await _no_healthy_dead_letters(testbed, began)

    return run


async def _all_at_work(testbed: Testbed, logs: Sequence[LogMark]) -> None:
    """Wait until each of these instances consumes (again)."""
    await asyncio.gather(*(testbed.until_logged(log, "consuming") for log in logs))


async def _echo(testbed: Testbed) -> None:
    for queue in WORK_QUEUES:
        await testbed.tap.echo(queue.name, count=ECHOES)


async def _rolling(testbed: Testbed, note: Note) -> None:
    """SIGTERM to one of two instances of each service, in turns. The other goes on, and the ended one is started again."""
    began = time.time()
    logs = [testbed.log_of(f"{service}-2") for service in SERVICES]
    for service in SERVICES:
        await testbed.start(service, instance=2)
    await _all_at_work(testbed, logs)
    for number in range(ROUNDS):
        if testbed.playing < PLAYING_LEAST:
            testbed.play(*MIX)
        names = [service if number % 2 else f"{service}-2" for service in SERVICES]
        logs = [testbed.log_of(name) for name in names]
        for name in names:
            testbed.signal(name, signal.SIGTERM)
        await _all_at_work(testbed, logs)
        note.fired()
    note.mended()
    await _no_healthy_dead_letters(testbed, began)


async def _no_healthy_dead_letters(testbed: Testbed, began: float) -> None:
    await testbed.until_drained()
    healthy = await rows(testbed.database("staff"), HEALTHY_DEAD_LETTERS, began, UNREADABLE)
    assert not healthy, f"healthy messages were dead-lettered: {healthy}"


def trials() -> Sequence[Trial]:
    """Two and four instances of each service, and 25 rounds of restarts."""
    everything = frozenset(SERVICES)
    scaled = [
        Trial(
            name=f"{FAMILY}/{number}-of-each",
            family=FAMILY,
            injects=f"{number} instances of each service at once, under load, with duplicates; then one again",
            run=_scaled(number),
            estimate_s=estimate_s,
            touches=everything,
        )
        for number, estimate_s in ((2, 45.0), (4, 90.0))
    ]
    rolling = Trial(
        name=f"{FAMILY}/rolling-restarts",
        family=FAMILY,
        injects=f"{ROUNDS} rounds of SIGTERM to one of two instances of each service, under load",
        run=_rolling,
        estimate_s=180.0,
        touches=everything,
    )
    return [*scaled, rolling]
