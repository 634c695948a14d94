"""How long to wait before failed work is tried again: one policy, built on tenacity, for all work that waits out an outage."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from structlog.typing import FilteringBoundLogger
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from shared.records import dataclass

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
"""Waits for the given number of seconds."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Waits that grow with every failure in a row. The number of attempts has no limit, because an outage has none."""

    initial_s: float
    """The longest wait after the first failure, in seconds."""
    factor: float
    """Each wait is this many times the wait before."""
    maximum_s: float
    """No wait is longer than this, in seconds."""
    jitter: float
    """The largest share of a wait, from 0 to 1, that is cut off at random. So work that failed together is not tried again together."""

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after `failures` failures in a row (at least 1). It serves a caller with a loop of its own."""
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
        """The result of `work`, which is tried again after every error of a type in `on`. Any other error is raised.

        The first failure, and each of another type than the one before, logs the warning `event`, with the type of the error and the number
        of the attempt. `sleep` may raise to give up.
        """
        told: type[BaseException] | None = None

        def warn(state: RetryCallState) -> None:
            nonlocal told
            error = state.outcome.exception() if state.outcome is not None else None
            if error is not None and type(error) is not told:
                told = type(error)
                log.warning(event, error=type(error).__name__, attempt=state.attempt_number)

        async def attempt() -> T:
            return await work()

        retrying = AsyncRetrying(
            wait=self._wait, retry=retry_if_exception_type(on), before_sleep=warn, sleep=sleep, reraise=True
        )
        result: T = await retrying(attempt)
        return result

    def _wait(self, state: RetryCallState) -> float:
        """The wait strategy for tenacity.

        Tenacity's own jitter is added to a wait and then cut to the maximum. In a long outage all its waits would be the maximum.
        """
        longest_s = wait_exponential(multiplier=self.initial_s, exp_base=self.factor, max=self.maximum_s)(state)
        return longest_s * random.uniform(1 - self.jitter, 1)


OUTAGE: Final = RetryPolicy(initial_s=0.1, factor=2.0, maximum_s=2.0, jitter=0.2)
"""The policy for the broker and the databases. Work continues well under 10 s after either has restarted."""
