"""Performs a run: trials on testbeds side by side; after each trial the testbed drains, and the audit runs."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from deploy.local.fleet import ROOT
from deploy.local.stack import SERVICES, Service, Stack, open_stack
from tests.faults.ready import until_ready
from tests.faults.testbed import Testbed, audit_options
from tests.faults.trial import Note, NotPossibleHereError, Trial, TrialResult
from tests.faults.workload import AFTERWARDS

LANES: Final = 5
"""Testbeds side by side. Most of a trial is waiting: for a lease, a heartbeat, a ladder."""
OPEN_S: Final = 25.0
"""How long a stack and its testbeds take to open, on a machine with two cores."""
TRIALS_PER_BED: Final = 12
"""After so many trials a testbed is replaced: the audit checks all its data, and so takes longer with each trial."""
TRIAL_S: Final = 420.0
"""The longest a trial may take."""
LOG_BYTES_KEPT: Final = 200_000
AUDITS_MAX: Final = 3
MOVING: Final = ("events_delivered", "deliveries_accounted_for", "resources_given_back")
"""Checks that a message on its way can break: it is an outbox row, is in a queue, or is in an open transaction."""
OF_THE_RUN: Final = ("planned_faults_fired", "planted_faults_found")
"""Checks of the audit that are about the run, not about a testbed."""

Say = Callable[[str], None]


@dataclass(slots=True)
class FaultRun:
    """The trials of a run and their results."""

    trials: Sequence[Trial]
    folder: Path
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    results: list[TrialResult] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0
    seed: int | None = None
    run_checks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether all trials were run, fired and held, except those that this machine does not allow."""
        missing = {trial.name for trial in self.trials} - {result.name for result in self.results}
        return not missing and all(result.ok or result.skipped for result in self.results)

    def as_json(self) -> dict[str, Any]:
        return {
            "began": self.began.isoformat(),
            "took_s": round(self.took_s, 1),
            "seed": self.seed,
            "ok": self.ok,
            "planned": [
                {"name": trial.name, "fired": self._fired(trial.name)}
                for trial in self.trials
                if trial.name not in self._skipped
            ],
            "skipped": self._skipped,
            "seen": {name: self.seen[name] for name in ("duplicates", "redeliveries", "in_doubt", "conflicts")},
            "planted": [
                {"name": result.name.partition("/")[2], "expected": result.check, "red": result.broken}
                for result in self.results
                if result.check is not None
            ],
            "results": [result.as_json() for result in self.results],
        }

    @property
    def _skipped(self) -> dict[str, str]:
        """Why each skipped trial is not possible here, by its name."""
        return {result.name: result.skipped for result in self.results if result.skipped}

    def _fired(self, name: str) -> int:
        return sum(result.fired for result in self.results if result.name == name)


def estimate_s(trials: Sequence[Trial], lanes: int) -> float:
    """How long the run will take: the longer of the trials that share a stack, over the lanes, and those that need a stack of their own."""
    shared = sum(trial.estimate_s for trial in trials if not trial.alone) / max(lanes, 1)
    alone = sum(trial.estimate_s for trial in trials if trial.alone)
    return OPEN_S + max(shared, alone)


async def run_all(run: FaultRun, *, lanes: int, say: Say) -> None:
    """Perform every trial once."""
    started = time.monotonic()
    shared = deque(trial for trial in run.trials if not trial.alone)
    alone = deque(trial for trial in run.trials if trial.alone)
    async with AsyncExitStack() as opened:
        work = []
        if shared:
            stack = await opened.enter_async_context(_open_stack(say))
            work += [_lane(run, stack, shared, f"bed{n}", say) for n in range(min(lanes, len(shared)))]
        if alone:
            work.append(_lane(run, None, alone, "alone", say))
        async with asyncio.TaskGroup() as tasks:
            for one in work:
                tasks.create_task(one)
    run.took_s = time.monotonic() - started


async def _lane(run: FaultRun, stack: Stack | None, waiting: deque[Trial], name: str, say: Say) -> None:
    """Perform trials one after the other; with a new testbed after a trial that failed, or when the old one holds too much."""
    number = 0
    while waiting:
        number += 1
        opens = waiting[0].opens
        async with open_bed(stack, f"{name}-{number}", say, opens) as testbed:
            good = True
            while waiting and good and testbed.trials < TRIALS_PER_BED and waiting[0].opens is opens:
                trial = waiting.popleft()
                result = await perform(testbed, trial)
                run.results.append(result)
                good = (
                    result.ok or bool(result.skipped)
                ) and trial.check is None  # a planted fault leaves its breach in the testbed's data
                if not (result.ok or result.skipped):
                    keep_logs(run.folder, testbed, result)
                say(_line(result, len(run.results), len(run.trials)))
            run.seen.update(await testbed.count_seen())


@asynccontextmanager
async def open_bed(
    stack: Stack | None, name: str, say: Say, opens: Callable[..., AbstractContextManager[Stack]] = open_stack
) -> AsyncIterator[Testbed]:
    """Open a testbed on that stack, or on one of its own."""
    async with AsyncExitStack() as opened:
        owns_stack = stack is None
        if stack is None:
            stack = await opened.enter_async_context(_open_stack(say, opens))
        yield await opened.enter_async_context(Testbed.open(stack, name, owns_stack=owns_stack))


@asynccontextmanager
async def _open_stack(
    say: Say, opens: Callable[..., AbstractContextManager[Stack]] = open_stack
) -> AsyncIterator[Stack]:
    manager = opens(say=say)
    stack = await asyncio.to_thread(manager.__enter__)
    try:
        yield stack
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


def judge(run: FaultRun) -> dict[str, dict[str, Any]]:
    """What the audit finds about the run itself: whether it proves something, and whether the audit can fail."""
    if "--run" not in audit_options():
        return {}
    stores = {f"{service.upper()}_DATABASE_URL" for service in SERVICES} | {"RABBITMQ_URL"}
    done = subprocess.run(
        (sys.executable, "-m", "deploy.cli.main", "audit", "--json", "--run", str(run.folder / "run.json")),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in stores},
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        found["check"]: {
            "verdict": found["verdict"],
            "why": [f"{one['about']}: {one['why']}" for one in found["breaches"]],
        }
        for found in json.loads(done.stdout)["checks"]
        if found["check"] in OF_THE_RUN
    }


# -- one trial -------------------------------------------------------------------------------------------------------------------------


async def perform(testbed: Testbed, trial: Trial) -> TrialResult:
    """The trial from its beginning to the audit. Every failure is in the result."""
    started, note = time.monotonic(), Note()
    result = TrialResult(trial.name, trial.family, trial.injects, check=trial.check)
    testbed.trials += 1
    testbed.surprises.clear()
    if testbed.trials == 1:
        await until_ready(testbed)
        await testbed.take_baseline(
            digest=False
        )  # every later audit of this testbed compares its connections and memory with this
    del testbed.baselines[1:]
    restarts = testbed.restarts
    try:
        async with asyncio.timeout(TRIAL_S):
            await testbed.put_right()
            try:
                await trial.run(testbed, note)
            finally:
                result.fired = note.count
                result.recovered_s, result.limit_s = note.recovered_s, note.limit_s
                if not trial.quiet:
                    testbed.play(*AFTERWARDS)
    except NotPossibleHereError as error:
        result.skipped = str(error)
    except Exception as error:  # noqa: BLE001 - a trial that goes wrong is a finding, and the others go on
        result.surprises.append(f"{type(error).__name__}: {error}")
    touched = [service for service in SERVICES if service in trial.touches]
    await conclude(testbed, result, mended_at=note.mended_at, touched=touched or SERVICES)
    result.remarks += note.remarks
    result.restarts = testbed.restarts - restarts
    result.took_s = time.monotonic() - started
    return result


async def conclude(
    testbed: Testbed, result: TrialResult, *, mended_at: float | None, touched: Sequence[Service] = SERVICES
) -> None:
    """Wait until everything has drained, and run the audit, even after a trial that went wrong.

    The result gets the time that draining took since the fault was over. Services that ended were started again.
    """
    try:
        async with asyncio.timeout(TRIAL_S):
            await testbed.until_drained()
            if mended_at is not None:
                since = max([mended_at, *(testbed.restarted_at.get(service, 0.0) for service in touched)])
                result.drained_s = time.time() - since
                result.again_s = await _handled_again(testbed, touched, since)
            await testbed.stop_extras()
            await _ask_audit(testbed, result)
    except Exception as error:  # noqa: BLE001 - as above
        result.surprises.append(f"{type(error).__name__}: {error}")
    result.surprises += testbed.surprises


async def _handled_again(testbed: Testbed, services: Sequence[Service], since: float) -> float | None:
    handled = [at for service in services if (at := await testbed.handled_after(service, since)) is not None]
    return min(handled) - since if handled else None


async def _ask_audit(testbed: Testbed, result: TrialResult) -> None:
    """Run the audit, and run it again if only checks broke that a message on its way can break.

    A case that waits for a person is asked about and announced again now and then, for ever, and so also between our last look and the
    audit. A real breach stays.
    """
    for number in range(1, AUDITS_MAX + 1):
        result.breaches.clear()
        result.readings = number
        _judge(result, await testbed.audit())
        if result.check is not None or not result.broken or not set(MOVING).issuperset(result.broken):
            return
        result.remarks.append(f"audit {number}: {'; '.join(result.breaches)}")
        await testbed.until_drained()


def _judge(result: TrialResult, findings: Sequence[dict[str, Any]]) -> None:
    for found in (found for found in findings if found["check"] not in OF_THE_RUN):
        result.checks[found["check"]] = found["verdict"]
        result.breaches += [f"{found['check']}: {breach['about']}: {breach['why']}" for breach in found["breaches"]]


def _line(result: TrialResult, number: int, total: int) -> str:
    if result.skipped:
        return f"{number}/{total} SKIPPED {result.name}: {result.skipped}"
    outcome = "ok" if result.ok else "FAILED"
    recovered = "" if result.recovered_s is None else f", recovered in {result.recovered_s:.1f} of {result.limit_s:g} s"
    recovered += "" if result.drained_s is None else f", drained after {result.drained_s:.1f} s"
    why = "; ".join([f"{check} broken" for check in result.broken] + result.surprises)[:300]
    fired = "" if result.fired else ", never fired"
    return f"{number}/{total} {outcome} {result.name} ({result.took_s:.0f} s{recovered}{fired}) {why}".rstrip()


def keep_logs(folder: Path, testbed: Testbed, result: TrialResult) -> None:
    """Keep the services' logs for an investigation."""
    target = folder / "logs" / result.name.replace("/", "_").replace(":", "_")
    target.mkdir(parents=True, exist_ok=True)
    for log in testbed.system.folder.glob("*.log"):
        (target / log.name).write_bytes(log.read_bytes()[-LOG_BYTES_KEPT:])
    (target / "breaches.txt").write_text("\n".join([*result.surprises, *result.breaches]))
