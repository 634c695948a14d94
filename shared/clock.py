"""Clocks. Time is injected: a clock is any callable that returns the present moment in UTC."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

log = structlog.get_logger(__name__)

Clock = Callable[[], datetime]

OFF_MOST_S = 86_400.0


def system_clock() -> datetime:
    """The machine's clock, timezone-aware and in UTC. Only this function reads it."""
    return datetime.now(UTC)  # noqa: TID251 - this is the adapter that the rule sends everyone to


def clock_of_a_service(off_s: float) -> Clock:
    """The machine's clock. In a fault run it is wrong by `off_s` seconds."""
    if not off_s:
        return system_clock
    log.warning("clock_is_off", seconds=off_s)
    off = timedelta(seconds=off_s)
    return lambda: system_clock() + off
