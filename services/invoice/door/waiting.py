"""Senders that wait for an answer or an outcome: one look at the database for all of them, every few hundred milliseconds.

A trigger that notifies would make every payment dearer: PostgreSQL commits transactions that notify one after the other. A look costs the
payments nothing, and one for each waiting sender would cost the database as many statements as there are senders.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from services.invoice.door.reader import Question
from shared.observability import metrics
from shared.persistence.database import AWAY_ERRORS

WAITING_MAX: Final = 4_000
"""Requests that wait in one process. A thousand take at most 37 MiB, and a look at their commands 70 ms (measured on a busy machine)."""
WAITING_OF_ONE_MAX: Final = 2_000
"""Of one sender, so that no sender takes the room of all."""
LOOKING_SHARE: Final = 0.25
"""The share of the time in which the database is looked at. With many that wait, looks become rarer."""


class NoRoomError(Exception):
    """Too many wait already."""


class WaitingRoom:
    """Where requests wait until there is something to tell. `settled` says for which of these questions there is."""

    name = "door_waiting"
    interval_s = 0.2
    """A payment takes some 20 ms, so this is what a sender waits for longest. More often would only cost the database more."""
    retry_on = AWAY_ERRORS

    def __init__(self, settled: Callable[[Collection[Question]], Awaitable[Collection[Question]]]) -> None:
        self._settled = settled
        self._waiting: dict[Question, set[asyncio.Event]] = {}
        self._of_sender: Counter[str] = Counter()
        self._closed = False

    async def wait(self, question: Question, within_s: float) -> None:
        """Return once there is something to tell, the time is over, or the process stops. Raises NoRoomError."""
        if self._closed:
            return
        if self._of_sender.total() >= WAITING_MAX or self._of_sender[question.sender] >= WAITING_OF_ONE_MAX:
            raise NoRoomError
        called = asyncio.Event()
        self._waiting.setdefault(question, set()).add(called)
        self._count(question, 1)
        try:
            async with asyncio.timeout(within_s):
                await called.wait()
        except TimeoutError:
            pass
        finally:
            self._count(question, -1)
            others = self._waiting[question]
            others.discard(called)
            if not others:
                del self._waiting[question]

    def _count(self, question: Question, by: int) -> None:
        self._of_sender[question.sender] += by
        if not self._of_sender[question.sender]:
            del self._of_sender[question.sender]
        metrics.DOOR_WAITING.inc(by)

    async def run_once(self) -> float:
        """Look once, and call those for whom there is something to tell."""
        if not self._waiting:
            return self.interval_s
        begun_s = time.monotonic()
        for question in await self._settled(list(self._waiting)):
            self._call(question)
        return max(self.interval_s, (time.monotonic() - begun_s) * (1 / LOOKING_SHARE - 1))

    def _call(self, question: Question) -> None:
        for called in self._waiting.get(question, ()):  # some may have gone meanwhile
            called.set()

    async def close(self) -> None:
        """Call everybody, and let nobody wait any more."""
        self._closed = True
        for question in self._waiting:
            self._call(question)
