"""The counts of the menu are asked for once for all who look, and nobody goes without who comes while they are counted."""

import asyncio
from typing import Any

import pytest

from services.staff.desk.frame import Count, MenuCounts
from tests.support.desk_browser import DeskClock

DESK: Any = None
COUNTED = {"cases": Count(7, "act", "open")}


class SlowSource:
    """Counts for two seconds of the clock, while others have their turn."""

    def __init__(self) -> None:
        self.clock, self.reads = DeskClock(), 0
        self.counts = MenuCounts({"cases": self._count}, self.clock)

    async def _count(self, desk: Any) -> Count:
        self.reads += 1
        await asyncio.sleep(0)
        self.clock.forward(seconds=2)
        return COUNTED["cases"]


async def test_who_comes_during_the_first_count_gets_it_too() -> None:
    source = SlowSource()
    assert await asyncio.gather(*(source.counts.now(DESK) for _ in range(3))) == [COUNTED] * 3
    assert source.reads == 1


async def test_a_count_whose_page_went_away_is_made_by_the_next() -> None:
    source = SlowSource()
    gone = asyncio.create_task(source.counts.now(DESK))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await source.counts.now(DESK) == COUNTED
