"""Background work: every task that a service repeats by itself has one shape, and `run_every` is the loop that runs it."""

import asyncio
import logging
import random
from typing import Final, Protocol

import structlog

from shared import crash_points
from shared.observability import metrics
from shared.observability.health import Liveness
from shared.observability.logs import describe_error
from shared.persistence.database import Trouble, is_refused, trouble
from shared.records import dataclass
from shared.retry_policy import RetryPolicy, Sleep

log = structlog.get_logger(__name__)

JITTER: Final = 0.1
"""The largest share of a wait that is cut off at random, so that instances which started together do not work in step. It only shortens
waits."""
BACK_OFF: Final = RetryPolicy(initial_s=0.1, factor=2.0, maximum_s=1.0, jitter=0.0)
"""The wait after failures, if it is longer than the task's interval. Due work waits one second at most once an outage is over."""


class BackgroundTask(Protocol):
    """Work that is repeated. Every instance of a service repeats it, so several instances must be able to do it at the same time."""

    name: str
    """Its name in metrics and logs: in snake case, and one of a closed list."""
    interval_s: float
    """Seconds between two runs while there is nothing to do."""
    retry_on: tuple[type[Exception], ...]
    """Errors after which the next run may succeed. Most are outages."""

    async def run_once(self) -> float:
        """Do the work once. Returns the seconds until the next run: `interval_s`, or less if there is more to do."""
        ...


async def run_every(
    task: BackgroundTask, *, first_in_s: float = 0.0, wait: Sleep = asyncio.sleep, liveness: Liveness | None = None
) -> None:
    """Run `task` until cancelled, for the first time after `first_in_s` seconds. `wait` waits between two runs, and may return early.

    An error in `task.retry_on` is logged and counted. The next run follows after the task's interval, or after the back-off if that is
    longer. Every other error is a bug: it is raised and ends the service, and the supervisor starts the service again. If no error of a
    task may end the service, the task lists `Exception`. An injected fault is always raised.
    """
    failures = _Failures(task.name)
    liveness = liveness or Liveness()
    await wait(first_in_s)
    while True:
        try:
            with liveness.at_work(task.name):
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
    """Counts the failures of a task in a row. It logs the first one, one of another type, and the end of the failures."""

    task: str
    count: int = 0
    kind: type[Exception] | None = None

    def add(self, error: Exception) -> None:
        metrics.BACKGROUND_FAILURES.labels(task=self.task).inc()
        self.count += 1
        if type(error) is not self.kind:
            self.kind = type(error)
            is_bug = trouble(error) is Trouble.BUG
            level = logging.ERROR if is_refused(error) else logging.WARNING
            log.log(level, "background_failed", task=self.task, error=describe_error(error), exc_info=is_bug)

    def end(self) -> None:
        if self.count:
            log.info("background_recovered", task=self.task, failures=self.count)
        self.count, self.kind = 0, None
