"""What a service does by itself, again and again: each such task has one shape, and `run_every` is the loop of all of them."""

import asyncio
import random
from typing import Final, Protocol

import structlog

from shared import crash_points
from shared.observability import metrics
from shared.persistence.database import Trouble, trouble
from shared.records import dataclass
from shared.retry_policy import RetryPolicy, Sleep

log = structlog.get_logger(__name__)

JITTER: Final = 0.1
"""The share of a wait that chance takes off, so that instances which started together do not work in step. It makes nothing slower."""
BACK_OFF: Final = RetryPolicy(initial_s=0.1, factor=2.0, maximum_s=1.0, jitter=0.0)
"""After failures, where it is longer than the task's interval. A second is the longest that due work waits after an outage."""


class BackgroundTask(Protocol):
    """One thing that is done again and again. Every instance of a service does it, so it must bear company."""

    name: str
    """What metrics and logs call it: in snake case, and one of a closed list."""
    interval_s: float
    """Seconds between two runs while there is nothing to do."""
    retry_on: tuple[type[Exception], ...]
    """Errors after which the next run may succeed: outages, mostly."""

    async def run_once(self) -> float:
        """Do it once. Seconds until it is due again: `interval_s`, or less while there is more to do."""
        ...


async def run_every(task: BackgroundTask, *, first_in_s: float = 0.0, wait: Sleep = asyncio.sleep) -> None:
    """Run `task` until cancelled, at first after `first_in_s`. `wait` spends the time between two runs; it may return early.

    One rule for errors: those in `task.retry_on` are logged and counted, and the task goes on after its interval, or after a back-off
    where that is longer. Every other error is a bug. It is raised and ends the service, whose supervisor starts it anew. A task of which
    no error may end the service lists `Exception`. An injected fault is always raised.
    """
    failures = _Failures(task.name)
    await wait(first_in_s)
    while True:
        try:
            due_in_s = await task.run_once()
        except crash_points.InjectedFault:
            raise
        except task.retry_on as error:
            failures.add(error)
            due_in_s = max(task.interval_s, BACK_OFF.delay_s(failures.count))
        else:
            failures.end()
        await wait(due_in_s * random.uniform(1 - JITTER, 1))


@dataclass(slots=True)
class _Failures:
    """Failures of a task in a row: one log line when they begin, or become others, and one when they end."""

    task: str
    count: int = 0
    kind: type[Exception] | None = None

    def add(self, error: Exception) -> None:
        metrics.BACKGROUND_FAILURES.labels(task=self.task).inc()
        self.count += 1
        if type(error) is not self.kind:
            self.kind = type(error)
            is_bug = trouble(error) is Trouble.BUG
            log.warning("background_failed", task=self.task, error=self.kind.__name__, exc_info=is_bug)

    def end(self) -> None:
        if self.count:
            log.info("background_recovered", task=self.task, failures=self.count)
        self.count, self.kind = 0, None
