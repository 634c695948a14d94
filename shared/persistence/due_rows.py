"""Finds the rows of a table that are due, at a cost that does not grow with dead rows.

Rows that were dealt with leave dead entries in the index on their due time. PostgreSQL removes them, unless an old snapshot holds them: a
backup, a forgotten transaction, a replication slot. A look that begins at the oldest entry then reads all of them (measured: 0.6 s and
67 000 pages at 200 000 of them, twice a second), and with some millions it ends at the statement timeout each time.

So a look reads what has become due since the last look. What became visible later than that, because its transaction was long or a lock on
it was given up, is found by a walk back through all older times, once a minute and at the start. The walk goes in steps, and makes them
shorter where they take long. Nearly always its one step is all of the past.
"""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from shared.persistence.database import Connection
from shared.records import dataclass

LATE = timedelta(seconds=3)
"""Rows may become visible so much later than they were due. Each look reads these seconds again. Rows that are later wait for the walk."""
WALK_INTERVAL_S = 60.0
"""Between two walks back. A row that was committed this late, and whose process died at once, is this much later still."""
STEP_INTERVAL_S = 1.0
"""Between two steps of a walk. With `STEP_TAKES_S` it bounds the load: 5 % of one session, however many dead rows there are."""
STEP_TAKES_S = 0.05
"""What a step should take: the time of some 10 000 dead rows."""
STEP_MAX_S = 86_400.0
"""The longest step, except for the one that reads all of the past."""
SPAN_S = 60.0
"""The range of due times that is dealt with at once. Behind the first row that is due there may be nothing but dead ones."""
_SPAN = timedelta(seconds=SPAN_S)
STEP_MIN_S = 1.0
"""The shortest step: even if the machine stood still during the one before, the walk goes on."""
FORGET_AFTER_S = 60.0
"""If no look succeeded for so long, much may have come and gone. Then the walk reads it, in steps."""


@dataclass(frozen=True, slots=True)
class DueWindow:
    """A range of due times that holds a row to deal with. Both ends belong to it. None: everything before, or until now."""

    since: datetime | None = None
    until: datetime | None = None


WHENEVER = DueWindow()
"""Everything that is due now."""
_NEVER = DueWindow(since=datetime.max.replace(tzinfo=UTC))


class DueRows:
    """Where the rows of one kind are that are due and that nobody has locked. Each process remembers its own.

    `first` is a statement that gives the database's time as `now`, and as `first` the earliest due time of such a row from $1 until $2,
    where NULL has no end. `arguments` follow as $3 and so on. `walk_interval_s` is the time between two walks back. `clock` gives seconds
    that never go back.
    """

    def __init__(
        self,
        first: str,
        *arguments: Any,
        walk_interval_s: float = WALK_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first = first
        self._arguments = arguments
        self._walk_interval_s = walk_interval_s
        self._clock = clock
        self._forget()

    def _forget(self) -> None:
        self._looked_at = self._clock()
        self._floor: datetime | None = None
        """What is due before it is left to the walk. None: nobody has looked yet."""
        self._walk = _WalkBack(self._walk_interval_s, self._clock)

    @property
    def since(self) -> datetime | None:
        """No row is known that is due before this time. None: the first walk has not ended yet."""
        found = self._walk.found
        if self._floor is None or not self._walk.has_ended:
            return None
        return self._floor if found is None else min(found, self._floor)

    async def look(self, connection: Connection) -> DueWindow | None:
        """The range of due times to deal with next, or None if no row is due. The earliest row of the range is not locked."""
        if self._clock() > self._looked_at + FORGET_AFTER_S:
            self._forget()
        if self._floor is None:
            now, _ = await self._ask(connection, _NEVER)
            self._floor = now - LATE
        now, first = await self._ask(connection, DueWindow(self._floor))
        self._floor, self._looked_at = min(first or now, now - LATE), self._clock()
        found = await self._step_back(connection, self._floor)
        if found is not None:
            return found
        return None if first is None else DueWindow(first, first + _SPAN)

    async def _step_back(self, connection: Connection, floor: datetime) -> DueWindow | None:
        step = self._walk.step(floor)
        if step is None:
            return None
        began_at = self._clock()
        try:
            _, first = await self._ask(connection, step)
        except asyncpg.QueryCanceledError:  # by the statement timeout: the step was too long
            self._walk.shorten(self._clock() - began_at)
            return None
        self._walk.saw(step, first, self._clock() - began_at)
        return None if first is None or step.until is None else DueWindow(first, min(first + _SPAN, step.until))

    async def _ask(self, connection: Connection, window: DueWindow) -> tuple[datetime, datetime | None]:
        (row,) = await connection.fetch(self._first, window.since, window.until, *self._arguments)
        return row["now"], row["first"]


class _WalkBack:
    """Goes back through all times before the floor, again and again. Where a row is due it stays until that is dealt with."""

    def __init__(self, interval_s: float, clock: Callable[[], float]) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._next_at = clock()
        self._until: datetime | None = None
        """What is due later was seen on this walk. None: the next walk has not begun."""
        self._step_s = self._shortest_s = math.inf
        self.found: datetime | None = None
        self.has_ended = False

    def step(self, floor: datetime) -> DueWindow | None:
        """The next step, if it is time for one."""
        if self._clock() < self._next_at:
            return None
        if self._until is None:
            # The next walk meets the same dead rows. It may begin with a longer step, since some day they are gone.
            self._until, self._step_s, self._shortest_s = floor, 2 * self._shortest_s, math.inf
        self._shortest_s = min(self._shortest_s, self._step_s)
        is_last = self._step_s > STEP_MAX_S
        return DueWindow(None if is_last else self._until - timedelta(seconds=self._step_s), self._until)

    def shorten(self, seconds: float) -> None:
        """The last step took so many seconds, or was ended before: the next one is at most half as long."""
        self._next_at = self._clock() + STEP_INTERVAL_S
        shorter = STEP_TAKES_S / max(seconds, 2 * STEP_TAKES_S)
        self._step_s = max(min(self._step_s, STEP_MAX_S) * shorter, STEP_MIN_S)
        self._shortest_s = min(self._shortest_s, self._step_s)

    def saw(self, step: DueWindow, first: datetime | None, seconds: float) -> None:
        """The step took so many seconds, and saw that its first row is due at `first`, or that it has none."""
        if seconds > STEP_TAKES_S:
            self.shorten(seconds)
        self.found = first
        if first is not None:
            return
        if seconds <= STEP_TAKES_S:
            self._step_s *= 2
        self.has_ended = self.has_ended or step.since is None
        self._until = step.since
        self._next_at = self._clock() + (self._interval_s if step.since is None else STEP_INTERVAL_S)
