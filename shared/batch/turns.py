"""Work on many messages that lets the event loop have its turn: probes, heartbeats and the other queues wait no longer than a moment."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

TURN_S: Final = 0.02
"""How long the event loop is held at once. A batch of usual messages needs a few milliseconds, and is done in one turn."""


async def in_turns(
    work: Callable[[In], Out], items: Iterable[In], *, clock: Callable[[], float] = time.perf_counter
) -> list[Out]:
    """`work` of each item, in order. After `TURN_S` seconds the rest waits until the event loop has done what else is due."""
    done: list[Out] = []
    turn_ends = clock() + TURN_S
    for item in items:
        done.append(work(item))
        if clock() >= turn_ends:
            await asyncio.sleep(0)
            turn_ends = clock() + TURN_S
    return done
