"""Many instances at once, and none for long: one to n and back under load with duplicates, and rolling restarts."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from deploy.local.stack import SERVICES
from shared.messaging.topology import WORK_QUEUES
from tests.faults.bed import Bed, LogMark
from tests.faults.trial import Note, Trial
from tests.faults.workload import MIX
from tests.support.databases import rows

FAMILY: Final = "fleet"

ROUNDS: Final = 25
PLAYING_LEAST: Final = 10
"""Scenes under way at every restart."""
ECHOES: Final = 10
"""Of each queue's last messages, each time: they come twice while several instances take from the queue."""
HEALTHY_LETTERS: Final = """SELECT id, queue, reason FROM dead_letters
    WHERE first_seen > to_timestamp($1) AND reason <> ALL($2::text[]) ORDER BY first_seen"""
UNREADABLE: Final = ["unknown_type", "unknown_version", "not_json"]
"""What the workload sends and nobody can read."""


def _scaled(instances: int) -> Callable[[Bed, Note], Awaitable[None]]:
    async def run(bed: Bed, note: Note) -> None:
        began = time.time()
        bed.play(*MIX)
        more = [(service, number) for service in SERVICES for number in range(2, instances + 1)]
        logs = [bed.log_of(f"{service}-{number}") for service, number in more]
        for service, number in more:
            await bed.start(service, instance=number)
        await _all_at_work(bed, logs)
        for _ in range(2 * instances):
            bed.play(*MIX)
            await _echo(bed)
        await bed.played()
        await _echo(bed)
        note.fired(len(more))
        for service, number in more:
            await bed.stop(f"{service}-{number}")
        bed.play(*MIX[:4])
        note.mended()
        await _nothing_healthy_set_aside(bed, began)

    return run


async def _all_at_work(bed: Bed, logs: Sequence[LogMark]) -> None:
    """Wait until each of them consumes (again)."""
    await asyncio.gather(*(bed.until_logged(log, "consuming") for log in logs))


async def _echo(bed: Bed) -> None:
    for queue in WORK_QUEUES:
        await bed.tap.echo(queue.name, count=ECHOES)


async def _rolling(bed: Bed, note: Note) -> None:
    """SIGTERM to one instance of each service at a time, the other one goes on; whoever ended is started again."""
    began = time.time()
    logs = [bed.log_of(f"{service}-2") for service in SERVICES]
    for service in SERVICES:
        await bed.start(service, instance=2)
    await _all_at_work(bed, logs)
    for number in range(ROUNDS):
        if bed.playing < PLAYING_LEAST:
            bed.play(*MIX)
        names = [service if number % 2 else f"{service}-2" for service in SERVICES]
        logs = [bed.log_of(name) for name in names]
        for name in names:
            bed.signal(name, signal.SIGTERM)
        await _all_at_work(bed, logs)
        note.fired()
    note.mended()
    await _nothing_healthy_set_aside(bed, began)


async def _nothing_healthy_set_aside(bed: Bed, began: float) -> None:
    await bed.until_drained()
    healthy = await rows(bed.database("staff"), HEALTHY_LETTERS, began, UNREADABLE)
    assert not healthy, f"healthy messages were dead-lettered: {healthy}"


def trials() -> Sequence[Trial]:
    """Two and four of each, and 25 rounds of restarts."""
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
