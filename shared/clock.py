"""Time is injected: a clock is any callable that gives the present moment in UTC."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The machine's clock, timezone-aware, in UTC. The only place that reads it."""
    return datetime.now(UTC)  # noqa: TID251 - this is the adapter that the rule sends everyone to
