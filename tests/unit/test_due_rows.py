"""Looks for due rows find every one, sooner or later, and none of them reads more than a few dead rows."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg
import pytest

from shared.persistence.database import STATEMENT_TIMEOUT_S, Connection
from shared.persistence.due_rows import (
    FORGET_AFTER_S,
    LATE,
    SPAN_S,
    STEP_INTERVAL_S,
    STEP_TAKES_S,
    WALK_INTERVAL_S,
    DueRows,
    DueWindow,
)
from shared.records import dataclass, field

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY_S = 86_400.0
DEAD_ROW_S = 3e-6
"""What it takes to read a dead row."""


@dataclass(slots=True)
class FakeTable:
    """Rows by the second of their due time, and a burst of dead ones between two such seconds. Reading them takes time."""

    elapsed_s: float = 0.0
    due: set[float] = field(default_factory=set)
    dead_from: float = 0.0
    dead_until: float = 0.0
    dead_a_second: float = 0.0
    asked: list[DueWindow] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    ends_next_step: bool = False

    def clock(self) -> float:
        return self.elapsed_s

    async def fetch(self, _: str, since: datetime | None, until: datetime | None) -> list[dict[str, Any]]:
        self.asked.append(DueWindow(since, until))
        if until is not None and self.ends_next_step:
            self.ends_next_step = False
            raise asyncpg.QueryCanceledError
        now = self.elapsed_s
        begin = -1e9 if since is None else (since - START).total_seconds()
        end = now if until is None else min((until - START).total_seconds(), now)
        first = min((due for due in self.due if begin <= due <= end), default=None)
        read_until = end if first is None else first
        dead_s = max(min(read_until, self.dead_until) - max(begin, self.dead_from), 0.0)
        took_s = min(dead_s * self.dead_a_second * DEAD_ROW_S, float(STATEMENT_TIMEOUT_S))
        self.took_s.append(took_s)
        self.elapsed_s += took_s
        if took_s == STATEMENT_TIMEOUT_S:
            raise asyncpg.QueryCanceledError
        return [{"now": at(now), "first": None if first is None else at(first)}]

    def deal_with(self, window: DueWindow | None) -> list[float]:
        """What is due in the window, and is no longer."""
        assert window is not None
        assert window.since is not None
        assert window.until is not None
        dealt_with = [due for due in self.due if window.since <= at(due) <= window.until]
        self.due -= {*dealt_with}
        return dealt_with


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def table() -> FakeTable:
    return FakeTable()


@pytest.fixture
def due_rows(table: FakeTable) -> DueRows:
    return DueRows("", clock=table.clock)


async def look(due_rows: DueRows, table: FakeTable) -> DueWindow | None:
    return await due_rows.look(cast("Connection", table))


async def found_within(due_rows: DueRows, table: FakeTable, seconds: float) -> list[float]:
    """What is dealt with by looks twice a second."""
    give_up_at, found = table.elapsed_s + seconds, list[float]()
    while table.elapsed_s < give_up_at:
        window = await look(due_rows, table)
        found += [] if window is None else table.deal_with(window)
        table.elapsed_s += 0.5
    return found


@pytest.mark.parametrize("ages", [[0.0], [2.9], [3.1], [3_600.0], [4e8], [0.0, 30.0, 90.0, 7_200.0]], ids=str)
async def test_the_first_look_finds_what_is_due_longest(table: FakeTable, due_rows: DueRows, ages: list[float]) -> None:
    table.due = {-age for age in ages}
    found: Iterable[float] = []
    for _ in ages:
        window = await look(due_rows, table)
        assert window is not None
        assert window.since == at(-max(age for age in ages if -age in table.due))
        assert window.until is not None
        assert window.until <= window.since + timedelta(seconds=SPAN_S), "behind it there may be dead rows only"
        found = [*found, *table.deal_with(window)]
        if not table.due:
            break
    assert sorted(found) == sorted(-age for age in ages)
    assert await look(due_rows, table) is None


async def test_a_look_reads_what_became_due_since_the_last_one(table: FakeTable, due_rows: DueRows) -> None:
    await look(due_rows, table)
    for second in (1.0, 2.0):
        table.elapsed_s = second
        assert await look(due_rows, table) is None
        since = at(second - 1) - LATE
        assert table.asked[-1] == DueWindow(since), "and the last seconds before it, whose rows can be late"


async def test_a_row_that_is_due_stays_in_sight_until_it_is_dealt_with(table: FakeTable, due_rows: DueRows) -> None:
    await look(due_rows, table)
    table.due = {1.0, 30.0, 80.0}
    for second in range(1, 50):
        table.elapsed_s = second
        assert await look(due_rows, table) == DueWindow(at(1.0), at(1.0) + timedelta(seconds=SPAN_S))
    assert table.deal_with(DueWindow(at(1.0), at(1.0) + timedelta(seconds=SPAN_S))) == [1.0, 30.0]
    table.elapsed_s = 81.0
    assert await look(due_rows, table) == DueWindow(at(80.0), at(80.0) + timedelta(seconds=SPAN_S)), (
        "behind what lay in between"
    )


async def test_what_became_visible_too_late_is_found_by_the_next_walk(table: FakeTable, due_rows: DueRows) -> None:
    await found_within(due_rows, table, 10.0)
    table.due = {1.0}
    assert await found_within(due_rows, table, WALK_INTERVAL_S - 11.0) == []
    assert await found_within(due_rows, table, 2.0) == [1.0]


async def test_a_clock_that_was_set_back_hides_no_row(table: FakeTable, due_rows: DueRows) -> None:
    table.elapsed_s = 50.0
    await look(due_rows, table)
    table.elapsed_s = 20.0
    table.due = {20.0}
    await look(due_rows, table)
    assert (await found_within(due_rows, table, 0.5)) == [20.0]


@pytest.mark.parametrize("dead_rows", [200_000, 3_000_000, 20_000_000])
@pytest.mark.parametrize("began", ["before the snapshot", "now"])
async def test_no_look_reads_all_dead_rows(table: FakeTable, due_rows: DueRows, dead_rows: int, began: str) -> None:
    """A snapshot has held them for a day, and goes on."""
    if began == "before the snapshot":
        await found_within(due_rows, table, 10.0)
    table.dead_from, table.dead_until, table.dead_a_second = -DAY_S, math.inf, dead_rows / DAY_S
    walk_s = WALK_INTERVAL_S + 2 * STEP_INTERVAL_S * dead_rows * DEAD_ROW_S / STEP_TAKES_S
    await found_within(due_rows, table, 4 * walk_s)
    table.took_s.clear()
    table.due, began_at = {-80_000.0, -40_000.0, -1.0}, table.elapsed_s
    assert sorted(await found_within(due_rows, table, 2 * walk_s)) == [-80_000.0, -40_000.0, -1.0]
    assert max(table.took_s) <= 5 * STEP_TAKES_S
    assert sum(table.took_s) <= 0.1 * (table.elapsed_s - began_at)


async def test_a_step_that_the_database_ends_is_repeated_in_shorter_ones(table: FakeTable, due_rows: DueRows) -> None:
    """After a quiet time steps are long, and meet a dense past."""
    table.dead_from, table.dead_until, table.dead_a_second = -DAY_S, 0.0, 100_000_000 / DAY_S
    table.elapsed_s, table.due = 2 * DAY_S, {-3_600.0}
    assert await found_within(due_rows, table, 4 * 3_600.0) == [-3_600.0]
    assert max(table.took_s) == STATEMENT_TIMEOUT_S, "so this test tests something"
    assert sum(table.took_s) <= 0.1 * (table.elapsed_s - 2 * DAY_S)


async def test_the_walk_is_one_step_again_when_the_dead_rows_are_gone(table: FakeTable, due_rows: DueRows) -> None:
    table.dead_from, table.dead_until, table.dead_a_second = -DAY_S, 0.0, 30.0
    await found_within(due_rows, table, 3_600.0)
    table.dead_a_second = 0.0
    await found_within(due_rows, table, 40 * WALK_INTERVAL_S)
    table.asked.clear()
    await found_within(due_rows, table, WALK_INTERVAL_S)
    assert sum(window.until is not None for window in table.asked) == 1


async def test_gauges_read_everything_until_the_first_walk_has_ended(table: FakeTable, due_rows: DueRows) -> None:
    table.due = {-3_600.0, -10.0}
    assert due_rows.since is None
    window = await look(due_rows, table)
    assert due_rows.since is None
    while window is not None:
        table.deal_with(window)
        window = await look(due_rows, table)
    assert due_rows.since == at(0.0) - LATE
    await found_within(due_rows, table, WALK_INTERVAL_S - 2.0)
    table.due = {5.0}
    while (await look(due_rows, table)) is None:
        table.elapsed_s += 0.5
    assert due_rows.since == at(5.0), "then from the earliest row that a look has found"


async def test_a_walk_of_several_steps_has_ended_with_the_last_one(table: FakeTable, due_rows: DueRows) -> None:
    table.dead_from, table.dead_until, table.dead_a_second = -DAY_S, 0.0, 20_000_000 / DAY_S
    while due_rows.since is None:
        await look(due_rows, table)
        table.elapsed_s += 0.5
    assert table.asked[-1].since is None
    assert len([window for window in table.asked if window.until is not None]) > 10


async def test_after_a_long_pause_the_walk_reads_what_came_and_went(table: FakeTable, due_rows: DueRows) -> None:
    await look(due_rows, table)
    table.elapsed_s = FORGET_AFTER_S + 1.0
    table.due = {10.0}
    table.asked.clear()
    assert await look(due_rows, table) == DueWindow(at(10.0), at(FORGET_AFTER_S + 1.0) - LATE)
    assert table.asked[1:] == [
        DueWindow(at(FORGET_AFTER_S + 1.0) - LATE),
        DueWindow(None, at(FORGET_AFTER_S + 1.0) - LATE),
    ]


async def test_looks_that_read_too_much_do_not_fail_for_ever(table: FakeTable, due_rows: DueRows) -> None:
    """A row stayed due for an hour, and behind it are more dead rows than a statement can read."""
    await look(due_rows, table)
    table.due = {1.0}
    await found_nothing_for(due_rows, table, 3_600.0)
    table.due.clear()
    table.dead_from, table.dead_until, table.dead_a_second = 1.0, 3_600.0, 10_000.0
    with pytest.raises(asyncpg.QueryCanceledError):
        await look(due_rows, table)
    table.elapsed_s += FORGET_AFTER_S
    table.due = {2.0}
    assert await found_within(due_rows, table, 1_800.0) == [2.0]


async def found_nothing_for(due_rows: DueRows, table: FakeTable, seconds: float) -> None:
    """Looks whose rows nobody can deal with."""
    give_up_at = table.elapsed_s + seconds
    while table.elapsed_s < give_up_at:
        await look(due_rows, table)
        table.elapsed_s += 30.0


async def test_a_step_that_a_person_ended_at_once_is_repeated(table: FakeTable, due_rows: DueRows) -> None:
    table.due, table.ends_next_step = {-50_000.0}, True
    assert await look(due_rows, table) is None
    assert await found_within(due_rows, table, 30.0) == [-50_000.0]
