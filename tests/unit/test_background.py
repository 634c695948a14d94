"""The loop of background tasks: when they run, how their errors are handled, and what operators see of these."""

import ast
import asyncio
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from shared.background import BACK_OFF, JITTER, BackgroundTask, run_every
from shared.crash_points import InjectedFault
from shared.records import dataclass, field
from tests.bench.fast_idle import BACKGROUND_TASKS
from tests.support.environment import ROOT
from tests.unit.books.source import nodes, python_files

NAME = "test_task"
BUG = KeyError("a bug")


class EndOfTest(BaseException):
    """The test has seen enough. No task catches this error."""


@dataclass(slots=True)
class Scripted:
    """A task with scripted runs: each ends with the seconds until the next run, or with an error."""

    script: list[float | BaseException]
    interval_s: float = 5.0
    retry_on: tuple[type[Exception], ...] = (OSError, TimeoutError)
    name: str = NAME
    waited_s: list[float] = field(default_factory=list)

    async def run_once(self) -> float:
        if not self.script:
            raise EndOfTest
        match self.script.pop(0):
            case BaseException() as error:
                raise error
            case seconds:
                return seconds

    async def wait(self, seconds: float) -> None:
        self.waited_s.append(seconds)


async def waits_of(task: Scripted, *, first_in_s: float = 0.0) -> list[float]:
    """The waits of the loop before the first run and after each run."""
    with pytest.raises(EndOfTest):
        await run_every(task, first_in_s=first_in_s, wait=task.wait)
    return task.waited_s


def failures_counted() -> float:
    return REGISTRY.get_sample_value("remit_background_failures_total", {"task": NAME}) or 0.0


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn jitter off."""
    monkeypatch.setattr("shared.background.JITTER", 0.0)


@pytest.mark.usefixtures("exact")
async def test_a_task_returns_when_it_is_due_again() -> None:
    assert await waits_of(Scripted([5.0, 0.0, 0.5])) == [0.0, 5.0, 0.0, 0.5]


@pytest.mark.usefixtures("exact")
async def test_a_first_run_may_be_delayed() -> None:
    assert await waits_of(Scripted([5.0]), first_in_s=3.0) == [3.0, 5.0]


async def test_jitter_shortens_each_wait_by_its_share_at_most() -> None:
    _, *waits = await waits_of(Scripted([10.0] * 1_000))
    assert 10.0 * (1 - JITTER) <= min(waits) < 9.1
    assert 9.9 < max(waits) <= 10.0


@pytest.mark.usefixtures("exact")
async def test_after_failures_a_frequent_task_backs_off_until_it_succeeds() -> None:
    task = Scripted([OSError(), TimeoutError(), OSError(), OSError(), OSError(), OSError(), 0.02, OSError()])
    task.interval_s = 0.25
    assert await waits_of(task) == [0.0, 0.25, 0.25, 0.4, 0.8, 1.0, 1.0, 0.02, 0.25]


@pytest.mark.usefixtures("exact")
async def test_a_failing_task_runs_no_more_often_than_a_succeeding_one() -> None:
    task = Scripted([OSError()] * 20, interval_s=60.0)
    assert await waits_of(task) == [0.0, *[60.0] * 20]


def test_due_work_waits_a_second_at_most_after_an_outage() -> None:
    assert BACK_OFF.delay_s(1_000) == 1.0


async def test_every_failure_is_counted() -> None:
    before = failures_counted()
    await waits_of(Scripted([OSError(), OSError(), 1.0, TimeoutError()]))
    assert failures_counted() - before == 3


async def test_an_outage_logs_one_line_at_its_beginning_and_one_at_its_end(logged: list[Any]) -> None:
    await waits_of(Scripted([1.0, OSError(), OSError(), OSError(), 1.0, 1.0]))
    assert logged == [
        {"event": "background_failed", "log_level": "warning", "task": NAME, "error": "OSError", "exc_info": False},
        {"event": "background_recovered", "log_level": "info", "task": NAME, "failures": 3},
    ]


async def test_another_error_in_an_outage_logs_its_own_line(logged: list[Any]) -> None:
    await waits_of(Scripted([OSError(), TimeoutError(), TimeoutError()]))
    assert [entry["error"] for entry in logged] == ["OSError", "TimeoutError"]


async def test_a_bug_ends_the_loop() -> None:
    with pytest.raises(KeyError, match="a bug"):
        await run_every(Scripted([BUG]))


async def test_a_task_may_survive_its_bugs_which_are_logged_with_their_traceback(logged: list[Any]) -> None:
    before = failures_counted()
    await waits_of(Scripted([BUG, 1.0], retry_on=(Exception,)))
    assert failures_counted() - before == 1
    assert [(entry["event"], entry.get("exc_info")) for entry in logged] == [
        ("background_failed", True),
        ("background_recovered", None),
    ]


async def test_an_injected_fault_always_ends_the_loop() -> None:
    with pytest.raises(InjectedFault):
        await run_every(Scripted([InjectedFault("a point")], retry_on=(Exception,)))


@pytest.mark.parametrize("runs", [True, False], ids=["in a run", "between two runs"])
async def test_a_cancelled_loop_ends(*, runs: bool) -> None:
    entered = asyncio.Event()

    async def hang(_seconds: float = 0.0) -> None:
        entered.set()
        await asyncio.Event().wait()

    class Hanging(Scripted):
        async def run_once(self) -> float:
            if runs:
                await hang()
            return 1.0

    loop = asyncio.create_task(run_every(Hanging([], retry_on=(Exception,)), wait=asyncio.sleep if runs else hang))
    await entered.wait()
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_a_wait_that_returns_early_brings_the_next_run_forward() -> None:
    """The wait of a task that something wakes."""
    woken, runs = asyncio.Event(), asyncio.Queue[None]()

    class Woken(Scripted):
        async def run_once(self) -> float:
            runs.put_nowait(None)
            return 3_600.0

    async def wait(seconds: float) -> None:
        if seconds:
            await woken.wait()
            woken.clear()

    loop = asyncio.create_task(run_every(Woken([]), wait=wait))
    await runs.get()
    woken.set()
    await runs.get()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


def test_the_long_benchmark_speeds_up_every_background_task() -> None:
    """Otherwise its leak would not show in an hour of rest (`tests.bench.fast_idle`)."""
    classes = {
        (".".join(path.relative_to(ROOT).with_suffix("").parts), node.name)
        for path in python_files("shared", "services")
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and any(getattr(item, "name", "") == "run_once" for item in node.body)
    }
    assert classes - {("shared.background", "BackgroundTask")} == set(BACKGROUND_TASKS)
    assert len({task_named(*place).name for place in BACKGROUND_TASKS}) == len(BACKGROUND_TASKS), "names are labels"


def task_named(module: str, name: str) -> type[BackgroundTask]:
    task: type[BackgroundTask] = getattr(import_module(module), name)
    return task
