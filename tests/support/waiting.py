"""Waits for a condition with a deadline, never for a fixed time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 20.0
POLL_S = 0.02


async def until(
    condition: Callable[[], Awaitable[T]], *, within_s: float = DEADLINE_S, what: str = "the condition"
) -> T:
    """The first truthy result of `condition`. After the deadline it raises an AssertionError that names `what`."""
    try:
        async with asyncio.timeout(within_s):
            while not (result := await condition()):
                await asyncio.sleep(POLL_S)
            return result
    except TimeoutError:
        raise AssertionError(f"{what} did not come true within {within_s:g} s") from None
