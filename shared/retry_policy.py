"""How long to wait before what failed is tried again: one policy, on tenacity, for everything that outlasts an outage."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from structlog.typing import FilteringBoundLogger
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from shared.records import dataclass

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
"""Waits so many seconds."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Waits that grow with every failure in a row. There is no limit of attempts: an outage ends when it ends."""

    initial_s: float
    """The longest wait after the first failure."""
    factor: float
    """By how much each wait is longer than the one before."""
    maximum_s: float
    """No wait is longer than this."""
    jitter: float
    """The share of a wait, from 0 to 1, that chance may take off: what failed together does not come again together. It never makes a
    wait longer."""

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (at least one), for a caller with a loop of its own."""
        state = RetryCallState(AsyncRetrying(), fn=None, args=(), kwargs={})
        state.attempt_number = failures
        return self._wait(state)

    async def call(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        on: tuple[type[Exception], ...],
        log: FilteringBoundLogger,
        event: str,
        sleep: Sleep = asyncio.sleep,
    ) -> T:
        """The result of `work`, tried again after every error of a type in `on`; any other error is raised.

        Each failure is a warning `event` in `log`, with the type of the error and the number of the attempt. `sleep` may raise to give up.
        """

        def warn(state: RetryCallState) -> None:
            error = state.outcome and state.outcome.exception()
            log.warning(event, error=type(error).__name__, attempt=state.attempt_number)

        async def attempt() -> T:
            return await work()

        retrying = AsyncRetrying(
            wait=self._wait, retry=retry_if_exception_type(on), before_sleep=warn, sleep=sleep, reraise=True
        )
        result: T = await retrying(attempt)
        return result

    def _wait(self, state: RetryCallState) -> float:
        """A wait strategy of tenacity. Its own jitter is added to a wait, so that all waits of a long outage would be the maximum."""
        longest_s = wait_exponential(multiplier=self.initial_s, exp_base=self.factor, max=self.maximum_s)(state)
        return longest_s * random.uniform(1 - self.jitter, 1)


OUTAGE: Final = RetryPolicy(initial_s=0.1, factor=2.0, maximum_s=2.0, jitter=0.2)
"""For the broker and the databases. Work goes on well under 10 s after a restart of either."""
