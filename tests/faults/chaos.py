"""Random mode: faults of all families under continuous load, by a schedule. The same seed gives the same schedule."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.run import FaultRun, Say, conclude, keep_logs, open_bed
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial, TrialResult
from tests.faults.workload import LOAD

PAUSE_LEAST_S: Final = 1.0
PAUSE_MOST_S: Final = 8.0
"""Seconds between two faults: some come while the last one is not over."""
AT_ONCE: Final = 2
"""Faults at the same time, each of other services and servers."""
PLAYING: Final = 12
"""The number of scenes that play at any time."""
PLAY_POLL_S: Final = 0.2
FAULT_S: Final = 180.0
"""The longest a fault may take, and a sender may wait for its answer: several faults may hit the answering service one after the other."""
OVER_S: Final = 2 * FAULT_S
"""Longer than the work under way at the end can take."""


@dataclass(frozen=True, slots=True)
class ScheduledFault:
    """A fault of the schedule; it comes so many seconds after the beginning."""

    number: int
    at_s: float
    trial: Trial

    @property
    def name(self) -> str:
        return f"random/{self.number:03d}/{self.trial.name}"


def schedule(seed: int, minutes: float, trials: Sequence[Trial]) -> list[ScheduledFault]:
    """Choose a fault for each time. Each family has the same chance, however many trials it has."""
    chance = random.Random(seed)
    families: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.name):
        if trial.random:
            families.setdefault(trial.family, []).append(trial)
    planned: list[ScheduledFault] = []
    at_s = 0.0
    while families and (at_s := at_s + chance.uniform(PAUSE_LEAST_S, PAUSE_MOST_S)) < minutes * 60:
        family = chance.choice(sorted(families))
        planned.append(ScheduledFault(len(planned) + 1, at_s, chance.choice(families[family])))
    return planned


async def run_random(run: FaultRun, planned: Sequence[ScheduledFault], *, minutes: float, say: Say) -> None:
    """Run the schedule on one testbed with a stack of its own. At the end everything drains, and the audit checks all of it."""
    started = time.monotonic()
    assert run.seed is not None
    async with open_bed(None, "random", say) as testbed:
        testbed.upstream.patience_s = FAULT_S
        begun = 0
        load = asyncio.create_task(_load(testbed, run.seed), name="load")
        try:
            async with asyncio.timeout(minutes * 60 + OVER_S):
                begun = await _carry_out(testbed, run, planned, say, for_s=minutes * 60)
                await asyncio.sleep(max(0.0, minutes * 60 - (time.monotonic() - started)))
            run.trials = run.trials[:begun]
        except TimeoutError:
            say(f"not over {OVER_S:.0f} s after the time: the faults missing below were not injected")
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        fired = sum(one.fired > 0 for one in run.results)
        result = TrialResult(
            f"random/seed {run.seed}", "random", f"{begun} faults under load, two at a time", fired=fired
        )
        say(f"{fired} of {begun} faults fired ({len(planned)} in the schedule); waiting until everything has drained")
        await conclude(testbed, result, mended_at=time.time())
        for one in run.results:
            one.checks = dict(result.checks)
        run.results.append(result)
        run.took_s = time.monotonic() - started
        if not run.ok:
            keep_logs(run.folder, testbed, result)
            say(f"again: python -m tests.faults --seed {run.seed} --minutes {minutes:g}")
        run.seen.update(await testbed.count_seen())
    run.took_s = time.monotonic() - started


async def _load(testbed: Testbed, seed: int) -> None:
    scenes = _endless(seed)
    while True:
        for _ in range(PLAYING - testbed.playing):
            testbed.play(next(scenes))
        await asyncio.sleep(PLAY_POLL_S)


def _endless(seed: int) -> Iterator[str]:
    chance = random.Random(f"scenes {seed}")
    while True:
        yield chance.choice(LOAD)


async def _carry_out(
    testbed: Testbed, run: FaultRun, planned: Sequence[ScheduledFault], say: Say, *, for_s: float
) -> int:
    """Inject the faults in the order of the schedule; returns how many were begun.

    A fault that touches what another one still touches waits for it, so a slow machine does not get through the whole schedule in time.
    """
    began, begun = time.monotonic(), 0
    busy: dict[asyncio.Task[None], frozenset[str]] = {}
    try:
        for one in planned:
            await asyncio.sleep(max(0.0, one.at_s - (time.monotonic() - began)))
            while len(busy) >= AT_ONCE or any(one.trial.touches & touched for touched in busy.values()):
                done, _ = await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del busy[task]
            if time.monotonic() - began > for_s:
                break
            begun += 1
            busy[asyncio.create_task(_fault(testbed, run, one, say), name=one.name)] = one.trial.touches
        if busy:
            await asyncio.wait(busy)
    finally:
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
    return begun


async def _fault(testbed: Testbed, run: FaultRun, one: ScheduledFault, say: Say) -> None:
    started, note = time.monotonic(), Note()
    result = TrialResult(one.name, one.trial.family, one.trial.injects)
    try:
        async with asyncio.timeout(FAULT_S):
            await testbed.put_right(one.trial.touches)
            await one.trial.run(testbed, note)
            await testbed.put_right(one.trial.touches)
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is None or task.cancelling():
            raise
        result.surprises.append(
            "cancelled: the broker's client does so to tasks that wait on a connection that is lost"
        )
    except Exception as error:  # noqa: BLE001 - noted; the others go on
        result.surprises.append(f"{type(error).__name__}: {error}")
    result.fired, result.remarks = note.count, note.remarks
    result.took_s = time.monotonic() - started
    run.results.append(result)
    say(
        f"{one.at_s:5.0f} s {one.trial.name} {'fired' if note.count else 'NEVER FIRED'} {'; '.join(result.surprises)}".rstrip()
    )
