"""What is too young to judge: work that may still be under way, and nothing that says it is of years to come."""

from datetime import UTC, datetime, timedelta

import pytest

from services.audit.finding import Tally

SETTLED_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "is_young"),
    [(timedelta(seconds=-1), False), (timedelta(0), True), (timedelta(hours=2), True), (timedelta(days=3_650), False)],
)
def test_what_lies_years_ahead_is_not_young(since: timedelta, *, is_young: bool) -> None:
    tally = Tally(settled_before=SETTLED_BEFORE)
    tally.breach("a payment", "why", since=SETTLED_BEFORE + since)
    found = tally.finding("check", "title")
    assert (found.in_flight, found.broken) == ((1, 0) if is_young else (0, 1))
