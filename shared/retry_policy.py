"""How long to wait before failed work is tried again: one policy, built on tenacity, for all work that waits out an outage."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from shared.outage_log import OutageLog
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
        outage: OutageLog,
        sleep: Sleep = asyncio.sleep,
    ) -> T:
        """The result of `work`, which is tried again after every error of a type in `on`. Any other error is raised.

        `outage` is told of each, and of the end. `sleep` may raise to give up.
        """

        def tell(state: RetryCallState) -> None:
            if state.outcome is not None and (error := state.outcome.exception()) is not None:
                outage.failed(error)

        async def attempt() -> T:
            return await work()

        retrying = AsyncRetrying(
            wait=self._wait, retry=retry_if_exception_type(on), before_sleep=tell, sleep=sleep, reraise=True
        )
        result: T = await retrying(attempt)
        outage.succeeded()
        return result

    def _wait(self, state: RetryCallState) -> float:
        """The wait strategy for tenacity.

        Tenacity's own jitter is added to a wait and then cut to the maximum. In a long outage all its waits would be the maximum.
        """
        longest_s = wait_exponential(multiplier=self.initial_s, exp_base=self.factor, max=self.maximum_s)(state)
        return longest_s * random.uniform(1 - self.jitter, 1)


OUTAGE: Final = RetryPolicy(initial_s=0.1, factor=2.0, maximum_s=2.0, jitter=0.2)
"""The policy for the broker and the databases. Work continues well under 10 s after either has restarted."""
